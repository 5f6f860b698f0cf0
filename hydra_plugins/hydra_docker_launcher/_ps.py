"""Ps: the sweeps on an engine, as one table and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from ._engine import Found, Grant, Host, Use
from ._harmless import one_line
from ._options import LABEL_PREFIX
from ._outcome import End
from ._units import show_age, show_size, small_number

SWEEP, USER, JOB = f"{LABEL_PREFIX}sweep", f"{LABEL_PREFIX}user", f"{LABEL_PREFIX}job"
FOLDER = f"{LABEL_PREFIX}folder"
#: Docker's words for containers that hold what they were given; one is just being started.
ACTIVE = ("created", "running", "restarting", "paused")
#: Of a container that the engine was not asked about.
NO_GRANT = Grant()
UNKNOWN = "?"
SHORT = 6  # the last digits of a sweep's id, which tell it from others
WAITS = 10  # jobs that wait and are shown below the table
HINTS = 3  # sweeps that nobody looks after and that are named below the table
FOLDER_WIDTH = 16  # a folder that is cut shorter says nothing
LONGEST = 12  # characters of a user's name


class By(Enum):
    """Who looks after a sweep."""

    FOREGROUND = "foreground"
    BACKGROUND = "background"
    NOBODY = "nobody"
    #: Nothing is left to be done.
    OVER = "over"
    #: Its folder cannot be read here.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LookedAfter:
    """Who looks after a sweep: a process of ``host``."""

    by: By = By.UNKNOWN
    pid: int | None = None
    host: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """A job, as the ledger has it. Times in seconds since the epoch."""

    number: int
    outcome: str | None
    started: float | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """What a sweep's folder tells. ``open``: it is not over and recorded."""

    id: str
    open: bool
    started: float | None
    user: str | None
    rows: tuple[Row, ...]
    looked_after: LookedAfter = LookedAfter()


@dataclass(frozen=True, slots=True)
class Held:
    """A container that holds what the engine has granted it. ``use`` None: not measured."""

    found: Found
    grant: Grant
    use: Use | None = None


@dataclass(frozen=True, slots=True)
class Trace:
    """A sweep as labels tell it. ``since`` is in seconds since the epoch.

    ``layer``: the image is there that it has for itself alone until it is over.
    """

    id: str
    user: str
    folder: str
    since: float
    held: tuple[Held, ...] = ()
    #: Jobs whose containers have ended and are still there.
    ended: frozenset[int] = frozenset()
    layer: bool = False


@dataclass(frozen=True, slots=True)
class Jobs:
    """How many jobs stand how; None where only the sweep's folder could tell.

    ``failed`` have ended and did not complete. ``unrecorded`` have ended, and nobody was there to
    record it.
    """

    running: int
    waiting: int | None = None
    completed: int | None = None
    failed: int | None = None
    unrecorded: int | None = None
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Amount:
    """CPUs, bytes of memory and GPUs of several containers.

    ``gpus`` -1: all of them. ``unlimited`` containers have no limit of CPUs or of memory, and are
    not in the sums of what they have no limit of.
    """

    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0
    unlimited: int = 0


@dataclass(frozen=True, slots=True)
class Wait:
    """A job that waits for room on the engine, as its ticket tells; ``job`` None: a preflight.

    ``wanted`` and ``reason`` are in words: what it asks for, and who has what there is too little
    of. Seconds.
    """

    sweep: str
    user: str
    folder: str
    job: int | None
    waited_s: float
    wanted: str
    reason: str


@dataclass(frozen=True, slots=True)
class SweepRow:
    """One sweep. ``waiting_s``: how long its next job has waited, by its ticket.

    Without a ticket: how long ago it has started a job, where others wait for that.
    """

    sweep: str
    user: str
    folder: str
    started: float
    age_s: float
    jobs: Jobs
    promised: Amount
    used: Use | None
    waiting_s: float | None
    looked_after: LookedAfter
    containers: tuple[str, ...]

    @property
    def short(self) -> str:
        return self.sweep[-SHORT:]


@dataclass(frozen=True, slots=True)
class Others:
    """The running containers that are no jobs of a sweep."""

    containers: int
    promised: Amount
    used: Use | None


@dataclass(frozen=True, slots=True)
class Report:
    """All that runs on an engine."""

    host: Host
    sweeps: tuple[SweepRow, ...]
    others: Others
    waits: tuple[Wait, ...] = ()
    #: Why nobody can say who waits.
    obstacle: str | None = None


# ---- what it is made from ------------------------------------------------------------------------


def row(trace: Trace, told: Told | None, now: float, waits: Iterable[Wait] = ()) -> SweepRow:
    """Return the row of a sweep; ``told`` None: its folder cannot be read here."""
    waited = [wait.waited_s for wait in waits if wait.sweep == trace.id]
    started = trace.since if told is None or told.started is None else told.started
    jobs = _jobs(trace, told)
    waiting_s = _waiting(told, started, now) if told is not None and jobs.waiting else None
    return SweepRow(
        sweep=trace.id,
        user=trace.user,
        folder=trace.folder,
        started=started,
        age_s=max(0.0, now - started),
        jobs=jobs,
        promised=promised(trace.held),
        used=used(trace.held),
        waiting_s=max(waited) if waited else waiting_s,
        looked_after=LookedAfter() if told is None else told.looked_after,
        containers=tuple(sorted(held.found.name for held in trace.held)),
    )


def is_listed(trace: Trace, told: Told | None, *, past: bool) -> bool:
    """Tell whether a sweep is listed; with ``past`` those that are over too."""
    if past or trace.held:
        return True
    return trace.layer if told is None else told.open


def report(
    host: Host,
    sweeps: Iterable[SweepRow],
    others: Sequence[Held],
    waits: Iterable[Wait] = (),
    obstacle: str | None = None,
) -> Report:
    """Return all of it: by user, and of each the oldest sweep first."""
    return Report(
        host,
        tuple(sorted(sweeps, key=lambda found: (found.user, found.started, found.sweep))),
        Others(len(others), promised(others), used(others)),
        tuple(sorted(waits, key=lambda wait: -wait.waited_s)),
        obstacle,
    )


def promised(held: Iterable[Held]) -> Amount:
    """Return what containers may use together."""
    grants = [item.grant for item in held]
    counts = [-1 if grant.gpus.all else grant.gpus.count + len(grant.gpus.ids) for grant in grants]
    return Amount(
        cpus=sum(grant.cpus for grant in grants),
        memory=sum(grant.memory for grant in grants),
        gpus=-1 if -1 in counts else sum(counts),
        unlimited=sum(not (grant.cpus and grant.memory) for grant in grants),
    )


def used(held: Iterable[Held]) -> Use | None:
    """Return what containers use together, as far as it was measured; None: it was not."""
    uses = [item.use for item in held if item.use is not None]
    if not uses:
        return None
    return Use(sum(use.cpus for use in uses), sum(use.memory for use in uses))


def _jobs(trace: Trace, told: Told | None) -> Jobs:
    running = {job for held in trace.held if (job := job_of(held.found)) is not None}
    if told is None:
        return Jobs(running=len(running))
    left = {row.number for row in told.rows if row.outcome is None} - running
    completed = sum(row.outcome == End.COMPLETED.value for row in told.rows)
    over = sum(row.outcome is not None for row in told.rows)
    return Jobs(
        running=len(running),
        waiting=len(left - trace.ended),
        completed=completed,
        failed=over - completed,
        unrecorded=len(left & trace.ended),
        total=len(told.rows),
    )


def _waiting(told: Told, started: float, now: float) -> float:
    """Return for how many seconds the job that is next has been next."""
    last = max((row.started for row in told.rows if row.started is not None), default=started)
    return max(0.0, now - max(last, started))


def job_of(container: Found) -> int | None:
    """Return the number of a container's job, None where its labels tell none."""
    return small_number(container.labels.get(JOB, ""))


# ---- JSON ----------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    """Return a report for scripts. CPUs as decimal numbers, memory in bytes.

    Times are in seconds; ``started`` since the epoch.
    """
    return {
        "host": {
            "name": report.host.name,
            "cpus": report.host.cpus,
            "memory": report.host.memory,
        },
        "sweeps": [
            {
                **asdict(sweep),
                "started": round(sweep.started),
                "age_s": round(sweep.age_s),
                "waiting_s": None if sweep.waiting_s is None else round(sweep.waiting_s),
                "promised": _amount(sweep.promised),
                "used": _use(sweep.used),
                "looked_after": {**asdict(sweep.looked_after), "by": sweep.looked_after.by.value},
                "containers": list(sweep.containers),
            }
            for sweep in report.sweeps
        ],
        "others": {
            "containers": report.others.containers,
            "promised": _amount(report.others.promised),
            "used": _use(report.others.used),
        },
        "waits": [{**asdict(wait), "waited_s": round(wait.waited_s)} for wait in report.waits],
    }


def _amount(amount: Amount) -> dict[str, Any]:
    return {**asdict(amount), "cpus": round(amount.cpus, 3)}


def _use(use: Use | None) -> dict[str, Any] | None:
    return None if use is None else {"cpus": round(use.cpus, 3), "memory": use.memory}


# ---- the table -----------------------------------------------------------------------------------

#: In their order: what stands above, and whether it is a number.
COLUMNS = {
    "USER": False,
    "SWEEP": False,
    "RUN": True,
    "WAIT": True,
    "DONE": True,
    "FAIL": True,
    "CPUS": True,
    "MEMORY": True,
    "GPUS": True,
    "WAITED": True,
    "AGE": True,
    "LAUNCHER": False,
    "FOLDER": False,
}
#: What is left out first where a line is too long; before that, what says nothing in any line.
LESS = ("FOLDER", "GPUS", "WAITED", "LAUNCHER", "AGE")
NOTHING = {"GPUS": "0", "WAITED": "-"}


def table(report: Report, width: int | None) -> str:
    """Return a report as a table of at most ``width`` characters (None: however long)."""
    waiting = {wait.sweep for wait in report.waits}
    lines = _lines([_cells(sweep, sweep.sweep in waiting) for sweep in report.sweeps], width)
    if not report.sweeps:
        lines = ["No sweep runs on this engine."]
    lines += ["", *_sums(report), *_waits(report, width)]
    left = [sweep for sweep in report.sweeps if sweep.looked_after.by is By.NOBODY]
    if left:
        lines += ["", "Nobody looks after these; this goes on with them:"]
        lines += [f"  hydra-docker attach {one_line(sweep.folder)}" for sweep in left[:HINTS]]
    if len(left) > HINTS:
        lines.append(f"  and {len(left) - HINTS} more")
    return "\n".join(lines)


def _waits(report: Report, width: int | None) -> list[str]:
    """Return who waits for room, for what, and why."""
    lines = []
    for wait in report.waits[:WAITS]:
        who = f"{_cut(one_line(wait.user), LONGEST) or UNKNOWN} {one_line(wait.sweep[-SHORT:])}"
        what = "a look into its image" if wait.job is None else f"#{wait.job}"
        reason = f": {wait.reason}" if wait.reason else ""
        text = f"  {who} {what}, {_age(wait.waited_s)}, for {wait.wanted}{reason}"
        lines.append(text if width is None else _cut(text, width))
    if len(report.waits) > WAITS:
        lines.append(f"  and {len(report.waits) - WAITS} more")
    if report.obstacle is not None:
        lines.append(f"  nobody can say: {one_line(report.obstacle)}")
    return ["", "Waiting for room on this engine:", *lines] if lines else []


def _cells(sweep: SweepRow, waits: bool) -> dict[str, str]:
    jobs, promised, use = sweep.jobs, sweep.promised, sweep.used
    return {
        "USER": _cut(one_line(sweep.user), LONGEST),
        "SWEEP": one_line(sweep.short),
        "RUN": str(jobs.running),
        "WAIT": "1+" if waits and jobs.waiting is None else _number(jobs.waiting),
        "DONE": _number(jobs.completed),
        "FAIL": _number(jobs.failed),
        "CPUS": f"{'-' if use is None else _cpus(use.cpus)}/{_cpus(promised.cpus)}",
        "MEMORY": f"{'-' if use is None else show_size(use.memory)}/{_memory(promised.memory)}",
        "GPUS": "all" if promised.gpus < 0 else str(promised.gpus),
        "WAITED": "-" if sweep.waiting_s is None else _age(sweep.waiting_s),
        "AGE": _age(sweep.age_s),
        "LAUNCHER": _launcher(sweep.looked_after),
        "FOLDER": one_line(sweep.folder),
    }


def _launcher(looked_after: LookedAfter) -> str:
    if looked_after.by is By.UNKNOWN:
        return UNKNOWN
    if looked_after.by in (By.NOBODY, By.OVER):
        return str(looked_after.by.value)
    # As a shell shows one that is in the background.
    sign = "&" if looked_after.by is By.BACKGROUND else ""
    return f"{looked_after.pid or UNKNOWN}{sign}"


def _lines(rows: Sequence[Mapping[str, str]], width: int | None) -> list[str]:
    if not rows:
        return []
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in COLUMNS}
    if width is not None:
        empty = [name for name, text in NOTHING.items() if all(row[name] == text for row in rows)]
        _narrow(widths, width, empty)
    shown = []
    for cells in ({name: name for name in COLUMNS}, *rows):
        parts = []
        for name, wide in widths.items():
            text = _cut(cells[name], wide, end=name == "FOLDER")
            parts.append(text.rjust(wide) if COLUMNS[name] else text.ljust(wide))
        shown.append("  ".join(parts).rstrip())
    return shown


def _narrow(widths: dict[str, int], width: int, empty: Iterable[str]) -> None:
    """Make columns narrower, or leave them out, until they fit into ``width``."""

    def too_much() -> int:
        return sum(widths.values()) + 2 * (len(widths) - 1) - width

    for name in (*empty, *LESS):
        spare = widths.get("FOLDER", 0) - FOLDER_WIDTH
        if 0 < too_much() <= spare:
            widths["FOLDER"] -= too_much()
        if too_much() > 0:
            widths.pop(name, None)


def _cut(text: str, width: int, *, end: bool = False) -> str:
    """Return a text of at most ``width`` characters: its beginning, or its ``end``."""
    if len(text) <= width:
        return text
    return f"…{text[1 - width :]}" if end else f"{text[: width - 1]}…"


def _sums(report: Report) -> list[str]:
    host, sweeps, others = report.host, report.sweeps, report.others
    together = Amount(
        cpus=sum(sweep.promised.cpus for sweep in sweeps),
        memory=sum(sweep.promised.memory for sweep in sweeps),
    )
    uses = [sweep.used for sweep in sweeps if sweep.used is not None]
    use = Use(sum(one.cpus for one in uses), sum(one.memory for one in uses)) if uses else None
    return [
        f"{one_line(host.name)} has {host.cpus} CPUs and {show_size(host.memory)} of memory",
        f"sweeps   {len(sweeps)}, {_shares(together, use)}",
        f"others   {others.containers}, {_shares(others.promised, others.used)}",
    ]


def _shares(amount: Amount, use: Use | None) -> str:
    text = f"promised {_cpus(amount.cpus)} CPUs and {_memory(amount.memory)}"
    if amount.unlimited:
        text += f" ({amount.unlimited} without a limit)"
    if use is not None:
        text += f", using {_cpus(use.cpus)} CPUs and {show_size(use.memory)}"
    return text


def _number(number: int | None) -> str:
    return UNKNOWN if number is None else str(number)


def _age(seconds: float) -> str:
    return f"{int(seconds)}s" if seconds < 60 else show_age(seconds)


def _cpus(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")


def _memory(number: int) -> str:
    return show_size(number) if number else "0"
