"""Team: the sweeps of everybody on this engine, as its labels and their folders tell."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from . import _admission, _ps, _shortage, _sweep_folder
from ._capacity import Machine
from ._engine import Engine, Found, FoundImage, Host
from ._errors import EngineError, SweepError
from ._harmless import one_line
from ._ledger import MISREAD
from ._paths import SweepPaths
from ._ps import (
    ACTIVE,
    FOLDER,
    NO_GRANT,
    SHORT,
    SWEEP,
    USER,
    By,
    Held,
    LookedAfter,
    Report,
    Row,
    Told,
    Trace,
    Wait,
)
from ._units import small_number

AT_ONCE = 64  # containers that the engine is asked about at the same time
LARGEST = 64 * 1024**2  # bytes of a ledger that is read
MOST_JOBS = 10**9
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class View:
    """What is to be seen: of whom (None: of everybody), what they use, and past sweeps too."""

    user: str | None = None
    use: bool = True
    past: bool = False


def survey(engine: Engine, view: View, now: float) -> Report:
    """Return what runs on an engine. ``now`` in seconds since the epoch."""
    host = engine.host()
    found = engine.containers({})
    local = host.name == os.uname().nodename
    traces = [
        replace(trace, layer=trace.layer and not _is_gone(trace.folder, local=local))
        for trace in _traces(found, engine.images({SWEEP: None}))
    ]
    waits, obstacle = _waits(engine, host, view.user)
    told = {trace.id: told_by(Path(trace.folder), trace.id) for trace in traces}
    listed = [
        trace
        for trace in traces
        if view.user in (None, trace.user)
        if _ps.is_listed(trace, told[trace.id], past=view.past)
    ]
    active = [one for one in found if one.status in ACTIVE]
    held = dict(
        zip(
            (one.id for one in active),
            each(lambda one: _held(engine, one, use=view.use), active),
            strict=True,
        )
    )
    rows = [
        _ps.row(
            replace(trace, held=_present(held[item.found.id] for item in trace.held)),
            told[trace.id],
            now,
            waits,
        )
        for trace in listed
    ]
    strangers = (held[one.id] for one in active if SWEEP not in one.labels)
    others = [one for one in _present(strangers) if _runs(one.found)]
    return _ps.report(host, rows, others, waits, obstacle)


def _waits(engine: Engine, host: Host, user: str | None) -> tuple[list[Wait], str | None]:
    """Return who waits for room on the engine, or why that cannot be told."""
    try:
        view, now = _admission.watch(engine, Machine.of(host, ()))
    except EngineError as error:  # an engine may forbid to list volumes, which tickets are
        return [], str(error)
    return [
        Wait(
            sweep=place.promise.sweep or "",
            user=place.user,
            folder=place.folder,
            job=small_number(place.attempt[1] or ""),
            waited_s=max(0.0, now - place.since),
            wanted=_shortage.wish(view.machine, place.promise),
            reason=_admission.reason(view, place),
        )
        for place in view.places
        if not place.admitted and user in (None, place.user)
    ], None


def each(ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Return the answers about several items, asked for side by side."""
    with ThreadPoolExecutor(max_workers=AT_ONCE) as pool:
        return list(pool.map(ask, items))


def _held(engine: Engine, found: Found, *, use: bool) -> Held | None:
    grant = engine.grant(found.id)
    if grant is None:  # it has gone meanwhile
        return None
    return Held(found, grant, engine.use(found.id) if use and _runs(found) else None)


def _runs(found: Found) -> bool:
    return found.status != "created"


def _present(held: Iterable[Held | None]) -> tuple[Held, ...]:
    return tuple(one for one in held if one is not None)


def _traces(found: Iterable[Found], images: Iterable[FoundImage]) -> list[Trace]:
    """Return the sweeps that containers and images belong to, as their labels say."""
    traces: dict[str, Trace] = {}

    def of(labels: Mapping[str, str], since: float) -> Trace:
        known = traces.get(labels[SWEEP]) or Trace(
            labels[SWEEP], labels.get(USER, ""), labels.get(FOLDER, ""), since
        )
        return replace(known, since=min(known.since, since))

    for container in found:
        if SWEEP in container.labels:
            trace = of(container.labels, container.created)
            job = _ps.job_of(container)
            if container.status in ACTIVE:
                trace = replace(trace, held=(*trace.held, Held(container, NO_GRANT)))
            elif job is not None:
                trace = replace(trace, ended=trace.ended | {job})
            traces[trace.id] = trace
    for image in images:
        if _is_layer(image):
            trace = of(image.labels, image.created)
            traces[trace.id] = replace(trace, layer=True)
    return list(traces.values())


def _is_layer(image: FoundImage) -> bool:
    """Tell whether an image is the one that a sweep has for itself alone, by its name."""
    end = re.compile(rf":[0-9a-f]{{12}}-{re.escape(image.labels[SWEEP][-SHORT:])}")
    return any(end.search(name) for name in image.names)


def _is_gone(folder: str, *, local: bool) -> bool:
    """Tell whether nothing can go on in a sweep's folder. ``local``: the engine's machine is ours.

    The image of a sweep that was killed stays when its folder is removed.
    """
    if not folder:
        return True
    try:
        os.lstat(folder)
    except FileNotFoundError:
        return local
    except (OSError, ValueError):
        pass
    return False


# ---- what a folder tells -------------------------------------------------------------------------


def told_by(folder: Path, sweep: str | None = None) -> Told | None:
    """Return what a sweep's folder tells, None where it cannot be read here.

    None too where it is the folder of another sweep than ``sweep``, here or by now.
    """
    if not folder.is_absolute():
        return None
    try:
        ledger = _ledger(SweepPaths(folder).ledger)
        if sweep is not None and ledger["sweep"] != sweep:
            return None
        rows = tuple(_row(row) for row in ledger["jobs"])
        started = _seconds(ledger.get("started"))
        paths = _sweep_folder.find(folder)
    except (OSError, *MISREAD):
        return None  # anybody may have written it
    return Told(
        id=str(ledger["sweep"]),
        open=paths is not None,
        started=started,
        user=None if ledger.get("user") is None else one_line(str(ledger["user"])),
        rows=rows,
        looked_after=LookedAfter(By.OVER) if paths is None else _looked_after(paths),
    )


def _ledger(path: Path) -> dict[str, Any]:
    """Read a ledger, which may be somebody else's: no pipe is waited for, no link followed."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        os.close(handle)
        raise ValueError("is no ledger")
    with os.fdopen(handle, "rb") as file:
        return dict(json.loads(file.read(LARGEST)))


def _row(row: Mapping[str, Any]) -> Row:
    outcome, number = row["outcome"], row["job"]
    if not isinstance(number, int) or not 0 <= number < MOST_JOBS:
        raise ValueError("is no number of a job")
    return Row(
        number=number,
        outcome=None if outcome is None else one_line(str(outcome)),
        started=_seconds(row.get("started")),
    )


def _seconds(moment: object) -> float | None:
    """Return the seconds since the epoch of the ledger's times, and of the engine's."""
    if not isinstance(moment, str):
        return None
    whole = re.sub(r"\.\d+", "", moment).replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp()


def _looked_after(paths: SweepPaths) -> LookedAfter:
    try:
        if not stat.S_ISREG(paths.lock.lstat().st_mode):
            return LookedAfter()
        keeper = _sweep_folder.keeper(paths)
    except FileNotFoundError:
        return LookedAfter(By.NOBODY)
    except OSError:
        return LookedAfter()
    if keeper is None:
        return LookedAfter(By.NOBODY)
    by = By.BACKGROUND if keeper.background else By.FOREGROUND
    return LookedAfter(by, keeper.pid or None, keeper.host or None)


# ---- one sweep of them ---------------------------------------------------------------------------


def folder_of(name: str, make_engine: Callable[[], Engine]) -> Path:
    """Return the folder of a sweep: a path, or what ``ps`` and ``docker ps`` show of it.

    That is its id, the end of that, or the beginning of a container's name. Raises ``SweepError``
    where there is no such sweep, or more than one.
    """
    path = Path(name)
    if "/" in name or name in (".", "..") or path.exists():
        return path.resolve()
    engine = make_engine()
    found: dict[str, str] = {}
    for container in engine.containers({SWEEP: None}):
        labels = container.labels
        if labels[SWEEP].endswith(name) or container.name.startswith(name):
            found[labels[SWEEP]] = labels.get(FOLDER, "")
    for image in engine.images({SWEEP: None}):
        if image.labels[SWEEP].endswith(name) and _is_layer(image):
            found[image.labels[SWEEP]] = image.labels.get(FOLDER, "")
    folders = sorted(set(filter(None, found.values())))
    if len(folders) == 1:
        return Path(folders[0])
    if folders:
        lines = "\n".join(f"  {folder}" for folder in folders)
        raise SweepError(f"Several sweeps are called {name}. Name the folder of one:\n{lines}")
    raise SweepError(
        f"There is no folder {name} here, and no sweep of that name on this engine. "
        "hydra-docker ps --all lists them."
    )
