"""Capacity: which job may start next beside those that run. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ._engine import ContainerSpec, Host
from ._option_values import Gpus


@dataclass
class Capacity:
    """What the containers of this sweep may use together.

    ``n_jobs`` -1: as many as fit by CPUs, memory and GPUs; else that many, whatever they use.
    ``gpus`` are the ids of the machine's GPUs, as far as they are known.
    """

    host: Host
    n_jobs: int
    gpus: tuple[str, ...] = ()
    _running: dict[int, ContainerSpec] = field(default_factory=dict)

    def fits(self, spec: ContainerSpec) -> bool:
        """Tell whether a container may start now. Where nothing runs, any may."""
        if not self._running:
            return True
        if self.n_jobs > 0 and len(self._running) >= self.n_jobs:
            return False
        if spec.gpus and self._free_gpus(spec.gpus) is None:
            return False
        if self.n_jobs > 0:
            return True
        specs = [*self._running.values(), spec]
        return (
            sum(s.limits.cpus for s in specs) <= self.host.cpus + 1e-9
            and sum(s.limits.memory for s in specs) <= self.host.memory
        )

    def take(self, number: int, spec: ContainerSpec) -> ContainerSpec:
        """Note that a job runs; return its specification with the GPUs that it gets, by id.

        A number of GPUs alone would give every container the engine's first ones.
        """
        if spec.gpus.count and self.gpus:
            ids = self._free_gpus(spec.gpus) or self.gpus[: spec.gpus.count]
            spec = replace(spec, gpus=Gpus(ids=tuple(ids)))
        self._running[number] = spec
        return spec

    def hold(self, number: int, spec: ContainerSpec) -> ContainerSpec:
        """Note that a job runs already, with the GPUs that stand in its specification."""
        self._running[number] = spec
        return spec

    def give_back(self, number: int) -> None:
        """Note that a job has ended; once more is no error."""
        self._running.pop(number, None)

    def _free_gpus(self, wanted: Gpus) -> Sequence[str] | None:
        """Return ids of GPUs that no running job has, or None where there are not enough.

        Where the machine's GPUs are not known by id, one job with GPUs runs at a time.
        """
        others = [spec.gpus for spec in self._running.values() if spec.gpus]
        if not others:
            return wanted.ids or self.gpus[: wanted.count]
        if wanted.all or any(gpus.all or gpus.count for gpus in others):
            return None
        used = {gpu for gpus in others for gpu in gpus.ids}
        if wanted.ids:
            return None if used & set(wanted.ids) else wanted.ids
        free = [gpu for gpu in self.gpus if gpu not in used]
        return free[: wanted.count] if len(free) >= wanted.count else None
