"""The three ways in which the commit's files get into the containers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import remotes
from conftest import build_image
from remotes import SshServer
from sweep_command import Finished, MakeRepository, Repository

APT = "apt-get update -qq && apt-get install -y -qq --no-install-recommends"
CLONE = "hydra.launcher.delivery=clone"


@pytest.fixture(scope="session")
def git_image(api: docker.APIClient, hydra_image: str) -> str:
    """An image with git and an ssh client as well."""
    dockerfile = f"FROM {hydra_image}\nRUN {APT} git openssh-client\n"
    return build_image(api, f"{hydra_image}-git", {"Dockerfile": dockerfile.encode()})


@pytest.fixture
def repository(make_repository: MakeRepository, git_image: str, tmp_path: Path) -> Repository:
    """A repository with a submodule, whose commit is at the remote ``origin``, a bare one."""
    library = tmp_path / "library"
    library.mkdir()
    for number in (1, 2):
        (library / "lib.py").write_text(f"NUMBER = {number}\n")
        _git(library, "init", "--quiet", "--initial-branch", "main")
        _git(library, "add", "--all")
        _git(library, "commit", "--quiet", "--message", str(number))
    remotes.bare(tmp_path / "remotes" / "library.git")
    _git(library, "push", "--quiet", str(tmp_path / "remotes" / "library.git"), "main")
    made = make_repository("delivered", image=git_image)
    made.git("remote", "add", "origin", str(remotes.bare(tmp_path / "remotes" / "app.git")))
    add = ("submodule", "--quiet", "add")
    made.git("-c", "protocol.file.allow=always", *add, "../library.git", "lib")
    made.git("-C", "lib", "checkout", "--quiet", "HEAD~1")  # recorded is not the newest
    made.commit()
    made.git("push", "--quiet", "origin", "main")
    return made


@pytest.fixture
def base(repository: Repository, tmp_path: Path) -> Path:
    return tmp_path / "remotes"


@pytest.fixture(scope="module")
def ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    server = SshServer(tmp_path_factory.mktemp("ssh"))
    yield server
    server.close()


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    command = ("git", "-C", str(folder), *identity, *arguments)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def answers(finished: Finished) -> dict[str, Any]:
    assert finished.outcomes == ["completed"], finished.output
    return finished.job(0).json()


def as_expected(repository: Repository, git: bool) -> dict[str, Any]:
    return {
        "files": [".gitmodules", "app.py", "lib/lib.py", "tools/run.sh"],
        "executable": True,
        "number": 1,
        "commit": repository.commits[-1] if git else None,
        "uid": os.getuid(),
    }


def nowhere(text: str, finished: Finished) -> None:
    """See that a text is in no file that a sweep has left."""
    for file in finished.folder.rglob("*"):
        assert not file.is_file() or text.encode() not in file.read_bytes(), file
    assert text not in finished.output


@pytest.mark.parametrize("how", ["copy", "image", "clone"])
def test_files(repository: Repository, base: Path, how: str) -> None:
    """The commit's files are there, submodules at their recorded commits, edits are not."""
    repository.write("tools/run.sh", "edited").chmod(0o644)
    finished = repository.sweep(f"hydra.launcher.delivery={how}", "hydra.launcher.dirty=ignore")
    assert answers(finished) == as_expected(repository, git=how == "clone")
    if how == "clone":
        commit = repository.commits[-1][:12]
        line = f"Cloning {base / 'app.git'} at {commit} into {repository.root}"
        assert f"#0 | {line}\n" in finished.output
        assert finished.ledger["options"]["remote"] == str(base / "app.git")


def test_another_user(repository: Repository) -> None:
    """A user that the image does not know can clone as well."""
    finished = repository.sweep(CLONE, "hydra.launcher.user='1234:1234'")
    assert answers(finished) == {**as_expected(repository, git=True), "uid": 1234}


def test_git_daemon(repository: Repository, base: Path) -> None:
    """A server that listens on this machine's loopback address only is reached."""
    with remotes.daemon(base) as url:
        finished = repository.sweep(CLONE, f"hydra.launcher.remote={url}/app.git")
    assert answers(finished) == as_expected(repository, git=True)
    assert f"Cloning {url}/app.git at " in finished.output
