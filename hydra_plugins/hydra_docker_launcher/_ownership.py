"""Ownership: whose a sweep is, and jobs that are stopped without its files."""

from __future__ import annotations

import os
import pwd
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from . import _logs, _ps, _sweep_folder, _team
from ._engine import Engine, Found
from ._errors import EngineError, SweepError
from ._harmless import one_line
from ._ps import ACTIVE, FOLDER, SWEEP, USER, By, Told


@dataclass(frozen=True, slots=True)
class Owner:
    """A user, by name and by number, as far as they are known."""

    name: str | None
    uid: int | None

    def __str__(self) -> str:
        if self.uid is None:
            return str(self.name)
        return f"{self.name or _name(self.uid)} (uid {self.uid})"


#: Whoever may keep others from looking into a folder.
SOMEBODY_ELSE = Owner("somebody else", None)


def check(folder: Path, me: Owner, *, doing: str) -> None:
    """Raise ``SweepError`` where the sweep in ``folder``, which is not over, is somebody else's."""
    owner = owner_of(folder)
    if owner is not None and not _is_same(owner, me):
        raise SweepError(
            f"The sweep in {folder} is {owner}'s, and you are {me}. "
            f"--others says to {doing} it all the same."
        )


def owner_of(folder: Path) -> Owner | None:
    """Return whose the sweep in ``folder`` is, None of one that is over.

    The files tell the number, the sweep itself the name: several people may share a number.
    """
    try:
        paths = _sweep_folder.find(folder)
        if paths is None:
            return None
        uid = paths.private.stat().st_uid
    except FileNotFoundError:  # it has just come to its end
        return None
    except PermissionError:
        return SOMEBODY_ELSE
    told = _team.told_by(folder)
    return Owner(None if told is None else told.user, uid)


def is_writable(folder: Path) -> bool:
    """Tell whether this user can take up the sweep in ``folder``."""
    try:
        paths = _sweep_folder.find(folder)
    except PermissionError:
        return False
    return paths is None or os.access(paths.private, os.R_OK | os.W_OK | os.X_OK)


def stop_containers(
    engine: Engine, folder: Path, jobs: Collection[int] = (), *, me: Owner | None
) -> list[int]:
    """Stop the containers that run jobs of the sweep in ``folder``; return the jobs' numbers.

    Each gets its own time between SIGTERM and SIGKILL. Who looks after the sweep records it.
    ``jobs`` empty: all that run. ``me`` None: whoever they are of. Raises ``SweepError`` where one
    of ``jobs`` does not run, or, before any is stopped, where a container is not one's own.
    """
    told = _team.told_by(folder)
    running: dict[int, list[Found]] = {}
    # By its id: the folder may be reached by several paths.
    labels = {FOLDER: str(folder), SWEEP: None} if told is None else {SWEEP: told.id}
    for container in engine.containers(labels):
        number = _ps.job_of(container)
        if number is not None and container.status in ACTIVE:
            running.setdefault(number, []).append(container)
    for number in jobs:
        if number not in running:
            raise SweepError(_why_not(number, told))
    wanted = sorted(set(jobs) or running)
    containers = [container for number in wanted for container in running[number]]
    if me is not None:
        for container in containers:
            _check_container(container, me, told)
    stopped = _team.each(lambda container: _stop(engine, container), containers)
    refused = [error for error in stopped if error is not None]
    if refused:
        raise refused[0]
    return wanted


def _check_container(container: Found, me: Owner, told: Told | None) -> None:
    """Raise ``SweepError`` where a container is somebody else's, as its own label says.

    The folder may be on another machine, or be gone, and then tells nobody whose it is.
    """
    user = container.labels.get(USER)
    if user == me.name or (user is None and told is not None):
        return
    owner = f"{one_line(user)}'s" if user is not None else "nobody's that could be told"
    raise SweepError(
        f"The container {one_line(container.name)} is {owner}, and you are {me}. "
        "--others says to stop it all the same."
    )


def _stop(engine: Engine, container: Found) -> EngineError | None:
    try:
        grant = engine.grant(container.id)
        if grant is not None:
            engine.stop(container.id, grant.grace)
    except EngineError as error:
        return error
    return None


def _why_not(number: int, told: Told | None) -> str:
    if told is None:
        return f"Job #{number} has no container that runs"
    rows = {row.number: row for row in told.rows}
    _logs.check_jobs([number], rows)
    outcome = rows[number].outcome
    if outcome is not None:
        return f"Job #{number} has ended already: {outcome}"
    return (
        f"Job #{number} has no container that runs. One that waits for its turn can only be "
        "stopped with the whole sweep: leave the numbers out"
    )


def says_who_records(folder: Path) -> str | None:
    """Say what is left to be done where nobody records that a job was stopped."""
    told = _team.told_by(folder)
    if told is None or told.looked_after.by is not By.NOBODY:
        return None
    return f"Nobody looks after the sweep, to record it: hydra-docker attach {folder}"


def _is_same(owner: Owner, me: Owner) -> bool:
    return owner.uid in (None, me.uid) and owner.name in (None, me.name)


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
