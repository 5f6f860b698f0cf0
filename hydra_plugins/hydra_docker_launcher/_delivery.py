"""Delivery: the commit's files, and the worker, become a layer on top of the image.

One layer serves all jobs of a sweep. Each container has its own copy of what it changes (the
engine's copy on write), the image stays what it was, and no container can see the working tree.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from pathlib import Path

from . import _paths, _source
from ._engine import Engine, Image
from ._plan import owner
from ._source import Source


def deliver(
    engine: Engine,
    image: Image,
    source: Source,
    *,
    sweep: str,
    name: str,
    user: str | None,
    working_dir: Path,
    library: Path | None,
    labels: tuple[tuple[str, str], ...],
) -> Image:
    """Return ``image`` with the commit's files at the repository's own path.

    They belong to ``user`` (``uid:gid``; None: to root). ``library`` is a Python package that the
    worker needs beside Hydra. The new image's name tells job and commit in ``docker ps``.
    """
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            _Writer(archive, user, _source.commit_time(source)).write(source, working_dir, library)
        file.seek(0)
        return engine.add_layer(
            image.id, file, f"{_repository(name)}:{source.commit[:12]}-{sweep[-6:]}", dict(labels)
        )


class _Writer:
    def __init__(self, archive: tarfile.TarFile, user: str | None, time: int) -> None:
        self._archive = archive
        self._owner = owner(user) if user is not None else (0, 0)
        self._time = time

    def write(self, source: Source, working_dir: Path, library: Path | None) -> None:
        self._folder(str(_paths.CONTAINER), 0o755)
        self._folder(str(_paths.HOME), 0o700)
        self._file(str(_paths.WORKER), Path(__file__).with_name("_worker.py").read_bytes())
        if library is not None:
            self._add(library, f"{_paths.LIBRARY}/{library.name}")
        with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
            _source.export(source, Path(folder))
            self._add(Path(folder), str(source.root))
        if source.root in working_dir.parents:
            # The launch folder may hold no file of the commit, but the job starts in it.
            relative = working_dir.relative_to(source.root)
            tracked = {Path(name) for name in _source.files(source)}
            for part in reversed((relative, *relative.parents[:-1])):
                if not any(part in path.parents for path in tracked):
                    self._folder(str(source.root / part), 0o755)

    def _add(self, path: Path, name: str) -> None:
        self._archive.add(path, arcname=name.lstrip("/"), filter=self._owned)

    def _owned(self, entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if "__pycache__" in entry.name:
            return None
        entry.uid, entry.gid = self._owner
        entry.uname = entry.gname = ""
        entry.mtime = self._time
        if entry.isdir():
            entry.mode = 0o755
        return entry

    def _folder(self, name: str, mode: int) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.type = tarfile.DIRTYPE
        entry.mode = mode
        self._archive.addfile(self._placed(entry))

    def _file(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.size = len(content)
        entry.mode = 0o644
        self._archive.addfile(self._placed(entry), io.BytesIO(content))

    def _placed(self, entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid, entry.gid = self._owner
        entry.mtime = self._time
        return entry


def _repository(name: str) -> str:
    """Return ``name`` in the characters that an image's name may have."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain or "job"
