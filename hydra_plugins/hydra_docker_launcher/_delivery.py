"""Delivery: the commit's files, and the worker, become a layer on top of the image.

One layer serves all jobs of a sweep. Each container has its own copy of what it changes (the
engine's copy on write), the image stays what it was, and no container can see the working tree.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from pathlib import Path, PurePath

from . import _paths, _source
from ._engine import Engine, Image
from ._plan import owner
from ._source import Source


def deliver(
    engine: Engine,
    image: Image,
    source: Source,
    *,
    tag: str,
    user: str | None,
    working_dir: Path,
    library: Path | None,
    labels: tuple[tuple[str, str], ...],
) -> Image:
    """Return ``image`` with the commit's files at the repository's own path.

    They belong to ``user`` (``uid:gid``; None: to root). ``library`` is a Python package that the
    worker needs beside Hydra. Raises ``ImageError`` where the image has other files at that path
    already: the job would see a mixture.
    """
    with tempfile.TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w") as archive:
            writer = _Writer(archive, user, _source.commit_time(source))
            writer.own_files(library)
            writer.commit(source)
            writer.launch_folder(source, working_dir)
        file.seek(0)
        return engine.add_layer(image.id, file, tag, dict(labels), fresh=str(source.root))


def layer_tag(job: str, commit: str, sweep: str) -> str:
    """Return the name of a sweep's own image: it tells the job, the commit and the sweep."""
    return f"{_repository(job)}:{commit[:12]}-{sweep[-6:]}"


class _Writer:
    """Writes the archive. What belongs to the launcher is root's, the rest is the user's."""

    def __init__(self, archive: tarfile.TarFile, user: str | None, time: int) -> None:
        self._archive = archive
        self._owner = owner(user) if user is not None else (0, 0)
        self._time = time

    def own_files(self, library: Path | None) -> None:
        worker = Path(__file__).with_name("_worker.py")
        self._own_file(str(_paths.WORKER), worker.read_bytes())
        self._folder(str(_paths.HOME), 0o700)
        for path in sorted(library.glob("*.py")) if library is not None else ():
            name = f"{_paths.LIBRARY}/{path.parent.name}/{path.name}"
            self._own_file(name, path.read_bytes())

    def commit(self, source: Source) -> None:
        with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
            _source.export(source, Path(folder))
            Path(folder).chmod(0o755)
            self._archive.add(folder, str(source.root).lstrip("/"), filter=self._owned)

    def launch_folder(self, source: Source, working_dir: Path) -> None:
        """Make the launch folder, which may hold no file of the commit, and its parents."""
        if source.root not in working_dir.parents:
            return
        tracked = {parent for name in _source.files(source) for parent in PurePath(name).parents}
        relative = working_dir.relative_to(source.root)
        for part in reversed((relative, *relative.parents[:-1])):
            if part not in tracked:
                self._folder(str(source.root / part), 0o755)

    def _own_file(self, name: str, content: bytes) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.size = len(content)
        entry.mode = 0o644
        entry.mtime = self._time
        self._archive.addfile(entry, io.BytesIO(content))

    def _folder(self, name: str, mode: int) -> None:
        entry = tarfile.TarInfo(name.lstrip("/"))
        entry.type = tarfile.DIRTYPE
        entry.mode = mode
        self._archive.addfile(self._owned(entry))

    def _owned(self, entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid, entry.gid = self._owner
        entry.uname = entry.gname = ""
        entry.mtime = self._time
        return entry


def _repository(name: str) -> str:
    """Return ``name`` in the characters that an image's name may have."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return plain or "job"
