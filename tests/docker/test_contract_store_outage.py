"""An MLflow server that dies and comes back: errors in time, and nothing lost or doubled after."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_server import MlflowServer

from hydra_plugins.hydra_docker_launcher._errors import TrackingError
from hydra_plugins.hydra_docker_launcher._mlflow_tracker import MlflowTracker
from hydra_plugins.hydra_docker_launcher._tracking import JobRun, JobRunEnd, RunStatus, SweepRun

#: MLflow's own client would ask for minutes.
PATIENCE_S = 60
SWEEP = SweepRun("train", "sweep", {"hydra.docker.sweep": "s1"}, {"sweep.yaml": "lr: 1,2\n"})


class Deadly(dict[str, Any]):
    """A mapping that ends the server when it is looked through: in the middle of a call."""

    def __init__(self, server: MlflowServer, values: Mapping[str, Any]) -> None:
        super().__init__(values)
        self._server = server

    def items(self) -> Any:
        self._server.end(signal.SIGKILL)
        return super().items()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MlflowServer]:
    for name in [name for name in os.environ if name.startswith("MLFLOW_")]:
        monkeypatch.delenv(name)
    (tmp_path / "server").mkdir()
    server = MlflowServer(tmp_path / "server")
    server.start()
    yield server
    server.end()


def outage(call: Callable[[], object]) -> str:
    """Return what is raised, in time, where the server does not answer."""
    with ThreadPoolExecutor(1) as thread, pytest.raises(TrackingError) as caught:
        thread.submit(call).result(PATIENCE_S)
    assert caught.value.transient
    return str(caught.value)


def job(number: int) -> JobRun:
    return JobRun(
        f"job {number}",
        {"hydra.docker.job": str(number)},
        {"config.yaml": f"lr: {number}\n", "overrides.yaml": "[]\n"},
        started_at=1000.0 + number,
    )


def end(number: int, log: Path) -> JobRunEnd:
    return JobRunEnd(
        RunStatus.FINISHED,
        {"lr": number, **{f"p{n}": n for n in range(150)}},
        {"return_value": number / 3, "nan": float("nan")},
        {"hydra.docker.outcome": "completed"},
        {"container.log": log},
        2000.0 + number,
    )


def test_store_outage(server: MlflowServer, tmp_path: Path) -> None:
    """A server is killed while a run is opened, and again while one is closed.

    What was begun is taken up and completed, by the same process and by another one.
    """
    log = tmp_path / "log"
    log.write_text("the log")
    tracker = MlflowTracker(server.url, tmp_path, "ann")
    parent = tracker.open_sweep(SWEEP)
    closed, running = tracker.open_job(job(0)), tracker.open_job(job(1))
    tracker.close_job(closed, end(0, log))

    half = replace(job(2), artifacts=Deadly(server, job(2).artifacts))
    assert outage(lambda: tracker.open_job(half)).startswith("Could not start the run of job")

    assert not tracker.answers()
    for call in (
        lambda: MlflowTracker(server.url, tmp_path, "ann").join_sweep(parent, "train"),
        lambda: MlflowTracker(server.url, tmp_path, "ann").open_sweep(SWEEP),
        lambda: tracker.open_job(job(3)),
        lambda: tracker.reopen_job(closed, {}),
        lambda: tracker.close_job(running, end(1, log)),
        lambda: tracker.close_sweep(RunStatus.FINISHED),
        tracker.reopen_sweep,
    ):
        outage(call)

    server.start()
    assert tracker.answers()
    opened = tracker.open_job(job(2))
    deadly = replace(end(1, log), metrics=Deadly(server, end(1, log).metrics))
    message = outage(lambda: tracker.close_job(running, deadly))
    assert message.startswith(f"MLflow run {running} (FINISHED) is incomplete:\nCould not log its")

    server.start()
    other = MlflowTracker(server.url, tmp_path, "ann")
    other.join_sweep(parent, "train")
    for number, run_id in enumerate((closed, running, opened)):
        other.close_job(run_id, end(number, log))
    other.close_sweep(RunStatus.FINISHED)

    client = MlflowClient(server.url)
    sweep = client.get_run(parent).info
    assert sweep.status == "FINISHED"
    children = client.search_runs([sweep.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert {
        run.info.run_id: (
            run.info.status,
            run.info.start_time,
            run.info.end_time,
            run.data.params["lr"],
            len(run.data.params),
            [metric.value for metric in client.get_metric_history(run.info.run_id, "return_value")],
            len(client.get_metric_history(run.info.run_id, "nan")),
            [file.path for file in client.list_artifacts(run.info.run_id)],
        )
        for run in children
    } == {
        run_id: (
            "FINISHED",
            1_000_000 + 1000 * number,
            2_000_000 + 1000 * number,
            str(number),
            151,
            [number / 3],
            1,
            ["config.yaml", "container.log", "overrides.yaml"],
        )
        for number, run_id in enumerate((closed, running, opened))
    }
    assert len(client.search_runs([sweep.experiment_id])) == 4
