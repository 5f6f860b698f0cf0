"""Prints what is in a file that is no part of the commit."""

from pathlib import Path

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    print(f"read {Path(cfg.file).read_text()}")


if __name__ == "__main__":
    main()
