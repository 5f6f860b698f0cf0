"""Evidence: what the engine, the worker's result and the log tell of a job's end. Pure."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from . import _symptoms
from ._engine import ContainerSpec, ContainerState
from ._harmless import plain
from ._symptoms import Facts
from ._units import show_size

MAX_TEXT = 10_000  # characters of a message in a cause
MAX_LACKING = 500  # characters of an exception below another one
MAX_NUMBER = 2**63  # what a cgroup counts is less
MAX_FULL = 20  # places without space that a worker may name
#: Of its limit. A process that was killed below that was killed for the machine's sake.
NEAR = 0.9
KILLED = 128 + signal.SIGKILL
#: Exit codes of containers that ended with their engine: killed, stopped, or made up by it.
OF_OUTAGE = (KILLED, 128 + signal.SIGTERM, 255)
FORGOTTEN = (
    "the engine does not remember whether somebody stopped or killed its container, or whether it "
    "was down itself"
)
#: Exit codes of a shell that say something by themselves, whoever passes them on.
OF_SHELL = (126, 127)


def is_final(result: Mapping[str, Any] | None) -> bool:
    """Tell whether a job has come to its end, whatever its restart policy does with its container.

    A result is written when the task function returns, and once more when the script has ended.
    """
    return result is not None and "exit_code" in result


@dataclass(frozen=True)
class Evidence:
    """All that is known of an end. ``result`` is the container's word, and may be anything."""

    state: ContainerState
    result: Mapping[str, Any]
    spec: ContainerSpec
    lines: tuple[str, ...] = ()

    # ---- the job's own process -------------------------------------------------------------------

    @property
    def outcome(self) -> object:
        return self.result.get("outcome")

    @property
    def code(self) -> int | None:
        """The exit code; None where a restart has made it unknown."""
        return None if self.died_unseen else self.state.exit_code

    @property
    def died_unseen(self) -> bool:
        """Whether it died after its task function had returned, and was restarted since."""
        return self.result.get("died") is True

    @property
    def returned(self) -> bool:
        """Whether the task function has returned."""
        return "completed" in (self.outcome, self.result.get("after"))

    @property
    def error(self) -> dict[str, Any] | None:
        error = self.result.get("error")
        return error if isinstance(error, dict) else None

    @property
    def by_signal(self) -> bool:
        """Whether it died of a signal that somebody sent through the engine."""
        return self.state.signal is not None and self.code == 128 + self.state.signal

    # ---- memory ----------------------------------------------------------------------------------

    @cached_property
    def memory(self) -> dict[str, int]:
        """What its cgroup has counted, as far as the worker has told numbers."""
        told = self.result.get("memory")
        return {
            name: number
            for name, number in (told.items() if isinstance(told, dict) else ())
            if isinstance(number, int) and not isinstance(number, bool)
            if 0 <= number < MAX_NUMBER
        }

    @property
    def oom(self) -> bool:
        """Whether a process was killed for want of memory: the job's own, or a child of it.

        The engine may still tell of a run before a restart: the worker's own count at its end wins.
        """
        kills = self.memory.get("oom_kills")
        if kills is None or not is_final(self.result):
            return self.state.oom_killed or bool(kills)
        return kills > 0

    @property
    def oom_of_job(self) -> bool:
        """Whether it was the job's own process that was killed for want of memory."""
        killed = self.code == KILLED and not self.by_signal
        return self.oom and killed and self.outcome != "exited"

    @property
    def for_the_machine(self) -> bool:
        """Whether a process was killed far below the limit: the machine itself had none left."""
        peak = self.memory.get("peak")
        return peak is not None and peak < NEAR * self.spec.limits.memory

    @property
    def peak(self) -> int | None:
        """The most memory that its container has used at once, in bytes, where that is known."""
        return self.spec.limits.memory if self.oom_of_job else self.memory.get("peak")

    # ---- in words --------------------------------------------------------------------------------

    @property
    def limit(self) -> str:
        return f"mem_limit={show_size(self.spec.limits.memory)}"

    @property
    def child_killed(self) -> str:
        number = self.memory.get("oom_kills", 1)
        who = "one of its processes was" if number <= 1 else f"{number} of its processes were"
        why = "the machine had none left" if self.for_the_machine else self.limit
        return f"{who} killed for want of memory ({why})"

    @property
    def raised(self) -> str:
        """The exception, and the one that it keeps to itself."""
        error = self.error or {}
        cause = f"raised {text(error.get('type'))}: {text(error.get('message'))}".rstrip(": ")
        below = _symptoms.lacking(error)
        return f"{cause} (caused by {below[:MAX_LACKING]})" if below else cause

    @property
    def ended_unknown(self) -> bool:
        """Whether somebody else may have ended it, or the engine's outage: nobody remembers."""
        return self.state.forgotten and self.state.signal is None and self.code in OF_OUTAGE

    @property
    def exited(self) -> str:
        """How its process has ended."""
        if self.ended_unknown:
            return f"{self._exited()}; {FORGOTTEN}"
        sent = self.state.signal
        if self.died_unseen:
            return "its task function returned, but its process then died (its exit code is lost)"
        if sent is None:
            return self._exited()
        name = f"{_signal_name(sent)} from outside (docker kill)"
        if not self.by_signal:
            return f"{self._exited()}, after its container was sent {name}"
        if self.returned:
            return f"its task function returned, but its container was then sent {name}"
        return f"its container was sent {name}"

    def _exited(self) -> str:
        code = self.state.exit_code
        if self.returned:
            return f"its task function returned, but the script then ended with exit code {code}"
        if self.outcome == "exited":
            said = text(self.result.get("code"))
            return f"called sys.exit({said}) before its task function returned"
        if code > 128 and _is_signal(code - 128):
            return f"died of {_signal_name(code - 128)} (exit code {code})"
        return f"ended with exit code {code}, without a result"

    def explained(self) -> str | None:
        """Return why it failed and what helps, where the words or the exit code make that plain."""
        told = self.result.get("full")
        full = [place for place in told if isinstance(place, str)] if isinstance(told, list) else []
        chosen = self.outcome == "exited" and self.code not in OF_SHELL  # sys.exit(n) says enough
        code = None if chosen or self.by_signal or self.ended_unknown else self.code
        return _symptoms.explain(
            Facts(self.spec, code, self.error, self.lines, tuple(full[:MAX_FULL]))
        )


def text(value: object) -> str:
    """Return a word that the container wrote; it may be anything."""
    said = plain(str(value)) if isinstance(value, (str, int, float)) else "?"
    return said if len(said) <= MAX_TEXT else f"{said[:MAX_TEXT]}…"


def _is_signal(number: int) -> bool:
    return number in {member.value for member in signal.Signals}


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if _is_signal(number) else f"signal {number}"
