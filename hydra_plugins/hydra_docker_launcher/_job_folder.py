"""Job folder: the launcher's own files in a job's output folder, which its container can write to.

Whatever a container has made of them, nothing outside of the folder is read, changed or removed.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from typing import Any

from . import _untrusted
from ._paths import PRIVATE, JobPaths
from ._untrusted import Folder

#: How ``Folder.write`` calls a file that is not whole yet.
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{16}")

log = logging.getLogger("hydra_docker_launcher")


@contextmanager
def opened(paths: JobPaths, owner: tuple[int, int] | None = None) -> Iterator[Folder]:
    """Open the private folder, or make it; it and the output folder then belong to ``owner``."""
    with (
        closing(Folder.at(paths.output)) as output,
        closing(output.make(PRIVATE, 0o700)) as private,
    ):
        output.give(owner)
        private.give(owner)
        _remove_partial(private)
        yield private


def _remove_partial(private: Folder) -> None:
    """Remove what a process that was killed as it wrote has left."""
    for name in private.names():
        if _PARTIAL.fullmatch(name):
            private.remove(name)


def remove_secrets(paths: JobPaths) -> None:
    """Remove the files; a container that is kept has the folder mounted still. Never raises.

    Its config too: what is written down of it takes the place of that.
    """
    config = paths.secret_config.name
    try:
        with closing(Folder.at(paths.output, PRIVATE)) as private:
            _remove_partial(private)
            with suppress(IsADirectoryError, PermissionError):  # a folder of the job's
                private.remove(paths.returned.name)
        with (
            closing(Folder.at(paths.output, PRIVATE)) as private,
            closing(private.inner(paths.secrets.name)) as folder,
        ):
            for name in folder.names():
                with suppress(IsADirectoryError, PermissionError):  # a folder of the job's
                    folder.remove(name)
                    if name == config:
                        private.link(paths.config.name, folder, config)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("Cannot remove the secrets in %s: %s", paths.secrets, error.strerror or error)


def remove_job_file(paths: JobPaths) -> None:
    """Remove what only the worker was to read, when no container has it mounted. Never raises."""
    try:
        with closing(Folder.at(paths.output, PRIVATE)) as folder:
            folder.remove(paths.job.name)
            with (
                suppress(FileNotFoundError),
                closing(folder.inner(paths.secrets.name)) as secrets,
            ):
                secrets.remove(paths.secret_config.name)
            folder.remove_folder(paths.secrets.name)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("Cannot remove files in %s: %s", paths.private, error.strerror or error)


def write_container(paths: JobPaths, content: Mapping[str, Any]) -> None:
    """Write ``container.json``. Raises ``OSError``."""
    text = json.dumps(content, indent=2) + "\n"
    with opened(paths) as folder:
        folder.write(paths.container.name, text.encode(), 0o644)


def log_size(paths: JobPaths) -> int | None:
    """Return the bytes of ``container.log``, None where it is no regular file."""
    return _untrusted.size(paths.log, 1)
