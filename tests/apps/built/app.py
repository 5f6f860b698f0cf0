"""Returns what its image has set."""

import os

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    print(f"mark {os.environ['MARK']}")


if __name__ == "__main__":
    main()
