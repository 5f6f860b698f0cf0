"""The smallest app."""

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    print(f"hello {cfg.name}")
    return len(cfg.name)


if __name__ == "__main__":
    main()
