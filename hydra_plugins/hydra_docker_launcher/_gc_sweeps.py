"""Sweeps as their folders tell: who looks after them, what is recorded, what a killed one left."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from ._errors import DockerLauncherError
from ._gc_plan import FoundFile, Standing, SweepState
from ._ledger import MISREAD
from ._paths import LEDGER, STORE_FOLDER, JobPaths

PRIVATE = ".docker"
#: Folders that hold no sweeps, and may hold very much else.
NO_SWEEPS = frozenset({STORE_FOLDER, "mlruns", "mlartifacts", "node_modules", "__pycache__"})
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


def below(root: Path) -> Iterator[Path]:
    """Yield the folders of sweeps below a folder. Hidden folders are not looked into, nor links."""
    for folder, names, files in os.walk(root):
        if LEDGER in files:
            yield Path(folder)
        names[:] = [name for name in names if not name.startswith(".") and name not in NO_SWEEPS]


def look(folder: Path, *, local: bool) -> SweepState:
    """Return how the sweep in ``folder`` stands.

    ``local``: the engine is on this machine, so that a folder that is not here is nowhere.
    """
    place = Path(os.path.realpath(folder))
    try:
        return _look(folder, place, local=local)
    except PermissionError as error:
        return SweepState(
            folder, place, Standing.UNKNOWN, f"{folder} is for its user only: {error}"
        )
    except OSError as error:
        return SweepState(folder, place, Standing.UNKNOWN, f"{folder} cannot be looked at: {error}")


def _look(folder: Path, place: Path, *, local: bool) -> SweepState:
    # Beside the folder, where that is the output folder of a job.
    private = (folder / PRIVATE, folder.with_name(f".{folder.name}{PRIVATE}"))
    in_progress = any(_is_locked(there / "lock") for there in private)
    unsettled = any(_is_unsettled(there) for there in private)
    try:
        owner = folder.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        if in_progress:
            return SweepState(folder, place, Standing.IN_PROGRESS)
        if not local:
            return SweepState(folder, place, Standing.UNKNOWN, f"{folder} is not on this machine")
        return SweepState(folder, place, Standing.GONE)
    standing, detail = Standing.OVER, ""
    facts: dict[str, Any] = {}
    try:
        ledger = _ledger(folder)
        facts = {} if ledger is None else _facts(folder, ledger)
        if ledger is not None and any(row.get("outcome") is None for row in ledger["jobs"]):
            unsettled = True
    except MISREAD as error:
        standing = Standing.UNKNOWN
        detail = f"{folder / LEDGER} cannot be read ({type(error).__name__}: {error})"
    if unsettled:
        standing = Standing.UNSETTLED
    if in_progress:
        standing = Standing.IN_PROGRESS
    return SweepState(folder, place, standing, detail, owner=owner, **facts)


def _is_locked(path: Path) -> bool:
    """Tell whether a process holds the lock of a sweep."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _is_unsettled(place: Path) -> bool:
    """Tell whether a sweep has files for whoever takes it up again."""
    try:
        with os.scandir(place / "jobs") as entries:
            if any(not entry.name.startswith(".") for entry in entries):
                return True
    except (FileNotFoundError, NotADirectoryError):
        pass
    try:
        return stat.S_ISREG((place / LEDGER).lstat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _ledger(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / LEDGER).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if not isinstance(content["jobs"], list):
        raise TypeError("its jobs are no list")
    return dict(content)


def _facts(folder: Path, ledger: Mapping[str, Any]) -> dict[str, Any]:
    source, image = ledger.get("source") or {}, ledger.get("image") or {}
    delivered, started = ledger.get("delivered") or {}, ledger.get("started")
    # Where the folder was then; it may be reached by another path now.
    then = Path(ledger.get("folder") or folder)
    outputs = {int(row["job"]): Path(row["output_dir"]) for row in ledger["jobs"]}
    outcomes = {int(row["job"]): row["outcome"] for row in ledger["jobs"] if row.get("outcome")}
    return {
        "id": None if ledger.get("sweep") is None else str(ledger["sweep"]),
        "user": None if ledger.get("user") is None else str(ledger["user"]),
        "started": None if started is None else datetime.fromisoformat(started).timestamp(),
        "commits": _texts(source.get("commit"), source.get("parent")),
        "images": _texts(image.get("id"), delivered.get("id")),
        # A file of somebody else's may stand in a repository, and name any folder.
        "outputs": {
            number: folder / path.relative_to(then)
            for number, path in outputs.items()
            if path.is_relative_to(then)
        },
        "outcomes": outcomes,
    }


def _texts(*values: object) -> frozenset[str]:
    return frozenset(str(value) for value in values if value)


# ---- what a killed launcher has left in job folders ----------------------------------------------


def leftovers(states: Iterable[SweepState], user: int | None) -> list[FoundFile]:
    """Return the secrets, and the files with secrets, in the folders of the jobs of sweeps.

    ``user`` is whose (a uid), None: anybody's.
    """
    places = {state.place: state for state in states}
    return [
        file
        for state in places.values()
        if user is None or state.owner == user
        for number, output in state.outputs.items()
        for file in _of_job(state, number, output)
    ]


def _of_job(state: SweepState, number: int, output: Path) -> Iterator[FoundFile]:
    folder, private = state.folder, output / PRIVATE
    for name, secret in (("job.pickle", False), (JobPaths(output).returned.name, True)):
        with suppress(OSError), _opened(folder, private) as handle:
            made = os.stat(name, dir_fd=handle, follow_symlinks=False).st_mtime
            yield FoundFile(state, number, private / name, made, secret=secret)
    with suppress(OSError), _opened(folder, private / "secrets") as handle:
        made = os.fstat(handle).st_mtime
        for name in sorted(os.listdir(handle)):  # noqa: PTH208  (of what is open)
            if _is_written_config(name, handle):
                continue
            yield FoundFile(state, number, private / "secrets" / name, made, secret=True)


def _is_written_config(name: str, secrets: int) -> bool:
    """Tell whether it is the config without secrets, which a container that is kept has mounted."""
    try:
        own = os.stat(name, dir_fd=secrets, follow_symlinks=False)
        return os.path.samestat(own, os.stat(f"../{name}", dir_fd=secrets, follow_symlinks=False))
    except OSError:
        return False


def remove(folder: Path, path: Path) -> None:
    """Remove a file of a job of the sweep in ``folder``, and its folder of secrets once empty.

    Raises ``DockerLauncherError`` where that cannot be.
    """
    try:
        with _opened(folder, path.parent) as handle:
            os.unlink(path.name, dir_fd=handle)
        if path.parent.name == "secrets":
            with suppress(OSError), _opened(folder, path.parent.parent) as handle:
                os.rmdir("secrets", dir_fd=handle)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DockerLauncherError(f"Cannot remove {path}: {error}") from error


@contextmanager
def _opened(folder: Path, place: Path) -> Iterator[int]:
    """Open a folder below that of a sweep. No link is followed: a container may have put it."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in place.relative_to(folder).parts:
            if part == "..":
                raise NotADirectoryError(f"{place} leads out of {folder}")
            inner = os.open(part, _FOLDER, dir_fd=handle)
            os.close(handle)
            handle = inner
        yield handle
    finally:
        os.close(handle)
