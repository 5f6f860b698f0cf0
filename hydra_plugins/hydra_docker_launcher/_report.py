"""Report: what a repeated run has in common with the one of then, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from . import _compare
from ._compare import Line
from ._errors import DockerLauncherError
from ._outcome import End
from ._past_job import PastJob, past_jobs
from ._reproduce import Again
from ._tracking import History

LONGEST = 40  # characters of a value in a line


@dataclass(frozen=True, slots=True)
class Reported:
    """A repeated job with its new run as it was read back; ``why_not`` says why it was not."""

    again: Again
    now: PastJob | None
    why_not: str = ""


def read_back(jobs: Sequence[Again], history: History) -> list[Reported]:
    """Read the new runs of the jobs. What cannot be read is no reason to lose the report."""
    return [_read_back(job, history) for job in jobs]


def report(reported: Sequence[Reported]) -> str:
    """Say of every job what was the same, what was not, with the metrics of both runs."""
    blocks = [_block(job) for job in reported]
    if len(reported) > 1:
        blocks.append(_summary(reported))
    return "\n\n".join(blocks)


def _read_back(job: Again, history: History) -> Reported:
    if job.run_id is None:
        return Reported(job, None, "it was not recorded")
    try:
        (now,) = past_jobs(history, history.run(job.run_id))
    except DockerLauncherError as error:
        return Reported(job, None, str(error).splitlines()[0])
    return Reported(job, now)


def _block(reported: Reported) -> str:
    job, now = reported.again, reported.now
    record = job.past.record
    lines = [
        f"job #{record.number} ({' '.join(record.overrides) or 'no overrides'}): {_end(job)}",
        f"  run then  {job.past.run.id}",
    ]
    if now is None:
        remarks = [f"  remark    {remark}" for remark in job.remarks]
        return "\n".join([*lines, *remarks, f"  Nothing is compared: {reported.why_not}"])
    data = _compare.data(job.past, now)
    compared = [
        *_compare.compare(job.past, now),
        *(item for item in data if isinstance(item, Line)),
    ]
    same = [_named(line) for line in compared if line.same]
    unknown = [line.what for line in compared if line.unknown]
    lines += [
        f"  run now   {now.run.id}",
        *([f"  same      {', '.join(same)}"] if same else []),
        *(
            f"  differs   {line.what}: {_short(line.then)} then, {_short(line.now)} now"
            for line in compared
            if not line.same and not line.unknown
        ),
        *(f"  data      {item}" for item in data if isinstance(item, str)),
        *([f"  unknown   {', '.join(unknown)}: not written down"] if unknown else []),
        *(f"  remark    {remark}" for remark in job.remarks),
        *_table(_compare.metrics(job.past, now)),
    ]
    return "\n".join(lines)


def _summary(reported: Sequence[Reported]) -> str:
    completed = sum(job.again.outcome.end is End.COMPLETED for job in reported)
    same = sum(
        _compare.same_metrics(_compare.metrics(job.again.past, job.now))
        for job in reported
        if job.now is not None
    )
    return f"{completed} of {len(reported)} completed; metrics the same in {same}"


def _end(job: Again) -> str:
    outcome = job.outcome
    end = outcome.end.value
    return end if outcome.end is End.COMPLETED else f"{end}: {_short(outcome.cause, 200)}"


def _named(line: Line) -> str:
    """Return what is the same; of many parts, how many there are."""
    if not (line.then or "").isdigit():
        return line.what
    return f"{line.then} {line.what.removesuffix('s') if line.then == '1' else line.what}"


def _table(metrics: Sequence[Line]) -> list[str]:
    if not metrics:
        return ["  no metrics in either run"]
    rows = [("metric", "then", "now", "")]
    rows += [
        (line.what, str(line.then), str(line.now), "same" if line.same else "differs")
        for line in metrics
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  " + "  ".join((*map(str.ljust, row[:3], widths), row[3])).rstrip() for row in rows]


def _short(text: str | None, longest: int = LONGEST) -> str:
    line = (text or "").replace("\n", " ")
    return line if len(line) <= longest else f"{line[: longest - 1]}…"
