"""DVC: compares data on disk with what a commit pins. The only module that imports ``dvc``.

It is an extra. DVC's own code hashes, so its rules hold (line ends, ``.dvcignore``), and so does
its memory of hashes by inode, size and time: what ``dvc add`` or ``dvc pull`` has hashed is not
read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ._dvc_files import HASHES_OF_FILES, Tracked, below, folder_digest
from ._errors import DataError

INSTALL = "pip install 'hydra-docker-launcher[dvc]'"


@dataclass(frozen=True, slots=True)
class Found:
    """What is on disk: its hash as DVC computes it, and what differs from the pinned listing.

    ``digest`` None: nothing is there. ``unlisted``: it differs, but DVC's cache does not have the
    list of files that would say where.
    """

    digest: str | None
    changed: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    additional: tuple[str, ...] = ()
    unlisted: bool = False

    @property
    def matches(self) -> bool:
        differs = self.digest is None or self.unlisted
        return not (differs or self.changed or self.missing or self.additional)


class Disk:
    """What is on disk, as DVC sees it. It keeps DVC's repositories open until it is closed."""

    def __init__(self) -> None:
        self._open = ExitStack()
        self._repositories: dict[str, Any] = {}

    def close(self) -> None:
        """Close DVC's repositories; they are opened again where more is compared."""
        self._repositories.clear()
        self._open.close()

    def compare(self, tracked: Tracked, part: PurePosixPath | None) -> Found:
        """Compare a tracked output, or one ``part`` of a tracked folder, with what is on disk.

        Raises ``DataError`` where DVC cannot do it.
        """
        if tracked.hash not in HASHES_OF_FILES:
            raise DataError(f"{tracked.file} pins it by {tracked.hash}, which only its cloud knows")
        try:
            from dvc.repo import Repo
        except ImportError as error:
            raise DataError(f"DVC is not installed here: {INSTALL}") from error
        # DVC lets errors of its file systems and databases through, and knows no common root.
        try:
            return _compare(self._repository(Repo, tracked.path), tracked, part)
        except Exception as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise DataError(f"DVC cannot check it: {reason[0]}") from error

    def _repository(self, repo: Any, path: Path) -> Any:
        folder = next(parent for parent in path.parents if parent.is_dir())
        root = repo.find_root(str(folder))
        if root not in self._repositories:
            self._repositories[root] = self._open.enter_context(repo(root))
        return self._repositories[root]


def _compare(repository: Any, tracked: Tracked, part: PurePosixPath | None) -> Found:
    pinned = _listing(repository, tracked)
    if part is not None and pinned is None:
        part = None  # which files of the folder are in the part is not known: all of them, then
    place = tracked.path if part is None else tracked.path / part
    hashes = _hashes(repository, tracked.hash, place)
    if hashes is None:
        return Found(None)
    digest = hashes if isinstance(hashes, str) else folder_digest(hashes)
    if part is None and digest == tracked.digest:
        return Found(digest)
    if pinned is None:
        return Found(digest, unlisted=True)
    if isinstance(hashes, str):
        found = {str(part or "."): hashes}
    else:
        prefix = "" if part is None else f"{part}/"
        found = {f"{prefix}{path}": value for path, value in hashes.items()}
    if part is not None:
        pinned = {path: value for path, value in pinned.items() if below(path, part)}
    return Found(
        digest,
        changed=tuple(
            sorted(path for path in pinned.keys() & found.keys() if found[path] != pinned[path])
        ),
        missing=tuple(sorted(pinned.keys() - found.keys())),
        additional=tuple(sorted(found.keys() - pinned.keys())),
    )


def _listing(repository: Any, tracked: Tracked) -> Mapping[str, str] | None:
    """Return the hashes of a pinned folder's files: from the DVC file, else from DVC's cache."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.tree import Tree

    if tracked.listing is not None:
        return dict(tracked.listing)
    if not tracked.is_folder:
        return None
    cache = _cache(repository, tracked.hash)
    try:
        tree = Tree.load(cache, HashInfo(tracked.hash, tracked.digest))
    except FileNotFoundError:
        return None
    return _by_path(tree)


def _hashes(repository: Any, kind: str, place: Path) -> Mapping[str, str] | str | None:
    """Hash what is on disk: a folder's files by their paths, or a file; None: nothing is there."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.tree import Tree

    if not place.exists():
        return None
    cache = _cache(repository, kind)
    _, _, built = build(
        cache, str(place), repository.fs, kind, dry_run=True, ignore=repository.dvcignore
    )
    return _by_path(built) if isinstance(built, Tree) else str(built.hash_info.value)


def _cache(repository: Any, kind: str) -> Any:
    return repository.cache.local if kind == "md5" else repository.cache.legacy


def _by_path(tree: Any) -> dict[str, str]:
    return {"/".join(key): str(hash_info.value) for key, _, hash_info in tree}
