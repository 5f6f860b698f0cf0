"""Sweep folder: the launcher's own files of a sweep that is not over, and who looks after it.

They stand in a folder that only the user can read, and that no container of the sweep has mounted:
what is read from them decides what is started. They are gone when the sweep is over.

```
.docker/
  sweep.json    the sweep (``SavedSweep``)
  usage.json    what its jobs that run have used so far (``SavedUsage``)
  jobs/3.json   a job that is not over, or whose end could not be recorded yet (``SavedJob``)
  lock          held by the process that looks after the sweep
  launching     held by a process that may still add jobs to it
```
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from . import _codec
from ._errors import SweepError
from ._ledger import partials, write_json
from ._paths import SweepPaths
from ._saved import SavedJob, SavedSweep
from ._usage_book import SavedUsage

FORMAT = 1
LOCK_PATIENCE = 10.0  # seconds; who looks whether it is locked holds it for a moment
PAUSE = 0.05
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Keeper:
    """The process that looks after a sweep. ``background``: it has no terminal."""

    pid: int
    host: str
    background: bool


class SweepFolder:
    """The files of one sweep, for the one process that looks after it."""

    def __init__(self, paths: SweepPaths, handle: int) -> None:
        self._paths = paths
        self._handle = handle

    def save_sweep(self, sweep: SavedSweep) -> None:
        _write(self._paths.sweep, sweep)

    def sweep(self) -> SavedSweep | None:
        """Return the sweep, None where there is none that is not over."""
        return read_sweep(self._paths)

    def save_job(self, job: SavedJob) -> None:
        save_job(self._paths, job)

    def save_usage(self, usage: SavedUsage) -> None:
        _write(self._paths.usage, usage)

    def usage(self) -> SavedUsage | None:
        """Return what jobs that run have used so far, None where nobody has saved that."""
        return _read(SavedUsage, self._paths.usage) if self._paths.usage.exists() else None

    def jobs(self) -> dict[int, SavedJob]:
        """Return the jobs that are not over or not recorded, by their numbers, in order."""
        return {number: _read(SavedJob, self._paths.job(number)) for number in self.numbers()}

    def numbers(self) -> list[int]:
        """Return the numbers of those jobs."""
        found = (path.stem for path in self._paths.jobs.glob("*.json"))
        return sorted(int(stem) for stem in found if stem.isdigit())

    def forget(self, number: int) -> None:
        """Remove the file of a job that is over and recorded."""
        self._paths.job(number).unlink(missing_ok=True)

    def forget_sweep(self) -> None:
        """Remove the file of a sweep that is over and recorded."""
        self._paths.sweep.unlink(missing_ok=True)

    @property
    def paths(self) -> SweepPaths:
        return self._paths

    def expects_more(self) -> bool:
        """Tell whether a process is there that may add jobs."""
        try:
            handle = _locked(self._paths.launching, create=False)
        except FileNotFoundError:
            return False
        if handle is not None:
            os.close(handle)
        return handle is None

    def release(self) -> None:
        """Let another process look after the sweep; remove the folder where nothing is left in it.

        May be called twice.
        """
        if self._handle < 0:
            return
        for partial in (
            *self._paths.jobs.glob(".*.json.*"),
            *self._paths.private.glob(".*.json.*"),
            *partials(self._paths.ledger),
        ):
            partial.unlink(missing_ok=True)  # of a process that was killed as it wrote
        with suppress(OSError):
            self._paths.jobs.rmdir()
        if not self._paths.jobs.exists() and not self._paths.sweep.exists():
            self._paths.usage.unlink(missing_ok=True)
            self._paths.launching.unlink(missing_ok=True)
            self._paths.lock.unlink(missing_ok=True)
            with suppress(OSError):
                self._paths.private.rmdir()
        os.close(self._handle)
        self._handle = -1


def place(folder: Path, outputs: Iterable[Path]) -> SweepPaths:
    """Return where the files of a sweep in ``folder`` stand: in no folder that a job can write to.

    ``outputs`` are the output folders of its jobs. Raises ``SweepError`` where they leave no place.
    """
    outputs = tuple(outputs)
    inside, beside = _places(folder)
    if not any(inside.private.is_relative_to(output) for output in outputs):
        return inside
    require_apart(beside, outputs)
    return beside


def require_apart(paths: SweepPaths, outputs: Iterable[Path]) -> None:
    """Raise ``SweepError`` where a job could write to the launcher's own files."""
    for output in outputs:
        if paths.private.is_relative_to(output):
            raise SweepError(
                f"The output folder of a job, {output}, holds {paths.private}, where the launcher "
                "keeps its own files of this sweep. Choose a folder of its own for each job "
                "(hydra.sweep.subdir)."
            )


def find(folder: Path) -> SweepPaths | None:
    """Return where the files of a sweep in ``folder`` stand that is not over, None: it is."""
    return next((paths for paths in _places(folder) if paths.private.is_dir()), None)


def _places(folder: Path) -> tuple[SweepPaths, SweepPaths]:
    """Inside the sweep's folder; beside it, where that is a job's output folder itself."""
    return SweepPaths(folder), SweepPaths(folder, folder.with_name(f".{folder.name}.docker"))


def take(paths: SweepPaths, *, background: bool = False) -> SweepFolder | None:
    """Become the process that looks after the sweep; None where another one does.

    Raises ``SweepError`` where its folder cannot be written to.
    """
    while True:
        paths.jobs.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.private.chmod(0o700)
        handle = _locked(paths.lock)
        if handle is None:
            return None
        if _is_same(handle, paths.lock):
            break
        os.close(handle)  # whoever had it has removed the folder since
    keeper = {"pid": os.getpid(), "host": socket.gethostname(), "background": background}
    try:
        os.truncate(handle, 0)
        os.write(handle, json.dumps(keeper).encode())
    except OSError as error:
        os.close(handle)
        raise SweepError(f"Cannot write to the sweep's folder: {error}") from error
    return SweepFolder(paths, handle)


def keeper(paths: SweepPaths) -> Keeper | None:
    """Return the process that looks after the sweep, None where nobody does."""
    try:
        handle = _locked(paths.lock, create=False)
    except FileNotFoundError:
        return None
    if handle is not None:
        os.close(handle)
        return None
    try:
        found: Any = json.loads(paths.lock.read_text())
        return Keeper(int(found["pid"]), str(found["host"]), bool(found["background"]))
    except (OSError, ValueError, KeyError, TypeError, ArithmeticError, RecursionError):
        return Keeper(0, "", background=False)  # it has just begun to


def announce(paths: SweepPaths) -> int:
    """Let whoever looks after the sweep wait for more jobs, until this process has ended.

    Raises ``SweepError`` where another process adds jobs to it.
    """
    deadline = time.monotonic() + LOCK_PATIENCE
    while (handle := _locked(paths.launching)) is None:
        if time.monotonic() > deadline:
            raise SweepError(
                f"Another process may still add jobs to the sweep in {paths.folder}: it holds "
                f"{paths.launching} locked. Wait until it has ended, or end it (fuser "
                f"{paths.launching} names it)."
            )
        time.sleep(PAUSE)
    return handle


def _locked(path: Path, *, create: bool = True) -> int | None:
    flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
    handle = os.open(path, flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return None
    return handle


def _is_same(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def save_job(paths: SweepPaths, job: SavedJob) -> None:
    # What a Job knows beyond the base class was for the stages before.
    _write(paths.job(job.number), replace(job, job=job.job.plain_job()))


def present_jobs(paths: SweepPaths) -> list[SavedJob]:
    """Return the jobs of a sweep that another process looks after, but for what just ends."""
    found = []
    for path in paths.jobs.glob("*.json"):
        with suppress(SweepError):
            found.append(_read(SavedJob, path))
    return found


def read_sweep(paths: SweepPaths) -> SavedSweep | None:
    return _read(SavedSweep, paths.sweep) if paths.sweep.exists() else None


def _write(path: Path, value: Any) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, {"format": FORMAT, "value": _codec.to_plain(value)}, mode=0o600)
    except OSError as error:
        raise SweepError(f"Cannot write to the sweep's folder: {error}") from error


def _read(kind: type[Value], path: Path) -> Value:
    try:
        content = json.loads(path.read_text())
        if content["format"] != FORMAT:
            raise SweepError(
                f"{path} has format {content['format']}, and this version of the launcher reads "
                f"format {FORMAT}. Use the version that started the sweep."
            )
        return _codec.from_plain(kind, content["value"])
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise SweepError(
            f"{path} cannot be read ({type(error).__name__}: {error}). Another version of the "
            "launcher may have written it: use that one."
        ) from error
