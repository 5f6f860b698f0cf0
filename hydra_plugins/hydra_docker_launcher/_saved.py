"""Saved: what another process needs to take up a sweep, as frozen values.

A sweep that is not over has them in files (``_sweep_folder``): its launcher may be killed at any
moment, and ``hydra-docker attach`` or ``resume=true`` goes on from there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ._engine import Host
from ._job import Job
from ._options import Mlflow
from ._running import RunnableJob
from ._tracking import JobRun, SweepRun
from ._usage import Point


@dataclass(frozen=True, slots=True)
class SavedRelay:
    """A way from containers to this machine's loopback address (``_relay``)."""

    listen: str
    port: int
    host: str
    target_port: int


@dataclass(frozen=True, slots=True)
class SavedSweep:
    """A sweep, as whoever looks after it must know it. Paths are absolute."""

    id: str
    folder: Path
    working_dir: Path
    user: str
    host: Host
    #: The machine's GPUs by their ids, as far as they are known.
    gpus: tuple[str, ...]
    n_jobs: int
    keep: str
    fail_fast: bool
    on_interrupt: str
    #: The user's image (its id), and the name of the one with the commit's files on top, which is
    #: removed after the sweep.
    image: str
    layer: str
    mlflow: Mlflow
    run: SweepRun
    #: The parent run; None where nothing is tracked.
    run_id: str | None = None
    relays: tuple[SavedRelay, ...] = ()
    system_metrics: bool = True
    admission: str = "engine"
    #: Parts of GPUs, each with the GPU that it is of.
    gpu_parts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a result depends on: resolved config (a digest of it), commit, and image (its id)."""

    config: str
    commit: str
    image: str

    @staticmethod
    def of(job: Job, commit: str, image: str) -> Identity:
        return Identity(f"sha256:{hashlib.sha256(job.yaml.encode()).hexdigest()}", commit, image)

    def as_json(self) -> dict[str, str]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class SavedJob:
    """A planned job, with all that is written for it and of it.

    ``content`` is what its worker reads; ``owner`` the ``uid:gid`` that its files are for;
    ``secrets`` the files of its folder of secrets. ``run`` lacks the artifacts that all runs of the
    sweep have. ``options`` are those that are not as the first job's, ``data`` what its volumes
    hold, as plain values. ``series`` is what was measured as it ran, of a job that has ended, and
    is not logged.
    """

    job: Job
    runnable: RunnableJob
    content: bytes
    owner: str | None
    run: JobRun
    identity: Identity
    secrets: tuple[tuple[str, bytes], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    data: tuple[Mapping[str, Any], ...] = ()
    series: tuple[Point, ...] = ()

    @property
    def number(self) -> int:
        return self.job.number
