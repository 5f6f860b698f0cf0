"""Is given a secret in every way there is, and tells that it has them, and what it has, by hashes.

It waits, prints them all, and returns or raises with one of them in the message.
"""

import hashlib
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig


@dataclass
class Signing:
    private_key: str = "canary-typed-0"
    rounds: int = 3


ConfigStore.instance().store(group="signing", name="typed", node=Signing)
VARIABLES = (
    "DB_TOKEN",
    "PLAIN_SETTING",
    "WANDB_API_KEY",
    "COPY",
    "SIGNING_SECRET",
    "LANG_OF_FILE",
    "GIVEN",
    "SHORT",
)


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    hydra_cfg = HydraConfig.get()
    seen = {
        "password": cfg.db.password,
        "passphrase": cfg.db.passphrase,
        "user_secret": cfg.db.user_secret,
        "nested": list(cfg.services[0].tokens),
        "store": cfg.store,
        "copied": cfg.copied,
        "pin": cfg.door.main_pin,
        "typed": cfg.signing.private_key,
        "note": cfg.get("note"),
        "override": [item for item in hydra_cfg.overrides.task if "passphrase" in item],
        "argv": [word for word in sys.argv if "passphrase" in word],
        **{name: os.environ.get(name) for name in VARIABLES},
    }
    mounted = Path("/hydra/config.yaml").read_text()
    answers = {
        "hashes": {name: digest(value) for name, value in seen.items()},
        "mounted": all(str(seen[name]) in mounted for name in ("password", "pin", "typed")),
        "modes": {path.name: path.stat().st_mode & 0o777 for path in Path("/hydra/secrets").iterdir()},
    }
    output = Path(hydra_cfg.runtime.output_dir)
    (output / "answers.json").write_text(json.dumps(answers))
    del seen["SHORT"]  # too short to be masked in a line of output
    print("all of it:", json.dumps(seen), seen["password"], seen["store"], flush=True)
    for _ in range(1200):
        if (output / "go").exists() or "GO" in os.environ:
            break
        time.sleep(0.1)
    if cfg.how == "raises":
        raise ValueError(f"cannot log in with {cfg.db.password} and {cfg.db.passphrase}")
    return {"said": f"logged in with {cfg.db.user_secret}", "lr": cfg.optimizer.lr}


def digest(value):
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


if __name__ == "__main__":
    main()
