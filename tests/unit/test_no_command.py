"""No text of a config, or of the record of a run, becomes a command or an option of one."""

from __future__ import annotations

import ast
import shlex
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import GitRepository, init, isolate

from hydra_plugins.hydra_docker_launcher import _buildkit, _clone, _past_source, _remotes, _revision
from hydra_plugins.hydra_docker_launcher._dry_run import docker_run
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    BuildRequest,
    ContainerSpec,
    Limits,
    Mount,
)
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError
from hydra_plugins.hydra_docker_launcher._repository import Repository

PACKAGE = Path(_revision.__file__).parent
#: ``{}`` is a file that is there when one of them has run.
EVIL = (
    "--upload-pack=touch {}",
    "--exec=touch {}",
    "-utouch {}",
    "-c core.sshCommand=touch {}",
    "ext::sh -c touch% {}",
    "ssh://-oProxyCommand=touch%20{}/x",
    "-oProxyCommand=touch {}:x",
    "$(touch {})",
    "`touch {}`",
    "; touch {} ;",
    "|touch {}",
    "main\ntouch {}",
)


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> GitRepository:
    isolate(tmp_path, monkeypatch)
    # As careless as a user's own configuration can be.
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "protocol.ext.allow")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "always")
    repository = init(tmp_path / "project")
    repository.commit(train__py="pass\n")
    return repository


@pytest.mark.parametrize("evil", EVIL)
def test_git(repo: GitRepository, tmp_path: Path, evil: str) -> None:
    """As a revision, a remote, or the address in the record of a run."""
    mark = tmp_path / "mark"
    text = evil.format(mark)
    repository = Repository(repo.root)
    commit = "0" * 40
    for call in (
        lambda: _revision.resolve(repository, text),
        lambda: _remotes.address(repository, text),
        lambda: _remotes.refs_with(repository, commit, text),
        lambda: _remotes.fetch(repository, commit, remote=text, branch="main"),
        lambda: _remotes.fetch(repository, text, remote="origin", branch=text),
        lambda: _past_source._fetched(text, commit, None, tmp_path / "cache"),
    ):
        with suppress(DockerLauncherError):
            call()
        assert not mark.exists(), text


@pytest.mark.parametrize("evil", EVIL)
def test_ssh(tmp_path: Path, evil: str) -> None:
    """As the user or the host of a server that is asked for in ssh's configuration."""
    mark = tmp_path / "mark"
    text = evil.format(mark)
    server = _clone.Server("ssh", text, text, 22, text)
    _clone._ssh_settings(server)
    _clone._knows(tmp_path / "known_hosts", text)
    assert not mark.exists(), text


@pytest.mark.parametrize("evil", EVIL)
def test_buildkit(tmp_path: Path, evil: str) -> None:
    """Each value of a build is part of the argument that names it."""
    request = BuildRequest(
        tag=evil,
        dockerfile=evil,
        text="",
        target=evil,
        args=((evil, evil),),
        network=evil,
        labels=((evil, evil),),
    )
    arguments = [*_buildkit._arguments(request, tmp_path / "Dockerfile")]
    names = {"build", "--progress", "--file", "--tag", "--build-arg", "--label", "--target"}
    assert {argument.partition("=")[0] for argument in arguments} <= {*names, "--network"}


@pytest.mark.parametrize("evil", EVIL)
def test_dry_run(evil: str) -> None:
    """The line that is shown can be pasted into a shell."""
    spec = ContainerSpec(
        name=evil,
        image=evil,
        command=(evil, evil),
        working_dir=evil,
        limits=Limits(cpus=1.0, memory=1, memory_swap=1, shm_size=1, pids=1),
        boundary=Boundary(user=evil, network_mode=evil, security_opt=(evil,), runtime=evil),
        environment=((evil, evil),),
        mounts=(Mount(evil, evil),),
        labels=((evil, evil),),
    )
    plain = replace(
        spec,
        name="x",
        image="x",
        command=("x", "x"),
        working_dir="x",
        boundary=Boundary(user="x", network_mode="x", security_opt=("x",), runtime="x"),
        environment=(("x", "x"),),
        mounts=(Mount("x", "x"),),
        labels=(("x", "x"),),
    )
    words = shlex.split(docker_run(spec))
    assert len(words) == len(shlex.split(docker_run(plain)))
    assert words.count(evil) == 9


def test_no_shell() -> None:
    """No module starts a shell, or a program from a single text."""
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword):
                assert node.arg != "shell", path
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                called = f"{node.value.id}.{node.attr}"
                assert called not in ("os.system", "os.popen", "subprocess.getoutput"), path
