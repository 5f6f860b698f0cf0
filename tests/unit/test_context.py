"""Context: which files of the commit a build needs; what .dockerignore leaves out."""

from __future__ import annotations

import tarfile

import pytest

from hydra_plugins.hydra_docker_launcher._checkout import TreeFile
from hydra_plugins.hydra_docker_launcher._context import (
    TIME,
    keep_only,
    leads_to,
    packed,
    select,
)
from hydra_plugins.hydra_docker_launcher._dockerignore import Dockerignore

PATHS = (
    ".dockerignore",
    "Dockerfile",
    "a/b/c.txt",
    "a/b/d.py",
    "a/e.txt",
    "f.txt",
    "g h.txt",
)


def tree(*paths, **links):
    files = [TreeFile(path, "100644", f"id of {path}") for path in paths]
    return files + [TreeFile(path, "120000", target, target) for path, target in links.items()]


def chosen(*sources, ignore="", files=None):
    context = select(files or tree(*PATHS), sources, Dockerignore(ignore))
    return [file.path for file in context.files], list(context.folders)


# ---- .dockerignore -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "ignored", "kept"),
    [
        ("", (), ("a", ".git")),
        ("a", ("a", "a/b/c"), ("b/a", "ab")),
        ("/a/", ("a", "a/b"), ("b/a",)),
        ("*.txt", ("a.txt", ".txt"), ("a/b.txt", "a.TXT")),
        ("*/*.txt", ("a/b.txt",), ("a.txt", "a/b/c.txt")),
        ("**/*.txt", ("a.txt", "a/b/c.txt"), ("a.py",)),
        ("a/**", ("a/b", "a/b/c"), ("a", "b")),
        ("a/**/d", ("a/d", "a/b/c/d"), ("a/b/dd",)),
        ("**", ("a", "a/b"), ()),
        ("a?c", ("abc",), ("ac", "a/c")),
        ("[a-c]x", ("ax",), ("dx",)),
        ("[^a]x", ("bx",), ("ax",)),
        ("a.c", ("a.c",), ("abc",)),
        (r"a\*", ("a*",), ("ab",)),
        ("# a\n  b  \n\n#c", ("b",), ("a", "# a")),
        ("a\n!a/b", ("a", "a/c"), ("a/b", "a/b/c")),
        ("*\n!a/b.txt", ("a/c", "b"), ("a/b.txt",)),
        ("!a\na", ("a",), ()),
        ("a\n! a/b", ("a/c",), ("a/b",)),
        ("./a\nb/../c", ("a", "c"), ("b",)),
        (".", (), ("a",)),
        ("\ufeffa\r\nb\r\n", ("a", "b"), ()),
        ("[\n!", (), ("a",)),  # Docker refuses these by itself
    ],
)
def test_dockerignore(text, ignored, kept):
    """As Docker reads it: paths from the root, ``**``, the last pattern that matches decides."""
    rules = Dockerignore(text)
    assert [path for path in (*ignored, *kept) if rules.ignores(path)] == list(ignored)


# ---- what is chosen ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "files", "folders"),
    [
        ((), [], []),
        (("f.txt",), ["f.txt"], []),
        (("a/e.txt", "g h.txt"), ["a/e.txt", "g h.txt"], ["a"]),
        (("a/b",), ["a/b/c.txt", "a/b/d.py"], ["a", "a/b"]),
        (("",), list(PATHS), ["a", "a/b"]),
        (("*.txt",), ["f.txt", "g h.txt"], []),
        (("a/*",), ["a/b/c.txt", "a/b/d.py", "a/e.txt"], ["a", "a/b"]),
        (("a/*/*.py",), ["a/b/d.py"], ["a", "a/b"]),
        (("missing", "f"), [], []),
    ],
)
def test_select(sources, files, folders):
    """A folder stands for all below it; a wildcard stays in its folder."""
    assert chosen(*sources) == (files, folders)


def test_ignored_files():
    """What is ignored is not there, whatever copies it; a folder stays if only its files go."""
    assert chosen("", ignore="*\n!a/b/*.txt") == (["a/b/c.txt"], ["a", "a/b"])
    assert chosen("a", ignore="a/b/*") == (["a/e.txt"], ["a", "a/b"])
    assert chosen("a", ignore="a/b") == (["a/e.txt"], ["a"])
    assert chosen("f.txt", ignore="*.txt") == ([], [])


def test_links():
    """A source that is a link stands for what it leads to; a link below a folder is only a link."""
    files = tree(
        "real/x.txt",
        "real/deep/y.txt",
        "other/z.txt",
        **{"link": "real", "real/deep/up": "../../other", "abs": "/other/z.txt", "loop": "loop"},
    )
    assert chosen("link", files=files) == (
        ["link", "real/deep/up", "real/deep/y.txt", "real/x.txt"],
        ["real", "real/deep"],
    )
    assert chosen("link/deep/y.txt", files=files)[0] == ["link", "real/deep/y.txt"]
    assert chosen("link/deep/up/z.txt", files=files)[0] == ["link", "other/z.txt", "real/deep/up"]
    assert chosen("abs", files=files)[0] == ["abs", "other/z.txt"]
    assert chosen("link/*.txt", files=files)[0] == [
        "link",
        "real/deep/up",
        "real/deep/y.txt",
        "real/x.txt",
    ]
    assert chosen("l*k", files=files)[0][0] == "link"
    assert chosen("loop", files=files)[0] == ["loop"]
    assert leads_to("abs", files) == "other/z.txt"
    assert leads_to("other/z.txt", files) == "other/z.txt"


def test_keep_only(tmp_path):
    """The rest is removed; modes and times are always the same."""
    for name in ("a/b/c.txt", "a/d.txt", "e/f.txt", "run.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/d.txt").chmod(0o600)
    (tmp_path / "run.sh").chmod(0o700)
    (tmp_path / "a").chmod(0o700)
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "gone").symlink_to("a")
    files = [*tree("a/d.txt", link="nowhere"), TreeFile("run.sh", "100755", "")]

    keep_only(select(files, ["a", "run.sh", "link"], Dockerignore()), tmp_path)

    left = {path.relative_to(tmp_path).as_posix(): path.lstat() for path in tmp_path.rglob("*")}
    modes = {name: stat.st_mode & 0o777 for name, stat in left.items()}
    assert modes == {"a": 0o755, "a/d.txt": 0o644, "run.sh": 0o755, "link": 0o777}
    assert {stat.st_mtime for stat in left.values()} == {TIME}


def contents(folder):
    with packed(folder, "docker/Dockerfile", "FROM a") as (file, name):
        with tarfile.open(fileobj=file) as archive:
            files = {
                entry.name: archive.extractfile(entry).read().decode()
                for entry in archive
                if entry.isfile()
            }
            assert {(entry.uid, entry.gid, entry.uname) for entry in archive} == {(0, 0, "")}
        return name, files


def test_packed(tmp_path):
    """The Dockerfile goes beside the files, where the builder removes it before any COPY."""
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "link").symlink_to("a.txt")
    own = ".hydra-docker.Dockerfile"
    ignore = f"{own}\n.dockerignore\n"
    assert contents(tmp_path) == (
        own,
        {"a.txt": "a", own: "FROM a", ".dockerignore": ignore},
    )

    # Where a COPY takes the .dockerignore along, it stays what it is: it says of the Dockerfile.
    (tmp_path / ".dockerignore").write_text("docker")
    expected = {"a.txt": "a", ".dockerignore": "docker", "docker/Dockerfile": "FROM a"}
    assert contents(tmp_path) == ("docker/Dockerfile", expected)
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "Dockerfile").write_text("FROM a # as it is in the commit")
    expected["docker/Dockerfile"] = "FROM a # as it is in the commit"
    assert contents(tmp_path) == ("docker/Dockerfile", expected)
