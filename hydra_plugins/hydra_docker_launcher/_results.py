"""Results: an outcome becomes the ``JobReturn`` that Hydra's sweepers expect."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from ._compose import ComposedJob
from ._errors import JobError
from ._job import Job
from ._outcome import End, Outcome
from ._paths import JobPaths
from ._remote_error import add_note, rebuild

LAST_LINES = 10
MAX_TEXT = 500  # characters of an exception below another one
_ADVICE = {
    End.OUT_OF_MEMORY: "Raise hydra.launcher.mem_limit, or make the job need less.",
    End.TIMED_OUT: "Raise hydra.launcher.timeout_min, or make the job shorter.",
    End.LOST: "Run it again; hydra.launcher.restart makes a job go on after an outage.",
    End.STOPPED: "Run it again when you want its result.",
}


class BackgroundJobReturn(JobReturn):
    """Of a job that runs on in the background: its status is UNKNOWN.

    Hydra's basic sweeper asks every job for its return value, and must get none here.
    """

    @property
    def return_value(self) -> Any:
        return None

    @return_value.setter
    def return_value(self, value: Any) -> None:
        raise AttributeError(f"a job in the background has no return value ({value!r})")


def job_return(job: ComposedJob, outcome: Outcome | None, task_name: str) -> JobReturn:
    """Return what Hydra's basic launcher would return for this job.

    Anything but a completed job has status FAILED and an exception as its return value; a job that
    runs on in the background (``outcome`` None) the status UNKNOWN.
    """
    kind = JobReturn if outcome is not None else BackgroundJobReturn
    result = kind(
        overrides=list(job.overrides),
        cfg=job.cfg,
        hydra_cfg=job.hydra_cfg,
        working_dir=str(job.working_dir),
        task_name=task_name,
    )
    if outcome is None:
        return result
    if outcome.end is End.COMPLETED:
        result.status = JobStatus.COMPLETED
        result.return_value = outcome.value
    else:
        result.status = JobStatus.FAILED
        result.return_value = exception(job, outcome)
    return result


def exception(job: Job, outcome: Outcome) -> Exception:
    """Return the exception of a job that did not complete.

    One of Python's own types comes back as itself, its message untouched; what belongs to it stands
    in its notes.
    """
    report = describe(job, outcome)
    if outcome.end is End.ERROR and outcome.error is not None:
        error = rebuild(outcome.error) if _is_of_task(outcome.error) else None
        if error is not None:
            add_note(error, report)
            return error
        text = outcome.error.get("traceback")
        return JobError(f"{report}\n\n{text.rstrip()}" if isinstance(text, str) else report)
    return JobError(report)


def _is_of_task(error: dict[str, Any]) -> bool:
    """Tell whether the task function raised it; a script may fail before that, as it is imported.

    Of such an error, with no frame of ``run_job``, Hydra would show its own frames on the host.
    """
    frames = error.get("frames")
    first = frames[0] if isinstance(frames, list) and frames else None
    return isinstance(first, list) and "run_job" in first


def describe(job: Job, outcome: Outcome) -> str:
    """Say which job did not complete, why, where its log is, how it ends, and what to do next."""
    paths = job.paths
    lines = [f"{job.title} {outcome.end.value}: {outcome.cause}"]
    if outcome.end is End.ERROR and outcome.error is not None:
        lines += _lacking(outcome.error)
    advice = _ADVICE.get(outcome.end)
    if advice:
        lines.append(advice)
    if has_log(paths):
        lines.append(f"Log: {paths.log}")
        if outcome.end is not End.ERROR:
            lines += [f"  {line}" for line in last_lines(paths.log)]
    return "\n".join(lines)


def _lacking(error: dict[str, Any]) -> list[str]:
    """Name the module or the file for want of which the exception was raised, where it does not.

    Hydra's "Unable to configure formatter 'colorlog'" and "Error locating target" keep to
    themselves that the image has no such module.
    """
    first = error
    while isinstance(first.get("cause"), dict):
        first = first["cause"]
    kind = getattr(builtins, str(first.get("type")), None)
    if first is error or not isinstance(kind, type) or not issubclass(kind, (ImportError, OSError)):
        return []
    line = f"Caused by {first['type']}: {first.get('message')}".split("\n", 1)[0][:MAX_TEXT]
    return [f"{line}. Install it in the image." if kind is ModuleNotFoundError else line]


def has_log(paths: JobPaths) -> bool:
    """Tell whether there is a log; a container may have put a link to another file in its place."""
    return paths.log.is_file() and not paths.log.is_symlink()


def last_lines(log: Path, number: int = LAST_LINES) -> list[str]:
    """Return the end of a container's log, without the times."""
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 20_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line.partition(" ")[2] for line in lines[-number:]]
