"""Ledger: ``sweep.json``, what a sweep ran and how each job ended."""

from __future__ import annotations

import json
import os
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FORMAT = 1


class Ledger:
    """The file ``sweep.json``. Written whole after every change, so a reader never sees half of it.

    ``head`` is what holds for the whole sweep; ``update`` adds a row per job, by its number.
    """

    def __init__(self, path: Path, head: Mapping[str, Any]) -> None:
        self._path = path
        self._head = dict(head)
        self._jobs: dict[int, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def update(self, number: int, **values: Any) -> None:
        """Set values in the row of job ``number`` and write the file."""
        with self._lock:
            self._jobs.setdefault(number, {"job": number}).update(values)
            self._write()

    def note(self, **values: Any) -> None:
        """Set values that hold for the whole sweep; the next ``update`` writes them."""
        with self._lock:
            self._head.update(values)

    def _write(self) -> None:
        rows = [self._jobs[number] for number in sorted(self._jobs)]
        content = {"format": FORMAT, **self._head, "jobs": rows}
        write_json(self._path, content)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``content`` so that the file is at any time either the old one or the new one.

    A container may write in the folder too: no link that it has put there is followed.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
    partial.replace(path)
