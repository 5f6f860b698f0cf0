"""Real git repositories, written by the git command, and what is pinned and exported of them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher._source import Source, export, pin

COMMIT_TIME = 1_700_000_000


class GitRepository:
    """A real repository, written by the git command."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def git(self, *arguments: str) -> str:
        command = ("git", "-c", "protocol.file.allow=always", *arguments)
        done = subprocess.run(command, cwd=self.root, check=True, capture_output=True)
        return os.fsdecode(done.stdout).rstrip("\n")

    def write(self, path: str, text: str = "") -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def commit(self, **texts: str) -> str:
        """Commit all that is in the folder, and files by keyword, with ``__`` for the dot."""
        for name, text in texts.items():
            self.write(name.replace("__", "."), text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "a commit")
        return self.git("rev-parse", "HEAD")

    def add_submodule(self, other: GitRepository, path: str) -> None:
        self.git("submodule", "--quiet", "add", str(other.root), path)


def init(root: Path) -> GitRepository:
    root.mkdir(parents=True)
    repository = GitRepository(root)
    repository.git("init", "--quiet")
    return repository


def pin_at(
    location: Path,
    revision: str = "HEAD",
    dirty: str = "error",
    snapshot_limit: int = 10 * 1024**2,
    config_dirs: tuple[Path, ...] = (),
    own_paths: tuple[Path, ...] = (),
) -> Source:
    return pin(
        location,
        revision=revision,
        dirty=dirty,
        snapshot_limit=snapshot_limit,
        config_dirs=config_dirs,
        own_paths=own_paths,
    )


def content(folder: Path) -> dict[str, bytes | str]:
    """Every file below a folder with its bytes, every link with its target."""
    found: dict[str, bytes | str] = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink())
        elif path.is_file():
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def exported(source: Source, destination: Path, folder: str = "") -> dict[str, bytes | str]:
    destination.mkdir()
    export(source, destination, folder)
    return content(destination)


def everything(root: Path) -> dict[Path, tuple[int, int, bytes]]:
    """All files below a folder, .git included: mode, time of change and bytes."""
    return {
        path: (path.stat().st_mode, path.stat().st_mtime_ns, path.read_bytes())
        for path in root.rglob("*")
        if path.is_file()
    }


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let git know no settings but these, and let Ada commit at ``COMMIT_TIME``."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "gitconfig"
    config.write_text("[init]\n\tdefaultBranch = main\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
        monkeypatch.setenv(f"GIT_{role}_DATE", f"{COMMIT_TIME} +0100")
