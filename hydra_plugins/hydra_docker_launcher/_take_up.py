"""Take up: what has become of the jobs that another process has started.

The ledger tells what was recorded, labels tell which containers there are; between the two, no job
is run twice and none is forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from . import _job_files, _outcome
from ._capacity import GPUS_LABEL
from ._engine import Engine, Found
from ._errors import EngineError
from ._evidence import text
from ._ledger import Ledger
from ._options import LABEL_PREFIX
from ._outcome import End, Outcome
from ._saved import SavedJob
from ._units import small_number

_JOB = f"{LABEL_PREFIX}job"
#: The engine's word for a container that was never started.
CREATED = "created"
_RUNNING = ("running", "paused", "restarting")
_ATTEMPT = f"{LABEL_PREFIX}attempt"


def recorded(row: Mapping[str, Any], result: Path) -> Outcome | None:
    """Return the end of a job that its row of the ledger tells, None where it tells none.

    None too where the return value of a completed job, in the file ``result``, is gone.
    """
    if row.get("outcome") is None:
        return None
    end = End(row["outcome"])
    outcome = Outcome(end, str(row.get("cause")), row.get("exit_code"))
    if end is not End.COMPLETED:
        return outcome
    found = _outcome.read_result(result)
    if found is None or found.get("outcome") != "completed":
        return None
    not_json = found.get("not_json")
    return replace(
        outcome,
        value=found.get("value"),
        not_json=None if not_json is None else text(not_json),
    )


def is_unseen(row: Mapping[str, Any]) -> bool:
    """Tell whether nobody has seen the end that a row tells: its container may run on."""
    return row.get("outcome") == End.LOST.value and row.get("unseen") is True


def is_doubtful(row: Mapping[str, Any], container: Found | None) -> bool:
    """Tell whether a job that its row calls lost is not: the engine has its container after all.

    It runs, by itself or by its restart policy; or it has ended, and nobody has looked how.
    """
    if container is None or row.get("outcome") != End.LOST.value:
        return False
    return is_unseen(row) or container.status in _RUNNING


def containers(engine: Engine, sweep: str, ledger: Ledger) -> dict[int, Found]:
    """Return the container of each job's last attempt, by the jobs' numbers.

    Those of earlier attempts are removed, and so are those that were made and never started
    (``CREATED``): their process was killed in between. Nothing of these stays in the ledger, or
    the next process would take them for containers that have run and are lost.
    """
    found: dict[int, list[Found]] = {}
    for container in engine.containers({f"{LABEL_PREFIX}sweep": sweep, _JOB: None}):
        job = small_number(container.labels[_JOB])
        if job is not None:  # somebody else may have given a container such a label
            found.setdefault(job, []).append(container)
    last = {}
    for job, of_job in found.items():
        *earlier, newest = sorted(of_job, key=lambda one: (_attempt(one), one.created))
        for container in earlier:
            engine.remove(container.id)
        if newest.status == CREATED:
            newest = _without_start(engine, newest, ledger)
        last[job] = newest
    return last


def _without_start(engine: Engine, container: Found, ledger: Ledger) -> Found:
    """Remove a container that was never started; return one as it stands that was, after all.

    The engine may be about to start it, for a process that was killed when it had asked for that.
    It does not remove, then, what it has started.
    """
    state = engine.state(container.id)
    if state is not None and not state.was_started:
        number = int(container.labels[_JOB])
        if ledger.row(number).get("container") == container.id:
            ledger.update(number, container=None, name=None, started=None)
        try:
            engine.discard(container.id)
        except EngineError:
            state = engine.state(container.id)
            if state is not None and not state.was_started:
                raise
        else:
            return container
    if state is None:
        return container
    return replace(container, status="running" if state.running else "exited")


def gone_on(job: SavedJob, row: Mapping[str, Any], container: Found | None) -> SavedJob:
    """Return a job whose end is not recorded, as it goes on: watched, or started (again)."""
    attempts = [
        attempt
        for attempt in row.get("attempts", ())
        if (attempt.get("attempt") or 1) >= job.runnable.attempt
    ]
    runnable = replace(job.runnable, earlier=tuple(End(attempt["outcome"]) for attempt in attempts))
    started = row.get("container") is not None
    if container is not None and container.status == CREATED:
        container, started = None, False
    if container is not None:
        known = row.get("container") == container.id
        runnable = replace(
            runnable,
            container=container.id,
            attempt=_attempt(container),
            started_at=_seconds(row.get("started") if known else None) or container.created,
            overtime=row.get("overtime") == container.id,
            gpus=_gpus(container),
        )
    elif started:  # it was started, and the engine does not know it any more
        runnable = replace(
            runnable,
            container=row["container"],
            attempt=row.get("attempt") or runnable.attempt,
            started_at=_seconds(row.get("started")),
        )
    else:
        runnable = replace(runnable, attempt=runnable.attempt + len(attempts))
    return replace(job, runnable=runnable)


def run_again(job: SavedJob, row: Mapping[str, Any]) -> SavedJob:
    """Return a job that has ended before, to be run once more in the same output folder."""
    attempt = (row.get("attempt") or 0) + 1
    return replace(job, runnable=replace(job.runnable, attempt=attempt))


def clean_up(
    engine: Engine, job: SavedJob, outcome: Outcome, container: Found | None, keep: str
) -> None:
    """Do what a process that was killed has left undone after it had recorded an end."""
    kept = container is not None and is_kept(keep, outcome.end)
    if container is not None and not kept:
        engine.remove(container.id)
    _job_files.remove_private(job.job.paths, mounted=kept)


def is_kept(keep: str, end: End) -> bool:
    """Tell whether the container of a job that has ended so stays (option ``keep``)."""
    return keep == "all" or (keep == "failed" and end not in (End.COMPLETED, End.STOPPED))


def _attempt(container: Found) -> int:
    return small_number(container.labels.get(_ATTEMPT, "")) or 1


def _gpus(container: Found) -> tuple[str, ...]:
    """Return the ids of the GPUs that a container has, where it was given any by id."""
    ids = container.labels.get(GPUS_LABEL, "")
    return () if ids in ("", "all") or ids.isdecimal() else tuple(ids.split(","))


def _seconds(moment: object) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
