"""Interpolations of every kind, and resolvers from several places."""

import random
from enum import Enum
from fractions import Fraction
from pathlib import Path

import hydra
from dump import dump
from omegaconf import OmegaConf

try:
    import host_only  # registers a resolver; the image does not have it
except ImportError:
    pass


class Level(Enum):
    low = 1


def boom():
    raise ValueError("this resolver does not work")


OmegaConf.register_new_resolver("twice", lambda number: 2 * number)
OmegaConf.register_new_resolver("random", lambda: random.random())
OmegaConf.register_new_resolver("cached", lambda: random.random(), use_cache=True)
OmegaConf.register_new_resolver("boom", boom)
OmegaConf.register_new_resolver("path", lambda text: Path(text))
OmegaConf.register_new_resolver("level", lambda text: Level[text])
OmegaConf.register_new_resolver("fraction", lambda text: Fraction(text))
OmegaConf.register_new_resolver("pair", lambda one, other: (one, other))
OmegaConf.register_new_resolver("mapping", lambda: {"a": [1, {"b": None}], "c": "${top}"})
OmegaConf.register_new_resolver("config", lambda: OmegaConf.create({"a": 1, "b": "${.a}"}))
OmegaConf.register_new_resolver("nothing", lambda: None)
OmegaConf.register_new_resolver("bytes", lambda: b"\x00")
OmegaConf.register_new_resolver("sibling", lambda *, _parent_: _parent_.plain)
OmegaConf.register_new_resolver("dollar", lambda: "${top}")


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    OmegaConf.register_new_resolver("later", lambda text: text.upper(), replace=True)
    cfg.set_in_the_task = 7
    dump(
        cfg,
        is_missing=OmegaConf.is_missing(cfg, "to_missing"),
        select=OmegaConf.select(cfg, "from_env", default="no"),
        resolved=OmegaConf.to_yaml(cfg.fine, resolve=True),
        followed=cfg.follows,
    )
    return cfg.fine.hydra_number


if __name__ == "__main__":
    main()
