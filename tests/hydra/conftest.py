"""A git repository to start from, and an image with this environment's Hydra."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_repository import commit


@pytest.fixture(autouse=True)
def repository(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a git repository: a task function that is in no script belongs to it."""
    root = tmp_path_factory.mktemp("repository")
    commit(root)
    monkeypatch.chdir(root)
    return root
