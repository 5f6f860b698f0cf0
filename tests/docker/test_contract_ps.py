"""hydra-docker ps, logs, doctor and stop, on a real engine and beside a launcher that runs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from containers import MEMORY, MakeSpec
from sweep_command import Command, MakeRepository, Repository, wait_for

from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import Grant

CLI = (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli")


def start_cli(repository: Repository, *words: object, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        (*CLI, *map(str, words)),
        cwd=repository.root,
        env={**repository.environment, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_cli(repository: Repository, *words: object, **variables: str) -> tuple[int, str]:
    process = start_cli(repository, *words, **variables)
    output, _ = process.communicate(timeout=90)
    return process.returncode, output


def ps_json(repository: Repository) -> list[dict[str, Any]]:
    """Return the sweeps of ``ps --json``: nothing else is on stdout, whatever goes on elsewhere."""
    done = subprocess.run(
        (*CLI, "ps", "--json"),
        cwd=repository.root,
        env=repository.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert done.returncode == 0, done.stderr
    sweeps: list[dict[str, Any]] = json.loads(done.stdout)["sweeps"]
    return sweeps


def rows(command: Command) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((command.folder / "sweep.json").read_text())["jobs"]
    return found


@pytest.fixture
def begin(make_repository: MakeRepository, tmp_path: Path) -> Callable[..., Command]:
    """Start a sweep of three jobs, of which two run at a time and wait for a gate."""
    repository = make_repository(
        "marks",
        network_mode="none",
        volumes=f"[{tmp_path}:{tmp_path}]",
        mem_limit="96m",
        n_jobs="2",
    )
    repository.defaults |= {"ran": str(tmp_path), "seconds": "0.1", "gate": f"{tmp_path}/gate"}
    (repository.root / ".gitignore").write_text("multirun\n")
    repository.commit()

    def start(*overrides: str, **options: Any) -> Command:
        command = repository.start("number=0,1,2", *overrides, **options)
        for job in (0, 1):
            command.wait_for_line(job, "begin")
        return command

    return start


def test_container(make_spec: MakeSpec) -> None:
    """What a container may use is what it was given; what it uses is what it does."""
    engine = DockerEngine()
    spec = make_spec("while :; do :; done")
    container = engine.create(spec)
    assert engine.grant(container) == Grant(cpus=1.0, memory=MEMORY, grace=10.0)
    assert engine.use(container) is None
    engine.start(container)
    use = engine.use(container)
    assert use is not None
    assert 0 < use.memory < MEMORY
    assert 0 < use.cpus < 1.5
    engine.remove(container)
    assert engine.grant(container) is None
    assert engine.use(container) is None


def test_facts() -> None:
    """The engine says where it is and what it is; its machine is that of all other questions."""
    engine = DockerEngine()
    facts = engine.facts()
    assert facts.host.name == engine.host().name
    assert facts.host.engine == f"Docker {facts.version}"
    assert "runc" in facts.runtimes
    assert facts.address
    assert tuple(map(int, facts.api.split("."))) >= (1, 41)


def test_beside_a_launcher(begin: Callable[..., Command], tmp_path: Path) -> None:
    """The sweep is seen, one of its jobs is stopped, its output is followed; it goes on."""
    command = begin()
    repository = command._repository

    (seen,) = [sweep for sweep in ps_json(repository) if sweep["folder"] == str(command.folder)]
    assert seen["jobs"] == {
        "running": 2,
        "waiting": 1,
        "completed": 0,
        "failed": 0,
        "unrecorded": 0,
        "total": 3,
    }
    assert seen["promised"] == {"cpus": 2.0, "memory": 2 * 96 * 1024**2, "gpus": 0, "unlimited": 0}
    assert 0 < seen["used"]["memory"] < 2 * 96 * 1024**2
    assert seen["looked_after"]["pid"] == command.process.pid
    assert seen["looked_after"]["by"] == "foreground"
    assert len(seen["containers"]) == 2
    status, output = run_cli(repository, "ps", "--mine", "--no-use", COLUMNS="100")
    lines = [line for line in output.splitlines() if seen["sweep"][-6:] in line]
    assert [line.split()[1:6] for line in lines] == [[seen["sweep"][-6:], "2", "1", "0", "0"]]

    followed = start_cli(repository, "logs", command.folder, "--follow")
    status, output = run_cli(repository, "stop", seen["sweep"], "0")
    assert (status, output) == (0, "stopped: #0\n")
    wait_for(lambda: rows(command)[0]["outcome"] == "stopped", "the launcher records it")
    command.wait_for_line(2, "begin")
    (tmp_path / "gate").touch()
    finished = command.finish()

    assert finished.outcomes == ["stopped", "completed", "completed"]
    printed, _ = followed.communicate(timeout=60)
    assert followed.returncode == 0, printed
    assert sorted(line.rpartition(" ")[0] for line in printed.splitlines()) == [
        "#0 | begin",
        "#1 | begin",
        "#1 | end",
        "#2 | begin",
        "#2 | end",
    ]
    status, output = run_cli(repository, "logs", command.folder, "1", "--tail", "1")
    assert (status, output.split()[:3]) == (0, ["#1", "|", "end"])
    assert str(command.folder) not in [sweep["folder"] for sweep in ps_json(repository)]
    status, output = run_cli(repository, "stop", command.folder, "1")
    assert (status, output) == (1, "error: Job #1 has ended already: completed\n")


def test_somebody_else(begin: Callable[..., Command]) -> None:
    """A sweep of somebody else is stopped only if that is said; its launcher stops it then."""
    command = begin(environment={"LOGNAME": "bob", "USER": "bob"})
    repository = command._repository

    for words in (["stop"], ["attach"], ["stop", "1"]):
        name, *jobs = words
        status, output = run_cli(repository, name, command.folder, *jobs, LOGNAME="ada")
        assert status == 1, output
        assert "is bob (uid " in output
        assert "--others" in output
    status, output = run_cli(repository, "ps", "--mine", "--no-use", LOGNAME="ada")
    assert status == 0
    assert "bob" not in output
    assert [row["outcome"] for row in rows(command)] == [None] * 3

    status, output = run_cli(repository, "stop", "--others", command.folder, LOGNAME="ada")
    assert status == 0, output
    assert output.splitlines()[-1] == "3 stopped"
    assert command.process.wait(60) != 0
    assert command.finish().outcomes == ["stopped"] * 3


def test_doctor(make_repository: MakeRepository) -> None:
    """On a machine where sweeps run there is no problem; without an engine there is one."""
    repository = make_repository("hello")
    status, output = run_cli(repository, "doctor")
    assert status == 0, output
    assert "problem" not in output
    assert "ok       limits: " in output
    status, output = run_cli(repository, "doctor", DOCKER_HOST="unix:///no/such/socket")
    assert status == 1
    assert "problem  engine: No Docker engine answers" in output
    assert "DOCKER_HOST=unix:///no/such/socket says where to look" in output
