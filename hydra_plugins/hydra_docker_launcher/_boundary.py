"""Boundary: what options open of the wall between containers and the host, in words. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from ._boundary_values import security_key
from ._option_values import Volume
from ._options import JobOptions

HEADING = (
    "Options open the boundary between the jobs and this host. Only run code that you trust with:"
)
#: Sockets of engines. Who can write to one is root on its machine.
SOCKETS = (
    "/run/docker.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/run/podman/podman.sock",
)
#: What the host itself is made of: to change it is to change the host.
_SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/root", "/sbin", "/sys"),
    *("/usr", "/var/lib/docker", "/var/lib/containerd", "/var/spool/cron"),
)
#: What nobody but root should read, and what tells how the host is set up.
_PRIVATE = ("/etc", "/proc", "/root", "/var/lib/docker", "/var/lib/containerd")
#: Devices that lead nowhere.
_HARMLESS_DEVICES = ("full", "null", "random", "tty", "urandom", "zero")
#: Runtimes that keep containers in as well as the engine's own does; nvidia's is that with GPUs.
_RUNTIMES = (None, "crun", "io.containerd.runc.v2", "kata-runtime", "nvidia", "runc", "runsc")
_ON = ("no-new-privileges", "no-new-privileges:true", "no-new-privileges=true")
#: What capabilities are that are as good as being root on the host.
_OF_ROOT = {
    "ALL": "all that root may do",
    "BPF": "programs in the host's kernel",
    "DAC_READ_SEARCH": "reading any file of the host's disks",
    "MKNOD": "devices of the host",
    "NET_ADMIN": "the set-up of its network",
    "SYS_ADMIN": "mounting, and as good as all that root may do on the host",
    "SYS_BOOT": "a restart of the host",
    "SYS_MODULE": "modules in the host's kernel",
    "SYS_PTRACE": "the memory of other processes that it sees",
    "SYS_RAWIO": "the host's memory and disks",
    "SYS_TIME": "the host's clock",
}


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What of the host it takes to see what a volume opens. Absolute paths without links."""

    home: str
    sockets: tuple[str, ...] = SOCKETS


def warning(
    jobs: Iterable[JobOptions], user: str, around: Surroundings, told: set[str]
) -> str | None:
    """Return what to tell the user of what options open, once in a sweep; None: nothing new.

    ``user`` is the option of that name. What is told is added to ``told``.
    """
    found = dict.fromkeys(line for options in jobs for line in openings(options, user, around))
    new = [line for line in found if line not in told]
    told.update(new)
    if not new:
        return None
    return "\n".join([HEADING, *(f"  hydra.launcher.{line}" for line in new)])


def openings(options: JobOptions, user: str, around: Surroundings) -> tuple[str, ...]:
    """Return a line for each option that opens what is shut by default: option and meaning."""
    return (
        *_of_user(user),
        *_of_capabilities(options),
        *_of_security(options.security_opt),
        *_of_namespaces(options.network_mode),
        *(line for device in options.devices for line in _of_device(device)),
        *_of_runtime(options),
        *(line for volume in options.volumes for line in _of_volume(volume, around)),
    )


def _of_user(user: str) -> Iterator[str]:
    if user == "image":
        yield "user=image: the jobs run as the image's user, which is root where it names none"
    elif user.partition(":")[0].lstrip("0") == "":
        yield f"user={user}: the jobs run as root; files that they make in volumes are root's"


def _of_capabilities(options: JobOptions) -> Iterator[str]:
    if "ALL" not in map(_capability, options.cap_drop):
        yield (
            f"cap_drop=[{','.join(options.cap_drop)}]: Docker's default capabilities stay, such as "
            "CHOWN, SETUID and NET_RAW"
        )
    for name in options.cap_add:
        meaning = _OF_ROOT.get(_capability(name), "a right that only root has otherwise")
        yield f"cap_add=[{name}]: {meaning}"


def _capability(name: str) -> str:
    return name.upper().removeprefix("CAP_")


def _of_security(options: Sequence[str]) -> Iterator[str]:
    privileges = [option for option in options if security_key(option)[0] == "no-new-privileges"]
    if not privileges or privileges[-1] not in _ON:  # the engine takes the last one
        yield (
            f"security_opt=[{','.join(map(_short, options))}]: without no-new-privileges:true, "
            "programs with a setuid bit make root of the job's user"
        )
    for option in options:
        key, value = security_key(option)
        if key == "seccomp" and value == "unconfined":
            yield f"security_opt=[{option}]: every system call of the kernel, rare ones too"
        elif key == "seccomp" and value != "builtin":
            yield "security_opt=[seccomp=…]: the system calls of your own profile, not of Docker's"
        elif key == "apparmor" and value == "unconfined":
            yield f"security_opt=[{option}]: parts of /proc and /sys that are shut otherwise"
        elif key == "label" and value == "disable":
            yield f"security_opt=[{option}]: SELinux does not confine the jobs"


def _short(option: str) -> str:
    return option if len(option) <= 40 else f"{option[:40]}…"


def _of_namespaces(mode: str | None) -> Iterator[str]:
    if mode == "host":
        yield (
            "network_mode=host: the host's own network, with services that listen on localhost "
            "only, and abstract sockets"
        )
    elif mode is not None and mode.startswith("container:"):
        yield f"network_mode={mode}: the network of that container, as if in it"


def _of_device(device: str) -> Iterator[str]:
    host = PurePosixPath(device.split(":", maxsplit=1)[0])
    if host.parent != PurePosixPath("/dev") or host.name not in _HARMLESS_DEVICES:
        yield f"devices=[{device}]: a device of the host, past what its files say of rights"


def _of_runtime(options: JobOptions) -> Iterator[str]:
    if options.runtime not in _RUNTIMES:
        yield f"runtime={options.runtime}: what a container may do is that runtime's word"
    if not options.init:
        yield "init=false: the job itself is process 1, and nobody reaps its zombies"


def _of_volume(volume: Volume, around: Surroundings) -> Iterator[str]:
    if volume.named:
        return
    source = PurePosixPath(volume.source)
    said = f"volumes=[{volume.source}:{volume.target}{':ro' if volume.read_only else ''}]"
    sockets = [path for path in around.sockets if PurePosixPath(path).is_relative_to(source)]
    if sockets:
        yield f"{said}: the engine's socket ({sockets[0]}), and with it root on this host"
    elif source.name.endswith(".sock"):
        yield f"{said}: a socket of the host; read-only or not, it can be talked to"
    elif not volume.read_only and _is_part_of(source, _SYSTEM):
        yield f"{said}: what this host is made of can be changed"
    elif volume.read_only and _is_part_of(source, _PRIVATE):
        yield f"{said}: what this host keeps to itself can be read"
    elif PurePosixPath(around.home).is_relative_to(source):
        what = "read" if volume.read_only else "read and changed"
        yield f"{said}: all of your home folder can be {what}, with the keys that are in it"


def _is_part_of(source: PurePosixPath, places: Iterable[str]) -> bool:
    """Tell whether a path is one of ``places``, is in it, or has it in it."""
    return any(
        source.is_relative_to(place) or PurePosixPath(place).is_relative_to(source)
        for place in places
        if source not in (PurePosixPath("/dev/null"), PurePosixPath("/dev/shm"))  # noqa: S108
    )
