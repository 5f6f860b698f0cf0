"""Does not complete at its first attempt; what helps it, ``how`` says."""

import os
import signal
import sys
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

WAIT_S = 60
MIB = 1024**2


def stop_with_checkpoint(folder):
    """Go on from the checkpoint; without one, work until SIGTERM, and then write it."""
    checkpoint = Path(folder, "checkpoint")
    if checkpoint.exists():
        return checkpoint.read_text()

    def save(*_):
        checkpoint.write_text("half of the work")
        print("saved", flush=True)
        sys.exit(1)

    signal.signal(signal.SIGTERM, save)
    print("working", flush=True)
    time.sleep(WAIT_S)
    return "all of the work"


def need_memory(_folder):
    held = b"x" * (100 * MIB)
    return len(held)


def always_raise(_folder):
    raise ValueError("no luck")


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    print("this is attempt", os.environ["HYDRA_DOCKER_ATTEMPT"], flush=True)
    return globals()[cfg.how](HydraConfig.get().runtime.output_dir)


if __name__ == "__main__":
    main()
