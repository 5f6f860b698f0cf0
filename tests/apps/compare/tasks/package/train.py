"""A module of a package, started with python -m."""

import hydra
from dump import dump

from . import part
from .part import scale


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg):
    dump(cfg, name=__name__, package=__package__, file=__file__, part=part.__name__)
    return scale(cfg.lr)


if __name__ == "__main__":
    main()
