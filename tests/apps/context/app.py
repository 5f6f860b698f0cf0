"""Prints what its image holds below /context."""

from pathlib import Path

import hydra


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    folder = Path("/context")
    for path in sorted(folder.rglob("*")):
        kind = "folder" if path.is_dir() and not path.is_symlink() else "file"
        print(f"{kind} {path.relative_to(folder)}")


if __name__ == "__main__":
    main()
