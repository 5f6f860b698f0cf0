"""Doctor: what a sweep needs on this machine, whether it is there, and what to do if not."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path

from . import _source
from ._engine import Engine, EngineFacts
from ._errors import DockerLauncherError, EngineError, SourceError, TrackingError
from ._harmless import one_line
from ._mlflow_store import Store, find_store
from ._tracking import History
from ._units import show_size

#: What setup.py asks for, and the newest that is known not to work.
SUPPORTED = {
    "hydra-core": ("1.3", "1.5"),
    "omegaconf": ("2.3", None),
    "docker": ("7", None),
    "gitpython": ("3.1.40", None),
    "mlflow": ("3.1", None),
}
OLDEST_PYTHON = (3, 10)
#: Of Docker 19.03, the first that gives containers GPUs; and of 20.10, the oldest that is tested.
NEEDED_API, TESTED_API = (1, 40), (1, 41)
LITTLE, TOO_LITTLE = 10 * 1024**3, 1024**3  # bytes of a disk that are free
SLOW_STORAGE = ("vfs", "devicemapper")
SHOWN = 3  # files that are named

MakeEngine = Callable[[], Engine]
#: Opens a store (None: the default one), whose default is in a folder.
OpenHistory = Callable[[str | None, Path], History]


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, how it stands, and what to do now."""

    level: Level
    what: str
    state: str
    remedy: str | None = None

    def __str__(self) -> str:
        remedy = f". {one_line(self.remedy)}" if self.remedy else ""
        return f"{self.level.value:<8} {self.what}: {one_line(self.state)}{remedy}"


def examine(
    make_engine: MakeEngine, open_history: OpenHistory, folder: Path, environ: Mapping[str, str]
) -> Iterator[Finding]:
    """Yield what is found for somebody who launches in ``folder``."""
    yield from versions(installed(), sys.version_info[:2])
    try:
        facts = make_engine().facts()
    except EngineError as error:
        yield no_engine(str(error), environ)
    else:
        yield from engine(facts)
        yield from _disks(facts, folder)
    yield from repository(folder)
    yield store(open_history, folder, environ)


# ---- what is installed ---------------------------------------------------------------------------


def installed() -> dict[str, str | None]:
    """Return the versions of what this project stands on, None of what is missing."""
    found: dict[str, str | None] = {}
    for name in SUPPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def versions(found: Mapping[str, str | None], python: tuple[int, int]) -> Iterator[Finding]:
    """Judge the versions of what is installed, and of Python."""
    bad = []
    for name, version in found.items():
        at_least, below = SUPPORTED[name]
        wanted = f"{name}>={at_least}" + (f",<{below}" if below else "")
        if version is None:
            bad.append((name, "is not installed", wanted))
        elif _numbers(version) < _numbers(at_least) or (
            below is not None and _numbers(version) >= _numbers(below)
        ):
            bad.append((name, f"{version} is not supported", wanted))
    for name, state, wanted in bad:
        yield Finding(Level.PROBLEM, name, state, f"Install it: pip install '{wanted}'")
    if python < OLDEST_PYTHON:
        yield Finding(
            Level.PROBLEM,
            "python",
            f"{python[0]}.{python[1]} is too old",
            "Use Python 3.10 or newer",
        )
    if not bad and python >= OLDEST_PYTHON:
        shown = ", ".join(f"{name} {version}" for name, version in found.items())
        yield Finding(Level.OK, "packages", shown)


def _numbers(version: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with; a release candidate counts as its release."""
    numbers = []
    for part in version.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


# ---- the engine ----------------------------------------------------------------------------------


def no_engine(error: str, environ: Mapping[str, str]) -> Finding:
    """Say what to do where no engine answers."""
    host = environ.get("DOCKER_HOST")
    lowered = error.lower()
    if "permission denied" in lowered:
        remedy = (
            "Your user may not use it: sudo usermod -aG docker $USER, and log in again (the group "
            "may do all that root may), or use a rootless engine"
        )
    elif host:
        remedy = f"DOCKER_HOST={one_line(host)} says where to look: correct it, or unset it"
    else:
        remedy = "Start Docker (sudo systemctl start docker), or say where it is with DOCKER_HOST"
    return Finding(Level.PROBLEM, "engine", error.splitlines()[0].removesuffix("."), remedy)


def engine(facts: EngineFacts) -> Iterator[Finding]:
    """Judge what an engine says of itself."""
    host = facts.host
    yield Finding(
        Level.OK,
        "engine",
        f"Docker {facts.version} at {facts.address} on {host.name}: {host.cpus} CPUs, "
        f"{show_size(host.memory)} of memory",
    )
    yield _api(facts)
    yield from _limits(facts)
    yield _storage(facts)
    yield _gpus(facts)


def _api(facts: EngineFacts) -> Finding:
    spoken = _numbers(facts.api)
    if spoken < NEEDED_API:
        level, remedy = Level.PROBLEM, "Install Docker 20.10 or newer"
    elif spoken < TESTED_API:
        level, remedy = Level.WARNING, "It is not tested with one so old: install Docker 20.10"
    else:
        return Finding(Level.OK, "api", f"version {facts.api}")
    return Finding(level, "api", f"version {facts.api} is old", remedy)


def _limits(facts: EngineFacts) -> Iterator[Finding]:
    version = facts.host.cgroup or "1"
    where = f"cgroup version {version}" + (
        f", driver {facts.cgroup_driver}" if facts.cgroup_driver else ""
    )
    missing = set(facts.limits)
    if facts.cgroup_driver == "none":  # a rootless engine without a delegated cgroup
        missing |= {"cpus", "mem_limit", "memswap_limit", "pids_limit"}
    for option in sorted(missing):
        vital = option in ("cpus", "mem_limit")
        yield Finding(
            Level.PROBLEM if vital else Level.WARNING,
            option,
            f"the engine cannot limit it ({where})",
            _REMEDIES[option],
        )
    if not missing:
        yield Finding(
            Level.OK, "limits", f"cpus, mem_limit, memswap_limit, pids_limit work ({where})"
        )
    for warning in facts.warnings:
        # What it says of limits stands above already; no option of a launcher needs these.
        if not any(word in warning for word in ("swap limit", "memory limit", "pids limit", "cfs")):
            text = warning.removeprefix("WARNING: ")
            yield Finding(Level.WARNING, "engine says", text, "See docs.docker.com for it")


_CONTROLLER = (
    "Enable its cgroup controller; for a rootless engine: systemd, cgroup version 2 and "
    "Delegate=cpu cpuset io memory pids for user@.service"
)
_REMEDIES = {
    "cpus": _CONTROLLER,
    "mem_limit": _CONTROLLER,
    "memswap_limit": "Start the kernel with swapaccount=1; until then a job may swap as well",
    "pids_limit": _CONTROLLER,
}


def _storage(facts: EngineFacts) -> Finding:
    driver = facts.host.storage or "unknown"
    if driver in SLOW_STORAGE:
        return Finding(
            Level.WARNING,
            "storage",
            f"driver {driver} is slow and needs much space",
            "Use overlay2 (daemon.json: storage-driver)",
        )
    return Finding(Level.OK, "storage", f"driver {driver}")


def _gpus(facts: EngineFacts) -> Finding:
    if "nvidia" in facts.runtimes:
        return Finding(Level.OK, "gpus", "the engine has the NVIDIA runtime")
    if _is_local(facts) and Path("/dev/nvidiactl").exists():
        return Finding(
            Level.WARNING,
            "gpus",
            "this machine has NVIDIA GPUs, and the engine has no NVIDIA runtime",
            "Install nvidia-container-toolkit, run nvidia-ctk runtime configure, restart Docker",
        )
    return Finding(Level.OK, "gpus", "no NVIDIA runtime, so jobs have no GPUs")


def _is_local(facts: EngineFacts) -> bool:
    return facts.host.name == os.uname().nodename


# ---- this machine --------------------------------------------------------------------------------


def _disks(facts: EngineFacts, folder: Path) -> Iterator[Finding]:
    places = [("disk of this folder", folder)]
    if _is_local(facts) and facts.data_root:
        places.append(("disk of the engine", Path(facts.data_root)))
    for what, place in places:
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            # The engine's folder is root's; what it lies in is on the same disk most often.
            continue
        yield disk(what, place, free)


def disk(what: str, place: Path, free: int) -> Finding:
    """Judge how many bytes are free where ``place`` is."""
    state = f"{show_size(free)} free at {place}"
    if free >= LITTLE:
        return Finding(Level.OK, what, state)
    level = Level.WARNING if free >= TOO_LITTLE else Level.PROBLEM
    remedy = "See what may go: hydra-docker gc --dry-run, docker system df"
    return Finding(level, what, f"only {state}", remedy)


def repository(folder: Path) -> Iterator[Finding]:
    """Judge the repository that ``folder`` is in."""
    try:
        source = _source.pin(
            folder, revision="HEAD", dirty="ignore", config_dirs=(), own_paths=_own_paths(folder)
        )
        pushed = _source.is_pushed(source)
    except SourceError as error:
        yield Finding(
            Level.PROBLEM,
            "repository",
            str(error).splitlines()[0].removesuffix("."),
            "Or go to the folder that you launch from",
        )
        return
    commit = source.commit[:12]
    # Which YAML is config, only the app knows; that may be changed.
    changed = [name for name in source.left_out if not name.endswith((".yaml", ".yml"))]
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        yield Finding(
            Level.WARNING,
            "repository",
            f"{source.root} has uncommitted changes: {', '.join(changed[:SHOWN])}{more}",
            "Commit them, or launch with hydra.launcher.dirty=snapshot",
        )
    if pushed is False:
        yield Finding(
            Level.WARNING,
            "repository",
            f"commit {commit} is on no branch of a remote, as far as the last fetch knows",
            f"For others to repeat it: {_source.push_command(source)}",
        )
    if not changed and pushed is not False:
        where = "is pushed" if pushed else "there is no remote"
        yield Finding(Level.OK, "repository", f"{source.root} is clean at {commit}; {where}")


def _own_paths(folder: Path) -> tuple[Path, ...]:
    """Return what the tracking store keeps below the folder: it is no code."""
    try:
        return find_store(None, folder, os.environ).own_paths
    except TrackingError:
        return ()


def store(open_history: OpenHistory, folder: Path, environ: Mapping[str, str]) -> Finding:
    """Judge the MLflow store that a sweep in ``folder`` would be recorded in."""
    try:
        found = find_store(None, folder, environ)
        if found.database is not None and not found.database.exists():
            return _new_store(found)
        open_history(None, folder)
    except DockerLauncherError as error:
        first, *rest = str(error).splitlines()
        remedy = " ".join(rest) or "Start it, or name another one with MLFLOW_TRACKING_URI"
        return Finding(Level.PROBLEM, "mlflow", first.removesuffix("."), remedy)
    return Finding(Level.OK, "mlflow", f"{found.shown} answers")


def _new_store(found: Store) -> Finding:
    if found.database is None:
        raise ValueError("the store is no file")
    parent = next(path for path in found.database.parents if path.exists())
    if not os.access(parent, os.W_OK):
        return Finding(
            Level.PROBLEM,
            "mlflow",
            f"{found.database} cannot be made: {parent} is not writable",
            "Launch in a folder of yours, or name a store with MLFLOW_TRACKING_URI",
        )
    return Finding(Level.OK, "mlflow", f"{found.database} is made by the first sweep")


def summary(findings: Iterable[Finding]) -> str:
    """Return how many of each there are, in words."""
    levels = [finding.level for finding in findings]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    if not problems and not warnings:
        return "All is well."
    parts = [
        f"{number} {name}{'' if number == 1 else 's'}"
        for number, name in ((problems, "problem"), (warnings, "warning"))
        if number
    ]
    return ", ".join(parts)
