"""An Optuna study runs what it started with, and what that was is written down."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import docker
import mlflow
import pytest
import yaml
from sweep_command import Finished, MakeRepository, Repository

TRIALS = 3
MOVING = "hydra-docker-test:moving-frozen"
DIST_INFO = {
    "METADATA": "Metadata-Version: 2.1\nName: frozen-data-configs\nVersion: 1.2.3\n",
    "RECORD": "frozen_data/__init__.py,,\nfrozen_data/conf/data/digits.yaml,,\n",
}
MADE_OF = {
    "app": 1,
    "late": 1,
    "text": "as committed",
    "config": {
        "x": None,
        "lr": 1,
        "model": {"width": 1},
        "team": {"rule": "first"},
        "data": {"classes": 10},
    },
    "token": "s3cret",
}


@dataclass(frozen=True)
class Study:
    """A study that has ended, what was true when it started, and its runs in MLflow."""

    repository: Repository
    finished: Finished
    commit: str
    image: str
    team: Path
    team_commit: str
    client: mlflow.MlflowClient
    parent: Any
    children: tuple[Any, ...]

    def document(self, run: Any, folder: Path) -> dict[str, Any]:
        path = self.client.download_artifacts(run.info.run_id, "provenance.json", str(folder))
        return json.loads(Path(path).read_text())


@pytest.fixture(scope="module")
def study(
    make_repository: MakeRepository,
    hydra_image: str,
    base_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Study]:
    """Three batches of one trial; while the first one runs, everything is changed."""
    repository = make_repository("frozen", image=MOVING)
    repository.git("remote", "add", "origin", "https://token@example.org/ada/frozen.git")
    api, commit = repository.api, repository.commits[-1]
    api.tag(hydra_image, *MOVING.split(":"), force=True)
    image = api.inspect_image(MOVING)["Id"]
    team, team_commit = team_repository(tmp_path_factory.mktemp("team"), repository)
    site = installed_package(tmp_path_factory.mktemp("site"))
    path = os.pathsep.join(filter(None, (str(site), os.environ.get("PYTHONPATH"))))
    command = repository.start(
        "hydra/sweeper=optuna",
        "x=interval(-5.0,5.0)",
        f"hydra.sweeper.n_trials={TRIALS}",
        "hydra.sweeper.n_jobs=1",
        f"hydra.searchpath=[file://{team}/conf,pkg://frozen_data.conf]",
        "hydra.launcher.environment.TOKEN=s3cret",
        "hydra.launcher.mlflow.enabled=true",
        environment={"PYTHONPATH": path},
    )
    command.wait_for_line(0, "waiting")
    change(repository, team, site)
    api.tag(base_image, *MOVING.split(":"), force=True)
    assert api.inspect_image(MOVING)["Id"] != image
    (command.folder / "0" / "go").touch()
    finished = command.finish()
    client = mlflow.MlflowClient(f"sqlite:///{repository.root}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run is not parent]
    children.sort(key=lambda run: int(run.data.tags["hydra.docker.job"]))
    yield Study(
        repository, finished, commit, image, team, team_commit, client, parent, tuple(children)
    )
    api.remove_image(MOVING)


def team_repository(root: Path, repository: Repository) -> tuple[Path, str]:
    """Make a second git repository, with configs in which one is edited; return its commit too."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ("git", "-C", str(root), *arguments),
            env=repository.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    write(root / "conf/team/standard.yaml", "rule: committed\n")
    write(root / "conf/team/loose.yaml", "rule: none\n")
    git("init", "--quiet")
    git("add", "--all")
    git("commit", "--quiet", "--message", "configs")
    git("remote", "add", "upstream", "ssh://git@example.org/team/configs.git")
    write(root / "conf/team/standard.yaml", "rule: first\n")
    return root.resolve(), git("rev-parse", "HEAD")


def installed_package(root: Path) -> Path:
    """Make a folder of installed packages, as pip would, with a package that has configs."""
    site = root / "site-packages"
    write(site / "frozen_data/__init__.py", "")
    write(site / "frozen_data/conf/__init__.py", "")
    write(site / "frozen_data/conf/data/digits.yaml", "classes: 10\n")
    for name, text in DIST_INFO.items():
        write(site / f"frozen_data_configs-1.2.3.dist-info/{name}", text)
    return site


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def change(repository: Repository, team: Path, site: Path) -> None:
    """Edit the script, a module and every config; commit, and edit once more."""
    script = (repository.root / "app.py").read_text()
    repository.write("app.py", script.replace("VERSION = 1", "VERSION = 2"))
    repository.write("late.py", "VERSION = 2\n")
    config = (repository.root / "conf/config.yaml").read_text()
    repository.write("conf/config.yaml", config.replace("lr: 1", "lr: 2"))
    repository.write("conf/model/small.yaml", "width: 2\n")
    write(team / "conf/team/standard.yaml", "rule: second\n")
    write(site / "frozen_data/conf/data/digits.yaml", "classes: 11\n")
    repository.commit()
    repository.write("conf/model/small.yaml", "width: 3\n")
    repository.write("late.py", "VERSION = 3\n")


def test_every_trial_runs_the_first_ones(study: Study) -> None:
    """Script, module, configs of all sources, image: no trial sees what came later."""
    assert study.finished.status == 0, study.finished.output
    assert study.finished.outcomes == ["completed"] * TRIALS
    assert [study.finished.job(number).json() for number in range(TRIALS)] == [MADE_OF] * TRIALS
    ledger = study.finished.ledger
    assert (ledger["source"]["commit"], ledger["image"]["id"]) == (study.commit, study.image)


def test_runs_say_so(study: Study, tmp_path: Path) -> None:
    """So do the runs in MLflow: commit, image, and the config without the trial's own value."""
    assert len(study.children) == TRIALS
    for number, run in enumerate((study.parent, *study.children)):
        folder = tmp_path / str(number)
        folder.mkdir()
        document = study.document(run, folder)
        assert run.data.tags["mlflow.source.git.commit"] == study.commit
        assert run.data.tags["mlflow.docker.image.id"] == study.image
        assert document["source"]["commit"] == study.commit
        assert document["image"]["id"] == study.image
    for run, row in zip(study.children, study.finished.ledger["jobs"], strict=True):
        path = study.client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))
        x = float(row["overrides"][0].partition("=")[2])
        assert yaml.safe_load(Path(path).read_text()) == {**MADE_OF["config"], "x": x}


def test_config_sources(study: Study) -> None:
    """Of each source: its repository and commit, and whether it was dirty; or its package."""
    configs = {config["path"]: config for config in study.finished.ledger["configs"]}
    root, provider = str(study.repository.root), "hydra.searchpath in command-line"
    assert configs[f"{root}/conf"] == {
        "provider": "main",
        "schema": "file",
        "path": f"{root}/conf",
        "git": {
            "root": root,
            "remote": "https://example.org/ada/frozen.git",
            "commit": study.commit,
            "dirty": False,
            "changes": [],
        },
        "distribution": None,
        "problem": None,
    }
    assert configs[f"{study.team}/conf"] == {
        "provider": provider,
        "schema": "file",
        "path": f"{study.team}/conf",
        "git": {
            "root": str(study.team),
            "remote": "ssh://git@example.org/team/configs.git",
            "commit": study.team_commit,
            "dirty": True,
            "changes": ["conf/team/standard.yaml"],
        },
        "distribution": None,
        "problem": None,
    }
    assert configs["frozen_data.conf"] == {
        "provider": provider,
        "schema": "pkg",
        "path": "frozen_data.conf",
        "git": None,
        "distribution": {"name": "frozen-data-configs", "version": "1.2.3", "editable": False},
        "problem": None,
    }
    version = metadata.version("hydra-core")
    assert configs["hydra.conf"]["distribution"]["version"] == version
    tags = study.parent.data.tags
    assert tags["hydra.docker.config_commit"] == study.team_commit
    assert tags["hydra.docker.config_dirty"] == "true"


def test_machine_and_image(study: Study) -> None:
    """They are what the engine, the kernel and the image say when they are asked by hand."""
    ledger, info = study.finished.ledger, study.repository.api.info()
    host = {name: ledger["host"][name] for name in ledger["host"] if not name.startswith("cpu_")}
    model = next(
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith(("model name", "CPU part"))
    )
    assert host == {
        "name": info["Name"],
        "engine": f"Docker {info['ServerVersion']}",
        "system": info["OperatingSystem"],
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "storage": info["Driver"],
        "cgroup": info["CgroupVersion"],
        "cpus": info["NCPU"],
        "cpu": model,
        "memory": info["MemTotal"],
        "gpus": [],
        "gpu_driver": None,
    }
    image = ledger["image"]
    assert inside(study.image, "-c", "import platform; print(platform.python_version())") == [
        image["python"]
    ]
    assert f'PRETTY_NAME="{image["system"]}"' in inside(
        study.image, "-c", "print(open('/etc/os-release').read())"
    )
    frozen = inside(study.image, "-m", "pip", "list", "--format=freeze")
    assert {line.lower() for line in frozen} <= {line.lower() for line in image["packages"]}
    assert f"hydra-core=={image['hydra']}" in image["packages"]
    text = "".join(f"{package}\n" for package in image["packages"])
    assert image["packages_sha256"] == hashlib.sha256(text.encode()).hexdigest()


def inside(image: str, *arguments: str) -> list[str]:
    """Return what a Python of the image prints."""
    output = docker.from_env().containers.run(image, ["python3", *arguments], remove=True)
    return output.decode().splitlines()


def test_job_document(study: Study, tmp_path: Path) -> None:
    """A job's document has the sweep's facts, its own node and options, and no secret."""
    run, row = study.children[1], study.finished.ledger["jobs"][1]
    document = study.document(run, tmp_path)
    job = document.pop("job")
    sweep = study.document(study.parent, tmp_path)
    assert document == sweep
    ledger = {name: value for name, value in study.finished.ledger.items() if name in sweep}
    assert "packages" in ledger["image"]
    del ledger["image"]["packages"]
    assert {"format": 1, **ledger} == sweep
    assert (job["number"], job["overrides"]) == (1, row["overrides"])
    assert job["options"] == sweep["options"]
    assert job["options"]["environment"] == {"TOKEN": "${oc.env:TOKEN}"}
    assert job["hydra"]["runtime"]["output_dir"] == row["output_dir"] == job["output_dir"]
    assert "s3cret" not in json.dumps([document, job, study.finished.ledger])
    assert sweep["task"]["target"] == "app.py"
    assert sweep["working_dir"] == str(study.repository.root)
