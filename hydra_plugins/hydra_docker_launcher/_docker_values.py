"""Docker's values: this project's values in the words of the engine's API, and the other way."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from typing import Any

from . import _refusal
from ._engine import (
    Change,
    ContainerSpec,
    ContainerState,
    EngineFacts,
    Found,
    FoundImage,
    Grant,
    Host,
    Image,
    Occupant,
    Sample,
    Ticket,
    Use,
)
from ._errors import ImageError
from ._harmless import one_line
from ._option_values import NO_GPUS, Gpus
from ._options import LABEL_PREFIX, VISIBLE_GPUS
from ._units import whole_seconds

#: Names of images that are built here; no registry has them.
OWN_NAMES = "hydra-docker/"
#: What a container is made from: a request that is made again knows by it what it made before.
REQUEST_LABEL = f"{LABEL_PREFIX}request"
#: Labels that only the containers of one and the same attempt of a job share.
ATTEMPT_LABELS = tuple(f"{LABEL_PREFIX}{name}" for name in ("sweep", "job", "attempt"))
ACCURACY = 1e-3  # seconds, of the engine's times as numbers
MOST_EVENTS = 256  # that an engine keeps (daemon/events of moby)
LATE_EVENTS = 64  # that may come between the question for the time and that for the events
CPU_PERIOD = 100_000  # microseconds, the kernel's
STOP_TIMEOUT = 10.0  # seconds, the engine's
#: Options of limits, and the flags without which the engine ignores them.
LIMIT_FLAGS = {
    "cpus": ("CpuCfsPeriod", "CpuCfsQuota"),
    "mem_limit": ("MemoryLimit",),
    "memswap_limit": ("SwapLimit",),
    "pids_limit": ("PidsLimit",),
}
#: How the engine numbers the kinds of changes.
CHANGES = ("changed", "added", "deleted")
#: Docker's words for what the kernel calls a machine.
#: What `docker info` says of the limits that it can set, in the words of ``Host``.
FLAGS = {
    "CpuCfsQuota": "cpus",
    "MemoryLimit": "memory",
    "SwapLimit": "swap",
    "PidsLimit": "pids",
}
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


# ---- to the engine -----------------------------------------------------------------------------


def fields(spec: ContainerSpec) -> dict[str, Any]:
    """Return a specification in the words of ``docker``, but for its host config."""
    return {
        "image": spec.image,
        # The image's own entry point is not run: it would get the command as arguments.
        "entrypoint": list(spec.command[:1]),
        "command": list(spec.command[1:]),
        "working_dir": spec.working_dir,
        "user": spec.boundary.user,
        "environment": dict(spec.environment),
        "labels": dict(spec.labels),
        "stop_timeout": max(1, whole_seconds(spec.stop_grace_period)),
    }


def host_config(spec: ContainerSpec) -> dict[str, Any]:
    """Return what ``docker`` makes a host config from. Sizes in bytes."""
    limits, boundary = spec.limits, spec.boundary
    return {
        "nano_cpus": round(limits.cpus * 1_000_000_000),
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory_swap,
        "shm_size": limits.shm_size,
        "pids_limit": limits.pids,
        "ulimits": [
            {"Name": limit.name, "Soft": limit.soft, "Hard": limit.hard} for limit in limits.ulimits
        ],
        "cap_add": list(boundary.cap_add),
        "cap_drop": list(boundary.cap_drop),
        "security_opt": list(boundary.security_opt),
        "read_only": boundary.read_only,
        "tmpfs": dict(boundary.tmpfs),
        "devices": list(boundary.devices),
        "network_mode": boundary.network_mode,
        "extra_hosts": dict(boundary.extra_hosts),
        "init": boundary.init,
        "runtime": boundary.runtime,
        "device_requests": _device_requests(spec),
        "restart_policy": {"Name": spec.restart.name, "MaximumRetryCount": spec.restart.retries},
        "log_config": {"type": spec.logging.driver, "config": dict(spec.logging.options)},
        "mounts": [
            {
                "Type": "volume" if mount.named else "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
            }
            for mount in spec.mounts
        ],
    }


def _device_requests(spec: ContainerSpec) -> list[dict[str, Any]]:
    """Ask for GPUs as ``docker run --gpus`` does: -1 is all of them."""
    if not spec.gpus:
        return []
    if spec.gpus.ids:
        return [{"DeviceIDs": list(spec.gpus.ids), "Capabilities": [["gpu"]]}]
    count = -1 if spec.gpus.all else spec.gpus.count
    return [{"Count": count, "Capabilities": [["gpu"]]}]


# ---- from the engine ---------------------------------------------------------------------------


def host(info: Mapping[str, Any], gateway: str | None) -> Host:
    """Return the machine of an engine that says ``info`` of itself."""
    architecture = ARCHITECTURES.get(info["Architecture"], info["Architecture"])
    return Host(
        name=info["Name"],
        engine=f"Docker {info['ServerVersion']}",
        cpus=info["NCPU"],
        memory=info["MemTotal"],
        gateway=gateway,
        system=info.get("OperatingSystem"),
        kernel=info.get("KernelVersion"),
        architecture=info.get("Architecture"),
        storage=info.get("Driver"),
        cgroup=info.get("CgroupVersion"),
        platform=f"{info['OSType']}/{architecture}",
        # An engine that is too old to tell can do it.
        cannot_limit=tuple(name for flag, name in FLAGS.items() if info.get(flag) is False),
        warnings=tuple(info.get("Warnings") or ()),
        rootless="name=rootless" in (info.get("SecurityOptions") or ()),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        default_runtime=info.get("DefaultRuntime") or None,
    )


def gateway(network: Mapping[str, Any]) -> str | None:
    """Return the host's address on a network."""
    pools = (network.get("IPAM") or {}).get("Config") or []
    named = (pool["Gateway"] for pool in pools if pool.get("Gateway"))
    # Engine 20.10 does not name it before its first restart; it is the first address then.
    first = (str(next(ip_network(pool["Subnet"]).hosts())) for pool in pools)
    return next(named, None) or next(first, None)


def image(found: Mapping[str, Any], reference: str, name: str, registry: str) -> Image:
    """Return an image that was looked up by ``reference``; ``name`` is that without a tag.

    ``registry`` is where a name without a registry is looked up.
    """
    digests = [
        digest
        for digest in found.get("RepoDigests") or []
        # Where containerd stores the images, one has a digest without any registry.
        if not digest.removeprefix(f"{registry}/").startswith(OWN_NAMES)
    ]
    name = name.removeprefix(f"{registry}/").removeprefix("library/")
    own = next((digest for digest in digests if digest.split("@")[0] == name), None)
    return Image(
        id=found["Id"],
        reference=reference,
        digest=own or next(iter(digests), None),
        triggers=tuple((found.get("Config") or {}).get("OnBuild") or ()),
    )


def container(entry: Mapping[str, Any]) -> Found:
    """Return an entry of the engine's list of containers."""
    names = [name.removeprefix("/") for name in entry["Names"] or []]
    return Found(
        id=entry["Id"],
        # A link from another container is one more name, with a slash in it.
        name=next((name for name in names if "/" not in name), entry["Id"][:12]),
        labels=dict(entry["Labels"] or {}),
        status=entry["State"],
        created=float(entry["Created"]),
        image=entry["ImageID"],
    )


def occupant(found: Mapping[str, Any]) -> Occupant:
    """Return a container that runs, as it was looked up."""
    host, config = found["HostConfig"], found["Config"]
    return Occupant(
        id=found["Id"],
        name=found["Name"].removeprefix("/"),
        labels=dict(config.get("Labels") or {}),
        cpus=_limited_cpus(host),
        memory=host.get("Memory") or None,
        gpus=_visible_gpus(host, config.get("Env") or ()),
    )


def _limited_cpus(host: Mapping[str, Any]) -> float | None:
    """Return the CPUs that a container may use, however that is said; None: all of them."""
    limits = []
    if host.get("NanoCpus"):
        limits.append(host["NanoCpus"] / 1_000_000_000)
    if (host.get("CpuQuota") or 0) > 0:
        limits.append(host["CpuQuota"] / (host.get("CpuPeriod") or 100_000))
    if host.get("CpusetCpus"):
        limits.append(float(_numbers_in(host["CpusetCpus"])))
    return min(limits, default=None)


def _numbers_in(text: str) -> int:
    """Return how many numbers a list such as ``0-3,8`` has."""
    ranges = [part.partition("-") for part in text.split(",") if part]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _visible_gpus(host: Mapping[str, Any], environment: Iterable[str]) -> Gpus:
    """Return the GPUs that a container sees, by any of the ways in which it gets them."""
    for request in host.get("DeviceRequests") or ():
        if ids := request.get("DeviceIDs"):
            ids = tuple(name.rpartition("=")[2] for name in ids)  # nvidia.com/gpu=0, of CDI
            return Gpus(all=True) if "all" in ids else Gpus(ids=ids)
        if count := request.get("Count"):
            return Gpus(all=True) if count == -1 else Gpus(count=count)
    if "nvidia" in (host.get("Runtime") or ""):
        variables = dict(line.partition("=")[::2] for line in environment)
        names = [name for name in variables.get(VISIBLE_GPUS, "").split(",") if name]
        if "all" in names:
            return Gpus(all=True)
        if names and names[0] not in ("void", "none"):
            return Gpus(ids=tuple(names))
    paths = (device.get("PathOnHost", "") for device in host.get("Devices") or ())
    numbers = (re.fullmatch(r"/dev/nvidia(\d+)", path) for path in paths)
    ids = tuple(number[1] for number in numbers if number)
    return Gpus(ids=ids) if ids else NO_GPUS


def ticket(volume: Mapping[str, Any]) -> Ticket:
    return Ticket(volume["Name"], dict(volume.get("Labels") or {}))


def label_filter(labels: Mapping[str, str | None]) -> list[str]:
    """Return the engine's filter for labels; None stands for any value."""
    return [name if value is None else f"{name}={value}" for name, value in labels.items()]


def found_image(entry: Mapping[str, Any], facts: Mapping[str, Any]) -> FoundImage:
    """Return an image that is listed; ``facts`` are what is found when it is looked up."""
    created = float(entry["Created"])
    named = (facts.get("Metadata") or {}).get("LastTagTime") or "0001"
    return FoundImage(
        id=entry["Id"],
        names=tuple(name for name in entry["RepoTags"] or () if name != "<none>:<none>"),
        digests=tuple(name for name in entry["RepoDigests"] or () if name != "<none>@<none>"),
        labels=dict(entry["Labels"] or {}),
        created=created,
        used=created if named.startswith("0001") else max(created, moment(named)),
        size=int(entry["Size"]),
        parent=entry.get("ParentId") or None,
        layers=tuple((facts.get("RootFS") or {}).get("Layers") or ()),
    )


def change(item: Mapping[str, Any]) -> Change:
    return Change(CHANGES[item["Kind"]], item["Path"])


def grant(found: Mapping[str, Any]) -> Grant:
    """Return what a container may use, which was looked up."""
    limits = found["HostConfig"]
    nano, quota = limits.get("NanoCpus") or 0, limits.get("CpuQuota") or 0
    # docker run --cpu-quota is another way to say the same.
    period = limits.get("CpuPeriod") or CPU_PERIOD
    timeout = found["Config"].get("StopTimeout")
    return Grant(
        cpus=nano / 1e9 if nano > 0 else max(0, quota) / period,
        memory=max(0, limits.get("Memory") or 0),
        gpus=_gpus(limits.get("DeviceRequests") or ()),
        grace=STOP_TIMEOUT if timeout is None else float(timeout),
    )


def _gpus(requests: Iterable[Mapping[str, Any]]) -> Gpus:
    found = NO_GPUS
    for request in requests:
        capabilities = {name for names in request.get("Capabilities") or () for name in names}
        if "gpu" in capabilities or request.get("Driver") == "nvidia":
            count, ids = request.get("Count") or 0, tuple(request.get("DeviceIDs") or ())
            found = Gpus(
                count=found.count + max(0, count),
                all=found.all or count < 0,
                ids=(*found.ids, *ids),
            )
    return found


def use(stats: Mapping[str, Any]) -> Use | None:
    """Return what a container uses, of the engine's two samples, None where it does not run.

    Memory is counted as ``docker stats`` does it.
    """
    now, before = stats.get("cpu_stats") or {}, stats.get("precpu_stats") or {}
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    busy = now["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    per_cpu = now["cpu_usage"].get("percpu_usage") or ()
    cpus = now.get("online_cpus") or len(per_cpu) or 1
    details = memory.get("stats") or {}
    # cgroup version 1 and 2 have different names for it.
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return Use(
        cpus=max(0.0, busy / system * cpus) if system > 0 else 0.0,
        memory=memory["usage"] - cache if cache < memory["usage"] else memory["usage"],
    )


def facts(info: Mapping[str, Any], host: Host, address: str, api: str) -> EngineFacts:
    """Return what an engine says of itself in ``info``; ``api`` is the version that is spoken."""
    missing = [
        option
        for option, flags in LIMIT_FLAGS.items()
        if not all(info.get(flag, False) for flag in flags)
    ]
    return EngineFacts(
        address=address,
        version=info["ServerVersion"],
        api=api,
        host=host,
        data_root=info.get("DockerRootDir", ""),
        cgroup_driver=info.get("CgroupDriver", ""),
        runtimes=tuple(sorted(info.get("Runtimes") or ())),
        limits=tuple(missing),
        warnings=tuple(info.get("Warnings") or ()),
    )


def is_running(state: Mapping[str, Any]) -> bool:
    """Tell whether a container runs, or is just being started again."""
    return bool(state["Running"] or state.get("Restarting"))


@dataclass(frozen=True, slots=True)
class Events:
    """What has happened to a container: the engine's words, and the signals sent through it."""

    actions: frozenset[str] = frozenset()
    signals: tuple[int, ...] = ()

    def signal(self, exit_code: int) -> int | None:
        """Return the signal that it died of, else the last one."""
        deadly = [number for number in self.signals if 128 + number == exit_code]
        return next(iter(deadly or self.signals[-1:]), None)


NOTHING = Events()


def events(listed: Iterable[Mapping[str, Any]], since: float) -> Events:
    """Return the events from ``since`` on, in seconds since the epoch."""
    # The end of the run before a restart may be of the same second.
    found = [event for event in listed if event["timeNano"] / 1e9 >= since - ACCURACY]
    signals = (event["Actor"]["Attributes"].get("signal") for event in found)
    return Events(
        frozenset(event["Action"] for event in found),
        tuple(int(number) for number in signals if number),
    )


@dataclass(frozen=True, slots=True)
class Memory:
    """How far back an engine can tell what has happened, in seconds since the epoch.

    It keeps the last MOST_EVENTS events, of everything on it, and none when it is started again:
    ``events`` are so many, ``oldest`` is the time of the first. Those that have come since it was
    asked are not among them, and have taken the places of others: LATE_EVENTS at most. ``start`` is
    when it was started, where that is known.
    """

    events: int
    oldest: float | None = None
    start: float | None = None

    def has_missed(self, state: Mapping[str, Any]) -> bool | None:
        """Tell of an end that is in no event whether the engine was down then; None: who knows."""
        if self.events < MOST_EVENTS - LATE_EVENTS:
            return True  # nothing has been forgotten since it was started
        if self.oldest is not None and self.oldest < seconds(state["FinishedAt"]) - ACCURACY:
            return True  # it remembers the time, and no such end
        if self.start is not None and self.start > seconds(state["StartedAt"]):
            return True
        return None


def memory(listed: Iterable[Mapping[str, Any]], network: Mapping[str, Any] | None) -> Memory:
    """Return what ``listed``, all events, and the engine's network ``bridge`` tell.

    The engine makes that network anew whenever it is started, unless containers have run on
    meanwhile.
    """
    times = [event["timeNano"] / 1e9 for event in listed]
    created = str((network or {}).get("Created") or "")
    return Memory(len(times), min(times, default=None), moment(created) if created else None)


def state(
    found: Mapping[str, Any],
    events: Events,
    *,
    unseen: bool,
    forgotten: bool = False,
    restarts: int = 0,
) -> ContainerState:
    """Return how a container stands; ``unseen``: the engine was down when it ended.

    ``forgotten``: the engine does not remember its end.
    """
    return ContainerState(
        running=is_running(found),
        exit_code=found["ExitCode"],
        oom_killed=bool(found["OOMKilled"]) or "oom" in events.actions,
        stopped="stop" in events.actions,
        signal=events.signal(found["ExitCode"]),
        error=found.get("Error", ""),
        started_at=found["StartedAt"],
        finished_at=found["FinishedAt"],
        unseen=unseen,
        forgotten=forgotten,
        restarting=bool(found.get("Restarting")),
        restarts=restarts,
    )


def sample(stats: Mapping[str, Any], now: float) -> Sample | None:
    """Return what a container uses, by the engine's statistics; None where it does not run."""
    memory = stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    # The name of version 1 of cgroups, and of version 2.
    counted = memory.get("stats") or {}
    cached = counted.get("total_inactive_file", counted.get("inactive_file", 0))
    disk = (stats.get("blkio_stats") or {}).get("io_service_bytes_recursive")
    networks = stats.get("networks")
    return Sample(
        time=now,
        cpu=stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
        memory=max(0, memory["usage"] - cached),
        pids=(stats.get("pids_stats") or {}).get("current"),
        read=None if disk is None else _moved(disk, "read"),
        written=None if disk is None else _moved(disk, "write"),
        received=None if networks is None else _total(networks, "rx_bytes"),
        sent=None if networks is None else _total(networks, "tx_bytes"),
    )


def _moved(entries: Iterable[Mapping[str, Any]], way: str) -> int:
    return sum(entry["value"] for entry in entries if entry["op"].lower() == way)


def _total(networks: Mapping[str, Mapping[str, int]], name: str) -> int:
    return sum(network[name] for network in networks.values())


def has_network(spec: ContainerSpec) -> bool:
    """Tell whether a container has a network of its own."""
    mode = spec.boundary.network_mode or ""
    return mode != "host" and not mode.startswith("container:")


def of_one_attempt(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Tell by their labels whether two containers are for the same attempt of the same job."""
    return all(label in one and one[label] == other.get(label) for label in ATTEMPT_LABELS)


def was_started(state: Mapping[str, Any]) -> bool:
    """Tell by its state whether a container has ever run."""
    return not state["StartedAt"].startswith("0001")


def progress(steps: Iterable[dict[str, Any]], doing: str) -> Iterator[str]:
    """Yield a line for each change in a pull or a push; raise where it fails."""
    shown: dict[str, str] = {}
    for step in steps:
        if "error" in step:
            words = str(step["error"])
            raise ImageError(f"Could not {doing}: {words}{_refusal.advice(words)}")
        layer, status = step.get("id", ""), step.get("status", "")
        if status and shown.get(layer) != status:
            shown[layer] = status
            yield one_line(f"{layer}: {status}" if layer else status)


def seconds(moment: str) -> float:
    """Return the seconds since the epoch of an RFC 3339 time with nanoseconds."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    stamp = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return stamp + float(f"0.{fraction or 0}")


def moment(text: str) -> float:
    """Return the seconds since the epoch of an RFC 3339 time with an offset from UTC."""
    fraction = re.search(r"\.\d+", text)
    whole = re.sub(r"\.\d+", "", text).replace("Z", "+00:00")
    return datetime.fromisoformat(whole).timestamp() + float(fraction[0] if fraction else 0)


class Chunks(io.RawIOBase):
    """A stream of chunks as a file."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            self._rest += chunk
        end = len(self._rest) if size < 0 else size
        result, self._rest = self._rest[:end], self._rest[end:]
        return result
