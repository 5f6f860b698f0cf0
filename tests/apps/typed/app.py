"""A typed config, and answers that tell whether its types have survived."""

import json
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import List

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig


class Color(Enum):
    RED = 1
    BLUE = 2


@dataclass
class Config:
    how: str = "succeed"
    path: Path = Path("/data/x")
    color: Color = Color.BLUE
    size: List[int] = None

    def __post_init__(self):
        self.size = self.size or [2, 3]


ConfigStore.instance().store(name="typed", node=Config(size=[2, 3]))


@hydra.main(version_base=None, config_path=None, config_name="typed")
def main(cfg):
    if cfg.how == "fail":
        raise ValueError("as asked")
    answers = {
        "python": "%d.%d" % sys.version_info[:2],
        "path": str(cfg.path),
        "is_path": isinstance(cfg.path, Path),
        "is_color": cfg.color is Color.BLUE,
        "size": list(cfg.size),
    }
    Path(HydraConfig.get().runtime.output_dir, "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
