"""Stray rules: which of the paths that a job has left in its container count. Pure.

Regular files count, added or changed, but not

- below the mounts of the container, and what is the launcher's own (/hydra),
- in folders of the system, and those that are for what nobody keeps (``SYSTEM``),
- hidden ones of a home folder (~/.cache, ~/.config, ~/.netrc),
- what Python and its tools keep to be faster, by name (``CACHES``, ``*.pyc``),
- with ``delivery=clone``, what the clone has brought (also where the job has changed it).

The launch folder and the repository may themselves be in such a folder (/tmp/try): what is below
them counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from . import _paths
from ._engine import Change, ContainerSpec

#: Folders in which nobody keeps results. A GPU's runtime puts its libraries into them as well.
SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/run"),
    *("/sbin", "/sys", "/tmp"),  # noqa: S108  (only named)
    *("/usr/bin", "/usr/include", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libexec"),
    *("/usr/libx32", "/usr/local", "/usr/sbin", "/usr/share"),
    *("/var/cache", "/var/lib", "/var/lock", "/var/log", "/var/run", "/var/spool"),
    "/var/tmp",  # noqa: S108
)
#: Parts of a path.
CACHES = frozenset(
    {
        "__pycache__",
        ".ipynb_checkpoints",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        "dist-packages",
        "site-packages",
    }
)


@dataclass(frozen=True, slots=True)
class Policy:
    """What to do about stray files: ``mode`` is warn, collect, ignore or error.

    ``limit``: bytes that are collected of one job. ``root`` is the repository's path in the
    container; ``cloned``: the container has cloned it.
    """

    mode: str = "ignore"
    limit: int = 1024**3
    root: str | None = None
    cloned: bool = False


IGNORE = Policy()


class Rules:
    """What does not count in a container.

    ``root`` is the repository's path there. Where it is a clone (``is_clone``), ``cloned`` are the
    names of what it has brought, None where they are not known.
    """

    def __init__(
        self,
        spec: ContainerSpec,
        root: str | None,
        *,
        is_clone: bool = False,
        cloned: frozenset[str] | None = None,
    ) -> None:
        tmpfs = (path for path, _ in spec.boundary.tmpfs)
        self._mounts = tuple({*(mount.target for mount in spec.mounts), *tmpfs})
        self._own = tuple(filter(None, (spec.working_dir, root)))
        self._homes = ("/", "/root", str(_paths.HOME), dict(spec.environment).get("HOME", "/"))
        self._clone = root if is_clone else None
        self._cloned = cloned

    def leave_out(self, path: str) -> bool:
        parts = PurePosixPath(path).parts
        if any(_is_in(path, mount) for mount in self._mounts):
            return True
        if _is_in(path, str(_paths.CONTAINER)) and not _is_in(path, str(_paths.HOME)):
            return True
        if path.endswith(".pyc") or not CACHES.isdisjoint(parts):
            return True
        if self._clone is not None and _is_in(path, self._clone):
            return self._is_of_clone(str(PurePosixPath(path).relative_to(self._clone)))
        folder = self._passing_folder(path, parts)
        return folder is not None and not any(
            _is_in(own, folder) and _is_in(path, own) for own in self._own
        )

    def _is_of_clone(self, name: str) -> bool:
        return self._cloned is None or name in self._cloned or ".git" in name.split("/")

    def _passing_folder(self, path: str, parts: Sequence[str]) -> str | None:
        """Return the folder (or the file) for what nobody keeps that ``path`` is in."""
        for folder in SYSTEM:
            if _is_in(path, folder):
                return folder
        homes = [*self._homes, *(["/".join(("", *parts[1:3]))] if parts[1:2] == ("home",) else [])]
        for home in homes:
            if not _is_in(path, home):
                continue
            first = parts[len(PurePosixPath(home).parts) :][:1]
            if first and first[0].startswith("."):
                return str(PurePosixPath(home, first[0]))
        return None


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def in_words_of_diff(path: str) -> str:
    """Return a path as the diff has it: with a U+FFFD for each byte that is no UTF-8."""
    return re.sub("[\udc80-\udcff]", "\ufffd", path)


def leaves(changes: Iterable[Change]) -> list[str]:
    """Return what is there and has nothing below it that has changed, sorted."""
    parents = {str(PurePosixPath(change.path).parent) for change in changes}
    present = {change.path for change in changes if change.kind != "deleted"}
    return sorted(present - parents)


def tops(
    changes: Iterable[Change], counting: Iterable[str], others: Iterable[str]
) -> dict[str, list[str]]:
    """Return what to ask for: paths, with those of ``counting`` that are in them.

    A folder that is new and in which all counts is asked for as a whole.
    """
    mixed = {parent for path in others for parent in PurePosixPath(path).parents}
    whole = {PurePosixPath(change.path) for change in changes if change.kind == "added"}
    whole -= mixed | {PurePosixPath("/")}
    found: dict[str, list[str]] = {}
    for path in counting:
        top = PurePosixPath(path)
        while top.parent in whole:
            top = top.parent
        found.setdefault(str(top), []).append(path)
    return found
