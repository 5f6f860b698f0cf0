"""Notes each of its runs in its output folder; returns how many there were."""

import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    runs = Path(HydraConfig.get().runtime.output_dir, "runs.txt")
    with runs.open("a") as file:
        file.write("run\n")
    for number in range(10):
        print(f"line {number}", flush=True)
        time.sleep(0.2)
    return len(runs.read_text().splitlines())


if __name__ == "__main__":
    main()
