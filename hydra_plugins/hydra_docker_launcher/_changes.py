"""Changes: what a working tree has beyond its commit, and which of it would change the code."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ._paths import DATABASE, LEDGER, NOTED_FILES, STORE_FOLDER

INSIDE_SUBMODULE = "changed inside"
UNTRACKED = "untracked"

_LISTED = 20  # how many changes a message names
_SUBMODULE_FIELD = 2
_PATH_FIELD = {"1": 8, "2": 9, "u": 10}  # by kind of record: how many fields stand before the path
_KIND_BY_LETTER = {"R": "renamed", "D": "deleted", "A": "added"}  # the first that occurs


@dataclass(frozen=True, slots=True)
class Change:
    """One difference between a commit and the working tree.

    ``path`` and ``before`` (the old path of what was renamed) are relative to the repository's
    root; ``submodule`` is the path of the submodule that the change lies in.
    """

    path: str
    kind: str
    before: str | None = None
    submodule: str | None = None

    def inside(self, submodule: str) -> Change:
        """Return the same change, seen from the repository that has ``submodule``."""
        return replace(
            self,
            path=f"{submodule}/{self.path}",
            before=None if self.before is None else f"{submodule}/{self.before}",
            submodule=submodule if self.submodule is None else f"{submodule}/{self.submodule}",
        )

    def __str__(self) -> str:
        """Say in one line what changed, whatever characters its name has."""
        before = "" if self.before is None else f"{printable(self.before)} -> "
        where = "" if self.submodule is None else f" (inside submodule {printable(self.submodule)})"
        return f"{self.kind}: {before}{printable(self.path)}{where}"


def printable(path: str) -> str:
    """Return ``path`` as it can be shown: quoted where it has newlines or undecodable bytes."""
    return path if path.isprintable() else repr(path)


def listing(changes: tuple[Change, ...]) -> str:
    """Return the first changes, one a line, and how many more there are."""
    lines = [f"  {change}" for change in changes[:_LISTED]]
    if len(changes) > _LISTED:
        lines.append(f"  and {len(changes) - _LISTED} more")
    return "\n".join(lines)


def parse(status: str) -> Iterator[Change]:
    """Read what ``git status --porcelain=v2 -z`` prints.

    A submodule comes as a change of kind ``submodule`` when another commit is checked out in it,
    and as one of kind ``INSIDE_SUBMODULE`` when its own working tree is not clean. The format is
    in git-status(1), "Porcelain Format Version 2".
    """
    records = iter(status.split("\0"))
    for record in records:
        letter = record[:1]
        if letter == "?":
            yield Change(record[2:], UNTRACKED)
        elif letter in _PATH_FIELD:
            *fields, path = record.split(" ", _PATH_FIELD[letter])
            before = next(records) if letter == "2" else None
            yield from _tracked(fields, path, before)


def _tracked(fields: list[str], path: str, before: str | None) -> Iterator[Change]:
    record, letters, submodule = fields[: _SUBMODULE_FIELD + 1]
    kind = next((kind for letter, kind in _KIND_BY_LETTER.items() if letter in letters), "modified")
    if record == "u":
        yield Change(path, "unmerged")
    elif submodule.startswith("S"):
        if "C" in submodule or letters != ".M":
            yield Change(path, "submodule", before)
        if "M" in submodule or "U" in submodule:
            yield Change(path, INSIDE_SUBMODULE)
    else:
        yield Change(path, kind, before)


def counted(
    changes: Iterable[Change],
    root: Path,
    *,
    config_dirs: tuple[Path, ...],
    own_paths: tuple[Path, ...],
) -> tuple[Change, ...]:
    """Return those of ``changes`` that would change the code.

    The others are YAML files below Hydra's config sources (the resolved config of a job records
    them), and what is ``written_by_runs``.
    """
    configs = _places(config_dirs)
    written = written_by_runs(root, own_paths)

    def counts(path: str, kind: str) -> bool:
        file = root / path
        if file.suffix.lower() in {".yaml", ".yml"} and _is_at_or_below(file, configs):
            return False
        return not written(path, kind)

    return tuple(
        change
        for change in changes
        if counts(change.path, change.kind)
        or (change.before is not None and counts(change.before, change.kind))
    )


def written_by_runs(root: Path, own_paths: tuple[Path, ...]) -> Callable[[str, str], bool]:
    """Return the test, by path and kind of a change, for what running the code writes.

    That is: what the sweep itself writes (``own_paths``), untracked files in output folders that
    Hydra made and in the default store of earlier sweeps, and bytecode. An own path that has the
    whole repository in it exempts nothing.
    """
    own = tuple(place for place in _places(own_paths) if not root.is_relative_to(place))
    made_by_a_run = cache(_made_by_a_run)

    def written(path: str, kind: str) -> bool:
        file = root / path
        if "__pycache__" in file.relative_to(root).parts:
            return True
        if kind == UNTRACKED and _has_parent(file, root, made_by_a_run):
            return True
        return _is_at_or_below(file, own)

    return written


def _places(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the real place of each path and, for a link, also where the link itself lies."""
    return tuple(
        place for path in paths for place in (path.parent.resolve() / path.name, path.resolve())
    )


def _is_at_or_below(file: Path, places: tuple[Path, ...]) -> bool:
    return any(file.is_relative_to(place) for place in places)


def _has_parent(file: Path, root: Path, condition: Callable[[Path], bool]) -> bool:
    """Whether ``condition`` holds for ``file`` or a folder above it, strictly below ``root``."""
    parents = (file, *file.parents)
    return any(condition(folder) for folder in parents[: parents.index(root)])


def _made_by_a_run(path: Path) -> bool:
    """Whether Hydra made this output folder, or an earlier sweep this tracking store.

    So are the files that ``hydra-docker note`` has written.
    """
    # Optuna's sweeper writes no multirun.yaml.
    swept = any((path / name).is_file() for name in ("multirun.yaml", LEDGER))
    hydra = swept or (path / ".hydra").is_dir()
    store = path.name == STORE_FOLDER and (path / DATABASE).is_file()
    link = path.is_symlink() and path.readlink() == Path(STORE_FOLDER, DATABASE)
    return hydra or store or link or NOTED_FILES.fullmatch(path.name) is not None
