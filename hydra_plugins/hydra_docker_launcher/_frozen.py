"""Frozen: Hydra's config sources, as they were when the launcher was set up.

A sweeper such as Optuna's has configs composed again for every batch, hours after the first. What
has been edited by then must not change the study, so the files of all sources are read once.

Hydra offers no public way to do this: it makes its sources anew for every composition that has a
``hydra.searchpath``. The place where it does is ``ConfigRepository.initialize_sources``.
"""

from __future__ import annotations

import copy
import importlib.util
import io
import logging
import os
import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigLoadError, ConfigResult, ConfigSource
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from ._paths import LEDGER, STORE_FOLDER

log = logging.getLogger("hydra_docker_launcher")

T = TypeVar("T")
Names: TypeAlias = list[str]
#: By scheme, path and provider.
Known: TypeAlias = dict[tuple[str, str, str], ConfigSource]

ENTRIES = 500_000  # of a source's folders that are looked at
LARGEST = 16 * 1024**2  # bytes of a file that is read
PARSED = 1000  # configs of a source that are kept parsed, too: reading YAML is slow
SUFFIXES = (".yaml", ".yml")
#: Folders below a source that hold no configs of it, and may hold very much else.
_NOT_CONFIGS = ("__pycache__", "node_modules", STORE_FOLDER)
#: What Hydra or this launcher has left in an output folder (a source may be the whole project).
_OUTPUTS = frozenset({".hydra", "multirun.yaml", LEDGER})
_NOT_FROZEN = "structured"  # no files: it is Python's ConfigStore


def freeze(context: HydraContext, config: DictConfig) -> None:
    """Let the context's config loader answer from what the config sources have now.

    ``config`` is the sweep's own; its search path may have sources that the loader does not know.
    """
    loader: object = context.config_loader
    if not isinstance(loader, ConfigLoaderImpl):
        return
    known: Known = {}
    for source in config.hydra.runtime.config_sources:
        kind = SourcesRegistry.instance().resolve(source.schema)
        _frozen(kind(source.provider, f"{source.schema}://{source.path}"), known)
    # The application's own loader stays as it is.
    copied = copy.copy(loader)
    copied.repository = _FrozenRepository(loader.config_search_path, known)
    context.config_loader = copied


class _FrozenRepository(ConfigRepository):
    """Hydra's repository of sources, of which each is made and read only once."""

    def __init__(self, search_path: ConfigSearchPath, known: Known) -> None:
        self._known = known
        super().__init__(search_path)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        super().initialize_sources(config_search_path)
        self.sources = [_frozen(source, self._known) for source in self.sources]

    def __deepcopy__(self, memo: dict[int, Any]) -> _FrozenRepository:
        """Hydra copies the repository for every composition; the frozen sources are shared."""
        copied = copy.copy(self)
        copied.sources = list(self.sources)
        return copied


def _frozen(source: ConfigSource, known: Known) -> ConfigSource:
    if source.scheme() == _NOT_FROZEN:
        return source
    key = (source.scheme(), source.path, source.provider)
    if key not in known:
        known[key] = FrozenSource(source)
    return known[key]


@dataclass(slots=True)
class Tree:
    """The configs below a folder. All paths are relative to it, with slashes; it is itself ``""``.

    ``folders`` holds the names in each folder, ``files`` the content of each config, and ``unread``
    what was left out: output folders, hidden ones, files that cannot be read.
    """

    root: str
    folders: dict[str, list[str]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)
    #: There were more entries than are looked at.
    cut: bool = False

    def has_read(self, path: str) -> bool:
        """Tell whether what is at ``path`` was read, or seen not to be there."""
        if path.startswith(("/", "..")):
            return False
        if not self.unread:
            return True
        return self.unread.isdisjoint(_with_parents(path))


def read_tree(root: str) -> Tree:
    """Read every config below ``root``, level by level; links are followed, but not in circles."""
    tree = Tree(root)
    queue = deque([""])
    left = ENTRIES
    while queue:
        folder = queue.popleft()
        listing = _list(os.path.join(root, folder)) if left > 0 else None
        tree.cut = tree.cut or left <= 0
        if listing is None or (folder and listing.is_output):
            tree.unread.add(folder)
            continue
        left -= listing.entries
        tree.folders[folder] = sorted((*listing.folders, *listing.configs))
        for name, may_hold_configs in sorted(listing.folders.items()):
            path = posixpath.join(folder, name)
            if may_hold_configs:
                queue.append(path)
            else:
                tree.unread.add(path)
        for name in listing.configs:
            _read_file(tree, posixpath.join(folder, name))
    return tree


@dataclass(slots=True)
class _Listing:
    """What is in one folder; of its folders, whether to look into them."""

    entries: int = 0
    folders: dict[str, bool] = field(default_factory=dict)
    configs: list[str] = field(default_factory=list)
    is_output: bool = False


def _list(folder: str) -> _Listing | None:
    """List a folder, which may have very many other files; None where it cannot be read."""
    listing = _Listing()
    try:
        with os.scandir(folder) as found:
            for entry in found:
                listing.entries += 1
                listing.is_output = listing.is_output or entry.name in _OUTPUTS
                if entry.is_dir():
                    listing.folders[entry.name] = _may_hold_configs(entry)
                elif entry.name.endswith(SUFFIXES) and entry.is_file():
                    listing.configs.append(entry.name)
    except OSError:
        return None
    return listing


def _may_hold_configs(entry: os.DirEntry[str]) -> bool:
    if entry.name.startswith(".") or entry.name in _NOT_CONFIGS:
        return False
    if not entry.is_symlink():
        return True
    here = os.path.realpath(Path(entry.path).parent)
    return not f"{here}/".startswith(f"{os.path.realpath(entry.path)}/")


def _read_file(tree: Tree, path: str) -> None:
    content = None
    try:
        with Path(tree.root, path).open("rb") as file:
            if os.fstat(file.fileno()).st_size <= LARGEST:
                content = file.read()
    except OSError:
        pass
    if content is None:
        tree.unread.add(path)
    else:
        tree.files[path] = content


def _with_parents(path: str) -> Iterator[str]:
    yield path
    while path:
        path = posixpath.dirname(path)
        yield path


class FrozenSource(ConfigSource):
    """A config source whose answers never change.

    Files and packages are read when it is made. What was not read then, and whatever else a plugin
    has for a source, is asked of ``live`` when it is first needed, and never again.
    """

    def __init__(self, live: ConfigSource) -> None:
        self.provider = live.provider
        self.path = live.path
        self._live = live
        self._available = live.available()
        self._tree = _tree_of(live)
        self._answers: dict[tuple[object, ...], Any] = {}
        self._parsed: dict[str, ConfigResult] = {}
        if self._tree is not None and self._tree.cut:
            log.warning(
                "%s has more than %d files: a config deep below it is fixed only once it has been "
                "read. Give configs a folder of their own.",
                live.full_path(),
                ENTRIES,
            )

    def scheme(self) -> str:  # type: ignore[override]  # Hydra's is static: a class for each
        return self._live.scheme()

    def available(self) -> bool:
        return self._available

    def is_group(self, config_path: str) -> bool:
        path = _normal(config_path)
        if self._tree is not None and self._tree.has_read(path):
            return path in self._tree.folders
        return self._once("group", config_path, lambda: self._live.is_group(config_path))

    def is_config(self, config_path: str) -> bool:
        path = _normal(self._normalize_file_name(config_path))
        if self._tree is not None and self._tree.has_read(path):
            return path in self._tree.files
        return self._once("config", config_path, lambda: self._live.is_config(config_path))

    def list(self, config_path: str, results_filter: ObjectType | None) -> Names:
        path = _normal(config_path)
        if self._tree is None or path not in self._tree.folders:
            about = (config_path, results_filter)
            return [*self._once("list", about, lambda: self._live.list(*about))]
        found: Names = []
        for name in self._tree.folders[path]:
            below = os.path.join(config_path, name)
            self._list_add_result(found, below, name, results_filter)
        return sorted(set(found))

    def load_config(self, config_path: str) -> ConfigResult:
        path = _normal(self._normalize_file_name(config_path))
        if self._tree is None or not self._tree.has_read(path):
            result = self._once("load", config_path, lambda: self._live.load_config(config_path))
        elif path in self._parsed:
            result = self._parsed[path]
        else:
            result = self._parse(self._tree, path)
            if len(self._parsed) < PARSED:
                self._parsed[path] = result
        return copy.deepcopy(result)  # the composition changes it

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenSource:
        return self

    def _parse(self, tree: Tree, path: str) -> ConfigResult:
        """Do what Hydra's sources of files and of packages do."""
        name = os.path.join(tree.root, path)
        if path not in tree.files:
            raise ConfigLoadError(f"Config not found : {name}")
        with io.TextIOWrapper(_File(tree.files[path], name), encoding="utf-8") as file:
            header = self._get_header_dict(file.read(512))
            file.seek(0)
            config = cast(DictConfig, OmegaConf.load(file))
        return ConfigResult(
            config=config, path=self.full_path(), provider=self.provider, header=header
        )

    def _once(self, question: str, about: object, ask: Callable[[], T]) -> T:
        key = (question, about)
        if key not in self._answers:
            self._answers[key] = ask()
        return cast(T, self._answers[key])


class _File(io.BytesIO):
    """A file in memory; its name is what an error in its YAML says."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def _normal(path: str) -> str:
    normal = posixpath.normpath(path) if path else ""
    return "" if normal == "." else normal


def _tree_of(live: ConfigSource) -> Tree | None:
    """Return what a source of files has; None for one that is something else."""
    if live.scheme() == "file":
        folder: str | None = os.path.abspath(live.path)
    elif live.scheme() == "pkg":
        folder = _folder_of_package(live.path)
    else:
        return None
    if not live.is_group(""):
        return Tree(folder or "")  # nothing there; and nothing that comes later counts
    return None if folder is None else read_tree(folder)


def _folder_of_package(name: str) -> str | None:
    """Return the folder of a package, None where it has several or is in an archive."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    folders = list((spec and spec.submodule_search_locations) or ())
    return folders[0] if len(folders) == 1 and Path(folders[0]).is_dir() else None
