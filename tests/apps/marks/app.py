"""Leaves a mark outside its container when it begins and when it has done its work."""

import os
import time
import uuid
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

STEP_S = 0.05
PATIENCE_S = 300


def append(path, text):
    """Append in one write, which no other process can tear apart."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        os.write(handle, f"{text}\n".encode())
    finally:
        os.close(handle)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    token = uuid.uuid4().hex
    marks = Path(cfg.ran, str(cfg.number))
    progress = Path(HydraConfig.get().runtime.output_dir, "progress")
    append(marks, f"begin {token}")
    print(f"begin {token}", flush=True)
    begun = time.monotonic()
    for step in range(int(PATIENCE_S / STEP_S)):
        append(progress, f"{token} {step}")
        if cfg.chatty:
            print(f"step {step}", flush=True)
        if time.monotonic() - begun >= cfg.seconds and (not cfg.gate or Path(cfg.gate).exists()):
            break
        time.sleep(min(STEP_S, cfg.seconds))
    print(f"end {token}", flush=True)
    append(marks, f"end {token}")
    return {"number": cfg.number, "token": token}


if __name__ == "__main__":
    main()
