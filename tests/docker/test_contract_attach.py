"""Sweeps that outlive their launcher: detach, attach, stop, resume, sync."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer
from sweep_command import Command, MakeRepository, Repository, wait_for

from hydra_plugins.hydra_docker_launcher import _sweep_folder
from hydra_plugins.hydra_docker_launcher._paths import SweepPaths

CLI = (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli")


@dataclass
class Marked:
    """A repository whose jobs leave a mark when they begin and when they end (tests/apps/marks)."""

    repository: Repository
    ran: Path

    def start(self, name: str, *overrides: str, **options: Any) -> Command:
        """Start the user's own command; its jobs wait for ``open_gate``."""
        command = self.repository.start(
            f"hydra.sweep.dir={self.folder(name)}", f"gate={self.ran}/gate", *overrides, **options
        )
        command.folder = self.folder(name)
        return command

    def folder(self, name: str) -> Path:
        return self.repository.root / "multirun" / name

    def hydra_docker(self, *words: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            (*CLI, *map(str, words)),
            cwd=self.repository.root,
            env=self.repository.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *words: object) -> tuple[int, str]:
        """Run ``hydra-docker`` to its end; return its exit code and what it said."""
        process = self.hydra_docker(*words)
        output, _ = process.communicate(timeout=90)
        return process.returncode, output

    def open_gate(self) -> None:
        (self.ran / "gate").touch()

    def marks(self, number: int, kind: str) -> int:
        file = self.ran / str(number)
        words = file.read_text().split() if file.exists() else []
        return words.count(kind)

    def rows(self, name: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = json.loads((self.folder(name) / "sweep.json").read_text())[
            "jobs"
        ]
        return rows

    def outcomes(self, name: str) -> list[str]:
        return [row["outcome"] for row in self.rows(name)]

    def keeper(self, name: str) -> int | None:
        """Return the process that looks after a sweep."""
        keeper = _sweep_folder.keeper(SweepPaths(self.folder(name)))
        return None if keeper is None else keeper.pid

    def containers(self) -> int:
        return len(self.repository.containers())

    def statuses(self, uri: str | None = None) -> dict[str, str]:
        """Return the runs of the tracking store, by name."""
        client = MlflowClient(uri or f"sqlite:///{self.repository.root}/mlflow-store/mlflow.db")
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments)
        return {str(run.info.run_name): run.info.status for run in runs}

    def is_over(self, name: str) -> bool:
        """Tell whether nothing of the launcher's own is left of a sweep but its record."""
        return not (self.folder(name) / ".docker").exists() and self.containers() == 0


@pytest.fixture
def marked(make_repository: MakeRepository, tmp_path: Path) -> Iterator[Marked]:
    ran = tmp_path / "ran"
    ran.mkdir()
    options = {"mlflow.enabled": "true", "network_mode": "none", "volumes": f"[{ran}:{ran}]"}
    repository = make_repository("marks", **options)
    repository.defaults |= {"ran": str(ran), "seconds": "0.1", "hydra.launcher.n_jobs": "2"}
    (repository.root / ".gitignore").write_text("multirun\nmlflow*\n")
    repository.commit()
    made = Marked(repository, ran)
    yield made
    for lock in repository.root.glob("multirun/*/.docker/lock"):  # of a test that has failed
        keeper = _sweep_folder.keeper(SweepPaths(lock.parents[1]))
        if keeper is not None and keeper.pid not in (0, os.getpid()):
            os.kill(keeper.pid, signal.SIGKILL)


def test_detach_and_attach(marked: Marked) -> None:
    """The command returns at once, and says nothing of completion; the sweep goes on, and comes
    back into a terminal.
    """
    command = marked.start("one", "number=0,1,2", "hydra.launcher.detach=true")
    status = command.process.wait(60)
    assert status == 0, command.output
    assert f"hydra-docker attach {marked.folder('one')}" in command.output
    assert "completed" not in command.output
    assert marked.outcomes("one") == [None, None, None]
    assert (marked.folder("one") / ".docker" / "jobs" / "2.json").stat().st_mode & 0o777 == 0o600
    wait_for(lambda: marked.marks(0, "begin") and marked.marks(1, "begin"), "two jobs run")

    attached = marked.hydra_docker("attach", marked.folder("one"))
    wait_for(
        lambda: marked.keeper("one") == attached.pid, "the attached process looks after the sweep"
    )
    marked.open_gate()
    output, _ = attached.communicate(timeout=60)

    assert attached.returncode == 0, output
    assert "#2 | end " in output
    assert output.splitlines()[-1] == "3 completed"
    assert marked.outcomes("one") == ["completed"] * 3
    assert [marked.marks(number, "end") for number in range(3)] == [1, 1, 1]
    assert set(marked.statuses().values()) == {"FINISHED"}
    assert marked.is_over("one")
    for number in range(3):
        log = (marked.folder("one") / str(number) / "container.log").read_text()
        assert [line.split()[1] for line in log.splitlines()] == ["begin", "end"]

    assert marked.run("attach", marked.folder("one")) == (0, "3 completed\n")
    status, output = marked.run("attach", marked.repository.root)
    assert status == 1
    assert "is the folder of no sweep: it has no sweep.json" in output


def test_killed_and_resumed(marked: Marked) -> None:
    """After kill -9 the same command runs what is missing, and only that."""
    first = marked.start("two", "number=0,1,2,3")
    wait_for(lambda: marked.marks(0, "begin") and marked.marks(1, "begin"), "two jobs run")
    other = marked.start("two", "number=0,1,2,3")  # while it is looked after
    assert other.process.wait(60) == 1
    assert f"Process {first.process.pid} looks after the sweep" in other.output
    first.process.kill()
    first.process.wait()

    again = marked.start("two", "number=0,1,2,3")
    assert again.process.wait(60) == 1
    assert "has a sweep that is not over: 4 of its jobs" in again.output
    changed = marked.start("two", "number=0,1,2,5", "hydra.launcher.resume=true")
    assert changed.process.wait(60) == 1
    assert "1 of 4 jobs are not those that this sweep has begun with" in changed.output
    assert "config number: 3 then, 5 now" in changed.output

    resumed = marked.start("two", "number=0,1,2,3", "hydra.launcher.resume=true")
    wait_for(lambda: "2 taken up as they run, 2 to run" in resumed.output, "it is resumed")
    marked.open_gate()
    finished = resumed.finish()
    assert finished.status == 0, finished.output
    assert finished.outcomes == ["completed"] * 4
    assert [marked.marks(number, "begin") for number in range(4)] == [1, 1, 1, 1]
    assert set(marked.statuses().values()) == {"FINISHED"}
    assert len(marked.statuses()) == 5
    assert marked.is_over("two")

    once_more = marked.start("two", "number=0,1,2,3", "hydra.launcher.resume=true").finish()
    assert once_more.status == 0, once_more.output
    assert "Resumed: 4 completed before, 0 taken up as they run, 0 to run" in once_more.output
    assert [marked.marks(number, "begin") for number in range(4)] == [1, 1, 1, 1]


def test_hang_up_and_stop(marked: Marked) -> None:
    """A terminal that closes leaves the sweep running; ``stop`` ends it."""
    command = marked.start("three", "number=0,1,2", "hydra.launcher.on_interrupt=detach")
    wait_for(lambda: marked.marks(0, "begin") and marked.marks(1, "begin"), "two jobs run")
    command.interrupt(signal.SIGHUP)
    assert command.process.wait(60) == 128 + signal.SIGHUP, command.output
    assert f"hydra-docker stop {marked.folder('three')}" in command.output
    assert marked.containers() == 2
    assert marked.statuses()["three"] == "RUNNING"

    status, output = marked.run("stop", marked.folder("three"))
    assert status == 0, output
    assert output.splitlines()[-1] == "3 stopped"
    assert {row["cause"] for row in marked.rows("three")} == {
        "hydra-docker stop",
        "not started: hydra-docker stop",
    }
    assert set(marked.statuses().values()) == {"KILLED"}
    assert marked.is_over("three")
    assert marked.run("stop", marked.folder("three")) == (0, "3 stopped\n")


CHATTY = ("chatty=true", "seconds=0.005", "hydra.launcher.mlflow.enabled=false")


def in_a_terminal(
    marked: Marked, name: str, *overrides: str
) -> tuple[subprocess.Popen[bytes], int]:
    """Start the user's own command in a terminal of its own; return it and the terminal."""
    terminal, inside = os.openpty()
    values = {
        **marked.repository.defaults,
        "hydra.sweep.dir": str(marked.folder(name)),
        "gate": f"{marked.ran}/gate",
        **dict(override.split("=", 1) for override in overrides),
    }

    def take_it() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        (sys.executable, "app.py", "-m", *(f"{key}={value}" for key, value in values.items())),
        cwd=marked.repository.root,
        env=marked.repository.environment,
        stdin=inside,
        stdout=inside,
        stderr=inside,
        start_new_session=True,
        preexec_fn=take_it,  # noqa: PLW1509  (no thread of these tests starts one)
    )
    os.close(inside)
    return process, terminal


def test_terminal_that_closes(marked: Marked) -> None:
    """Its job prints all the time: the closed terminal and SIGHUP come in any order."""
    process, terminal = in_a_terminal(
        marked, "five", "number=0", "hydra.launcher.on_interrupt=detach", *CHATTY
    )
    shown = b""
    while b"step 20" not in shown:
        shown = shown[-100:] + os.read(terminal, 4096)
    os.close(terminal)
    assert process.wait(60) == 128 + signal.SIGHUP
    assert marked.containers() == 1
    assert marked.outcomes("five") == [None]

    marked.open_gate()
    status, output = marked.run("attach", marked.folder("five"))
    assert (status, output.splitlines()[-1]) == (0, "1 completed")
    assert [marked.marks(0, kind) for kind in ("begin", "end")] == [1, 1]
    assert marked.is_over("five")


def test_reader_that_has_enough(marked: Marked) -> None:
    """``hydra-docker attach SWEEP | head -1`` goes on with the sweep, and ends as it does."""
    command = marked.start("six", "number=0", "hydra.launcher.detach=true", *CHATTY)
    assert command.process.wait(60) == 0, command.output
    attached = marked.hydra_docker("attach", marked.folder("six"))
    assert attached.stdout is not None
    while "#0 | step" not in attached.stdout.readline():
        pass
    attached.stdout.close()
    container = marked.repository.containers()[0]["Id"]
    seen = len((marked.folder("six") / "0" / "container.log").read_text())
    wait_for(
        lambda: len((marked.folder("six") / "0" / "container.log").read_text()) > seen + 1000,
        "the job goes on",
    )
    assert marked.repository.api.inspect_container(container)["State"]["Running"]
    marked.open_gate()
    assert attached.wait(60) == 0
    assert marked.outcomes("six") == ["completed"]
    assert marked.is_over("six")


def test_sync(marked: Marked, tmp_path: Path) -> None:
    """A server that goes away for good costs no result: what it has missed is sent later."""
    (tmp_path / "server").mkdir()
    server = MlflowServer(tmp_path / "server")
    server.start()
    try:
        command = marked.start(
            "four",
            "number=0,1",
            f"hydra.launcher.mlflow.tracking_uri={server.url}",
            "hydra.launcher.network_mode=host",
        )
        wait_for(lambda: marked.marks(0, "begin") and marked.marks(1, "begin"), "two jobs run")
        server.end(signal.SIGKILL)
        marked.open_gate()
        finished = command.finish()
        assert finished.status == 0, finished.output
        assert finished.outcomes == ["completed", "completed"]
        assert finished.output.count("The jobs go on.") == 1
        assert f"hydra-docker sync {marked.folder('four')}" in finished.output
        assert marked.run("sync", marked.folder("four"))[0] == 1

        server.start()
        assert set(marked.statuses(server.url).values()) == {"RUNNING"}
        assert marked.run("sync", marked.folder("four")) == (0, "nothing is left to be sent\n")
        assert set(marked.statuses(server.url).values()) == {"FINISHED"}
        assert marked.is_over("four")
    finally:
        server.end()
