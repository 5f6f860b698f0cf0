"""Its models bring their own limits."""

import hydra
from dump import dump


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    dump(cfg)
    return cfg.model.name


if __name__ == "__main__":
    main()
