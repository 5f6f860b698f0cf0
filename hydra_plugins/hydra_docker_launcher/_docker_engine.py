"""The Docker Engine, through its API. The only module that imports ``docker``."""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import tarfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import docker
import requests
from docker.auth import INDEX_NAME
from docker.context import ContextAPI
from docker.errors import (
    APIError,
    DockerException,
    ImageNotFound,
    NotFound,
    StreamParseError,
)
from docker.utils import convert_filters, kwargs_from_env, parse_repository_tag, version_gte
from urllib3.exceptions import HTTPError, ReadTimeoutError

from . import _buildkit, _log_stream, _refusal
from . import _docker_values as values
from ._cgroup import Group, Groups
from ._context import packed
from ._engine import (
    BuildRequest,
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
    Show,
    Ticket,
    Use,
)
from ._errors import EngineError, ImageError
from ._harmless import lines
from ._interrupt import held_back
from ._nvidia import Nvidia
from ._patience import Patience
from ._units import whole_seconds

T = TypeVar("T")

CONNECT_TIMEOUT = 60  # seconds; of one answer, and of a stream in which nothing comes
EVENTS_TIMEOUT = 10  # seconds after which the engine has no more to tell of what was
PROBE_TIMEOUT = 300.0  # seconds for a look into an image
DEFAULT_ADDRESS = "unix:///var/run/docker.sock"
KILLED = 137  # exit code after SIGKILL
NO_ENGINE = (
    "No Docker engine answers{where}: {reason}\n"
    "Start Docker (`docker info` must work for this user), or set DOCKER_HOST."
)
NO_PUSH = (
    "{error}\nSee that the registry is there and that you may push to it (`docker login "
    "{registry}`), or leave hydra.launcher.push out."
)
#: What ``docker`` and the libraries below it raise where a connection fails, or ends too early.
LOST = (
    requests.RequestException,
    HTTPError,
    HTTPException,
    OSError,
    StreamParseError,
    struct.error,
    tarfile.ReadError,
)
LESS = 1e-6  # seconds: the engine counts in nanoseconds, for which a float has no room
ONE_SHOT = "1.41"  # the first version of the API with statistics that take no time
CHUNK = 64 * 1024  # bytes of an archive that are read at once
NAMES = 8  # how many are tried for one container
MISSES = 3  # containers without a cgroup on this machine: then the engine is on another one
LOOK_AGAIN = 30.0  # seconds after which a running container's limits are looked up again
RUNNING = ["running", "paused", "restarting"]


NO_END = (
    "The container that was to tell what the image {image} has ({python} -c …) has not come to its "
    "end in {minutes:g} minutes.\nImporting hydra may hang in that image. Try it: docker run --rm "
    "--network none {image} {python} -c 'import hydra'"
)


class _Api(docker.APIClient):  # type: ignore[misc]
    """The API, without reads that wait for ever."""

    def _disable_socket_timeout(self, socket: Any) -> None:
        """Leave a stream its time-out: an engine that hangs would be waited for without end."""

    def past_events(self, since: int, until: str | int, filters: Any) -> list[dict[str, Any]]:
        """Return events, of which none comes later than ``until`` by the engine's own clock.

        Where that is in its future, the end is not waited for.
        """
        answer = self._get(
            self._url("/events"),
            params={"since": since, "until": until, "filters": convert_filters(filters)},
            stream=True,
            timeout=(CONNECT_TIMEOUT, EVENTS_TIMEOUT),
        )
        found: list[dict[str, Any]] = []
        try:
            self._raise_for_status(answer)
            for event in self._stream_helper(answer, decode=True):
                found.append(event)  # noqa: PERF402  (what came before an error counts)
        except ReadTimeoutError:
            pass
        finally:
            answer.close()
        return found


class DockerEngine:
    """The engine that ``docker`` on the command line would talk to.

    What it cannot do for the moment is asked for again, but for the first connection.
    """

    def __init__(self, patience: Patience | None = None) -> None:
        """Connect to DOCKER_HOST, else to the current docker context, else to the default socket.

        Raises ``EngineError`` where none answers.
        """
        self._patience = patience or Patience()
        try:
            self._api = _connect()
            self._api.ping()
        except (DockerException, *LOST) as error:
            reason = _first_line(error)
            raise EngineError(
                NO_ENGINE.format(where="", reason=reason), transient=True, answered=False
            ) from error
        self._address = _address()
        self._groups = Groups()
        #: The cgroups of containers that are measured on this machine, by their ids.
        self._measured: dict[str, Group] = {}
        self._misses = 0
        self._nvidia = Nvidia()
        #: What running containers were found to have, and when, in ``time.monotonic``'s seconds.
        self._seen: dict[str, tuple[float, Occupant]] = {}

    def _ask(self, doing: str, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Return what a call returns that may be made more than once."""
        return self._insist(doing, partial(call, *args, **kwargs))

    def _insist(
        self,
        doing: str,
        request: Callable[[], T],
        *,
        again: Callable[[], T] | None = None,
        kind: type[EngineError] = EngineError,
    ) -> T:
        """Return what a request returns; ``again`` is made instead from the second time on."""

        def translated(ask: Callable[[], T]) -> T:
            with _engine_errors(doing, kind):
                return ask()

        return self._patience.ask(
            partial(translated, request), again=partial(translated, again or request)
        )

    def host(self) -> Host:
        info = self._ask("tell about its machine", self._api.info)
        return values.host(info, self._gateway())

    def _gateway(self) -> str | None:
        network = self._bridge()
        return None if network is None else values.gateway(network)

    def _bridge(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self._ask(
                "look up the network bridge", self._api.inspect_network, "bridge"
            )
        except EngineError as error:
            if not error.answered:
                raise
            return None
        return found

    # ---- images ----------------------------------------------------------------------------------

    def find_image(self, reference: str) -> Image | None:
        try:
            found = self._inspect_image(reference)
        except ImageError as error:
            if isinstance(error.__cause__, ImageNotFound):
                return None
            raise
        return values.image(found, reference, parse_repository_tag(reference)[0], INDEX_NAME)

    def _inspect_image(self, reference: str) -> dict[str, Any]:
        look = partial(self._api.inspect_image, reference)
        found: dict[str, Any] = self._insist(
            f"look up the image {reference}", look, kind=ImageError
        )
        return found

    def pull(self, reference: str, show: Show) -> Image:
        name, tag = parse_repository_tag(reference)
        with _engine_errors(f"pull the image {reference}", ImageError):
            steps = self._api.pull(name, tag=tag or "latest", stream=True, decode=True)
            for line in values.progress(steps, f"pull the image {reference}"):
                show(line)
        image = self.find_image(reference)
        if image is None:
            raise ImageError(f"The engine has pulled {reference}, but does not know it")
        return image

    def build(self, request: BuildRequest, context: Path, show: Show) -> Image:
        if request.needs:
            info = self._ask("tell which engine it is", self._api.info)
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
                for line in lines(step.get("stream", "") or step.get("status", "")):
                    show(line)
                    last = [*last[-19:], line]
                if "error" in step:
                    ending = "\n".join(f"  {line}" for line in last)
                    raise ImageError(
                        f"Could not build the image from {request.dockerfile}: "
                        f"{step['error'].strip()}\nThe builder's last lines:\n{ending}"
                        + _refusal.advice(f"{step['error']}\n{ending}")
                    )

    def push(self, image: str, repository: str, tag: str, show: Show) -> Image:
        reference = f"{repository}:{tag}"
        had = self.find_image(reference)
        try:
            with _engine_errors(f"push the image {reference}", ImageError):
                self._api.tag(image, repository, tag, force=True)
                steps = self._api.push(repository, tag=tag, stream=True, decode=True)
                for line in values.progress(steps, f"push the image to {reference}"):
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
        # Two sweeps may make the same image at once.
        carrier = f"hydra-docker-layer-{tag.partition(':')[2]}-{secrets.token_hex(4)}"
        with held_back():
            config = self._inspect_image(image)["Config"]
            runs = config.get("Cmd") or config.get("Entrypoint")
            try:
                self._create(
                    carrier,
                    None,
                    image=image,
                    command=None if runs else ["-"],  # the engine wants one, and never runs it
                    labels=dict(labels),
                    working_dir=working_dir,
                )
                if fresh is not None and not self._is_fresh(carrier, fresh):
                    raise ImageError(
                        f"The image has files at {fresh} already, which would mix with the "
                        "commit's.\nLeave them out of the image (its code comes from the commit), "
                        "or clone the repository to another path."
                    )
                self._fill(carrier, archive)
                made = self._commit(carrier, tag)
            finally:
                self.remove(carrier)
        return Image(id=made, reference=tag)

    def _fill(self, container: str, archive: BinaryIO) -> None:
        start = archive.tell()

        def put() -> None:
            archive.seek(start)
            self._api.put_archive(container, "/", archive)

        self._insist("put the commit's files on top of the image", put, kind=ImageError)

    def _commit(self, container: str, tag: str) -> str:
        """Make an image from a container, and return its id."""
        name, _, version = tag.partition(":")

        def commit() -> str:
            made = self._api.commit(
                container, repository=name, tag=version, pause=False, message=container
            )
            return str(made["Id"])

        def commit_once() -> str:
            try:
                found = self._api.inspect_image(tag)
            except ImageNotFound:
                return commit()
            return str(found["Id"]) if found.get("Comment") == container else commit()

        return self._insist(f"make the image {tag}", commit, again=commit_once, kind=ImageError)

    def _is_fresh(self, container: str, path: str) -> bool:
        """Tell whether there is nothing at ``path``, or only an empty folder (a WORKDIR)."""

        def look() -> bool:
            try:
                stream, _ = self._api.get_archive(container, path)
            except NotFound:
                return True
            with tarfile.open(fileobj=values.Chunks(stream), mode="r|") as archive:
                first, second = archive.next(), archive.next()
            return first is not None and first.isdir() and second is None

        return self._insist(f"look into the image at {path}", look, kind=ImageError)

    def remove_image(self, image: str) -> None:
        try:
            self._ask(
                f"remove the image {image}",
                self._api.remove_image,
                image,
                force=False,
                noprune=True,
            )
        except EngineError:
            return  # in use by a container that is kept, or gone already

    def images(self, labels: Mapping[str, str | None]) -> tuple[FoundImage, ...]:
        wanted = {"label": values.label_filter(labels)} if labels else None
        listed = self._ask("list the images", self._api.images, filters=wanted)
        steps = self._ask("list the images", self._api.images, filters=wanted, all=True)
        told = {entry["Id"] for entry in listed}
        found = []
        for entry in steps:
            facts: dict[str, Any] | None = {}
            if entry["Id"] in told:  # a step has nothing more to tell, and there are many
                facts = self._inspected(entry["Id"])
            if facts is not None:
                found.append(values.found_image(entry, facts))
        return tuple(sorted(found, key=lambda image: image.created))

    def _inspected(self, image: str) -> dict[str, Any] | None:
        try:
            return dict(self._ask("look up an image", self._api.inspect_image, image))
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):  # removed since it was listed
                return None
            raise

    def touch(self, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        try:
            with _engine_errors(f"note the use of the image {name}"):
                self._api.tag(name, repository, tag)
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def discard_image(self, name: str) -> None:
        try:
            with _engine_errors(f"remove the image {name}"):
                self._api.remove_image(name, force=False, noprune=True)
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def volume_exists(self, name: str) -> bool:
        try:
            self._ask(f"look up the volume {name}", self._api.inspect_volume, name)
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return False
            raise
        return True

    def network_exists(self, name: str) -> bool:
        try:
            self._ask(f"look up the network {name}", self._api.inspect_network, name)
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return False
            raise
        return True

    def networks(self) -> tuple[str, ...]:
        listed = self._ask("list the networks", self._api.networks)
        return tuple(sorted(str(network["Name"]) for network in listed))

    # ---- containers ------------------------------------------------------------------------------

    def probe(self, spec: ContainerSpec, limit: int) -> tuple[int, str]:
        name = f"{spec.name}-{secrets.token_hex(4)}"
        try:
            with held_back():
                self._create(name, None, **self._fields(spec))
            self.start(name)
            code = self._end_of_probe(name, spec)
            output = self._ask(f"read what {name} wrote", self._output, name, limit)
            return code, output.decode("utf-8", "replace")
        finally:
            with held_back():
                self.remove(name)

    def _end_of_probe(self, name: str, spec: ContainerSpec) -> int:
        deadline = time.monotonic() + PROBE_TIMEOUT

        def wait() -> int:
            rest = deadline - time.monotonic()
            try:
                return int(self._api.wait(name, timeout=max(0.1, rest))["StatusCode"])
            except LOST:
                if time.monotonic() < deadline:
                    raise
            raise ImageError(
                NO_END.format(
                    image=spec.image.removeprefix("sha256:")[:12],
                    minutes=PROBE_TIMEOUT / 60,
                    python=spec.command[0],
                )
            )

        return self._ask(f"wait for the container {name}", wait)

    def _output(self, container: str, limit: int) -> bytes:
        output = b""
        for chunk in self._api.logs(container, stream=True, stdout=True, stderr=True):
            output += chunk
            if len(output) > limit:
                break
        return output[:limit]

    def create(self, spec: ContainerSpec) -> str:
        labels = dict(spec.labels)
        known = values.of_one_attempt(labels, labels)
        # The same for the same request, also where a launcher that died had made it.
        mark = hashlib.sha256(repr(spec).encode()).hexdigest() if known else secrets.token_hex(32)
        fields = self._fields(spec)
        for number in range(NAMES):
            name = spec.name if number == 0 else f"{spec.name}-{mark[4 * number : 4 * number + 4]}"
            made = self._create(name, mark[:16], **fields)
            if made is not None:
                return made
        raise EngineError(f"The engine has containers with the name {spec.name} and more like it")

    def _fields(self, spec: ContainerSpec) -> dict[str, Any]:
        host_config = self._api.create_host_config(**values.host_config(spec))
        return {**values.fields(spec), "host_config": host_config}

    def _create(self, name: str, mark: str | None, **fields: Any) -> str | None:
        """Create a container and return its id, or None where another one has the name.

        Asked again, it takes what was made already: what has the same ``mark``. None: nobody else
        could have thought of the name.
        """
        labels = {**fields.pop("labels"), **({values.REQUEST_LABEL: mark} if mark else {})}

        def create() -> str | None:
            try:
                with _engine_errors(f"create the container {name}"):
                    made = self._api.create_container(name=name, labels=labels, **fields)
            except EngineError as error:
                if isinstance(error.__cause__, ImageNotFound):
                    raise ImageError(f"{error}\n{_refusal.IMAGE_GONE}") from error.__cause__
                if _status(error) != HTTPStatus.CONFLICT:
                    raise
                conflict = error
            else:
                return str(made["Id"])
            found = self._inspect_holder(name, conflict)
            if found["State"]["Status"] != "created":
                return None
            present = found["Config"]["Labels"] or {}
            if mark is None or present.get(values.REQUEST_LABEL) == mark:
                return str(found["Id"])
            if not values.of_one_attempt(present, labels):
                return None
            self.remove(found["Id"])  # left by a launcher that died, and made in another way
            return create()

        return self._patience.ask(create)

    def _inspect_holder(self, name: str, conflict: EngineError) -> dict[str, Any]:
        """Look up the container that has a name, with which another one could not be created."""
        with _engine_errors(f"look up the container {name}"):
            try:
                found: dict[str, Any] = self._api.inspect_container(name)
            except NotFound as error:  # it is just being made, or removed
                raise EngineError(str(conflict), transient=True) from error
        return found

    def containers(self, labels: Mapping[str, str | None]) -> tuple[Found, ...]:
        filters = {"label": values.label_filter(labels)}
        listed = self._ask("list the containers", self._api.containers, all=True, filters=filters)
        # One that is being removed is as good as gone.
        found = [values.container(entry) for entry in listed if entry["State"] != "removing"]
        return tuple(sorted(found, key=lambda container: container.created))

    def occupants(self) -> tuple[Occupant, ...]:
        doing = "list the containers that run"
        listed = self._ask(doing, self._api.containers, filters={"status": RUNNING})
        now, seen, found = time.monotonic(), self._seen, {}
        for entry in listed:
            number = entry["Id"]
            known = seen.get(number)
            if known is None or now - known[0] > LOOK_AGAIN:
                looked_up = self._look_up(number)
                known = None if looked_up is None else (now, values.occupant(looked_up))
            if known is not None:
                found[number] = known
        self._seen = found
        return tuple(occupant for _, occupant in found.values())

    def _look_up(self, container: str) -> dict[str, Any] | None:
        """Return what the engine knows of a container, None of one that is gone."""
        try:
            found: dict[str, Any] = self._ask(
                "look up a container", self._api.inspect_container, container
            )
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        return found

    def now(self) -> float:
        info = self._ask("tell the time", self._api.info)
        return values.moment(info["SystemTime"])

    def post_ticket(self, ticket: Ticket) -> None:
        # An empty volume: quickly made, removed and listed, and whoever reaches the engine sees it.
        self._ask(
            "keep a ticket (an empty volume)",
            self._api.create_volume,
            ticket.name,
            labels=dict(ticket.labels),
        )

    def tickets(self, label: str) -> tuple[Ticket, ...]:
        listed = self._ask("list the tickets", self._api.volumes, filters={"label": label})
        return tuple(values.ticket(volume) for volume in listed["Volumes"] or ())

    def drop_ticket(self, name: str) -> None:
        try:
            with _engine_errors("remove a ticket (an empty volume)"):
                self._api.remove_volume(name)
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def start(self, container: str) -> None:
        start = partial(self._api.start, container)

        def start_once() -> None:
            # It may have come to its end already; to start it then would run the job twice.
            if not values.was_started(self._api.inspect_container(container)["State"]):
                start()

        self._insist("start the container", start, again=start_once)

    def log_lines(self, container: str, since: str | None) -> Iterator[bytes]:
        reader = _log_stream.Reader(since)
        # Who follows may miss what is written at the very end: a second reading has it.
        for follow in (True, False):
            try:
                yield from self._log_lines(container, reader, follow=follow)
            except EngineError as error:
                if follow and isinstance(error.__cause__, ReadTimeoutError):
                    return  # a long pause, or a stream that has ceased to follow
                if not isinstance(error.__cause__, NotFound):
                    raise

    def _log_lines(
        self, container: str, reader: _log_stream.Reader, *, follow: bool
    ) -> Iterator[bytes]:
        since = reader.latest
        with _engine_errors("read the container's output"):
            stream = self._api.logs(
                container,
                stdout=True,
                stderr=True,
                stream=True,
                follow=follow,
                timestamps=True,
                since=values.seconds(since) - LESS if since else None,
            )
            yield from reader.lines(stream, to_the_end=not follow)

    def state(self, container: str) -> ContainerState | None:
        found = self._look_up(container)
        if found is None:
            return None
        state = found["State"]
        if state["Status"] in ("removing", "dead"):  # `docker rm -f` has killed it first
            return None
        abnormal = not values.is_running(state) and state["ExitCode"] != 0
        restarts = found.get("RestartCount") or 0
        told = partial(values.state, state, restarts=restarts)
        if not abnormal:
            return told(values.NOTHING, unseen=False)
        if not values.was_started(state):
            return told(values.NOTHING, unseen=True)
        until = self._until_now()
        events = self._events_of(container, state, until)
        if "die" in events.actions:
            return told(events, unseen=False)
        missed = self._memory().has_missed(state)
        return told(events, unseen=missed is True, forgotten=missed is None)

    def _until_now(self) -> str:
        """Return the time on the engine's clock, which is the one of its events."""
        info = self._ask("tell the time", self._api.info)
        return f"{values.moment(info['SystemTime']):.9f}"

    def _memory(self) -> values.Memory:
        until = self._until_now()
        listed = self._ask("read the engine's events", self._api.past_events, 1, until, {})
        return values.memory(listed, self._bridge())

    def _events_of(self, container: str, state: dict[str, Any], until: str) -> values.Events:
        """Return what the engine remembers of a container's last run."""
        events = self._events(container, state, until=until)
        killed = state["ExitCode"] == KILLED and not {"oom", "stop"} & events.actions
        if killed or (events.signals and "stop" not in events.actions):
            # The engine notes a `docker stop` only after the container has ended, and may learn
            # of a kill for want of memory only then.
            end = int(values.seconds(state["FinishedAt"])) + 2
            events = self._events(container, state, until=end)
        return events

    def _events(self, container: str, state: dict[str, Any], until: str | int) -> values.Events:
        since = values.seconds(state["StartedAt"])
        events = self._ask(
            "read the engine's events",
            self._api.past_events,
            int(since),
            until,
            {"container": container, "event": ["kill", "stop", "oom", "die"]},
        )
        return values.events(events, since)

    # ---- what they use ---------------------------------------------------------------------------

    def measure(self, container: str, spec: ContainerSpec) -> Sample | None:
        group = self._group(container)
        if group is None:
            return self._statistics(container)
        sample = group.sample(network=values.has_network(spec))
        if sample is None:
            self._measured.pop(container, None)
        elif spec.gpus:
            gpus = self._nvidia.read().of(spec.gpus, group.processes())
            return replace(sample, gpus=gpus)
        return sample

    def _group(self, container: str) -> Group | None:
        """Return the container's cgroup, where it runs on this machine and that can be read."""
        found = self._measured.get(container) or self._groups.find(container)
        if found is None and self._misses < MISSES:
            with _engine_errors("look up a container"):
                process = self._api.inspect_container(container)["State"]["Pid"]
            if process:
                found = self._groups.find_by_process(container, process)
                self._misses = self._misses + 1 if found is None else 0
        if found is not None:
            self._measured[container] = found
        return found

    def _statistics(self, container: str) -> Sample | None:
        """Ask the engine. That costs it, and this process, ten times as much and more."""
        # Before 1.41 it takes the engine two seconds, for a rate that is not needed.
        quick = {"one_shot": True} if version_gte(self._api.api_version, ONE_SHOT) else {}
        found = self._stats(container, **quick)
        return None if found is None else values.sample(found, time.time())

    def _stats(self, container: str, **options: bool) -> dict[str, Any] | None:
        """Return what the engine counts of a container, None where it does not run any more."""
        try:
            with _engine_errors("tell what a container uses"):
                return dict(self._api.stats(container, stream=False, **options))
        except EngineError as error:
            # Of one that ends meanwhile the engine says nothing at all, which is no JSON.
            if isinstance(error.__cause__, (NotFound, ValueError)):
                return None
            raise

    def stop(self, container: str, grace: float) -> None:
        try:
            self._ask("stop the container", self._api.stop, container, timeout=whole_seconds(grace))
            # Not before: the engine refuses to update one that is just ending by itself.
            never = {"Name": "no"}
            self._ask(
                "leave the container stopped",
                self._api.update_container,
                container,
                restart_policy=never,
            )
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    def remove(self, container: str) -> None:
        try:
            remove = self._api.remove_container
            self._ask("remove the container", remove, container, v=True, force=True)
        except EngineError as error:
            # 409: a removal is under way already.
            if not isinstance(error.__cause__, NotFound) and _status(error) != HTTPStatus.CONFLICT:
                raise

    def discard(self, container: str) -> None:
        try:
            with _engine_errors("remove the container"):
                self._api.remove_container(container, v=True, force=False)
        except EngineError as error:
            if not isinstance(error.__cause__, NotFound):
                raise

    # ---- what it may use, and does ---------------------------------------------------------------

    def grant(self, container: str) -> Grant | None:
        try:
            found = self._ask("look up a container", self._api.inspect_container, container)
        except EngineError as error:
            if isinstance(error.__cause__, NotFound):
                return None
            raise
        return values.grant(found)

    def use(self, container: str) -> Use | None:
        try:
            # Once: a container that just ends has no other answer to give.
            found = self._stats(container)
        except EngineError as error:
            if not error.answered:
                raise
            return None
        return None if found is None else values.use(found)

    def facts(self) -> EngineFacts:
        info = self._ask("tell about itself", self._api.info)
        host = values.host(info, None)
        return values.facts(info, host, self._address, self._api.api_version)

    # ---- what it has written ---------------------------------------------------------------------

    def written(self, container: str) -> int | None:
        found = self._ask(
            "tell the size of a container",
            self._api.containers,
            all=True,
            size=True,
            filters={"id": container},
        )
        size = found[0].get("SizeRw", 0) if found else None  # it leaves out a zero
        return size if size is not None and size >= 0 else None

    def changes(self, container: str) -> tuple[Change, ...]:
        found = self._ask("compare the container with its image", self._api.diff, container)
        return tuple(values.change(item) for item in found or ())

    def archive(self, container: str, path: str) -> Generator[bytes, None, None]:
        with _engine_errors(f"read {path} in the container"):
            chunks, _ = self._api.get_archive(container, path, chunk_size=CHUNK)
            try:
                yield from chunks
            finally:
                chunks.close()


def _connect() -> _Api:
    if not os.environ.get("DOCKER_HOST"):
        context = ContextAPI.get_current_context()
        if context is not None and context.name != "default":
            return _Api(base_url=context.Host, tls=context.TLSConfig, timeout=CONNECT_TIMEOUT)
    return _Api(timeout=CONNECT_TIMEOUT, **kwargs_from_env())


def _address() -> str:
    """Return where the engine is, as ``_connect`` finds it."""
    if os.environ.get("DOCKER_HOST"):
        return os.environ["DOCKER_HOST"]
    context = ContextAPI.get_current_context()
    return str(context.Host) if context is not None and context.Host else DEFAULT_ADDRESS


def _first_line(error: BaseException) -> str:
    text = getattr(error, "explanation", None) or _root(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]


def _root(error: BaseException) -> str:
    """Return what was said at the bottom of a connection's error."""
    inner: BaseException | None = error
    while inner is not None:
        error = inner
        parts = (*error.args, error.__cause__)
        inner = next((part for part in parts if isinstance(part, BaseException)), None)
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _status(error: BaseException) -> int | None:
    return getattr(error.__cause__, "status_code", None)


@contextmanager
def _engine_errors(doing: str, kind: type[EngineError] = EngineError) -> Iterator[None]:
    """Turn what ``docker`` raises into this project's errors: the one place that does."""
    try:
        yield
    except APIError as error:
        words = str(error.explanation or error)
        raise kind(
            f"The engine could not {doing}: {_first_line(error)}{_refusal.advice(words)}",
            transient=_refusal.may_pass(error.status_code or 0, words),
        ) from error
    except LOST as error:
        raise EngineError(
            NO_ENGINE.format(where=f" (it was asked to {doing})", reason=_first_line(error)),
            transient=True,
            answered=False,
        ) from error
    except DockerException as error:
        raise kind(f"The engine could not {doing}: {_first_line(error)}") from error
