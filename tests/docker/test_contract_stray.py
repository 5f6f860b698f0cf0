"""Files that jobs leave in their containers: named, copied, forbidden, and what does not count."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import remotes
from sweep_command import Finished, MakeRepository, Repository

from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import Boundary, Change, ContainerSpec, Limits
from hydra_plugins.hydra_docker_launcher._errors import EngineError

CASES = ("clean", "plain", "silent", "strict", "failing", "planted", "hostile")
WRITES = (
    "mkdir -p /srv/new; printf abc >/srv/new/a; ln -s /etc /srv/new/link; echo >>/etc/profile; "
    "rm /etc/issue"
)
MEMORY = 64 * 1024**2


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the host that no container may reach."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository, data: Path) -> Repository:
    return make_repository(
        "stray",
        volumes=f"[{data}:/data]",
        tmpfs="[/scratch]",
        keep="none",
        stray_limit="1m",
        network_mode="none",
    )


@pytest.fixture(scope="module")
def finished(repository: Repository, elsewhere: Path) -> Finished:
    """One sweep with a job for each case."""
    return repository.sweep(f"case={','.join(CASES)}", f"elsewhere={elsewhere}")


def stray_files(finished: Finished, case: str) -> dict[str, bytes]:
    """Return what was collected of a job, by the paths in its container."""
    folder = finished.job(CASES.index(case)).folder / "stray"
    return {
        os.path.join("/", path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def title(finished: Finished, case: str) -> str:
    number = CASES.index(case)
    return f"job #{number} ({' '.join(finished.job(number).row['overrides'])})"


def row(finished: Finished, case: str) -> Any:
    return finished.job(CASES.index(case)).row.get("stray")


def test_outcomes(finished: Finished, repository: Repository) -> None:
    """Only with ``error`` do files that were left change how a job ends; the cause names them."""
    ends = dict(zip(CASES, finished.outcomes, strict=True))
    failed = {case: end for case, end in ends.items() if end != "completed"}
    assert failed == {"strict": "error", "failing": "error"}, finished.output
    assert finished.job(CASES.index("strict")).row["cause"] == (
        "left 2 files in its container and in no mount, which hydra.launcher.stray=error forbids: "
        f"/hydra/home/notes.txt (5b), {repository.root}/model.pt (17b). Write below "
        "hydra.runtime.output_dir, or into a volume."
    )
    assert f"{title(finished, 'strict')} error: left 2 files" in finished.output


def test_what_does_not_count(finished: Finished, data: Path) -> None:
    """Volumes, tmpfs, /tmp, caches, links, empty folders: also with ``error`` the job completes."""
    assert row(finished, "clean") is None
    assert row(finished, "silent") is None
    assert "case=clean" in finished.output
    for case in ("clean", "silent"):
        assert f"{title(finished, case)} left" not in finished.output
    assert (data / "file").read_text() == "x"


def test_warning(finished: Finished, repository: Repository) -> None:
    """Relative paths and ~ are named, with what to do about it."""
    paths = ["/hydra/home/notes.txt", f"{repository.root}/model.pt"]
    assert row(finished, "plain") == {"total": 2, "paths": paths}
    what = f"{title(finished, 'plain')} left 2 files in its container and in no mount"
    listed = f"  {paths[0]} (5b)\n  {paths[1]} (16b)\nWrite below hydra.runtime.output_dir"
    assert f"{what}, which go with the container:\n{listed}" in finished.output
    assert not (finished.job(CASES.index("plain")).folder / "stray").exists()


def test_collected(finished: Finished, repository: Repository) -> None:
    """They are below ``stray``, also those of a job that failed."""
    assert stray_files(finished, "failing") == {
        "/hydra/home/notes.txt": b"notes",
        f"{repository.root}/model.pt": b"weights of failing",
    }
    folder = finished.job(CASES.index("failing")).folder
    told = f"{title(finished, 'failing')}: 2 files of its container are in {folder / 'stray'}"
    assert told in finished.output
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (folder / "stray").rglob("*")}
    assert owners == {(folder.stat().st_uid, folder.stat().st_gid)}


def test_planted_link(finished: Finished, elsewhere: Path) -> None:
    """A link in the place of ``stray`` is not followed, and the user is told."""
    assert list(elsewhere.iterdir()) == []
    told = f"{title(finished, 'planted')} left 2 files that could not be collected"
    assert told in finished.output


def test_tricks(finished: Finished, repository: Repository) -> None:
    """Only files are taken, without the bits that give rights; what is too large is left."""
    root = str(repository.root)
    found = stray_files(finished, "hostile")
    assert found.pop(f"{root}/runs/{os.fsdecode(b'caf' + bytes([0xE9]))}") == b"no UTF-8"
    assert found == {
        "/hydra/home/notes.txt": b"notes",
        f"{root}/app.py": b"edited",
        f"{root}/model.pt": b"weights of hostile",
        f"{root}/runs/1": b"one",
        f"{root}/runs/a\nb\x1b[2J": b"escapes",
        f"{root}/runs/deep/2": b"one",
        f"{root}/runs/setuid": b"#!/bin/sh\n",
    }
    folder = finished.job(CASES.index("hostile")).folder / "stray"
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in folder.rglob("*")}
    assert kinds == {stat.S_IFREG, stat.S_IFDIR}
    assert stat.S_IMODE((folder / root.lstrip("/") / "runs/setuid").stat().st_mode) == 0o755
    assert row(finished, "hostile")["left"] == {f"{root}/runs/huge": "over stray_limit=1m"}
    assert f"{root}/runs/huge (1t): over stray_limit=1m" in finished.output
    assert "\x1b[2J" not in finished.output


def test_clone(make_repository: MakeRepository, git_image: str, data: Path, tmp_path: Path) -> None:
    """Of a container that cloned the commit, what the clone brought does not count."""
    options = {"image": git_image, "delivery": "clone", "network_mode": "none"}
    cloned = make_repository("stray", volumes=f"[{data}:/data]", tmpfs="[/scratch]", **options)
    cloned.git("remote", "add", "origin", str(remotes.bare(tmp_path / "remote.git")))
    cloned.git("push", "--quiet", "origin", "main")
    finished = cloned.sweep("case=plain", "elsewhere=x")
    assert finished.outcomes == ["completed"], finished.output
    paths = ["/hydra/home/notes.txt", f"{cloned.root}/model.pt"]
    assert finished.job(0).row["stray"] == {"total": 2, "paths": paths}


@pytest.fixture
def container(api: docker.APIClient, base_image: str) -> Iterator[str]:
    """A container that has written, changed and deleted something, and has ended."""
    spec = ContainerSpec(
        name="hydra-docker-test-stray",
        image=base_image,
        command=("sh", "-c", WRITES),
        working_dir="/",
        limits=Limits(cpus=1, memory=MEMORY, memory_swap=MEMORY, shm_size=MEMORY, pids=64),
        boundary=Boundary(user=None, network_mode="none", init=False),
    )
    made = DockerEngine().create(spec)
    api.start(made)
    api.wait(made)
    yield made
    api.remove_container(made, v=True, force=True)


def test_engine(container: str) -> None:
    """The engine says how much was written, what differs, and gives it as an archive."""
    engine = DockerEngine()
    assert (engine.written(container) or 0) > 3
    assert set(engine.changes(container)) == {
        Change("changed", "/etc"),
        Change("changed", "/etc/profile"),
        Change("deleted", "/etc/issue"),
        Change("changed", "/srv"),
        Change("added", "/srv/new"),
        Change("added", "/srv/new/a"),
        Change("added", "/srv/new/link"),
    }
    content = b"".join(engine.archive(container, "/srv/new"))
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert {member.name: member.type for member in archive} == {
            "new": tarfile.DIRTYPE,
            "new/a": tarfile.REGTYPE,
            "new/link": tarfile.SYMTYPE,
        }
    stream = engine.archive(container, "/usr")  # hundreds of megabytes
    next(stream)
    stream.close()
    with pytest.raises(EngineError, match="could not read /nowhere in the container"):
        next(engine.archive(container, "/nowhere"))


def test_engine_without_the_container(container: str) -> None:
    """A container that wrote nothing has written 0 bytes; of one that is gone nothing is known."""
    engine = DockerEngine()
    assert engine.written("0" * 64) is None
    with pytest.raises(EngineError):
        engine.changes("0" * 64)
