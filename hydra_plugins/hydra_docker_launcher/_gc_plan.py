"""What may go and what stays, of containers, files of jobs, hidden refs and caches. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from . import _plan
from ._engine import Found
from ._options import LABEL_PREFIX
from ._tickets import Place
from ._units import show_age, small_number

SWEEP, USER, JOB = f"{LABEL_PREFIX}sweep", f"{LABEL_PREFIX}user", f"{LABEL_PREFIX}job"
COMMIT, FOLDER = f"{LABEL_PREFIX}commit", f"{LABEL_PREFIX}folder"
#: Seconds. What a killed launcher may have left, and one that lives makes in a moment.
GRACE = 3600.0
RUNNING = ("running", "restarting", "paused")
KINDS = ("containers", "images", "tickets", "refs", "caches", "secrets")


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing that was found: whether it may go, and why or why not.

    ``keys`` are what it is removed by, ``age`` is in seconds, ``size`` in bytes (None: not known,
    or of no weight). ``folder`` is that of its sweep, where it has one.
    """

    kind: str
    name: str
    goes: bool
    why: str
    age: float | None = None
    size: int | None = None
    keys: tuple[str, ...] = ()
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked for. Times in seconds; ``now`` since the epoch.

    ``user`` is whose things may go (None: everybody's), ``folders`` are the sweeps that it is
    restricted to (none: all of them), without links.
    """

    now: float
    older_than: float
    refs_older_than: float
    user: str | None = None
    folders: tuple[Path, ...] = ()


class Standing(Enum):
    """How a sweep stands, by its folder."""

    IN_PROGRESS = "in progress"
    #: No process looks after it, and not all of it is recorded.
    UNSETTLED = "unsettled"
    OVER = "over"
    GONE = "gone"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SweepState:
    """A sweep, as its folder tells. ``detail`` says why a standing is unknown.

    ``folder`` is as labels have it, ``place`` the same without links.
    ``outputs`` are the output folders of its jobs, ``images`` the ids of what it ran; ``started``
    in seconds since the epoch. ``owner`` is the uid that the folder belongs to, ``user`` who has
    launched it.
    """

    folder: Path
    place: Path
    standing: Standing
    detail: str = ""
    id: str | None = None
    started: float | None = None
    owner: int | None = None
    user: str | None = None
    commits: frozenset[str] = frozenset()
    images: frozenset[str] = frozenset()
    outputs: Mapping[int, Path] = field(default_factory=dict)
    outcomes: Mapping[int, str] = field(default_factory=dict)

    @property
    def obstacle(self) -> str | None:
        """Why nothing of the sweep may be removed; None: it may."""
        if self.standing is Standing.IN_PROGRESS:
            return "its sweep is in progress"
        if self.standing is Standing.UNSETTLED:
            return f"its sweep is not all recorded: hydra-docker attach {self.folder}"
        if self.standing is Standing.UNKNOWN:
            return self.detail
        return None


# ---- containers ----------------------------------------------------------------------------------


def is_job(container: Found) -> bool:
    """Tell whether a container is that of a job.

    Labels alone do not tell: a container inherits those of its image, and so does an image that
    somebody commits from a container.
    """
    labels = container.labels
    if not {SWEEP, FOLDER} <= set(labels) or small_number(labels.get(JOB, "")) is None:
        return False
    end = _plan.container_name("", Path(labels[FOLDER]).name, 0).removeprefix("job")[:-1]
    ending = rf"{re.escape(end + labels[JOB])}(-[0-9a-f]{{1,8}}){{0,2}}$"
    return re.search(ending, container.name) is not None


def is_short_lived(container: Found) -> bool:
    return _plan.SHORT_LIVED.fullmatch(container.name) is not None


def containers(
    found: Iterable[Found],
    ended: Mapping[str, float],
    sweeps: Mapping[Path, SweepState],
    terms: Terms,
) -> list[Thing]:
    """Judge the containers of this project. ``ended`` says when one has, by its id."""
    things = []
    for container in found:
        if not is_asked_for(container.labels, terms):
            continue
        age = max(0.0, terms.now - ended.get(container.id, container.created))
        if is_job(container):
            state = sweeps[Path(container.labels[FOLDER])]
            if terms.folders and state.place not in terms.folders:
                continue
            goes, why = _job(container, state, age, terms)
        elif is_short_lived(container) and not terms.folders:
            state = None
            goes, why = _short_lived(container, age)
        else:
            continue
        keys, folder = (container.id,), state.folder if state else None
        things.append(Thing("containers", container.name, goes, why, age, None, keys, folder))
    return things


def is_asked_for(labels: Mapping[str, str], terms: Terms) -> bool:
    """Tell whether a thing belongs to the user in question; one without an owner is anybody's."""
    return terms.user is None or labels.get(USER, terms.user) == terms.user


def _job(container: Found, state: SweepState, age: float, terms: Terms) -> tuple[bool, str]:
    if container.status in RUNNING:
        if state.standing is Standing.IN_PROGRESS:
            return False, "runs"
        return False, (
            f"runs, and no launcher looks after it: hydra-docker attach {state.folder}, "
            f"or docker stop {container.name}"
        )
    if state.obstacle is not None:
        return False, state.obstacle
    if container.status == "created":
        return (True, "was never started") if age >= GRACE else (False, _younger(GRACE))
    if age < terms.older_than:
        return False, _younger(terms.older_than)
    if state.standing is Standing.GONE:
        return True, "its sweep's folder is gone"
    number = small_number(container.labels[JOB])
    outcome = None if number is None else state.outcomes.get(number)
    return True, f"its job is over: {outcome}" if outcome else "its sweep is over"


def _short_lived(container: Found, age: float) -> tuple[bool, str]:
    if container.status in RUNNING:
        return False, "runs"
    if age < GRACE:
        return False, _younger(GRACE)
    return True, "left behind by a launcher that was killed"


def _younger(limit: float) -> str:
    return f"younger than {show_age(limit)}"


# ---- tickets -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundTicket:
    """What a launcher keeps on the engine to start a job; ``left``: that launcher is gone.

    ``age`` in seconds since it was renewed.
    """

    place: Place
    left: bool
    age: float


def tickets(
    found: Iterable[FoundTicket], sweeps: Mapping[Path, SweepState], terms: Terms
) -> list[Thing]:
    """Judge tickets. One that is left counts for nothing, however young it is."""
    folders = {state.folder for state in sweeps.values() if state.place in terms.folders}
    things = []
    for ticket in found:
        place = ticket.place
        if terms.user is not None and place.user not in ("", terms.user):
            continue
        if terms.folders and Path(place.folder) not in folders:
            continue
        why = "its launcher is gone" if ticket.left else "its launcher is there"
        things.append(
            Thing("tickets", place.name, ticket.left, why, ticket.age, keys=(place.name,))
        )
    return things


# ---- files of jobs -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file that only a job needs that runs. ``made`` in seconds since the epoch.

    ``secret``: from its folder of secrets; ``job.pickle`` has the config without them.
    """

    sweep: SweepState
    job: int
    path: Path
    made: float
    secret: bool


def files(
    found: Iterable[FoundFile],
    left: Sequence[Found],
    sweeps: Mapping[Path, SweepState],
    terms: Terms,
) -> list[Thing]:
    """Judge what launchers that were killed have left. ``left`` are the containers that stay."""
    by_job: dict[tuple[Path, int], list[Found]] = {}
    for container in left:
        labels = container.labels
        number = small_number(labels.get(JOB, ""))
        if FOLDER in labels and number is not None:  # whatever it is called by now
            place = sweeps[Path(labels[FOLDER])].place
            by_job.setdefault((place, number), []).append(container)
    things = []
    for file in found:
        state = file.sweep
        if terms.folders and state.place not in terms.folders:
            continue
        if terms.user is not None and state.user not in (None, terms.user):
            continue
        age = max(0.0, terms.now - file.made)
        goes, why = _file(file, by_job.get((state.place, file.job), []), age)
        name, keys = str(file.path), (str(file.path),)
        things.append(Thing("secrets", name, goes, why, age, None, keys, state.folder))
    return things


def _file(file: FoundFile, containers: Sequence[Found], age: float) -> tuple[bool, str]:
    state = file.sweep
    needed = any(container.status not in ("exited", "dead") for container in containers)
    if state.standing in (Standing.IN_PROGRESS, Standing.UNKNOWN):
        return False, state.obstacle or ""
    if needed:
        return False, "its container needs it"
    if not file.secret and state.obstacle is not None:
        return False, state.obstacle
    if not file.secret and containers:
        return False, "its container has it mounted"
    if age < GRACE:
        return False, _younger(GRACE)
    return True, "its job is over" if state.obstacle is None else "no container needs it"


# ---- hidden refs ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundRef:
    """A hidden ref of a repository. ``made`` in seconds since the epoch, None: not known."""

    repository: Path
    ref: str
    commit: str
    made: float | None


def refs(found: Iterable[FoundRef], named: Mapping[str, str], terms: Terms) -> list[Thing]:
    """Judge hidden refs. ``named`` are the commits that something names, and what that is."""
    things = []
    for ref in found:
        age = None if ref.made is None else max(0.0, terms.now - ref.made)
        if ref.commit in named:
            goes, why = False, named[ref.commit]
        elif age is None:
            goes, why = False, "git does not tell when it was made"
        elif age < terms.refs_older_than:
            goes, why = False, _younger(terms.refs_older_than)
        else:
            goes, why = True, "no sweep that is found here names it"
        kind, _, commit = ref.ref.removeprefix("refs/hydra-docker/").partition("/")
        keys = (str(ref.repository), ref.ref, ref.commit)
        name = f"{kind}/{commit[:12]} in {ref.repository}"
        things.append(Thing("refs", name, goes, why, age, None, keys))
    return things


# ---- caches --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FoundCache:
    """A file or folder of a cache. ``used`` in seconds since the epoch, ``size`` in bytes.

    ``needed`` says what it is still good for, None: for nothing but to be had once more.
    """

    path: Path
    name: str
    used: float
    size: int
    what: str
    needed: str | None = None


def caches(found: Iterable[FoundCache], terms: Terms) -> list[Thing]:
    limit = max(GRACE, terms.older_than)
    things = []
    for cache in found:
        age = max(0.0, terms.now - cache.used)
        if cache.needed is not None:
            goes, why = False, cache.needed
        elif age < limit:
            goes, why = False, _younger(limit)
        else:
            goes, why = True, cache.what
        keys = (str(cache.path),)
        things.append(Thing("caches", cache.name, goes, why, age, cache.size, keys))
    return things
