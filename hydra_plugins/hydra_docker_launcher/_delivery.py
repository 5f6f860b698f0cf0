"""Delivery: the commit's files, and the worker, become a layer on top of the image.

One layer serves all jobs of a sweep. Each container has its own copy of what it changes (the
engine's copy on write), the image stays what it was, and no container can see the working tree.
With ``delivery=image`` the commit's files are an image of their own below it, for later sweeps too;
with ``delivery=clone`` each container gets them by itself (``_cloning.py``).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import BinaryIO

from . import _paths, _source
from ._engine import Engine, Image
from ._errors import EngineError
from ._image import BASE_LABEL
from ._options import LABEL_PREFIX
from ._plan import SHORT_LIVED, folder_label, owner
from ._source import Source

log = logging.getLogger("hydra_docker_launcher")


@dataclass(frozen=True, slots=True)
class Delivered:
    """The image that the containers of a sweep run, and what is below its last layer.

    ``baked`` is the image of the commit (``delivery=image``), which stays.
    """

    layer: Image
    baked: Image | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where the commit's files go, and whose they are (``uid:gid``; None: root's)."""

    source: Source
    working_dir: Path
    user: str | None


def deliver(
    engine: Engine,
    image: Image,
    place: Place,
    *,
    how: str,
    tag: str,
    labels: tuple[tuple[str, str], ...],
    library: Path | None = None,
    files: tuple[tuple[str, bytes], ...] = (),
) -> Delivered:
    """Return ``image`` with the commit's files at the repository's own path, and with the worker.

    ``how`` is the option ``delivery``; with ``clone`` there are empty folders for now. ``library``
    is a Python package that the worker needs beside Hydra, ``files`` are further files of the
    launcher's. Raises ``ImageError`` where the image has other files at that path already: the job
    would see a mixture.
    """
    baked = _bake(engine, image, place, labels) if how == "image" else None
    with _archive(place) as (file, writer):
        writer.own_files(library, files)
        if how == "copy":
            writer.commit(place.source)
        elif how == "clone":
            writer.folders(place.source)
        if how != "image":
            writer.launch_folder(place.source, place.working_dir)
    with file:
        base, fresh = (image, str(place.source.root)) if baked is None else (baked, None)
        return Delivered(engine.add_layer(base.id, file, tag, dict(labels), fresh=fresh), baked)


def _bake(engine: Engine, image: Image, place: Place, labels: tuple[tuple[str, str], ...]) -> Image:
    """Return the image of the commit: found by what it is made from, else made."""
    tag = baked_tag(image, place)
    found = engine.find_image(tag)
    if found is not None:
        engine.touch(tag)
        log.info("Image %s (%s) has the commit's files already", tag, found.short)
        return found
    with _archive(place) as (file, writer):
        writer.commit(place.source)
        writer.launch_folder(place.source, place.working_dir)
    with file:
        made = engine.add_layer(
            image.id,
            file,
            tag,
            {**dict(labels), BASE_LABEL: image.id},
            fresh=str(place.source.root),
            working_dir=str(place.working_dir),
        )
    log.info("Image %s (%s) has the commit's files, and stays", tag, made.short)
    return made


def baked_tag(image: Image, place: Place) -> str:
    """Return the name of a commit's image: a hash of what it is made from is in it."""
    source = place.source
    made_from = (image.id, source.commit, str(source.root), str(place.working_dir), place.user)
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:16]
    return f"hydra-docker/{_repository(source.root.name)}:{source.commit[:12]}-{digest}"


@contextmanager
def _archive(place: Place) -> Iterator[tuple[BinaryIO, _Writer]]:
    """Give a file and a writer of an archive in it; behind the block, the file can be read."""
    file = tempfile.TemporaryFile()  # noqa: SIM115  (who asked for it closes it)
    try:
        with tarfile.open(fileobj=file, mode="w") as archive:
            yield file, _Writer(archive, place.user, _source.commit_time(place.source))
        file.seek(0)
    except BaseException:
        file.close()
        raise


def layer_tag(job: str, commit: str, sweep: str) -> str:
    """Return the name of a sweep's own image: it tells the job, the commit and the sweep."""
    return f"{_repository(job)}:{commit[:12]}-{sweep[-6:]}"


def is_layer(name: str, labels: Mapping[str, str]) -> bool:
    """Tell whether an image's name is that of a sweep's layer, which its labels tell as well."""
    commit, sweep = (labels.get(f"{LABEL_PREFIX}{key}", "") for key in ("commit", "sweep"))
    ending = layer_tag("job", commit, sweep).partition(":")[2]
    repository, _, tag = name.partition(":")
    return re.fullmatch(r"[a-z0-9-]+", repository) is not None and tag == ending


def remove_layers(engine: Engine, folder: Path, tag: str) -> None:
    """Remove the images that the sweep in ``folder`` had for itself alone, but those in use.

    One that was killed and resumed has had several, and maybe a container to put one together.
    """
    engine.remove_image(tag)
    label = dict([folder_label(folder)])
    with suppress(EngineError):
        for container in engine.containers(label):
            # What the user has made from the layer has its labels too.
            if SHORT_LIVED.fullmatch(container.name):
                engine.remove(container.id)
        for image in engine.images(label):
            if all(is_layer(name, image.labels) for name in image.names) and not image.digests:
                engine.remove_image(image.id)


class _Writer:
    """Writes the archive. What belongs to the launcher is root's, the rest is the user's."""

    def __init__(self, archive: tarfile.TarFile, user: str | None, time: int) -> None:
        self._archive = archive
        self._owner = owner(user) if user is not None else (0, 0)
        self._time = time

    def own_files(self, library: Path | None, files: tuple[tuple[str, bytes], ...]) -> None:
        worker = Path(__file__).with_name("_worker.py")
        self._own_file(str(_paths.WORKER), worker.read_bytes())
        self._folder(str(_paths.HOME), 0o700)
        for name, content in files:
            self._own_file(name, content)
        for path in sorted(library.glob("*.py")) if library is not None else ():
            name = f"{_paths.LIBRARY}/{path.parent.name}/{path.name}"
            self._own_file(name, path.read_bytes())

    def commit(self, source: Source) -> None:
        with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
            _source.export(source, Path(folder))
            Path(folder).chmod(0o755)
            self._archive.add(folder, str(source.root).lstrip("/"), filter=self._owned)

    def folders(self, source: Source) -> None:
        """Make the commit's folders: for what is mounted in them, the engine would make root's."""
        tracked = {parent for name in _source.files(source) for parent in PurePath(name).parents}
        for folder in sorted({PurePath(), *tracked}):
            self._folder(str(source.root / folder), 0o755)

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
