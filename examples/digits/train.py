"""Train a small neural network on one of the data sets that come with scikit-learn.

An ordinary Hydra application: by hand, in a sweep of Hydra's own launcher or in a container of its
own, it is the same script, and nothing in it tells the difference. Each part of the config becomes
the arguments of a function below, so a key that would have no effect is an error.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, cast

import hydra
import joblib
import mlflow
import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

log = logging.getLogger(__name__)

# The keys of each optimizer, beside its learning rate.
OPTIMIZERS = {"sgd": {"momentum"}, "adam": {"beta_1", "beta_2", "epsilon"}}
DATASETS = {"digits": load_digits, "breast_cancer": load_breast_cancer, "wine": load_wine}


def split(name: str, test_size: float, seed: int) -> list[Any]:
    """Return a data set as x_train, x_test, y_train, y_test."""
    if name not in DATASETS:
        raise ValueError(f"dataset.name={name}: use one of {', '.join(DATASETS)}")
    x, y = DATASETS[name](return_X_y=True)
    return list(train_test_split(x, y, test_size=test_size, stratify=y, random_state=seed))


def layers(hidden_layer_sizes: list[int], activation: str | None = None) -> dict[str, Any]:
    """Translate the config's model into arguments of MLPClassifier."""
    if bool(hidden_layer_sizes) != bool(activation):
        raise ValueError("model.activation goes with hidden layers: set both, or neither")
    return {"hidden_layer_sizes": hidden_layer_sizes, "activation": activation or "identity"}


def solver(name: str, lr: float, **own: float) -> dict[str, Any]:
    """Translate the config's optimizer into arguments of MLPClassifier."""
    if name not in OPTIMIZERS:
        raise ValueError(f"optimizer.name={name}: use one of {', '.join(OPTIMIZERS)}")
    if own.keys() != OPTIMIZERS[name]:
        raise ValueError(f"optimizer {name} takes {sorted(OPTIMIZERS[name])}, not {sorted(own)}")
    return {"solver": name, "learning_rate_init": lr, **own}


def train(
    *,
    dataset: dict[str, Any],
    model: dict[str, Any],
    optimizer: dict[str, Any],
    batch_size: int,
    seed: int,
    epochs: int,
    device: str,
) -> float:
    """Train on one part of the data set, and return the accuracy on the other."""
    if device != "cpu":
        raise ValueError(f"training_settings.device={device}: scikit-learn trains on the cpu only")
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"training_settings.epochs={epochs}: use a whole number from 1 up")
    x_train, x_test, y_train, y_test = split(**dataset, seed=seed)
    if batch_size not in range(1, len(x_train) + 1):
        raise ValueError(f"data_loader.batch_size={batch_size}: use 1 to {len(x_train)} samples")

    scaler = StandardScaler().fit(x_train)
    # Given the bare seed, partial_fit would shuffle every epoch into the same order.
    shuffling = np.random.RandomState(seed)
    network = MLPClassifier(
        **layers(**model), **solver(**optimizer), batch_size=batch_size, random_state=shuffling
    )
    classifier = make_pipeline(scaler, network)
    # One run for each job: the one that MLFLOW_RUN_ID names, else a new one.
    with mlflow.start_run():
        for epoch in range(1, epochs + 1):
            network.partial_fit(scaler.transform(x_train), y_train, classes=np.unique(y_train))
            mlflow.log_metric("loss", network.loss_, step=epoch)
            if epoch % 10 == 0 or epoch in {1, epochs}:
                log.info("epoch %d of %d: loss %.4f", epoch, epochs, network.loss_)
        accuracy = float(classifier.score(x_test, y_test))
        mlflow.log_metric("test_accuracy", accuracy)
    log.info("test accuracy: %.4f", accuracy)
    joblib.dump(classifier, Path(HydraConfig.get().runtime.output_dir, "model.joblib"))
    return accuracy


@hydra.main(version_base="1.3", config_path="../../conf", config_name="config")
def main(cfg: DictConfig) -> float:
    """Train as the config says, and return the accuracy, which a sweeper may maximise."""
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    return train(**config.pop("data_loader"), **config.pop("training_settings"), **config)


if __name__ == "__main__":
    main()
