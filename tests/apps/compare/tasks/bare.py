"""No guard, and a callable object as task function."""

import hydra
from dump import dump


class Trainer:
    def __call__(self, cfg):
        dump(cfg)
        return cfg.lr


hydra.main(version_base="1.3", config_path="conf", config_name="config")(Trainer())()
