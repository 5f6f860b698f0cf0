"""Start: a sweep gets the real engine and the real tracker, each imported only when it is used."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig

from . import _composed, _frozen
from ._engine import Engine
from ._options import Mlflow
from ._sweep import Sweep
from ._tracking import History, NoTracker, Tracker


def start_sweep(
    context: HydraContext, config: DictConfig, task_function: Callable[[Any], Any]
) -> Sweep:
    """Return the sweep of one run of a Hydra app."""
    _frozen.freeze(context, config)
    _composed.remember(context)
    return Sweep(context, config, task_function, docker_engine, tracker)


def docker_engine() -> Engine:
    """Connect to the Docker Engine, or raise ``EngineError``."""
    from ._docker_engine import DockerEngine

    return DockerEngine()


def tracker(options: Mlflow, folder: Path, user: str) -> Tracker:
    """Return where the sweep is tracked, as ``hydra.launcher.mlflow`` says."""
    if not options.enabled:
        return NoTracker()
    from ._mlflow_tracker import MlflowTracker

    return MlflowTracker(options.tracking_uri, folder, user)


def history(tracking_uri: str | None, folder: Path) -> History:
    """Return the past runs of a store; by default the one that a sweep in ``folder`` would use."""
    from ._mlflow_tracker import MlflowHistory

    return MlflowHistory(tracking_uri, folder)
