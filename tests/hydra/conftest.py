"""A git repository to start from, and an image with this environment's Hydra."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_repository import commit

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have no coverage measured here: it would take longer than the tests, most of it of Hydra."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.no_cover)


@pytest.fixture(autouse=True)
def repository(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in a git repository: a task function that is in no script belongs to it."""
    root = tmp_path_factory.mktemp("repository")
    commit(root)
    monkeypatch.chdir(root)
    return root
