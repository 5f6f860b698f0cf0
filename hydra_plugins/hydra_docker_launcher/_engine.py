"""Engine: the seam to a container engine (``Engine``), and the values that cross it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from ._option_values import (
    DEFAULT_LOGGING,
    NO_GPUS,
    NO_RESTART,
    Gpus,
    Logging,
    Restart,
    Ulimit,
)

#: Takes one line for the user's console.
Show = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Host:
    """The machine of the engine. Memory in bytes."""

    name: str
    engine: str
    cpus: int
    memory: int
    #: The host's address on the engine's default bridge, as containers there see it.
    gateway: str | None = None
    #: What else can make a number differ: the operating system and its kernel, the architecture,
    #: the storage driver, the version of cgroups.
    system: str | None = None
    kernel: str | None = None
    architecture: str | None = None
    storage: str | None = None
    cgroup: str | None = None
    #: What its images are for: operating system/architecture, in Docker's words.
    platform: str = "linux/amd64"
    #: The limits that it cannot set on a container, of LIMITS, and what it says of that itself.
    cannot_limit: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    #: It runs without root's rights, which take a delegated cgroup to limit anything.
    rootless: bool = False
    #: The runtimes that it has, and the one that containers get which ask for none.
    runtimes: tuple[str, ...] = ()
    default_runtime: str | None = None


#: What an engine may be unable to limit.
LIMITS = ("cpus", "memory", "swap", "pids")


@dataclass(frozen=True, slots=True)
class Image:
    """One image. ``id`` is its content's digest; ``digest`` is ``repository@sha256:…`` or None.

    ``base`` is what a build has started from: the reference of its Dockerfile, a space, and that
    image's repository digest or else its id. None: not built here, or from nothing.
    """

    id: str
    reference: str
    digest: str | None = None
    base: str | None = None
    #: What it does to a build that starts from it (ONBUILD).
    triggers: tuple[str, ...] = ()

    @property
    def short(self) -> str:
        """The first twelve hex digits of the id, as ``docker images`` shows it."""
        return self.id.removeprefix("sha256:")[:12]


@dataclass(frozen=True, slots=True)
class Need:
    """Something that needs BuildKit: what, and the first Docker whose BuildKit has it."""

    what: str
    since: tuple[int, int]


@dataclass(frozen=True, slots=True)
class BuildRequest:
    """What to build. ``dockerfile`` is its path in the context, ``text`` what it says."""

    tag: str
    dockerfile: str
    text: str
    target: str | None
    args: tuple[tuple[str, str], ...]
    network: str | None
    labels: tuple[tuple[str, str], ...]
    needs: tuple[Need, ...] = ()


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of the host, or a named volume, in a container."""

    source: str
    target: str
    read_only: bool = False
    named: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a container. Sizes in bytes; -1 means no limit."""

    cpus: float
    memory: int
    memory_swap: int
    shm_size: int
    pids: int
    ulimits: tuple[Ulimit, ...] = ()


@dataclass(frozen=True, slots=True)
class Boundary:
    """What a container may do and see beside its files. ``user`` None: the image's."""

    user: str | None
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    read_only: bool = False
    tmpfs: tuple[tuple[str, str], ...] = ()
    devices: tuple[str, ...] = ()
    runtime: str | None = None
    network_mode: str | None = None
    extra_hosts: tuple[tuple[str, str], ...] = ()
    init: bool = True


@dataclass(frozen=True, slots=True)
class ContainerSpec:
    """Everything that makes one container. ``image`` is an id, never a tag."""

    name: str
    image: str
    command: tuple[str, ...]
    working_dir: str
    limits: Limits
    boundary: Boundary
    gpus: Gpus = NO_GPUS
    environment: tuple[tuple[str, str], ...] = ()
    mounts: tuple[Mount, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    restart: Restart = NO_RESTART
    #: Seconds between SIGTERM and SIGKILL.
    stop_grace_period: float = 10.0
    logging: Logging = DEFAULT_LOGGING


@dataclass(frozen=True, slots=True)
class ContainerState:
    """How a container stands. Times are RFC 3339 strings, as the engine gives them."""

    running: bool
    exit_code: int
    #: The kernel has killed one of its processes for want of memory.
    oom_killed: bool
    #: Somebody asked the engine to stop it (``docker stop``); False after ``docker kill``.
    stopped: bool
    #: The signal somebody sent through the engine, if any (``docker kill`` sends 9): of several,
    #: the one that it died of, else the last.
    signal: int | None
    #: The engine's own message, where it could not start it.
    error: str
    started_at: str
    finished_at: str
    #: The engine was not up itself when it ended, and has made up its exit code.
    unseen: bool = False
    #: The engine does not remember its end: who ended it, or whether the engine was up, is unknown.
    forgotten: bool = False
    #: It has just died, as exit code and ``oom_killed`` tell, and is about to be started again.
    restarting: bool = False
    #: How often the engine has started it again since it was itself started, or asked to start it.
    restarts: int = 0

    @property
    def was_started(self) -> bool:
        """Whether it has ever run."""
        return not self.started_at.startswith("0001")


@dataclass(frozen=True, slots=True)
class GpuSample:
    """What is used of one GPU: ``memory`` in bytes, by the container; ``utilization`` in percent.

    ``index`` is its number on the engine's machine. The utilization is the whole GPU's.
    """

    index: int
    memory: int
    memory_total: int
    utilization: float | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """What a container uses at one moment. None: nobody tells.

    ``time`` in seconds since the epoch, ``cpu`` in seconds that its processes have had together
    since it was started, sizes in bytes. ``memory`` is without what is in there only as a copy of
    files that were not used of late, as ``docker stats`` counts it. What was read, written (block
    devices), received and sent (network) is counted since its start.
    """

    time: float
    cpu: float
    memory: int
    pids: int | None = None
    read: int | None = None
    written: int | None = None
    received: int | None = None
    sent: int | None = None
    gpus: tuple[GpuSample, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """A container as the engine lists it. ``created`` in seconds since the epoch."""

    id: str
    name: str
    labels: Mapping[str, str]
    #: Docker's word: created, running, restarting, paused, exited or dead.
    status: str
    created: float
    #: The id of its image.
    image: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What the engine lets a container use. ``cpus`` and ``memory`` (bytes) 0: all there is.

    ``grace`` is in seconds, from SIGTERM to SIGKILL.
    """

    cpus: float = 0.0
    memory: int = 0
    gpus: Gpus = NO_GPUS
    grace: float = 10.0


@dataclass(frozen=True, slots=True)
class Use:
    """What a container uses now: so many busy CPUs, so many bytes of memory.

    Files that the kernel keeps in memory, and could drop, do not count.
    """

    cpus: float
    memory: int


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of itself, and what its machine cannot do.

    ``limits`` are the options of limits that have no effect there, ``warnings`` the engine's own.
    """

    address: str
    version: str
    api: str
    host: Host
    data_root: str
    cgroup_driver: str = ""
    runtimes: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Occupant:
    """A container that runs, whoever has started it, and what the engine lets it use at most.

    ``cpus`` and ``memory`` (bytes) None: it has no limit. Ids of GPUs are as it was given them:
    UUIDs, or their numbers on the machine.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    cpus: float | None
    memory: int | None
    gpus: Gpus = NO_GPUS


@dataclass(frozen=True, slots=True)
class Ticket:
    """A note that launchers keep on the engine, for all other launchers of that engine to see."""

    name: str
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """A path of a container that is not as in its image. ``path`` is absolute.

    ``kind`` is added, changed or deleted. Whether it is a file or a folder is not known.
    """

    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class FoundImage:
    """An image as the engine lists it. Times in seconds since the epoch, ``size`` in bytes.

    ``names`` are its ``repository:tag``, ``digests`` its ``repository@sha256:…``. An image without
    either may be a step of a build, which others stand on. ``layers`` are the digests of its layers
    from the lowest up, and ``parent`` is the id of what it was made from; not every engine tells
    them of every image.
    """

    id: str
    names: tuple[str, ...]
    digests: tuple[str, ...]
    labels: Mapping[str, str]
    created: float
    #: When it was last given a name (``Engine.touch``), or made.
    used: float
    size: int
    parent: str | None = None
    layers: tuple[str, ...] = ()


class Engine(Protocol):
    """One container engine. All methods may be called from several threads at once.

    A request that the engine refuses raises ``EngineError``; one about an image, ``ImageError``.
    What may be made more than once is, while the error is ``transient``, for a minute or two.
    """

    def host(self) -> Host:
        """Return the machine of the engine, or raise ``EngineError`` where none answers."""

    def find_image(self, reference: str) -> Image | None:
        """Return the local image of that name or id."""

    def pull(self, reference: str, show: Show) -> Image:
        """Pull an image, showing progress."""

    def build(self, request: BuildRequest, context: Path, show: Show) -> Image:
        """Build an image from all of a folder, showing the builder's output.

        The Dockerfile need not be in it. Where it needs BuildKit and there is none, raises
        ``ImageError`` that says what is missing.
        """

    def push(self, image: str, repository: str, tag: str, show: Show) -> Image:
        """Push an image (an id) as ``repository:tag``, and return it with its digest there."""

    def add_layer(
        self,
        image: str,
        archive: BinaryIO,
        tag: str,
        labels: Mapping[str, str],
        *,
        fresh: str | None = None,
        working_dir: str | None = None,
    ) -> Image:
        """Return a new image: ``image`` with the files of a tar archive on top.

        It starts in ``working_dir``, None: where ``image`` does. Raises ``ImageError`` where
        ``image`` has files at the path ``fresh`` already.
        """

    def remove_image(self, image: str) -> None:
        """Remove an image; one that is gone or still used by a container is left alone."""

    def images(self, labels: Mapping[str, str | None]) -> tuple[FoundImage, ...]:
        """Return the images that have all these labels, steps of builds among them; oldest first.

        A label with the value None may have any value.
        """

    def touch(self, name: str) -> None:
        """Note at an image that it is used now, as far as the engine can; one that is gone is none.

        ``name`` is its ``repository:tag``.
        """

    def discard_image(self, name: str) -> None:
        """Take a name from an image, or remove it by its id; without its last name it is removed.

        What it was made from stays. Raises ``EngineError`` where a container or another image needs
        it; one that is gone is no error.
        """

    def volume_exists(self, name: str) -> bool:
        """Tell whether there is a named volume."""

    def network_exists(self, name: str) -> bool:
        """Tell whether there is a network of that name or id."""

    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks."""

    def probe(self, spec: ContainerSpec, limit: int) -> tuple[int, str]:
        """Run a short container, remove it, return its exit code and up to ``limit`` characters.

        Raises ``ImageError`` where it does not come to its end within minutes.
        """

    def create(self, spec: ContainerSpec) -> str:
        """Create a container and return its id. A name that is taken gets a suffix.

        Asked twice for the same attempt of a job (by its labels), makes one container, as long as
        that was not started.
        """

    def containers(self, labels: Mapping[str, str | None]) -> tuple[Found, ...]:
        """Return the containers, running or not, that have all these labels; the oldest first.

        A label with the value None may have any value.
        """

    def occupants(self) -> tuple[Occupant, ...]:
        """Return the containers that run, of everybody on this engine."""

    def now(self) -> float:
        """Return the time by the engine's own clock, in seconds since the epoch."""

    def post_ticket(self, ticket: Ticket) -> None:
        """Keep a ticket; its name is nobody else's. Tickets cannot be changed."""

    def tickets(self, label: str) -> tuple[Ticket, ...]:
        """Return the tickets of all launchers that have this label, with any value."""

    def drop_ticket(self, name: str) -> None:
        """Remove a ticket, or raise ``EngineError`` at once; one that is gone is no error."""

    def start(self, container: str) -> None:
        """Start a container."""

    def log_lines(self, container: str, since: str | None) -> Iterator[bytes]:
        """Follow a container's output until it ends; where the connection is lost, raise at once.

        Ends too when nothing has come for a while: ``state`` tells whether there is more to follow.
        Yields lines without their end: an RFC 3339 time, a space, the text. ``since`` skips what is
        not later than that time.
        """

    def state(self, container: str) -> ContainerState | None:
        """Return how a container stands, or None where the engine does not know it."""

    def measure(self, container: str, spec: ContainerSpec) -> Sample | None:
        """Return what a container uses now, None where it does not run.

        Asked only once: raises ``EngineError`` at once. ``spec`` is what it was made from.
        """

    def stop(self, container: str, grace: float) -> None:
        """Send SIGTERM and, ``grace`` seconds later, SIGKILL; no restart policy starts it again."""

    def remove(self, container: str) -> None:
        """Remove a container, running or not; one that is gone is no error."""

    def written(self, container: str) -> int | None:
        """Return how many bytes of files a container has written in its own file system.

        That is quickly told, unlike ``changes``. None: the engine does not say.
        """

    def changes(self, container: str) -> tuple[Change, ...]:
        """Return what in a container's own file system is not as in its image.

        What is in its mounts is not in there; the places where they are mounted may be. The engine
        may look at every file of the image for that.
        """

    def archive(self, container: str, path: str) -> Generator[bytes, None, None]:
        """Yield a tar archive of a file, or of a folder and all below it; links are not followed.

        Its names begin with the last part of ``path``. To close the generator ends the transfer.
        """

    def discard(self, container: str) -> None:
        """Remove a container that does not run; one that is gone is no error.

        Raises ``EngineError`` where it runs.
        """

    def grant(self, container: str) -> Grant | None:
        """Return what a container may use, None where the engine does not know it."""

    def use(self, container: str) -> Use | None:
        """Return what a container uses now, None where it does not run.

        The engine measures for a second or two.
        """

    def facts(self) -> EngineFacts:
        """Return what the engine says of itself."""
