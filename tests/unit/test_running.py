"""Running: containers are started as capacity allows, watched, timed out, stopped."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import GIB, HOST, PATIENCE, FakeEngine, Play

from hydra_plugins.hydra_docker_launcher import (
    _admission,
    _advice,
    _attempt,
    _container_log,
    _running,
    _watching,
)
from hydra_plugins.hydra_docker_launcher._capacity import Capacity
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    Limits,
    Mount,
    Occupant,
    Sample,
)
from hydra_plugins.hydra_docker_launcher._errors import (
    DockerLauncherError,
    EngineError,
    OptionError,
)
from hydra_plugins.hydra_docker_launcher._interrupt import Detached
from hydra_plugins.hydra_docker_launcher._masks import masks_of
from hydra_plugins.hydra_docker_launcher._option_values import NO_GPUS, Gpus, Restart
from hydra_plugins.hydra_docker_launcher._options import Retries
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._running import RunnableJob, run_jobs
from hydra_plugins.hydra_docker_launcher._stray_rules import Policy

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
    monkeypatch.setattr(_watching, "POLL", 0.001)
    monkeypatch.setattr(_watching, "ENGINE_BACKOFF", 0.001)
    monkeypatch.setattr(_running, "LONGEST_WAIT", 0.05)


@dataclass
class Notes:
    """A recorder that remembers. ``broken`` methods raise that error."""

    broken: dict[str, Exception] = field(default_factory=dict)
    lines: list[tuple[int, str]] = field(default_factory=list)
    samples: list[tuple[object, ...]] = field(default_factory=list)
    ends: dict[int, tuple[Outcome, str | None]] = field(default_factory=dict)
    attempts: list[tuple[object, ...]] = field(default_factory=list)
    order: list[tuple[str, int]] = field(default_factory=list)
    forgotten: list[int] = field(default_factory=list)
    #: Called whenever it has been told something.
    changed: Callable[[], None] = lambda: None

    def starting(self, job, spec):
        self._note("starting", job)
        return replace(spec, environment=(*spec.environment, ("RUN", str(job.number))))

    def started(self, job, spec, container):
        self._note("started", job)

    def timing_out(self, job, container):
        self._note("timing_out", job)

    def sampled(self, job, container, started, sample):
        self.samples.append((job.number, container, sample))
        self._note("sampled", job)

    def output(self, job, text):
        self.lines.append((job.number, text))
        self._note("output", job)

    def attempted(self, job, outcome, container, state, delay):
        self.attempts.append((job.number, job.attempt, outcome, container, delay))
        self._note("attempted", job)

    def ended(self, job, outcome, container, state):
        self.ends[job.number] = (outcome, container)
        self._note("ended", job)

    def settled(self, job):
        self.forgotten.append(job.number)

    def _note(self, event, job):
        self.order.append((event, job.number))
        self.changed()
        if event in self.broken:
            raise self.broken[event]


@dataclass
class Sweep:
    """What a test of a sweep needs: jobs in a folder, an engine, a recorder."""

    folder: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    notes: Notes = field(default_factory=Notes)
    letting_go: threading.Event = field(default_factory=threading.Event)

    def job(
        self,
        number,
        *,
        timeout=None,
        cpus=1.0,
        memory=GIB,
        gpus=NO_GPUS,
        restart="no",
        backoff=0.0,
        **retries,
    ):
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
        return RunnableJob(
            number,
            f"job #{number}",
            spec,
            JobPaths(output),
            timeout,
            Retries(**retries, backoff=backoff),
        )

    def running_job(self, number, **options):
        """Return a job whose container another launcher has started."""
        job = replace(self.job(number, **options), container=f"found-{number}")
        self.engine.has(job.container, _attempt.specification(job, HOST.memory))
        return job

    def run(self, *jobs, n_jobs=-1, keep="failed", gpus=(), capacity=None, **options):
        return run_jobs(
            jobs,
            engine=self.engine,
            capacity=capacity or Capacity(HOST, n_jobs, gpus),
            recorder=self.notes,
            keep=keep,
            **{"fail_fast": False, **options},
        )

    def log(self, number):
        """Return the lines of a job's container.log without their times."""
        lines = (self.folder / str(number) / "container.log").read_text().splitlines()
        return [line.partition(" ")[2] for line in lines]

    def wait_for_detach(self):
        """Wait until the scheduler has told all attempts to let go."""
        assert self.letting_go.wait(PATIENCE)

    def plays(self, **plays):
        self.engine.plays = {int(name[1:]): play for name, play in plays.items()}


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    sweep = Sweep(tmp_path)
    sweep.notes.changed = sweep.engine.look_again
    detach = _watching.Watch.detach

    def detach_and_tell(watch, **options):
        detach(watch, **options)
        sweep.letting_go.set()

    monkeypatch.setattr(_watching.Watch, "detach", detach_and_tell)
    return sweep


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
        sweep.engine.wait_for(lambda: 1 in sweep.notes.ends and 0 in sweep.engine.running)
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
    assert sweep.engine.specs[0] == replace(
        job.spec,
        environment=(("HYDRA_DOCKER_ATTEMPT", "1"), ("RUN", "0")),
        labels=(("hydra.docker.job", "0"), ("hydra.docker.attempt", "1")),
    )
    assert sweep.engine.calls == [("create", 0), ("start", 0), ("remove", 0)]
    assert sweep.notes.lines == [(0, "hello"), (0, ""), (0, "wörld")]
    assert job.paths.log.read_text() == (
        "2026-11-22T10:00:00.000000000Z hello\n"
        "2026-11-22T10:00:01.000000000Z \n"
        "2026-11-22T10:00:02.000000000Z wörld\n"
    )


def test_stray_files(sweep):
    """What a job left is looked at before its container is removed, and decides its outcome."""
    left = {"/model.pt": b"x"}
    sweep.plays(j0=Play(left=left), j1=Play(left=left), j2=Play(left=left, exit_code=1, result={}))
    policies = [Policy("warn"), Policy("error"), Policy("collect")]
    jobs = [replace(sweep.job(n), stray=policy) for n, policy in enumerate(policies)]

    outcomes = sweep.run(*jobs, n_jobs=1, keep="none")

    assert [outcome.end for outcome in outcomes] == [End.COMPLETED, End.ERROR, End.EXITED]
    assert [outcome.stray.total for outcome in outcomes] == [1, 1, 1]
    assert [sweep.notes.ends[n][0] for n in range(3)] == outcomes
    assert (jobs[2].paths.output / "stray/model.pt").read_bytes() == b"x"
    for number in range(3):
        calls = sweep.engine.calls
        assert calls.index(("changes", number)) < calls.index(("remove", number))


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
    """A job that cannot be watched any more (a mistake in here) is stopped, and that is said."""
    sweep.plays(j0=Play(lines=("hello",), waits=True))
    sweep.notes.broken["output"] = RuntimeError("a bug")

    outcome = Outcome(End.STOPPED, "the launcher could not go on watching it: RuntimeError: a bug")
    assert sweep.run(sweep.job(0)) == [outcome]
    assert sweep.engine.calls == [("create", 0), ("start", 0), ("stop", 0, 7.0)]


@pytest.fixture
def full_disk(monkeypatch):
    """A disk for container.log that can be full, after it has taken a part of a line."""
    write, state = _container_log._write, {"full": True, "refused": 0}

    def refuse(handle, content):
        if state["full"]:
            os.write(handle, content[:30])
            state["refused"] += 1
            raise OSError(errno.ENOSPC, "No space left on device")
        write(handle, content)

    monkeypatch.setattr(_container_log, "_write", refuse)
    return state


def test_log_on_a_full_disk(sweep, full_disk, caplog):
    """The job runs on; its lines are asked for again, and none is missing when there is room."""
    sweep.plays(j0=Play(lines=("one", "two"), waits=True, last_lines=("three",)))
    read = sweep.engine.log_lines

    def until_refused(container, since):
        if full_disk["refused"] == 2:
            full_disk["full"] = False
            sweep.engine.release(0)
        return read(container, since)

    sweep.engine.log_lines = until_refused

    assert sweep.run(sweep.job(0)) == [COMPLETED]
    assert sweep.log(0) == ["one", "two", "three"]
    assert [text for _, text in sweep.notes.lines] == ["one", "two", "three"]
    assert caplog.messages == [
        (
            "job #0: container.log cannot be written to (No space left on device). The job goes "
            "on; what the log lacks is asked for again until its container has ended, while the "
            "engine keeps it."
        )
    ]
    assert [call[0] for call in sweep.engine.calls] == ["create", "start", "remove"]


def test_log_on_a_disk_that_stays_full(sweep, full_disk):
    """A job whose output nobody can keep has completed all the same."""
    sweep.plays(j0=Play(lines=("one",), waits=True))
    job = sweep.running_job(0)
    job.paths.private.mkdir()
    job.paths.result.write_text(json.dumps({"outcome": "completed", "exit_code": 0}))
    sweep.engine.made["found-0"].over = True

    assert sweep.run(job) == [COMPLETED]
    assert full_disk["refused"] > 1
    assert sweep.log(0) == [""]  # the time of a line that has no end


def test_taken_up_on_a_full_disk(sweep, caplog):
    """A container that runs is not stopped because the ledger cannot be written."""
    sweep.notes.broken["started"] = OSError(errno.ENOSPC, "No space left on device")
    assert sweep.run(sweep.running_job(0)) == [COMPLETED]
    assert caplog.messages[0].startswith("job #0 is taken up, but that could not be written down: ")
    assert sweep.engine.calls == [("remove", 0)]


def test_end_could_not_be_recorded(sweep, caplog):
    """A job that completed has completed, also where that cannot be written down.

    All that it takes to write it down later stays.
    """
    sweep.notes.broken["ended"] = OSError(28, "No space left on device")

    assert sweep.run(sweep.job(0), sweep.job(1), n_jobs=1) == [COMPLETED, COMPLETED]
    assert caplog.messages == [
        f"job #{number} completed, but that could not be recorded: OSError: [Errno 28] No space "
        "left on device\nhydra-docker attach will do that."
        for number in (0, 1)
    ]
    assert [call[0] for call in sweep.engine.calls] == ["create", "start"] * 2
    assert sweep.notes.forgotten == []


def test_end_of_a_job_that_waits_could_not_be_recorded(sweep):
    """It is not forgotten either."""
    sweep.plays(j0=Play(exit_code=1, result=None))
    sweep.notes.broken["ended"] = OSError(28, "No space left on device")
    sweep.run(sweep.job(0), sweep.job(1), n_jobs=1, fail_fast=True)
    assert sweep.notes.forgotten == []


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


OUT_OF_SIGHT = Outcome(
    End.LOST,
    "the engine has stopped to answer: connection refused",
    advice=_advice.OUT_OF_SIGHT,
    unseen=True,
)


def container_of(sweep, number):
    """Return id and container of a job; which of several is created first is not known."""
    return next(
        (name, found)
        for name, found in sweep.engine.made.items()
        if dict(found.spec.labels)["hydra.docker.job"] == str(number)
    )


def test_engine_that_is_gone(sweep):
    """After some tries the job is lost, and the others are tried. Its container may run on."""
    sweep.plays(j0=Play(away=True))
    job = sweep.job(0)
    (job.paths.output / ".docker" / "secrets").mkdir(parents=True)
    (job.paths.secrets / "ssh_key").write_text("secret")

    assert sweep.run(job, sweep.job(1), keep="none") == [OUT_OF_SIGHT, COMPLETED]

    assert ("remove", 0) not in sweep.engine.calls
    assert sweep.notes.ends[0] == (OUT_OF_SIGHT, container_of(sweep, 0)[0])
    assert sweep.notes.forgotten == [1]
    assert (job.paths.secrets / "ssh_key").exists()  # it may be started again by its policy


def test_engine_that_goes_as_it_starts_a_container(sweep):
    """Nobody knows whether it has done that: to start the job again could run it twice."""
    sweep.plays(j0=Play(away=True, start_error="connection refused"))
    assert sweep.run(sweep.job(0), keep="none") == [OUT_OF_SIGHT]
    assert [call[0] for call in sweep.engine.calls] == ["create", "start"]
    assert sweep.notes.forgotten == []


def comes_back(sweep, number, play):
    """Let the engine answer again of the container of a job, as soon as it has not once."""
    state = sweep.engine.state

    def ask(container):
        try:
            return state(container)
        except EngineError:
            found = sweep.engine.made[container]
            if dict(found.spec.labels)["hydra.docker.job"] == str(number):
                found.play = play
                sweep.engine.look_again()
            raise

    sweep.engine.state = ask


def test_engine_that_comes_back(sweep, caplog):
    """A container that ran on is watched to its end (retries.infra): none takes its place."""
    sweep.plays(j0=Play(away=True))
    comes_back(sweep, 0, Play(("hello",), result={"outcome": "completed", "value": 2}))

    assert sweep.run(sweep.job(0, infra=1)) == [Outcome(End.COMPLETED, "completed", 0, value=2)]

    assert sweep.engine.calls == [("create", 0), ("start", 0), ("remove", 0)]
    assert sweep.notes.attempts == []
    assert sweep.log(0) == ["hello"]
    (message,) = caplog.messages
    assert message.endswith("\nIts container is looked for again in 0 s.")


def test_engine_that_comes_back_without_a_container(sweep):
    """What the outage has ended counts as one attempt, and is run again."""
    sweep.plays(j0=(Play(away=True), Play()))
    comes_back(sweep, 0, Play(vanishes=True))
    assert sweep.run(sweep.job(0, infra=1)) == [COMPLETED]
    assert [attempt[2].cause for attempt in sweep.notes.attempts] == [LOST]


def test_engine_that_never_comes_back(sweep):
    """It is asked as often as a job may be lost."""
    sweep.plays(j0=(Play(away=True), Play()))
    assert sweep.run(sweep.job(0, infra=2)) == [OUT_OF_SIGHT]
    assert [call[0] for call in sweep.engine.calls] == ["create", "start"]


def test_fail_fast_ends_what_is_out_of_sight(sweep):
    """A container that is to be looked for again is looked for at once, and stopped."""
    sweep.plays(j0=Play(away=True), j1=WAITS)
    comes_back(sweep, 0, WAITS)

    def end_the_other():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
        (_, found), (_, other) = container_of(sweep, 0), container_of(sweep, 1)
        sweep.engine.wait_for(lambda: found.play is WAITS)
        found.end.clear()
        other.exit_code = 3
        other.play = Play(exit_code=3, result=None)
        sweep.engine.release(1)

    with meanwhile(end_the_other):
        outcomes = sweep.run(sweep.job(0, infra=1, backoff=300.0), sweep.job(1), fail_fast=True)

    assert [outcome.end for outcome in outcomes] == [End.STOPPED, End.EXITED]
    assert ("stop", 0, 7.0) in sweep.engine.calls


def test_output_that_comes_late(sweep):
    """As long as the engine says that it runs, a container is not lost, and no line of it is."""
    sweep.plays(j0=Play(lines=("hello",), outages=20))
    assert sweep.run(sweep.job(0)) == [COMPLETED]
    assert sweep.notes.lines == [(0, "hello")]


def test_output_that_cannot_be_read(sweep):
    """A container that has ended has ended so, also where the engine does not give its output."""
    sweep.plays(j0=Play(outages=6, exit_code=3, result=None))

    def ended_unseen(container):
        sweep.engine.made[container].over = True

    start = sweep.engine.start
    sweep.engine.start = lambda container: (start(container), ended_unseen(container))

    assert [outcome.end for outcome in sweep.run(sweep.job(0))] == [End.EXITED]


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


def test_timeout_is_written_down_first(sweep):
    """A launcher that is killed while the job ends could tell nobody otherwise."""
    sweep.plays(j0=Play(waits=True))
    stop = sweep.engine.stop

    def look(container, grace):
        assert sweep.notes.order[-1] == ("timing_out", 0)
        stop(container, grace)

    sweep.engine.stop = look
    assert sweep.run(sweep.job(0, timeout=0.01))[0].end is End.TIMED_OUT


def test_timeout_of_a_launcher_that_was_killed(sweep):
    """Whoever takes up its container knows why it has ended, and whether to run it again."""
    sweep.plays(j0=Play(exit_code=143, result=None))
    job = replace(sweep.running_job(0, timeout=3600.0), overtime=True)
    sweep.engine.made["found-0"].over = True
    assert sweep.run(job) == [Outcome(End.TIMED_OUT, "ran longer than timeout_min=60", 143)]


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
    sweep.plays(j0=Play(waits=True))

    def refuse(container, grace):
        sweep.engine.release(0)
        raise EngineError("busy")

    sweep.engine.stop = refuse

    outcomes = sweep.run(sweep.job(0, timeout=0.05))

    assert [outcome.end for outcome in outcomes] == [End.COMPLETED]


def test_engine_that_cannot_stop_for_long(sweep, caplog):
    """The user is told, and it is tried again as long as the job runs."""
    sweep.plays(j0=Play(waits=True))
    stop, refused = sweep.engine.stop, []

    def refuse(container, grace):
        if len(refused) > _watching.ENGINE_RETRIES:
            return stop(container, grace)
        refused.append(grace)
        raise EngineError("tried to kill container, but did not receive an exit event")

    sweep.engine.stop = refuse

    outcomes = sweep.run(sweep.job(0, timeout=0.01))

    assert outcomes == [Outcome(End.TIMED_OUT, "ran longer than timeout_min=0.000166667", 143)]
    assert caplog.messages == [
        (
            "job #0 is to be stopped, but the engine does not stop its container: tried to kill "
            "container, but did not receive an exit event\nIt is tried again as long as the job "
            "runs. Ctrl-C twice leaves it as it is."
        )
    ]


@pytest.fixture
def endless(sweep, monkeypatch):
    """Have containers that nothing ends, whose output has no end either."""
    monkeypatch.setattr(_running, "KILL_PATIENCE", 0.02)
    over = threading.Event()

    def block(_container, _since):
        over.wait(PATIENCE)
        return iter(())

    sweep.engine.log_lines = block
    yield over
    over.set()


def test_container_that_cannot_be_ended(sweep, endless, caplog):
    """After the second Ctrl-C nobody waits for long: it is left to who takes up the sweep."""
    sweep.plays(j0=Play(waits=True, ignores_sigterm=True))

    def interrupt_twice():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0})
        interrupt()
        sweep.engine.wait_for_call("stop", 0, 7.0)
        interrupt()

    with meanwhile(interrupt_twice), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0), sweep.job(1), n_jobs=1)

    assert caplog.messages == [
        (
            "job #0 has not come to its end, though its container was to be killed 0.02 s ago. It "
            "is left as it is, and its end is not known: hydra-docker attach takes it up."
        )
    ]
    assert sweep.notes.ends == {1: (Outcome(End.STOPPED, "not started: Ctrl-C"), None)}
    endless.set()  # whatever becomes of it now: another process may look after it
    for thread in threading.enumerate():
        if thread.name.startswith("job-"):
            thread.join(PATIENCE)
    assert list(sweep.notes.ends) == [1]
    assert sweep.notes.forgotten == [1]


def test_stop_of_a_container_that_cannot_be_ended(sweep, endless):
    """``hydra-docker stop`` then is interrupted: it has not stopped everything."""
    sweep.plays(j0=WAITS)

    def interrupt_it():
        sweep.engine.wait_for_call("stop", 0, 7.0)
        interrupt()

    with meanwhile(interrupt_it), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.running_job(0), stop="hydra-docker stop", on_interrupt="detach")
    assert sweep.notes.ends == {}


def test_ctrl_c_before_the_first_step(sweep):
    """Jobs that were just written down have an end: whoever takes up the sweep starts none."""
    with pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0), sweep.job(1), begin=interrupt)
    stopped = (Outcome(End.STOPPED, "not started: Ctrl-C"), None)
    assert sweep.notes.ends == {0: stopped, 1: stopped}
    assert sweep.engine.calls == []


def test_ctrl_c_twice_before_the_first_step(sweep):
    """Containers of another launcher are taken up to be killed."""
    sweep.plays(j0=Play(waits=True, ignores_sigterm=True))

    def twice():
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.running_job(0), begin=twice)
    assert sweep.notes.ends[0][0] == Outcome(End.STOPPED, "Ctrl-C", 137)


def test_jobs_that_cannot_be_written_down(sweep):
    """Then there is nothing to call off."""

    def fail():
        raise DockerLauncherError("cannot write")

    with pytest.raises(DockerLauncherError, match="cannot write"):
        sweep.run(sweep.job(0), begin=fail)
    assert sweep.notes.order == []


@pytest.mark.parametrize("step", ["_turn", "_take_up_containers", "_call_off", "_take_out"])
def test_ctrl_c_at_any_step(sweep, monkeypatch, step):
    """Wherever it comes, every job has one end, and no container runs."""
    sweep.plays(j0=WAITS, j1=WAITS)
    before = getattr(_running._Scheduler, step)

    def interrupted(*arguments, **options):
        interrupt()
        return before(*arguments, **options)

    monkeypatch.setattr(_running._Scheduler, step, interrupted)

    def first():
        if step in ("_call_off", "_take_out"):  # what comes only after it
            sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
            interrupt()

    with meanwhile(first), pytest.raises(KeyboardInterrupt):
        sweep.run(*(sweep.job(n) for n in range(3)), n_jobs=2)
    assert {number: end[0].end for number, end in sweep.notes.ends.items()} == dict.fromkeys(
        range(3), End.STOPPED
    )
    assert sweep.engine.running == set()


def test_ctrl_c_at_the_last_step(sweep, monkeypatch):
    """Who asks for an end gets it, also where the last job has just completed by itself."""
    take_out = _running._Scheduler._take_out

    def interrupted(scheduler, watch):
        interrupt()
        take_out(scheduler, watch)

    monkeypatch.setattr(_running._Scheduler, "_take_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0))
    assert sweep.notes.ends[0][0] == COMPLETED


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


def test_return_value_with_a_secret(sweep):
    """It goes to the sweeper as it is; the record has it without, and no file is left."""
    job = replace(sweep.job(0), masks=masks_of(["training"]))
    value = {"phase": "training", "x": "a"}
    sweep.plays(_0=Play(result={"outcome": "completed", "value": value}))
    (outcome,) = sweep.run(job)
    assert outcome.value == value
    recorded, _ = sweep.notes.ends[0]
    assert recorded.value == {"phase": "<hidden>", "x": "a"}


def test_secrets_of_a_job_that_is_called_off(sweep):
    """Its files can be there before its container is: its launcher was killed in between."""
    first, second = sweep.job(0), sweep.job(1)
    second.paths.secrets.mkdir(parents=True)
    (second.paths.secrets / "ssh_key").write_text("private")
    second.paths.job.write_text("job")
    sweep.plays(_0=Play(exit_code=1, result=None))
    outcomes = sweep.run(first, second, n_jobs=1, fail_fast=True)
    assert outcomes[1].end is End.STOPPED
    assert list(second.paths.private.rglob("*")) == []


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


DIES = Play(exit_code=139, result=None, restarts=100, dies=True)


@pytest.mark.parametrize("policy", ["always", "unless-stopped", "on-failure"])
@pytest.mark.parametrize(
    ("play", "end"),
    [
        (DIES, End.EXITED),
        (replace(DIES, exit_code=137, oom_killed=True), End.OUT_OF_MEMORY),
        (replace(DIES, exit_code=0), End.EXITED),
    ],
)
def test_container_that_dies_again_and_again(sweep, caplog, policy, play, end):
    """Policies are for outages: what dies by itself each time is ended, as its last death says."""
    sweep.plays(j0=play)

    (outcome,) = sweep.run(sweep.job(0, restart=policy))

    assert (outcome.end, outcome.exit_code) == (end, play.exit_code)
    assert caplog.messages == [
        (
            "job #0: its container has died 4 times in a row, and is not started again "
            f"(hydra.launcher.restart={policy} is for outages)"
        )
    ]
    assert ("stop", 0, 7.0) in sweep.engine.calls


def test_container_that_dies_is_run_again_by_cause(sweep):
    """After that come the retries, with more memory where that is the cause."""
    sweep.plays(j0=(replace(DIES, exit_code=137, oom_killed=True), Play()))
    assert sweep.run(sweep.job(0, restart="always", oom=1, mem_factor=2)) == [COMPLETED]
    assert [made.spec.limits.memory for made in sweep.engine.made.values()] == [GIB, 2 * GIB]


def test_restarts_that_have_a_number(sweep):
    """on-failure:9 is the engine's to count."""
    sweep.plays(j0=replace(DIES, restarts=9))
    job = sweep.job(0)
    job = replace(job, spec=replace(job.spec, restart=Restart("on-failure", 9)))
    (outcome,) = sweep.run(job)
    assert outcome.end is End.EXITED
    assert [call[0] for call in sweep.engine.calls] == ["create", "start"]


# ---- retries -------------------------------------------------------------------------------------

RAISES = Play(("one",), 1, {"outcome": "error", "error": {"type": "ValueError", "message": "no"}})
RAISED = "raised ValueError: no"


@pytest.mark.parametrize(
    ("play", "cause", "end", "after"),
    [
        (Play(exit_code=137, result=None, oom_killed=True), "oom", End.OUT_OF_MEMORY, "out of"),
        (RAISES, "error", End.ERROR, "error"),
        (Play(exit_code=3, result=None), "error", End.EXITED, "exited"),
        (Play(create_error="no"), "infra", End.NOT_STARTED, "could not start"),
        (Play(start_error="no"), "infra", End.NOT_STARTED, "could not start"),
        (Play(vanishes=True), "infra", End.LOST, "lost"),
        (Play(waits=True), "timeout", End.TIMED_OUT, "timed out"),
    ],
)
def test_runs_again(sweep, play, cause, end, after):
    """A job is run again by the cause of its end: in a container of its own, in the same folder."""
    sweep.plays(j0=(play, Play(("two",), result={"outcome": "completed", "value": 2})))
    job = sweep.job(0, timeout=0.05 if end is End.TIMED_OUT else None)
    job = replace(job, retries=Retries(**{cause: 1}, backoff=0.0))

    assert sweep.run(job) == [Outcome(End.COMPLETED, "completed", 0, value=2)]

    assert [attempt[2].end for attempt in sweep.notes.attempts] == [end]
    assert list(sweep.notes.ends) == [0]
    last = [container.spec for container in sweep.engine.made.values()][-1]
    assert last.name == "job-0-2"
    assert ("HYDRA_DOCKER_ATTEMPT", "2") in last.environment
    assert ("hydra.docker.attempt", "2") in last.labels
    assert all(container.removed for container in sweep.engine.made.values())
    mark, line = sweep.log(0)[-2:]
    assert mark.startswith(f"hydra-docker: attempt 2 (after: {after}")
    assert line == "two"


def test_order_of_attempts(sweep):
    """Each attempt is written down, and its container gone, before the next one starts."""
    sweep.plays(j0=(RAISES, RAISES, Play(("two",))))

    assert sweep.run(sweep.job(0, error=2, backoff=0.001)) == [COMPLETED]

    first = ["starting", "started", "output", "attempted"]
    assert [event for event, _ in sweep.notes.order] == first * 2 + [*first[:3], "ended"]
    assert [call[0] for call in sweep.engine.calls] == ["create", "start", "remove"] * 3
    outcome = Outcome(End.ERROR, RAISED, 1, error=RAISES.result["error"])
    assert sweep.notes.attempts == [
        (0, 1, outcome, "container-0", 0.001),
        (0, 2, outcome, "container-1", 0.002),
    ]
    assert sweep.log(0) == [
        "one",
        "hydra-docker: attempt 2 (after: error)",
        "one",
        "hydra-docker: attempt 3 (after: error)",
        "two",
    ]


def test_retries_are_used_up(sweep):
    """The last attempt's end is the job's; its container is kept, those before are not."""
    sweep.plays(j0=(RAISES, Play(oom_killed=True, exit_code=137, result=None), RAISES))

    outcomes = sweep.run(sweep.job(0, error=1, oom=1))

    assert [outcome.cause for outcome in outcomes] == [RAISED]
    assert sweep.notes.ends[0][1] == "container-2"
    assert [made.removed for made in sweep.engine.made.values()] == [True, True, False]


def test_retry_of_a_kept_sweep(sweep):
    """keep=all is about jobs: of each, the last container stays."""
    sweep.plays(j0=(RAISES, Play()))
    sweep.run(sweep.job(0, error=1), keep="all")
    assert [made.removed for made in sweep.engine.made.values()] == [True, False]


def test_other_causes_are_not_repeated(sweep):
    """A number counts for its own cause only."""
    sweep.plays(j0=RAISES)
    job = replace(sweep.job(0), retries=Retries(oom=3, infra=3, timeout=3))
    assert sweep.run(job)[0].end is End.ERROR
    assert sweep.notes.attempts == []


def test_more_memory(sweep, caplog):
    """After it was out of memory, a job gets more; the user is told how much."""
    sweep.plays(j0=Play(oom_killed=True, exit_code=137, result=None))

    outcomes = sweep.run(sweep.job(0, memory=3 * GIB, oom=2, mem_factor=2))

    assert [made.spec.limits.memory for made in sweep.engine.made.values()] == [
        3 * GIB,
        6 * GIB,
        8 * GIB,
    ]
    assert outcomes[0].cause == "used all of mem_limit=8g"
    assert caplog.messages == [
        "job #0: attempt 2 gets mem_limit=6g",
        (
            "job #0: attempt 3 would get mem_limit=12g, which is more than the engine's machine "
            "has: it gets all of its 8g"
        ),
    ]


class AskedCapacity(Capacity):
    """Notes which memory it had no room for, and calls ``refused``."""

    def fits(self, spec):
        fits = super().fits(spec)
        if not fits:
            self.refused(spec.limits.memory)
        return fits


def test_room_for_more_memory(sweep):
    """An attempt with more memory waits until there is room for that much."""
    sweep.plays(j0=(Play(oom_killed=True, exit_code=137, result=None), Play()), j1=WAITS)
    capacity = AskedCapacity(HOST, -1)

    def refused(memory):
        if memory == 6 * GIB and 1 in sweep.engine.running:
            sweep.engine.release(1)

    capacity.refused = refused
    jobs = [sweep.job(0, memory=3 * GIB, oom=1, mem_factor=2), sweep.job(1, memory=3 * GIB)]

    assert sweep.run(*jobs, capacity=capacity) == [COMPLETED, COMPLETED]
    assert sweep.notes.order.index(("ended", 1)) < _second(sweep.notes.order, ("starting", 0))


def _second(items, item):
    return items.index(item, items.index(item) + 1)


def test_others_go_on_during_the_backoff(sweep):
    """A job that waits for its next attempt takes no room. Ctrl-C then ends it for good."""
    sweep.plays(j0=RAISES)

    def interrupt_when_the_others_are_over():
        sweep.engine.wait_for(lambda: {1, 2} <= set(sweep.notes.ends))
        interrupt()

    with meanwhile(interrupt_when_the_others_are_over), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0, error=1, backoff=300.0), sweep.job(1), sweep.job(2), n_jobs=1)

    assert sweep.engine.most_at_once == 1
    stopped = Outcome(End.STOPPED, "attempt 2 was not started (after: error): Ctrl-C")
    assert sweep.notes.ends[0] == (stopped, None)


def test_fail_fast_counts_the_last_attempt(sweep):
    """A job that completes at its second attempt does not stop the sweep."""
    sweep.plays(j0=(RAISES, Play()))
    jobs = [sweep.job(n, error=1) for n in range(3)]
    assert sweep.run(*jobs, n_jobs=1, fail_fast=True) == [COMPLETED] * 3


def test_fail_fast_ends_what_waits(sweep):
    """When a job has failed for good, those that wait for another attempt get none."""
    sweep.plays(j0=RAISES, j1=RAISES)

    outcomes = sweep.run(
        sweep.job(0, error=1, backoff=300.0), sweep.job(1), n_jobs=1, fail_fast=True
    )

    reason = "fail_fast: job #1 did not complete"
    assert outcomes[0] == Outcome(
        End.STOPPED, f"attempt 2 was not started (after: error): {reason}"
    )
    assert outcomes[1].end is End.ERROR
    assert sweep.notes.ends[0][0] == outcomes[0]


def test_ctrl_c_while_an_attempt_ends(sweep, monkeypatch):
    """The attempt is written down, the next one is not begun, and the job has its end."""
    sweep.plays(j0=RAISES)
    told = threading.Event()
    attempted, abort = sweep.notes.attempted, _running._Scheduler._abort

    def interrupted(*arguments):
        interrupt()
        assert told.wait(PATIENCE)
        attempted(*arguments)

    def abort_and_tell(scheduler, reason):
        told.set()
        abort(scheduler, reason)

    sweep.notes.attempted = interrupted
    monkeypatch.setattr(_running._Scheduler, "_abort", abort_and_tell)
    with pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0, error=1))

    stopped = Outcome(End.STOPPED, "attempt 2 was not started (after: error): Ctrl-C")
    assert sweep.notes.ends == {0: (stopped, None)}
    assert [call[0] for call in sweep.engine.calls] == ["create", "start", "remove"]


def test_ctrl_c_during_the_second_attempt(sweep):
    """It is stopped as the first one would be, and not repeated."""
    sweep.plays(j0=(RAISES, WAITS))

    def interrupt_the_second():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0} and len(sweep.engine.made) == 2)
        interrupt()

    with meanwhile(interrupt_the_second), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.job(0, error=3, timeout=None))

    assert sweep.notes.ends[0][0] == Outcome(End.STOPPED, "Ctrl-C", 143)
    assert len(sweep.engine.made) == 2


def test_timeout_of_an_attempt_that_has_just_ended(sweep, monkeypatch):
    """A deadline that passes while the end is written down changes nothing."""
    passed = threading.Event()
    time_out, attempted = _watching.Watch.time_out, sweep.notes.attempted

    def time_out_and_tell(watch):
        time_out(watch)
        passed.set()

    def slow(*arguments):
        assert passed.wait(PATIENCE)
        attempted(*arguments)

    monkeypatch.setattr(_watching.Watch, "time_out", time_out_and_tell)
    sweep.notes.attempted = slow
    sweep.plays(j0=(RAISES, Play()))

    outcomes = sweep.run(sweep.job(0, timeout=0.01, error=1))

    assert outcomes[0].end in (End.COMPLETED, End.TIMED_OUT)  # the second may be slow itself
    assert sweep.notes.attempts[0][2].end is End.ERROR
    assert sweep.engine.calls[:3] == [("create", 0), ("start", 0), ("remove", 0)]


def test_attempt_that_could_not_be_recorded(sweep, caplog):
    """The next attempt is made all the same."""
    sweep.notes.broken["attempted"] = OSError(28, "No space left on device")
    sweep.plays(j0=(RAISES, Play()))

    assert sweep.run(sweep.job(0, error=1)) == [COMPLETED]
    assert caplog.messages == [
        "job #0 error, but that could not be recorded: OSError: [Errno 28] No space left on device"
    ]


def test_never_two_containers_of_a_job(sweep):
    """A container that could not be removed is removed before there is another one."""
    sweep.plays(j0=(Play(vanishes=True), Play()))
    remove = sweep.engine.remove
    failures = iter([True, True])

    def fail_twice(container):
        if next(failures, False):
            refusal = EngineError("busy")
            refusal.transient = True
            raise refusal
        remove(container)

    sweep.engine.remove = fail_twice

    outcomes = sweep.run(sweep.job(0, infra=2))

    assert outcomes == [COMPLETED]
    assert [(attempt[1], attempt[2].cause) for attempt in sweep.notes.attempts] == [
        (1, LOST),
        (2, "busy"),
    ]
    assert [call[0] for call in sweep.engine.calls] == [
        "create",
        "start",
        "remove",  # now it is gone
        "create",
        "start",
        "remove",
    ]


def test_refusal_that_would_come_again(sweep):
    """What the engine will never do is not asked for again."""
    sweep.plays(
        j0=Play(create_error="no such image", transient=False),
        j1=Play(start_error="no such executable", transient=False),
    )
    assert sweep.run(sweep.job(0, infra=5), sweep.job(1, infra=5)) == [
        Outcome(End.NOT_STARTED, "no such image"),
        Outcome(End.NOT_STARTED, "no such executable"),
    ]
    assert sweep.notes.attempts == []

    sweep.notes.broken["starting"] = OptionError("no such option")
    assert sweep.run(sweep.job(2, infra=5)) == [Outcome(End.NOT_STARTED, "no such option")]
    assert sweep.notes.attempts == []


def test_secrets_and_files_between_attempts(sweep):
    """While a job waits, nothing of its secrets is on the host."""
    sweep.plays(j0=(RAISES, Play()))
    job = sweep.job(0, error=1)
    starting, left = sweep.notes.starting, []

    def with_secrets(job, spec):
        left.append([path.name for path in job.paths.private.rglob("*")])
        job.paths.secrets.mkdir(parents=True)
        (job.paths.secrets / "ssh_key").write_text("private")
        job.paths.job.write_text("job")
        return starting(job, spec)

    sweep.notes.starting = with_secrets

    assert sweep.run(job) == [COMPLETED]
    assert left == [[], ["result.json"]]


# ---- containers of another launcher --------------------------------------------------------------


def test_container_is_taken_up(sweep):
    """A container that runs is watched to its end: no other one is created or started."""
    sweep.plays(
        j0=Play(
            ("a", "b", "c"),
            waits=True,
            last_lines=("d",),
            result={"outcome": "completed", "value": 3},
        )
    )
    job = sweep.running_job(0)
    job.paths.log.write_text(
        "2026-11-22T10:00:00.000000000Z a\n2026-11-22T10:00:01.000000000Z b\n2026-11-22T10:0"
    )

    def release_it():
        sweep.engine.wait_for(lambda: (0, "c") in sweep.notes.lines)
        sweep.engine.release(0)

    with meanwhile(release_it):
        assert sweep.run(job) == [Outcome(End.COMPLETED, "completed", 0, value=3)]

    assert sweep.notes.order[0] == ("started", 0)
    assert [event for event, _ in sweep.notes.order] == ["started", "output", "output", "ended"]
    assert sweep.notes.lines == [(0, "c"), (0, "d")]
    assert sweep.log(0) == ["a", "b", "c", "d"]
    assert sweep.notes.ends[0][1] == "found-0"
    assert sweep.engine.calls == [("remove", 0)]


def test_container_that_has_ended_meanwhile(sweep):
    """It may have run longer than timeout_min: it has ended by itself all the same."""
    sweep.plays(j0=Play(("a",), exit_code=1, result=None))
    job = replace(sweep.running_job(0, timeout=1.0), started_at=0.0)
    list(sweep.engine.log_lines("found-0", None))  # it has ended

    outcomes = sweep.run(job)

    assert outcomes == [Outcome(End.EXITED, "ended with exit code 1, without a result", 1)]
    assert sweep.log(0) == ["a"]
    assert sweep.engine.calls == []


def test_container_that_is_gone_meanwhile(sweep):
    """Nobody knows how it has ended: the job is lost, or run again."""
    jobs = [sweep.running_job(0), sweep.running_job(1, infra=1)]
    for job in jobs:
        sweep.engine.made[job.container].removed = True

    assert sweep.run(*jobs) == [Outcome(End.LOST, LOST), COMPLETED]
    assert [call for call in sweep.engine.calls if call[0] == "start"] == [("start", 1)]


def test_timeout_goes_on_counting(sweep):
    """The time of a job began when it was started, not when it was taken up."""
    sweep.plays(j0=WAITS)
    job = replace(sweep.running_job(0, timeout=3600.0), started_at=time.time() - 7200)

    assert sweep.run(job) == [Outcome(End.TIMED_OUT, "ran longer than timeout_min=60", 143)]


def test_containers_come_first(sweep):
    """What runs already has its room, whatever it takes; others start when there is some again."""
    sweep.plays(j1=WAITS, j2=WAITS)
    jobs = [sweep.job(0), sweep.running_job(1), sweep.running_job(2)]
    capacity = AskedCapacity(HOST, 1)

    def refused(_memory):
        for number in (1, 2):
            sweep.engine.release(number)

    capacity.refused = refused

    assert sweep.run(*jobs, capacity=capacity) == [COMPLETED] * 3
    order = sweep.notes.order
    assert order.index(("starting", 0)) > max(order.index(("ended", n)) for n in (1, 2))


def test_second_attempt_is_taken_up(sweep):
    """Retries that were used before are used."""
    sweep.plays(j0=RAISES)
    first = sweep.job(0, error=2)
    job = replace(first, attempt=2, earlier=(End.ERROR,), container="found-0")
    sweep.engine.has("found-0", _attempt.specification(job, HOST.memory))
    job.paths.log.write_text(
        "2026-11-22T10:00:00.000000000Z one\n"
        "2026-11-22T10:01:00.000000000Z hydra-docker: attempt 2 (after: error)\n"
    )

    assert sweep.run(job)[0].cause == RAISED
    assert [attempt[:2] for attempt in sweep.notes.attempts] == [(0, 2)]
    assert sweep.log(0) == [
        "one",
        "hydra-docker: attempt 2 (after: error)",
        "one",
        "hydra-docker: attempt 3 (after: error)",
        "one",
    ]


def test_ctrl_c_stops_containers_that_were_taken_up(sweep):
    """They are stopped and recorded as all others."""
    sweep.plays(j0=WAITS, j1=WAITS)

    def interrupt_when_both_are_watched():
        sweep.engine.wait_for(lambda: {("started", 0), ("started", 1)} <= set(sweep.notes.order))
        interrupt()

    with meanwhile(interrupt_when_both_are_watched), pytest.raises(KeyboardInterrupt):
        sweep.run(sweep.running_job(0), sweep.running_job(1), n_jobs=1)

    assert {number: end[0].cause for number, end in sweep.notes.ends.items()} == {
        0: "Ctrl-C",
        1: "Ctrl-C",
    }
    assert sweep.engine.running == set()


def test_policy_that_never_ends_is_taken_up(sweep):
    """One that has its result already is stopped, as ever."""
    sweep.plays(j0=Play(restarts=100))
    job = sweep.running_job(0, restart="always")
    job.paths.private.mkdir()
    job.paths.result.write_text(json.dumps({"outcome": "completed", "value": 3, "exit_code": 0}))

    assert sweep.run(job) == [Outcome(End.COMPLETED, "completed", 0, value=3)]
    assert ("stop", 0, 7.0) in sweep.engine.calls


# ---- detach --------------------------------------------------------------------------------------


def detached(sweep, *jobs, until, **options):
    """Run jobs, interrupt when ``until`` is true, and expect that they are let go."""

    def interrupt_then():
        sweep.engine.wait_for(until)
        interrupt()

    with meanwhile(interrupt_then), pytest.raises(Detached, match="Ctrl-C"):
        sweep.run(*jobs, on_interrupt="detach", **options)


def test_detach(sweep):
    """Containers run on, and nothing more is written: somebody else takes it from here."""
    sweep.plays(
        j0=Play(("a",), waits=True, last_lines=("b",)),
        j1=Play(("a",), waits=True, exit_code=1, result=None),
    )
    jobs = [sweep.job(n, timeout=0.1 if n == 3 else None) for n in range(3)]

    detached(sweep, *jobs, n_jobs=2, until=lambda: {(0, "a"), (1, "a")} <= set(sweep.notes.lines))

    order = list(sweep.notes.order)
    sweep.engine.release(0)
    sweep.engine.release(1)
    for thread in threading.enumerate():
        if thread.name.startswith("job-"):
            thread.join(PATIENCE)
    assert sweep.notes.order == order
    assert sweep.notes.ends == {}
    assert ("starting", 2) not in order
    assert [sweep.log(n) for n in (0, 1)] == [["a"], ["a"]]
    assert {call[0] for call in sweep.engine.calls} == {"create", "start"}


def test_detach_while_a_container_is_started(sweep):
    """It is started first: whoever takes it up finds it running."""
    gate = threading.Event()
    sweep.plays(j0=Play(("a",), waits=True, start_gate=gate))

    def interrupt_during_the_start():
        sweep.engine.wait_for_call("start", 0)
        interrupt()
        sweep.wait_for_detach()
        gate.set()

    with meanwhile(interrupt_during_the_start), pytest.raises(Detached):
        sweep.run(sweep.job(0), on_interrupt="detach")

    assert sweep.engine.running == {0}
    assert sweep.log(0) == []
    assert sweep.notes.ends == {}
    sweep.engine.release(0)


def test_detach_before_a_container_exists(sweep):
    """Then none is made."""
    starting = sweep.notes.starting

    def slow(job, spec):
        interrupt()
        sweep.wait_for_detach()
        return starting(job, spec)

    sweep.notes.starting = slow
    with pytest.raises(Detached):
        sweep.run(sweep.job(0), on_interrupt="detach")

    assert sweep.engine.calls == []
    assert sweep.notes.ends == {}
    assert not (sweep.folder / "0" / "container.log").exists()


def test_detach_with_a_container_that_cannot_start(sweep):
    """That is its end, and is recorded as such."""
    gate = threading.Event()
    sweep.plays(j0=Play(start_error="no such network", start_gate=gate))

    def interrupt_during_the_start():
        sweep.engine.wait_for_call("start", 0)
        interrupt()
        sweep.wait_for_detach()
        gate.set()

    with meanwhile(interrupt_during_the_start), pytest.raises(Detached):
        sweep.run(sweep.job(0), on_interrupt="detach")

    assert sweep.notes.ends[0][0] == Outcome(End.NOT_STARTED, "no such network")


@pytest.mark.parametrize("method", ["ended", "attempted"])
def test_detach_while_an_end_is_recorded(sweep, method):
    """A job that has ended is recorded before the launcher ends."""
    sweep.plays(j0=RAISES)
    record = getattr(sweep.notes, method)

    def slow(*arguments):
        interrupt()
        sweep.wait_for_detach()
        record(*arguments)

    setattr(sweep.notes, method, slow)
    with pytest.raises(Detached):
        sweep.run(sweep.job(0, error=int(method == "attempted")), on_interrupt="detach")

    assert sweep.notes.order[-1] == (method, 0)
    assert len(sweep.engine.made) == 1


def test_detach_while_a_job_is_stopped(sweep):
    """A job whose time is over comes to its end: nobody could tell the cause later."""
    sweep.plays(j0=Play(waits=True))
    stop = sweep.engine.stop

    def slow(container, grace):
        interrupt()
        sweep.wait_for_detach()
        stop(container, grace)

    sweep.engine.stop = slow
    with pytest.raises(Detached):
        sweep.run(sweep.job(0, timeout=0.05), on_interrupt="detach")

    assert sweep.notes.ends[0][0].end is End.TIMED_OUT


def test_detach_twice(sweep):
    """The second Ctrl-C waits for nothing; nothing is written all the same."""
    gate = threading.Event()
    sweep.plays(j0=Play(("a",), waits=True, start_gate=gate))

    def interrupt_twice():
        sweep.engine.wait_for_call("start", 0)
        interrupt()
        sweep.wait_for_detach()
        interrupt()

    with meanwhile(interrupt_twice), pytest.raises(Detached):
        sweep.run(sweep.job(0), on_interrupt="detach")

    gate.set()
    sweep.engine.wait_for(lambda: sweep.engine.running == {0})
    sweep.engine.release(0)
    for thread in threading.enumerate():
        if thread.name.startswith("job-"):
            thread.join(PATIENCE)
    assert sweep.log(0) == []
    assert sweep.notes.ends == {}


def test_detach_during_the_backoff(sweep):
    """What waits for its next attempt is left to whoever takes up the sweep."""
    sweep.plays(j0=RAISES)
    detached(
        sweep,
        sweep.job(0, error=1, backoff=300.0),
        until=lambda: ("remove", 0) in sweep.engine.calls,
    )
    assert sweep.notes.ends == {}
    assert [attempt[:2] for attempt in sweep.notes.attempts] == [(0, 1)]


def test_detach_in_an_error_of_the_launcher(sweep):
    """Only an interrupt lets containers run on; after an error they are stopped."""
    sweep.plays(j0=WAITS)
    capacity = AskedCapacity(HOST, 1)

    def refused(_memory):
        raise RuntimeError("a bug")

    capacity.refused = refused
    with pytest.raises(RuntimeError, match="a bug"):
        sweep.run(sweep.job(0), sweep.job(1), capacity=capacity, on_interrupt="detach")
    assert [end[0].end for end in sweep.notes.ends.values()] == [End.STOPPED, End.STOPPED]


# ---- what jobs use -------------------------------------------------------------------------------

SAMPLE = Sample(1000.0, 0.5, 7)


def test_jobs_are_measured_while_they_run(sweep):
    """From its start to its end, whoever has started it; nothing comes after its end."""
    sweep.plays(_0=replace(WAITS, uses=(SAMPLE,)), _1=replace(WAITS, uses=(SAMPLE,)))
    jobs = [sweep.job(0), sweep.running_job(1)]

    def let_them_end():
        sweep.engine.wait_for(lambda: {0, 1} <= {sample[0] for sample in sweep.notes.samples})
        sweep.engine.release(0)
        sweep.engine.release(1)

    with meanwhile(let_them_end):
        sweep.run(*jobs)

    assert set(sweep.notes.samples) == {(0, "container-1", SAMPLE), (1, "found-1", SAMPLE)}
    for number in (0, 1):
        order = [event for event, of in sweep.notes.order if of == number]
        assert order.index("started") < order.index("sampled")
        assert "sampled" not in order[order.index("ended") :]


def test_nothing_is_measured(sweep):
    """system_metrics=false: the engine is not asked."""
    sweep.plays(_0=replace(WAITS, uses=(SAMPLE,)))
    sampler = [thread.name for thread in threading.enumerate()].count("sampler")

    def look():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0})
        assert [thread.name for thread in threading.enumerate()].count("sampler") == sampler
        sweep.engine.release(0)

    with meanwhile(look):
        sweep.run(sweep.job(0), system_metrics=False)
    assert sweep.engine.made["container-0"].measured == 0


# ---- with an eye on the whole engine -------------------------------------------------------------


@pytest.fixture
def admitted(sweep, monkeypatch):
    """Jobs start when the engine has room for them, whoever uses the rest."""
    monkeypatch.setattr(_admission, "FIRST_PAUSE", 0.005)
    monkeypatch.setattr(_admission, "LONGEST_PAUSE", 0.01)

    def run(*jobs, n_jobs=-1, gpus=(), **options):
        capacity = Capacity(HOST, n_jobs, gpus, engine_wide=True)
        outcomes = sweep.run(*jobs, capacity=capacity, **options)
        assert sweep.engine.noted == {}, "a ticket is left"
        return outcomes

    return run


def of_others(cpus):
    return Occupant("other", "other", {}, float(cpus), GIB)


def test_waits_for_others(sweep, admitted):
    """A job starts when what others run leaves room for it, and no sooner."""
    sweep.engine.others = (of_others(HOST.cpus),)

    def end_the_other():
        sweep.engine.wait_for(lambda: len(sweep.engine.noted) == 1)
        assert sweep.engine.calls == []
        sweep.engine.others = ()

    with meanwhile(end_the_other):
        assert admitted(sweep.job(0), sweep.job(1)) == [COMPLETED, COMPLETED]


def test_n_jobs_is_no_leave_to_use_more(sweep, admitted):
    """n_jobs is how many run at once at most: CPUs and memory are not promised twice for it."""
    sweep.plays(j0=WAITS, j1=WAITS)

    def end_the_first_two():
        sweep.engine.wait_for(lambda: sweep.engine.running == {0, 1})
        sweep.engine.release(0)
        sweep.engine.release(1)

    with meanwhile(end_the_first_two):
        admitted(*[sweep.job(number, cpus=2.0) for number in range(5)], n_jobs=5)
    assert sweep.engine.most_at_once == 2


def test_gpus_of_each_attempt(sweep, admitted):
    """The container is made with the GPUs of its lease, which the ticket of no other job has."""
    sweep.plays(j0=(Play(exit_code=3, result=None), Play()))
    admitted(sweep.job(0, gpus=Gpus(count=1), error=1), gpus=("A", "B"))
    for container in sweep.engine.made.values():
        assert container.spec.gpus == Gpus(ids=("A",))
        assert dict(container.spec.labels)["hydra.docker.gpus"] == "A"
        assert dict(container.spec.environment)["NVIDIA_VISIBLE_DEVICES"] == "A"


def test_gpus_of_a_job_that_is_taken_up(sweep, admitted):
    """It holds the GPUs that it has; the next job gets others."""
    running = replace(sweep.running_job(0, gpus=Gpus(count=1)), gpus=("A",))
    sweep.engine.made["found-0"].spec = replace(running.spec, gpus=Gpus(ids=("A",)))
    sweep.plays(j0=WAITS)
    sweep.engine.made["found-0"].play = WAITS
    sweep.engine.made["found-0"].end.clear()

    def end_it():
        sweep.engine.wait_for(lambda: 1 in sweep.notes.ends)
        sweep.engine.release(0)

    with meanwhile(end_it):
        admitted(running, sweep.job(1, gpus=Gpus(count=1)), gpus=("A", "B"))
    assert sweep.engine.specs[1].gpus == Gpus(ids=("B",))


def test_container_out_of_sight_needs_no_room(sweep, admitted):
    """What may run on has its room: it is looked for, however full the engine is."""
    sweep.plays(j0=Play(away=True))
    comes_back(sweep, 0, Play())
    started = sweep.engine.start

    def start_and_fill(container):
        started(container)
        sweep.engine.others = (of_others(HOST.cpus),)

    sweep.engine.start = start_and_fill
    assert admitted(sweep.job(0, infra=1)) == [COMPLETED]


def test_an_engine_that_cannot_tell(sweep, admitted):
    """Without tickets nobody knows what others start: the job does not start."""
    sweep.engine.ticket_error = "volumes are forbidden here"
    (outcome,) = admitted(sweep.job(0))
    assert outcome == Outcome(End.NOT_STARTED, "volumes are forbidden here")
    assert sweep.engine.calls == []


def test_a_lost_place(sweep, admitted):
    """Where its ticket was removed before its container ran, a job waits once more."""
    lost = []

    def lose():
        if not lost and ("create", 0) in sweep.engine.calls:
            lost.append(True)
            sweep.engine.noted.clear()

    sweep.engine.before_look = lose
    assert admitted(sweep.job(0)) == [COMPLETED]
    # Nothing is written down of a container that was never to run: it would count as lost.
    assert sweep.notes.order.count(("started", 0)) == 1
    assert [call[0] for call in sweep.engine.calls].count("create") == 2
    assert [call[0] for call in sweep.engine.calls].count("start") == 1


def test_ctrl_c_while_it_waits(sweep, admitted):
    """Who gives up waits for nothing any more."""
    sweep.engine.others = (of_others(HOST.cpus),)

    def press():
        sweep.engine.wait_for(lambda: len(sweep.engine.noted) == 1)
        interrupt()

    with meanwhile(press), pytest.raises(KeyboardInterrupt):
        admitted(sweep.job(0))
    assert sweep.engine.noted == {}
    assert sweep.notes.ends[0][0].end is End.STOPPED
