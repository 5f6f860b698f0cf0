"""Outcome: how a job has ended, from what the engine and the result file say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher import _advice, _outcome
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    ContainerState,
    Limits,
)
from hydra_plugins.hydra_docker_launcher._evidence import is_final
from hydra_plugins.hydra_docker_launcher._outcome import (
    End,
    Outcome,
    decide,
    last_lines,
    not_started,
    read_result,
    stopped,
)
from hydra_plugins.hydra_docker_launcher._tracking import RunStatus

GIB = 1024**3
SPEC = ContainerSpec(
    "train-x-0",
    "sha256:1",
    ("python3",),
    "/",
    Limits(1.0, 2 * GIB, 2 * GIB, GIB, 100),
    Boundary("1:1"),
)
MORE_MEMORY = "Raise hydra.launcher.mem_limit, or make the job need less."
ERROR = {"module": "builtins", "type": "ValueError", "message": "no", "args": ["no"]}


def state(
    exit_code=0, *, oom=False, stop=False, signal=None, error="", unseen=False, forgotten=False
):
    return ContainerState(
        running=False,
        exit_code=exit_code,
        oom_killed=oom,
        stopped=stop,
        signal=signal,
        error=error,
        started_at="2026-11-22T10:00:00Z",
        finished_at="2026-11-22T10:01:00Z",
        unseen=unseen,
        forgotten=forgotten,
    )


def decided(state, result, **reasons):
    return decide(state, result, spec=SPEC, **reasons)


def counted(peak=None, oom_kills=0, **result):
    """Return a result with what the worker has read from its cgroup."""
    memory = {"peak": peak, "limit": 2 * GIB, "oom_kills": oom_kills}
    return {**result, "memory": {name: n for name, n in memory.items() if n is not None}}


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
        warning="completed, but one of its processes was killed for want of memory (mem_limit=2g)",
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
    ("exit_code", "result", "cause"),
    [
        (
            3,
            {"outcome": "exited", "code": 3, "after": None},
            "called sys.exit(3) before its task function returned",
        ),
        (
            0,
            {"outcome": "exited", "code": 0, "after": None},
            "called sys.exit(0) before its task function returned",
        ),
        (
            2,
            {"outcome": "exited", "code": 2, "after": "completed"},
            "its task function returned, but the script then ended with exit code 2",
        ),
        (
            1,
            {"outcome": "completed", "value": 1},
            "its task function returned, but the script then ended with exit code 1",
        ),
        (0, None, "ended with exit code 0, without a result"),
        (7, None, "ended with exit code 7, without a result"),
        (255, None, "ended with exit code 255, without a result"),
        (1, {"outcome": "nonsense"}, "ended with exit code 1, without a result"),
    ],
)
def test_exited(exit_code, result, cause):
    """Without the task function's own word the exit code is the cause."""
    assert decided(state(exit_code), result) == Outcome(End.EXITED, cause, exit_code)


@pytest.mark.parametrize(
    ("exit_code", "cause", "advice"),
    [
        (132, "died of SIGILL (exit code 132)", "A library of the image was built for another"),
        (134, "died of SIGABRT (exit code 134)", "Native code has given up (abort)"),
        (135, "died of SIGBUS (exit code 135)", "A bus error mostly means that shared memory has"),
        (137, "died of SIGKILL (exit code 137)", "Nobody did that through the engine, and it was"),
        (139, "died of SIGSEGV (exit code 139)", "Native code has crashed. Set PYTHONFAULTHANDLER"),
        (143, "died of SIGTERM (exit code 143)", "Nobody did that through the engine: a process"),
        (126, "ended with exit code 126, without a result", "A shell ends with 126 where it may"),
        (127, "ended with exit code 127, without a result", "A shell ends with 127 where it does"),
    ],
)
def test_exit_code(exit_code, cause, advice):
    """A signal has a name, and what it mostly means; so have the exit codes of a shell."""
    found = decided(state(exit_code), None)
    assert (found.end, found.cause, found.exit_code) == (End.EXITED, cause, exit_code)
    assert found.advice.startswith(advice)


def test_exit_code_of_a_shell_that_is_passed_on():
    """``sys.exit(subprocess.call(…))``: 127 is the shell's word; others are the script's own."""
    for code, told in ((127, True), (137, False)):
        result = {"outcome": "exited", "code": code, "after": None}
        assert (decided(state(code), result).advice is not None) is told


@pytest.mark.parametrize(
    ("exit_code", "sent", "result", "cause"),
    [
        (137, 9, None, "its container was sent SIGKILL from outside (docker kill)"),
        (138, 10, None, "its container was sent SIGUSR1 from outside (docker kill)"),
        (
            137,
            9,
            {"outcome": "completed", "value": 1},
            (
                "its task function returned, but its container was then sent SIGKILL from outside "
                "(docker kill)"
            ),
        ),
        (
            1,
            99,
            None,
            (
                "ended with exit code 1, without a result, after its container was sent signal 99 "
                "from outside (docker kill)"
            ),
        ),
        (
            4,
            15,
            {"outcome": "exited", "code": 4, "after": None},
            (
                "called sys.exit(4) before its task function returned, after its container was "
                "sent SIGTERM from outside (docker kill)"
            ),
        ),
    ],
)
def test_signal_from_outside(exit_code, sent, result, cause):
    """``docker kill`` is the cause where the job died of that signal, else it is told beside it."""
    assert decided(state(exit_code, signal=sent), result) == Outcome(End.EXITED, cause, exit_code)


def test_engine_that_cannot_start_it_again():
    """After an outage a restart policy may fail: a volume's folder is gone."""
    found = decided(state(127, error="bind source path does not exist: /data"), None)
    cause = "the engine could not start its container: bind source path does not exist: /data"
    assert found == Outcome(End.NOT_STARTED, cause)


@pytest.mark.parametrize("exit_code", [255, 143, 137])
def test_end_that_the_engine_has_not_seen(exit_code):
    """The engine went down: it stopped the container, or has made up an exit code."""
    cause = f"the engine, or its machine, went down while it ran (exit code {exit_code})"
    assert decided(state(exit_code, unseen=True), None) == Outcome(End.LOST, cause, exit_code)
    result = {"outcome": "exited", "code": exit_code, "after": None}
    assert decided(state(exit_code, unseen=True), result).end is End.EXITED
    assert decided(state(exit_code), None).end is End.EXITED
    assert decided(state(7, unseen=True), None).end is End.EXITED


@pytest.mark.parametrize(
    ("exit_code", "known"),
    [
        (255, "ended with exit code 255, without a result"),
        (143, "died of SIGTERM (exit code 143)"),
        (137, "died of SIGKILL (exit code 137)"),
    ],
)
def test_end_that_the_engine_does_not_remember(exit_code, known):
    """It may have been stopped, or its engine was down: all that is known is said, and no more."""
    unknown = (
        "the engine does not remember whether somebody stopped or killed its container, or whether "
        "it was down itself"
    )
    forgotten = state(exit_code, forgotten=True)
    assert decided(forgotten, None) == Outcome(End.EXITED, f"{known}; {unknown}", exit_code)
    completed = {"outcome": "completed", "value": 1, "exit_code": 0}
    assert decided(forgotten, completed).end is End.COMPLETED


def test_end_of_its_own_that_the_engine_does_not_remember():
    """Where the exit code can only be the job's own, nothing is unknown."""
    found = decided(state(3, forgotten=True), None)
    assert found.cause == "ended with exit code 3, without a result"


@pytest.mark.parametrize("exit_code", [255, 143, 137])
def test_end_that_only_the_job_has_seen(exit_code):
    """What a job has noted as it ended counts; one that was still ending is lost."""
    unseen = state(exit_code, unseen=True)
    completed = {"outcome": "completed", "value": 1}
    assert decided(unseen, {**completed, "exit_code": 0}) == Outcome(
        End.COMPLETED, "completed", 0, value=1
    )
    assert decided(unseen, {**completed, "exit_code": 3}).end is End.EXITED
    assert decided(unseen, {"outcome": "error", "exit_code": 1}).end is End.ERROR
    cause = (
        "the engine, or its machine, went down after its task function had returned "
        f"(exit code {exit_code})"
    )
    assert decided(unseen, completed) == Outcome(End.LOST, cause, exit_code)
    assert decided(state(exit_code), {**completed, "exit_code": 0}).end is End.EXITED


# ---- memory --------------------------------------------------------------------------------------


def out_of_memory(cause, code, **more):
    return Outcome(End.OUT_OF_MEMORY, cause, code, **{"advice": MORE_MEMORY, **more})


@pytest.mark.parametrize(
    ("result", "cause", "error"),
    [
        (None, "used all of mem_limit=2g", None),
        ({"outcome": "error", "error": ERROR}, "used all of mem_limit=2g", ERROR),
        (
            {"outcome": "completed", "value": 1},
            "used all of mem_limit=2g, after its task function had returned",
            None,
        ),
    ],
)
def test_out_of_memory(result, cause, error):
    """The kernel has killed the job's own process: its peak was the limit."""
    assert decided(state(137, oom=True), result) == out_of_memory(
        cause, 137, error=error, memory_peak=2 * GIB, memory_limit=2 * GIB
    )


@pytest.mark.parametrize(
    ("exit_code", "result", "then"),
    [
        (1, {"outcome": "error", "error": ERROR}, "raised ValueError: no"),
        (
            3,
            {"outcome": "exited", "code": 3, "after": None},
            "called sys.exit(3) before its task function returned",
        ),
        (7, {}, "ended with exit code 7, without a result"),
    ],
)
@pytest.mark.parametrize("engine", [True, False])
def test_child_out_of_memory(exit_code, result, then, engine):
    """A killed child process is the cause of the failure that followed, whoever tells of it."""
    told = {**counted(2 * GIB, 1), **result, "exit_code": exit_code} if not engine else result
    peak = {} if engine else {"memory_peak": 2 * GIB, "memory_limit": 2 * GIB}
    assert decided(state(exit_code, oom=engine), told) == out_of_memory(
        f"one of its processes was killed for want of memory (mem_limit=2g); then: {then}",
        exit_code,
        error=result.get("error"),
        **peak,
    )


def test_children_out_of_memory():
    """More than one; and where the limit was far, the machine had no memory left."""
    result = counted(GIB // 2, 3, outcome="completed", value=1, exit_code=0)
    assert decided(state(oom=True), result) == Outcome(
        End.COMPLETED,
        "completed",
        0,
        value=1,
        warning="completed, but 3 of its processes were killed for want of memory (the machine had "
        "none left)",
        memory_peak=GIB // 2,
        memory_limit=2 * GIB,
    )
    result = {**result, "outcome": "error", "error": ERROR}
    found = decided(state(1, oom=True), result)
    assert found.end is End.OUT_OF_MEMORY
    assert found.advice.startswith("The machine itself had no memory left.")


def test_out_of_memory_before_a_restart():
    """What the engine remembers of an earlier run is no cause of this one's end."""
    result = counted(GIB, 0, outcome="error", error=ERROR, exit_code=1)
    assert decided(state(1, oom=True), result).end is End.ERROR
    assert decided(state(1, oom=True), {**result, "memory": {}}).end is End.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("how", "end"),
    [
        ({"timed_out": "ran too long"}, End.TIMED_OUT),
        ({"signal": 9}, End.EXITED),
    ],
)
def test_child_out_of_memory_before_another_end(how, end):
    """A job whose child was killed may hang: its end has another cause, but that is told too."""
    signal = how.pop("signal", None)
    found = decided(state(137, oom=True, signal=signal), None, **how)
    assert found.end is end
    assert found.advice == (
        "One of its processes was killed for want of memory (mem_limit=2g) before that. "
        f"{MORE_MEMORY}"
    )


def test_stopped_after_a_child_was_out_of_memory():
    """Who stops a job that hangs has stopped it."""
    assert decided(state(137, oom=True, stop=True, signal=9), None).end is End.STOPPED


@pytest.mark.parametrize(
    ("memory", "peak"),
    [
        ({"peak": 5}, 5),
        ({"peak": True}, None),
        ({"peak": -1}, None),
        ({"peak": 10**30}, None),
        ({"peak": "5"}, None),
        ({"peak": 5.0}, None),
        ([5], None),
        (None, None),
    ],
)
def test_peak(memory, peak):
    """The most memory that a job has used; what is no number of bytes is left out."""
    result = {"outcome": "completed", "value": 1, "exit_code": 0, "memory": memory}
    found = decided(state(), result)
    limit = None if peak is None else 2 * GIB
    assert (found.memory_peak, found.memory_limit, found.warning) == (peak, limit, None)


def test_no_peak_of_what_nobody_saw():
    """A job that was stopped or killed has left no count, and no number is made up for it."""
    for found in (
        decided(state(143), None, stopped_by="Ctrl-C"),
        decided(state(137), None, timed_out="ran too long"),
        decided(state(137, signal=9), None),
    ):
        assert found.memory_peak is None


# ---- why -----------------------------------------------------------------------------------------


def test_advice_of_an_exception():
    """The exception's own words; a limit of the job stands in the advice."""
    error = {"type": "RuntimeError", "message": "can't start new thread"}
    found = decided(state(1), {"outcome": "error", "error": error})
    assert found.advice == (
        "The job may not have more processes and threads: pids_limit=100. "
        "Raise hydra.launcher.pids_limit, or use fewer workers and threads."
    )


def test_advice_of_the_log():
    """A job that ends without an exception has left its last words in the log."""
    lines = ["train: No space left on device"]
    result = {"outcome": "exited", "code": 1, "after": None, "full": ["/dev/shm", 5, "/"]}
    assert decided(state(1), result, lines=lines).advice == (
        "/dev/shm was full: it holds shm_size=1g. Raise hydra.launcher.shm_size; it counts as "
        "memory (mem_limit=2g)."
    )
    assert decided(state(1), {**result, "full": "/"}, lines=lines).advice.startswith(
        "What was full"
    )


def test_completed_needs_no_advice():
    """Whatever its log says."""
    found = decided(state(), {"outcome": "completed", "value": 1}, lines=["MemoryError"])
    assert found.advice is None


def test_cause_names_what_is_missing():
    """Hydra's "Unable to configure formatter" keeps to itself that a module is missing."""
    below = {"type": "ModuleNotFoundError", "message": "No module named 'colorlog'"}
    error = {"type": "ValueError", "message": "Unable to configure", "cause": below}
    found = decided(state(1), {"outcome": "error", "error": error})
    assert found.cause == (
        "raised ValueError: Unable to configure "
        "(caused by ModuleNotFoundError: No module named 'colorlog')"
    )
    assert found.advice == _advice.NO_MODULE


# ---- restarts ------------------------------------------------------------------------------------


def test_end_before_a_restart():
    """The worker has noted the exit code of its own process, also of ``os._exit``."""
    result = {"outcome": "completed", "value": 1, "exit_code": 0}
    before = _outcome.before_restart(state(143, stop=True, signal=15), result)
    assert decided(before, result) == Outcome(End.COMPLETED, "completed", 0, value=1)
    result = {"outcome": "exited", "code": 7, "after": "completed", "exit_code": 7}
    before = _outcome.before_restart(state(143, stop=True, signal=15), result)
    cause = "its task function returned, but the script then ended with exit code 7"
    assert decided(before, result) == Outcome(End.EXITED, cause, 7)


def test_death_before_a_restart():
    """A process that was gone before it could write its end has no exit code any more."""
    result = {
        "outcome": "exited",
        "code": None,
        "after": "completed",
        "died": True,
        "exit_code": None,
    }
    before = _outcome.before_restart(state(0), result)
    cause = "its task function returned, but its process then died (its exit code is lost)"
    assert decided(before, result) == Outcome(End.EXITED, cause, None)


@pytest.mark.parametrize(
    ("result", "final"),
    [
        (None, False),
        ({"outcome": "completed"}, False),
        ({"outcome": "completed", "exit_code": 0}, True),
        ({"outcome": "exited", "exit_code": None}, True),
    ],
)
def test_final(result, final):
    """A task function may have returned while its script still runs."""
    assert is_final(result) is final


def test_timed_out():
    """The launcher's clock comes before what the container says of its death."""
    result = {"outcome": "error", "error": ERROR}
    assert decided(state(143), result, timed_out="ran too long") == Outcome(
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


# ---- the log -------------------------------------------------------------------------------------


def test_last_lines(tmp_path):
    """The end of a long log, whatever bytes it has."""
    log = tmp_path / "log"
    log.write_bytes(b"t " + b"x" * 50_000 + b"\nt caf\xe9\nt \nt end")
    assert last_lines(log, 3) == ["caf\ufffd", "", "end"]


def test_no_last_lines(tmp_path):
    """No log, a link that a container has put in its place, or a pipe: nothing."""
    (tmp_path / "secret").write_text("x secret\n")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "pipe")
    for name in ("none", "link", "pipe"):
        assert last_lines(tmp_path / name, 3) == []
