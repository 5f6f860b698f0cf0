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
from ._evidence import text
from ._options import LABEL_PREFIX
from ._outcome import End, Outcome
from ._saved import SavedJob

_JOB = f"{LABEL_PREFIX}job"
#: The engine's word for a container that was never started.
CREATED = "created"
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


def containers(engine: Engine, sweep: str) -> dict[int, Found]:
    """Return the container of each job's last attempt, by the jobs' numbers.

    Those of earlier attempts are removed, and so are those that were made and never started
    (``CREATED``): their process was killed in between.
    """
    found: dict[int, list[Found]] = {}
    for container in engine.containers({f"{LABEL_PREFIX}sweep": sweep, _JOB: None}):
        found.setdefault(int(container.labels[_JOB]), []).append(container)
    last = {}
    for number, of_job in found.items():
        *earlier, newest = sorted(of_job, key=lambda one: (_attempt(one), one.created))
        last[number] = newest
        for container in (*earlier, *([newest] if newest.status == CREATED else ())):
            engine.remove(container.id)
    return last


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
    text = container.labels.get(_ATTEMPT, "1")
    return int(text) if text.isdigit() else 1


def _gpus(container: Found) -> tuple[str, ...]:
    """Return the ids of the GPUs that a container has, where it was given any by id."""
    ids = container.labels.get(GPUS_LABEL, "")
    return () if ids in ("", "all") or ids.isdecimal() else tuple(ids.split(","))


def _seconds(moment: object) -> float | None:
    return datetime.fromisoformat(moment).timestamp() if isinstance(moment, str) else None
