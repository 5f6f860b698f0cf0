"""Results: an outcome becomes what Hydra's sweepers expect."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest
from fakes import a_job
from hydra.core.utils import JobReturn, JobStatus

from hydra_plugins.hydra_docker_launcher._errors import JobError
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._results import (
    describe,
    exception,
    job_return,
)

ERROR = {
    "module": "builtins",
    "type": "ValueError",
    "message": "no",
    "args": ["no"],
    "frames": [["/lib/hydra/core/utils.py", "run_job", 1], ["/code/train.py", "main", 2]],
    "notes": [],
    "traceback": "Traceback …\nValueError: no\n",
}


@pytest.fixture
def job(tmp_path):
    output = tmp_path / "0"
    output.mkdir()
    return a_job(output, lr=1)


def logged(job, *lines):
    job.output_dir.joinpath("container.log").write_text(
        "".join(f"2026-11-22T10:00:00Z {line}\n" for line in lines)
    )


def test_completed(job):
    """The value, and what a basic launcher's JobReturn has beside it."""
    assert job_return(job, Outcome(End.COMPLETED, "completed", 0, value=0.5), "app") == JobReturn(
        overrides=["n=0"],
        cfg=job.cfg,
        hydra_cfg=job.hydra_cfg,
        working_dir=str(job.working_dir),
        task_name="app",
        status=JobStatus.COMPLETED,
        _return_value=0.5,
    )


@pytest.mark.parametrize("end", [end for end in End if end is not End.COMPLETED])
def test_everything_else_is_failed(job, end):
    """Nothing ends as COMPLETED that did not complete; its value raises."""
    result = job_return(job, Outcome(end, "the cause"), "app")

    assert result.status is JobStatus.FAILED
    with pytest.raises(JobError, match="the cause"):
        _ = result.return_value


def test_builtin_error(job):
    """The user's exception keeps its type and message; the report stands in its notes."""
    error = exception(job, Outcome(End.ERROR, "raised ValueError: no", 1, error=ERROR))

    assert (type(error), str(error)) == (ValueError, "no")
    assert error.__notes__ == ["job #0 (n=0) error: raised ValueError: no"]


def test_foreign_error(job):
    """A type of the user's own: report and remote traceback."""
    outcome = Outcome(End.ERROR, "raised Foreign: no", 1, error={**ERROR, "module": "train"})

    error = exception(job, outcome)

    assert (type(error), str(error)) == (
        JobError,
        "job #0 (n=0) error: raised Foreign: no\n\nTraceback …\nValueError: no",
    )


@pytest.mark.parametrize("frames", [[["/code/train.py", "<module>", 1]], [], None, [5]])
def test_error_before_the_task(job, frames):
    """A script that cannot be imported: Hydra would show its own frames with such an exception."""
    outcome = Outcome(End.ERROR, "raised ValueError: no", 1, error={**ERROR, "frames": frames})
    assert type(exception(job, outcome)) is JobError


@pytest.mark.parametrize("traceback", [None, [[]], 5])
def test_error_without_traceback(job, traceback):
    """A traceback that is no text is left out."""
    error = {**ERROR, "module": "train", "traceback": traceback}
    outcome = Outcome(End.ERROR, "raised Foreign: no", 1, error=error)
    assert str(exception(job, outcome)) == "job #0 (n=0) error: raised Foreign: no"


def test_report(job):
    """Job, overrides, cause, what to do, where the log is, its last ten lines."""
    logged(job, *(f"line {number}" for number in range(12)))

    outcome = Outcome(End.OUT_OF_MEMORY, "used all of mem_limit=2g", 137, advice="Raise it.")
    assert describe(job, outcome) == (
        "job #0 (n=0) out of memory: used all of mem_limit=2g\n"
        "Raise it.\n"
        f"Log: {job.output_dir}/container.log\n"
        + "".join(f"  line {number}\n" for number in range(2, 12)).rstrip("\n")
    )


def test_peak_memory(job):
    """The most memory that it has used, against its limit, where both are known."""
    outcome = Outcome(
        End.ERROR, "raised X", 1, memory_peak=1024**2 * 3 // 2, memory_limit=1024**3, advice="Do."
    )
    assert describe(job, outcome) == ("job #0 (n=0) error: raised X\nDo.")
    full = replace(outcome, memory_peak=1024**3)
    assert describe(job, full) == (
        "job #0 (n=0) error: raised X\nDo.\nMemory: at most 1g of mem_limit=1g, with the page cache"
    )


def test_peak_memory_that_is_the_cause(job):
    """A job that used all of its memory is not told so twice."""
    outcome = Outcome(End.OUT_OF_MEMORY, "used all of it", memory_peak=5, memory_limit=5)
    assert describe(job, outcome) == "job #0 (n=0) out of memory: used all of it"


def test_out_of_memory_with_an_exception(job):
    """A killed child made it fail: what it raised is shown, not rebuilt as the cause."""
    outcome = Outcome(End.OUT_OF_MEMORY, "one of its processes was killed", 1, error=ERROR)
    logged(job, "line")

    error = exception(job, outcome)

    assert (type(error), str(error)) == (
        JobError,
        (
            "job #0 (n=0) out of memory: one of its processes was killed\n"
            f"Log: {job.output_dir}/container.log\n\nTraceback …\nValueError: no"
        ),
    )


@pytest.mark.parametrize(
    ("end", "advice"),
    [
        (End.TIMED_OUT, "Raise hydra.launcher.timeout_min, or make the job shorter."),
        (End.LOST, "Run it again; hydra.launcher.restart makes a job go on after an outage."),
        (End.STOPPED, "Run it again when you want its result."),
    ],
)
def test_advice(job, end, advice):
    """What to do next, where there is something to do."""
    assert describe(job, Outcome(end, "x")) == f"job #0 (n=0) {end.value}: x\n{advice}"


def test_own_advice(job):
    """What is known of this very end comes before what helps with all of its kind."""
    outcome = Outcome(End.TIMED_OUT, "x", advice="Do this.")
    assert describe(job, outcome) == "job #0 (n=0) timed out: x\nDo this."


def test_error_shows_no_log_lines(job):
    """The traceback follows anyway."""
    logged(job, "line")
    assert describe(job, Outcome(End.ERROR, "raised ValueError", 1, error=ERROR)) == (
        f"job #0 (n=0) error: raised ValueError\nLog: {job.output_dir}/container.log"
    )


def test_log_that_a_container_replaced(job, tmp_path):
    """A link in place of the log does not show another file of the host."""
    (tmp_path / "secret").write_text("x secret\n")
    (job.output_dir / "container.log").symlink_to(tmp_path / "secret")

    assert describe(job, Outcome(End.EXITED, "x", 1)) == "job #0 (n=0) exited: x"


def test_log_that_is_a_pipe(job):
    """Nor does a pipe block."""
    os.mkfifo(job.output_dir / "container.log")
    assert describe(job, Outcome(End.EXITED, "x", 1)) == "job #0 (n=0) exited: x"
