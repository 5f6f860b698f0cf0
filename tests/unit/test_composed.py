"""Configs that the sweeper has composed are taken over; each is composed once."""

from __future__ import annotations

import pytest
from hydra.types import HydraContext
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _composed

MASTER = OmegaConf.create({"lr": 0})


class Loader:
    """Composes, and counts."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, ...]] = []

    def load_sweep_config(self, master_config, sweep_overrides):
        self.asked.append(tuple(sweep_overrides))
        return OmegaConf.merge(master_config, OmegaConf.from_dotlist(sweep_overrides))

    def get_sources(self):
        return ["a source"]


@pytest.fixture
def loader() -> Loader:
    return Loader()


@pytest.fixture
def context(loader: Loader) -> HydraContext:
    context = HydraContext(config_loader=loader, callbacks=None)
    _composed.remember(context)
    _composed.remember(context)  # a second launcher of the same context changes nothing
    return context


def test_composed_once(context: HydraContext, loader: Loader) -> None:
    """What the sweeper composed is what the job gets, and is not composed again."""
    by_sweeper = context.config_loader.load_sweep_config(MASTER, ["lr=1"])
    assert _composed.take(context, MASTER, ["lr=1"]) is by_sweeper
    assert loader.asked == [("lr=1",)]


def test_taken_once(context: HydraContext, loader: Loader) -> None:
    """Two jobs with the same overrides do not share a config that one of them changes."""
    context.config_loader.load_sweep_config(MASTER, ["lr=1"])
    one, other = (_composed.take(context, MASTER, ["lr=1"]) for _ in range(2))
    assert one == other
    assert one is not other
    assert loader.asked == [("lr=1",)] * 2


def test_other_sweepers(context: HydraContext, loader: Loader) -> None:
    """Where the sweeper composed nothing, or another batch, the job's config is composed now."""
    context.config_loader.load_sweep_config(MASTER, ["lr=1"])
    _composed.forget(context)
    assert _composed.take(context, MASTER, ["lr=2"]) == {"lr": 2}
    assert _composed.take(context, MASTER, ["lr=1"]) == {"lr": 1}
    assert loader.asked == [("lr=1",), ("lr=2",), ("lr=1",)]


def test_bounded(context: HydraContext, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than so many are kept."""
    monkeypatch.setattr(_composed, "LIMIT", 1)
    for lr in (1, 2):
        context.config_loader.load_sweep_config(MASTER, [f"lr={lr}"])
    for lr in (1, 2):
        assert _composed.take(context, MASTER, [f"lr={lr}"]) == {"lr": lr}
    assert loader.asked == [("lr=1",), ("lr=2",), ("lr=2",)]


def test_all_else_is_the_loaders(context: HydraContext) -> None:
    """Whatever else is asked of the context's loader is answered by Hydra's."""
    assert context.config_loader.get_sources() == ["a source"]
