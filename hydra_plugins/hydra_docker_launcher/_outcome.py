"""Outcome: how a job has ended, decided from what the engine and the result file say. Pure."""

from __future__ import annotations

import json
import os
import signal
import stat
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

from ._engine import ContainerState
from ._tracking import RunStatus

MAX_RESULT = 8 * 1024 * 1024  # bytes
MAX_STRAY = 100  # stray files of which the paths are written down
MAX_TEXT = 10_000  # characters of a message in a cause


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
    """How a job has ended. ``cause`` says it in a sentence.

    ``value`` is what the task function returned; ``not_json`` then names its type, if it arrived
    only as its repr. ``error`` is the exception of the task function, as the worker wrote it.
    """

    end: End
    cause: str
    exit_code: int | None = None
    value: Any = None
    not_json: str | None = None
    error: dict[str, Any] | None = None
    warning: str | None = None
    stray: Stray | None = None


def read_result(path: Path) -> dict[str, Any] | None:
    """Return the result that the worker wrote, or None where there is none that can be trusted.

    The file is the container's: a link, a device, a pipe, something huge or no JSON is no result.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > MAX_RESULT:
            return None
        with os.fdopen(handle, "rb", closefd=False) as file:
            content = file.read(MAX_RESULT + 1)
    finally:
        os.close(handle)
    try:
        result = json.loads(content)
    except (ValueError, RecursionError):
        return None
    if len(content) > MAX_RESULT or not isinstance(result, dict):
        return None
    return result


def not_started(reason: str) -> Outcome:
    return Outcome(End.NOT_STARTED, reason)


def lost(reason: str) -> Outcome:
    return Outcome(End.LOST, reason)


def stopped(reason: str, exit_code: int | None = None) -> Outcome:
    return Outcome(End.STOPPED, reason, exit_code)


def before_restart(state: ContainerState, result: dict[str, Any] | None) -> ContainerState:
    """Return ``state`` as it was at the job's own end.

    A restart policy has started the container once more since, and the launcher has stopped it.
    """
    result = result or {}
    code = {"completed": 0, "error": 1, "not cloned": 1}.get(
        str(result.get("outcome")), result.get("code")
    )
    exit_code = code if isinstance(code, int) else state.exit_code
    return replace(state, running=False, exit_code=exit_code, stopped=False, signal=None)


def decide(
    state: ContainerState | None,
    result: dict[str, Any] | None,
    *,
    memory: str,
    timed_out: str | None = None,
    stopped_by: str | None = None,
) -> Outcome:
    """Return how a job has ended.

    ``memory`` is its memory limit in words. ``timed_out`` and ``stopped_by`` are set where the
    launcher itself ended the container, and say why.
    """
    if state is None:
        if stopped_by:
            return stopped(stopped_by)
        return Outcome(
            End.LOST,
            "the engine no longer knows its container (removed by hand, or the engine's data is "
            "gone)",
        )
    result = result or {}
    code = state.exit_code
    completed = result.get("outcome") == "completed"
    if completed and code == 0:
        return _completed(state, result)
    if timed_out:
        return Outcome(End.TIMED_OUT, timed_out, code)
    if stopped_by:
        return stopped(stopped_by, code)
    if state.oom_killed:
        return Outcome(
            End.OUT_OF_MEMORY,
            f"used all of mem_limit={memory}",
            code,
            error=_error(result),
        )
    if state.stopped:
        return stopped("somebody stopped its container (docker stop)", code)
    if result.get("outcome") == "not cloned":
        return Outcome(End.NOT_STARTED, _text(result.get("cause")), code)
    if result.get("outcome") == "error":
        error = _error(result) or {}
        cause = f"raised {_text(error.get('type'))}: {_text(error.get('message'))}"
        return Outcome(End.ERROR, cause.rstrip(": "), code, error=error or None)
    return Outcome(End.EXITED, _exit_cause(state, result, completed), code)


def _completed(state: ContainerState, result: dict[str, Any]) -> Outcome:
    warning = None
    if state.oom_killed:
        warning = "completed, but one of its processes was killed for want of memory"
    not_json = result.get("not_json")
    return Outcome(
        End.COMPLETED,
        "completed",
        0,
        value=result.get("value"),
        not_json=None if not_json is None else _text(not_json),
        warning=warning,
    )


def _error(result: dict[str, Any]) -> dict[str, Any] | None:
    error = result.get("error")
    return error if isinstance(error, dict) else None


def _text(value: object) -> str:
    """Return a word that the container wrote; it may be anything."""
    text = str(value) if isinstance(value, (str, int, float)) else "?"
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…"


def _exit_cause(state: ContainerState, result: dict[str, Any], completed: bool) -> str:
    code = state.exit_code
    if completed or result.get("after") == "completed":
        return f"its task function returned, but the script then ended with exit code {code}"
    if result.get("outcome") == "exited":
        return f"called sys.exit({_text(result.get('code'))}) before its task function returned"
    if state.signal is not None:
        return f"its container was sent {_signal_name(state.signal)} from outside (docker kill)"
    if code > 128 and _is_signal(code - 128):
        return f"died of {_signal_name(code - 128)} (exit code {code})"
    return f"ended with exit code {code}, without a result"


def _is_signal(number: int) -> bool:
    return number in {member.value for member in signal.Signals}


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if _is_signal(number) else f"signal {number}"
