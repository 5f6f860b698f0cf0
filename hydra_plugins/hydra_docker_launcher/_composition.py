"""Composition: what is written down of where a sweep's configs come from."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from omegaconf import DictConfig, OmegaConf

from . import _config_sources, _masks
from ._config_sources import ConfigSource
from ._private import NO_GLOBS, Rules
from ._provenance import Composition


def composition(config: DictConfig, rules: Rules = NO_GLOBS) -> Composition:
    """Return where the configs of a sweep come from; asks git, once a sweep."""
    # An override may hold an interpolation that only a job's config resolves: it stays as it is.
    overrides: Any = OmegaConf.to_container(config.hydra.overrides.hydra)
    return Composition(
        configs=tuple(map(_plain_source, _config_sources.describe(config))),
        overrides=_masks.overrides(map(str, overrides), rules),
    )


def _plain_source(source: ConfigSource) -> dict[str, Any]:
    checkout, distribution = source.checkout, source.distribution
    return {
        "provider": source.provider,
        "schema": source.schema,
        "path": source.path,
        "git": checkout
        and {
            "root": str(checkout.root),
            "remote": checkout.remote,
            "commit": checkout.commit,
            "dirty": bool(checkout.changes),
            "changes": list(checkout.changes),
        },
        "distribution": distribution and asdict(distribution),
        "problem": source.problem,
    }
