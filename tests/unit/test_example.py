"""The example trains on the host, without the launcher, and obeys or refuses every key."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from mlflow import MlflowClient
from omegaconf import DictConfig

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
TRAIN = ROOT / "examples" / "digits" / "train.py"


@dataclass(frozen=True)
class Training:
    """What one training left in MLflow."""

    status: str
    losses: tuple[float, ...]
    test_accuracy: float


def run_example(folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    """Run train.py as a user does, in a folder of its own and with a tracking store in there."""
    folder.mkdir()
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "HYDRA_"))}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    return subprocess.run(
        [sys.executable, str(TRAIN), *overrides],
        cwd=folder,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )


def trainings(folder: Path) -> list[Training]:
    """Return the trainings in the folder's tracking store, in the order in which they ran."""
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    return [
        Training(
            status=run.info.status,
            losses=tuple(m.value for m in client.get_metric_history(run.info.run_id, "loss")),
            test_accuracy=run.data.metrics["test_accuracy"],
        )
        for run in client.search_runs(["0"], order_by=["attributes.start_time ASC"])
    ]


def config(*overrides: str) -> DictConfig:
    """Compose the example's config as Hydra does for its script."""
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides))


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """Return train.py as a module."""
    spec = importlib.util.spec_from_file_location("example_train", TRAIN)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_same_seed_gives_the_same_result(tmp_path: Path) -> None:
    """A job of a sweep and the same job alone agree in each loss and the accuracy; seeds differ.

    As it is configured, either optimizer recognises 96 of 100 digits that it has not seen.
    """
    seeds = "training_settings.seed=0,1"
    sweep = run_example(tmp_path / "sweep", "-m", "optimizer=sgd,adam", seeds)
    alone = run_example(tmp_path / "alone", "optimizer=adam", "training_settings.seed=1")
    assert sweep.returncode == 0, sweep.stderr
    assert alone.returncode == 0, alone.stderr

    results = trainings(tmp_path / "sweep")

    assert trainings(tmp_path / "alone") == results[-1:]
    assert [len(training.losses) for training in results] == [40, 40, 40, 40]
    assert len({training.losses for training in results}) == len(results)
    assert min(training.test_accuracy for training in results) > 0.96


def test_every_data_set_model_and_optimizer_trains(tmp_path: Path) -> None:
    """Each combination ends well, with a falling loss and its model in its own output folder."""
    everything = [f"{group}=glob(*)" for group in ("dataset", "model", "optimizer")]
    short = ["training_settings.epochs=2", "hydra.sweep.dir=sweep"]

    result = run_example(tmp_path / "run", "-m", *everything, *short)

    assert result.returncode == 0, result.stderr
    results = trainings(tmp_path / "run")
    assert [training.status for training in results] == ["FINISHED"] * (3 * 3 * 2)
    assert all(training.losses[0] > training.losses[1] for training in results)
    models = {path.parent.name for path in (tmp_path / "run" / "sweep").glob("*/model.joblib")}
    assert models == {str(job) for job in range(len(results))}


def test_each_optimizer_has_its_own_keys() -> None:
    """The betas and epsilon exist for adam only, the momentum for sgd only."""
    assert set(config("optimizer=sgd").optimizer) == {"name", "lr", "momentum"}
    assert set(config("optimizer=adam").optimizer) == {"name", "lr", "beta_1", "beta_2", "epsilon"}


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=sgd", "optimizer.beta_1=0.8"],
        ["optimizer=sgd", "optimizer.beta_2=0.99"],
        ["optimizer=adam", "optimizer.momentum=0.9"],
        ["optimizer.learning_rate=0.1"],
    ],
)
def test_a_key_that_the_optimizer_has_not_is_refused(overrides: list[str]) -> None:
    """Hydra refuses a key that is not in the chosen optimizer's file, and names it."""
    key = overrides[-1].partition("=")[0]

    with pytest.raises(ConfigCompositionException, match=f"Could not override '{key}'"):
        config(*overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+optimizer.beta_1=0.8"], "optimizer sgd takes .'momentum'., not .'beta_1', 'momentum'."),
        (["~optimizer.momentum"], "optimizer sgd takes .'momentum'., not .."),
        (["optimizer.name=rmsprop"], "optimizer.name=rmsprop: use one of sgd, adam"),
        (["dataset.name=mnist"], "dataset.name=mnist: use one of digits, breast_cancer, wine"),
        (["model=softmax", "+model.activation=tanh"], "model.activation goes with hidden layers"),
        (["+model.dropout=0.5"], "unexpected keyword argument 'dropout'"),
        (["+data_loader.num_workers=4"], "unexpected keyword argument 'num_workers'"),
        (["data_loader.batch_size=2000"], "data_loader.batch_size=2000: use 1 to 1347 samples"),
        (["training_settings.epochs=0"], "training_settings.epochs=0: use a whole number"),
        (["training_settings.epochs=ten"], "training_settings.epochs=ten: use a whole number"),
    ],
)
def test_what_cannot_be_obeyed_is_refused(
    overrides: list[str], message: str, example: ModuleType
) -> None:
    """A key or value that the training cannot obey is an error that says what is valid."""
    with pytest.raises((ValueError, TypeError), match=message):
        example.main(config(*overrides))


def test_a_device_other_than_the_cpu_is_refused(tmp_path: Path) -> None:
    """The user reads which key is wrong and what it has to be, and no training begins."""
    result = run_example(tmp_path / "run", "training_settings.device=cuda")

    assert result.returncode == 1
    message = "ValueError: training_settings.device=cuda: scikit-learn trains on the cpu only"
    assert message in result.stderr
    assert not (tmp_path / "run" / "mlflow.db").exists()
