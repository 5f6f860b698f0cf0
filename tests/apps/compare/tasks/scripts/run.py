"""A script beside src/, which PYTHONPATH names."""

import os

import hydra
import library
import local
from dump import dump


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg):
    dump(cfg, library=library.WHERE, local=local.__file__, cwd=os.listdir())
    return cfg.lr


if __name__ == "__main__":
    main()
