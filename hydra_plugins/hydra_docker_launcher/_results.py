"""Results: an outcome becomes the ``JobReturn`` that Hydra's sweepers expect."""

from __future__ import annotations

from typing import Any

from hydra.core.utils import JobReturn, JobStatus

from . import _job_folder
from ._compose import ComposedJob
from ._errors import JobError
from ._evidence import NEAR
from ._harmless import plain
from ._job import Job
from ._outcome import End, Outcome, last_lines
from ._paths import JobPaths
from ._remote_error import add_note, rebuild
from ._units import show_size

LAST_LINES = 10
_ADVICE = {
    End.TIMED_OUT: "Raise hydra.launcher.timeout_min, or make the job shorter.",
    End.LOST: "Run it again; hydra.launcher.restart makes a job go on after an outage.",
    End.STOPPED: "Run it again when you want its result.",
}


class ShownOverrides(list[str]):
    """The overrides of a job that has failed: Hydra prints them, without secrets."""

    def __init__(self, job: ComposedJob) -> None:
        super().__init__(job.task_overrides or job.overrides)
        self._shown = list(job.overrides)

    def __repr__(self) -> str:
        return repr(self._shown)


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
        overrides=list(job.task_overrides or job.overrides),
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
        result.overrides = ShownOverrides(job)
        result.return_value = exception(job, outcome)
    return result


def exception(job: Job, outcome: Outcome) -> Exception:
    """Return the exception of a job that did not complete.

    One of Python's own types comes back as itself, its message untouched; what belongs to it stands
    in its notes.
    """
    report = describe(job, outcome)
    if outcome.error is None:
        return JobError(report)
    if outcome.end is End.ERROR and _is_of_task(outcome.error):
        error = rebuild(outcome.error)
        if error is not None:
            add_note(error, report)
            return error
    text = outcome.error.get("traceback")
    return JobError(f"{report}\n\n{plain(text.rstrip())}" if isinstance(text, str) else report)


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
    advice = outcome.advice or _ADVICE.get(outcome.end)
    if advice:
        lines.append(advice)
    peak, limit = outcome.memory_peak, outcome.memory_limit
    if peak and limit and _is_of_interest(outcome, peak, limit):
        limited = f"mem_limit={show_size(limit)}"
        lines.append(f"Memory: at most {show_size(peak)} of {limited}, with the page cache")
    if has_log(paths):
        lines.append(f"Log: {paths.log}")
        if outcome.error is None:
            lines += [f"  {line}" for line in last_lines(paths.log, LAST_LINES)]
    return "\n".join(lines)


def _is_of_interest(outcome: Outcome, peak: int, limit: int) -> bool:
    """Tell whether memory may have to do with the end: an exception explains itself."""
    if outcome.end is End.OUT_OF_MEMORY:
        return peak < limit  # that it used up its limit is the cause already
    return outcome.end is not End.ERROR or peak > NEAR * limit


def has_log(paths: JobPaths) -> bool:
    """Tell whether there is a log; a container may have put a link to another file in its place."""
    return _job_folder.log_size(paths) is not None
