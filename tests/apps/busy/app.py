"""Uses what it is told to: CPUs, memory, processes, and a file, for a while."""

import subprocess
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    held = bytearray(cfg.mb * 2**20)
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(cfg.processes)]
    Path(HydraConfig.get().runtime.output_dir, "out.bin").write_bytes(held[: 2**20])
    end = time.monotonic() + cfg.seconds
    while time.monotonic() < end:
        if not cfg.burn:
            time.sleep(0.05)
    for child in children:
        child.kill()
        child.wait()
    return len(held)


if __name__ == "__main__":
    main()
