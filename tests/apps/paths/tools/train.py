"""Writes down where it is: the same in a container as with Hydra's basic launcher on the host."""

import json
import os
import sys
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd, to_absolute_path
from omegaconf import OmegaConf

try:
    import helper  # beside the script
except ImportError:
    from tools import helper  # python -m tools.train


class Kind(Enum):
    small = 1
    large = 2


@dataclass
class Config:
    folder: Path = Path("/nowhere")
    name: str = "?"
    kind: Kind = Kind.small


ConfigStore.instance().store(name="schema", node=Config)
print("before the guard")


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg):
    print("task")
    hydra_config = HydraConfig.get()
    output_dir = hydra_config.runtime.output_dir
    root = Path(__file__).parents[1]
    answers = {
        "cwd": os.getcwd(),
        "original_cwd": get_original_cwd(),
        "absolute_path": to_absolute_path("data/table.csv"),
        "file": os.path.normpath(__file__),
        "helper": helper.__file__,
        "name": __name__,
        "argv": sys.argv[0],
        "path": sys.path[0],
        "output_dir": output_dir,
        "mode": hydra_config.mode.name,
        "job": [hydra_config.job.name, hydra_config.job.num, hydra_config.job.id],
        "overrides": list(hydra_config.overrides.task),
        "sweep": [hydra_config.sweep.dir, hydra_config.sweep.subdir],
        "runtime": [hydra_config.runtime.cwd, hydra_config.runtime.choices["hydra/output"]],
        "types": [OmegaConf.get_type(cfg).__qualname__, repr(cfg.folder), repr(cfg.kind)],
    }
    seen = [path for path in root.rglob("*") if path.is_file()]
    own = {".git", "multirun", "__pycache__"}
    names = [str(path.relative_to(root)) for path in seen if not own & set(path.parts)]
    Path(output_dir, "answers.json").write_text(json.dumps(answers))
    Path(output_dir, "files.json").write_text(json.dumps(sorted(names)))
    if os.path.exists("/hydra/config.yaml"):
        inspect_config(output_dir)


def inspect_config(output_dir):
    import yaml

    config = Path("/hydra/config.yaml")
    try:
        config.write_text("changed")
        written = "ok"
    except OSError as error:
        written = os.strerror(error.errno)
    facts = {"content": yaml.safe_load(config.read_text()), "write": written}
    Path(output_dir, "config.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
    print("after the task")
    print("mlflow" in sys.modules and "mlflow was imported")
