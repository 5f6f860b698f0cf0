"""Imports at the top what only the host has."""

import host_only
import hydra


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(cfg):
    return cfg.how


if __name__ == "__main__":
    main()
