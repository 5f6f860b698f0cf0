"""MLflow artifacts: files that go to a run, where jobs may write to the store's folders as well.

Such folders are the containers': a link that one has put there, or an address that one has written
into the database, would lead MLflow's own copying to any file of the user.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from . import _untrusted
from ._errors import DockerLauncherError, TrackingError
from ._untrusted import Folder


class Client(Protocol):
    """What of MLflow's client is needed here."""

    def get_run(self, run_id: str) -> Any: ...

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None: ...

    def log_artifact(
        self, run_id: str, local_path: str, artifact_path: str | None = None
    ) -> None: ...


def log_content(
    client: Client, folders: Sequence[Path], run_id: str, name: str, content: str | bytes
) -> None:
    """Log ``content`` as the artifact ``name`` (``folder/file``).

    ``folders`` are those that the containers may write to.
    """
    place = _place(client, folders, run_id)
    if place is not None:
        _write(place, folders, name, content.encode() if isinstance(content, str) else content)
    elif isinstance(content, str):
        client.log_text(run_id, content, name)
    else:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, PurePosixPath(name).name)
            file.write_bytes(content)
            client.log_artifact(run_id, str(file), _folder_of(name))


def log_file(client: Client, folders: Sequence[Path], run_id: str, name: str, path: Path) -> None:
    """Log a file that a container may have put something else in the place of.

    One that is not there is left out. Raises ``TrackingError`` for what is no regular file.
    """
    try:
        with closing(Folder.at(path.parent)) as folder:
            handle = folder.open(path.name)
    except FileNotFoundError:
        return
    except (OSError, DockerLauncherError) as error:
        what = "link" if path.is_symlink() else "regular file"
        is_what = f"is a {what}" if what == "link" else f"is no {what}"
        raise TrackingError(f"Left out the artifact {name}: {path} {is_what}.") from error
    with os.fdopen(handle, "rb") as file:
        place = _place(client, folders, run_id)
        if place is not None:
            _write(place, folders, name, file)
            return
        with tempfile.TemporaryDirectory() as named:
            alias = Path(named, PurePosixPath(name).name)
            alias.symlink_to(_untrusted.path_of(handle) or path.absolute())
            client.log_artifact(run_id, str(alias), _folder_of(name))


def _folder_of(name: str) -> str | None:
    parent = PurePosixPath(name).parent
    return None if parent == PurePosixPath() else str(parent)


def _place(client: Client, folders: Sequence[Path], run_id: str) -> Path | None:
    """Return the folder of a run's artifacts, where that is one that containers may write to.

    Raises ``TrackingError`` where it is another one of this machine's.
    """
    if not folders:
        return None
    address = urlsplit(str(client.get_run(run_id).info.artifact_uri))
    if address.scheme not in ("", "file"):
        return None
    place = Path(url2pathname(address.path))
    if ".." not in place.parts and any(place.is_relative_to(folder) for folder in folders):
        return place
    raise TrackingError(
        f"The artifacts of the run {run_id} shall go to {place}, which is no folder of its store."
    )


def _write(place: Path, folders: Sequence[Path], name: str, content: bytes | BinaryIO) -> None:
    top = next(folder for folder in folders if place.is_relative_to(folder))
    target = PurePosixPath(name)
    folder = Folder.at(top)
    for part in (*place.relative_to(top).parts, *target.parts[:-1]):
        with closing(folder):
            inner = folder.make(part, 0o777)
        folder = inner
    with closing(folder):
        folder.write(target.name, content, 0o666)
