"""Disk: a warning when the disk of the output folders runs full, before the jobs fail of it."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from ._interrupt import held_back
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

PAUSE = 10.0  # seconds between two looks
#: Of a disk's size, and bytes: less than the smaller one of both is little.
SHARE = 0.05
ENOUGH = 5 * 1024**3
SHARE_OF_FILES = 0.01  # of what a file system can have


class DiskWatch:
    """Looks at the disk of a folder now and then, in a thread of its own, until it has warned."""

    def __init__(
        self, folder: Path, *, stat: Callable[[Path], os.statvfs_result] = os.statvfs
    ) -> None:
        self._folder = folder
        self._stat = stat
        self._told = False
        self._closed: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look at once, and from then on, until closed. May be called again, also when started."""
        if self._thread is not None:
            return
        self._look()
        if not self._told:
            with held_back():  # Ctrl-C would leave a thread that never starts
                self._thread = threading.Thread(target=self._watch, name="disk", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """May be called twice."""
        if self._thread is not None:
            self._closed.put(None)
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._told:
            try:
                self._closed.get(timeout=PAUSE)
            except queue.Empty:
                self._look()
            else:
                return

    def _look(self) -> None:
        if self._told:
            return
        try:
            said = shortage(self._stat(self._folder))
        except OSError:  # the folder is gone, or its disk: the jobs will tell
            return
        if said is not None:
            self._told = True
            log.warning(
                "The disk of %s runs full: %s. Free some space, or jobs fail when they write.",
                self._folder,
                said,
            )


def shortage(space: os.statvfs_result) -> str | None:
    """Return what a disk has little of, and how little; None: there is enough."""
    total, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
    if total and free < min(SHARE * total, ENOUGH):
        return f"{show_size(free)} of {show_size(total)} are free"
    if space.f_files and space.f_favail < SHARE_OF_FILES * space.f_files:
        return f"{space.f_favail} of {space.f_files} files (inodes) are free"
    return None
