"""Attach: a sweep whose launcher has ended is taken up from its files, its ledger and labels."""

from __future__ import annotations

import json
import signal
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from fakes import FakeContainer, FakeEngine, FakeTracker, Play, a_job, saved_job, saved_sweep

from hydra_plugins.hydra_docker_launcher import (
    _attach,
    _background,
    _outcome,
    _runs,
    _sweep_folder,
    _take_up,
    _watching,
)
from hydra_plugins.hydra_docker_launcher._engine import Found, Ticket
from hydra_plugins.hydra_docker_launcher._errors import EngineError, SweepError, TrackingError
from hydra_plugins.hydra_docker_launcher._interrupt import Detached
from hydra_plugins.hydra_docker_launcher._ledger import Ledger
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths
from hydra_plugins.hydra_docker_launcher._saved import SavedJob
from hydra_plugins.hydra_docker_launcher._tracking import JobRunEnd, RunStatus

COMPLETED = {"outcome": "completed", "value": 2, "exit_code": 0}
ENDED = "2026-11-22T10:00:00+00:00"


@dataclass
class Left:
    """What a launcher that was killed has left: files, a ledger, containers, runs."""

    folder: Path
    engine: FakeEngine = field(default_factory=FakeEngine)
    tracker: FakeTracker = field(default_factory=FakeTracker)
    jobs: dict[int, SavedJob] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.paths = SweepPaths(self.folder)
        self.ledger = Ledger(self.paths.ledger, {"sweep": "s", "data": []})

    def sweep(self, **values) -> None:
        folder = _sweep_folder.take(self.paths)
        folder.save_sweep(saved_sweep(self.folder, run_id="parent", **values))
        folder.release()

    def job(self, number: int, container: str | None = None, **row) -> SavedJob:
        """Plan a job; with ``container`` it was started."""
        job = saved_job(a_job(self.folder / str(number), number, lr=0.1))
        job.job.paths.private.mkdir(parents=True)
        folder = _sweep_folder.take(self.paths)
        folder.save_job(job)
        folder.release()
        if container is not None:
            self.engine.has(container, job.runnable.spec)
            run_id = self.tracker.open_job(job.run)
            row = {"container": container, "run_id": run_id, "attempt": 1, **row}
        self.ledger.update(number, **{"overrides": [], "outcome": None, **row})
        self.jobs[number] = job
        return job

    def attach(self, **options) -> Ledger:
        return _attach.attach(
            self.folder,
            make_engine=lambda: self.engine,
            make_tracker=lambda *_: self.tracker,
            **options,
        )

    def calls(self, number: int) -> list[str]:
        return [call[0] for call in self.engine.calls if len(call) > 1 and call[1] == number]

    @property
    def rows(self):
        return json.loads(self.paths.ledger.read_text())["jobs"]

    @property
    def is_over(self) -> bool:
        return not self.paths.private.exists()


@pytest.fixture
def left(tmp_path, monkeypatch):
    monkeypatch.setattr(_watching, "POLL", 0.001)
    monkeypatch.setattr(_runs, "PATIENCE", 0.0)
    monkeypatch.setattr(_runs, "PAUSE", 0.0)
    (tmp_path / "sweep").mkdir()
    return Left(tmp_path / "sweep")


def test_every_standing_of_a_job(left):
    """Running, ended unseen, gone, never started, not made: each comes to its end, once."""
    left.sweep()
    left.engine.plays = {2: Play(vanishes=True)}
    for number in range(5):
        left.job(number, f"c{number}" if number < 4 else None)
    left.engine.made["c1"].over = True  # it has ended while nobody watched
    left.jobs[1].job.paths.result.write_text(json.dumps({**COMPLETED, "value": 7}))
    left.engine.made["c3"].started = False

    ledger = left.attach()

    assert [row["outcome"] for row in left.rows] == [
        "completed",
        "completed",
        "lost",
        "completed",
        "completed",
    ]
    assert left.calls(0) == ["remove"]
    assert left.calls(1) == ["remove"]
    assert left.calls(3) == ["discard", "create", "start", "remove"]
    assert left.calls(4) == ["create", "start", "remove"]
    assert {run: end.status.value for run, end in left.tracker.ends.items()} == {
        "run-0": "FINISHED",
        "run-1": "FINISHED",
        "run-2": "FAILED",
        "run-3": "FINISHED",
        "run-4": "FINISHED",
    }
    assert left.tracker.ends["run-1"].metrics == {"return_value": 7.0}
    assert left.tracker.joined == ("parent", "train")
    assert left.tracker.statuses[-1] == "FAILED"
    assert ("remove_image", "train:1-s") in left.engine.calls
    assert left.is_over
    assert _attach.summary(ledger) == "4 completed, 1 lost"
    assert not _attach.all_completed(ledger)


def test_end_that_is_half_recorded(left):
    """What the ledger tells already is not decided again; run, container and files follow it."""
    left.sweep()
    job = left.job(0, "c0", outcome="completed", cause="completed", exit_code=0)
    job.job.paths.result.write_text(json.dumps(COMPLETED))
    job.job.paths.job.write_text("job")
    job.job.paths.secrets.mkdir()
    (job.job.paths.secrets / "ssh_key").write_text("secret")
    failed = left.job(1, "c1", outcome="error", cause="raised X", exit_code=1)
    failed.job.paths.job.write_text("job")

    left.attach()

    assert left.calls(0) == ["remove"]
    assert left.calls(1) == []  # keep=failed
    assert left.tracker.ends["run-0"].metrics == {"return_value": 2.0}
    assert left.tracker.ends["run-1"].tags["hydra.docker.cause"] == "raised X"
    assert [path.name for path in job.job.paths.private.iterdir()] == ["result.json"]
    assert failed.job.paths.job.exists()  # its container has it mounted
    assert left.is_over


def test_attempts_go_on(left):
    """A job between two attempts has the ones before, and is started as the next."""
    left.sweep()
    job = left.job(0, attempts=[{"attempt": 1, "outcome": "error"}])
    gone_on = _take_up.gone_on(job, left.ledger.row(0), None)
    assert (gone_on.runnable.attempt, gone_on.runnable.earlier) == (2, (End.ERROR,))
    gone = _take_up.gone_on(job, {"container": "c9", "attempt": 2}, None)
    assert (gone.runnable.container, gone.runnable.attempt) == ("c9", 2)  # which will be lost
    again = _take_up.run_again(job, {"attempt": 3})
    assert (again.runnable.attempt, again.runnable.earlier) == (4, ())


def test_container_whose_time_was_over(left):
    """It was noted before it was stopped, and counts for that container alone."""
    left.sweep()
    job = left.job(0)
    found = Found("c1", "train", {}, "exited", 0.0, "sha256:1")
    for noted, overtime in (("c1", True), ("c0", False)):
        gone_on = _take_up.gone_on(job, {"container": "c1", "overtime": noted}, found)
        assert gone_on.runnable.overtime is overtime


def test_newest_container_counts(left):
    """Those of earlier attempts that were not removed in time go."""
    spec = saved_job(a_job(left.folder / "0")).runnable.spec
    for attempt in (2, 1):
        labels = (*spec.labels, ("hydra.docker.attempt", str(attempt)))
        left.engine.has(f"c{attempt}", replace(spec, labels=labels))
    found = _take_up.containers(left.engine, "s", left.ledger)
    assert {number: container.id for number, container in found.items()} == {0: "c2"}
    assert left.calls(0) == ["remove"]


def test_container_that_was_never_started(left):
    """It is removed. A process that is killed then leaves no job that looks as if it was lost."""
    left.sweep()
    job = left.job(0, "c0", started="2026-11-22T10:00:00+00:00", name="train-x-0")
    left.engine.made["c0"].started = False

    (container,) = _take_up.containers(left.engine, "s", left.ledger).values()

    assert left.calls(0) == ["discard"]
    assert _take_up.gone_on(job, left.ledger.row(0), container).runnable.container is None
    assert (left.rows[0]["container"], left.rows[0]["started"]) == (None, None)
    left.attach()
    assert left.calls(0) == ["discard", "create", "start", "remove"]
    assert left.rows[0]["outcome"] == "completed"


@pytest.mark.parametrize("late", [False, True])
def test_container_that_is_just_being_started(left, late):
    """The engine may do so for a process that is dead by now: it is watched, and not removed."""
    left.sweep()
    left.job(0, "c0")
    left.engine.made["c0"].started = False
    look = "discard" if late else "state"
    asked = getattr(left.engine, look)

    def started_meanwhile(container):
        left.engine.made["c0"].started = True
        return asked(container)

    setattr(left.engine, look, started_meanwhile)
    left.attach()
    assert left.calls(0) == ["remove"]  # at its end
    assert left.rows[0]["outcome"] == "completed"


def out_of_sight(left, number, container):
    """Have a job that was called lost because its engine did not answer any more."""
    outcome = _outcome.out_of_sight("connection refused")
    lost = {"outcome": "lost", "cause": outcome.cause, "exit_code": None, "unseen": True}
    job = left.job(number, container, **lost, advice=outcome.advice, ended=ENDED)
    left.tracker.close_job(f"run-{number}", JobRunEnd(RunStatus.FAILED))
    return job


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("keep", ["none", "failed"])
def test_container_that_ran_on(left, keep, ended):
    """A job that was called lost while its engine was away is watched: its container is there."""
    left.sweep(keep=keep)
    left.engine.plays = {0: Play(result={"outcome": "completed", "value": 5})}
    job = out_of_sight(left, 0, "c0")
    if ended:
        left.engine.made["c0"].over = True
        job.job.paths.result.write_text(json.dumps({**COMPLETED, "value": 5}))

    left.attach()

    row = left.rows[0]
    assert (row["outcome"], row["container"], row["run_id"]) == ("completed", "c0", "run-0")
    assert not {"unseen", "advice", "attempts"} & row.keys()
    assert left.calls(0) == ["remove"]
    end = left.tracker.ends["run-0"]
    assert (end.status, end.metrics) == (RunStatus.FINISHED, {"return_value": 5.0})
    assert left.is_over


def test_container_that_did_not_run_on(left):
    """A job whose container is gone is lost, as it was recorded."""
    left.sweep()
    out_of_sight(left, 0, "c0")
    left.engine.made["c0"].removed = True
    left.attach()
    assert (left.rows[0]["outcome"], left.rows[0]["ended"]) == ("lost", ENDED)
    assert left.is_over


def test_policy_that_started_it_again(left):
    """A container that ended with its engine, and runs again by its policy, is not lost either."""
    left.sweep()
    left.job(0, "c0", outcome="lost", cause="the engine went down", exit_code=255)
    left.attach()
    assert left.rows[0]["outcome"] == "completed"


def test_sync_knows_of_no_end_that_nobody_has_seen(left):
    """The job stays for ``attach``, which sees what has become of its container."""
    left.sweep()
    out_of_sight(left, 0, "c0")
    assert _attach.sync(left.folder, make_tracker=lambda *_: left.tracker) == 0
    assert left.paths.job(0).exists()
    assert left.rows[0]["outcome"] == "lost"


def test_containers_with_labels_of_others(left):
    """Labels are anybody's: a number that is none makes no job, and a container stays."""
    spec = saved_job(a_job(left.folder / "0")).runnable.spec
    for name, label in (("job", "²"), ("job", "9" * 5000), ("job", "x"), ("attempt", "²")):
        labels = {**dict(spec.labels), f"hydra.docker.{name}": label}
        container = FakeContainer(replace(spec, labels=tuple(labels.items())), Play())
        left.engine.made[f"{name} {label[:2]}"] = container
        container.started = True
    found = _take_up.containers(left.engine, "s", left.ledger)
    assert {number: container.id for number, container in found.items()} == {0: "attempt ²"}
    assert left.engine.calls == []


def test_tickets_that_are_left(left):
    """To attach is to look once: what a launcher that is gone has left on the engine goes."""
    labels = {"hydra.docker.ticket": "t"}
    values = {"since": 1, "seen": 1, "state": "admitted", "process": "x", "holder": "ann's"}
    values |= {"cpus": 1, "memory": 1, "gpus": 0, "shared": "no"}
    labels |= {f"hydra.docker.ticket.{name}": str(value) for name, value in values.items()}
    left.engine.noted["t"] = Ticket("t", labels)
    left.sweep()
    left.job(0, "c0")
    left.attach()
    assert left.engine.noted == {}


def test_store_that_is_away(left, caplog):
    """The jobs are looked after all the same; what the store has missed is sent by ``sync``."""
    left.sweep()
    left.job(0, "c0")
    left.tracker.down = True
    left.attach()
    assert left.rows[0]["outcome"] == "completed"
    assert left.tracker.ends == {}
    assert not left.is_over
    assert caplog.text.count("hydra-docker sync") == 2  # as it begins, and in the end

    make_tracker = {"make_tracker": lambda *_: left.tracker}
    assert _attach.sync(left.folder, **make_tracker) == 1
    left.tracker.down = False
    assert _attach.sync(left.folder, **make_tracker) == 0
    assert left.tracker.ends["run-0"].status.value == "FINISHED"
    assert left.tracker.statuses[-1] == "FINISHED"
    assert left.is_over
    assert _attach.sync(left.folder, **make_tracker) == 0


def test_sync_leaves_jobs_alone(left):
    left.sweep()
    left.job(0, "c0")
    left.job(1, "c1", outcome="error", cause="raised X", exit_code=1)
    assert _attach.sync(left.folder, make_tracker=lambda *_: left.tracker) == 0
    assert list(left.tracker.ends) == ["run-1"]
    assert left.engine.calls == []
    assert left.tracker.statuses[-1] == "RUNNING"
    assert not left.is_over


@pytest.mark.parametrize("stop", [False, True])
def test_run_that_is_gone(left, monkeypatch, caplog, stop):
    """A run that is no more is said. The jobs come to their end, which sweep.json tells."""

    def gone(*_):
        raise TrackingError("there is no such run", gone=True)

    left.sweep()
    left.engine.plays = {0: Play(waits=stop)}
    left.job(0, "c0")
    left.job(1)
    monkeypatch.setattr(left.tracker, "join_sweep", gone)
    if stop:
        made = {"make_engine": lambda: left.engine, "make_tracker": lambda *_: left.tracker}
        _attach.stop(left.folder, **made, reason="enough")
    else:
        left.attach()
    assert [row["outcome"] for row in left.rows] == ["stopped" if stop else "completed"] * 2
    assert left.tracker.ends == {}
    assert any(
        text.startswith("there is no such run\nThe sweep goes on without it.")
        for text in caplog.messages
    )
    assert left.is_over


def test_store_that_refuses(left, monkeypatch, caplog):
    """What may be mended (credentials, a run in the trash) keeps nobody; all is sent later."""

    def refused(*_):
        raise TrackingError("you may not")

    left.sweep()
    left.job(0, "c0")
    left.job(1)
    with monkeypatch.context() as refusing:
        refusing.setattr(left.tracker, "join_sweep", refused)
        left.attach()
        assert [row["outcome"] for row in left.rows] == ["completed"] * 2
        assert caplog.text.count("you may not") == 1
        assert not left.is_over
        with pytest.raises(TrackingError, match="you may not"):
            _attach.sync(left.folder, make_tracker=lambda *_: left.tracker)
    assert left.tracker.ends == {}
    assert _attach.sync(left.folder, make_tracker=lambda *_: left.tracker) == 0
    assert {run: end.status.value for run, end in left.tracker.ends.items()} == {
        "run-0": "FINISHED",
        "run-1": "FINISHED",
    }
    assert left.is_over


def test_stop(left):
    """What runs is stopped, what waits is not started, and what has ended stays as it is."""
    left.sweep()
    left.engine.plays = {0: Play(waits=True)}
    left.job(0, "c0")
    left.job(1)
    ledger = _attach.stop(
        left.folder,
        make_engine=lambda: left.engine,
        make_tracker=lambda *_: left.tracker,
        reason="enough",
    )
    assert [row["cause"] for row in left.rows] == ["enough", "not started: enough"]
    assert _attach.summary(ledger) == "2 stopped"
    assert left.tracker.statuses[-1] == "KILLED"
    assert left.is_over


@pytest.mark.parametrize("background", [True, False])
def test_interrupt_leaves_it(left, monkeypatch, background):
    """One in the background leaves the sweep as it stands; one in a terminal to the background.

    A terminal that closes may send its signal twice.
    """
    started = []

    def start(paths, _):
        signal.raise_signal(signal.SIGINT)
        started.append(paths)

    monkeypatch.setattr(_background, "start", start)
    left.sweep(on_interrupt="stop" if background else "detach")
    left.engine.plays = {0: Play(waits=True)}
    left.job(0, "c0")

    def interrupt():
        left.engine.wait_for(lambda: _sweep_folder.keeper(left.paths) is not None)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    timer = threading.Timer(0.3, interrupt)
    timer.start()
    with pytest.raises(Detached):
        left.attach(background=background)
    timer.join()
    assert left.rows[0]["outcome"] is None
    assert left.engine.calls == []
    assert started == ([] if background else [left.paths])
    assert left.tracker.statuses[-1] == "RUNNING"
    assert _sweep_folder.keeper(left.paths) is None
    assert (left.paths.job(0)).exists()


def test_jobs_that_come_later(left, monkeypatch):
    """The process in the background waits for more jobs, until nobody is left who could add any."""
    monkeypatch.setattr(_attach, "PAUSE", 0.01)
    left.sweep()
    left.job(0)
    launching = _background.Launching(left.paths, left.folder)
    later = saved_job(a_job(left.folder / "1", 1, lr=0.2))

    def add():
        nonlocal launching
        left.engine.wait_for(lambda: ("remove", 0) in left.engine.calls)
        launching.add([later])
        left.engine.wait_for(lambda: ("remove", 1) in left.engine.calls)
        del launching

    thread = threading.Thread(target=add)
    thread.start()
    left.attach(background=True)
    thread.join()
    assert [row["outcome"] for row in left.rows] == ["completed", "completed"]
    assert left.is_over


def test_no_engine(left):
    """Without an engine nothing is done, and the sweep stays to be taken up."""

    def no_engine():
        raise EngineError("no engine answers")

    left.sweep()
    left.job(0, "c0")
    with pytest.raises(EngineError, match="no engine answers"):
        _attach.attach(left.folder, make_engine=no_engine, make_tracker=lambda *_: left.tracker)
    assert _sweep_folder.keeper(left.paths) is None
    assert left.rows[0]["outcome"] is None


def test_folder_of_no_sweep(tmp_path):
    with pytest.raises(SweepError, match=r"is the folder of no sweep: it has no sweep\.json"):
        _attach.attach(tmp_path, make_engine=FakeEngine, make_tracker=lambda *_: FakeTracker())


def test_sweep_that_is_over(left):
    """Nothing is asked of anybody."""
    left.ledger.update(0, outcome="completed")
    ledger = left.attach()
    assert _attach.summary(ledger) == "1 completed"
    assert left.tracker.joined is None


@pytest.mark.parametrize(
    ("row", "result", "outcome"),
    [
        ({}, None, None),
        ({"outcome": None}, COMPLETED, None),
        ({"outcome": "completed", "cause": "completed", "exit_code": 0}, None, None),
        (
            {"outcome": "completed", "cause": "completed", "exit_code": 0},
            COMPLETED,
            Outcome(End.COMPLETED, "completed", 0, value=2),
        ),
        (
            {"outcome": "completed", "cause": "completed", "exit_code": 0},
            {"outcome": "error"},
            None,
        ),
        (
            {"outcome": "timed out", "cause": "ran longer", "exit_code": 143},
            COMPLETED,
            Outcome(End.TIMED_OUT, "ran longer", 143),
        ),
    ],
)
def test_recorded(tmp_path, row, result, outcome):
    """The ledger tells the end, and the job's own file the return value."""
    file = tmp_path / "result.json"
    if result is not None:
        file.write_text(json.dumps(result))
    assert _take_up.recorded(row, file) == outcome
