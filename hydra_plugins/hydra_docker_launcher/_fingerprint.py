"""Fingerprint: a digest of a folder's or a file's names, sizes and times, or of its content.

Links are taken as what they say and never followed; folders count by the files in them.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ._content import Content

_TELL_EVERY_S = 10.0
_NAMED = 10

#: Is told, now and then, how many files and bytes are done.
Tell = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``digest`` is a SHA-256 in hex; ``shape`` is one of names and sizes alone.

    ``bytes`` is the sum of sizes. ``unreadable`` names what could not be looked at (the first
    ones), ``outward`` counts links that lead out of the folder.
    """

    digest: str
    shape: str
    files: int
    bytes: int
    unreadable: tuple[str, ...] = ()
    outward: int = 0


@dataclass
class _Sum:
    root: Path
    tell: Tell
    content: Content | None
    full: hashlib._Hash = field(default_factory=hashlib.sha256)
    shape: hashlib._Hash = field(default_factory=hashlib.sha256)
    files: int = 0
    bytes: int = 0
    outward: int = 0
    unreadable: list[str] = field(default_factory=list)
    told: float = field(default_factory=time.monotonic)

    def add(self, name: str, path: str, status: os.stat_result) -> None:
        """Take in a file, a link or something else, by its name in the folder."""
        if stat.S_ISLNK(status.st_mode):
            self._add_link(name, path)
            return
        kind = "file" if stat.S_ISREG(status.st_mode) else "other"
        size = status.st_size if kind == "file" else 0
        last = str(status.st_mtime_ns)
        if self.content is not None:
            last = self._hash(self.content, name, path, status) if kind == "file" else ""
        self._line((kind, name, str(size)), last)
        self.files += 1
        self.bytes += size
        if time.monotonic() - self.told > _TELL_EVERY_S:
            self.tell(self.files, self.bytes)
            self.told = time.monotonic()

    def cannot_read(self, name: str) -> None:
        self._line(("unreadable", name), "")
        if len(self.unreadable) < _NAMED:
            self.unreadable.append(name or str(self.root))

    def _add_link(self, name: str, path: str) -> None:
        self._line(("link", name, str(Path(path).readlink())), "")
        self.files += 1
        self.outward += not Path(os.path.realpath(path)).is_relative_to(self.root)

    def _hash(self, content: Content, name: str, path: str, status: os.stat_result) -> str:
        try:
            return content.digest(path, status)
        except OSError:
            self.cannot_read(name)
            return ""

    def _line(self, shape: tuple[str, ...], rest: str) -> None:
        line = os.fsencode("\0".join(shape))
        self.shape.update(line + b"\n")
        self.full.update(line + b"\0" + os.fsencode(rest) + b"\n")


def fingerprint(
    root: Path, *, content: Content | None, leave_out: Callable[[str], bool], tell: Tell
) -> Fingerprint:
    """Return the fingerprint of a folder or file (absolute).

    Its times count where ``content`` is None. ``leave_out`` says by absolute path what does not
    count.
    """
    total = _Sum(root, tell, content)
    if root.is_dir():
        for name, entry in _walk(root, leave_out, total.cannot_read):
            try:
                total.add(name, entry.path, entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                continue  # it has gone meanwhile
    else:
        total.add("", str(root), root.stat())
    return Fingerprint(
        digest=total.full.hexdigest(),
        shape=total.shape.hexdigest(),
        files=total.files,
        bytes=total.bytes,
        unreadable=tuple(total.unreadable),
        outward=total.outward,
    )


def outward_links(place: Path, root: Path) -> int:
    """Return how many links at or below ``place`` lead out of the folder ``root``."""
    if place.is_symlink() or not place.is_dir():
        return int(not Path(os.path.realpath(place)).is_relative_to(root))
    return sum(
        not Path(os.path.realpath(entry.path)).is_relative_to(root)
        for _, entry in _walk(place, lambda _: False, lambda _: None)
        if entry.is_symlink()
    )


def _walk(
    root: Path, leave_out: Callable[[str], bool], cannot_read: Callable[[str], None]
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yield name and entry of everything below ``root`` but folders, always in the same order."""
    waiting = [("", str(root))]
    while waiting:
        prefix, folder = waiting.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            continue
        except OSError:
            cannot_read(prefix)
            continue
        inner = []
        for entry in entries:
            if leave_out(entry.path):
                continue
            name = f"{prefix}/{entry.name}" if prefix else entry.name
            if entry.is_dir(follow_symlinks=False):
                inner.append((name, entry.path))
            else:
                yield name, entry
        waiting += reversed(inner)
