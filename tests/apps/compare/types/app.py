"""Structured Configs with everything that OmegaConf can hold."""

import logging
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import hydra
import kinds
from dump import dump
from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

log = logging.getLogger(__name__)


class Mode(Enum):
    train = 1
    test = "two"


@dataclass
class Inner:
    depth: int = 2
    mode: Mode = Mode.train


@dataclass
class Wider(Inner):
    width: float = 0.5


@dataclass
class Config:
    mode: Mode = Mode.test
    shape: kinds.Shape = field(default_factory=kinds.Shape)
    color: kinds.Color = kinds.Color.RED
    flavour: kinds.Flavour = kinds.Flavour.SWEET
    inner: Inner = field(default_factory=Wider)
    path: Path = Path("data/../x y")
    paths: List[Path] = field(default_factory=lambda: [Path("/a"), Path("b")])
    size: Tuple[int, int] = (3, 4)
    anything_tuple: Any = (1, "two")
    key: bytes = b"\x00\xff"
    maybe: Optional[int] = None
    maybe_inner: Optional[Inner] = None
    either: Union[int, str] = "12"
    either_number: Union[int, float] = 1
    by_mode: Dict[Mode, float] = field(default_factory=lambda: {Mode.train: 0.1, Mode.test: 1e-9})
    by_number: Dict[int, str] = field(default_factory=lambda: {1: "one", 2: "two"})
    by_flag: Dict[bool, str] = field(default_factory=lambda: {True: "yes"})
    inners: List[Inner] = field(default_factory=lambda: [Inner(1), Wider(width=float("inf"))])
    any_inner: Any = field(default_factory=Inner)
    any_shape: Any = field(default_factory=kinds.Shape)
    any_mode: Any = Mode.train
    any_path: Any = Path("/any")
    any_bytes: Any = b"any"
    followed: Mode = "${mode}"
    followed_path: Path = "${path}"
    followed_size: Tuple[int, int] = "${size}"
    followed_inner: Any = "${any_inner}"
    not_a_number: float = float("nan")
    large: int = 10**30
    text: str = "ünïcödé ☃ 'quoted' \"twice\"\n second line: yes"
    number_in_text: str = "010"
    absent: int = MISSING
    absent_inner: Inner = MISSING


ConfigStore.instance().store(name="config", node=Config)


@hydra.main(version_base="1.3", config_path=None, config_name="config")
def main(cfg):
    obj = OmegaConf.to_object(cfg.shape)
    dump(
        cfg,
        same={
            "mode": cfg.mode is Mode.test,
            "color": cfg.color is kinds.Color.RED,
            "flavour": cfg.flavour is kinds.Flavour.SWEET,
            "followed": cfg.followed is cfg.mode,
            "by_mode": cfg.by_mode[Mode.train],
            "any_mode": cfg.any_mode is Mode.train,
            "shape": type(obj) is kinds.Shape,
            "inner": isinstance(OmegaConf.to_object(cfg.any_inner), Inner),
            "wider": isinstance(OmegaConf.to_object(cfg.inner), Wider),
            "class": OmegaConf.get_type(cfg) is Config,
            "missing": sorted(OmegaConf.missing_keys(cfg)),
        },
        object=repr(obj),
    )
    for bad in ("mode=nothing", "size=1", "inner.depth=deep", "nothing=1"):
        try:
            cfg.merge_with_dotlist([bad])
        except Exception as error:
            log.info("%s: %s", bad, type(error).__name__)
    return cfg.inner.depth


if __name__ == "__main__":
    main()
