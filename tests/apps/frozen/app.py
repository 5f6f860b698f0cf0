"""A trial that writes down what it is made of; the first one waits until it is told to go on."""

import json
import os
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

VERSION = 1


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    folder = Path(HydraConfig.get().runtime.output_dir)
    if HydraConfig.get().job.num == 0:
        print("waiting", flush=True)
        deadline = time.monotonic() + 60
        while not (folder / "go").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
    import late

    made_of = {
        "app": VERSION,
        "late": late.VERSION,
        "text": "edited" if "VERSION = " + "2" in Path(__file__).read_text() else "as committed",
        "config": {**OmegaConf.to_container(cfg), "x": None},
        "token": os.environ.get("TOKEN"),
    }
    (folder / "answers.json").write_text(json.dumps(made_of))
    return (cfg.x - 2) ** 2


if __name__ == "__main__":
    main()
