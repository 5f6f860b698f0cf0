"""Untrusted: folders that a container can write to, and what the host does in there.

A container can put a link, a pipe, a device or something huge in the place of any name, also while
the host works there. So a name is only ever looked up in a folder that is open, links are not
followed, and nothing is taken but folders and regular files.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from contextlib import closing, suppress
from pathlib import Path
from typing import BinaryIO

from ._errors import DockerLauncherError

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Not to wait for the other end, where it is a pipe.
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

#: Where an open file has a path by which it is the same file, whatever becomes of its name.
_HANDLES = next((path for path in ("/proc/self/fd", "/dev/fd") if Path(path).is_dir()), None)


class Folder:
    """An open folder, to be closed. Methods raise ``OSError`` where a name is not what it seems."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @classmethod
    def at(cls, path: Path, *names: str) -> Folder:
        """Open the folder at ``path``, which is the host's, and from there the inner ``names``."""
        folder = cls(os.open(path, _FOLDER))
        for name in names:
            with closing(folder):
                inner = folder.inner(name)
            folder = inner
        return folder

    def close(self) -> None:
        os.close(self._handle)

    def inner(self, name: str) -> Folder:
        return Folder(os.open(_plain(name), _FOLDER, dir_fd=self._handle))

    def make(self, name: str, mode: int) -> Folder:
        """Open an inner folder, and make it where there is none."""
        with suppress(FileExistsError):
            os.mkdir(_plain(name), mode, dir_fd=self._handle)
        return self.inner(name)

    def give(self, owner: tuple[int, int] | None) -> None:
        """Make the folder belong to ``owner`` (uid and gid); None: it stays as it is."""
        if owner is not None:
            os.fchown(self._handle, *owner)

    def names(self) -> list[str]:
        return sorted(os.listdir(self._handle))  # noqa: PTH208  (of what is open)

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
        """Open a regular file. Whoever opens it closes it."""
        handle = os.open(_plain(name), flags | _FILE, mode, dir_fd=self._handle)
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise DockerLauncherError(f"{name} is no regular file")
        return handle

    def write(
        self,
        name: str,
        content: bytes | BinaryIO,
        mode: int,
        owner: tuple[int, int] | None = None,
    ) -> None:
        """Write a file anew, from bytes or from an open file.

        At any time the name is that of the old file or of the whole new one. A link that has the
        name is replaced.
        """
        partial = f".{_plain(name)}.{secrets.token_hex(8)}"
        handle = os.open(partial, _NEW, mode, dir_fd=self._handle)
        try:
            with os.fdopen(handle, "wb") as file:
                if isinstance(content, bytes):
                    file.write(content)
                else:
                    shutil.copyfileobj(content, file)
                file.flush()
                os.fsync(handle)  # a power cut must not leave an empty file under the name
                if owner is not None:
                    os.fchown(handle, *owner)
            os.rename(partial, name, src_dir_fd=self._handle, dst_dir_fd=self._handle)
        except BaseException:
            with suppress(OSError):
                os.unlink(partial, dir_fd=self._handle)
            raise

    def link(self, name: str, to: Folder, new: str) -> None:
        """Give a file another name, in the folder ``to``; a link stays one."""
        os.link(
            _plain(name),
            _plain(new),
            src_dir_fd=self._handle,
            dst_dir_fd=to._handle,
            follow_symlinks=False,
        )

    def remove(self, name: str) -> None:
        """Remove a file or a link; one that is not there is no error."""
        with suppress(FileNotFoundError):
            os.unlink(_plain(name), dir_fd=self._handle)

    def remove_folder(self, name: str) -> None:
        """Remove an empty inner folder; one that is not there is no error."""
        with suppress(FileNotFoundError):
            os.rmdir(_plain(name), dir_fd=self._handle)


def read(path: Path, depth: int, limit: int) -> bytes | None:
    """Return what is in a file, None where there is no regular file of at most ``limit`` bytes.

    The last ``depth`` names of its path are such that a container can replace.
    """
    try:
        handle = _opened(path, depth)
    except (OSError, DockerLauncherError, ValueError):
        return None
    with os.fdopen(handle, "rb") as file:
        if os.fstat(handle).st_size > limit:
            return None
        content = file.read(limit + 1)
    return content if len(content) <= limit else None


def end(path: Path, depth: int, limit: int) -> bytes:
    """Return up to ``limit`` last bytes of a file, nothing where there is no regular file."""
    try:
        handle = _opened(path, depth)
    except (OSError, DockerLauncherError, ValueError):
        return b""
    with os.fdopen(handle, "rb") as file:
        file.seek(max(0, os.fstat(handle).st_size - limit))
        return file.read(limit)


def size(path: Path, depth: int) -> int | None:
    """Return the bytes of a file, None where there is no regular file."""
    try:
        handle = _opened(path, depth)
    except (OSError, DockerLauncherError, ValueError):
        return None
    try:
        return os.fstat(handle).st_size
    finally:
        os.close(handle)


def path_of(handle: int) -> Path | None:
    """Return a path of an open file that no link can lead elsewhere; None: there is none here."""
    return Path(_HANDLES, str(handle)) if _HANDLES else None


def _opened(path: Path, depth: int) -> int:
    *folders, name = path.parts[-depth:]
    with closing(Folder.at(path.parents[depth - 1], *folders)) as folder:
        return folder.open(name)


def _plain(name: str) -> str:
    if name in ("", ".", "..") or "/" in name:
        raise NotADirectoryError(f"{name!r} is no name in a folder")
    return name
