"""Plan: options, commit, image and job become one frozen specification per container.

Pure: no clock, no environment, no disk, no engine.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from . import _paths
from ._engine import Boundary, ContainerSpec, Host, Limits, Mount
from ._errors import OptionError
from ._job import Job
from ._masks import Variables, split_variables
from ._options import LABEL_PREFIX, VISIBLE_GPUS, JobOptions
from ._paths import JobPaths
from ._units import show_size

#: Names of containers that no job runs in: they put a layer together, or look into an image.
SHORT_LIVED = re.compile(r"hydra-docker-(layer-[\w.-]+|preflight-\d+)-[0-9a-f]{8}")
REVISION_LABEL = "org.opencontainers.image.revision"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the launching user is, and as whom containers run.

    ``container`` is ``uid:gid``, or None for the user that the image says.
    """

    name: str
    uid: int
    gid: int
    container: str | None


@dataclass(frozen=True, slots=True)
class Ground:
    """What all containers of a sweep share. ``image`` is the id of the image with the files."""

    sweep: str
    folder: Path
    working_dir: Path
    host: Host
    image: str
    python: str
    commit: str
    identity: Identity
    #: The option: how many containers run at once at most, -1: as many as fit.
    n_jobs: int
    #: What all containers have mounted, and whether each gets its folder of secrets.
    mounts: tuple[Mount, ...] = ()
    secrets: bool = False


def labels(sweep: str, commit: str, user: str) -> tuple[tuple[str, str], ...]:
    """Return the labels of everything that a sweep makes: containers and images."""
    return (
        (f"{LABEL_PREFIX}sweep", sweep),
        (f"{LABEL_PREFIX}commit", commit),
        (f"{LABEL_PREFIX}user", user),
        (REVISION_LABEL, commit),
    )


def folder_label(folder: Path) -> tuple[str, str]:
    """Return the label that tells where a sweep's outputs are."""
    return f"{LABEL_PREFIX}folder", str(folder)


def container(ground: Ground, job: Job, options: JobOptions) -> ContainerSpec:
    """Return the specification of the container of one job.

    Raises ``OptionError`` for limits that the engine's machine cannot give.
    """
    paths = job.paths
    public, secret = variables(job, options)
    hidden = ground.secrets or bool(secret) or bool(job.withheld.hidden)
    files = _own_files(job, secrets=hidden)
    own = (
        Mount(str(paths.output), str(job.output_dir)),
        *(Mount(str(source), str(target), read_only=True) for source, target, _ in files),
        *ground.mounts,
    )
    named = tuple(
        Mount(volume.source, volume.target, volume.read_only, volume.named)
        for volume in options.volumes
    )
    return ContainerSpec(
        name=container_name(job.name, ground.folder.name, job.number),
        image=ground.image,
        command=(ground.python, str(_paths.WORKER)),
        working_dir=str(ground.working_dir),
        limits=limits(options, ground.host, ground.n_jobs, job.title),
        boundary=_boundary(options, ground.identity),
        gpus=options.gpus,
        environment=_environment(options, public, ground.identity, ground.host),
        mounts=own + named + _guards(job, files),
        labels=(
            *_labels(job, options),
            *labels(ground.sweep, ground.commit, ground.identity.name),
            (f"{LABEL_PREFIX}job", str(job.number)),
            *(((f"{LABEL_PREFIX}gpu_share", "true"),) if options.gpu_share else ()),
            folder_label(ground.folder),
        ),
        restart=options.restart,
        stop_grace_period=options.stop_grace_period,
        logging=options.logging,
    )


def _labels(job: Job, options: JobOptions) -> Variables:
    """Return the user's labels, which everybody can read, without secrets of the config."""
    return tuple(
        (name, job.withheld.shown_option(f"hydra.launcher.labels.{name}", value))
        for name, value in options.labels
    )


def variables(job: Job, options: JobOptions) -> tuple[Variables, Variables]:
    """Return the variables of a job that the engine may show, and those that only the job gets."""
    withheld = job.withheld
    names = withheld.secret_variables("hydra.launcher.environment")
    public, secret = split_variables(options.environment, None, withheld.masks, names)
    return public, options.secret_environment + secret


def with_secrets(spec: ContainerSpec, job: Job) -> ContainerSpec:
    """Return ``spec`` with the job's folder of secrets mounted."""
    file = _secrets_folder(job)
    mounts = (Mount(str(file[0]), str(file[1]), read_only=True), _guard(file))
    return replace(
        spec, mounts=(*spec.mounts, *(mount for mount in mounts if mount not in spec.mounts))
    )


#: Where a file or folder of the launcher's is on the host, in the container, and in the job's own
#: output folder: it is in the container twice, see ``_guards``.
_OwnFile = tuple[Path, PurePosixPath, PurePosixPath]


def _own_files(job: Job, *, secrets: bool) -> tuple[_OwnFile, ...]:
    """Return the launcher's files for a job."""
    paths, inside = job.paths, JobPaths(job.output_dir)
    files = [(paths.job, _paths.JOB, PurePosixPath(inside.job))]
    if job.withheld.config is None:
        files.insert(0, (paths.config, _paths.CONFIG, PurePosixPath(inside.config)))
    else:  # a config with secrets is among those
        config = (paths.secret_config, _paths.CONFIG, PurePosixPath(inside.secret_config))
        files.insert(0, config)
    if secrets:
        files.append(_secrets_folder(job))
    return tuple(files)


def _secrets_folder(job: Job) -> _OwnFile:
    return job.paths.secrets, _paths.SECRETS, PurePosixPath(JobPaths(job.output_dir).secrets)


def _guards(job: Job, files: tuple[_OwnFile, ...]) -> tuple[Mount, ...]:
    """Return mounts of what is in the output folder already, in its own place.

    The engine looks up the source of a mount each time it starts the container (a restart policy),
    and follows links, as root. A job could rename a source in its output folder and put a link
    there; it cannot rename or remove a mount point.
    """
    paths, inside = job.paths, JobPaths(job.output_dir)
    # What is in the folder of secrets is guarded with it. What is written down of a config takes
    # the place of the one with secrets in the end.
    guarded = [file for file in files if file[0].parent == paths.private]
    if job.withheld.config is not None:
        guarded.append((paths.config, _paths.CONFIG, PurePosixPath(inside.config)))
    return (Mount(str(paths.private), str(inside.private)), *map(_guard, guarded))


def _guard(file: _OwnFile) -> Mount:
    return Mount(str(file[0]), str(file[2]), read_only=True)


def with_run(
    spec: ContainerSpec,
    run_id: str | None,
    environment: tuple[tuple[str, str], ...],
    folders: tuple[Path, ...],
) -> ContainerSpec:
    """Return ``spec`` for a job that is tracked as ``run_id``. The user's own variables win."""
    if run_id is None:
        return spec
    together = {**dict(environment), **dict(spec.environment)}
    present = {mount.target for mount in spec.mounts}
    mounts = tuple(Mount(str(path), str(path)) for path in folders if str(path) not in present)
    return replace(
        spec,
        environment=tuple(together.items()),
        mounts=spec.mounts + mounts,
        labels=(*spec.labels, (f"{LABEL_PREFIX}run_id", run_id)),
    )


def container_name(job: str, sweep: str, number: int) -> str:
    """Return a name such as ``train-10-00-00-0``, of the characters that Docker allows."""
    name = re.sub(r"[^a-zA-Z0-9_.-]+", "_", f"{job}-{sweep}-{number}")
    return name if re.match(r"[a-zA-Z0-9]", name) else f"job{name}"


def limits(options: JobOptions, host: Host, n_jobs: int, title: str) -> Limits:
    """Return the limits of one container, the defaults filled in from the engine's machine.

    As many as can run at once get an equal share of its memory. Raises ``OptionError`` where a
    limit is more than the machine has, less than another limit needs, or none that this engine can
    set.
    """
    _check_engine(options, host, title)
    if options.cpus > host.cpus:
        raise OptionError(
            f"{title}: hydra.launcher.cpus={options.cpus:g} is more than {host.name} has: "
            f"{host.cpus} CPUs"
        )
    memory = options.mem_limit or host.memory // jobs_at_once(n_jobs, options.cpus, host)
    if memory > host.memory:
        raise OptionError(
            f"{title}: hydra.launcher.mem_limit={show_size(memory)} is more than {host.name} has: "
            f"{show_size(host.memory)}"
        )
    no_swap = -1 if "swap" in host.cannot_limit else memory
    swap = no_swap if options.memswap_limit is None else options.memswap_limit
    if swap != -1 and swap < memory:
        raise OptionError(
            f"{title}: hydra.launcher.memswap_limit={show_size(swap)} is memory plus swap, so it "
            f"cannot be less than mem_limit={show_size(memory)}"
        )
    return Limits(
        cpus=options.cpus,
        memory=memory,
        memory_swap=swap,
        shm_size=memory if options.shm_size is None else options.shm_size,
        pids=options.pids_limit,
        ulimits=options.ulimits,
    )


def _check_engine(options: JobOptions, host: Host, title: str) -> None:
    """Raise ``OptionError`` for what the engine would leave out, or refuse job by job."""
    asked = {
        "cpus": ("cpus", f"{options.cpus:g}"),
        "memory": ("mem_limit", show_size(options.mem_limit) if options.mem_limit else "null"),
        "swap": ("memswap_limit", show_size(options.memswap_limit or 0)),
        "pids": ("pids_limit", str(options.pids_limit)),
    }
    if options.memswap_limit in (None, -1):
        del asked["swap"]
    if options.pids_limit == -1:
        del asked["pids"]
    for kind, (option, value) in asked.items():
        if kind in host.cannot_limit:
            raise OptionError(
                f"{title}: hydra.launcher.{option}={value}: the engine on {host.name} "
                f"({host.engine}, cgroup v{host.cgroup or '?'}) cannot limit {_LIMITED[kind]}.\n"
                f"{_remedy(kind, host)}"
            )
    known = options.runtime is None or options.runtime.startswith("io.containerd.")
    if host.runtimes and not known and options.runtime not in host.runtimes:
        raise OptionError(
            f"{title}: hydra.launcher.runtime={options.runtime}: {host.name} has no such runtime; "
            f"valid is: {', '.join(host.runtimes)}"
        )


_LIMITED = {"cpus": "CPUs", "memory": "memory", "swap": "swap", "pids": "processes"}


def _remedy(kind: str, host: Host) -> str:
    said = [line for line in host.warnings if _LIMITED[kind][:3].lower() in line.lower()]
    own = f"It says: {'; '.join(said)}. " if said else ""
    if host.rootless:
        return (
            f"{own}It runs without root's rights: that takes cgroup v2, and a cgroup that systemd "
            "delegates to its user (Delegate=cpu cpuset io memory pids)."
        )
    if kind == "swap":
        return (
            f"{own}Leave memswap_limit out (containers can swap then), or boot its kernel with "
            "swapaccount=1."
        )
    if kind == "pids":
        return f"{own}Set hydra.launcher.pids_limit=-1, or give its kernel the pids cgroup."
    return f"{own}Its kernel, or the container that it runs in, has not got that cgroup."


def shown_limits(spec: ContainerSpec) -> dict[str, str]:
    """Return the limits of a container as the user would write them."""
    limits = spec.limits
    return {
        "cpus": f"{limits.cpus:g}",
        "mem_limit": show_size(limits.memory),
        "shm_size": show_size(limits.shm_size),
        "pids_limit": str(limits.pids),
        "gpus": ",".join(spec.gpus.ids) or ("all" if spec.gpus.all else str(spec.gpus.count)),
    }


def jobs_at_once(n_jobs: int, cpus: float, host: Host) -> int:
    """Return how many containers the memory is shared by: as many as have CPUs, or ``n_jobs``.

    The larger one: a sweep that runs few jobs at once leaves room for those of others.
    """
    return max(1, n_jobs, int(host.cpus / cpus + 1e-9))


def _boundary(options: JobOptions, identity: Identity) -> Boundary:
    tmpfs = dict(options.tmpfs)
    if options.read_only and identity.container is not None:
        tmpfs.setdefault(str(_paths.HOME), f"mode=0700,{_owner_option(identity.container)}")
    return Boundary(
        user=identity.container,
        cap_add=options.cap_add,
        cap_drop=options.cap_drop,
        security_opt=options.security_opt,
        read_only=options.read_only,
        tmpfs=tuple(tmpfs.items()),
        devices=options.devices,
        runtime=options.runtime,
        network_mode=options.network_mode,
        extra_hosts=options.extra_hosts,
        init=options.init,
    )


def owner(user: str) -> tuple[int, int]:
    """Return uid and gid of ``uid:gid`` or ``uid`` (whose group is then 0, as Docker has it)."""
    uid, _, gid = user.partition(":")
    return int(uid), int(gid or 0)


def _owner_option(user: str) -> str:
    uid, gid = owner(user)
    return f"uid={uid},gid={gid}"


def _environment(
    options: JobOptions, public: Variables, identity: Identity, host: Host
) -> Variables:
    own = {"PYTHONUNBUFFERED": "1"}
    if not options.gpus and "nvidia" in (options.runtime or host.default_runtime or ""):
        # That runtime shows what a variable says, and images for CUDA say: all.
        own[VISIBLE_GPUS] = "void"
    if identity.container is not None:
        # A uid that the image's passwd file does not know has no home and no name.
        own |= {"HOME": str(_paths.HOME), "USER": identity.name, "LOGNAME": identity.name}
    return tuple({**own, **dict(public)}.items())
