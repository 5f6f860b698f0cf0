"""Outcome: how a job has ended, decided from what the engine and the result file say. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from . import _advice, _symptoms, _untrusted
from ._advice import Case
from ._engine import ContainerSpec, ContainerState
from ._evidence import OF_OUTAGE, Evidence, text
from ._harmless import harmless, plain
from ._paths import JobPaths
from ._tracking import RunStatus

MAX_RESULT = 8 * 1024 * 1024  # bytes
MAX_DIGITS = 4000  # of a whole number in it
MAX_DEPTH = 100  # of lists and dicts in each other
MAX_STRAY = 100  # stray files of which the paths are written down
#: How the line begins that stands before a further attempt in a container's log.
ATTEMPT = "hydra-docker: attempt "
MAX_LOG = 20_000  # bytes of a log's end


class End(str, Enum):
    """The ways a job can end."""

    COMPLETED = "completed"
    ERROR = "error"
    EXITED = "exited"
    OUT_OF_MEMORY = "out of memory"
    TIMED_OUT = "timed out"
    STOPPED = "stopped"
    NOT_STARTED = "could not start"
    LOST = "lost"

    @property
    def run_status(self) -> RunStatus:
        if self is End.COMPLETED:
            return RunStatus.FINISHED
        return RunStatus.KILLED if self is End.STOPPED else RunStatus.FAILED


@dataclass(frozen=True, slots=True)
class StrayFile:
    """A file of a container, its path there. ``size`` in bytes; ``reason``: why it was left there.

    None: it was not looked at; it was not to be collected.
    """

    path: str
    size: int | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Stray:
    """The files that a job has left in its container and in no mount: how many, the first of them.

    ``folder`` has what was collected, ``left`` are the first of those that were to be collected
    and are not. ``unread``: why nothing is known. ``forbidden``: that is why the job has failed.
    """

    total: int = 0
    files: tuple[StrayFile, ...] = ()
    folder: Path | None = None
    left: tuple[StrayFile, ...] = ()
    left_total: int = 0
    unread: str | None = None
    forbidden: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return it as ``sweep.json`` has it."""
        left = {file.path: file.reason for file in self.left}
        return {
            "total": self.total,
            "paths": [file.path for file in self.files],
            **({"collected": str(self.folder)} if self.folder else {}),
            **({"left": left, "left_total": self.left_total} if left else {}),
            **({"unread": self.unread} if self.unread else {}),
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job has ended. ``cause`` says it in a sentence; ``advice``, if known, what helps.

    ``value`` is what the task function returned; ``not_json`` then names its type, if it arrived
    only as its repr. ``error`` is the exception of the task function, as the worker wrote it.
    ``warning`` is what the user should know of a job that completed. ``memory_peak`` is the most
    memory that the container has used at once, in bytes, and ``memory_limit`` what it might have
    used (mem_limit); both None where nobody has told. ``unseen``: its container may run on.
    """

    end: End
    cause: str
    exit_code: int | None = None
    value: Any = None
    not_json: str | None = None
    error: dict[str, Any] | None = None
    warning: str | None = None
    stray: Stray | None = None
    advice: str | None = None
    memory_peak: int | None = None
    memory_limit: int | None = None
    unseen: bool = False


def read_result(path: Path) -> dict[str, Any] | None:
    """Return the result that the worker wrote, or None where there is none that can be trusted.

    The file is the container's: a link, a device, a pipe, something huge or no JSON is no result.
    """
    content = _untrusted.read(path, 2, MAX_RESULT)
    if content is None:
        return None
    try:
        result = json.loads(content, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return result if isinstance(result, dict) and not _is_deep(result) else None


def read_returned(paths: JobPaths, result: dict[str, Any] | None) -> Any:
    """Return what the task function returned, as it is: it may have secrets in it.

    Of a job whose process has gone before it was read, what was written down of it.
    """
    found = read_result(paths.returned) or result or {}
    return found.get("value")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:  # older Pythons would take hours for millions of them
        raise ValueError("a number with too many digits")
    return int(digits)


def _is_deep(value: object) -> bool:
    """Tell whether lists and dicts are in each other so deeply that to go down could fail."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += item.values()
            elif isinstance(item, list):
                inner += item
        if not inner:
            return False
        level = inner
    return True


def not_started(reason: str) -> Outcome:
    return Outcome(End.NOT_STARTED, reason, advice=_symptoms.of_engine(reason))


def lost(reason: str) -> Outcome:
    return Outcome(End.LOST, reason)


def out_of_sight(reason: str) -> Outcome:
    """Return how a job stands whose engine has stopped to answer: its container may run on."""
    return Outcome(
        End.LOST,
        f"the engine has stopped to answer: {reason}",
        advice=_advice.OUT_OF_SIGHT,
        unseen=True,
    )


def stopped(reason: str, exit_code: int | None = None) -> Outcome:
    return Outcome(End.STOPPED, reason, exit_code)


def before_restart(state: ContainerState, result: dict[str, Any] | None) -> ContainerState:
    """Return ``state`` as it was at the job's own end.

    A restart policy has started the container once more since, and the launcher has stopped it.
    """
    result = result or {}
    code = result.get("exit_code")
    if code is None:
        code = {"completed": 0, "error": 1, "not cloned": 1}.get(
            str(result.get("outcome")), result.get("code")
        )
    exit_code = code if isinstance(code, int) else state.exit_code
    return replace(state, running=False, exit_code=exit_code, stopped=False, signal=None)


def last_lines(log: Path, number: int) -> list[str]:
    """Return the end of a container's log, without the times; nothing where there is none.

    Of several attempts only the last one counts.
    A container may have put a link to another file, or a pipe, in its place.
    """
    lines = _untrusted.end(log, 1, MAX_LOG).decode("utf-8", "replace").split("\n")
    lines = lines[:-1] if lines[-1] == "" else lines
    texts = [line.partition(" ")[2] for line in lines]
    begins = [at for at, text in enumerate(texts) if text.startswith(ATTEMPT)]
    return [*map(_shown, texts[begins[-1] + 1 if begins else 0 :][-number:])]


def _shown(text: str) -> str:
    # Of a progress bar, its last state.
    return harmless(text.rstrip("\r").rpartition("\r")[2])


def decide(
    state: ContainerState | None,
    result: dict[str, Any] | None,
    *,
    spec: ContainerSpec,
    lines: Sequence[str] = (),
    timed_out: str | None = None,
    stopped_by: str | None = None,
) -> Outcome:
    """Return how a job has ended.

    ``spec`` is its container's specification, ``lines`` are the last ones of its log.
    ``timed_out`` and ``stopped_by`` are set where the launcher itself ended the container, and say
    why.
    """
    if state is None:
        if stopped_by:
            return stopped(stopped_by)
        return lost(
            "the engine no longer knows its container (removed by hand, or the engine's data is "
            "gone)"
        )
    result = result or {}
    found = Evidence(_as_noted(state, result), result, spec, tuple(lines))
    outcome = _in_plain_words(_decide(found, timed_out, stopped_by))
    peak = found.peak
    if peak is None:
        return outcome
    return replace(outcome, memory_peak=peak, memory_limit=spec.limits.memory)


def _as_noted(state: ContainerState, result: dict[str, Any]) -> ContainerState:
    """Return ``state`` with the exit code that a process has noted as the last thing it did.

    The engine was down then, or may have been, and has made up another one.
    """
    noted = result.get("exit_code")
    if (
        (state.unseen or state.forgotten)
        and state.exit_code in OF_OUTAGE
        and isinstance(noted, int)
    ):
        return replace(state, exit_code=noted)
    return state


def _in_plain_words(outcome: Outcome) -> Outcome:
    """Return an outcome whose sentences, in which words of the container are, may be shown."""
    return replace(
        outcome,
        cause=plain(outcome.cause),
        advice=None if outcome.advice is None else plain(outcome.advice),
        warning=None if outcome.warning is None else plain(outcome.warning),
    )


def _decide(found: Evidence, timed_out: str | None, stopped_by: str | None) -> Outcome:
    state, code = found.state, found.code
    if found.outcome == "completed" and code == 0:
        return _completed(found)
    if timed_out:
        return Outcome(End.TIMED_OUT, timed_out, code, advice=_killed_before(found))
    if stopped_by:
        return stopped(stopped_by, code)
    if state.stopped and not found.oom_of_job:
        return stopped("somebody stopped its container (docker stop)", code)
    if found.oom and not found.by_signal:
        return _out_of_memory(found)
    if not found.result and state.error:
        return not_started(f"the engine could not start its container: {state.error}")
    if found.outcome in (None, "completed") and state.unseen and code in OF_OUTAGE:
        when = "after its task function had returned" if found.returned else "while it ran"
        cause = f"the engine, or its machine, went down {when} (exit code {code})"
        return replace(lost(cause), exit_code=code)
    if found.outcome == "not cloned":
        return Outcome(End.NOT_STARTED, text(found.result.get("cause")), code)
    if found.outcome == "error":
        return Outcome(
            End.ERROR, found.raised, code, error=found.error or None, advice=found.explained()
        )
    advice = _killed_before(found) or found.explained()
    return Outcome(End.EXITED, found.exited, code, advice=advice)


def _completed(found: Evidence) -> Outcome:
    not_json = found.result.get("not_json")
    return Outcome(
        End.COMPLETED,
        "completed",
        0,
        value=found.result.get("value"),
        not_json=None if not_json is None else text(not_json),
        warning=f"completed, but {found.child_killed}" if found.oom else None,
    )


def _out_of_memory(found: Evidence) -> Outcome:
    if found.oom_of_job:
        after = ", after its task function had returned" if found.returned else ""
        cause = f"used all of {found.limit}{after}"
    else:
        then = found.raised if found.outcome == "error" else found.exited
        cause = f"{found.child_killed}; then: {then}"
    advice = _more_memory(found)
    return Outcome(End.OUT_OF_MEMORY, cause, found.code, error=found.error, advice=advice)


def _more_memory(found: Evidence) -> str:
    if found.for_the_machine and not found.oom_of_job:
        return _advice.host_out_of_memory(Case(found.spec))
    return _advice.OUT_OF_MEMORY


def _killed_before(found: Evidence) -> str | None:
    """Return what may be behind an end that has a cause of its own."""
    if not found.oom:
        return None
    said = found.child_killed
    return f"{said[0].upper()}{said[1:]} before that. {_more_memory(found)}"
