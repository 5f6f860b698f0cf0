"""Notes every attempt in its output folder; fails at the first one, or returns at once."""

import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


returned = []


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    attempts = Path(HydraConfig.get().runtime.output_dir, "attempts")
    number = len(attempts.read_text()) + 1 if attempts.exists() else 1
    attempts.write_text("x" * number)
    print(f"attempt {number}", flush=True)
    if cfg.how == "raise":
        raise ValueError("no luck")
    if cfg.how == "exit":
        sys.exit(4)
    if cfg.how == "fail_once" and number == 1:
        os._exit(1)
    returned.append(cfg.how)
    return number


if __name__ == "__main__":
    main()
    if returned == ["die"]:
        os._exit(7)
