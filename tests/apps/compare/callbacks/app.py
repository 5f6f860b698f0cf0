"""Its callbacks write down what they are called with."""

import hydra
from dump import dump


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    dump(cfg)
    if cfg.lr == 2:
        raise ValueError("lr is too large")
    return {"loss": cfg.lr / 2}


if __name__ == "__main__":
    main()
