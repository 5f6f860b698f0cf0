"""Fingerprint: names, sizes and times of a folder's files, or their content."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _content, _fingerprint
from hydra_plugins.hydra_docker_launcher._content import Content, remembered
from hydra_plugins.hydra_docker_launcher._fingerprint import Fingerprint, fingerprint

TIME = 1_700_000_000_000_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two files, and a link between them."""
    root = tmp_path / "data"
    (root / "sub").mkdir(parents=True)
    (root / "a.csv").write_text("1,2\n")
    (root / "sub" / "ü.bin").write_bytes(b"\0" * 10)
    (root / "sub" / "link").symlink_to("../a.csv")
    for path in (root / "a.csv", root / "sub" / "ü.bin"):
        os.utime(path, ns=(TIME, TIME))
    return root


def taken(root: Path, **options) -> Fingerprint:
    defaults = {
        "content": None,
        "leave_out": lambda path: False,
        "tell": lambda files, size: None,
    }
    return fingerprint(root, **{**defaults, **options})


def test_of_stat(folder):
    """The same names, sizes and times: the same digest, on every machine."""
    assert taken(folder) == Fingerprint(
        digest="dbd29941e54cec451f7201149a3d2dd0ad2fc5999e58a1a103aec9a5e84a0ad8",
        shape="481503d6a270aa7a35bb10f4729b026736be3d1c19c9ba77d61788ad59a7981f",
        files=3,
        bytes=14,
    )


def test_of_content(folder):
    """The same content: the same digest, whatever the times."""
    before = taken(folder, content=Content(None))
    os.utime(folder / "a.csv")
    assert taken(folder, content=Content(None)) == before
    assert before.digest == "ee05c040382f7ba17540f3be4131aa1d44faff9819d20556058ade7eae5e3b5b"


@pytest.mark.parametrize("content", [None, Content(None)])
def test_changes(folder, content):
    """A file more, another name, another link: each makes another digest."""
    seen = {taken(folder, content=content).digest}

    def differs() -> bool:
        digest = taken(folder, content=content).digest
        new = digest not in seen
        seen.add(digest)
        return new

    (folder / "b").touch()
    assert differs()
    (folder / "b").rename(folder / "c")
    assert differs()
    (folder / "sub" / "link").unlink()
    (folder / "sub" / "link").symlink_to("nowhere")
    assert differs()
    (folder / "a.csv").write_text("1,3\n")
    assert differs()


def test_times_alone(folder):
    """Other times: another digest of the same shape."""
    before = taken(folder)
    os.utime(folder / "a.csv", ns=(TIME + 1, TIME + 1))
    after = taken(folder)
    assert (before.digest != after.digest, before.shape == after.shape) == (True, True)


def test_links_are_not_followed(folder, tmp_path):
    """A link that leads out is counted, and a link to a folder above ends no scan."""
    (folder / "up").symlink_to(tmp_path)
    (folder / "loop").symlink_to(".")
    found = taken(folder)
    assert (found.files, found.outward) == (5, 1)


def test_one_file(folder):
    """A volume may be a file."""
    found = taken(folder / "a.csv", content=Content(None))
    assert (found.files, found.bytes) == (1, 4)


def test_left_out(folder):
    """What is left out is not looked into."""
    found = taken(folder, leave_out=lambda path: path == str(folder / "sub"))
    assert (found.files, found.bytes) == (1, 4)


def test_unreadable(folder, monkeypatch):
    """It is named, and the rest counts. (root may read everything: so the refusal is played.)"""
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(_fingerprint.os, "scandir", refuse)
    found = taken(folder)
    assert (found.files, found.unreadable) == (1, ("sub",))


def test_special_file(tmp_path):
    """A pipe is no reason to wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    assert taken(tmp_path, content=Content(None)).files == 1


def test_progress(folder, monkeypatch):
    """Who waits is told how far it is."""
    monkeypatch.setattr(_fingerprint, "_TELL_EVERY_S", -1.0)
    told = []
    taken(folder, tell=lambda files, size: told.append((files, size)))
    assert told == [(1, 4), (3, 14)]


def test_content_is_read_once(folder, tmp_path, monkeypatch):
    """A file that nobody has touched since is not read again; one that was just written is."""
    read = []
    really = _content._read

    def reading(path):
        read.append(Path(path).name)
        return really(path)

    monkeypatch.setattr(_content, "_read", reading)
    memory = tmp_path / "cache" / "hashes.db"

    def look():
        read.clear()
        with remembered(memory) as content:
            return taken(folder, content=content).digest, read.copy()

    files = ["a.csv", "ü.bin"]
    first, _ = look()
    assert look() == (first, files)  # too young to be sure of

    monkeypatch.setattr(_content, "_TOO_YOUNG_NS", -1)
    assert look() == (first, files)
    assert look() == (first, [])
    (folder / "a.csv").write_text("3,4\n")
    changed, again = look()
    assert (changed != first, again) == (True, ["a.csv"])


def test_memory_that_cannot_be_used(folder, tmp_path, caplog):
    """The files are read then, and the user is told."""
    (tmp_path / "hashes.db").write_text("no database, but long enough to look like another file")
    with remembered(tmp_path / "hashes.db") as content:
        assert taken(folder, content=content) == taken(folder, content=Content(None))
    assert caplog.messages == [
        f"Hashes of data cannot be remembered in {tmp_path}/hashes.db: file is not a database"
    ]


def test_memory_that_is_locked(folder, tmp_path, monkeypatch, caplog):
    """Another process that holds it is no reason to fail; the user is told once."""
    monkeypatch.setattr(_content, "_PATIENCE_S", 0.01)
    memory = tmp_path / "hashes.db"
    with remembered(memory):
        pass
    other = sqlite3.connect(memory)
    with remembered(memory) as content:
        other.execute("BEGIN EXCLUSIVE")
        assert taken(folder, content=content) == taken(folder, content=Content(None))
    other.close()
    assert caplog.messages == ["Hashes of data cannot be remembered: database is locked"]
