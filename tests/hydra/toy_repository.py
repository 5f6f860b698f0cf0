"""Make a git repository of a folder."""

from __future__ import annotations

import subprocess
from pathlib import Path


def commit(folder: Path) -> None:
    """Make a repository of a folder, with all its files in one commit."""
    identity = ("-c", "user.name=Test", "-c", "user.email=test@example.org")
    for command in (
        ("init", "--quiet"),
        ("add", "--all"),
        (*identity, "commit", "--quiet", "--allow-empty", "--message", "All of it"),
    ):
        subprocess.run(["git", *command], cwd=folder, check=True)
