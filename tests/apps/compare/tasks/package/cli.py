"""The entry point of a console script."""

import hydra
from dump import dump

from package.part import scale


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg):
    dump(cfg, name=__name__, file=__file__)
    return scale(cfg.lr)
