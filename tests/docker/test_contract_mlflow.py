"""DESIGN.md section 6: what a sweep leaves in MLflow, read back with MLflow's own client."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import mlflow
import pytest
import yaml
from mlflow.entities import Run
from sweep_command import Finished, MakeRepository, Repository, own_metrics

HOWS = (
    "waits",
    "metrics",
    "returns_numbers",
    "ends_its_run",
    "crashes",
    "dies",
    "logs_another_value",
)
METRICS = 200  # that a job of tests/apps/tracked logs with how=many
AT_ONCE = 8  # jobs, four for each core of a small machine
PARENT = "mlflow.parentRunId"


@dataclass(frozen=True)
class Tracked:
    """A sweep, and its runs: the parent, and its children in the order of the jobs."""

    repository: Repository
    finished: Finished
    client: mlflow.MlflowClient
    parent: Run
    children: tuple[Run, ...]

    def run(self, how: str) -> Run:
        return self.children[HOWS.index(how)]

    def artifact(self, run: Run, name: str, folder: Path) -> str:
        path = self.client.download_artifacts(run.info.run_id, name, str(folder))
        return Path(path).read_text()


def read_back(repository: Repository, finished: Finished, uri: str | None = None) -> Tracked:
    # The link is what `mlflow ui` finds in the launch folder by default.
    client = mlflow.MlflowClient(uri or f"sqlite:///{repository.root}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "app"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    sweep = [r for r in runs if r.data.tags["hydra.docker.sweep"] == finished.ledger["sweep"]]
    (parent,) = [run for run in sweep if PARENT not in run.data.tags]
    children = [run for run in sweep if run.data.tags.get(PARENT) == parent.info.run_id]
    children.sort(key=lambda run: int(run.data.tags["hydra.docker.job"]))
    assert len(sweep) == 1 + len(children)
    return Tracked(repository, finished, client, parent, tuple(children))


@pytest.fixture(scope="module")
def make_tracked(make_repository: MakeRepository, mlflow_image: str) -> MakeRepository:
    """Make repositories whose commands record in MLflow's default store, in the launch folder."""

    def make(**options: str) -> Repository:
        repository = make_repository("tracked", image=mlflow_image, **options)
        del repository.defaults["hydra.launcher.mlflow.enabled"]
        return repository

    return make


@pytest.fixture(scope="module")
def tracked(make_tracked: MakeRepository) -> Tracked:
    repository = make_tracked(n_jobs="3", mem_limit="500m")
    repository.write("untracked.txt", "not for jobs")
    command = repository.start(
        "how=" + ",".join(HOWS),
        "hydra.launcher.dirty=ignore",
        "hydra.launcher.mlflow.tags={team: vision}",
    )
    command.wait_for_line(0, "waiting")
    repository.api.stop(command.container(0), timeout=1)
    return read_back(repository, command.finish())


def test_statuses(tracked: Tracked) -> None:
    """A run's status says how its container ended, whatever the script has logged or left open."""
    assert {how: tracked.run(how).info.status for how in HOWS} == {
        "waits": "KILLED",
        "metrics": "FINISHED",
        "returns_numbers": "FINISHED",
        "ends_its_run": "FINISHED",
        "crashes": "FAILED",
        "dies": "FAILED",
        "logs_another_value": "FINISHED",
    }
    assert tracked.parent.info.status == "FAILED"
    assert all(run.info.end_time for run in (tracked.parent, *tracked.children))


def test_names(tracked: Tracked) -> None:
    """The sweep's run is called after its folder, a job's after its overrides."""
    assert tracked.parent.info.run_name == tracked.finished.folder.name
    assert [run.info.run_name for run in tracked.children] == [f"how={how}" for how in HOWS]
    rows = tracked.finished.ledger["jobs"]
    assert [run.info.run_id for run in tracked.children] == [row["run_id"] for row in rows]


def test_same_run(tracked: Tracked, tmp_path: Path) -> None:
    """What the script logs lands in the job's run, beside what the host logs."""
    run = tracked.run("metrics")
    history = tracked.client.get_metric_history(run.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert own_metrics(run) == {"loss": 1 / 3, "return_value": 0.75}
    assert tracked.artifact(run, "notes/note.txt", tmp_path) == "from the script"


def test_returned_numbers(tracked: Tracked) -> None:
    """The numbers of a returned dict are metrics by their keys."""
    assert own_metrics(tracked.run("returns_numbers")) == {"accuracy": 0.5, "epochs": 3.0}


def test_params(tracked: Tracked) -> None:
    """Params are the resolved config, flat; one that the script has logged itself stays."""
    assert tracked.run("metrics").data.params == {
        "how": "metrics",
        "number": "0",
        "optimizer.name": "sgd",
        "optimizer.lr": "0.1",
    }
    assert tracked.run("logs_another_value").data.params["optimizer.lr"] == "tuned"
    assert tracked.run("dies").data.params["optimizer.lr"] == "0.1"


def test_artifacts(tracked: Tracked, tmp_path: Path) -> None:
    """Every job's run has its config, overrides, log, the image's packages, and its provenance."""
    run = tracked.run("crashes")
    names = {file.path for file in tracked.client.list_artifacts(run.info.run_id)}
    for_people = {"config.yaml", "overrides.yaml", "container.log", "packages.txt"}
    assert names == for_people | {"provenance.json", "job.json", "job.pickle"}
    config = yaml.safe_load(tracked.artifact(run, "config.yaml", tmp_path))
    assert config == {"how": "crashes", "number": 0, "optimizer": {"name": "sgd", "lr": 0.1}}
    assert tracked.artifact(run, "overrides.yaml", tmp_path) == "- how=crashes\n"
    assert "ValueError: loss is nan" in tracked.artifact(run, "container.log", tmp_path)
    packages = tracked.artifact(run, "packages.txt", tmp_path).splitlines()
    assert any(package.startswith("hydra-core==") for package in packages)


def test_tags(tracked: Tracked) -> None:
    """Tags hold what is needed to run the job again, and how it ended."""
    ledger = tracked.finished.ledger
    number = HOWS.index("dies")
    expected = {
        "mlflow.source.name": str(tracked.repository.root / "app.py"),
        "mlflow.source.git.commit": tracked.repository.commits[-1],
        "mlflow.source.git.branch": "main",
        "mlflow.docker.image.uri": ledger["image"]["reference"],
        "mlflow.docker.image.id": ledger["image"]["id"],
        "mlflow.user": ledger["user"],
        "mlflow.parentRunId": tracked.parent.info.run_id,
        "team": "vision",
        "hydra.docker.sweep": ledger["sweep"],
        "hydra.docker.job": str(number),
        "hydra.docker.output_dir": str(tracked.finished.folder / str(number)),
        "hydra.docker.host": ledger["host"]["name"],
        "hydra.docker.container": ledger["jobs"][number]["container"],
        "hydra.docker.outcome": "exited",
        "hydra.docker.cause": "died of SIGKILL (exit code 137)",
        "hydra.docker.exit_code": "137",
        "hydra.docker.cpus": "1",
        "hydra.docker.mem_limit": "500m",
        "hydra.docker.pids_limit": "4096",
        "hydra.docker.gpus": "0",
    }
    tags = tracked.run("dies").data.tags
    assert {name: tags.get(name) for name in expected} == expected
    assert tags["hydra.docker.advice"].startswith("Nobody did that through the engine")
    peak = int(tracked.run("metrics").data.tags["hydra.docker.memory_peak"])
    assert 2**20 < peak <= 500 * 2**20
    assert tracked.parent.data.tags["team"] == "vision"


def test_container_has_its_run_as_a_label(tracked: Tracked) -> None:
    """Labels lead from a container to its run."""
    row = tracked.finished.ledger["jobs"][HOWS.index("dies")]
    labels = tracked.repository.api.inspect_container(row["container"])["Config"]["Labels"]
    assert labels["hydra.docker.run_id"] == row["run_id"]


def test_working_tree_stays_out(tracked: Tracked, tmp_path: Path) -> None:
    """A container sees the store's folder in the launch folder, and nothing else of it."""
    seen = json.loads(tracked.artifact(tracked.run("metrics"), "seen.json", tmp_path))["seen"]
    expected = {".gitignore", "app.py", "config.yaml", "mlflow-store", "multirun"}
    assert set(seen) - {"__pycache__"} == expected
    store = tracked.repository.root / "mlflow.db"
    assert store.is_symlink()
    assert store.readlink() == Path("mlflow-store/mlflow.db")


def test_ctrl_c(make_tracked: MakeRepository) -> None:
    """After Ctrl-C the sweep's run and those of its jobs are KILLED."""
    repository = make_tracked(keep="none")
    command = repository.start("how=waits")
    command.wait_for_line(0, "waiting")
    command.interrupt()
    finished = command.finish(60)
    assert finished.status in (-2, 130)
    tracked = read_back(repository, finished)
    assert tracked.parent.info.status == "KILLED"
    assert [run.info.status for run in tracked.children] == ["KILLED"]


def test_many_jobs_at_once(make_tracked: MakeRepository) -> None:
    """Jobs at once, each logging 200 metrics into the default store, lose none."""
    repository = make_tracked(n_jobs=str(AT_ONCE), mem_limit="400m", cpus="0.5")
    numbers = ",".join(str(number) for number in range(AT_ONCE))
    finished = repository.sweep("how=many", f"number={numbers}", timeout=240)
    assert finished.status == 0, finished.output
    tracked = read_back(repository, finished)
    assert tracked.parent.info.status == "FINISHED"
    assert len(tracked.children) == AT_ONCE
    for run in tracked.children:
        history = tracked.client.get_metric_history(run.info.run_id, "loss")
        assert [metric.value for metric in history] == list(range(METRICS))


def test_server_on_the_loopback_address(
    make_tracked: MakeRepository, server: str, tmp_path: Path
) -> None:
    """A server that listens on localhost only is reached from containers, artifacts included."""
    repository = make_tracked(**{"mlflow.tracking_uri": server, "mem_limit": "500m"})
    finished = repository.sweep("how=metrics")
    assert finished.status == 0, finished.output
    tracked = read_back(repository, finished, server)
    (run,) = tracked.children
    assert run.info.status == "FINISHED"
    assert own_metrics(run) == {"loss": 1 / 3, "return_value": 0.75}
    assert tracked.artifact(run, "notes/note.txt", tmp_path) == "from the script"
    assert "attempt" not in tracked.artifact(run, "container.log", tmp_path)
    assert not (repository.root / "mlflow-store").exists()


def test_file_store(make_tracked: MakeRepository, tmp_path: Path) -> None:
    """A store that containers could not use is refused before any job."""
    repository = make_tracked()
    finished = repository.sweep(f"hydra.launcher.mlflow.tracking_uri=file:{tmp_path}")
    assert finished.status == 1
    assert "is a file store, which MLflow no longer supports." in finished.output
    assert "Traceback" not in finished.output
