"""A module of an installed package; its function is the entry point of a console script."""

import json
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

from trainer import model


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    answers = {
        "name": __name__,
        "package": __package__,
        "file": __file__,
        "cwd": os.getcwd(),
        "argv": sys.argv[0],
        "job": HydraConfig.get().job.name,
        "value": cfg.lr * model.FACTOR,
    }
    Path(HydraConfig.get().runtime.output_dir, "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
