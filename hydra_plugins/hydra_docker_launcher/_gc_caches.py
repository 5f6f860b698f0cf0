"""What this project keeps to be quick, and can have again: facts of images, clones of remotes."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ._errors import DockerLauncherError
from ._gc_plan import FoundCache
from ._preflight import FORMAT
from ._wish import REPOSITORIES

_FACTS = re.compile(r"([0-9a-f]{64})-.*-(\d+)\.json")
_PARTIAL_FACTS = re.compile(r"[0-9a-f]{64}-.*\.\d+")
_CLONE = re.compile(r"[0-9a-f]{16}(\.partial)?")
#: What git writes when something is fetched into a clone.
_FETCHED = (".", ".git", ".git/FETCH_HEAD", ".git/packed-refs", ".git/refs/hydra-docker")


def found(cache: Path, images: Collection[str]) -> list[FoundCache]:
    """Return what is in the cache folder and of these two kinds; ``images`` are ids that exist."""
    return [*_facts(cache / "images", images), *_clones(cache / REPOSITORIES)]


def _facts(folder: Path, images: Collection[str]) -> Iterator[FoundCache]:
    for path in _listed(folder):
        match = _FACTS.fullmatch(path.name)
        partial = match is None and _PARTIAL_FACTS.fullmatch(path.name)
        with suppress(OSError):
            about = path.lstat()
            name = f"{folder.name}/{path.name[:12]}"
            if match is not None and int(match[2]) == FORMAT:
                there = f"sha256:{match[1]}" in images
                needed = "the engine has the image" if there else None
                what = "facts of an image that is gone"
                yield FoundCache(path, name, about.st_mtime, about.st_size, what, needed)
            elif match is not None or partial:
                what = "written by another version" if match else "never finished"
                yield FoundCache(path, name, about.st_mtime, about.st_size, what)


def _clones(folder: Path) -> Iterator[FoundCache]:
    for path in _listed(folder):
        if _CLONE.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            partial = path.suffix == ".partial"
            what = "a clone that was never finished" if partial else "a clone for reproduce"
            times = [_time(path / name) for name in _FETCHED]
            used = max(*times, _time(path.with_suffix(".lock")))
            yield FoundCache(path, f"{folder.name}/{path.name}", used, _size(path), what)


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _time(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    """Return the bytes of the files below a folder."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += Path(parent, name).lstat().st_size
    return total


def remove(path: Path) -> None:
    """Remove a file, or a clone that nobody works with. Raises ``DockerLauncherError``."""
    try:
        if not path.is_dir():
            path.unlink(missing_ok=True)
            return
        with _alone(path.with_suffix(".lock")):
            shutil.rmtree(path)
    except FileNotFoundError:
        return
    except BlockingIOError:
        raise DockerLauncherError("in use now") from None
    except OSError as error:
        raise DockerLauncherError(f"Cannot remove {path}: {error}") from error


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    # The file stays: another process may wait for it.
    handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)
