"""Ledger: what a sweep ran and how each job ended, in one file."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

from hydra_plugins.hydra_docker_launcher import _ledger
from hydra_plugins.hydra_docker_launcher._ledger import Ledger, write_json


def test_rows(tmp_path):
    """The head, and a row per job in the order of their numbers."""
    ledger = Ledger(tmp_path / "sweep.json", {"sweep": "s"})

    ledger.update(1, outcome=None)
    ledger.update(0, outcome=None, container="c")
    ledger.update(1, outcome="completed")

    assert json.loads((tmp_path / "sweep.json").read_text()) == {
        "format": 1,
        "sweep": "s",
        "jobs": [
            {"job": 0, "outcome": None, "container": "c"},
            {"job": 1, "outcome": "completed"},
        ],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.json"]


def test_note(tmp_path):
    """What is learnt about the whole sweep later stands in the head."""
    ledger = Ledger(tmp_path / "sweep.json", {"sweep": "s"})

    ledger.note(data=[1])
    ledger.update(0, outcome=None)

    assert json.loads((tmp_path / "sweep.json").read_text()) == {
        "format": 1,
        "sweep": "s",
        "data": [1],
        "jobs": [{"job": 0, "outcome": None}],
    }


def test_power_cut(tmp_path, monkeypatch):
    """What is in the file is on the disk before it gets its name, and so is the name then."""
    path = tmp_path / "sweep.json"
    kept = []

    def keep(handle):
        kept.append((stat.S_ISDIR(os.fstat(handle).st_mode), path.exists()))

    monkeypatch.setattr(_ledger.os, "fsync", keep)
    write_json(path, {"a": 1})
    assert kept == [(False, False), (True, True)]


def test_many_threads(tmp_path):
    """Every job writes from a thread of its own, and none is lost."""
    ledger = Ledger(tmp_path / "sweep.json", {})
    threads = [threading.Thread(target=ledger.update, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert [row["job"] for row in json.loads((tmp_path / "sweep.json").read_text())["jobs"]] == [
        *range(20)
    ]


def test_links_of_a_container(tmp_path):
    """A container may have put a link where the host writes: it is replaced."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "container.json").symlink_to(precious)

    write_json(folder / "container.json", {"a": 1})

    assert precious.read_text() == "precious"
    assert not (folder / "container.json").is_symlink()
    assert json.loads((folder / "container.json").read_text()) == {"a": 1}


def test_link_at_the_partial_file(tmp_path, monkeypatch):
    """Not even a container that guesses the name of the partial file gets another one written."""
    monkeypatch.setattr(_ledger.secrets, "token_hex", lambda size: "guessed")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / ".container.json.guessed").symlink_to(tmp_path / "precious")

    with pytest.raises(FileExistsError):
        write_json(tmp_path / "container.json", {"a": 1})
    assert (tmp_path / "precious").read_text() == "precious"
