"""Where the MLflow store of a sweep is, and what a container needs to reach it.

Paths and URIs only: this module does not import mlflow. An SQLite store is mounted into containers
as a folder, because SQLite keeps its journal beside the database; so that folder must hold nothing
else. The default store is ``mlflow-store/`` in the launch folder, with a link ``mlflow.db`` beside
it: that is the database which ``mlflow ui`` opens there by default.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shlex
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from urllib.parse import quote, urlsplit
from urllib.request import url2pathname

from ._errors import TrackingError
from ._masks import secrets_of, url_secrets
from ._paths import DATABASE, STORE_FOLDER
from ._private import without_credentials
from ._tracking import StoreAccess

_TRACKING_URI = "MLFLOW_TRACKING_URI"
_OPTION = "hydra.launcher.mlflow.tracking_uri"
_DATABASE_SERVERS = ("postgresql", "mysql", "mssql")
_JOURNALS = ("-journal", "-wal", "-shm")
#: Folders that MLflow keeps artifacts in, and a file that keeps a store out of git.
_MAY_BE_THERE = ("artifacts", "mlruns", "mlartifacts", ".gitignore")

#: Variables that change how MLflow's client talks to any store.
_EVERYWHERE = ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")
_FOR_SERVERS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "MLFLOW_TRACKING_AUTH",
    "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_INSECURE_TLS",
    "MLFLOW_TRACKING_SERVER_CERT_PATH",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH",
    "MLFLOW_WORKSPACE",
)
_FOR_DATABRICKS = (
    "DATABRICKS_HOST",
    "DATABRICKS_TOKEN",
    "DATABRICKS_CLIENT_ID",
    "DATABRICKS_CLIENT_SECRET",
    "DATABRICKS_CONFIG_PROFILE",
)


#: Those of them that nobody else is to know.
_SECRETS = (
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "DATABRICKS_TOKEN",
    "DATABRICKS_CLIENT_SECRET",
)


class StoreKind(Enum):
    """How a store is reached."""

    SQLITE = "sqlite"
    SERVER = "http"
    DATABASE = "database"
    #: Databricks, and what MLflow plugins add: MLflow alone knows how.
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Store:
    """One store.

    ``uri`` is absolute, ``database`` the real path of an SQLite store. ``artifacts`` is the folder
    below which new experiments keep their artifacts (None: the store knows itself), ``link`` the
    path that shall lead to ``database``.
    """

    kind: StoreKind
    uri: str
    database: Path | None = None
    artifacts: Path | None = None
    link: Path | None = None

    @property
    def shown(self) -> str:
        """The address without its password or token, for messages."""
        return self.masked(self.uri)

    def masked(self, text: str) -> str:
        """Return ``text`` without the password, the token and the secret parameters of it."""
        for secret in url_secrets(self.uri):
            text = re.sub(rf"(?<=[:/=]){re.escape(secret)}(?=[@&;#\s'\"]|$)", "***", text)
        return text

    def secrets(self, environment: Mapping[str, str]) -> tuple[str, ...]:
        """Return what containers are told to reach it and nobody else is to know."""
        variables = [(name, environment.get(name, "")) for name in _SECRETS]
        return (*secrets_of(variables), *url_secrets(self.uri))

    @property
    def own_paths(self) -> tuple[Path, ...]:
        """The files and folders that the store makes where the user launches from."""
        folder = None if self.database is None else self.database.parent
        return tuple(path for path in (folder, self.artifacts, self.link) if path is not None)

    def prepare(self) -> None:
        """Create the folder and the link that an SQLite store needs, and see that it opens.

        OSError or sqlite3.Error where that is impossible. MLflow would try for minutes instead.
        """
        if self.database is None:
            return
        self.database.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.database, timeout=20)) as db:
            db.execute("PRAGMA user_version").fetchall()
        self._check_writable()
        if self.link is not None and not self.link.is_symlink():
            try:
                self.link.symlink_to(Path(STORE_FOLDER, DATABASE))
            except FileExistsError:
                if not self.link.is_symlink():  # else a sweep beside this one was quicker
                    raise

    def check_unlocked(self, timeout: float) -> None:
        """Raise OSError or sqlite3.Error where an SQLite store cannot be written to.

        ``timeout``: how long to wait for others that write, in seconds.
        """
        if self.database is None:
            return
        self._check_writable()
        uri = f"file:{quote(str(self.database))}?mode=rw"  # which makes no file
        with closing(sqlite3.connect(uri, uri=True, timeout=timeout)) as db:
            db.execute("BEGIN IMMEDIATE")
            db.rollback()

    def _check_writable(self) -> None:
        for path in (self.database, self.database.parent) if self.database else ():
            if not os.access(path, os.W_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    def artifact_location(self, experiment: str) -> str | None:
        """Return where a new experiment keeps its artifacts (None: where the store puts them)."""
        if self.artifacts is None:
            return None
        name = re.sub(r"[^\w.-]", "_", experiment)[:100]
        if name != experiment or name.strip(".") == "":
            name = f"{name.strip('.')}-{hashlib.sha256(experiment.encode()).hexdigest()[:8]}"
        return str(self.artifacts / name)

    def access(
        self, artifact_location: str, folder: Path, environment: Mapping[str, str]
    ) -> StoreAccess:
        """Tell what a container needs. ``environment`` is the host's, ``folder`` the launch folder.

        TrackingError when the artifacts of an experiment cannot be reached without showing the
        containers the launch folder.
        """
        folders = [] if self.database is None else [self.database.parent]
        if self.kind in (StoreKind.SQLITE, StoreKind.DATABASE):
            folders += self._artifact_folders(artifact_location, folder, folders)
        variables = [(name, environment[name]) for name in self._passed() if environment.get(name)]
        if self.kind is StoreKind.SERVER:
            return StoreAccess(tuple(variables), tuple(folders), self.uri, _TRACKING_URI)
        return StoreAccess(((_TRACKING_URI, self.uri), *variables), tuple(folders))

    def _passed(self) -> tuple[str, ...]:
        if self.kind is StoreKind.SERVER:
            return (*_FOR_SERVERS, *_EVERYWHERE)
        if self.kind is StoreKind.OTHER:
            return (*_FOR_SERVERS, *_FOR_DATABRICKS, *_EVERYWHERE)
        return _EVERYWHERE

    def _artifact_folders(self, location: str, folder: Path, mounted: list[Path]) -> list[Path]:
        if location.startswith("mlflow-artifacts:"):
            raise TrackingError(
                f"The experiment in {self.shown} keeps its artifacts behind a tracking server "
                f"({location}), which opening its database does not reach. Set {_OPTION} to the "
                "server's address, or use another hydra.launcher.mlflow.experiment_name."
            )
        local = _local_path(location)
        if local is None:
            return []
        if folder.resolve().is_relative_to(local.resolve()):
            raise TrackingError(
                f"The experiment in {self.shown} keeps its artifacts in {local}, which holds the "
                f"launch folder {folder}; mounted into containers, it would show them the working "
                "tree. Use another hydra.launcher.mlflow.experiment_name."
            )
        wanted = dict.fromkeys((local, local.resolve()))
        return [p for p in wanted if not any(p.is_relative_to(m) for m in mounted)]


def find_store(tracking_uri: str | None, folder: Path, environment: Mapping[str, str]) -> Store:
    """Find the store of a sweep that is launched from ``folder``: option, environment, default.

    TrackingError for a store that containers could not use, with what to do about it.
    """
    # resolve() would turn a linked launch folder into another name than the user's.
    folder = folder.absolute()
    uri = tracking_uri or environment.get(_TRACKING_URI)
    if not uri:
        _refuse_file_store_beside(folder)
        return _default_store(folder)
    scheme = uri.partition(":")[0].partition("+")[0].lower() if ":" in uri else uri
    if scheme in ("http", "https"):
        return Store(StoreKind.SERVER, uri)
    if scheme == "sqlite":
        return _sqlite_store(uri, folder)
    if scheme in _DATABASE_SERVERS:
        return Store(StoreKind.DATABASE, uri, artifacts=folder / STORE_FOLDER / "artifacts")
    if scheme == "file" or (":" not in uri and uri != "databricks"):
        raise TrackingError(
            f"The tracking URI {without_credentials(uri)!r} is a file store, which MLflow no "
            f"longer supports. Set {_OPTION} to an SQLite store "
            "(sqlite:////path/of/a/folder/mlflow.db) or to a server "
            f"(http://host:5000), or unset it and {_TRACKING_URI} for the default, "
            f"{folder / STORE_FOLDER}. Old runs move with: mlflow migrate-filestore "
            "--source <old folder> --target sqlite:///<database>"
        )
    return Store(StoreKind.OTHER, uri)


def _refuse_file_store_beside(folder: Path) -> None:
    """Raise TrackingError where ``mlruns/`` holds experiments of an old file store.

    MLflow's own default prefers such a folder and then refuses it, so ``mlflow ui`` would not show
    the runs of another store.
    """
    if any(path.parent.name.isdigit() for path in (folder / "mlruns").glob("*/meta.yaml")):
        raise TrackingError(
            f"{folder / 'mlruns'} is a file store, which MLflow no longer supports, but still "
            "prefers as its default: `mlflow ui` would not show the runs of this sweep. Move it "
            "away, and take its runs along if they are wanted:\n"
            f"    cd {shlex.quote(str(folder))}\n"
            "    mv mlruns mlruns-old\n"
            f"    mkdir -p {STORE_FOLDER}\n"
            "    mlflow migrate-filestore --source mlruns-old "
            f"--target sqlite:///{STORE_FOLDER}/{DATABASE}\n"
            f"or set {_OPTION}."
        )


def _default_store(folder: Path) -> Store:
    link = folder / DATABASE
    if link.is_symlink():
        return _sqlite_at(link.resolve(), link=link)
    database = folder.resolve() / STORE_FOLDER / DATABASE
    if not link.exists():
        return _sqlite_at(database, link=link)
    if database.exists():
        raise TrackingError(
            f"Both {link} and {database} exist, and only one can be the store of this folder. Keep "
            f"the second with: mv {shlex.quote(str(link))} {shlex.quote(str(link))}.old"
        )
    raise TrackingError(_how_to_move(link, "the folder that a sweep is launched from"))


def _sqlite_store(uri: str, folder: Path) -> Store:
    dialect, _, rest = uri.partition("://")
    path, _, query = rest.removeprefix("/").partition("?")
    if not rest.startswith("/") or path in ("", ":memory:") or path.startswith("file:"):
        raise TrackingError(
            f"The tracking URI {without_credentials(uri)!r} names no database file. Write "
            "sqlite:///folder/mlflow.db (relative to the launch folder) or sqlite:////absolute/folder/mlflow.db."
        )
    if folder / path == folder / DATABASE:
        return _default_store(folder)
    return _sqlite_at((folder / path).resolve(), dialect=dialect, query=query)


def _sqlite_at(
    database: Path, *, link: Path | None = None, dialect: str = "sqlite", query: str = ""
) -> Store:
    if re.search("[%?]", str(database)):
        raise TrackingError(
            f"MLflow cannot open a database whose path has '%' or '?' in it: {database}. Rename "
            f"the folder, or set {_OPTION} to a store elsewhere."
        )
    others = _what_else(database)
    if others:
        shown = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if others[3:] else "")
        raise TrackingError(_how_to_move(database, f"a folder with other things in it ({shown})"))
    uri = f"{dialect}:///{database}" + (f"?{query}" if query else "")
    return Store(StoreKind.SQLITE, uri, database, database.parent / "artifacts", link)


def _what_else(database: Path) -> list[str]:
    """Return the names beside ``database`` that are not part of its store."""
    store = database.parent
    if not store.is_dir():
        return []
    known = {database.name, *(database.name + end for end in _JOURNALS), *_MAY_BE_THERE}
    known |= {
        path.relative_to(store).parts[0]
        for path in map(_local_path, _artifact_locations(database))
        if path is not None and path != store and path.is_relative_to(store)
    }
    return sorted(path.name for path in store.iterdir() if path.name not in known)


def _artifact_locations(database: Path) -> list[str]:
    """Return the artifact locations of all experiments; none of a database that is not MLflow's."""
    if not database.is_file():
        return []
    try:
        with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=ro", uri=True)) as db:
            rows = db.execute("SELECT artifact_location FROM experiments").fetchall()
    except sqlite3.Error:  # MLflow opens it next, and says better what is wrong with it
        return []
    return [str(location) for (location,) in rows]


def _local_path(location: str) -> Path | None:
    if location.startswith("file:"):
        return Path(url2pathname(urlsplit(location).path))
    return Path(location) if location.startswith("/") else None


def _how_to_move(database: Path, where: str) -> str:
    target = database.parent / STORE_FOLDER
    files = [
        path.name
        for path in (database, *(database.with_name(database.name + end) for end in _JOURNALS))
        if path.exists()
    ]
    commands = [
        f"cd {shlex.quote(str(database.parent))}",
        f"mkdir -p {STORE_FOLDER}",
        *([f"mv -n {' '.join(map(shlex.quote, files))} {STORE_FOLDER}/"] if files else []),
        f"ln -s {STORE_FOLDER}/{shlex.quote(database.name)} {shlex.quote(database.name)}",
    ]
    return (
        f"The MLflow database {database} lies in {where}. Containers need the folder of the "
        "database, as SQLite keeps its journal there, and may see nothing else. Move it into one "
        "of its own (nothing may have it open meanwhile); the link keeps its address:\n    "
        + "\n    ".join(commands)
        + f"\nor set {_OPTION} to sqlite:///{target / database.name} or another store."
    )
