"""What the tests share. The fakes at the two seams are in ``fakes.py`` beside this file."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra import version
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from hydra.version import VersionBase
from omegaconf import DictConfig

COMMIT_TIME = 1_700_000_000


# Where the tests run in the background (`&`, nohup), Ctrl-C is ignored; those of it need it.
signal.signal(signal.SIGINT, signal.default_int_handler)


#: As it is in a process that has not called ``hydra.main``.
NO_VERSION_BASE = VersionBase.instance().getbase()


@pytest.fixture(autouse=True)
def _own_version_base() -> Iterator[None]:
    """Which Hydra a test plays stays with it: there is one value per process."""
    VersionBase.instance().version_base = NO_VERSION_BASE
    yield
    VersionBase.instance().version_base = NO_VERSION_BASE


@pytest.fixture
def plain_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the machine that the tests run on; commits of the same time by Ada."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    for role in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{role}_NAME", "Ada")
        monkeypatch.setenv(f"GIT_{role}_EMAIL", "ada@example.org")
        monkeypatch.setenv(f"GIT_{role}_DATE", f"{COMMIT_TIME} +0000")


@pytest.fixture
def commit_files(plain_git: None, tmp_path: Path) -> Callable[..., str]:
    """Write files (by path) into the repository ``tmp_path/project``, commit, return the id."""
    root = tmp_path / "project"

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(root), *arguments)
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(files: dict[str, str]) -> str:
        if not (root / ".git").exists():
            root.mkdir(exist_ok=True)
            git("init", "--quiet", "--initial-branch=main")
        for name, text in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        git("add", "--all")
        git("commit", "--quiet", "--allow-empty", "--message=a commit")
        return git("rev-parse", "HEAD")

    return commit


@pytest.fixture(scope="session")
def _plugins() -> None:
    """Let plugins register their configs before a test notes what to restore after it."""
    Plugins.instance()


@pytest.fixture
def multirun(
    _plugins: None, hydra_restore_singletons: None
) -> Iterator[Callable[..., tuple[HydraContext, DictConfig]]]:
    """Compose a multirun's config as Hydra does before it calls a launcher.

    Takes the config folder and overrides; gives what ``Launcher.setup`` gets.
    """

    def start(
        folder: Path, *overrides: str, name: str = "config"
    ) -> tuple[HydraContext, DictConfig]:
        GlobalHydra.instance().clear()
        version.setbase("1.3")
        hydra = Hydra.create_main_hydra2("app", create_config_search_path(f"file://{folder}"))
        config = hydra.compose_config(
            config_name=name,
            overrides=["hydra.mode=MULTIRUN", *overrides],
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )
        return HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(config)), config

    yield start
    GlobalHydra.instance().clear()
