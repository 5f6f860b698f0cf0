"""The Docker Engine, through its API. The only module that imports ``docker``."""

from __future__ import annotations

import io
import os
import re
import secrets
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any, BinaryIO

import docker
import requests
from docker.auth import INDEX_NAME
from docker.context import ContextAPI
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest
from docker.types import Mount as DockerMount
from docker.types import Ulimit as DockerUlimit
from docker.utils import parse_repository_tag

from . import _buildkit
from ._context import packed
from ._engine import BuildRequest, ContainerSpec, ContainerState, Found, Host, Image, Show
from ._errors import DockerLauncherError, EngineError, ImageError
from ._interrupt import held_back

CONNECT_TIMEOUT = 60  # seconds; of one answer, not of a stream
KILLED = 137  # exit code after SIGKILL
ACCURACY = 1e-3  # seconds, of the engine's times as numbers
NO_ENGINE = (
    "No Docker engine answers{where}: {reason}\n"
    "Start Docker (`docker info` must work for this user), or set DOCKER_HOST."
)
NO_PUSH = (
    "{error}\nSee that the registry is there and that you may push to it (`docker login "
    "{registry}`), or leave hydra.launcher.push out."
)
#: Names of images that are built here; no registry has them.
OWN_NAMES = ("hydra-docker/", f"{INDEX_NAME}/hydra-docker/")
#: Docker's words for what the kernel calls a machine.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


class DockerEngine:
    """The engine that ``docker`` on the command line would talk to."""

    def __init__(self) -> None:
        """Connect to DOCKER_HOST, else to the current docker context, else to the default socket.

        Raises ``EngineError`` where none answers.
        """
        try:
            self._client = _connect()
            self._client.ping()
        except (DockerException, requests.RequestException, OSError) as error:
            raise EngineError(NO_ENGINE.format(where="", reason=_first_line(error))) from error
        self._api = self._client.api

    def host(self) -> Host:
        with _engine_errors("ask the engine about its machine"):
            info = self._api.info()
        architecture = ARCHITECTURES.get(info["Architecture"], info["Architecture"])
        return Host(
            name=info["Name"],
            engine=f"Docker {info['ServerVersion']}",
            cpus=info["NCPU"],
            memory=info["MemTotal"],
            gateway=self._gateway(),
            system=info.get("OperatingSystem"),
            kernel=info.get("KernelVersion"),
            architecture=info.get("Architecture"),
            storage=info.get("Driver"),
            cgroup=info.get("CgroupVersion"),
            platform=f"{info['OSType']}/{architecture}",
        )

    def _gateway(self) -> str | None:
        try:
            network = self._api.inspect_network("bridge")
        except (APIError, NotFound):
            return None
        pools = (network.get("IPAM") or {}).get("Config") or []
        named = (pool["Gateway"] for pool in pools if pool.get("Gateway"))
        # Engine 20.10 does not name it before its first restart; it is the first address then.
        first = (str(next(ip_network(pool["Subnet"]).hosts())) for pool in pools)
        return next(named, None) or next(first, None)

    # ---- images ----------------------------------------------------------------------------------

    def find_image(self, reference: str) -> Image | None:
        try:
            with _engine_errors(f"look up the image {reference}", ImageError):
                found = self._api.inspect_image(reference)
        except ImageError as error:
            if isinstance(error.__cause__, ImageNotFound):
                return None
            raise
        return _image(found, reference)

    def pull(self, reference: str, show: Show) -> Image:
        name, tag = parse_repository_tag(reference)
        with _engine_errors(f"pull the image {reference}", ImageError):
            steps = self._api.pull(name, tag=tag or "latest", stream=True, decode=True)
            for line in _progress(steps, f"pull the image {reference}"):
                show(line)
        image = self.find_image(reference)
        if image is None:
            raise ImageError(f"The engine has pulled {reference}, but does not know it")
        return image

    def build(self, request: BuildRequest, context: Path, show: Show) -> Image:
        if request.needs:
            with _engine_errors("tell which engine it is"):
                info = self._api.info()
            _buildkit.build(request, context, show, info["ID"], info["ServerVersion"])
        else:
            self._build(request, context, show)
        image = self.find_image(request.tag)
        if image is None:
            raise ImageError(f"The engine has built {request.tag}, but does not know it")
        return image

    def _build(self, request: BuildRequest, context: Path, show: Show) -> None:
        """Build with the engine's own builder."""
        last: list[str] = []
        with (
            packed(context, request.dockerfile, request.text) as (archive, dockerfile),
            _engine_errors(f"build the image {request.tag}", ImageError),
        ):
            for step in self._api.build(
                fileobj=archive,
                custom_context=True,
                dockerfile=dockerfile,
                tag=request.tag,
                target=request.target,
                buildargs=dict(request.args),
                network_mode=request.network,
                labels=dict(request.labels),
                rm=True,
                forcerm=True,
                decode=True,
            ):
                for line in _printable(step.get("stream", "") or step.get("status", "")):
                    show(line)
                    last = [*last[-19:], line]
                if "error" in step:
                    raise ImageError(
                        f"Could not build the image from {request.dockerfile}: "
                        f"{step['error'].strip()}\nThe builder's last lines:\n"
                        + "\n".join(f"  {line}" for line in last)
                    )

    def push(self, image: str, repository: str, tag: str, show: Show) -> Image:
        reference = f"{repository}:{tag}"
        had = self.find_image(reference)
        try:
            with _engine_errors(f"push the image {reference}", ImageError):
                self._api.tag(image, repository, tag, force=True)
                steps = self._api.push(repository, tag=tag, stream=True, decode=True)
                for line in _progress(steps, f"push the image to {reference}"):
                    show(line)
        except BaseException as error:
            if had is None:
                self.remove_image(reference)
            if isinstance(error, ImageError):
                registry = repository.partition("/")[0]
                raise ImageError(NO_PUSH.format(error=error, registry=registry)) from error
            raise
        pushed = self.find_image(reference)
        if pushed is None:
            raise ImageError(f"The engine has pushed {reference}, but does not know it")
        return pushed

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
        name, _, version = tag.partition(":")
        # Two sweeps may make the same image at once.
        carrier = f"hydra-docker-layer-{version}-{secrets.token_hex(4)}"
        with held_back(), _engine_errors("put the commit's files on top of the image", ImageError):
            config = self._api.inspect_image(image)["Config"]
            runs = config.get("Cmd") or config.get("Entrypoint")
            try:
                self._api.create_container(
                    image,
                    command=None if runs else ["-"],  # the engine wants one, and never runs it
                    name=carrier,
                    labels=dict(labels),
                    working_dir=working_dir,
                )
                if fresh is not None and not self._is_fresh(carrier, fresh):
                    raise ImageError(
                        f"The image has files at {fresh} already, which would mix with the "
                        "commit's.\nLeave them out of the image (its code comes from the commit), "
                        "or clone the repository to another path."
                    )
                self._api.put_archive(carrier, "/", archive)
                made = self._api.commit(carrier, repository=name, tag=version, pause=False)
            finally:
                self.remove(carrier)
        return Image(id=made["Id"], reference=tag)

    def _is_fresh(self, container: str, path: str) -> bool:
        """Tell whether there is nothing at ``path``, or only an empty folder (a WORKDIR)."""
        try:
            stream, _ = self._api.get_archive(container, path)
        except NotFound:
            return True
        with tarfile.open(fileobj=_Chunks(stream), mode="r|") as archive:
            first, second = archive.next(), archive.next()
        return first is not None and first.isdir() and second is None

    def remove_image(self, image: str) -> None:
        try:
            self._api.remove_image(image, force=False, noprune=True)
        except (APIError, requests.RequestException):
            return  # in use by a container that is kept, or gone already

    def volume_exists(self, name: str) -> bool:
        try:
            with _engine_errors(f"look up the volume {name}"):
                self._api.inspect_volume(name)
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return False
            raise
        return True

    # ---- containers ------------------------------------------------------------------------------

    def probe(self, spec: ContainerSpec, limit: int) -> tuple[int, str]:
        name = f"{spec.name}-{secrets.token_hex(4)}"
        try:
            with held_back():
                self._create(spec, name)
            self.start(name)
            with _engine_errors("wait for a container"):
                code = self._api.wait(name)["StatusCode"]
                output = b""
                for chunk in self._api.logs(name, stream=True, stdout=True, stderr=True):
                    output += chunk
                    if len(output) > limit:
                        break
            return code, output[:limit].decode("utf-8", "replace")
        finally:
            with held_back():
                self.remove(name)

    def create(self, spec: ContainerSpec) -> str:
        try:
            return self._create(spec, spec.name)
        except EngineError as error:
            if _status(error) == 409:
                return self._create(spec, f"{spec.name}-{secrets.token_hex(2)}")
            raise

    def _create(self, spec: ContainerSpec, name: str) -> str:
        with _engine_errors(f"create the container {name}"):
            made = self._api.create_container(
                spec.image,
                # The image's own entry point is not run: it would get the command as arguments.
                entrypoint=list(spec.command[:1]),
                command=list(spec.command[1:]),
                name=name,
                working_dir=spec.working_dir,
                user=spec.boundary.user,
                environment=dict(spec.environment),
                labels=dict(spec.labels),
                stop_timeout=max(1, round(spec.stop_grace_period)),
                host_config=self._api.create_host_config(**_host_config(spec)),
            )
        return str(made["Id"])

    def containers(self, labels: Mapping[str, str | None]) -> tuple[Found, ...]:
        wanted = [name if value is None else f"{name}={value}" for name, value in labels.items()]
        with _engine_errors("list the containers"):
            listed = self._api.containers(all=True, filters={"label": wanted})
        # One that is being removed is as good as gone.
        found = [_found(entry) for entry in listed if entry["State"] != "removing"]
        return tuple(sorted(found, key=lambda container: container.created))

    def start(self, container: str) -> None:
        with _engine_errors("start the container"):
            self._api.start(container)

    def log_lines(self, container: str, since: str | None) -> Iterator[bytes]:
        # Who follows may miss what is written at the very end: a second reading has it.
        for follow in (True, False):
            try:
                for line in self._log_lines(container, since, follow=follow):
                    # Not always in order: stdout and stderr come each by itself.
                    since = max(since or "", line.split(b" ", 1)[0].decode("ascii", "replace"))
                    yield line
            except EngineError as error:
                if not isinstance(error.__cause__, NotFound):
                    raise

    def _log_lines(self, container: str, since: str | None, *, follow: bool) -> Iterator[bytes]:
        with _engine_errors("read the container's output"):
            stream = self._api.logs(
                container,
                stdout=True,
                stderr=True,
                stream=True,
                follow=follow,
                timestamps=True,
                since=_seconds(since) if since else None,
            )
            rest = b""
            for chunk in stream:
                # A line over 16 KiB comes in pieces, each with a time of its own.
                piece = chunk.partition(b" ")[2] if rest else chunk
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line for line in lines if _is_later(line, since))
            if rest and not follow and _is_later(rest, since):
                yield rest

    def state(self, container: str) -> ContainerState | None:
        try:
            with _engine_errors("look up a container"):
                found = self._api.inspect_container(container)
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        state = found["State"]
        if state["Status"] in ("removing", "dead"):  # `docker rm -f` has killed it first
            return None
        running = bool(state["Running"] or state.get("Restarting"))
        abnormal = not running and state["ExitCode"] != 0
        events = self._events_of(container, state) if abnormal else _NOTHING
        return ContainerState(
            running=running,
            exit_code=state["ExitCode"],
            oom_killed=bool(state["OOMKilled"]) or "oom" in events.actions,
            stopped="stop" in events.actions,
            signal=events.signal(state["ExitCode"]),
            error=state.get("Error", ""),
            started_at=state["StartedAt"],
            finished_at=state["FinishedAt"],
            unseen=abnormal and "die" not in events.actions,
        )

    def _events_of(self, container: str, state: dict[str, Any]) -> _Events:
        """Return what the engine remembers of a container's last run."""
        if state["StartedAt"].startswith("0001"):
            return _NOTHING
        events = self._events(container, state, until=f"{time.time():.9f}")
        killed = state["ExitCode"] == KILLED and not {"oom", "stop"} & events.actions
        if killed or (events.signals and "stop" not in events.actions):
            # The engine notes a `docker stop` only after the container has ended, and may learn
            # of a kill for want of memory only then.
            end = int(_seconds(state["FinishedAt"])) + 2
            events = self._events(container, state, until=end)
        return events

    def _events(self, container: str, state: dict[str, Any], until: str | int) -> _Events:
        with _engine_errors("read the engine's events"):
            events = list(
                self._api.events(
                    since=int(_seconds(state["StartedAt"])),
                    until=until,
                    filters={"container": container, "event": ["kill", "stop", "oom", "die"]},
                    decode=True,
                )
            )
        # The end of the run before a restart may be of the same second.
        started = _seconds(state["StartedAt"]) - ACCURACY
        events = [event for event in events if event["timeNano"] / 1e9 >= started]
        signals = (event["Actor"]["Attributes"].get("signal") for event in events)
        return _Events(
            frozenset(event["Action"] for event in events),
            tuple(int(number) for number in signals if number),
        )

    def stop(self, container: str, grace: float) -> None:
        try:
            with _engine_errors("stop the container"):
                self._api.stop(container, timeout=round(grace))
                # Not before: the engine refuses to update one that is just ending by itself.
                self._api.update_container(container, restart_policy={"Name": "no"})
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def remove(self, container: str) -> None:
        try:
            with _engine_errors("remove the container"):
                self._api.remove_container(container, v=True, force=True)
        except EngineError as error:
            # 409: a removal is under way already.
            if not isinstance(error.__cause__, NotFound) and _status(error) != 409:
                raise


@dataclass(frozen=True, slots=True)
class _Events:
    """What has happened to a container: the engine's words, and the signals sent through it."""

    actions: frozenset[str] = frozenset()
    signals: tuple[int, ...] = ()

    def signal(self, exit_code: int) -> int | None:
        """Return the signal that it died of, else the last one."""
        deadly = [number for number in self.signals if 128 + number == exit_code]
        return next(iter(deadly or self.signals[-1:]), None)


_NOTHING = _Events()


class _Chunks(io.RawIOBase):
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


def _connect() -> docker.DockerClient:
    if not os.environ.get("DOCKER_HOST"):
        context = ContextAPI.get_current_context()
        if context is not None and context.name != "default":
            return docker.DockerClient(
                base_url=context.Host, tls=context.TLSConfig, timeout=CONNECT_TIMEOUT
            )
    return docker.from_env(timeout=CONNECT_TIMEOUT)


def _host_config(spec: ContainerSpec) -> dict[str, Any]:
    limits, boundary = spec.limits, spec.boundary
    return {
        "nano_cpus": round(limits.cpus * 1_000_000_000),
        "mem_limit": limits.memory,
        "memswap_limit": limits.memory_swap,
        "shm_size": limits.shm_size,
        "pids_limit": limits.pids,
        "ulimits": [
            DockerUlimit(name=limit.name, soft=limit.soft, hard=limit.hard)
            for limit in limits.ulimits
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
        "restart_policy": {
            "Name": spec.restart.name,
            "MaximumRetryCount": spec.restart.retries,
        },
        "mounts": [
            DockerMount(
                source=mount.source,
                target=mount.target,
                type="volume" if mount.named else "bind",
                read_only=mount.read_only,
            )
            for mount in spec.mounts
        ],
    }


def _device_requests(spec: ContainerSpec) -> list[DeviceRequest]:
    """Ask for GPUs as ``docker run --gpus`` does: -1 is all of them."""
    if not spec.gpus:
        return []
    if spec.gpus.ids:
        return [DeviceRequest(device_ids=list(spec.gpus.ids), capabilities=[["gpu"]])]
    count = -1 if spec.gpus.all else spec.gpus.count
    return [DeviceRequest(count=count, capabilities=[["gpu"]])]


def _image(found: dict[str, Any], reference: str) -> Image:
    digests = [
        digest
        for digest in found.get("RepoDigests") or []
        # Where containerd stores the images, one has a digest without any registry.
        if not digest.startswith(OWN_NAMES)
    ]
    name = parse_repository_tag(reference)[0]
    name = name.removeprefix(f"{INDEX_NAME}/").removeprefix("library/")
    own = next((digest for digest in digests if digest.split("@")[0] == name), None)
    return Image(
        id=found["Id"],
        reference=reference,
        digest=own or next(iter(digests), None),
        triggers=tuple((found.get("Config") or {}).get("OnBuild") or ()),
    )


def _found(entry: dict[str, Any]) -> Found:
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


def _progress(steps: Iterable[dict[str, Any]], doing: str) -> Iterator[str]:
    """Yield a line for each change in a pull or a push; raise where it fails."""
    shown: dict[str, str] = {}
    for step in steps:
        if "error" in step:
            raise ImageError(f"Could not {doing}: {step['error']}")
        layer, status = step.get("id", ""), step.get("status", "")
        if status and shown.get(layer) != status:
            shown[layer] = status
            yield f"{layer}: {status}" if layer else status


def _printable(text: str) -> Iterator[str]:
    for line in re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text).splitlines():
        if line.strip():
            yield line.rstrip()


def _is_later(line: bytes, since: str | None) -> bool:
    """Tell whether a line, which begins with its time, is later than the time ``since``."""
    return since is None or line.split(b" ", 1)[0] > since.encode()


def _seconds(moment: str) -> float:
    """Return the seconds since the epoch of an RFC 3339 time with nanoseconds."""
    whole, _, fraction = moment.rstrip("Z").partition(".")
    stamp = datetime.fromisoformat(f"{whole}+00:00").timestamp()
    return stamp + float(f"0.{fraction or 0}")


def _first_line(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _status(error: BaseException) -> int | None:
    return getattr(error.__cause__, "status_code", None)


@contextmanager
def _engine_errors(doing: str, kind: type[DockerLauncherError] = EngineError) -> Iterator[None]:
    """Turn what ``docker`` raises into this project's errors: the one place that does."""
    try:
        yield
    except APIError as error:
        raise kind(f"The engine could not {doing}: {_first_line(error)}") from error
    except (DockerException, requests.RequestException, OSError) as error:
        raise EngineError(
            NO_ENGINE.format(where=f" (it was asked to {doing})", reason=_first_line(error))
        ) from error
