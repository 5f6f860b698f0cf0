"""Advice: what helps against the known ways to fail, with the job's own limits in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ._engine import ContainerSpec, Mount
from ._units import show_size

MAX_PATH = 300  # characters of a path that is named
SHM = "/dev/shm"  # noqa: S108  (the container's)

OUT_OF_MEMORY = "Raise hydra.launcher.mem_limit, or make the job need less."
KILLED = (
    "Nobody did that through the engine, and it was not for mem_limit. A process of the job did, "
    "or one of the host (kill -9), or the host's kernel for want of memory (`dmesg` there tells): "
    "then run fewer jobs at once (hydra.launcher.n_jobs)."
)
CRASHED = (
    "Native code has crashed. Set PYTHONFAULTHANDLER=1 in hydra.launcher.environment, and the log "
    "shows where."
)
NO_TOOLKIT = (
    "The engine cannot give GPUs to containers: install the NVIDIA Container Toolkit on its "
    "machine."
)
NO_DRIVER = "The NVIDIA driver of the engine's machine does not answer: see `nvidia-smi` there."
NO_DEVICE = (
    "The engine's machine has no such GPU: see `nvidia-smi -L` there, and hydra.launcher.gpus."
)
NO_RUNTIME = "The engine has no such runtime: see `docker info`, and hydra.launcher.runtime."
NO_SUCH_NETWORK = "See `docker network ls`, and hydra.launcher.network_mode."
NO_SUCH_CONTAINER = "See `docker ps`, and hydra.launcher.network_mode."
ENGINE_FULL = (
    "The engine's disk is full. Free some space there: `docker system df` tells what takes it."
)
NO_MODULE = "Install it in the image."
OUT_OF_SIGHT = (
    "Its container may run on. When the engine is there again, hydra-docker attach or "
    "hydra.launcher.resume=true takes it up."
)


@dataclass(frozen=True, slots=True)
class Case:
    """A job that failed for a known reason.

    ``path`` is the file that it was about, where that is known. ``full`` are the mount points of
    the container where its worker has found no space left.
    """

    spec: ContainerSpec
    path: str | None = None
    full: Sequence[str] = ()

    @property
    def memory(self) -> str:
        return show_size(self.spec.limits.memory)

    @property
    def mount(self) -> Mount | None:
        """What is mounted where ``path`` is; None: nothing, or nobody knows."""
        return None if self.path is None else _mount(self.path, self.spec)


# ---- memory --------------------------------------------------------------------------------------


def host_out_of_memory(case: Case) -> str:
    return (
        "The machine itself had no memory left. Run fewer jobs at once (hydra.launcher.n_jobs), or "
        f"give each less than mem_limit={case.memory}."
    )


def gpu_memory(case: Case) -> str:
    if not case.spec.gpus:  # JAX and TensorFlow say the same of the machine's memory
        return refused_memory(case)
    return (
        "The GPU's own memory was full; mem_limit does not concern it. Make the job need less of "
        "it (a smaller batch), or let fewer jobs share a GPU (hydra.launcher.n_jobs)."
    )


def refused_memory(case: Case) -> str:
    return (
        "The machine has not got that much memory, or a ulimit forbids it: it was refused at once, "
        f"whatever mem_limit={case.memory} says. Make the job need less."
    )


# ---- GPUs ----------------------------------------------------------------------------------------


def no_gpu(case: Case) -> str:
    if not case.spec.gpus:
        return "The job was given no GPU: hydra.launcher.gpus is 0."
    return (
        "The job was given a GPU (hydra.launcher.gpus), but could not use it. See on the engine's "
        "machine that `nvidia-smi` works, and that its driver is new enough for the image's CUDA."
    )


# ---- space ---------------------------------------------------------------------------------------


def no_space(case: Case) -> str:
    """Say what was full: what ``path`` is on, else the only place that is known to be full."""
    place = None
    if case.path is not None and case.path.startswith("/"):
        place = _place(case.path, case.full, case.spec)
    elif SHM in case.full:
        place = SHM
    elif len(case.full) == 1:
        place = case.full[0]
    if place is not None:
        return _full(case.spec, place)
    if case.full:
        return f"Full were: {', '.join(map(_short, case.full))}. Free some space there."
    return (
        "What was full, it does not say: the disk of the output folder, that of the engine, a "
        f"tmpfs, or /dev/shm (shm_size={show_size(case.spec.limits.shm_size)})."
    )


def full_shm(case: Case) -> str:
    return _full(case.spec, SHM)


def bus_error(case: Case) -> str:
    return f"A bus error mostly means that shared memory has run out. {_full(case.spec, SHM)}"


def _full(spec: ContainerSpec, place: str) -> str:
    """Say what can be done about a place of the container that is full."""
    tmpfs = dict(spec.boundary.tmpfs)
    if place in tmpfs:
        entry = f"{place}:{tmpfs[place]}" if tmpfs[place] else place
        return f"The tmpfs {_short(entry)} was full. Give it more: hydra.launcher.tmpfs."
    if place == SHM:
        return _full_shm(spec)
    mount = _mount(place, spec)
    if mount is None:
        return (
            "The container's own files were too large for the engine's disk. Free some space there "
            "(`docker system df` tells what takes it), or write to the output folder or a volume."
        )
    if mount.named:
        return f"The volume {_short(mount.source)} was full. Free some space in it."
    return (
        f"The disk of {_short(mount.source)} was full. Free some space there, or choose other "
        "folders: hydra.sweep.dir, hydra.launcher.volumes."
    )


def _full_shm(spec: ContainerSpec) -> str:
    limits = spec.limits
    if limits.shm_size >= limits.memory:
        return (
            f"{SHM} was full: it counts as memory, of which there is mem_limit="
            f"{show_size(limits.memory)}. Raise hydra.launcher.mem_limit."
        )
    return (
        f"{SHM} was full: it holds shm_size={show_size(limits.shm_size)}. Raise "
        f"hydra.launcher.shm_size; it counts as memory (mem_limit={show_size(limits.memory)})."
    )


def quota(case: Case) -> str:
    where = f" of {_short(case.mount.source)}" if case.mount is not None else ""
    return f"The user's share of the disk{where} is used up. Free some space there."


# ---- files, processes, network -------------------------------------------------------------------


def open_files(case: Case) -> str:
    limits = {limit.name: limit.soft for limit in case.spec.limits.ulimits}
    now = f"nofile={limits['nofile']}" if "nofile" in limits else "the engine's default"
    return (
        f"The job may not have more files open at once ({now}). Raise "
        "hydra.launcher.ulimits: {nofile: 65536}."
    )


def processes(case: Case) -> str | None:
    if case.spec.limits.pids <= 0:
        return None
    return (
        f"The job may not have more processes and threads: pids_limit={case.spec.limits.pids}. "
        "Raise hydra.launcher.pids_limit, or use fewer workers and threads."
    )


def no_names(case: Case) -> str:
    mode = case.spec.boundary.network_mode
    if mode == "none":
        return "The job was given no network: hydra.launcher.network_mode=none."
    return (
        f"The container has found no name server (network_mode: {mode or 'the default'}). "
        "hydra.launcher.network_mode=host uses the host's."
    )


def no_network(case: Case) -> str | None:
    return no_names(case) if case.spec.boundary.network_mode == "none" else None


def read_only(case: Case) -> str | None:
    if case.path is None or not case.path.startswith("/"):
        return None
    if case.mount is not None and case.mount.read_only:
        return (
            f"{_short(case.mount.target)} is mounted read-only: see :ro in hydra.launcher.volumes."
        )
    if case.mount is None and case.spec.boundary.read_only:
        return (
            f"{_short(case.path)} is no place to write to (hydra.launcher.read_only=true). Write "
            "to the output folder, or name it in hydra.launcher.volumes or hydra.launcher.tmpfs."
        )
    return None


def not_permitted(case: Case) -> str | None:
    user = case.spec.boundary.user
    if case.path is None or not case.path.startswith("/") or user is None:
        return None
    if case.mount is None:
        return (
            f"{_short(case.path)} belongs to the image, where {user} (uid:gid) may not do that. "
            "Write to the output folder, or name it in hydra.launcher.volumes."
        )
    return (
        f"{user} (uid:gid) may not do that in the host's {_short(case.mount.source)}. Change the "
        "permissions there, or hydra.launcher.user."
    )


def no_such_file(case: Case) -> str | None:
    if case.path is None or case.mount is not None:
        return None
    return (
        f"{_short(case.path)} is not in the container: it has the image's files, the commit's, and "
        "what hydra.launcher.volumes names."
    )


def no_such_program(case: Case) -> str | None:
    return None if case.path is None else f"Install {_short(case.path)} in the image."


def no_temporary(case: Case) -> str | None:
    if not case.spec.boundary.read_only:
        return None
    return (
        "The container has no place for temporary files (hydra.launcher.read_only=true). Name one: "
        "hydra.launcher.tmpfs=[/tmp]."
    )


# ---- paths ---------------------------------------------------------------------------------------


def _place(path: str, full: Sequence[str], spec: ContainerSpec) -> str:
    """Return the mount point that has ``path``, of those that are full or that are known."""
    known = [SHM, *dict(spec.boundary.tmpfs), *(mount.target for mount in spec.mounts), *full, "/"]
    return max((place for place in known if _below(path, place)), key=len)


def _mount(path: str, spec: ContainerSpec) -> Mount | None:
    found = [mount for mount in spec.mounts if _below(path, mount.target)]
    return max(found, key=lambda mount: len(mount.target), default=None)


def _below(path: str, folder: str) -> bool:
    return PurePosixPath(path).is_relative_to(folder)


def _short(path: str) -> str:
    path = "".join(character for character in path if character.isprintable())
    return path if len(path) <= MAX_PATH else f"{path[:MAX_PATH]}…"
