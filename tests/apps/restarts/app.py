"""Notes every attempt in its output folder; then returns at once, or fails, as ``how`` says."""

import os
import signal
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
    if cfg.how == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if cfg.how == "use_memory":
        held = []
        while True:
            held.append(b"x" * 2**24)
    returned.append(cfg.how)
    return number


if __name__ == "__main__":
    main()
    if returned == ["die"]:
        os._exit(7)
