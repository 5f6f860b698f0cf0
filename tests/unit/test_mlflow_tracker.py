"""A sweep in a real MLflow store: SQLite files in a temporary folder, and one real server."""

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from hydra_plugins.hydra_docker_launcher import _mlflow_patience, _mlflow_tracker
from hydra_plugins.hydra_docker_launcher._errors import TrackingError
from hydra_plugins.hydra_docker_launcher._mlflow_tracker import MlflowHistory, MlflowTracker
from hydra_plugins.hydra_docker_launcher._tracking import (
    Dataset,
    JobRun,
    JobRunEnd,
    PastRun,
    RunStatus,
    SweepRun,
    Tracker,
)
from hydra_plugins.hydra_docker_launcher._usage import Point

SWEEP = SweepRun(
    experiment="train",
    name="train-10-00-00",
    tags={"mlflow.source.name": "train.py"},
    artifacts={"sweep.yaml": "lr: 0.1,0.2\n"},
)
FINISHED = JobRunEnd(RunStatus.FINISHED)
PATIENCE_S = 60


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the machine that the tests run on; a home without credentials."""
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: they take seconds to make, and no time to copy."""
    path = tmp_path_factory.mktemp("migrated") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def folder(tmp_path: Path, migrated: Path) -> Path:
    """A launch folder with the default store in it."""
    home = tmp_path / "project" / "mlflow-store"
    home.mkdir(parents=True)
    shutil.copy(migrated, home / "mlflow.db")
    (home.parent / "mlflow.db").symlink_to("mlflow-store/mlflow.db")
    return home.parent


@pytest.fixture
def tracker(folder: Path) -> MlflowTracker:
    """A tracker on the default store."""
    return MlflowTracker(None, folder, "ann")


@pytest.fixture
def client(folder: Path) -> MlflowClient:
    """What ``mlflow ui`` in the launch folder would open."""
    return MlflowClient(f"sqlite:///{folder}/mlflow.db")


def texts(run: Run) -> dict[str, str]:
    """Return the artifacts of a run in a local store."""
    root = Path(run.info.artifact_uri)
    return {str(p.relative_to(root)): p.read_text() for p in root.rglob("*") if p.is_file()}


def close_and_get(
    tracker: MlflowTracker, client: MlflowClient, end: JobRunEnd, run_id: str = ""
) -> Run:
    run_id = run_id or tracker.open_job(JobRun("job"))
    tracker.close_job(run_id, end)
    return client.get_run(run_id)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(TrackingError) as caught:
        call()
    return str(caught.value)


def test_is_a_tracker(tracker: MlflowTracker) -> None:
    """It fits the seam."""
    fits: Tracker = tracker
    assert fits is tracker


def test_fresh_store(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The first sweep in a folder makes the store, without a word on the console."""
    tracker = MlflowTracker(None, tmp_path, "ann")

    tracker.open_sweep(SWEEP)

    assert {path.name for path in tmp_path.iterdir()} == {"mlflow-store", "mlflow.db"}
    assert {path.name for path in (tmp_path / "mlflow-store").iterdir()} == {
        "mlflow.db",
        "artifacts",
    }
    assert capfd.readouterr() == ("", "")


def test_store_that_is_locked_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job has the store's folder mounted, and can lock it: nobody waits for that for ever."""
    monkeypatch.setattr(_mlflow_tracker, "_LOCK_PATIENCE_S", 0.01)
    (tmp_path / "mlflow-store").mkdir()
    held = os.open(tmp_path / "mlflow-store", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(TrackingError, match="mlflow-store of the MLflow store has been locked"):
            MlflowTracker(None, tmp_path, "ann").open_sweep(SWEEP)
    finally:
        os.close(held)


def test_two_sweeps_make_the_store_at_once(tmp_path: Path) -> None:
    """Two processes that are launched at once into a fresh folder both get their runs."""
    script = (
        "import sys; from pathlib import Path\n"
        "from hydra_plugins.hydra_docker_launcher._mlflow_tracker import MlflowTracker\n"
        "from hydra_plugins.hydra_docker_launcher._tracking import SweepRun\n"
        "MlflowTracker(None, Path(sys.argv[1]), 'ann').open_sweep(SweepRun('train', 'sweep'))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, str(tmp_path)]

    sweeps = [
        subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]

    assert [(sweep.communicate(timeout=300)[1], sweep.returncode) for sweep in sweeps] == [
        ("", 0),
        ("", 0),
    ]
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("train")
    assert experiment is not None
    assert len(client.search_runs([experiment.experiment_id])) == 2


def test_sweep_run(tracker: MlflowTracker, client: MlflowClient, folder: Path) -> None:
    """The parent run has name, user, tags and artifacts, and runs until it is closed."""
    run_id = tracker.open_sweep(SWEEP)

    run = client.get_run(run_id)
    assert run.info.run_name == "train-10-00-00"
    assert run.info.status == "RUNNING"
    assert run.data.tags["mlflow.user"] == "ann"
    assert run.data.tags["mlflow.source.name"] == "train.py"
    assert texts(run) == {"sweep.yaml": "lr: 0.1,0.2\n"}
    assert Path(run.info.artifact_uri).is_relative_to(folder / "mlflow-store/artifacts/train")

    tracker.close_sweep(RunStatus.FAILED)
    assert client.get_run(run_id).info.status == "FAILED"
    tracker.reopen_sweep()
    assert client.get_run(run_id).info.status == "RUNNING"


def test_job_run(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A child run belongs to its sweep, and runs before its container exists."""
    parent = tracker.open_sweep(SWEEP)

    run = client.get_run(
        tracker.open_job(JobRun("train-0", {"a": "1"}, {"config.yaml": "lr: 0.1\n"}))
    )

    assert run.info.run_name == "train-0"
    assert run.info.status == "RUNNING"
    assert run.info.experiment_id == client.get_run(parent).info.experiment_id
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["mlflow.user"] == "ann"
    assert run.data.tags["a"] == "1"
    assert texts(run) == {"config.yaml": "lr: 0.1\n"}


@pytest.mark.parametrize("most", [1, 1000])
def test_datasets(
    tracker: MlflowTracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    """Data is an input of the job's run; what MLflow cuts off of a digest is in a tag.

    MLflow takes so many in one request.
    """
    monkeypatch.setattr(_mlflow_tracker, "MOST_DATASETS", most)
    md5, sha = "md5:" + "a" * 32 + ".dir", "sha256:" + "b" * 64
    facts = {"state": "matches", "files": 3}
    datasets = (
        Dataset("data/raw", md5, "/project/data/raw", "/data", facts),
        Dataset("/mnt/" + "x" * 600, sha, "/mnt/x", "/x", {"state": "recorded"}),
    )
    tracker.open_sweep(SWEEP)

    run = client.get_run(tracker.open_job(JobRun("train-0", datasets=datasets)))

    inputs = sorted(run.inputs.dataset_inputs, key=lambda item: item.dataset.digest)
    assert [(item.dataset.name[:10], item.dataset.digest) for item in inputs] == [
        ("data/raw", "a" * 32 + ".dir"),
        ("/mnt/xxxxx", "b" * 36),
    ]
    assert [{tag.key: tag.value for tag in item.tags} for item in inputs] == [
        {
            "mlflow.data.context": "/data",
            "hydra.docker.data.digest": md5,
            "hydra.docker.data.state": "matches",
        },
        {
            "mlflow.data.context": "/x",
            "hydra.docker.data.digest": sha,
            "hydra.docker.data.state": "recorded",
        },
    ]
    assert inputs[0].dataset.source_type == "local"
    assert json.loads(inputs[0].dataset.source) == {"uri": "/project/data/raw"}
    assert json.loads(inputs[0].dataset.profile) == facts


def test_new_dataset_of_many_jobs(tracker: MlflowTracker, client: MlflowClient) -> None:
    """Jobs that start at once may all have the same data, which the store does not know yet."""
    tracker.open_sweep(SWEEP)
    together = threading.Barrier(8)

    def open_job(number: int) -> str:
        together.wait()
        return tracker.open_job(JobRun(f"train-{number}", datasets=datasets))

    datasets = (Dataset("data", "1" * 32, "/project/data", "/data", {}),)
    with ThreadPoolExecutor(8) as threads:
        runs = [client.get_run(run) for run in threads.map(open_job, range(8))]
    assert [len(run.inputs.dataset_inputs) for run in runs] == [1] * 8


def test_end_of_a_job(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    """Params, metrics, tags and files are in the run; a file that is missing is left out."""
    tracker.open_sweep(SWEEP)
    (tmp_path / "container.log").write_text("log")
    (tmp_path / "pip-freeze").write_text("mlflow")

    run = close_and_get(
        tracker,
        client,
        JobRunEnd(
            RunStatus.KILLED,
            params={"optimizer.lr": 0.1, "layers": [1, 2], "none": None, "empty": ""},
            metrics={"seconds": 1.5, "nan": float("nan"), "inf": float("inf")},
            tags={"hydra.docker.exit_code": "137"},
            files={
                "container.log": tmp_path / "container.log",
                "image/packages.txt": tmp_path / "pip-freeze",
                "changes.patch": tmp_path / "missing",
            },
        ),
    )

    assert run.info.status == "KILLED"
    assert run.info.end_time >= run.info.start_time
    assert run.data.params == {
        "optimizer.lr": "0.1",
        "layers": "[1, 2]",
        "none": "None",
        "empty": "",
    }
    assert run.data.metrics["seconds"] == 1.5
    assert set(run.data.metrics) == {"seconds", "nan", "inf"}
    assert run.data.tags["hydra.docker.exit_code"] == "137"
    assert texts(run) == {"container.log": "log", "image/packages.txt": "mlflow"}


def test_series(tracker: MlflowTracker, client: MlflowClient) -> None:
    """Points are logged as the job runs; what is sent again with its end is there once."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job"))
    points = tuple(Point(1000.5 + n, n, {"system/pids": n % 2, "system/mb": 5.0}) for n in range(4))
    tracker.log_series(run_id, points[:2])
    tracker.log_series(run_id, points[1:3])
    tracker.log_series(run_id, ())
    tracker.log_series(None, points)

    metrics = {"loss": 0.5, "system/used/pids_peak": 1.0}
    end = JobRunEnd(RunStatus.FINISHED, metrics=metrics, series=points[2:])
    run = close_and_get(tracker, client, end, run_id)

    history = client.get_metric_history(run_id, "system/pids")
    found = [(metric.step, metric.timestamp, metric.value) for metric in history]
    assert found == [(n, 1000500 + 1000 * n, n % 2) for n in range(4)]
    assert run.data.metrics == {**metrics, "system/pids": 1.0, "system/mb": 5.0}


def test_the_host_has_the_last_word(tracker: MlflowTracker, client: MlflowClient) -> None:
    """How the container ended counts, not the status that the script has set."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job"))
    client.set_terminated(run_id, "FINISHED")

    run = close_and_get(tracker, client, JobRunEnd(RunStatus.FAILED), run_id)

    assert run.info.status == "FAILED"


def test_params_of_the_script_stay(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A param that the script has logged itself keeps its value; the others are added."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job"))
    client.log_param(run_id, "lr", "from the script")
    client.log_param(run_id, "x_0_", "also")

    run = close_and_get(
        tracker,
        client,
        JobRunEnd(RunStatus.FINISHED, params={"lr": 0.1, "x[0]": 1, "depth": 3}),
        run_id,
    )

    assert run.data.params == {"lr": "from the script", "x_0_": "also", "depth": "3"}


def test_more_than_mlflow_takes(tracker: MlflowTracker, client: MlflowClient) -> None:
    """Many params, long values and odd names are logged all the same; what is cut shows it."""
    tracker.open_sweep(SWEEP)
    many = {f"p{n}": n for n in range(250)}

    run = close_and_get(
        tracker,
        client,
        JobRunEnd(
            RunStatus.FINISHED,
            params={**many, "long": "x" * 6001, "a@b[0]=": 1},
            tags={"long": "x" * 8001, "a@b": "odd"},
        ),
    )

    assert len(run.data.params) == 252
    assert run.data.params["long"] == "x" * 5993 + "… (cut)"
    assert run.data.params["a_b_0__"] == "1"
    assert run.data.tags["long"] == "x" * 7993 + "… (cut)"
    assert run.data.tags["a_b"] == "odd"


def test_what_fails_does_not_keep_the_rest(
    tracker: MlflowTracker, client: MlflowClient, tmp_path: Path
) -> None:
    """A piece that fails is named in the error; the others, and the status, are logged."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job"))
    (tmp_path / "link").symlink_to("/etc/hostname")
    (tmp_path / "log").write_text("log")
    end = JobRunEnd(
        RunStatus.FAILED,
        params={"lr": 0.1},
        metrics={"loss": "high"},  # type: ignore[dict-item]
        files={"a/link.txt": tmp_path / "link", "log": tmp_path / "log"},
    )

    message = refusal(lambda: tracker.close_job(run_id, end))

    lines = message.splitlines()
    assert lines[0] == f"MLflow run {run_id} (FAILED) is incomplete:"
    assert "Could not log its metrics" in lines[1]
    assert "could not convert string to float: 'high'" in lines[1]
    assert lines[-1] == f"Left out the artifact a/link.txt: {tmp_path}/link is a link."
    run = client.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.params == {"lr": "0.1"}
    assert texts(run) == {"log": "log"}


@pytest.fixture
def no_artifacts(folder: Path) -> Callable[[], None]:
    """A file is where the artifacts shall go, until the test calls this."""
    root = folder / "mlflow-store" / "artifacts" / "train"
    root.parent.mkdir()
    root.touch()
    return root.unlink


def test_run_that_cannot_be_opened(
    tracker: MlflowTracker,
    client: MlflowClient,
    folder: Path,
    no_artifacts: Callable[[], None],
) -> None:
    """A run whose artifacts cannot be written is not left running; the next try takes it up."""
    tracker.open_sweep(replace(SWEEP, artifacts={}))
    first = job_run(7, {"try": "1"}, {"config.yaml": "x"})

    message = refusal(lambda: tracker.open_job(first))

    assert message.startswith("Could not start the run of job 'job 7' (sqlite:///")
    run = runs_of(client)["job 7"]
    assert run.info.status == "FAILED"
    no_artifacts()
    assert tracker.open_job(job_run(7, {"try": "2"}, {"config.yaml": "x"})) == run.info.run_id
    run = client.get_run(run.info.run_id)
    assert (run.info.status, run.data.tags["try"]) == ("RUNNING", "2")
    assert texts(run) == {"config.yaml": "x"}


def test_sweep_that_cannot_be_opened(
    tracker: MlflowTracker, client: MlflowClient, no_artifacts: Callable[[], None]
) -> None:
    """The same for the run of the sweep; a sweep of another id gets a run of its own."""
    sweep = replace(SWEEP, tags={"hydra.docker.sweep": "s1"})
    refusal(lambda: tracker.open_sweep(sweep))
    run_id = runs_of(client)["train-10-00-00"].info.run_id
    no_artifacts()

    assert tracker.open_sweep(sweep) == run_id
    assert tracker.open_sweep(replace(SWEEP, tags={"hydra.docker.sweep": "s2"})) != run_id


# ---- taken up again ------------------------------------------------------------------------------


def job_run(
    number: int,
    tags: Mapping[str, str] | None = None,
    artifacts: Mapping[str, str | bytes] | None = None,
    **times: float,
) -> JobRun:
    tags = {"hydra.docker.job": str(number), **(tags or {})}
    return JobRun(f"job {number}", tags, artifacts or {}, **times)


def test_sweep_of_another_process(
    tracker: MlflowTracker, client: MlflowClient, folder: Path
) -> None:
    """A sweep that is taken up is used as by the process that opened it."""
    parent = tracker.open_sweep(SWEEP)
    begun = tracker.open_job(job_run(0))
    tracker.close_sweep(RunStatus.KILLED)
    other = MlflowTracker(None, folder, "ben")

    other.join_sweep(parent, "train")

    assert client.get_run(parent).info.status == "RUNNING"
    assert other.access() == tracker.access()
    assert other.job_environment(begun) == tracker.job_environment(begun)
    assert other.open_job(job_run(0)) == begun
    started = client.get_run(other.open_job(job_run(1)))
    assert started.data.tags["mlflow.parentRunId"] == parent
    assert close_and_get(other, client, FINISHED, begun).info.status == "FINISHED"
    other.close_sweep(RunStatus.FINISHED)
    assert client.get_run(parent).info.status == "FINISHED"


def test_sweep_that_is_gone(tracker: MlflowTracker, client: MlflowClient, folder: Path) -> None:
    """A sweep whose run is not there, or deleted, is not taken up."""
    parent = tracker.open_sweep(SWEEP)
    store = f"sqlite:///{folder}/mlflow-store/mlflow.db"
    other = MlflowTracker(None, folder, "ann")
    restore = f"`MLFLOW_TRACKING_URI={store} mlflow"

    assert refusal(lambda: other.join_sweep("0" * 32, "train")) == (
        f"There is no run {'0' * 32} in {store}, where the sweep was tracked in the MLflow "
        "experiment 'train'."
    )
    client.delete_run(parent)
    assert refusal(lambda: other.join_sweep(parent, "train")) == (
        f"The run {parent} in {store} is deleted. Restore it with "
        f"{restore} runs restore --run-id {parent}`."
    )
    client.restore_run(parent)
    experiment_id = client.get_run(parent).info.experiment_id
    client.delete_experiment(experiment_id)
    assert f"{restore} experiments restore --experiment-id {experiment_id}`" in refusal(
        lambda: other.join_sweep(parent, "train")
    )
    assert "has not been opened yet" in refusal(other.access)


def test_what_is_gone_for_good(tracker: MlflowTracker, client: MlflowClient, folder: Path) -> None:
    """A run in the trash can be restored; one that is not there, or whose store is not, cannot."""
    parent = tracker.open_sweep(SWEEP)
    client.delete_run(parent)
    found = []
    for run_id in (parent, "0" * 32):
        with pytest.raises(TrackingError) as caught:
            MlflowTracker(None, folder, "ann").join_sweep(run_id, "train")
        found.append(caught.value.gone)
    shutil.rmtree(folder / "mlflow-store")
    with pytest.raises(TrackingError) as caught:
        MlflowTracker(None, folder, "ann").join_sweep(parent, "train")
    assert [*found, caught.value.gone] == [False, True, True]


def test_store_of_a_sweep_is_gone(tracker: MlflowTracker, folder: Path) -> None:
    """Where the store is gone, no empty one is made in its place."""
    parent = tracker.open_sweep(SWEEP)
    shutil.rmtree(folder / "mlflow-store")
    (folder / "mlflow.db").unlink()
    other = MlflowTracker(None, folder, "ann")

    assert refusal(lambda: other.join_sweep(parent, "train")) == (
        f"The run {parent} of the sweep is gone: {folder}/mlflow-store/mlflow.db does not exist."
    )
    assert not other.answers()
    assert list(folder.iterdir()) == []


def test_run_of_a_job(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A job's run is open until it is closed; what scripts have started beside it is none."""
    other_sweep = tracker.open_sweep(SWEEP)
    tracker.open_job(job_run(5))
    tracker.open_sweep(SWEEP)
    first = tracker.open_job(job_run(0, started_at=100.0))
    tracker.close_job(first, replace(FINISHED, tags={"hydra.docker.outcome": "error"}))
    again = tracker.open_job(job_run(0, started_at=200.0))
    second = tracker.open_job(job_run(1, started_at=50.0))
    experiment_id = client.get_run(other_sweep).info.experiment_id
    client.create_run(experiment_id, tags={"mlflow.parentRunId": again, "hydra.docker.job": "0"})

    assert len({first, again, second}) == 3
    assert (tracker.open_job(job_run(0)), tracker.open_job(job_run(1))) == (again, second)


def test_run_that_goes_on(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    """A run that is opened again keeps what it has, but for its outcome, until its next end."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(job_run(0, artifacts={"config.yaml": "lr: 1\n"}))
    tags = {"hydra.docker.outcome": "out of memory", "hydra.docker.cause": "all of 2g"}
    (tmp_path / "log").write_text("first")
    end = JobRunEnd(RunStatus.FAILED, {"lr": 1}, {"loss": 2.0}, tags, {"log": tmp_path / "log"})
    tracker.close_job(run_id, end)

    tracker.reopen_job(
        run_id,
        {"hydra.docker.attempt": "2", "hydra.docker.cause": None, "never.there": None},
    )

    run = client.get_run(run_id)
    assert run.info.status == "RUNNING"
    assert run.data.tags["hydra.docker.attempt"] == "2"
    assert not run.data.tags.keys() & {*tags, "never.there"}
    assert texts(run) == {"config.yaml": "lr: 1\n", "log": "first"}
    assert (run.data.params, run.data.metrics) == ({"lr": "1"}, {"loss": 2.0})
    tracker.reopen_job(None, {})


def test_times(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A run that is written down later tells when its job has run."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(job_run(0, started_at=1000.25))

    run = close_and_get(
        tracker,
        client,
        JobRunEnd(RunStatus.FINISHED, metrics={"loss": 1.0}, ended_at=2000.5),
        run_id,
    )

    assert (run.info.start_time, run.info.end_time) == (1000250, 2000500)
    (loss,) = client.get_metric_history(run_id, "loss")
    assert loss.timestamp == 2000500


@pytest.mark.parametrize("ended_at", [2000.5, None])
def test_closed_twice(
    tracker: MlflowTracker, client: MlflowClient, tmp_path: Path, ended_at: float | None
) -> None:
    """A close that is made again, after a crash in its middle, ends in the same state."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(job_run(0))
    client.log_metric(run_id, "loss", 3.0, timestamp=1000, step=0)
    client.log_metric(run_id, "loss", 2.0, timestamp=1001, step=1)
    metrics = {"loss": 1.0, "nan": float("nan"), "inf": float("-inf"), "return_value": 0.1}
    (tmp_path / "log").write_text("half")
    end = JobRunEnd(
        RunStatus.FINISHED, {"lr": 0.1}, metrics, {"exit": "0"}, {"log": tmp_path / "log"}, ended_at
    )
    tracker.close_job(run_id, replace(end, params={}, tags={}))
    (tmp_path / "log").write_text("whole")

    for _ in range(2):
        run = close_and_get(tracker, client, end, run_id)

    assert [
        [metric.value for metric in client.get_metric_history(run_id, name)]
        for name in ("return_value", "inf", "loss")
    ] == [[0.1], [-sys.float_info.max], [3.0, 2.0, 1.0]]
    assert len(client.get_metric_history(run_id, "nan")) == 1
    assert (run.info.status, run.data.params, run.data.tags["exit"]) == (
        "FINISHED",
        {"lr": "0.1"},
        "0",
    )
    assert texts(run) == {"log": "whole"}


def test_runs_that_were_started_twice(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A run that the store made after the launcher had given it up does not stay running.

    The runs of other jobs, which end later, do.
    """
    parent = tracker.open_sweep(SWEEP)
    experiment_id = client.get_run(parent).info.experiment_id

    def beside(number: str) -> str:
        tags = {"mlflow.parentRunId": parent, "hydra.docker.job": number}
        return str(client.create_run(experiment_id, tags=tags).info.run_id)

    run_id = tracker.open_job(job_run(0))
    twin, other = beside("0"), beside("1")
    tracker.close_job(run_id, FINISHED)

    tracker.close_sweep(RunStatus.FINISHED)

    assert {
        key: (client.get_run(key).info.status, client.get_run(key).info.lifecycle_stage)
        for key in (run_id, twin, other)
    } == {
        run_id: ("FINISHED", "active"),
        twin: ("RUNNING", "deleted"),
        other: ("RUNNING", "active"),
    }


def test_what_a_container_needs(tracker: MlflowTracker, folder: Path, tmp_path: Path) -> None:
    """With this environment alone, a script's own logging lands in the run of its job."""
    tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job"))
    access = tracker.access()
    script = (
        "import mlflow\n"
        "mlflow.log_metric('loss', 0.5); mlflow.log_text('hi', 'hi.txt'); mlflow.end_run()\n"
        "print(mlflow.start_run(run_name='second').info.experiment_id)\n"
    )
    elsewhere = tmp_path / "container"
    elsewhere.mkdir()

    done = subprocess.run(
        [sys.executable, "-c", script],
        env={
            "PATH": os.defpath,
            **dict(access.environment),
            **dict(tracker.job_environment(run_id)),
        },
        cwd=elsewhere,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert access.folders == (folder / "mlflow-store",)
    run = MlflowClient(f"sqlite:///{folder}/mlflow.db").get_run(run_id)
    assert run.data.metrics == {"loss": 0.5}
    assert texts(run) == {"hi.txt": "hi"}
    assert done.stdout.strip() == run.info.experiment_id
    assert not list(elsewhere.iterdir())


def test_existing_experiment(folder: Path, client: MlflowClient, tmp_path: Path) -> None:
    """An experiment keeps the artifact folder that it has; containers get that one as well."""
    elsewhere = tmp_path / "elsewhere" / "1"
    client.create_experiment("train", str(elsewhere))
    tracker = MlflowTracker(None, folder, "ann")

    run = client.get_run(tracker.open_sweep(SWEEP))

    assert tracker.access().folders == (folder / "mlflow-store", elsewhere)
    assert Path(run.info.artifact_uri).is_relative_to(elsewhere)


def test_deleted_experiment(tracker: MlflowTracker, client: MlflowClient) -> None:
    """A deleted experiment holds its name: the message says how to get out of that."""
    experiment_id = client.create_experiment("train")
    client.delete_experiment(experiment_id)

    message = refusal(lambda: tracker.open_sweep(SWEEP))

    assert "The MLflow experiment 'train'" in message
    assert f"mlflow experiments restore --experiment-id {experiment_id}`" in message
    assert "mlflow gc" in message
    assert "hydra.launcher.mlflow.experiment_name" in message


def test_file_that_is_no_database(folder: Path) -> None:
    """Said at once and with the file's name, not after MLflow's minutes of trying again."""
    (folder / "mlflow-store" / "mlflow.db").write_text("not a database, but long enough" * 100)

    message = refusal(lambda: MlflowTracker(None, folder, "ann").open_sweep(SWEEP))

    assert message.startswith(
        f"Could not open the MLflow store (sqlite:///{folder}/mlflow-store/mlflow.db): "
        "file is not a database\n"
    )
    assert "hydra.launcher.mlflow.enabled=false" in message


def test_not_opened(tracker: MlflowTracker) -> None:
    """A job before its sweep is a mistake of the caller, and said so."""
    assert "has not been opened yet" in refusal(lambda: tracker.open_job(JobRun("job")))


def test_without_a_run(tracker: MlflowTracker) -> None:
    """No run id: nothing to log into, and no environment."""
    tracker.open_sweep(SWEEP)

    tracker.close_job(None, FINISHED)

    assert tracker.job_environment(None) == ()


def test_many_jobs_at_once(tracker: MlflowTracker, client: MlflowClient) -> None:
    """Jobs are opened and closed from several threads, and nothing is lost."""
    parent = tracker.open_sweep(SWEEP)

    def job(n: int) -> str:
        run_id = tracker.open_job(JobRun(f"job-{n}", artifacts={"config.yaml": str(n)}))
        end = JobRunEnd(
            RunStatus.FINISHED, params={"n": n, "lr": 0.1}, metrics={"s": n}, tags={"exit": "0"}
        )
        tracker.close_job(run_id, end)
        return run_id

    with ThreadPoolExecutor(8) as threads:
        runs = [client.get_run(run_id) for run_id in threads.map(job, range(24))]

    assert [run.data.params["n"] for run in runs] == [str(n) for n in range(24)]
    assert [run.data.metrics["s"] for run in runs] == list(range(24))
    assert [texts(run)["config.yaml"] for run in runs] == [str(n) for n in range(24)]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent}


def test_locked_database(tracker: MlflowTracker, folder: Path) -> None:
    """While a container holds the database, the host waits for it."""
    tracker.open_sweep(SWEEP)
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as container:
        container.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            waiting = thread.submit(tracker.open_job, JobRun("job"))
            with pytest.raises(NotYetError):
                waiting.result(timeout=0.3)
            container.rollback()

            assert waiting.result(timeout=10)


def test_answers(tracker: MlflowTracker, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that cannot be written to does not answer."""
    monkeypatch.setattr(_mlflow_tracker, "_ANSWER_TIMEOUT_S", 0.1)
    assert tracker.answers()
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as container:
        container.execute("BEGIN EXCLUSIVE")
        assert not tracker.answers()
    assert tracker.answers()


def test_no_server(folder: Path) -> None:
    """A server that is not there: an error at once, without the password in it."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    tracker = MlflowTracker(f"http://ann:pw@127.0.0.1:{port}", folder, "ann")

    with pytest.raises(TrackingError) as caught:
        tracker.open_sweep(SWEEP)

    message = str(caught.value)
    assert caught.value.transient
    assert not tracker.answers()
    assert message.startswith(f"Could not open the MLflow store (http://ann:***@127.0.0.1:{port})")
    assert "Check that the server runs" in message
    assert "pw@" not in message


def test_server_that_does_not_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes connections and says nothing is given up after a short time."""
    monkeypatch.setattr(_mlflow_tracker, "_ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        tracker = MlflowTracker(f"http://127.0.0.1:{mute.getsockname()[1]}", folder, "ann")

        message = refusal(lambda: tracker.open_sweep(SWEEP))

    assert "timed out" in message.lower()


def test_server_that_hangs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that a server takes and does not answer is given up; it may pass later."""
    monkeypatch.setattr(_mlflow_patience, "_REQUEST_TIMEOUT_S", 1)
    monkeypatch.setattr(_mlflow_patience, "_INSISTING_S", 0)
    asked: list[str] = []
    over = threading.Event()

    class Hanging(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            if self.path != "/health":
                over.wait(PATIENCE_S)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Hanging) as hanging:
        threading.Thread(target=hanging.serve_forever).start()
        tracker = MlflowTracker(f"http://127.0.0.1:{hanging.server_port}", folder, "ann")
        try:
            with ThreadPoolExecutor(1) as thread, pytest.raises(TrackingError) as caught:
                thread.submit(tracker.open_sweep, SWEEP).result(PATIENCE_S)
        finally:
            over.set()
            hanging.shutdown()

    assert caught.value.transient
    assert "timed out" in str(caught.value).lower()
    assert asked == ["/health", "/api/2.0/mlflow/experiments/get-by-name"]


def test_no_database_server(folder: Path) -> None:
    """The same for a database server."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    tracker = MlflowTracker(f"postgresql://ann:pw@127.0.0.1:{port}/runs", folder, "ann")

    message = refusal(lambda: tracker.open_sweep(SWEEP))

    assert f"(postgresql://ann:***@127.0.0.1:{port}/runs)" in message
    assert "refused" in message.lower()


@pytest.fixture
def server(tmp_path: Path, migrated: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """A real tracking server on loopback: its address, and how to stop it."""
    shutil.copy(migrated, tmp_path / "server.db")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/server.db"]
    command += ["--artifacts-destination", str(tmp_path / "served")]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=10)

    watchdog = threading.Timer(60, stop)
    watchdog.start()
    try:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Uvicorn running on" in line:
                break
        else:
            pytest.fail("".join(said))
        yield f"http://127.0.0.1:{port}", stop
    finally:
        watchdog.cancel()
        stop()
        process.stdout and process.stdout.close()


def test_secrets(folder: Path, tmp_path: Path) -> None:
    """The password of MLflow's own file in the home is one: containers get it as well."""
    (tmp_path / ".mlflow").mkdir()
    file = "[mlflow]\nmlflow_tracking_username = ann\nmlflow_tracking_password = of-a-file\n"
    (tmp_path / ".mlflow" / "credentials").write_text(file)
    assert MlflowTracker("https://ghp_x@host", folder, "ann").secrets() == ("of-a-file", "ghp_x")


def test_server(
    server: tuple[str, Callable[[], None]],
    folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The same record on a tracking server; one that dies during a sweep is an error, in time."""
    url, stop = server
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow" / "credentials").write_text("[mlflow]\nmlflow_tracking_username = ann\n")
    tracker = MlflowTracker(url, folder, "ann")
    client = MlflowClient(url)

    parent = tracker.open_sweep(SWEEP)
    run_id = tracker.open_job(JobRun("job", artifacts={"config.yaml": "lr: 1\n"}))
    late = tracker.open_job(JobRun("late"))
    end = JobRunEnd(
        RunStatus.FAILED,
        params={"x[0]": 1, "empty": "", **{f"p{n}": n for n in range(150)}},
        metrics={"s": 1.0, "nan": float("nan"), "inf": float("inf")},
        tags={"exit": "1"},
        files={"log.txt": tmp_path / ".mlflow" / "credentials"},
    )
    run = close_and_get(tracker, client, end, run_id)

    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.params["x_0_"] == "1"
    assert len(run.data.params) == 152
    assert set(run.data.metrics) == {"s", "nan", "inf"}
    assert {file.path for file in client.list_artifacts(run_id)} == {"config.yaml", "log.txt"}
    access = tracker.access()
    assert (access.url, access.url_variable, access.folders) == (url, "MLFLOW_TRACKING_URI", ())
    assert dict(access.environment) == {
        "MLFLOW_TRACKING_USERNAME": "ann",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }

    stop()
    message = refusal(lambda: tracker.close_job(late, end))
    assert [line.partition(" (")[0] for line in message.splitlines() if "Could" in line] == [
        "Could not log its params",
    ]
    assert capfd.readouterr() == ("", "")


# ---- past runs -----------------------------------------------------------------------------------


@pytest.fixture
def history(tracker: MlflowTracker, folder: Path) -> MlflowHistory:
    """The runs of the default store, which has a sweep of two jobs."""
    tracker.open_sweep(SWEEP)
    for number in (1, 0):
        job = JobRun(
            f"job {number}", {"hydra.docker.job": str(number)}, {"job.pickle": b"\x80\xff"}
        )
        run_id = tracker.open_job(job)
        tracker.close_job(run_id, JobRunEnd(RunStatus.FAILED, metrics={"loss": number}))
    tracker.close_sweep(RunStatus.FAILED)
    return MlflowHistory(None, folder)


def runs_of(client: MlflowClient) -> dict[str, Run]:
    (experiment,) = (e for e in client.search_experiments() if e.name == "train")
    return {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


def test_past_run(history: MlflowHistory, client: MlflowClient) -> None:
    """A run is read back as it was written, by its id or the first digits of it."""
    run = runs_of(client)["job 0"]
    past = history.run(run.info.run_id)
    assert past == PastRun(
        id=run.info.run_id,
        name="job 0",
        experiment="train",
        status="FAILED",
        tags=run.data.tags,
        metrics={"loss": 0.0},
    )
    assert past.tags["hydra.docker.job"] == "0"
    assert history.run(run.info.run_id[:12]) == past


def test_past_jobs_of_a_sweep(history: MlflowHistory, client: MlflowClient) -> None:
    """The jobs of a sweep come in the order in which they were started; a job has none."""
    runs = runs_of(client)
    sweep = history.run(runs["train-10-00-00"].info.run_id)
    children = history.children(sweep)
    assert [child.name for child in children] == ["job 1", "job 0"]
    assert history.children(children[0]) == ()


def test_past_artifact(history: MlflowHistory, client: MlflowClient) -> None:
    """An artifact is read as bytes; one that is not there is None."""
    run_id = runs_of(client)["job 1"].info.run_id
    assert history.artifact(run_id, "job.pickle") == b"\x80\xff"
    assert history.artifact(run_id, "gone") is None


@pytest.mark.parametrize("run_id", ["0" * 32, "zzz", "%", "_" * 32, "", "' OR 1=1"])
def test_no_such_run(history: MlflowHistory, folder: Path, run_id: str) -> None:
    """A run that the store does not have, or no id at all."""
    assert refusal(lambda: history.run(run_id)) == (
        f"There is no run {run_id} in sqlite:///{folder}/mlflow-store/mlflow.db. Go to the folder "
        "of its sweep, or name the store with --tracking-uri."
    )


def test_digits_of_several_runs(history: MlflowHistory, client: MlflowClient) -> None:
    """Digits that several runs begin with do not name one."""
    ids = {run.info.run_id for run in runs_of(client).values()}
    experiment = next(e for e in client.search_experiments() if e.name == "train").experiment_id
    while len({run_id[0] for run_id in ids}) == len(ids):
        ids.add(client.create_run(experiment).info.run_id)
    digits = sorted(run_id[0] for run_id in ids)
    digit = next(one for one, other in itertools.pairwise(digits) if one == other)
    message = refusal(lambda: history.run(digit))
    assert message.startswith(f"Several runs begin with {digit}: ")
    assert message.endswith(". Give more digits.")


def test_deleted_run(history: MlflowHistory, client: MlflowClient, folder: Path) -> None:
    """A run that was deleted is told from one that never was."""
    run_id = runs_of(client)["job 0"].info.run_id
    client.delete_run(run_id)
    store = f"sqlite:///{folder}/mlflow-store/mlflow.db"
    assert refusal(lambda: history.run(run_id)) == (
        f"The run {run_id} in {store} is deleted. Restore it with "
        f"`MLFLOW_TRACKING_URI={store} mlflow runs restore --run-id {run_id}`."
    )


def test_no_store_to_read(tmp_path: Path) -> None:
    """Where there is no store, none is made."""
    assert refusal(lambda: MlflowHistory(None, tmp_path)).startswith(
        f"There is no MLflow store in {tmp_path}: "
    )
    assert list(tmp_path.iterdir()) == []
