"""Collection: stray files of a container are copied into the job's output folder."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from contextlib import suppress

from . import _unpacking
from ._engine import Engine
from ._errors import EngineError
from ._outcome import MAX_STRAY, Stray, StrayFile
from ._stray_rules import in_words_of_diff
from ._units import show_size
from ._unpacking import RefusedError, Shelf

FAILURES = 3  # requests that fail one after the other before no more is asked


class Collection:
    """Copies stray files of one container to a shelf."""

    def __init__(self, engine: Engine, container: str, shelf: Shelf) -> None:
        self._engine = engine
        self._container = container
        self._shelf = shelf
        self._taken: list[StrayFile] = []
        self._total = 0
        self._left: list[StrayFile] = []
        self._left_total = 0
        self._failures = 0

    def take(self, tops: Mapping[str, Sequence[str]]) -> Stray:
        """Copy what is in ``tops``: what to ask for, and which paths of it are meant."""
        for top, below in tops.items():
            self._take_tree(top, below)
        return self._stray()

    def _stray(self) -> Stray:
        return Stray(
            total=self._total + self._left_total,
            files=tuple([*self._taken, *self._left][:MAX_STRAY]),
            folder=self._shelf.folder if self._total else None,
            left=tuple(self._left),
            left_total=self._left_total,
        )

    def _take_tree(self, top: str, below: Sequence[str]) -> None:
        """Take a folder at once where that goes, and one by one what is in it otherwise."""
        missing = dict.fromkeys(below)
        if list(missing) != [top]:
            self._take_archive(top, missing)
        for path in missing:
            self._take_one(path)

    def _take_archive(self, top: str, missing: dict[str, None]) -> None:
        """Take what of ``missing`` is in a folder, and take it out of there.

        What is left in there is to be asked for by itself: further names of one file, what comes
        behind a file that is too large. The folder may have more, which is not meant.
        """
        with (
            suppress(EngineError, tarfile.TarError),
            _unpacking.opened(self._engine.archive(self._container, top)) as archive,
        ):
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # it would remember all
                path = _unpacking.place(top, member.name)
                known_as = in_words_of_diff(path or "")
                if path is None or known_as not in missing or member.islnk():
                    continue
                if member.isreg() and not self._shelf.has_room(member.size):
                    return  # it may be endless: it is not read over
                if member.isreg():
                    self._put(path, archive, member)
                del missing[known_as]

    def _take_one(self, path: str) -> None:
        if self._failures >= FAILURES:
            self._leave(path, None, "the engine does not give it")
            return
        try:
            with _unpacking.opened(self._engine.archive(self._container, path)) as archive:
                member = archive.next()
                self._failures = 0
                if member is None or not member.isreg():
                    return  # a folder that only had its time changed, a link, a device
                if not self._shelf.has_room(member.size):
                    limit = show_size(self._shelf.limit)
                    self._leave(path, member.size, f"over stray_limit={limit}")
                else:
                    self._put(path, archive, member)
        except (EngineError, tarfile.TarError) as error:
            self._failures += 1
            self._leave(path, None, str(error).partition("\n")[0])

    def _put(self, path: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        content = archive.extractfile(member)
        try:
            if content is None:
                raise RefusedError("it is no file")
            self._shelf.put(path, member, content)
        except RefusedError as error:
            self._leave(path, member.size, str(error))
        except OSError as error:
            self._leave(path, member.size, error.strerror or str(error))
        else:
            self._total += 1
            if len(self._taken) < MAX_STRAY:
                self._taken.append(StrayFile(path, member.size))

    def _leave(self, path: str, size: int | None, reason: str) -> None:
        self._left_total += 1
        if len(self._left) < MAX_STRAY:
            self._left.append(StrayFile(path, size, reason))
