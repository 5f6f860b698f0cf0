"""What a container is and may do when no option says otherwise, seen from inside."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from sweep_command import Finished, MakeRepository, Repository


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    return make_repository("inside", keep="all")


@pytest.fixture(scope="module")
def sweep(repository: Repository) -> Finished:
    writes = ["/tmp/file", str(repository.root / "new.txt")]
    reads = ["/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"]
    finished = repository.sweep(
        f"try_to_write={writes}", f"try_to_read={reads}", "hydra.launcher.labels.team=vision"
    )
    assert finished.status == 0, finished.output
    assert "Options open the boundary" not in finished.output
    return finished


@pytest.fixture(scope="module")
def answers(sweep: Finished) -> dict[str, Any]:
    return sweep.job(0).json()


def test_privileges(answers: dict[str, Any]) -> None:
    """No capability is left, and no program can get any."""
    assert answers["no_new_privileges"] == "1"
    assert answers["effective"] == 0
    assert answers["bounding"] == 0


def test_system_calls(answers: dict[str, Any]) -> None:
    """The engine's own filter of system calls is on."""
    assert answers["seccomp"] == "2"


def test_namespaces(answers: dict[str, Any]) -> None:
    """The job shares no namespace with the host, and sees no process but its own."""
    host = {name: str(Path("/proc/self/ns", name).readlink()) for name in answers["namespaces"]}
    assert not set(host.items()) & set(answers["namespaces"].items())
    assert min(answers["processes"]) == 1
    assert len(answers["processes"]) < 5


def test_engine(answers: dict[str, Any]) -> None:
    """The engine cannot be reached from inside."""
    assert not [path for path in answers["mounts"] if path.endswith(".sock")]
    sockets = ["/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock"]
    assert {path: answers["reads"][path] for path in sockets} == dict.fromkeys(
        sockets, os.strerror(errno.ENOENT)
    )


def test_user(answers: dict[str, Any]) -> None:
    """The job runs as the launching user, who has a name and a home to write to."""
    assert (answers["uid"], answers["gid"]) == (os.getuid(), os.getgid())
    assert answers["user"] == answers["environment"]["USER"]
    assert answers["home"] == answers["environment"]["HOME"] == "/hydra/home"
    assert answers["home_use"] == "ok"


def test_own_files(answers: dict[str, Any], repository: Repository, sweep: Finished) -> None:
    """The job may write where the user may; what it writes there stays in the container."""
    assert answers["writes"] == {
        "/tmp/file": "ok",
        str(repository.root / "new.txt"): "ok",
    }
    assert not (repository.root / "new.txt").exists()


def test_init(answers: dict[str, Any]) -> None:
    """An init process is the first: it forwards signals and reaps zombies."""
    assert answers["first_process"].endswith("init")


def test_unbuffered(answers: dict[str, Any]) -> None:
    """The job's output comes as it is written; variables of the host do not."""
    assert answers["environment"]["PYTHONUNBUFFERED"] == "1"
    assert "GIT_AUTHOR_NAME" not in answers["environment"]


def test_labels(sweep: Finished, repository: Repository) -> None:
    """Labels tell sweep, job, commit and user; a name that reads well stands in docker ps."""
    ledger = sweep.ledger
    container = repository.api.inspect_container(ledger["jobs"][0]["container"])
    commit = repository.commits[-1]
    own = {
        "hydra.docker.sweep": ledger["sweep"],
        "hydra.docker.job": "0",
        "hydra.docker.commit": commit,
        "hydra.docker.user": ledger["user"],
        "hydra.docker.folder": str(sweep.folder),
        "org.opencontainers.image.revision": commit,
        "team": "vision",
    }
    labels = container["Config"]["Labels"]
    assert {name: labels.get(name) for name in own} == own
    assert container["Name"].startswith("/app-0-0")


def test_image(sweep: Finished, repository: Repository) -> None:
    """The kept container's image is labelled, and has the commit's files on the one asked for."""
    container = repository.api.inspect_container(sweep.ledger["jobs"][0]["container"])
    layer = repository.api.inspect_image(container["Image"])
    assert layer["Config"]["Labels"]["hydra.docker.sweep"] == sweep.ledger["sweep"]
    base = repository.api.inspect_image(sweep.ledger["image"]["id"])
    assert layer["RootFS"]["Layers"][:-1] == base["RootFS"]["Layers"]


def test_files_belong_to_the_launching_user(sweep: Finished) -> None:
    """Whatever a job leaves in its output folder belongs to who launched it."""
    found = {path.name: path.stat().st_uid for path in sweep.job(0).folder.rglob("*")}
    assert {"answers.json", "app.log", "container.log", "hydra.yaml"} <= set(found)
    assert set(found.values()) == {os.getuid()}
