"""Sweep folder: the launcher's own files of a sweep that is not over, and who looks after it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import a_job, saved_job, saved_sweep

from hydra_plugins.hydra_docker_launcher import _background, _sweep_folder
from hydra_plugins.hydra_docker_launcher._errors import SweepError
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths

#: Takes the sweep's folder until it is told to leave it.
KEEPER = """
import signal, sys, time
from pathlib import Path
from hydra_plugins.hydra_docker_launcher import _sweep_folder
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths
paths = SweepPaths(Path(sys.argv[1]))
folder = _sweep_folder.take(paths, background=sys.argv[2] == "background")
signal.signal(signal.SIGTERM, lambda *_: sys.exit())
print("taken", flush=True)
time.sleep(60)
"""


@pytest.fixture
def paths(tmp_path):
    return SweepPaths(tmp_path / "sweep")


@pytest.fixture
def keeper(paths):
    """Start another process that looks after the sweep."""
    started = []

    def start(kind: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            (sys.executable, "-c", KEEPER, str(paths.folder), kind),
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),  # noqa: PLW1509
        )
        started.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_what_a_killed_process_has_left(paths):
    """Files that were never written to their end go when somebody has looked after the sweep."""
    folder = _sweep_folder.take(paths)
    half = "0123456789abcdef"
    for path in (
        paths.folder / f".sweep.json.{half}",
        paths.private / f".usage.json.{half}",
        paths.jobs / f".3.json.{half}",
    ):
        path.write_text("{")
    of_the_user = paths.folder / ".sweep.json.backup"
    of_the_user.write_text("{}")
    folder.release()
    assert [*paths.folder.iterdir()] == [of_the_user]


def test_what_is_kept(paths):
    """Sweep and jobs come back as they were; nobody else can read them."""
    folder = _sweep_folder.take(paths)
    sweep = saved_sweep(paths.folder)
    jobs = {n: saved_job(a_job(paths.folder / str(n), n, lr=0.1)) for n in (10, 2)}
    folder.save_sweep(sweep)
    for job in jobs.values():
        folder.save_job(job)

    assert folder.sweep() == sweep
    assert list(folder.jobs()) == folder.numbers() == [2, 10]
    found = folder.jobs()[2]
    assert replace(found, job=jobs[2].job) == jobs[2]
    assert (found.job.plain, found.job.overrides) == ({"lr": 0.1}, ("n=2",))
    assert paths.private.stat().st_mode & 0o777 == 0o700
    for file in (paths.sweep, paths.job(2), paths.lock):
        assert file.stat().st_mode & 0o777 == 0o600


def test_what_is_over(paths):
    """A folder with nothing in it goes; one with a job, or with the sweep itself, stays."""
    folder = _sweep_folder.take(paths)
    folder.save_sweep(saved_sweep(paths.folder))
    folder.save_job(saved_job(a_job(paths.folder / "0")))
    (paths.jobs / ".0.json.half").write_text("{")
    folder.release()
    assert [file.name for file in paths.jobs.iterdir()] == ["0.json"]
    assert _sweep_folder.find(paths.folder) == paths

    folder = _sweep_folder.take(paths)
    folder.forget(0)
    folder.forget_sweep()
    folder.release()
    folder.release()
    assert not paths.private.exists()
    assert _sweep_folder.find(paths.folder) is None


def test_one_process_at_a_time(paths, keeper):
    """Who looks after a sweep is known, and is not disturbed by who looks."""
    assert _sweep_folder.keeper(paths) is None
    process = keeper("foreground")
    assert _sweep_folder.take(paths) is None
    found = _sweep_folder.keeper(paths)
    assert (found.pid, found.background) == (process.pid, False)
    with pytest.raises(SweepError, match=f"Process {process.pid} looks after the sweep in"):
        _background.take_over(paths)
    assert process.poll() is None

    process.kill()
    process.wait()
    assert _sweep_folder.keeper(paths) is None
    assert _background.take_over(paths).numbers() == []


def test_background_leaves_it(paths, keeper):
    """A process in the background leaves the sweep to whoever wants it, but not to a new sweep."""
    process = keeper("background")
    with pytest.raises(SweepError, match="looks after the sweep"):
        _background.take_over(paths, resume=False)
    folder = _background.take_over(paths)
    assert process.wait(10) == 0
    assert _sweep_folder.keeper(paths).pid == os.getpid()
    folder.release()


def test_new_sweep_in_the_folder_of_one_that_is_not_over(paths):
    folder = _sweep_folder.take(paths)
    folder.save_sweep(saved_sweep(paths.folder))
    folder.save_job(saved_job(a_job(paths.folder / "0")))
    folder.release()
    with pytest.raises(SweepError, match="has a sweep that is not over: 1 of its jobs"):
        _background.take_over(paths, resume=False)
    assert _sweep_folder.keeper(paths) is None


def test_more_jobs_may_come(paths):
    """A launcher that has gone to the background may add jobs until it has ended."""
    folder = _sweep_folder.take(paths)
    assert not folder.expects_more()
    launching = _background.Launching(paths, paths.folder)
    assert folder.expects_more()
    launching.add([saved_job(a_job(paths.folder / "3", 3))])
    assert folder.numbers() == [3]
    del launching
    assert not folder.expects_more()


def test_place(tmp_path):
    """No container has the files mounted; jobs that write into the folder itself: beside it."""
    sweep = tmp_path / "sweep"
    inside, beside = sweep / ".docker", tmp_path / ".sweep.docker"
    assert _sweep_folder.place(sweep, [sweep / "0"]).private == inside
    assert _sweep_folder.place(sweep, [sweep / "0", sweep]).private == beside
    assert _sweep_folder.place(sweep, [sweep / "0", sweep]).ledger == sweep / "sweep.json"
    with pytest.raises(SweepError, match=r"hydra\.sweep\.subdir"):
        _sweep_folder.place(sweep, [tmp_path])
    beside.mkdir()
    assert _sweep_folder.find(sweep).private == beside


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"format": 9, "value": {}}', "has format 9, and this version of the launcher reads"),
        ('{"format": 1, "value": {"id": 3}}', "cannot be read"),
        ('{"format": 1, "value": {"colour": "red"}}', "has no colour"),
    ],
)
def test_unreadable(paths, text, message):
    folder = _sweep_folder.take(paths)
    paths.sweep.write_text(text)
    with pytest.raises(SweepError, match=message):
        folder.sweep()
    folder.release()


def test_folder_that_cannot_be_written(paths):
    folder = _sweep_folder.take(paths)
    paths.jobs.rmdir()
    paths.jobs.write_text("")
    with pytest.raises(SweepError, match="Cannot write to the sweep's folder"):
        folder.save_job(saved_job(a_job(paths.folder / "0")))


def test_host_of_a_keeper(paths, monkeypatch):
    """A process on another machine, of a shared folder, cannot be told to leave."""
    folder = _sweep_folder.take(paths, background=True)
    here = socket.gethostname()
    monkeypatch.setattr(_background.socket, "gethostname", lambda: "elsewhere")
    with pytest.raises(SweepError, match=f"Process {os.getpid()} on {here} looks after"):
        _background.take_over(paths)
    folder.release()


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_background, "LEAVE_TIMEOUT", 0.01)
    monkeypatch.setattr(_sweep_folder, "LOCK_PATIENCE", 0.01)


def test_keeper_that_nobody_knows(paths, impatient):
    """A lock without a name in it (of a full disk) is not waited for without end."""
    folder = _sweep_folder.take(paths)
    paths.lock.write_text("")
    with pytest.raises(SweepError, match=r"A process holds .*/lock locked, and has not written"):
        _background.take_over(paths)
    folder.release()


def test_keeper_that_cannot_write(paths, monkeypatch):
    """Who cannot say that it looks after the sweep does not."""

    def refuse(*_arguments):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(_sweep_folder.os, "truncate", refuse)
        with pytest.raises(SweepError, match="Cannot write to the sweep's folder"):
            _sweep_folder.take(paths)
    assert _sweep_folder.keeper(paths) is None


def test_two_launchers_that_add_jobs(paths, impatient):
    """The second one is told of the first."""
    folder = _sweep_folder.take(paths)
    launching = _background.Launching(paths, paths.folder)
    with pytest.raises(SweepError, match="Another process may still add jobs to the sweep in"):
        _background.Launching(paths, paths.folder)
    del launching
    folder.release()


def test_launcher_that_does_not_stop(paths, monkeypatch, impatient):
    """A program that handles SIGTERM itself is named; its jobs' grace periods are waited for."""
    folder = _sweep_folder.take(paths)
    job = saved_job(a_job(paths.folder / "0"))
    spec = replace(job.runnable.spec, stop_grace_period=0.25)
    folder.save_job(replace(job, runnable=replace(job.runnable, spec=spec)))
    asked = []
    monkeypatch.setattr(_background.os, "kill", lambda *signal: asked.append(signal))
    message = rf"Process {os.getpid()}, .* has not done so in 0\.26 s: its program may handle that"
    with pytest.raises(SweepError, match=message):
        _background.end_launcher(paths)
    assert asked == [(os.getpid(), signal.SIGTERM)]
    folder.release()


def test_launcher_of_somebody_else(paths, monkeypatch):
    """It cannot be sent a signal, and that is said."""
    folder = _sweep_folder.take(paths)

    def refuse(*_arguments):
        raise PermissionError

    monkeypatch.setattr(_background.os, "kill", refuse)
    with pytest.raises(SweepError, match="is another user's: only they and root can end it"):
        _background.end_launcher(paths)
    folder.release()
