"""Config sources: which commit, or which installed package, each source of configs belongs to.

A team may keep its configs in a repository or a package of its own (``hydra.searchpath``). What is
found here is written down, never refused: the resolved config of each job is what ran.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from omegaconf import DictConfig

from . import _remotes
from ._changes import parse
from ._errors import SourceError
from ._repository import Repository, own_environment, tree_path

SUFFIXES = (".yaml", ".yml")
#: Folders that hold what is installed, wherever they are.
_INSTALLED = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Checkout:
    """The git repository that a folder of configs is in.

    ``changes`` are the configs in that folder that differ from the commit, or that it does not
    have; paths are relative to ``root``.
    """

    root: Path
    remote: str | None
    commit: str
    changes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Distribution:
    """The installed package that configs came with; ``editable`` (``pip install -e``) or not."""

    name: str
    version: str
    editable: bool


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """One source of Hydra's search path, as Hydra names it.

    ``problem`` says why git does not tell a commit where there is a repository.
    """

    provider: str
    schema: str
    path: str
    checkout: Checkout | None = None
    distribution: Distribution | None = None
    problem: str | None = None


@own_environment()
def describe(config: DictConfig) -> tuple[ConfigSource, ...]:
    """Return the sources of a sweep's config in their order, Python's own ConfigStore left out."""
    heads: dict[Path, tuple[str | None, str]] = {}
    found = []
    for source in config.hydra.runtime.config_sources:
        if source.schema == "structured" or not source.path:
            continue
        found.append(_describe(source.provider, source.schema, source.path, heads))
    return tuple(found)


def _describe(
    provider: str, schema: str, path: str, heads: dict[Path, tuple[str | None, str]]
) -> ConfigSource:
    distribution = folder = None
    if schema == "file":
        folder = Path(path)
    elif schema == "pkg":
        folder = _folder_of_package(path)
        distribution = None if folder is None else distribution_of(folder.resolve())
    checkout = problem = None
    if folder is not None and (distribution is None or distribution.editable):
        try:
            checkout = _checkout(folder.resolve(), heads)
        except SourceError as error:
            problem = str(error).splitlines()[0]
    return ConfigSource(provider, schema, path, checkout, distribution, problem)


def _folder_of_package(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    folders = list((spec and spec.submodule_search_locations) or ())
    return Path(folders[0]) if folders else None


def _checkout(folder: Path, heads: dict[Path, tuple[str | None, str]]) -> Checkout | None:
    """Return the repository of a folder; None where there is none, or the folder is ignored."""
    if not any((parent / ".git").exists() for parent in (folder, *folder.parents)):
        return None
    if not folder.is_dir():
        return None
    repository = Repository.containing(folder)
    if repository.root not in heads:
        commit = repository.run("rev-parse", "--verify", "HEAD", may_fail=True)
        if commit.status != 0:
            raise SourceError(f"{repository.root} has no commit yet.")
        heads[repository.root] = (_remotes.remote_url(repository), commit.line)
    remote, commit_id = heads[repository.root]
    below = tree_path(folder.relative_to(repository.root))
    form = ("--porcelain=v2", "-z", "--untracked-files=all", "--ignore-submodules=none")
    status = repository.run("status", *form, "--", str(folder)).out
    changes = sorted(
        str(path)
        for change in parse(status)
        for path in (change.path, change.before)
        if path is not None and path.endswith(SUFFIXES)
    )
    if not changes and repository.entry(commit_id, below) is None:
        return None
    return Checkout(repository.root, remote, commit_id, tuple(changes))


def distribution_of(folder: Path) -> Distribution | None:
    """Return the distribution that a package's folder was installed with, or is editable in."""
    every = list(metadata.distributions())
    for belongs, editable in ((_is_installed, False), (_is_editable, True)):
        for dist in every:
            if belongs(dist, folder):
                return Distribution(dist.metadata["Name"], dist.version, editable)
    return None


def _is_installed(dist: metadata.Distribution, folder: Path) -> bool:
    """Tell by pip's RECORD, as text (to parse those of a whole environment takes 0.3 s).

    What an operating system installs may have an .egg-info without it, which lists its modules.
    """
    below = _below(dist, folder)
    if below is None:
        return False
    record = dist.read_text("RECORD")
    if record is not None:
        return f"\n{below}/" in f"\n{record}"
    return not _INSTALLED.isdisjoint(folder.parts) and _lists(dist, below)


def _is_editable(dist: metadata.Distribution, folder: Path) -> bool:
    """Tell by direct_url.json (PEP 610), which pip writes for ``pip install -e``.

    An older ``setup.py develop`` leaves an .egg-info beside the sources.
    """
    try:
        origin = json.loads(dist.read_text("direct_url.json") or "{}")
        if origin["dir_info"].get("editable"):
            project = Path(url2pathname(urlsplit(origin["url"]).path)).resolve()
            return _INSTALLED.isdisjoint(folder.relative_to(project).parts)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    below = _below(dist, folder)
    return below is not None and dist.read_text("RECORD") is None and _lists(dist, below)


def _below(dist: metadata.Distribution, folder: Path) -> str | None:
    """Return the path of a folder from where the distribution lies, None where it is elsewhere."""
    place = Path(str(dist.locate_file(""))).resolve()
    return folder.relative_to(place).as_posix() if folder.is_relative_to(place) else None


def _lists(dist: metadata.Distribution, below: str) -> bool:
    return below.partition("/")[0] in (dist.read_text("top_level.txt") or "").split()
