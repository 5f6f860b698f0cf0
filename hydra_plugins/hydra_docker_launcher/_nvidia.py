"""NVIDIA: what ``nvidia-smi`` tells of this machine's GPUs, and of the processes that use them.

It may take a second, where the driver is not kept loaded: so it is asked seldom, in a thread of its
own, and one answer is for all containers. Its words are those of ``nvidia-smi --help-query-gpu``
and ``--help-query-compute-apps``.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ._engine import GpuSample
from ._option_values import Gpus

PROGRAM = "nvidia-smi"
GPU_FIELDS = ("uuid", "index", "memory.used", "memory.total", "utilization.gpu")
APP_FIELDS = ("pid", "gpu_uuid", "used_memory")
FORMAT = "--format=csv,noheader,nounits"
TIMEOUT = 10.0  # seconds
MIB = 1024**2
INTERVAL = 10.0  # seconds from one question to the next, at least
SHARE = 0.01  # of the time, that answers may take
FAILURES = 3  # in a row: then it is asked no more


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU, all in all. Sizes in bytes, ``utilization`` in percent."""

    id: str
    index: int
    used: int
    total: int
    utilization: float | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """What was told. ``apps`` are bytes by process and GPU; None: nobody tells of processes."""

    gpus: tuple[Gpu, ...] = ()
    apps: Mapping[tuple[int, str], int] | None = None

    def of(self, gpus: Gpus, processes: Iterable[int]) -> tuple[GpuSample, ...]:
        """Return what a container uses that was given ``gpus`` and has these processes.

        Where nobody tells of processes, all that is used of its GPUs is its own.
        """
        own = set(processes)
        used: dict[str, int] = {}
        for (process, gpu), memory in (self.apps or {}).items():
            if process in own:
                used[gpu] = used.get(gpu, 0) + memory
        return tuple(
            GpuSample(
                gpu.index,
                gpu.used if self.apps is None else used.get(gpu.id, 0),
                gpu.total,
                gpu.utilization,
            )
            for gpu in self.gpus
            # Of a number of GPUs, only its processes tell which ones it has.
            if gpus.all or {gpu.id, str(gpu.index)} & set(gpus.ids) or gpu.id in used
        )


NOTHING = Reading()


class Nvidia:
    """The GPUs of this machine. May be called from several threads."""

    def __init__(self) -> None:
        self._reading = NOTHING
        self._next = 0.0  # in time.monotonic's seconds
        self._failures = 0
        self._asking = False
        self._lock = threading.Lock()

    def read(self) -> Reading:
        """Return at once what ``nvidia-smi`` has told last; nothing where it has told nothing."""
        with self._lock:
            due = time.monotonic() >= self._next and self._failures < FAILURES
            if due and not self._asking:
                self._asking = True
                threading.Thread(target=self._ask, name=PROGRAM, daemon=True).start()
            return self._reading

    def _ask(self) -> None:
        begin = time.monotonic()
        program = shutil.which(PROGRAM)
        gpus = apps = None
        if program is not None:
            gpus = _ask(program, f"--query-gpu={','.join(GPU_FIELDS)}")
        if program is not None and gpus is not None:
            apps = _ask(program, f"--query-compute-apps={','.join(APP_FIELDS)}")
        spent = time.monotonic() - begin
        with self._lock:
            self._reading = NOTHING if gpus is None else reading(gpus, apps)
            missing = FAILURES if program is None else self._failures + 1
            self._failures = missing if gpus is None else 0
            self._next = begin + max(INTERVAL, spent / SHARE)
            self._asking = False


def reading(gpus: str, apps: str | None) -> Reading:
    """Return what two answers of ``nvidia-smi`` say; lines that say nothing are left out."""
    return Reading(tuple(filter(None, map(_gpu, gpus.splitlines()))), _apps(apps))


def _gpu(line: str) -> Gpu | None:
    try:
        id_, index, used, total, utilization = (word.strip() for word in line.split(","))
        size = (int(float(used) * MIB), int(float(total) * MIB))
        return Gpu(id_, int(index), *size, _number(utilization))
    except ValueError:  # a GPU that has been lost, or is divided into instances
        return None


def _apps(answer: str | None) -> dict[tuple[int, str], int] | None:
    """Return the bytes of each process on each GPU; None where one of them is not told."""
    if answer is None:
        return None
    found: dict[tuple[int, str], int] = {}
    for line in answer.splitlines():
        try:
            process, gpu, used = (word.strip() for word in line.split(","))
            found[int(process), gpu] = int(float(used) * MIB)
        except ValueError:  # [N/A], [Insufficient Permissions]
            return None
    return found


def _number(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:  # [N/A]
        return None


def _ask(program: str, query: str) -> str | None:
    try:
        done = subprocess.run(
            [program, query, FORMAT], capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout if done.returncode == 0 else None
