"""Cgroup: what the kernel of this machine has counted of a container, read from its own files.

That is how to measure a container for next to nothing: no request to the engine, no process. Only
where the container runs on this machine: the folder of its cgroup, with its 64-digit id in the
name, is the proof of that. Versions 1 and 2: https://docs.kernel.org/admin-guide/cgroup-v2.html
and https://docs.kernel.org/admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from ._engine import Sample

ROOT = Path("/sys/fs/cgroup")
PROC = Path("/proc")
#: Where Docker puts them by default: with the driver cgroupfs, and with systemd's.
USUAL = ("docker/{id}", "system.slice/docker-{id}.scope")
#: The controller by which a folder of version 1 is looked for.
MEMORY = "memory"
PROCESSES = 3  # of a container, by which its network is looked for
LONGEST = 1024 * 1024  # bytes that are read of one file
#: The second one is what older kernels have, without the groups below.
THROTTLED = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes")
NANO, MICRO = 1e-9, 1e-6


class Group:
    """The cgroup of one container. ``path`` is below each controller's folder in version 1."""

    def __init__(self, root: Path, path: str, *, unified: bool, proc: Path = PROC) -> None:
        self._root = str(root)
        self._path = path
        self._unified = unified
        self._proc = str(proc)

    def sample(self, *, network: bool) -> Sample | None:
        """Return what it uses now, None where it is gone; ``network``: it has one of its own."""
        try:
            found = self._unified_sample() if self._unified else self._split_sample()
        except (OSError, ValueError, IndexError):
            return None  # its last process has ended, and the folder goes with it
        received, sent = self._network() if network else (None, None)
        return Sample(*found, received=received, sent=sent)

    def processes(self) -> tuple[int, ...]:
        """Return the ids of its processes on this machine; nothing where it is gone."""
        try:
            return tuple(map(int, self._read("cgroup.procs", MEMORY).split()))
        except (OSError, ValueError):
            return ()

    def _unified_sample(self) -> tuple[float, float, int, int | None, int | None, int | None]:
        cpu = _value(self._read("cpu.stat"), b"usage_usec") * MICRO
        used = int(self._read("memory.current"))
        cached = _value(self._read("memory.stat"), b"inactive_file")
        return (time.time(), cpu, max(0, used - cached), self._pids(), *self._io())

    def _split_sample(self) -> tuple[float, float, int, int | None, int | None, int | None]:
        cpu = int(self._read("cpuacct.usage", "cpuacct")) * NANO
        used = int(self._read("memory.usage_in_bytes", MEMORY))
        cached = _value(self._read("memory.stat", MEMORY), b"total_inactive_file")
        return (time.time(), cpu, max(0, used - cached), self._pids(), *self._throttled())

    def _pids(self) -> int | None:
        try:
            return int(self._read("pids.current", "pids"))
        except (OSError, ValueError):
            return None  # the engine was told to do without that controller

    def _io(self) -> tuple[int | None, int | None]:
        """Read ``8:0 rbytes=1 wbytes=2 …``, a line for each device."""
        try:
            words = self._read("io.stat").split()
        except OSError:
            return None, None
        return _sum(words, b"rbytes="), _sum(words, b"wbytes=")

    def _throttled(self) -> tuple[int | None, int | None]:
        """Read ``8:0 Read 1``, three words for each device and kind; ``Total 1`` at the end."""
        for name in THROTTLED:
            try:
                lines = self._read(name, "blkio").splitlines()
            except OSError:
                continue
            words = [b"=".join(line.split()[1:]) for line in lines]
            return _sum(words, b"Read="), _sum(words, b"Write=")
        return None, None

    def _network(self) -> tuple[int | None, int | None]:
        """Return what was received and sent, but for what stayed inside."""
        for process in self.processes()[:PROCESSES]:
            try:
                return network(_content(f"{self._proc}/{process}/net/dev"))
            except (OSError, ValueError, IndexError):
                continue  # that one has just ended
        return None, None

    def _read(self, name: str, controller: str = "") -> bytes:
        folder = self._root if self._unified else f"{self._root}/{controller}"
        return _content(f"{folder}/{self._path}/{name}")


class Groups:
    """The cgroups of this machine's containers."""

    def __init__(self, root: Path = ROOT, proc: Path = PROC) -> None:
        self._root = root
        self._proc = proc
        self._unified = (root / "cgroup.controllers").exists()
        self._patterns = list(USUAL)

    def find(self, container: str) -> Group | None:
        """Return the cgroup of a container by its full id, None where it is in no known place."""
        for pattern in self._patterns:
            group = self._group(pattern.format(id=container))
            if group is not None:
                return group
        return None

    def find_by_process(self, container: str, process: int) -> Group | None:
        """Return the cgroup of a container by a process of it, wherever its engine has put it.

        ``process`` may be of another machine: then it has nothing to do with the container here.
        """
        try:
            lines = (self._proc / str(process) / "cgroup").read_text().splitlines()
        except (OSError, ValueError):
            return None
        for path in _paths(lines, unified=self._unified):
            if container in path and (group := self._group(path.lstrip("/"))) is not None:
                # All that this engine makes is there.
                self._patterns.insert(0, _escaped(path.lstrip("/"), container))
                return group
        return None

    def _group(self, path: str) -> Group | None:
        folder = self._root / path if self._unified else self._root / MEMORY / path
        if not folder.is_dir():
            return None
        return Group(self._root, path, unified=self._unified, proc=self._proc)


def _content(path: str) -> bytes:
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.read(handle, LONGEST)
    finally:
        os.close(handle)


def network(table: bytes) -> tuple[int, int]:
    """Return the bytes that a network's interfaces have received and sent, but for ``lo``.

    ``table`` is ``/proc/<pid>/net/dev``: two lines of titles, then ``name: received … sent …``.
    """
    received = sent = 0
    for line in table.splitlines()[2:]:
        name, _, numbers = line.partition(b":")
        if name.strip() != b"lo":
            counts = numbers.split()
            received, sent = received + int(counts[0]), sent + int(counts[8])
    return received, sent


def _paths(lines: Iterable[str], *, unified: bool) -> Iterator[str]:
    """Yield the paths of ``/proc/<pid>/cgroup``: ``4:memory:/path``; in version 2 ``0::/path``."""
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" if unified else MEMORY in controllers.split(","):
            yield path


def _escaped(path: str, container: str) -> str:
    return path.replace("{", "{{").replace("}", "}}").replace(container, "{id}")


def _value(text: bytes, name: bytes) -> int:
    """Return the number behind a name, where each line is a name and a number."""
    words = text.split()
    return int(words[words.index(name) + 1])


def _sum(words: Iterable[bytes], start: bytes) -> int:
    return sum(int(word[len(start) :]) for word in words if word.startswith(start))
