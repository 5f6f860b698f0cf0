"""Tells what is in its folder."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig


def commit():
    if shutil.which("git") is None or not Path(".git").exists():
        return None
    asked = ("git", "-c", "safe.directory=*", "rev-parse", "HEAD")
    return subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    files = {str(path) for path in Path().rglob("*") if path.is_file()}
    skipped = (".git/", "multirun/", "lib/.git", "__pycache__")
    answers = {
        "files": sorted(name for name in files if not name.startswith(skipped)),
        "executable": os.access("tools/run.sh", os.X_OK),
        "number": int(Path("lib/lib.py").read_text().split()[-1]),
        "commit": commit(),
        "uid": os.getuid(),
    }
    if Path("large").exists():
        answers["large"] = Path("large").read_text()
    if cfg.get("wait"):
        print("waiting", flush=True)
        time.sleep(60)
    Path(HydraConfig.get().runtime.output_dir, "answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
