"""What a job has really used, measured from outside its container, on a real engine."""

from __future__ import annotations

import os

import docker
import mlflow
import pytest
from containers import MEMORY, MakeSpec
from sweep_command import Finished, MakeRepository, Repository, wait_for

from hydra_plugins.hydra_docker_launcher._docker_engine import DockerEngine
from hydra_plugins.hydra_docker_launcher._engine import ContainerSpec, Sample

MB = 10**6
SECONDS = 12
SHELL = (
    "sleep 300 & dd if=/dev/zero of=/dev/shm/held bs=1M count=20 2>/dev/null; echo held; "
    "while :; do :; done"
)


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    made = make_repository("busy", cpus="0.5", mem_limit="2g", n_jobs="2")
    del made.defaults["hydra.launcher.mlflow.enabled"]
    return made


@pytest.fixture(scope="module")
def sweep(repository: Repository) -> Finished:
    """Two jobs in an image without MLflow: one that is at work all the time, and one that waits."""
    finished = repository.sweep(
        "+burn=true,false", "+mb=200", "+processes=5", f"+seconds={SECONDS}"
    )
    assert finished.status == 0, finished.output
    return finished


def test_row(sweep: Finished) -> None:
    """sweep.json tells of every job what it has used: CPUs, memory, processes, in bytes."""
    busy, idle = (sweep.job(number).row["used"] for number in (0, 1))
    assert 0.2 < busy["cpus"]["mean"] <= busy["cpus"]["peak"] <= 0.5
    assert idle["cpus"]["mean"] < 0.5 * busy["cpus"]["mean"]
    for used in (busy, idle):
        assert 200 * MB < used["memory"]["peak"] < 400 * MB
        assert used["memory"]["mean"] <= used["memory"]["peak"]
        assert 7 <= used["pids"]["peak"] < 30  # an init, Python, five children
        assert used["network"]["received"] >= 0
        assert used["seconds"] > SECONDS - 6


def test_system_metrics(sweep: Finished, repository: Repository) -> None:
    """The job's run has series and peaks under the names that MLflow shows as system metrics."""
    client = mlflow.MlflowClient(f"sqlite:///{repository.root}/mlflow.db")
    run_id, used = (sweep.job(0).row[name] for name in ("run_id", "used"))
    found = client.get_run(run_id).data.metrics
    assert found["system/used/cpus_peak"] == used["cpus"]["peak"]
    memory = client.get_metric_history(run_id, "system/system_memory_usage_megabytes")
    peak = max(metric.value for metric in memory)
    assert peak == pytest.approx(used["memory"]["peak"] / MB, abs=0.01)
    assert len(memory) >= 5
    assert [metric.step for metric in memory] == list(range(len(memory)))
    busy = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert max(metric.value for metric in busy) > 50


def test_summary(sweep: Finished) -> None:
    """The end of the sweep tells in a line that all its jobs had far more memory than they used."""
    (line,) = [line for line in sweep.output.splitlines() if "far less" in line]
    assert "2 jobs used far less than their memory: peak 2" in line
    assert line.endswith("of 2g (hydra.launcher.mem_limit)")
    assert sweep.output.rstrip().endswith("2 completed")


def test_switched_off(repository: Repository) -> None:
    """system_metrics=false: nothing is measured, and nothing is said."""
    finished = repository.sweep(
        "+burn=false",
        "+mb=1",
        "+processes=0",
        "+seconds=0.6",
        "hydra.launcher.system_metrics=false",
        "hydra.launcher.mlflow.enabled=false",
    )
    assert finished.status == 0, finished.output
    assert "used" not in finished.job(0).row


@pytest.fixture
def running(api: docker.APIClient, make_spec: MakeSpec) -> tuple[DockerEngine, str, ContainerSpec]:
    engine = DockerEngine()
    spec = make_spec(SHELL)
    container = engine.create(spec)
    engine.start(container)
    wait_for(lambda: b"held" in api.logs(container), "the container holds its memory")
    return engine, container, spec


def test_files_and_engine_agree(
    running: tuple[DockerEngine, str, ContainerSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own files, where they can be read, tell the same as the engine's statistics."""
    engine, container, spec = running
    direct = engine.measure(container, spec)
    monkeypatch.setattr(engine, "_group", lambda _: None)
    asked = engine.measure(container, spec)

    for sample in (direct, asked):
        assert isinstance(sample, Sample)
        assert 20 * MB < sample.memory <= MEMORY
        assert sample.pids is not None
        assert sample.pids >= 3
        assert not sample.received  # it has no network
    assert asked.cpu > direct.cpu - 0.001 > 0
    assert abs(asked.memory - direct.memory) < 5 * MB
    assert asked.pids == direct.pids

    engine.stop(container, 0)
    assert engine.measure(container, spec) is None
    engine.remove(container)
    assert engine.measure(container, spec) is None


def test_this_machine(
    running: tuple[DockerEngine, str, ContainerSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the engine on this machine no request is made for a sample, wherever its cgroups are."""
    engine, container, spec = running
    if engine.host().name != os.uname().nodename:
        pytest.skip("the engine is on another machine")
    monkeypatch.setattr("hydra_plugins.hydra_docker_launcher._cgroup.USUAL", ())
    engine = DockerEngine()
    monkeypatch.setattr(engine, "_statistics", lambda _: pytest.fail("it has asked the engine"))
    assert engine.measure(container, spec) is not None
    monkeypatch.setattr(engine, "_api", None)  # from here on, nothing is to be looked up
    assert engine.measure(container, spec) is not None
