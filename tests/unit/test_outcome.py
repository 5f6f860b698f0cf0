"""Outcome: how a job has ended, from what the engine and the result file say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _outcome
from hydra_plugins.hydra_docker_launcher._engine import ContainerState
from hydra_plugins.hydra_docker_launcher._outcome import (
    End,
    Outcome,
    decide,
    not_started,
    read_result,
    stopped,
)
from hydra_plugins.hydra_docker_launcher._tracking import RunStatus

ERROR = {"module": "builtins", "type": "ValueError", "message": "no", "args": ["no"]}


def state(exit_code=0, *, oom=False, stop=False, signal=None):
    return ContainerState(
        running=False,
        exit_code=exit_code,
        oom_killed=oom,
        stopped=stop,
        signal=signal,
        error="",
        started_at="2026-11-22T10:00:00Z",
        finished_at="2026-11-22T10:01:00Z",
    )


def decided(state, result, **reasons):
    return decide(state, result, memory="2g", **reasons)


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (End.COMPLETED, RunStatus.FINISHED),
        (End.ERROR, RunStatus.FAILED),
        (End.EXITED, RunStatus.FAILED),
        (End.OUT_OF_MEMORY, RunStatus.FAILED),
        (End.TIMED_OUT, RunStatus.FAILED),
        (End.STOPPED, RunStatus.KILLED),
        (End.NOT_STARTED, RunStatus.FAILED),
        (End.LOST, RunStatus.FAILED),
    ],
)
def test_run_status(end, status):
    """Every way to end has one status in tracking."""
    assert end.run_status is status


def test_completed():
    """A result and exit code 0: completed, with what the task function returned."""
    assert decided(state(), {"outcome": "completed", "value": {"loss": 0.5}}) == Outcome(
        End.COMPLETED, "completed", 0, value={"loss": 0.5}
    )


def test_completed_with_what_is_no_json():
    """The value is then a repr, and its type is named."""
    result = {"outcome": "completed", "value": "<Model>", "not_json": "train.Model"}
    assert decided(state(), result) == Outcome(
        End.COMPLETED, "completed", 0, value="<Model>", not_json="train.Model"
    )


def test_completed_although_a_child_was_killed():
    """A killed child process does not undo a completed job, but is worth a warning."""
    assert decided(state(oom=True), {"outcome": "completed", "value": 1}) == Outcome(
        End.COMPLETED,
        "completed",
        0,
        value=1,
        warning="completed, but one of its processes was killed for want of memory",
    )


@pytest.mark.parametrize("reason", ["timed_out", "stopped_by"])
def test_completed_just_before_it_was_to_end(reason):
    """A job that completed while the launcher was about to end it has completed."""
    result = {"outcome": "completed", "value": 1}
    assert decided(state(), result, **{reason: "over"}).end is End.COMPLETED


def test_error():
    """An exception in the task function."""
    assert decided(state(1), {"outcome": "error", "error": ERROR}) == Outcome(
        End.ERROR, "raised ValueError: no", 1, error=ERROR
    )


def test_error_without_message():
    """``raise ValueError`` has no message, and no colon."""
    error = {**ERROR, "message": "", "args": []}
    assert decided(state(1), {"outcome": "error", "error": error}) == Outcome(
        End.ERROR, "raised ValueError", 1, error=error
    )


@pytest.mark.parametrize(
    ("result", "cause"),
    [
        ({"outcome": "error", "error": {"type": ["x"], "message": {}}}, "raised ?: ?"),
        ({"outcome": "error", "error": {"type": "E", "message": "x" * 20_000}}, None),
        ({"outcome": "error", "error": "text"}, "raised ?: ?"),
        ({"outcome": "exited", "code": [[[]]]}, "called sys.exit(?) before its task function "),
    ],
)
def test_words_of_the_container(result, cause):
    """What a container wrote may be anything: the cause stays one short text."""
    found = decided(state(1), result).cause
    assert found.startswith(cause or "raised E: xxx")
    assert len(found) < 11_000


@pytest.mark.parametrize(
    ("exit_code", "signal", "result", "cause"),
    [
        (
            3,
            None,
            {"outcome": "exited", "code": 3, "after": None},
            "called sys.exit(3) before its task function returned",
        ),
        (
            0,
            None,
            {"outcome": "exited", "code": 0, "after": None},
            "called sys.exit(0) before its task function returned",
        ),
        (
            2,
            None,
            {"outcome": "exited", "code": 2, "after": "completed"},
            "its task function returned, but the script then ended with exit code 2",
        ),
        (
            1,
            None,
            {"outcome": "completed", "value": 1},
            "its task function returned, but the script then ended with exit code 1",
        ),
        (0, None, None, "ended with exit code 0, without a result"),
        (7, None, None, "ended with exit code 7, without a result"),
        (139, None, None, "died of SIGSEGV (exit code 139)"),
        (137, None, None, "died of SIGKILL (exit code 137)"),
        (137, 9, None, "its container was sent SIGKILL from outside (docker kill)"),
        (1, 99, None, "its container was sent signal 99 from outside (docker kill)"),
        (255, None, None, "ended with exit code 255, without a result"),
        (1, None, {"outcome": "nonsense"}, "ended with exit code 1, without a result"),
    ],
)
def test_exited(exit_code, signal, result, cause):
    """Without the task function's own word the exit code, or the signal, is the cause."""
    assert decided(state(exit_code, signal=signal), result) == Outcome(End.EXITED, cause, exit_code)


@pytest.mark.parametrize(
    ("result", "error"), [(None, None), ({"outcome": "error", "error": ERROR}, ERROR)]
)
def test_out_of_memory(result, error):
    """The engine's OOM flag; an exception that came of it (of a killed child) is kept."""
    assert decided(state(137, oom=True), result) == Outcome(
        End.OUT_OF_MEMORY, "used all of mem_limit=2g", 137, error=error
    )


def test_timed_out():
    """The launcher's clock comes before what the container says of its death."""
    result = {"outcome": "error", "error": ERROR}
    assert decided(state(143, oom=True), result, timed_out="ran too long") == Outcome(
        End.TIMED_OUT, "ran too long", 143
    )


def test_stopped_by_the_launcher():
    """Ctrl-C or fail_fast: the reason is the cause."""
    assert decided(state(143), None, stopped_by="Ctrl-C") == Outcome(End.STOPPED, "Ctrl-C", 143)


def test_stopped_by_somebody():
    """``docker stop`` is told from a job that died by itself."""
    assert decided(state(143, stop=True, signal=15), None) == Outcome(
        End.STOPPED, "somebody stopped its container (docker stop)", 143
    )


def test_stopped_before_it_ran():
    """A job that never ran has no exit code."""
    assert stopped("Ctrl-C") == Outcome(End.STOPPED, "Ctrl-C")


def test_could_not_start():
    """The engine's words are the cause."""
    assert not_started("no such network") == Outcome(End.NOT_STARTED, "no such network")


def test_lost():
    """The engine no longer knows the container: never completed, whatever a file says."""
    assert decided(None, {"outcome": "completed", "value": 1}) == Outcome(
        End.LOST,
        "the engine no longer knows its container (removed by hand, or the engine's data is gone)",
    )


def test_stopped_and_then_gone():
    """What the launcher itself has ended is not lost."""
    assert decided(None, None, stopped_by="Ctrl-C") == Outcome(End.STOPPED, "Ctrl-C")


# ---- the result file -----------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "result.json"


def test_read_result(path):
    """The worker's own words."""
    path.write_text('{"outcome": "completed", "value": [1, null]}')
    assert read_result(path) == {"outcome": "completed", "value": [1, None]}


def test_no_result(path):
    """A job that died has left none."""
    assert read_result(path) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"1", b'"completed"', b"null", b"\xff\xfe", b"[" * 200_000, b"9" * 5000],
    ids=["empty", "cut", "list", "number", "string", "null", "bytes", "bomb", "long number"],
)
def test_result_that_is_none(path, content):
    """What is no JSON object, or would break the reader, is no result."""
    path.write_bytes(content)
    assert read_result(path) is None


def test_nested_result(path):
    """Nesting as deep as JSON is read at all does not break what follows."""
    path.write_text(json.dumps({"outcome": "completed"})[:-1] + ',"value":' + "[" * 10**5 + "}")
    assert read_result(path) is None


def test_result_that_is_a_link(path, tmp_path):
    """A link would let a container show files of the host as its result."""
    (tmp_path / "secret.json").write_text('{"outcome": "completed"}')
    path.symlink_to(tmp_path / "secret.json")
    assert read_result(path) is None


def test_result_that_is_a_pipe(path):
    """Reading a pipe would wait forever."""
    os.mkfifo(path)
    assert read_result(path) is None


def test_result_that_is_a_device():
    """A device has no end."""
    assert read_result(Path("/dev/zero")) is None


def test_result_that_is_a_folder(path):
    """A folder is no file."""
    path.mkdir()
    assert read_result(path) is None


def test_huge_result(path):
    """A file beyond the limit is not read, however little of the disk it takes."""
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert read_result(path) is None


def test_largest_result(path, monkeypatch):
    """The limit itself is allowed."""
    path.write_text('{"a": 1}')
    monkeypatch.setattr(_outcome, "MAX_RESULT", 8)
    assert read_result(path) == {"a": 1}
    monkeypatch.setattr(_outcome, "MAX_RESULT", 7)
    assert read_result(path) is None


def test_not_cloned():
    """A container that could not clone the commit has not started its job, whatever its policy."""
    result = {"outcome": "not cloned", "cause": "could not clone x at 0123: no such host"}
    expected = Outcome(End.NOT_STARTED, "could not clone x at 0123: no such host", 1)
    assert decided(state(1), result) == expected
    assert decided(_outcome.before_restart(state(143), result), result) == expected
