"""Past source: a snapshot is made again of its parent and its patch, wherever the parent is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from git_repository import GitRepository, exported, init, isolate, pin_at

from hydra_plugins.hydra_docker_launcher import _past_source
from hydra_plugins.hydra_docker_launcher._errors import ReproduceError
from hydra_plugins.hydra_docker_launcher._source import Source, patch


@pytest.fixture(autouse=True)
def _only_this_git_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    isolate(tmp_path, monkeypatch)


@pytest.fixture
def remote(tmp_path: Path) -> str:
    """The address of a bare repository, as a server has them."""
    root = tmp_path / "remote.git"
    root.mkdir()
    GitRepository(root).git("init", "--quiet", "--bare")
    return f"file://{root}"


@pytest.fixture
def source(tmp_path: Path, remote: str) -> Source:
    """A snapshot on a commit that was pushed."""
    repository = init(tmp_path / "project")
    repository.commit(train__py="print('hello')\n")
    repository.git("remote", "add", "origin", remote)
    repository.git("push", "--quiet", "origin", "main")
    repository.write("train.py", "print('edited')\n")
    repository.write("new.py", "x = 1\n")
    return pin_at(repository.root, dirty="snapshot")


def as_recorded(source: Source) -> Source:
    return replace(source, root=Path("/of/another/machine"), changed=())


def test_from_the_remote(source: Source, remote: str, tmp_path: Path) -> None:
    """With the remote and the patch alone, the very same commit comes out, with the same files."""
    past = as_recorded(source)
    text = patch(source)
    found = _past_source.locate(past, (), None, tmp_path / "cache", text)
    assert found == replace(past, clone=found.clone, changed=("new.py", "train.py"))
    assert found.clone.is_relative_to(tmp_path / "cache")
    assert exported(found, tmp_path / "out") == {
        "train.py": b"print('edited')\n",
        "new.py": b"x = 1\n",
    }
    assert patch(found) == text
    assert _past_source.locate(past, (), None, tmp_path / "cache", text) == found


def test_where_it_was_made(source: Source, tmp_path: Path) -> None:
    """In the repository of then the hidden ref has it: its files are as they were recorded."""
    found = _past_source.locate(as_recorded(source), (source.root,), None, tmp_path, patch(source))
    assert found == replace(source, root=found.root, clone=source.root)


def test_parent_that_was_never_pushed(source: Source, remote: str, tmp_path: Path) -> None:
    """Where nobody has the parent, that is the commit which is named."""
    past = replace(as_recorded(source), parent="1" * 40)
    with pytest.raises(ReproduceError) as caught:
        _past_source.locate(past, (), None, tmp_path / "cache", patch(source))
    assert str(caught.value).startswith(
        f"Commit 111111111111 of /of/another/machine is in none of: {remote}.\n"
    )
