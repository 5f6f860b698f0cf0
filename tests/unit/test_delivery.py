"""Delivery: the archive that becomes the layer with the commit's files and the worker."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from fakes import FakeEngine

from hydra_plugins.hydra_docker_launcher import _worker
from hydra_plugins.hydra_docker_launcher._delivery import Place, deliver, layer_tag
from hydra_plugins.hydra_docker_launcher._engine import Image
from hydra_plugins.hydra_docker_launcher._source import Source

IMAGE = Image("sha256:" + "1" * 64, "train:1")


@pytest.fixture
def delivered(tmp_path, commit_files):
    """Deliver a small commit; return the engine and the archive's entries by path."""
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "link").symlink_to("src/train.py")
    (root / "src" / "run.sh").write_text("#!/bin/sh\n")
    (root / "src" / "run.sh").chmod(0o755)
    commit = commit_files({"src/train.py": "print(1)\n", "ünï cödé.txt": "x"})
    (root / "src" / "untracked.py").write_text("not in the commit")
    (root / "src" / "train.py").write_text("edited since")

    def deliver_to(
        user="1000:100", working_dir=root, library=None, how="copy", files=(), engine=None
    ):
        engine = engine or FakeEngine()
        image = deliver(
            engine,
            IMAGE,
            Place(Source(root, commit, "main", None), working_dir, user),
            how=how,
            tag=layer_tag("My Train!", commit, "20261122-100000-abcdef"),
            library=library,
            files=files,
            labels=(("a", "b"),),
        )
        entries, contents = {}, {}
        with tarfile.open(fileobj=io.BytesIO(engine.archives[0])) as archive:
            for entry in archive:
                entries[f"/{entry.name}"] = entry
                if entry.isfile():
                    contents[f"/{entry.name}"] = archive.extractfile(entry).read().decode()
        return engine, image, entries, contents

    deliver_to.root = root
    return deliver_to


def facts(entry):
    kind = "d" if entry.isdir() else "l" if entry.issym() else "f"
    return kind, oct(entry.mode), entry.uid, entry.gid


def test_archive(delivered):
    """Names, modes and owners: the commit's files are the job's user's, the worker is root's."""
    root = delivered.root

    _, _, entries, contents = delivered()

    assert {name: facts(entry) for name, entry in entries.items()} == {
        "/hydra/worker.py": ("f", "0o644", 0, 0),
        "/hydra/home": ("d", "0o700", 1000, 100),
        f"{root}": ("d", "0o755", 1000, 100),
        f"{root}/link": ("l", "0o777", 1000, 100),
        f"{root}/src": ("d", "0o755", 1000, 100),
        f"{root}/src/run.sh": ("f", "0o755", 1000, 100),
        f"{root}/src/train.py": ("f", "0o644", 1000, 100),
        f"{root}/ünï cödé.txt": ("f", "0o644", 1000, 100),
    }
    assert {entry.mtime for entry in entries.values()} == {1_700_000_000}  # the commit's
    assert {(entry.uname, entry.gname) for entry in entries.values()} == {("", "")}
    assert entries[f"{root}/link"].linkname == "src/train.py"
    assert contents == {
        "/hydra/worker.py": Path(_worker.__file__).read_text(),
        f"{root}/src/run.sh": "#!/bin/sh\n",
        f"{root}/src/train.py": "print(1)\n",
        f"{root}/ünï cödé.txt": "x",
    }


def test_layer(delivered):
    """The image's name tells job and commit, and it must have nothing at the repository's path."""
    engine, image, *_ = delivered()

    ((base, tag, labels, fresh),) = engine.layers
    assert (base, labels, fresh) == (IMAGE.id, {"a": "b"}, str(delivered.root))
    assert image.layer.reference == tag
    assert image.baked is None
    assert tag.startswith("my-train:")
    assert tag.endswith("-abcdef")


def test_same_commit_same_archive(delivered):
    """Nothing in the archive depends on when or where it was made."""
    assert delivered()[0].archives == delivered()[0].archives


@pytest.mark.parametrize(("user", "owner"), [(None, (0, 0)), ("1000", (1000, 0))])
def test_owner(delivered, user, owner):
    """Of the image's own user: root; of a uid alone: with root's group."""
    _, _, entries, _ = delivered(user=user)
    entry = entries[f"{delivered.root}/src/train.py"]
    assert (entry.uid, entry.gid) == owner


def test_launch_folder_without_tracked_files(delivered):
    """The folder that the user launched from exists in the container, with its parents."""
    root = delivered.root
    working_dir = root / "runs" / "today"

    _, _, entries, _ = delivered(working_dir=working_dir)

    assert facts(entries[f"{root}/runs"]) == ("d", "0o755", 1000, 100)
    assert facts(entries[f"{root}/runs/today"]) == ("d", "0o755", 1000, 100)


def test_launch_folder_with_tracked_files(delivered):
    """A folder of the commit is there already, once."""
    engine, *_ = delivered(working_dir=delivered.root / "src")
    with tarfile.open(fileobj=io.BytesIO(engine.archives[0])) as archive:
        assert archive.getnames().count(f"{delivered.root}/src".lstrip("/")) == 1


def test_launch_folder_elsewhere(delivered):
    """A launch folder outside the repository is not the commit's business."""
    _, _, entries, _ = delivered(working_dir=Path("/somewhere/else"))
    assert not any(name.startswith("/somewhere") for name in entries)


def test_library(delivered, tmp_path):
    """A package that the worker needs goes beside it, as root's, without its bytecode."""
    library = tmp_path / "cloudpickle"
    (library / "__pycache__").mkdir(parents=True)
    (library / "__pycache__" / "x.pyc").write_bytes(b"")
    (library / "__init__.py").write_text("")

    _, _, entries, _ = delivered(library=library)

    found = {name: facts(entry) for name, entry in entries.items() if "/lib/" in name}
    assert found == {"/hydra/lib/cloudpickle/__init__.py": ("f", "0o644", 0, 0)}


def test_clone(delivered):
    """Folders that the container's user can write to, and further files; none of the commit."""
    root = delivered.root

    engine, image, entries, contents = delivered(
        how="clone", working_dir=root / "runs", files=(("/hydra/clone.json", b"{}"),)
    )

    assert {name: facts(entry) for name, entry in entries.items()} == {
        "/hydra/worker.py": ("f", "0o644", 0, 0),
        "/hydra/home": ("d", "0o700", 1000, 100),
        "/hydra/clone.json": ("f", "0o644", 0, 0),
        f"{root}": ("d", "0o755", 1000, 100),
        f"{root}/runs": ("d", "0o755", 1000, 100),
        f"{root}/src": ("d", "0o755", 1000, 100),
    }
    assert contents["/hydra/clone.json"] == "{}"
    assert engine.layers[0][3] == str(root)
    assert image.baked is None


def test_image(delivered):
    """The commit's files are an image of their own, the worker is a layer on that."""
    root = delivered.root

    engine, image, entries, _ = delivered(how="image", working_dir=root / "src")

    (base, tag, labels, fresh), (second, layer, _, nothing) = engine.layers
    assert (base, fresh) == (IMAGE.id, str(root))
    assert labels == {"a": "b", "hydra.docker.base": IMAGE.id}
    assert tag.startswith("hydra-docker/project:")
    assert not [name for name in entries if name.startswith("/hydra")]
    assert f"{root}/src/train.py" in entries
    assert engine.working_dirs == [str(root / "src"), None]
    assert (second, nothing) == (image.baked.id, None)
    assert layer == image.layer.reference
    with tarfile.open(fileobj=io.BytesIO(engine.archives[1])) as archive:
        assert archive.getnames() == ["hydra/worker.py", "hydra/home"]


def test_image_is_made_once(delivered):
    """The same commit, base, user and launch folder: the same image; another user: another one."""
    engine, first, *_ = delivered(how="image")
    assert delivered(how="image", engine=engine)[1].baked == first.baked
    assert len(engine.layers) == 3
    assert engine.touched == [first.baked.reference]
    other = delivered(how="image", engine=engine, user="7:7")[1].baked
    assert other.reference != first.baked.reference
