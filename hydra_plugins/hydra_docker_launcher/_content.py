"""Content: hashes of files, remembered so that a file that nobody has touched is read once."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

log = logging.getLogger("hydra_docker_launcher")

_CHUNK = 1024 * 1024
#: A file as young as this may change once more without its time telling.
_TOO_YOUNG_NS = 2_000_000_000
_PATIENCE_S = 5.0
_TABLE = "CREATE TABLE IF NOT EXISTS hashes (path BLOB PRIMARY KEY, stamp TEXT, digest TEXT)"


class Content:
    """SHA-256 of files, by path; a file counts as the same by inode, size and times."""

    def __init__(self, memory: sqlite3.Connection | None) -> None:
        self._memory = memory
        self._new: list[tuple[bytes, str, str]] = []

    def digest(self, path: str, status: os.stat_result) -> str:
        """Return the hash of a file in hex. Raises ``OSError`` where it cannot be read."""
        stamp = (
            f"{status.st_dev} {status.st_ino} {status.st_size} "
            f"{status.st_mtime_ns} {status.st_ctime_ns}"
        )
        key = os.fsencode(path)
        known = self._ask("SELECT digest FROM hashes WHERE path = ? AND stamp = ?", (key, stamp))
        if known:
            return str(known[0][0])
        digest = _read(path)
        if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _TOO_YOUNG_NS:
            self._new.append((key, stamp, digest))
        return digest

    def save(self) -> None:
        """Write down what is new."""
        for row in self._new:
            self._ask("INSERT OR REPLACE INTO hashes VALUES (?, ?, ?)", row)
        self._ask("COMMIT" if self._new else "SELECT 1", ())
        self._new.clear()

    def _ask(self, query: str, values: tuple[object, ...]) -> list[tuple[object, ...]]:
        """Run a query; a memory that fails (locked, disk full) is not asked again."""
        if self._memory is None:
            return []
        try:
            return self._memory.execute(query, values).fetchall()
        except sqlite3.Error as error:
            log.warning("Hashes of data cannot be remembered: %s", error)
            self._memory = None
            return []


@contextmanager
def remembered(file: Path) -> Iterator[Content]:
    """Open the memory in ``file``; where it cannot be used, every file is read."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        memory = sqlite3.connect(file, timeout=_PATIENCE_S)
        memory.execute(_TABLE)
    except (OSError, sqlite3.Error) as error:
        log.warning("Hashes of data cannot be remembered in %s: %s", file, error)
        yield Content(None)
        return
    with closing(memory):
        content = Content(memory)
        try:
            yield content
        finally:
            content.save()


def _read(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123  (a million of them)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
