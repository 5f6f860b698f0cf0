"""Multirun: the file ``multirun.yaml`` of Hydra's sweeper, without secrets.

The sweeper writes it before it calls the launcher, with the config that all jobs have in common.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import _compose
from ._private import Rules

log = logging.getLogger("hydra_docker_launcher")

FILE = "multirun.yaml"


def mask(folder: Path, rules: Rules) -> None:
    """Write the file of the sweep in ``folder`` anew where it has secrets in it."""
    file = folder / FILE
    if file.is_symlink() or not file.is_file():
        return
    partial = folder / f".{FILE}.{os.getpid()}"
    try:
        config = OmegaConf.load(file)
        before = OmegaConf.to_yaml(config)
        after = _compose.shown_yaml(config, rules)
        if after == before:
            return
        partial.write_text(after, encoding="utf-8")
        partial.replace(file)
    except (OSError, YAMLError, OmegaConfBaseException) as error:
        partial.unlink(missing_ok=True)
        log.warning("%s may have secrets in it, and cannot be written anew: %s", file, error)
