"""Past source: a repository of this host that has a past commit, fetched where none has it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from . import _remotes
from ._errors import ReproduceError, SourceError
from ._repository import Repository, own_environment
from ._source import Source, restore_snapshot


@own_environment()
def locate(
    source: Source,
    here: Sequence[Path],
    remote: str | None,
    cache: Path,
    patch: bytes | None = None,
) -> Source:
    """Return ``source`` with the place of a repository that has its commit.

    The folders ``here`` are looked at first, then ``remote`` (an address) is cloned, or its clone
    below ``cache`` brought up to date. Of a snapshot, its parent is looked for, and ``patch`` makes
    it again there. Raises ``ReproduceError`` where none has the commit.
    """
    if source.parent is not None and patch is not None:
        parent = replace(source, commit=source.parent, parent=None)
        found = locate(parent, here, remote, cache)
        return restore_snapshot(replace(source, clone=found.clone), patch)
    tried = []
    for folder in dict.fromkeys(here):
        repository = _repository(folder)
        if repository is None:
            continue
        if repository.has(source.commit):
            return replace(source, clone=repository.root)
        tried.append(str(repository.root))
    address = remote or source.remote_url
    if address is not None:
        clone = _fetched(address, source.commit, cache)
        if clone is not None:
            return replace(source, clone=clone)
        tried.append(address)
    raise ReproduceError(
        f"Commit {source.commit[:12]} of {source.root} is in none of: "
        f"{', '.join(tried) or 'no place was given'}.\nRun this in a clone that has it, or name "
        "one with --repository, or the address of one with --remote."
    )


def _repository(folder: Path) -> Repository | None:
    try:
        return Repository.containing(folder)
    except SourceError:
        return None


def _fetched(address: str, commit: str, cache: Path) -> Path | None:
    """Return a clone of ``address`` that has ``commit``; None where it does not have it."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    outside = Repository(cache)
    if not folder.exists():
        partial = folder.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        outside.run("clone", "--no-checkout", "--quiet", "--", address, str(partial))
        partial.rename(folder)
    try:
        _remotes.fetch(Repository(folder), commit, remote="origin", branch=None)
    except SourceError:
        return None
    return folder
