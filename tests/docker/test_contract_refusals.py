"""What is wrong before any job starts: one clear message, no stack trace, nothing left behind."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import docker
import pytest
from sweep_command import Finished, MakeRepository, Repository

OPTION = "hydra.launcher."
HINT = "Set the environment variable HYDRA_FULL_ERROR=1"

# All that options may not be is in tests/unit/test_options.py: here, one of each kind.
UNKNOWN_OPTIONS = {
    "mem_limt=1g": "hydra.launcher.mem_limt is not an option of hydra/launcher=docker. "
    "Did you mean mem_limit?\nValid are: image, build, pull_policy, push, commit,",
    "retries.ooom=1": "hydra.launcher.retries.ooom is not an option of hydra/launcher=docker. "
    "Did you mean retries.oom?",
    "pull_policy=nevr": "hydra.launcher.pull_policy=nevr: valid is: always, missing, never; "
    "did you mean never?",
}

WRONG_VALUES = {
    "mem_limit=12q": "mem_limit=12q: must be a size such as 512m, 2g or 2147483648",
    "ulimits.nofile={soft: 9, hard: 3}": "soft (9) is more than hard (3)",
    "volumes=['/no/such:/data']": "volumes=/no/such:/data: /no/such does not exist on this host; "
    "create it first, or correct the path",
    "env_file=no-such.env": "env_file=no-such.env: cannot be read:",
    "security_opt=['seccomp=no-such.json']": "cannot read the seccomp profile:",
}

IMPOSSIBLE = {
    "cpus=1000": "hydra.launcher.cpus=1000 is more than {host} has: {cpus} CPUs",
    "mem_limit=100t": "hydra.launcher.mem_limit=100t is more than {host} has:",
    "memswap_limit=7m": "hydra.launcher.memswap_limit=7m is memory plus swap, so it cannot be "
    "less than mem_limit=64m",
    "volumes=['no-such-volume:/data']": "hydra.launcher.volumes: the engine has no volume "
    "'no-such-volume'. Make it (docker volume create no-such-volume), or write ./no-such-volume",
    "network_mode=hots": "hydra.launcher.network_mode=hots: the engine has no network 'hots'; ",
    "image=localhost:1/no-such-image": "pull the image localhost:1/no-such-image:",
    "pull_policy=never": "The image hydra-docker-test:gone is not on this engine, and "
    "pull_policy=never forbids to pull it.",
    "image=null": "There is no image to run the jobs in: hydra.launcher.image is not set, and "
    "commit {commit} has no Dockerfile at its root.",
    "commit=mian": "hydra.launcher.commit=mian in {root} is no commit: there is no such branch, "
    "tag or id. Did you mean main?",
}


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    return make_repository("hello")


def refused(finished: Finished) -> str:
    """Return the message of a command that was refused before any job."""
    assert finished.status == 1
    assert "Traceback" not in finished.output
    assert finished.output.rstrip().endswith("for a complete stack trace.")
    assert not (finished.folder / "sweep.json").exists()
    return finished.output.partition(HINT)[0]


@pytest.mark.parametrize(("option", "message"), UNKNOWN_OPTIONS.items(), ids=UNKNOWN_OPTIONS)
def test_unknown_option(repository: Repository, option: str, message: str) -> None:
    """A misspelt name or choice is refused, with what is valid and what was perhaps meant."""
    assert message in refused(repository.sweep(OPTION + option))


@pytest.mark.parametrize(("option", "message"), WRONG_VALUES.items(), ids=WRONG_VALUES)
def test_wrong_value(repository: Repository, option: str, message: str) -> None:
    """A value that cannot be is refused: which job, which option, what it was, what is valid."""
    output = refused(repository.sweep(OPTION + option, "name=a"))
    assert output.startswith("job #0 (name=a): hydra.launcher.")
    assert message in output


@pytest.mark.parametrize(("option", "message"), IMPOSSIBLE.items(), ids=IMPOSSIBLE)
def test_impossible(
    repository: Repository, api: docker.APIClient, option: str, message: str
) -> None:
    """What this machine, this engine or this repository does not have is named."""
    extra = {
        "memswap_limit=7m": ["hydra.launcher.mem_limit=64m"],
        "pull_policy=never": ["hydra.launcher.image=hydra-docker-test:gone"],
    }
    info = api.info()
    expected = message.format(
        host=info["Name"],
        cpus=info["NCPU"],
        root=repository.root,
        commit=repository.commits[-1][:12],
    )
    assert expected in refused(repository.sweep(OPTION + option, *extra.get(option, [])))


def test_gpus(repository: Repository, api: docker.APIClient) -> None:
    """Without a way to give a container GPUs, asking for one is an error before any job."""
    if "nvidia" in api.info()["Runtimes"]:
        pytest.skip("this machine can give containers GPUs")
    output = refused(repository.sweep("hydra.launcher.gpus=1"))
    assert "hydra.launcher.gpus: this engine cannot give a container any GPU (" in output
    assert "Install the NVIDIA Container Toolkit on its machine, or set" in output


def test_image_without_python(repository: Repository, empty_image: str) -> None:
    """An image without Python is refused, and named."""
    output = refused(repository.sweep(f"hydra.launcher.image={empty_image}"))
    assert f"The image {empty_image} (" in output
    assert "has no Python: neither python3 nor python is on its PATH." in output


def test_image_without_hydra(repository: Repository, base_image: str) -> None:
    """An image without hydra-core is refused, with the line that its Dockerfile lacks."""
    output = refused(repository.sweep(f"hydra.launcher.image={base_image}"))
    assert f"The image {base_image} (" in output
    assert "has no hydra-core that works (" in output
    assert "No module named 'hydra'" in output
    assert "Add `RUN pip install hydra-core==" in output


def test_no_engine(repository: Repository) -> None:
    """Where no engine answers, that is said at once, with what to do."""
    finished = repository.sweep(environment={"DOCKER_HOST": "unix:///nonexistent.sock"}, timeout=20)
    output = refused(finished)
    assert output.startswith("No Docker engine answers: ")
    assert "Start Docker (`docker info` must work for this user), or set DOCKER_HOST." in output


def test_options_that_differ(make_repository: MakeRepository) -> None:
    """What concerns the whole sweep must be the same for all its jobs."""
    repository = make_repository("hello")
    repository.write("config.yaml", "name: a\nhydra:\n  launcher:\n    keep: ${name}\n")
    repository.commit()
    output = refused(repository.sweep("name=none,all"))
    assert (
        "hydra.launcher.keep must be the same for all jobs of a sweep, but is 'none' for job #0 "
        "(name=none) and 'all' for job #1 (name=all)" in output
    )


class TestRepository:
    def test_dirty(self, make_repository: MakeRepository) -> None:
        """Uncommitted code is refused with the list of files and the ways out; YAML is not code."""
        repository = make_repository("hello")
        repository.write("config.yaml", "name: everybody\n")
        repository.write("model.py", "layers = 3\n")
        (repository.root / "app.py").open("a").write("# edited\n")
        output = refused(repository.sweep())
        assert output.startswith(
            f"{repository.root} has uncommitted changes, and the jobs would run commit "
            f"{repository.commits[-1][:10]} without them:\n"
            "  modified: app.py\n"
            "  untracked: model.py\n"
            "Commit or stash them, run them as they are (hydra.launcher.dirty=snapshot), or run "
            "the commit without them (hydra.launcher.dirty=ignore). "
        )
        finished = repository.sweep("hydra.launcher.dirty=ignore")
        assert finished.status == 0
        assert "Running without uncommitted changes: app.py, model.py" in finished.output
        assert "#0 | hello everybody\n" in finished.output

    def test_script_that_is_not_committed(self, make_repository: MakeRepository) -> None:
        """A script that the commit does not have cannot run, whatever `dirty` says."""
        repository = make_repository("hello")
        new = repository.write("new.py", (repository.root / "app.py").read_text())
        output = refused(repository.sweep("hydra.launcher.dirty=ignore", script="new.py"))
        commit = repository.commits[-1][:10]
        assert output.startswith(f"{new} is not in commit {commit}: it is untracked, or newer")

    def test_no_repository(self, repository: Repository, tmp_path: Path) -> None:
        """A script that is in no repository has no commit."""
        for name in ("app.py", "config.yaml"):
            (tmp_path / name).write_text((repository.root / name).read_text())
        finished = repository.sweep(
            f"hydra.sweep.dir={tmp_path}/out",
            script=tmp_path / "app.py",
            cwd=tmp_path,
            environment={"GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
        )
        assert "is not in a git repository" in refused(finished)

    def test_no_commit(self, make_repository: MakeRepository) -> None:
        """A repository without a commit is told how to get one."""
        repository = make_repository("hello")
        subprocess.run(("rm", "-rf", repository.root / ".git"), check=True)
        repository.git("init", "--quiet")
        output = refused(repository.sweep())
        assert output.startswith(f"{repository.root} has no commit yet: run `git add`")


def test_dry_run(repository: Repository) -> None:
    """dry_run prints each job's container as a docker run line, and starts nothing."""
    finished = repository.sweep(
        "name=a,b", "hydra.launcher.dry_run=true", "hydra.launcher.cpus=0.5"
    )
    assert finished.status == 0
    output = finished.output
    assert f"Commit {repository.commits[-1][:12]} of {repository.root}\n" in output
    assert f"\n# IMAGE is {repository.defaults['hydra.launcher.image']}, with" in output
    assert "\n# job #0 (name=a)\ndocker run --detach --name app-" in output
    assert "\n# job #1 (name=b)\ndocker run --detach --name app-" in output
    for argument in (
        "--cpus 0.5",
        "--pids-limit 4096",
        f"--user {os.getuid()}:{os.getgid()}",
        "--cap-drop ALL",
        "--security-opt no-new-privileges:true",
        f"--workdir {repository.root}",
        "--entrypoint python3",
        f"--label hydra.docker.commit={repository.commits[-1]}",
    ):
        assert output.count(f"    {argument} \\\n") == 2, argument
    assert not list(finished.folder.glob("*/.docker"))
