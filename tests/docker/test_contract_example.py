"""The example of the README: real trainings, the same on the host and in containers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from mlflow import MlflowClient
from sweep_command import APPS, Finished, Repository, command_environment

ROOT = APPS.parents[1]
OVERRIDES = ("optimizer=sgd,adam", "training_settings.epochs=5")


@pytest.fixture(scope="module")
def repository(
    api: docker.APIClient,
    base_image: str,
    mlflow_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Repository]:
    """A repository with ``conf/`` and ``examples/``, as in this one; its Dockerfile is built.

    The packages are in the builder's cache: ``mlflow_image`` has them too.
    """
    root = tmp_path_factory.mktemp("example")
    for folder in ("conf", "examples"):
        ignore = shutil.ignore_patterns("multirun", "outputs", "mlflow*", "__pycache__")
        shutil.copytree(ROOT / folder, root / folder, ignore=ignore)
    # numpy's choice of kernels would differ from the container's.
    environment = command_environment(tmp_path_factory.mktemp("cache"))
    environment.pop("OPENBLAS_CORETYPE", None)
    defaults = {
        "hydra/launcher": "docker",
        "hydra.launcher.keep": "none",
        "hydra.launcher.build.args.BASE_IMAGE": base_image,
        "hydra.launcher.build.network": "host",
    }
    made = Repository(root, "hello", api, environment, defaults)
    yield made
    made.clean_up()


@pytest.fixture(scope="module")
def sweeps(repository: Repository) -> list[Finished]:
    """The README's command, twice."""
    folder = repository.root / "examples" / "digits"
    return [
        repository.sweep(*OVERRIDES, script="train.py", cwd=folder, timeout=400) for _ in range(2)
    ]


def accuracies(sweep: Finished) -> list[float]:
    client = MlflowClient(f"sqlite:///{sweep.folder.parents[1] / 'mlflow.db'}")
    runs = [client.get_run(row["run_id"]) for row in sweep.ledger["jobs"]]
    return [run.data.metrics["return_value"] for run in runs]


def test_trains(sweeps: list[Finished]) -> None:
    """Both trainings complete, learn, and leave their model in their output folder."""
    for sweep in sweeps:
        assert sweep.status == 0, sweep.output
        assert sweep.outcomes == ["completed", "completed"]
        assert all(accuracy > 0.85 for accuracy in accuracies(sweep))
        for number in (0, 1):
            assert (sweep.job(number).folder / "model.joblib").is_file()


def test_builds_once(sweeps: list[Finished]) -> None:
    """The first sweep builds the image, the second finds it up to date."""
    first, second = sweeps
    assert "image | Building an image from examples/digits/Dockerfile" in first.output
    assert "image | Successfully built" in first.output
    assert "is up to date with examples/digits/Dockerfile" in second.output
    assert first.ledger["image"] == second.ledger["image"]


def test_same_twice(sweeps: list[Finished]) -> None:
    """The same seed gives the same accuracy twice in containers."""
    assert accuracies(sweeps[0]) == accuracies(sweeps[1])


def test_same_on_the_host(repository: Repository, sweeps: list[Finished], tmp_path: Path) -> None:
    """The same seed gives the same accuracy on the host, to the last digit."""
    folder = repository.root / "examples" / "digits"
    for optimizer, expected in zip(("sgd", "adam"), accuracies(sweeps[0]), strict=True):
        store = f"sqlite:///{tmp_path / optimizer}.db"
        subprocess.run(
            (
                *(sys.executable, "train.py", f"optimizer={optimizer}"),
                *("training_settings.epochs=5", f"hydra.run.dir={tmp_path / 'out'}"),
            ),
            cwd=folder,
            env={**repository.environment, "MLFLOW_TRACKING_URI": store},
            check=True,
            capture_output=True,
        )
        client = MlflowClient(store)
        experiments = [item.experiment_id for item in client.search_experiments()]
        (run,) = client.search_runs(experiments)
        assert run.data.metrics["test_accuracy"] == expected


def test_mlflow_holds_the_config(sweeps: list[Finished]) -> None:
    """Each run has its resolved YAML; the betas exist only for adam, momentum only for sgd."""
    texts = [
        (sweeps[0].job(number).folder / ".docker/config.yaml").read_text() for number in (0, 1)
    ]
    client = MlflowClient(f"sqlite:///{sweeps[0].folder.parents[1] / 'mlflow.db'}")
    for row, text in zip(sweeps[0].ledger["jobs"], texts, strict=True):
        run = client.get_run(row["run_id"])
        artifact = Path(run.info.artifact_uri.removeprefix("file://"), "config.yaml")
        assert artifact.read_text() == text
        assert os.stat(artifact).st_size > 0
    assert "beta_1" in texts[1]
    assert "beta_1" not in texts[0]
    assert "momentum" in texts[0]
    assert "momentum" not in texts[1]
