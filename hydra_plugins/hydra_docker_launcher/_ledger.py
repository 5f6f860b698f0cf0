"""Ledger: ``sweep.json`` in the sweep's folder, what is known of every job at any time."""

from __future__ import annotations

import json
import os
import re
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ._errors import SweepError

FORMAT = 1
#: What may come of reading a file as a ledger that somebody else has written.
MISREAD = (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError)
#: What a row says of how its job has ended, beside the outcome.
_OF_AN_END = (
    "cause",
    "exit_code",
    "advice",
    "warning",
    "memory_peak",
    "ended",
    "used",
    "stray",
    "unseen",
)


class Ledger:
    """The file ``sweep.json``. Written whole after every change, so a reader never sees half of it.

    ``head`` is what holds for the whole sweep; ``update`` adds a row per job, by its number.
    """

    def __init__(
        self,
        path: Path,
        head: Mapping[str, Any],
        rows: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        self._path = path
        self._head = dict(head)
        self._jobs = {number: dict(row) for number, row in (rows or {}).items()}
        self._lock = threading.Lock()

    @staticmethod
    def read(path: Path) -> Ledger | None:
        """Return the ledger that a file holds, None where there is none.

        Raises ``SweepError`` where the file is no ledger that this version knows.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, RecursionError) as error:
            raise SweepError(f"{path} cannot be read: {error}") from error
        try:
            known = content.pop("format") == FORMAT
            rows = {int(row["job"]): row for row in content.pop("jobs")}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise SweepError(f"{path} is no record of a sweep ({error!r})") from error
        if not known:
            raise SweepError(f"{path} is of another version of the launcher")
        return Ledger(path, content, rows)

    @property
    def head(self) -> dict[str, Any]:
        with self._lock:
            return dict(self._head)

    @property
    def rows(self) -> dict[int, dict[str, Any]]:
        """The rows by the jobs' numbers, in order."""
        with self._lock:
            return {number: dict(self._jobs[number]) for number in sorted(self._jobs)}

    def row(self, number: int) -> dict[str, Any]:
        """Return what is known of a job; empty where nothing is."""
        with self._lock:
            return dict(self._jobs.get(number, {}))

    def update(self, number: int, **values: Any) -> None:
        """Set values in the row of job ``number`` and write the file."""
        with self._lock:
            self._jobs.setdefault(number, {"job": number}).update(values)
            self._write()

    def begin(self, rows: Mapping[int, Mapping[str, Any]]) -> None:
        """Begin the rows of jobs anew, by their numbers, and write the file once."""
        with self._lock:
            self._jobs.update({number: {"job": number, **row} for number, row in rows.items()})
            self._write()

    def take_back(self, number: int) -> None:
        """Take the end of a job out of its row, which is not one, and write the file."""
        with self._lock:
            row = self._jobs[number]
            for name in _OF_AN_END:
                row.pop(name, None)
            row["outcome"] = None
            self._write()

    def write(self) -> None:
        """Write the file as it stands: a sweep may have no job yet."""
        with self._lock:
            self._write()

    def note(self, **values: Any) -> None:
        """Set values that hold for the whole sweep; the next change of a row writes them."""
        with self._lock:
            self._head.update(values)

    def _write(self) -> None:
        rows = [self._jobs[number] for number in sorted(self._jobs)]
        content = {"format": FORMAT, **self._head, "jobs": rows}
        write_json(self._path, content)


def write_json(path: Path, content: Mapping[str, Any], *, mode: int = 0o666) -> None:
    """Write ``content`` so that the file is at any time either the old one or the new one.

    A container may write in the folder too: no link that it has put there is followed.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())  # a power cut must not leave an empty file under the name
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    _keep_names(path.parent)


def partials(path: Path) -> list[Path]:
    """Return what processes that were killed as they wrote a file have left beside it."""
    name = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}")
    return [found for found in path.parent.glob(f".{path.name}.*") if name.fullmatch(found.name)]


def _keep_names(folder: Path) -> None:
    """Have the names in a folder outlive a power cut, where its file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
