"""Logs at every level."""

import logging

import hydra

log = logging.getLogger("training")


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        log.log(level, "lr is %s", cfg.lr)
    return cfg.lr


if __name__ == "__main__":
    main()
