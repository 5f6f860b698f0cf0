"""Wish: what a past job shall be run with on this host, as the command line says it."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ._errors import ReproduceError

FOLDER = "reproduced"
#: Folder of the cache that clones are kept in.
REPOSITORIES = "repositories"


@dataclass(frozen=True, slots=True)
class Wish:
    """Where things are on this host, and what shall be other than then.

    ``folder`` is the one this was started from, ``output`` the one of the new sweep, and clones are
    kept in ``cache``. ``volumes`` pairs a source of then with where it is now, ``options`` names of
    ``hydra.launcher`` with values.
    """

    folder: Path
    output: Path
    cache: Path
    repository: Path | None = None
    remote: str | None = None
    volumes: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    tracking_uri: str | None = None
    dry_run: bool = False
    #: Pairs of a config's key, whose value is not written down, with the variable that holds it.
    secrets: tuple[tuple[str, str], ...] = ()

    @property
    def clones(self) -> Path:
        return self.cache / REPOSITORIES


@contextmanager
def output_folder(asked: Path | None, folder: Path) -> Iterator[Path]:
    """Make the output folder; remove it again where nothing has come into it.

    By default it is ``reproduced/<time>`` below ``folder``, of nobody else also in the same second.
    Raises ``ReproduceError`` where ``asked`` has something in it: no earlier result is mixed with.
    """
    path = folder / (asked or FOLDER)
    made = [place for place in (path, *path.parents) if not place.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        if asked is None:
            path = _fresh(path)
            made.insert(0, path)
        elif any(path.iterdir()):
            raise ReproduceError(
                f"The output folder {path} is not empty. Name a new one with --output."
            )
    except OSError as error:
        raise ReproduceError(f"Cannot use the output folder {path}: {error}") from error
    try:
        yield Path(os.path.abspath(path))
    finally:
        with suppress(OSError):  # not empty: it is needed
            for place in made:
                place.rmdir()


def _fresh(folder: Path) -> Path:
    name = f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"
    for number in itertools.count(1):
        path = folder / (name if number == 1 else f"{name}-{number}")
        with suppress(FileExistsError):
            path.mkdir()
            break
    return path
