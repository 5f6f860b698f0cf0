"""Waits until it is told to go on, then looks at its own code and imports some more of it."""

import os
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig

VERSION = 1


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    print("waiting", flush=True)
    go = Path(HydraConfig.get().runtime.output_dir, "go")
    deadline = time.monotonic() + 60
    while not go.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    import late

    here = "edited" if "VERSION = " + "2" in Path(__file__).read_text() else "as committed"
    print(f"app {VERSION}, late {late.VERSION}, script {here}, image {os.environ.get('MOVED')}")


if __name__ == "__main__":
    main()
