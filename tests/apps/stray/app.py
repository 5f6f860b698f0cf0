"""Leaves files in its container, as ``case`` says."""

import os
import tempfile
from pathlib import Path

import helper  # noqa: F401
import hydra
from hydra.core.hydra_config import HydraConfig

HUGE = 2**40


def leave_what_does_not_count(output):
    """In the output folder, a volume, a tmpfs, caches; a file that is gone again; no files."""
    places = ("/data", "/scratch", "/tmp", Path.home() / ".cache/torch", output)
    for place in map(Path, places):
        place.mkdir(parents=True, exist_ok=True)
        (place / "file").write_text("x")
    Path("empty").mkdir()
    Path("link").symlink_to("/etc/passwd")
    tempfile.TemporaryFile(dir=".").close()


def leave_files(case):
    Path("model.pt").write_text(f"weights of {case}")
    (Path.home() / "notes.txt").write_text("notes")


def plant_links(output, elsewhere):
    (output / "stray").symlink_to(elsewhere)


def leave_tricks():
    Path("runs/deep").mkdir(parents=True)
    Path("runs/1").write_text("one")
    os.link("runs/1", "runs/deep/2")
    Path("runs/passwd").symlink_to("/etc/passwd")
    os.mkfifo("runs/pipe")
    Path("runs/setuid").write_text("#!/bin/sh\n")
    Path("runs/setuid").chmod(0o6755)
    Path("runs/a\nb\x1b[2J").write_text("escapes")
    Path(os.fsdecode(b"runs/caf\xe9")).write_text("no UTF-8")
    with open("runs/huge", "wb") as file:
        file.truncate(HUGE)
    Path("app.py").write_text("edited")


@hydra.main(version_base="1.3", config_path=".", config_name="config")
def main(cfg):
    output = Path(HydraConfig.get().runtime.output_dir)
    leave_what_does_not_count(output)
    if cfg.case != "clean":
        leave_files(cfg.case)
    if cfg.case == "planted":
        plant_links(output, cfg.elsewhere)
    if cfg.case == "hostile":
        leave_tricks()
    if cfg.case == "failing":
        raise ValueError("loss is nan")
    return cfg.case


if __name__ == "__main__":
    main()
