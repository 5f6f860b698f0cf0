"""DESIGN.md section 7: a past run, run again by its id, or from a note of image, commit, config."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
from mlflow.entities import Run
from sweep_command import Finished, MakeRepository, Repository, own_metrics

HOWS = ("metrics", "crashes", "returns_numbers")
BY_VALUE = """
import hydra
@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    return cfg.x * 2
main()
"""
#: A training whose result depends on every digit of it.
TRAINING = """
import random
import hydra

@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    random.seed(cfg.seed)
    points = [(random.gauss(0, 1), random.gauss(0, 1)) for _ in range(300)]
    labels = [x * x > y + random.gauss(0, 0.3) for x, y in points]
    a = b = c = 0.0
    for _ in range(20):
        for (x, y), label in zip(points, labels):
            error = label - (a * x * x + b * y + c > 0)
            a, b, c = a + 0.1 * error * x * x, b + 0.1 * error * y, c + 0.1 * error
    right = [(a * x * x + b * y + c > 0) == label for (x, y), label in zip(points, labels)]
    return {"accuracy": sum(right) / len(right), "weight": a}

main()
"""


@dataclass(frozen=True)
class Done:
    """A command of ``hydra-docker`` that has ended."""

    status: int
    out: str
    err: str


def hydra_docker(cwd: Path, environment: Mapping[str, str], *arguments: str) -> Done:
    done = subprocess.run(
        (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli", *arguments),
        cwd=cwd,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def contents(folder: Path) -> dict[str, bytes]:
    """Return all files of a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def with_mlflow(repository: Repository) -> Repository:
    del repository.defaults["hydra.launcher.mlflow.enabled"]
    return repository


@dataclass(frozen=True)
class Again:
    """A sweep, what it left behind, and its repetition."""

    repository: Repository
    finished: Finished
    before: dict[str, bytes]
    done: Done
    folder: Path

    @property
    def client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.repository.root}/mlflow.db")

    def then(self, how: str) -> Run:
        return self.client.get_run(self.finished.ledger["jobs"][HOWS.index(how)]["run_id"])

    def now(self, how: str) -> Run:
        rows = json.loads((self.folder / "sweep.json").read_text())["jobs"]
        return self.client.get_run(rows[HOWS.index(how)]["run_id"])

    @property
    def sweep(self) -> str:
        return self.then("metrics").data.tags["mlflow.parentRunId"]

    def hydra_docker(self, *arguments: str) -> Done:
        return hydra_docker(self.repository.root, self.repository.environment, *arguments)


@pytest.fixture(scope="module")
def again(make_repository: MakeRepository, mlflow_image: str) -> Again:
    """A sweep of three jobs, one of which fails, and the same again by the id of its run."""
    repository = with_mlflow(make_repository("tracked", mlflow_image, n_jobs="3", mem_limit="1g"))
    finished = repository.sweep("how=" + ",".join(HOWS))
    before = contents(finished.folder)
    (row, *_) = finished.ledger["jobs"]
    client = mlflow.MlflowClient(f"sqlite:///{repository.root}/mlflow.db")
    sweep = client.get_run(row["run_id"]).data.tags["mlflow.parentRunId"]
    done = hydra_docker(repository.root, repository.environment, "reproduce", sweep)
    (folder,) = (repository.root / "reproduced").iterdir()
    return Again(repository, finished, before, done, folder)


def test_same_metrics(again: Again) -> None:
    """What was logged and what was returned is the same to the last digit."""
    for how in ("metrics", "returns_numbers"):
        assert own_metrics(again.now(how)) == own_metrics(again.then(how))
    assert own_metrics(again.now("metrics")) == {"loss": 1 / 3, "return_value": 0.75}


def test_runs_that_repeat(again: Again) -> None:
    """The new runs are a sweep of their own; each is tagged with the run that it repeats."""
    parent = again.now("metrics").data.tags["mlflow.parentRunId"]
    assert parent != again.sweep
    assert again.client.get_run(parent).data.tags["hydra.docker.reproduces"] == again.sweep
    for how in HOWS:
        then, now = again.then(how), again.now(how)
        assert now.data.tags["hydra.docker.reproduces"] == then.info.run_id
        assert now.data.tags["mlflow.parentRunId"] == parent
        assert now.info.experiment_id == then.info.experiment_id
        assert now.data.params == then.data.params
        commit = "mlflow.source.git.commit"
        assert now.data.tags[commit] == then.data.tags[commit] == again.repository.commits[-1]


def test_outputs_in_a_new_folder(again: Again) -> None:
    """The outputs of then are not touched; the new ones are as a sweep leaves them."""
    assert contents(again.finished.folder) == again.before
    for number in range(len(HOWS)):
        for name in (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml"):
            new = (again.folder / str(number) / name).read_bytes()
            assert new == again.before[f"{number}/{name}"]
    assert {path.name for path in (again.folder / "0").iterdir()} == {
        ".docker",
        ".hydra",
        "app.log",
        "container.log",
    }


def test_report(again: Again) -> None:
    """The report says of every job what was the same; a job that failed fails again."""
    assert again.done.status == 1
    blocks = again.done.out.split("\n\n")
    metrics, crashes, returns_numbers, summary, outputs = blocks[-5:]
    same = ["outcome", "commit", "4 config values", "image", "python", "hydra-core", "machine"]
    assert metrics.splitlines()[:3] == [
        "job #0 (how=metrics): completed",
        f"  run then  {again.then('metrics').info.run_id}",
        f"  run now   {again.now('metrics').info.run_id}",
    ]
    line = metrics.splitlines()[3]
    assert line.startswith("  same      ")
    assert set(same) <= set(line.removeprefix("  same      ").split(", "))
    assert metrics.splitlines()[4:] == [
        "  metric        then                now",
        "  loss          0.3333333333333333  0.3333333333333333  same",
        "  return_value  0.75                0.75                same",
    ]
    assert crashes.startswith("job #1 (how=crashes): error: raised ValueError: loss is nan\n")
    assert "outcome" in crashes.splitlines()[3]
    assert returns_numbers.startswith("job #2 (how=returns_numbers): completed\n")
    assert summary == "2 of 3 completed; metrics the same in 3"
    assert outputs == f"outputs in {again.folder}\n"


def test_dry_run(again: Again) -> None:
    """--dry-run prints what would run; the first digits of an id name a run."""
    then = again.then("metrics")
    done = again.hydra_docker("reproduce", "--dry-run", then.info.run_id[:10])
    assert done.status == 0, done.err
    assert "Nothing has been started." in done.out
    assert done.out.count("docker run --detach") == 1
    assert f"target={again.finished.folder}/0 " in done.out
    assert [path.name for path in again.folder.parent.iterdir()] == [again.folder.name]


def test_note(again: Again, tmp_path: Path) -> None:
    """Both ways that a note prints work as they are printed, the second without this project."""
    run = again.then("returns_numbers")
    noted = again.hydra_docker("note", run.info.run_id)
    assert noted.status == 0, noted.err
    facts, here, alone = noted.out.split("\n\n")
    config = f"config-{run.info.run_id[:8]}.yaml"
    image = again.finished.ledger["image"]
    assert facts.splitlines() == [
        f"image:  {image['id']}  ({image['reference']}; in no registry)",
        f"commit: {run.data.tags['mlflow.source.git.commit']}  ({again.repository.root})",
        f"config: {config}",
    ]
    command = tmp_path / "bin" / "hydra-docker"
    command.parent.mkdir()
    module = "hydra_plugins.hydra_docker_launcher._cli"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
    command.chmod(0o755)
    environment = {
        **again.repository.environment,
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
    }

    def bash(script: str, cwd: Path) -> str:
        done = subprocess.run(
            ("bash", "-ec", script),
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    out = bash(here, again.repository.root)
    run_id = out.split("run now   ")[1].splitlines()[0]
    new = again.client.get_run(run_id)
    assert own_metrics(new) == own_metrics(run) == {"accuracy": 0.5, "epochs": 3.0}

    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(again.repository.root / config, empty)
    bash(alone, empty)
    written = (empty / "outputs" / ".hydra" / "config.yaml").read_text()
    assert written == (empty / config).read_text()


def test_next_sweep(again: Again) -> None:
    """What reproduce and note leave in the repository is no uncommitted change."""
    again.repository.write(".gitignore", "")
    again.repository.git("commit", "--quiet", "--message", "ignore nothing", ".gitignore")
    assert "?? reproduced/" in again.repository.git("status", "--short")
    assert "?? config-" in again.repository.git("status", "--short")
    finished = again.repository.sweep("hydra.launcher.dry_run=true")
    assert finished.status == 0, finished.output


def test_on_another_machine(
    make_repository: MakeRepository, server: str, environment: dict[str, str], tmp_path: Path
) -> None:
    """The store's address and a remote of the repository are enough.

    A script of ``python -m`` with a Structured Config finds the paths and the types of then.
    """
    options = {"mlflow.tracking_uri": server}
    repository = with_mlflow(make_repository("paths", root=tmp_path / "then", **options))
    remote = tmp_path / "remote.git"
    repository.git("clone", "--quiet", "--bare", str(repository.root), str(remote))
    finished = repository.sweep("name=a", script="tools.train", python=("-m",), cwd=repository.root)
    assert finished.status == 0, finished.output
    then = contents(finished.folder / "0")
    assert json.loads(then["answers.json"])["types"][0] == "Config"
    run_id = finished.ledger["jobs"][0]["run_id"]
    repository.root = repository.root.rename(tmp_path / "away")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    where = ("--tracking-uri", server, "--remote", f"file://{remote}", "--output", "out")
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    done = hydra_docker(elsewhere, {**environment, **cache}, "reproduce", run_id, *where)

    assert done.status == 0, done.err
    now = contents(elsewhere / "out" / "0")
    for name in ("answers.json", "files.json", "config.json", ".hydra/config.yaml"):
        assert now[name] == then[name]
    assert "job #0 (name=a): completed" in done.out
    assert f"  remark    the commit is from file://{remote}\n" in done.out
    assert [path.name for path in elsewhere.iterdir()] == ["out"]


def test_from_remotes_alone(
    make_repository: MakeRepository,
    hydra_image: str,
    registry: str,
    environment: dict[str, str],
    tmp_path: Path,
) -> None:
    """With clone and image gone from this machine: the same result to the last digit."""
    repository = with_mlflow(make_repository("built", root=tmp_path / "then"))
    del repository.defaults["hydra.launcher.image"]
    store = f"sqlite:///{tmp_path}/store/mlflow.db"
    repository.defaults |= {
        "hydra.launcher.build.args": f"{{BASE_IMAGE: {hydra_image}}}",
        "hydra.launcher.push": f"{registry}/team/trained",
        "hydra.launcher.mlflow.tracking_uri": store,
    }
    repository.write("train.py", TRAINING)
    repository.commit()
    remote = tmp_path / "remote.git"
    repository.git("clone", "--quiet", "--bare", str(repository.root), str(remote))
    repository.git("remote", "add", "origin", f"file://{remote}")
    finished = repository.sweep("+seed=1", script="train.py")
    assert finished.status == 0, finished.output
    image, (row,) = finished.ledger["image"], finished.ledger["jobs"]
    repository.root = repository.root.rename(tmp_path / "away")
    repository.api.remove_image(image["id"], force=True)
    assert repository.api.images(image["digest"]) == []
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}

    arguments = ("reproduce", row["run_id"], "--tracking-uri", store)
    done = hydra_docker(elsewhere, {**environment, **cache}, *arguments)

    assert done.status == 0, done.err
    (ledger,) = elsewhere.rglob("sweep.json")
    again = json.loads(ledger.read_text())
    assert again["image"]["digest"] == image["digest"]
    client = mlflow.MlflowClient(store)
    then, now = (client.get_run(one["run_id"]) for one in (row, again["jobs"][0]))
    assert own_metrics(now) == own_metrics(then)
    assert 0.5 < then.data.metrics["accuracy"] < 1
    assert "differs" not in done.out
    repository.api.remove_image(image["digest"], force=True)


def test_function_by_value(again: Again, hydra_image: str) -> None:
    """A function of no script is in the run itself."""
    image = f"hydra.launcher.image={hydra_image}"
    finished = again.repository.sweep("+x=3", image, script=BY_VALUE, python=("-c",))
    assert finished.status == 0, finished.output
    run_id = finished.ledger["jobs"][0]["run_id"]
    done = again.hydra_docker("reproduce", run_id)
    assert done.status == 0, done.err
    assert "  return_value  6     6    same\n" in done.out
