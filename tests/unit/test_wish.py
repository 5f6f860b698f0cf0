"""Wish: the folder that the outputs of a repetition go to."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _wish
from hydra_plugins.hydra_docker_launcher._errors import ReproduceError
from hydra_plugins.hydra_docker_launcher._wish import output_folder


class Noon(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2026, 11, 22, 12, 0, 0)


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    monkeypatch.setattr(_wish, "datetime", Noon)


def test_default(tmp_path):
    """A folder by the time; two in the same second get two."""
    with output_folder(None, tmp_path) as first, output_folder(None, tmp_path) as second:
        (first / "sweep.json").touch()
        (second / "sweep.json").touch()
    below = tmp_path / "reproduced"
    assert (first, second) == (below / "2026-11-22_12-00-00", below / "2026-11-22_12-00-00-2")
    assert sorted(path.name for path in below.iterdir()) == [first.name, second.name]


def test_nothing_came_into_it(tmp_path):
    """After a dry run, nothing of the folder is left."""
    for asked in (None, Path("new/deep")):
        with output_folder(asked, tmp_path) as folder:
            assert folder.is_dir()
        assert list(tmp_path.iterdir()) == []


def test_error(tmp_path):
    """Nor after an error."""

    def fail():
        with output_folder(None, tmp_path):
            raise ReproduceError("no commit")

    with pytest.raises(ReproduceError, match="no commit"):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_empty_folder(tmp_path):
    """A folder that is there and empty is taken, and is not removed."""
    (tmp_path / "out").mkdir()
    with output_folder(Path("out"), tmp_path) as folder:
        assert folder == tmp_path / "out"
    assert folder.is_dir()


def test_not_empty(tmp_path):
    """Earlier results are not mixed with new ones."""
    file = tmp_path / "out" / "result"
    file.parent.mkdir()
    file.write_text("kept")
    with pytest.raises(ReproduceError, match=r"is not empty\. Name a new one with --output"):
        output_folder(Path("out"), tmp_path).__enter__()
    assert file.read_text() == "kept"


def test_no_folder(tmp_path):
    """What cannot be a folder is refused with the system's words."""
    (tmp_path / "file").touch()
    with pytest.raises(ReproduceError, match=r"Cannot use the output folder .*file/out: "):
        output_folder(Path("file/out"), tmp_path).__enter__()
