"""Composed: configs that Hydra's sweeper has composed already, to be used instead of made again.

Hydra's own sweeper composes the config of every job of a batch to see that it can be done, throws
it away, and calls the launcher, which needs the same configs. Composing takes Hydra 30 to 60 ms a
job, one after the other; done once, a sweep starts sooner.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from hydra.core.config_loader import ConfigLoader
from hydra.types import HydraContext
from omegaconf import DictConfig

LIMIT = 1000  # configs kept at a time; the jobs of a larger batch are composed again


class _Remembering:
    """A config loader that keeps what it composes for the sweep, until it is taken."""

    def __init__(self, loader: ConfigLoader) -> None:
        self._loader = loader
        self._composed: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig:
        config = self._loader.load_sweep_config(master_config, sweep_overrides)
        if len(self._composed) < LIMIT:
            self._composed[tuple(sweep_overrides)] = config
        return config

    def take(self, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
        config = self._composed.pop(tuple(overrides), None)
        if config is None:
            return self._loader.load_sweep_config(master_config, list(overrides))
        return config

    def forget(self) -> None:
        self._composed.clear()


def remember(context: HydraContext) -> None:
    """Let the context's config loader keep what a sweeper composes before it calls the launcher."""
    if not isinstance(context.config_loader, _Remembering):
        context.config_loader = cast(ConfigLoader, _Remembering(context.config_loader))


def take(context: HydraContext, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """Return the config of one job: what the sweeper composed, else composed now."""
    loader: object = context.config_loader
    if isinstance(loader, _Remembering):
        return loader.take(master_config, overrides)
    return context.config_loader.load_sweep_config(master_config, list(overrides))


def forget(context: HydraContext) -> None:
    """Drop what nobody has taken."""
    loader: object = context.config_loader
    if isinstance(loader, _Remembering):
        loader.forget()
