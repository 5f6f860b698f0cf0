"""The same toy app under Hydra's basic launcher and under this one: a job sees the same.

Where it does not, the difference and its reason stand in ``DIFFERENCES``.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from side_by_side import App, Repository, Run, differences

#: Facts (as patterns) that may differ, with the reason. ``*:`` is any file.
DIFFERENCES = {
    "*": "?",
}


def compare(basic: Run, docker: Run) -> None:
    """Fail on any difference that is not in the list."""
    found = differences(basic, docker)
    new = {
        key: pair
        for key, pair in found.items()
        if not any(fnmatchcase(key, pattern) for pattern in DIFFERENCES)
    }
    lines = [f"{key}\n    basic:  {one}\n    docker: {two}" for key, (one, two) in new.items()]
    assert not new, "\n".join([*lines, docker.output])


@pytest.fixture
def make(tmp_path: Path):
    def made(app: App) -> Repository:
        return Repository(tmp_path / "repository", app)

    return made


def test_types(make) -> None:
    """Dataclasses, Enums, Paths, tuples, bytes, Optionals, Unions: the same types and identities."""
    compare(*make(App("types")).both("mode=train,test", "inner.depth=3"))
