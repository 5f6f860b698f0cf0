"""Unpacking: files of a container go into a folder that it could write to, and nowhere else.

What is in that folder, and every name in the archive, is the container's own doing: links are not
followed, not made and not taken.
"""

from __future__ import annotations

import os
import re
import secrets
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, cast

#: A file takes at least so many bytes of the limit: millions of empty ones would fill a disk too.
BLOCK = 4096
_CHUNK = 1024 * 1024
_DEEPEST = 200  # folders in each other
_PARTIAL = re.compile(r"\.partial-[0-9a-f]{16}")
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """A file is not taken; the message says why."""


@contextmanager
def opened(stream: Generator[bytes, None, None]) -> Iterator[tarfile.TarFile]:
    """Read a tar archive from a stream; what is not read of it is not transferred.

    Raises ``tarfile.TarError`` where it is none.
    """
    try:
        with tarfile.open(fileobj=cast("BinaryIO", _Stream(stream)), mode="r|") as archive:
            yield archive
    finally:
        stream.close()


def place(top: str, name: str) -> str | None:
    """Return where in the container a member is, whose archive is of the path ``top``.

    None for a name that is not below ``top``.
    """
    first, *rest = name.split("/")
    if first != PurePosixPath(top).name or not all(map(_is_plain, rest)):
        return None
    return str(PurePosixPath(top, *rest))


def _is_plain(part: str) -> bool:
    return part not in ("", ".", "..") and "/" not in part and "\0" not in part


class _Stream:
    """A stream of chunks as a file."""

    def __init__(self, chunks: Generator[bytes, None, None]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int) -> bytes:
        parts, missing = [self._rest], size - len(self._rest)
        while missing > 0 and (chunk := next(self._chunks, None)) is not None:
            parts.append(chunk)
            missing -= len(chunk)
        whole = b"".join(parts)
        self._rest = whole[size:]
        return whole[:size]


def remove_partial(output: Path, name: str) -> None:
    """Remove what a process that was killed as it unpacked has left below the folder ``name``."""
    with suppress(OSError), _entered(os.open(output, _FOLDER)) as parent:
        _remove_partial(parent, name, _DEEPEST)


def _remove_partial(parent: int, name: str, depth: int) -> None:
    with suppress(OSError), _entered(os.open(name, _FOLDER, dir_fd=parent)) as folder:
        with os.scandir(folder) as listing:
            entries = list(listing)
        for entry in entries:
            if _PARTIAL.fullmatch(entry.name):
                with suppress(OSError):
                    os.unlink(entry.name, dir_fd=folder)
            elif depth and entry.is_dir(follow_symlinks=False):
                _remove_partial(folder, entry.name, depth - 1)


@contextmanager
def _entered(folder: int) -> Iterator[int]:
    try:
        yield folder
    finally:
        os.close(folder)


class Shelf:
    """The folder ``name`` in ``output``, which gets up to ``limit`` bytes of files.

    Files and folders belong to whom ``output`` belongs. Raises ``OSError`` where the folder is no
    folder (a link, a file) or cannot be made. To be closed, which removes it where it is empty.
    """

    def __init__(self, output: Path, name: str, limit: int) -> None:
        self.folder = output / name
        self.limit = limit
        self._room = limit
        parent = os.open(output, _FOLDER)
        try:
            facts = os.fstat(parent)
            self._owner = (facts.st_uid, facts.st_gid)
            self._top = self._enter(parent, name)
        finally:
            os.close(parent)

    def close(self) -> None:
        os.close(self._top)
        with suppress(OSError):  # there is something in it
            self.folder.rmdir()

    def has_room(self, size: int) -> bool:
        return max(size, BLOCK) <= self._room

    def put(self, path: str, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        """Write a file of the container at its absolute path below the folder.

        One that an earlier attempt of the job has left there is replaced. Raises ``RefusedError``
        for a file that is too large, ``OSError`` where it cannot be written.
        """
        *folders, name = PurePosixPath(path).parts[1:]
        if not all(map(_is_plain, (*folders, name))):
            raise RefusedError("its name leads elsewhere")
        if not self.has_room(member.size):
            raise RefusedError("there is no room for it")
        folder = os.dup(self._top)
        try:
            for part in folders:
                outer, folder = folder, self._enter(folder, part)
                os.close(outer)
            self._write(folder, name, member, content)
        finally:
            os.close(folder)
        self._room -= max(member.size, BLOCK)

    def _enter(self, parent: int, name: str) -> int:
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent)
            self._give(name, parent)
        return os.open(name, _FOLDER, dir_fd=parent)

    def _write(self, folder: int, name: str, member: tarfile.TarInfo, content: IO[bytes]) -> None:
        partial = f".partial-{secrets.token_hex(8)}"
        handle = os.open(partial, _FILE, 0o600, dir_fd=folder)
        try:
            with os.fdopen(handle, "wb") as file:
                while chunk := content.read(_CHUNK):
                    file.write(chunk)
                file.flush()
                self._give(partial, folder)
                os.fchmod(handle, (member.mode & 0o755) | 0o600)
                with suppress(OSError, OverflowError, ValueError):
                    os.utime(handle, (member.mtime, member.mtime))
            os.rename(partial, name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(partial, dir_fd=folder)
            raise

    def _give(self, name: str, folder: int) -> None:
        if os.geteuid() == 0:
            os.chown(name, *self._owner, dir_fd=folder, follow_symlinks=False)
