"""Running: containers are started as capacity allows, watched, timed out, stopped."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import GIB, HOST, PATIENCE, FakeEngine, Play

from hydra_plugins.hydra_docker_launcher import _running
from hydra_plugins.hydra_docker_launcher._capacity import Capacity
from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits, Mount
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus, Restart
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._running import RunnableJob, run_jobs

COMPLETED = Outcome(End.COMPLETED, "completed", 0)
WAITS = Play(waits=True)
LOST = "the engine no longer knows its container (removed by hand, or the engine's data is gone)"


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    """Whatever happens in a sweep, its threads are over when it is over."""
    before = set(threading.enumerate())
    yield
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(_running, "POLL", 0.001)
    monkeypatch.setattr(_running, "ENGINE_BACKOFF", 0.001)
    monkeypatch.setattr(_running, "LONGEST_WAIT", 0.05)


@dataclass
class Notes:
    """A recorder that remembers. ``broken`` methods raise that error."""

    broken: dict[str, Exception] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)
    ends: dict[int, tuple[Outcome, str | None]] = field(default_factory=dict)
    attempts: list[tuple[object, ...]] = field(default_factory=list)
    order: list[tuple[str, int]] = field(default_factory=list)

    def starting(self, job, spec):
        self._note("starting", job)
        return replace(spec, environment=(("RUN", str(job.number)),))

    def started(self, job, spec, container):
        self._note("started", job)

    def output(self, job, text):
        self._note("output", job)
        self.lines.append((job.number, text))

    def attempted(self, job, outcome, container, state, delay):
        self.attempts.append((job.number, job.attempt, outcome, container, delay))
        self._note("attempted", job)

    def ended(self, job, outcome, container, state):
        self.ends[job.number] = (outcome, container)
        self._note("ended", job)

    def _note(self, event, job):
        self.order.append((event, job.number))
        if event in self.broken:
            raise self.broken[event]


@dataclass
class Sweep:
    """What a test of a sweep needs: jobs in a folder, an engine, a recorder."""

    folder: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    notes: Notes = field(default_factory=Notes)

    def job(self, number, *, timeout=None, cpus=1.0, memory=GIB, gpus=NO_GPUS, restart="no"):
        output = self.folder / str(number)
        output.mkdir()
        spec = ContainerSpec(
            name=f"job-{number}",
            image="sha256:a",
            command=("python3",),
            working_dir="/",
            limits=Limits(cpus, memory, memory, memory, -1),
            boundary=Boundary(user=None),
            gpus=gpus,
            mounts=(Mount(str(output), str(output)),),
            labels=(("hydra.docker.job", str(number)),),
            restart=Restart(restart),
            stop_grace_period=7.0,
        )
        return RunnableJob(number, f"job #{number}", spec, JobPaths(output), timeout)

    def run(self, *jobs, n_jobs=-1, keep="failed", fail_fast=False, gpus=()):
        return run_jobs(
            jobs,
            engine=self.engine,
            capacity=Capacity(HOST, n_jobs, gpus),
            recorder=self.notes,
            keep=keep,
            fail_fast=fail_fast,
        )

    def plays(self, **plays):
        self.engine.plays = {int(name[1:]): play for name, play in plays.items()}


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


@contextlib.contextmanager
def meanwhile(function, *arguments):
    """Run ``function`` in a thread beside the block; raise what it raises."""
    failed = []

    def guarded():
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    try:
        yield
    finally:
        thread.join(PATIENCE)
    if failed:
        raise failed[0]


def interrupt():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


# ---- a sweep where all goes well -----------------------------------------------------------------


def test_outcomes_in_the_order_of_the_jobs(sweep):
    """Whoever ends first, the outcomes come in the order in which the jobs were given."""
    sweep.plays(
        j0=Play(waits=True, result={"outcome": "completed", "value": "a"}),
        j1=Play(result={"outcome": "completed", "value": "b"}),
    )

    def end_the_first_last():
        sweep.engine.wait_for(lambda: 1 in sweep.notes.ends)
        sweep.engine.release(0)

    with meanwhile(end_the_first_last):
        outcomes = sweep.run(sweep.job(0), sweep.job(1))

    assert outcomes == [replace(COMPLETED, value="a"), replace(COMPLETED, value="b")]
    assert [event for event in sweep.notes.order if event[0] == "ended"] == [
        ("ended", 1),
        ("ended", 0),
    ]


def test_no_jobs(sweep):
    """An empty batch has no outcomes."""
    assert sweep.run() == []


def test_steps_of_a_job(sweep):
    """A job is written down before its container exists, and runs as the recorder says."""
    sweep.plays(j0=Play(lines=("hello", "", "wörld")))
    job = sweep.job(0)

    assert sweep.run(job) == [COMPLETED]

    assert sweep.notes.order == [
        ("starting", 0),
        ("started", 0),
        ("output", 0),
        ("output", 0),
        ("output", 0),
        ("ended", 0),
    ]
    assert sweep.engine.specs[0] == replace(job.spec, environment=(("RUN", "0"),))
    assert sweep.engine.calls == [("create", 0), ("start", 0), ("remove", 0)]
    assert sweep.notes.lines == [(0, "hello"), (0, ""), (0, "wörld")]
    assert job.paths.log.read_text() == (
        "2026-11-22T10:00:00.000000000Z hello\n"
        "2026-11-22T10:00:01.000000000Z \n"
        "2026-11-22T10:00:02.000000000Z wörld\n"
    )


# ---- capacity ------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_jobs", [1, 2, 3])
def test_n_jobs_is_never_exceeded(sweep, n_jobs):
    """As many containers run at once as were asked for: no fewer while jobs wait, never more."""
    numbers = range(5)
    sweep.plays(**{f"j{number}": Play(waits=True) for number in numbers})

    def release_one_by_one():
        for number in numbers:
            expected = set(numbers[number : number + n_jobs])
            sweep.engine.wait_for(lambda expected=expected: sweep.engine.running == expected)
            sweep.engine.release(number)

    with meanwhile(release_one_by_one):
        outcomes = sweep.run(*(sweep.job(number) for number in numbers), n_jobs=n_jobs)

    assert outcomes == [COMPLETED] * 5
    assert sweep.engine.most_at_once == n_jobs


@pytest.mark.parametrize(
    ("limits", "at_once"),
    [
        ({"cpus": 1.5}, 2),
        ({"cpus": 0.1, "memory": 3 * GIB}, 2),
        ({"cpus": 0.1, "gpus": Gpus(count=1)}, 3),
        ({"cpus": 4.0, "memory": 8 * GIB}, 1),
    ],
)
def test_as_many_as_fit(sweep, limits, at_once):
    """-1: the machine's CPUs, memory and GPUs are packed, and never promised twice."""
    sweep.plays(**{f"j{number}": Play(waits=True) for number in range(5)})

    def release_all():
        for number in range(5):
            first = set(range(number, min(5, number + at_once)))
            sweep.engine.wait_for(lambda first=first: sweep.engine.running == first)
            sweep.engine.release(number)

    with meanwhile(release_all):
        sweep.run(*(sweep.job(n, **limits) for n in range(5)), gpus=("A", "B", "C"))

    assert sweep.engine.most_at_once == at_once


def test_gpus_are_given_by_id(sweep):
    """Containers that run side by side have different GPUs."""
    sweep.plays(j0=Play(waits=True), j1=Play(waits=True))

    def release_all():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
        sweep.engine.release(0)
        sweep.engine.release(1)

    with meanwhile(release_all):
        sweep.run(*(sweep.job(n, gpus=Gpus(count=1)) for n in range(2)), gpus=("A", "B"))

    found = {number: spec.gpus for number, spec in sweep.engine.specs.items()}
    assert found == {0: Gpus(ids=("A",)), 1: Gpus(ids=("B",))}


# ---- ways to end ---------------------------------------------------------------------------------


def test_others_go_on(sweep):
    """A job that fails leaves the others alone."""
    error = {"type": "ValueError", "message": "no"}
    sweep.plays(
        j0=Play(exit_code=1, result={"outcome": "error", "error": error}),
        j1=Play(exit_code=137, result=None, oom_killed=True),
        j2=Play(exit_code=3, result=None),
    )

    outcomes = sweep.run(*(sweep.job(n) for n in range(4)), n_jobs=1)

    assert outcomes == [
        Outcome(End.ERROR, "raised ValueError: no", 1, error=error),
        Outcome(
            End.OUT_OF_MEMORY,
            "used all of mem_limit=1g",
            137,
            advice="Raise hydra.launcher.mem_limit, or make the job need less.",
            memory_peak=2**30,
            memory_limit=2**30,
        ),
        Outcome(End.EXITED, "ended with exit code 3, without a result", 3),
        COMPLETED,
    ]


@pytest.mark.parametrize(
    ("play", "calls", "container"),
    [
        (Play(create_error="no such image"), [("create", 0)], None),
        (Play(start_error="no such network"), [("create", 0), ("start", 0)], "container-0"),
    ],
)
def test_could_not_start(sweep, play, calls, container):
    """The engine's words are the cause; the next job runs."""
    sweep.plays(j0=play)

    outcomes = sweep.run(sweep.job(0), sweep.job(1), n_jobs=1)

    cause = play.create_error or play.start_error
    assert outcomes == [Outcome(End.NOT_STARTED, cause), COMPLETED]
    assert sweep.engine.calls[: len(calls)] == calls
    assert sweep.notes.ends[0] == (outcomes[0], container)


def test_could_not_be_recorded(sweep):
    """A job whose run cannot be opened has no container, and says why."""
    sweep.notes.broken["starting"] = DockerLauncherError("the store does not answer")

    assert sweep.run(sweep.job(0)) == [Outcome(End.NOT_STARTED, "the store does not answer")]
    assert sweep.engine.calls == []


def test_unexpected_error_before_the_start(sweep):
    """What nobody has foreseen is named with its type, and ends that job only."""
    sweep.notes.broken["starting"] = OSError(28, "No space left on device")

    assert (
        sweep.run(sweep.job(0), sweep.job(1))
        == [Outcome(End.NOT_STARTED, "OSError: [Errno 28] No space left on device")] * 2
    )


def test_launcher_cannot_go_on(sweep):
    """A job that runs cannot be watched any more (a closed pipe): it is stopped, and said so."""
    sweep.plays(j0=Play(lines=("hello",), waits=True))
    sweep.notes.broken["output"] = BrokenPipeError(32, "Broken pipe")

    outcome = Outcome(
        End.STOPPED,
        "the launcher could not go on watching it: BrokenPipeError: [Errno 32] Broken pipe",
    )
    assert sweep.run(sweep.job(0)) == [outcome]
    assert sweep.engine.calls == [("create", 0), ("start", 0), ("stop", 0, 7.0)]


def test_end_could_not_be_recorded(sweep, caplog):
    """A job that completed has completed, also where that cannot be written down."""
    sweep.notes.broken["ended"] = OSError(28, "No space left on device")

    assert sweep.run(sweep.job(0), sweep.job(1), n_jobs=1) == [COMPLETED, COMPLETED]
    assert caplog.messages == [
        f"job #{number} completed, but that could not be recorded: OSError: [Errno 28] No space "
        "left on device"
        for number in (0, 1)
    ]
    assert ("remove", 0) in sweep.engine.calls


def test_log_that_is_a_link(sweep, tmp_path):
    """The log is a file of the output folder: a link there is not followed."""
    job = sweep.job(0)
    (tmp_path / "precious").write_text("precious")
    job.paths.log.symlink_to(tmp_path / "precious")

    outcomes = sweep.run(job)

    assert [outcome.end for outcome in outcomes] == [End.NOT_STARTED]
    assert (tmp_path / "precious").read_text() == "precious"


def test_removed_by_hand(sweep):
    """A container that the engine no longer knows is lost, not completed."""
    sweep.plays(j0=Play(vanishes=True))

    assert sweep.run(sweep.job(0)) == [Outcome(End.LOST, LOST)]


def test_engine_that_pauses(sweep):
    """An engine that does not answer for a while is asked again; no line is lost or doubled."""
    sweep.plays(j0=Play(lines=("hello",), outages=5))

    assert sweep.run(sweep.job(0)) == [COMPLETED]
    assert sweep.notes.lines == [(0, "hello")]


def test_engine_that_is_gone(sweep):
    """After some tries the job is lost; the others are tried."""
    sweep.plays(j0=Play(outages=6))

    assert sweep.run(sweep.job(0), sweep.job(1)) == [
        Outcome(End.LOST, "the engine has stopped to answer: connection refused"),
        COMPLETED,
    ]


# ---- time ----------------------------------------------------------------------------------------


def test_timeout(sweep):
    """A job that runs too long is stopped, with its grace period, and has failed."""
    sweep.plays(j0=Play(waits=True))

    outcomes = sweep.run(sweep.job(0, timeout=0.06), sweep.job(1))

    assert outcomes == [
        Outcome(End.TIMED_OUT, "ran longer than timeout_min=0.001", 143),
        COMPLETED,
    ]
    assert ("stop", 0, 7.0) in sweep.engine.calls


def test_time_of_waiting_does_not_count(sweep):
    """The clock of a job starts with its container."""
    sweep.plays(j0=Play(waits=True), j1=Play(waits=True))

    outcomes = sweep.run(sweep.job(0, timeout=0.05), sweep.job(1, timeout=0.05), n_jobs=1)

    assert [outcome.end for outcome in outcomes] == [End.TIMED_OUT, End.TIMED_OUT]
    assert sweep.engine.calls.index(("stop", 0, 7.0)) < sweep.engine.calls.index(("start", 1))


# ---- stopping ------------------------------------------------------------------------------------


def test_fail_fast(sweep):
    """The first job that fails stops those that run, and those that wait are not started."""
    sweep.plays(j0=Play(waits=True), j1=Play(waits=True, exit_code=1, result=None))

    def fail_the_second():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
        sweep.engine.release(1)

    with meanwhile(fail_the_second):
        outcomes = sweep.run(*(sweep.job(n) for n in range(4)), n_jobs=2, fail_fast=True)

    reason = "fail_fast: job #1 did not complete"
    assert outcomes == [
        Outcome(End.STOPPED, reason, 143),
        Outcome(End.EXITED, "ended with exit code 1, without a result", 1),
        Outcome(End.STOPPED, f"not started: {reason}"),
        Outcome(End.STOPPED, f"not started: {reason}"),
    ]
    assert sorted(sweep.notes.ends) == [0, 1, 2, 3]
    assert [call for call in sweep.engine.calls if call[0] == "stop"] == [("stop", 0, 7.0)]


def test_ctrl_c(sweep):
    """Ctrl-C stops every container and records every job before it goes on."""
    sweep.plays(j0=Play(waits=True), j1=Play(waits=True))

    def interrupt_when_both_run():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
        interrupt()

    with meanwhile(interrupt_when_both_run), pytest.raises(KeyboardInterrupt):
        sweep.run(*(sweep.job(n) for n in range(3)), n_jobs=2)

    assert {number: outcome for number, (outcome, _) in sweep.notes.ends.items()} == {
        0: Outcome(End.STOPPED, "Ctrl-C", 143),
        1: Outcome(End.STOPPED, "Ctrl-C", 143),
        2: Outcome(End.STOPPED, "not started: Ctrl-C"),
    }
    assert sweep.engine.running == set()


def test_ctrl_c_twice(sweep):
    """The second Ctrl-C kills what does not stop."""
    sweep.plays(j0=Play(waits=True, ignores_sigterm=True))

    def interrupt_twice():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0})
        interrupt()
        sweep.engine.wait_for_call("stop", 0, 7.0)
        interrupt()

    with meanwhile(interrupt_twice), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0))

    assert sweep.notes.ends[0][0] == Outcome(End.STOPPED, "Ctrl-C", 137)
    assert sweep.engine.calls[2:4] == [("stop", 0, 7.0), ("stop", 0, 0)]


def test_ctrl_c_while_a_container_is_created(sweep):
    """A job whose container is just being started is stopped as soon as that can be done."""
    gate = threading.Event()
    sweep.plays(j0=Play(waits=True, start_gate=gate))

    def interrupt_during_the_start():
        sweep.engine.wait_for_call("start", 0)
        interrupt()
        sweep.engine.wait_for_call("stop", 0, 7.0)  # comes too early: it does not run yet
        gate.set()

    with meanwhile(interrupt_during_the_start), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0))

    assert sweep.notes.ends[0][0] == Outcome(End.STOPPED, "Ctrl-C", 143)


def test_ctrl_c_before_a_container_exists(sweep, monkeypatch):
    """A job that is still being written down gets no container that runs."""
    entered, told = threading.Event(), threading.Event()
    starting, stop_all = sweep.notes.starting, _running._Scheduler._stop_all

    def slow_starting(job, spec):
        entered.set()
        told.wait(PATIENCE)
        return starting(job, spec)

    def stop_all_and_tell(*arguments, **options):
        stop_all(*arguments, **options)
        told.set()

    def interrupt_during_the_preparation():
        entered.wait(PATIENCE)
        interrupt()

    sweep.notes.starting = slow_starting
    monkeypatch.setattr(_running._Scheduler, "_stop_all", stop_all_and_tell)

    with meanwhile(interrupt_during_the_preparation), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0))

    assert sweep.notes.ends[0][0] == Outcome(End.STOPPED, "Ctrl-C")
    assert ("start", 0) not in sweep.engine.calls


def test_engine_that_cannot_stop(sweep):
    """A stop that the engine refuses is left to the thread that watches the container."""
    from hydra_plugins.hydra_docker_launcher._errors import EngineError

    sweep.plays(j0=Play(waits=True))

    def refuse(container, grace):
        sweep.engine.release(0)
        raise EngineError("busy")

    sweep.engine.stop = refuse

    outcomes = sweep.run(sweep.job(0, timeout=0.05))

    assert [outcome.end for outcome in outcomes] == [End.COMPLETED]


# ---- what stays ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("keep", "removed"), [("none", [0, 1]), ("failed", [0]), ("all", [])])
def test_keep(sweep, keep, removed):
    """Containers that stay keep the file that they would need to run again."""
    sweep.plays(j1=Play(exit_code=1, result=None))
    jobs = [sweep.job(0), sweep.job(1)]
    for job in jobs:
        job.paths.private.mkdir()
        job.paths.job.write_bytes(b"job")

    sweep.run(*jobs, n_jobs=1, keep=keep)

    assert [call[1] for call in sweep.engine.calls if call[0] == "remove"] == removed
    assert [job.number for job in jobs if not job.paths.job.exists()] == removed


def test_file_of_a_job_without_container(sweep):
    """Where no container exists, nothing needs the job's file."""
    sweep.plays(j0=Play(create_error="no"))
    job = sweep.job(0)
    job.paths.private.mkdir()
    job.paths.job.write_bytes(b"job")

    sweep.run(job, keep="all")

    assert not job.paths.job.exists()


@pytest.mark.parametrize(
    ("play", "keep", "folder"),
    [
        (Play(), "failed", False),
        (Play(exit_code=1, result=None), "none", False),
        (Play(exit_code=1, result=None), "failed", True),  # its container has it mounted
        (Play(create_error="no space"), "failed", False),
        (Play(start_error="no device"), "none", False),
    ],
)
def test_secrets(sweep, play, keep, folder):
    """However a job ends, its secrets are removed from the host."""
    job = sweep.job(0)
    job.paths.secrets.mkdir(parents=True)
    (job.paths.secrets / "ssh_key").write_text("private")
    sweep.plays(_0=play)
    sweep.run(job, keep=keep)
    assert list(job.paths.private.rglob("se*")) == ([job.paths.secrets] if folder else [])
    assert list(job.paths.private.rglob("ssh_key")) == []


def test_secrets_after_ctrl_c(sweep):
    """Also those of the jobs that Ctrl-C stops."""
    job = sweep.job(0)
    job.paths.secrets.mkdir(parents=True)
    (job.paths.secrets / "ssh_key").write_text("private")
    sweep.plays(_0=Play(waits=True))

    def stop():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0})
        interrupt()

    with meanwhile(stop), pytest.raises(KeyboardInterrupt):
        sweep.run(job)
    assert list(job.paths.private.rglob("*")) == []


def test_container_that_cannot_be_removed(sweep, caplog):
    """The job has completed all the same."""
    from hydra_plugins.hydra_docker_launcher._errors import EngineError

    def refuse(container):
        raise EngineError("driver failed to remove root filesystem")

    sweep.engine.remove = refuse

    assert sweep.run(sweep.job(0)) == [COMPLETED]
    assert caplog.messages == ["job #0: cannot clean up: driver failed to remove root filesystem"]


# ---- restarts ------------------------------------------------------------------------------------


def test_restart_on_failure(sweep):
    """The engine starts it again; its output goes on where it was."""
    sweep.plays(j0=Play(lines=("one", "two"), restarts=2))

    assert sweep.run(sweep.job(0, restart="on-failure")) == [COMPLETED]
    assert sweep.notes.lines == [(0, "one"), (0, "two")]


@pytest.mark.parametrize("policy", ["always", "unless-stopped"])
@pytest.mark.parametrize(
    ("result", "outcome"),
    [
        ({"outcome": "completed", "value": 3}, Outcome(End.COMPLETED, "completed", 0, value=3)),
        (
            {"outcome": "error", "error": {"type": "ValueError", "message": "no"}},
            Outcome(
                End.ERROR,
                "raised ValueError: no",
                1,
                error={"type": "ValueError", "message": "no"},
            ),
        ),
        (
            {"outcome": "exited", "code": 4, "after": None},
            Outcome(End.EXITED, "called sys.exit(4) before its task function returned", 4),
        ),
    ],
)
def test_policies_that_never_end(sweep, policy, result, outcome):
    """A job that has come to its end is not run again, though its policy would."""
    sweep.plays(j0=Play(restarts=100))
    job = sweep.job(0, restart=policy)
    job.paths.private.mkdir()
    job.paths.result.write_text(json.dumps({**result, "exit_code": outcome.exit_code}))

    assert sweep.run(job) == [outcome]
    assert ("stop", 0, 7.0) in sweep.engine.calls
