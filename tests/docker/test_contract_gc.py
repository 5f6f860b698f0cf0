"""hydra-docker gc on a real engine: what goes, and what a sweep, or somebody else, needs."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import docker
import pytest
from git_repository import everything
from sweep_command import Command, MakeRepository, Repository, wait_for

from hydra_plugins.hydra_docker_launcher import _cli
from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._errors import EngineError

HOUR, DAY = 3600.0, 86400.0
MINE = "gc-test-mine"

#: Runs ``gc`` with arguments so many seconds from now; returns exit code, output and errors.
Gc = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> Gc:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def run(*arguments: str, later: float = 0.0) -> tuple[int, str, str]:
        now = time.time() + later
        with monkeypatch.context() as patched:
            # The engine must not be asked about the future: it would wait for it.
            patched.setattr(_cli, "time", SimpleNamespace(time=lambda: now))
            status = _cli.main(["gc", *arguments])
        return (status, *capsys.readouterr())

    return run


@dataclass(frozen=True)
class Case:
    """A sweep with a job that has failed and one that waits, and ``gc`` for this sweep alone.

    The engine is one for all tests: what others have left is theirs.
    """

    repository: Repository
    command: Command
    run: Gc
    engine: DockerEngine
    #: The containers of the two jobs, and the sweep's three images.
    failed: str
    waiting: str
    layer: str
    baked: str
    built: str

    @property
    def folder(self) -> Path:
        return self.command.folder

    @property
    def snapshot(self) -> str:
        ledger = json.loads((self.folder / "sweep.json").read_text())
        return str(ledger["source"]["commit"])

    def gc(self, *arguments: str, later: float = 0.0) -> str:
        """Return what it says."""
        status, out, err = self.run("--sweep", str(self.folder), *arguments, later=later)
        assert (status, err) == (0, "")
        return out

    def there(self) -> tuple[list[str], list[str]]:
        """Return all containers and images with the labels of the sweep, also those by hand."""
        return there(self.repository)


def there(repository: Repository) -> tuple[list[str], list[str]]:
    names = [name for image in repository._labelled() for name in image["RepoTags"] or ["none"]]
    return sorted(c["Names"][0].lstrip("/") for c in repository.containers()), sorted(names)


def outcome(command: Command, job: int) -> str | None:
    found: str | None = json.loads((command.folder / "sweep.json").read_text())["jobs"][job][
        "outcome"
    ]
    return found


@pytest.fixture
def case(make_repository: MakeRepository, hydra_image: str, api: docker.APIClient, gc: Gc) -> Case:
    options = {"build.network": "none", "network_mode": "none", "n_jobs": "2"}
    repository = make_repository(
        "ends", image="null", delivery="image", dirty="snapshot", **options
    )
    # In no commit: the sweep runs a snapshot.
    dockerfile = f"FROM {hydra_image}\nRUN echo {repository.root} > /gc\nCOPY app.py /copied/\n"
    repository.write("Dockerfile", dockerfile)
    command = repository.start("how=raise_builtin,wait_for_stop")
    command.wait_for_line(1, "waiting")
    wait_for(lambda: outcome(command, 0), "job #0 has ended")
    names = (api.inspect_container(command.container(n))["Name"].lstrip("/") for n in (0, 1))
    _, images = there(repository)
    assert [name.partition(":")[0] for name in images] == [
        "app",
        "hydra-docker/ends",
        "hydra-docker/ends",
    ]
    layer, *content = images
    built, baked = sorted(content, key=len)
    return Case(repository, command, gc, DockerEngine(), *names, layer, baked, built)


def test_life_of_a_sweep(case: Case, api: docker.APIClient, hydra_image: str) -> None:
    """While it runs and until it is recorded all of it stays; then it goes, and nothing else."""
    before = case.there()
    while_it_runs(case)
    assert case.there() == before
    case.command.process.kill()
    case.command.process.wait()
    when_it_was_killed(case)
    assert case.there() == before
    record(case, api)
    when_it_is_recorded(case, api)
    images_that_are_used(case, hydra_image)
    hidden_refs(case)


def while_it_runs(case: Case) -> None:
    out = case.gc("--yes", "--older-than", "0", later=80 * DAY)
    assert out.startswith("Nothing to remove.\nKept:\n")
    assert f"  containers {case.failed}: its sweep is in progress\n" in out
    assert f"  containers {case.waiting}: runs\n" in out
    with pytest.raises(EngineError, match="running container"):
        case.engine.discard(case.waiting)


def when_it_was_killed(case: Case) -> None:
    """What nobody has recorded yet stays, however old it is."""
    out = case.gc("--yes", "--older-than", "0", later=80 * DAY)
    attach = f"hydra-docker attach {case.folder}"
    assert out.startswith("Nothing to remove.\nKept:\n")
    assert f"  containers {case.failed}: its sweep is not all recorded: {attach}\n" in out
    assert f"{case.waiting}: runs, and no launcher looks after it: {attach}, or docker stop" in out
    assert "/1/.docker/job.pickle: its container needs it\n" in out


def record(case: Case, api: docker.APIClient) -> None:
    """Let the sweep be over, as it is when somebody has taken it up."""
    api.remove_container(case.waiting, force=True)
    ledger = json.loads((case.folder / "sweep.json").read_text())
    for row in ledger["jobs"]:
        row["outcome"] = row["outcome"] or "stopped"
    (case.folder / "sweep.json").write_text(json.dumps(ledger))
    shutil.rmtree(case.folder / ".docker")


def when_it_is_recorded(case: Case, api: docker.APIClient) -> None:
    """It goes by its age. What somebody has made of it by hand stays, and what that needs."""
    api.commit(case.failed, MINE, "1")
    by_hand = api.create_container(f"{MINE}:1", name=MINE, command=["true"])["Id"]
    try:
        before, files = case.there(), everything(case.repository.root)
        out = case.gc("--dry-run", "--older-than", "0", later=2 * HOUR)
        assert f"containers\n  {case.failed}  2h    its job is over: error\n" in out
        assert f"\nsecrets\n  {case.folder}/1/.docker/job.pickle  2h    its job is over\n" in out
        assert (case.there(), everything(case.repository.root)) == (before, files)
        assert case.gc("--yes").startswith("Nothing to remove.\n")
        assert case.there() == before

        out = case.gc("--yes", "--older-than", "0", later=2 * HOUR)
        used = f"{case.layer}, {case.baked}, {case.built}"
        assert f"  images {used}: the container {MINE} uses it\n" in out
        assert case.there() == ([MINE], before[1])
        assert [path.name for path in (case.folder / "1/.docker").iterdir()] == ["config.yaml"]
        with pytest.raises(EngineError, match=f"remove the image {MINE}:1: conflict"):
            case.engine.discard_image(f"{MINE}:1")
        api.remove_container(by_hand)
        out = case.gc("--yes", "--older-than", "0", later=2 * HOUR)
        assert f"  images {case.layer}: {MINE}:1 stands on it\n" in out
        assert case.there() == ([], before[1])
        case.engine.discard(by_hand)  # which is gone
    finally:
        api.remove_image(f"{MINE}:1", force=True)


def images_that_are_used(case: Case, base: str) -> None:
    """An image is as old as its last use; with it go the steps of its build, not its base image."""
    case.engine.touch(case.built)
    found = {name: image for image in case.engine.images({}) for name in image.names}
    assert found[case.built].used > found[case.baked].used >= found[case.built].created
    step = found[case.built].parent
    assert step is not None
    assert case.engine.find_image(step) is not None

    out = case.gc("--yes", "--older-than", "0", later=2 * HOUR)
    assert out.endswith("Removed 3 of 3.\n")
    assert case.there() == ([], [])
    assert case.engine.find_image(step) is None
    assert case.engine.find_image(base) is not None
    case.engine.touch(case.built)  # nothing to note at, nothing to remove
    case.engine.discard_image(case.built)


def hidden_refs(case: Case) -> None:
    """A snapshot that a sweep.json names goes only if that is asked for."""
    commit, root = case.snapshot, case.repository.root
    refs = ("--yes", "--only", "refs", "--repository", str(root))
    status, out, _ = case.run(*refs, later=31 * DAY)
    assert status == 0
    assert out == (
        "Nothing to remove.\nKept:\n"
        f"  refs snapshots/{commit[:12]} in {root}: {case.folder} names it\n"
    )
    status, out, _ = case.run(*refs, "--refs-of-past-sweeps", later=31 * DAY)
    assert (status, out.splitlines()[-1]) == (0, "Removed 1 of 1.")
    assert case.repository.git("for-each-ref", "refs/hydra-docker") == ""
