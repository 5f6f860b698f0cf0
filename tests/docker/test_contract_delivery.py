"""The three ways in which the commit's files get into the containers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import remotes
from remotes import TOKEN, SshServer
from sweep_command import Finished, MakeRepository, Repository

CLONE = "hydra.launcher.delivery=clone"
IMAGE = "hydra.launcher.delivery=image"
LARGE = "what is in the file\n"


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


def add_lfs_file(repository: Repository, remote: Path) -> None:
    """Commit and push what git-lfs would: a pointer, and the content to the remote's store."""
    digest = hashlib.sha256(LARGE.encode()).hexdigest()
    content = remote / "lfs" / "objects" / digest[:2] / digest[2:4] / digest
    content.parent.mkdir(parents=True)
    content.write_text(LARGE)
    version = "version https://git-lfs.github.com/spec/v1"
    repository.write("large", f"{version}\noid sha256:{digest}\nsize {len(LARGE)}\n")
    repository.write(".gitattributes", "large filter=lfs diff=lfs merge=lfs -text\n")
    repository.commit()
    repository.git("push", "--quiet", "origin", "main")


def answers(finished: Finished) -> dict[str, Any]:
    assert finished.status == 0, finished.output
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


@pytest.mark.parametrize("how", ["copy", "clone"])
def test_files(repository: Repository, base: Path, how: str) -> None:
    """The commit's files are there, submodules at their recorded commits, edits are not.

    Files in Git LFS come with a clone; those of the other ways are the host's git's business.
    """
    if how == "clone":
        add_lfs_file(repository, base / "app.git")
    repository.write("tools/run.sh", "edited").chmod(0o644)
    finished = repository.sweep(f"hydra.launcher.delivery={how}", "hydra.launcher.dirty=ignore")
    found = answers(finished)
    if how == "clone":
        found["files"] = [
            name for name in found["files"] if name not in ("large", ".gitattributes")
        ]
        assert found.pop("large") == LARGE
    assert found == as_expected(repository, git=how == "clone")
    if how == "clone":
        commit = repository.commits[-1][:12]
        line = f"Cloning {base / 'app.git'} at {commit} into {repository.root}"
        assert f"#0 | {line}\n" in finished.output
        assert finished.ledger["options"]["remote"] == str(base / "app.git")


def test_image(repository: Repository, api: docker.APIClient) -> None:
    """One image per commit: made once, used again, and enough by itself for `docker run`."""
    first = repository.sweep(IMAGE)
    assert answers(first) == as_expected(repository, git=False)
    delivered = first.ledger["delivered"]
    assert api.inspect_image(delivered["reference"])["Id"] == delivered["id"]
    config = api.inspect_image(delivered["id"])["Config"]
    assert config["WorkingDir"] == str(repository.root)
    assert config["Labels"]["org.opencontainers.image.revision"] == repository.commits[-1]

    second = repository.sweep(IMAGE)
    assert second.ledger["delivered"] == delivered
    assert "has the commit's files already" in second.output

    # As `docker run IMAGE python3 app.py`: nothing of the launcher is needed, nor in there.
    command = ["sh", "-c", "ls -d /hydra; python3 app.py hydra.run.dir=/tmp/x && cat /tmp/x/*.json"]
    made = api.create_container(
        delivered["reference"], command, name=f"alone-{delivered['id'][7:]}"
    )
    try:
        api.start(made)
        assert api.wait(made)["StatusCode"] == 0, api.logs(made)
        output = api.logs(made).decode()
    finally:
        api.remove_container(made, force=True)
    assert "ls: cannot access '/hydra'" in output
    assert json.loads(output.splitlines()[-1])["files"] == answers(first)["files"]


def test_git_daemon(repository: Repository, base: Path) -> None:
    """A server that listens on this machine's loopback address only is reached."""
    with remotes.daemon(base) as url:
        finished = repository.sweep(CLONE, f"hydra.launcher.remote={url}/app.git")
    assert answers(finished) == as_expected(repository, git=True)
    assert f"Cloning {url}/app.git at " in finished.output


def test_token(repository: Repository, base: Path, api: docker.APIClient) -> None:
    """A token reaches the remote, and is nowhere to be found: not while it runs, not after."""
    repository.write(".gitignore", "multirun\nwait\n")
    repository.commit()
    repository.git("push", "--quiet", "origin", "main")
    with remotes.web(base) as url:
        repository.git("remote", "set-url", "origin", f"{url}/app.git")
        command = repository.start(
            CLONE,
            "hydra.launcher.clone.token=REMOTE_TOKEN",
            "hydra.launcher.keep=all",
            "+wait=true",
            environment={"REMOTE_TOKEN": TOKEN},
        )
        command.wait_for_line(0, "waiting")
    container = command.container(0)
    found = api.inspect_container(container)
    secret = command.folder / "0/.docker/secrets/credential"
    assert TOKEN in secret.read_text()
    assert (secret.stat().st_mode & 0o777, secret.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    (mount,) = [item for item in found["Mounts"] if item["Destination"] == "/hydra/secrets"]
    assert (mount["Source"], mount["RW"]) == (str(secret.parent), False)
    command.interrupt()
    finished = command.finish()

    assert finished.outcomes == ["stopped"], finished.output
    assert list(secret.parent.iterdir()) == []
    nowhere(TOKEN, finished)
    seen = json.dumps([found, api.inspect_image(found["Image"]), api.history(found["Image"])])
    assert TOKEN not in seen
    assert TOKEN not in b"".join(api.get_archive(container, "/hydra")[0]).decode(errors="ignore")
    config = b"".join(api.get_archive(container, f"{repository.root}/.git/config")[0]).decode()
    assert 'remote "origin"' in config
    assert TOKEN not in config


def test_ssh_key(repository: Repository, base: Path, ssh: SshServer, tmp_path: Path) -> None:
    """A private key lets a user in whom the image does not know; a server must be known."""
    remote = f"hydra.launcher.remote=ssh://git@localhost:{ssh.port}{base}/app.git"
    key = f"hydra.launcher.clone.ssh_key={ssh.key}"
    options = (CLONE, "hydra.launcher.user='1234:1234'", remote, key)
    # For the host's own question, whether the commit is there.
    command = f"ssh -i {ssh.key} -o UserKnownHostsFile={ssh.known_hosts}"
    environment = {"GIT_SSH_COMMAND": command}

    known = f"hydra.launcher.clone.known_hosts={ssh.known_hosts}"
    finished = repository.sweep(*options, known, environment=environment)
    assert answers(finished) == {**as_expected(repository, git=True), "uid": 1234}
    nowhere("OPENSSH PRIVATE KEY", finished)
    assert not (finished.folder / "0/.docker/secrets").exists()

    (tmp_path / "nobody").touch()
    known = f"hydra.launcher.clone.known_hosts={tmp_path / 'nobody'}"
    finished = repository.sweep(*options, known, environment=environment)
    assert finished.status == 1
    assert f"ssh-keyscan -p {ssh.port} localhost >> {tmp_path / 'nobody'}" in finished.output


def test_clone_that_fails(repository: Repository, base: Path) -> None:
    """It is the job's outcome, in git's words, with no traceback of the launcher."""
    commit = repository.commits[-1]
    # The remote has the branch no more, and this clone has not heard of it.
    _git(base / "app.git", "update-ref", "-d", "refs/heads/main")
    _git(base / "app.git", "gc", "--quiet", "--prune=now")
    finished = repository.sweep(CLONE, f"hydra.launcher.commit={commit}")
    assert finished.outcomes == ["could not start"], finished.output
    assert finished.ledger["jobs"][0]["cause"] == (
        f"could not clone {base / 'app.git'} at {commit[:12]}: none of its branches and tags has "
        "this commit (any more)"
    )
    assert "Traceback" not in finished.output
