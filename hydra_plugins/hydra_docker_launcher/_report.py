"""Report: what a repeated run has in common with the one of then, as text."""

from __future__ import annotations

from collections.abc import Sequence

from . import _compare
from ._compare import Line
from ._past_job import past_jobs
from ._reproduce import Again
from ._tracking import History

LONGEST = 40  # characters of a value in a table


def report(job: Again, history: History) -> str:
    """Say what was the same, what was not, and put the metrics of both runs side by side."""
    title = f"job #{job.past.record.number} ({' '.join(job.past.record.overrides)})"
    if job.run_id is None:
        return f"\n{title} {job.outcome.end.value}; it was not recorded, so nothing is compared"
    (now,) = past_jobs(history, job.run_id)
    lines = _compare.compare(job.past, now)
    same = ", ".join(line.what for line in lines if line.same)
    differs = [line for line in lines if not line.same]
    parts = [
        f"\n{title} {job.outcome.end.value}",
        f"  run then  {job.past.run.id}",
        f"  run now   {now.run.id}",
        f"  same      {same}",
        *(
            f"  differs   {line.what}: {_short(line.then)} then, {_short(line.now)} now"
            for line in differs
        ),
        *_table(_compare.metrics(job.past, now)),
    ]
    return "\n".join(parts)


def _table(metrics: Sequence[Line]) -> list[str]:
    if not metrics:
        return []
    rows = [("metric", "then", "now", "")]
    rows += [
        (line.what, line.then, line.now, "same" if line.same else "differs") for line in metrics
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  " + "  ".join((*map(str.ljust, row[:3], widths), row[3])).rstrip() for row in rows]


def _short(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
