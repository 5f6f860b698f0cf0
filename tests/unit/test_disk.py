"""Disk: a warning, once, when the disk of the output folders runs full."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from hydra_plugins.hydra_docker_launcher import _disk
from hydra_plugins.hydra_docker_launcher._disk import DiskWatch, shortage

GIB = 1024**3


def space(size, free, files=1000, files_free=1000):
    return SimpleNamespace(
        f_blocks=size // 4096,
        f_bavail=free // 4096,
        f_frsize=4096,
        f_files=files,
        f_favail=files_free,
    )


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (space(100 * GIB, 5 * GIB), None),
        (space(100 * GIB, 4 * GIB), "4g of 100g are free"),
        (space(10_240 * GIB, 6 * GIB), None),
        (space(10_240 * GIB, 4 * GIB), "4g of 10t are free"),
        (space(GIB, GIB // 10), None),
        (space(GIB, GIB // 64), "16m of 1g are free"),
        (space(GIB, GIB, files_free=9), "9 of 1000 files (inodes) are free"),
        (space(GIB, GIB, files=0, files_free=0), None),
        (space(0, 0), None),
    ],
)
def test_shortage(facts, said):
    """A twentieth of a small disk, 5 GiB of a large one; some file systems count no files."""
    assert shortage(facts) == said


def test_full_at_the_start(tmp_path, caplog):
    """It is told at once, and only once, however many batches there are."""
    watch = DiskWatch(tmp_path, stat=lambda _: space(100 * GIB, GIB))
    for _ in range(2):
        watch.start()
        watch.close()
    (told,) = caplog.messages
    assert told.startswith(f"The disk of {tmp_path} runs full: 1g of 100g are free.")


def test_full_while_it_runs(tmp_path, caplog, monkeypatch):
    """It is looked at again and again, until it is told."""
    monkeypatch.setattr(_disk, "PAUSE", 0.001)
    told = threading.Event()
    monkeypatch.setattr(_disk.log, "warning", lambda *_: told.set())
    looks = iter([space(100 * GIB, 50 * GIB)] * 3 + [space(100 * GIB, GIB)])
    watch = DiskWatch(tmp_path, stat=lambda _: next(looks))
    watch.start()
    assert told.wait(60)
    watch.close()
    assert next(looks, None) is None


def test_folder_that_is_gone(tmp_path, caplog):
    """Nobody is told twice of what the jobs will tell."""
    watch = DiskWatch(tmp_path / "gone")
    watch.start()
    watch.close()
    watch.close()
    assert caplog.messages == []
