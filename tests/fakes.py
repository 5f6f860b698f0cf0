"""Fakes at the two seams: an engine that plays scripted containers, a tracker that records."""

from __future__ import annotations

import io
import json
import tarfile
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher._attempt import RunnableJob
from hydra_plugins.hydra_docker_launcher._compose import ComposedJob
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    BuildRequest,
    Change,
    ContainerSpec,
    ContainerState,
    EngineFacts,
    Found,
    FoundImage,
    Host,
    Image,
    Limits,
    Mount,
    Occupant,
    Sample,
    Show,
    Ticket,
)
from hydra_plugins.hydra_docker_launcher._errors import EngineError, ImageError, TrackingError
from hydra_plugins.hydra_docker_launcher._job import Job
from hydra_plugins.hydra_docker_launcher._masks import secrets_of, split_variables
from hydra_plugins.hydra_docker_launcher._option_values import Volume
from hydra_plugins.hydra_docker_launcher._options import JobOptions, Mlflow, parse
from hydra_plugins.hydra_docker_launcher._private import NO_GLOBS
from hydra_plugins.hydra_docker_launcher._saved import Identity, SavedJob, SavedSweep
from hydra_plugins.hydra_docker_launcher._tracking import (
    JOB_TAG,
    JobRun,
    JobRunEnd,
    PastRun,
    RunStatus,
    StoreAccess,
    SweepRun,
)
from hydra_plugins.hydra_docker_launcher._usage import Point
from hydra_plugins.hydra_docker_launcher.config import _open_schema

GIB = 1024**3
HOST = Host(name="box", engine="Fake 1.0", cpus=4, memory=8 * GIB)
PATIENCE = 10.0  # seconds that a test waits for something that comes at once, or never
COMPLETED = {"outcome": "completed", "value": None}


@dataclass
class Play:
    """What one container does once it is started."""

    lines: tuple[str, ...] = ()
    exit_code: int = 0
    #: What its worker leaves in result.json (None: nothing).
    result: Mapping[str, Any] | None = field(default_factory=lambda: dict(COMPLETED))
    oom_killed: bool = False
    #: Runs until it is told to stop, or ``FakeEngine.release`` lets it end.
    waits: bool = False
    #: Does not end on SIGTERM, only on SIGKILL (a stop with no grace).
    ignores_sigterm: bool = False
    #: The engine refuses to create, or to start it.
    create_error: str | None = None
    start_error: str | None = None
    #: Whether it may grant later what it has refused.
    transient: bool = True
    #: The engine does not answer this often while its output is followed.
    outages: int = 0
    #: The engine goes away for good, as its output is followed.
    away: bool = False
    #: It is removed by hand while it runs.
    vanishes: bool = False
    #: A restart policy starts it again this often; ``result`` is written in the last run.
    restarts: int = 0
    #: It dies by itself each time, as ``exit_code`` and ``oom_killed`` say, and is seen dead.
    dies: bool = False
    #: ``start`` waits for this.
    start_gate: threading.Event | None = None
    #: Written when it ends.
    last_lines: tuple[str, ...] = ()
    #: What it leaves in its own file system, by absolute path: a file's bytes, a link's target,
    #: None for a new folder. Folders above that are not in here have only changed.
    left: Mapping[str, bytes | str | None] = field(default_factory=dict)
    #: The engine cannot say what it has left.
    diff_error: str | None = None
    #: What it uses at each moment that it is measured; the last one for all that follow.
    uses: tuple[Sample, ...] = ()


class FakeContainer:
    def __init__(self, spec: ContainerSpec, play: Play) -> None:
        self.spec = spec
        self.play = play
        self.started = False
        self.over = False
        self.removed = False
        self.exit_code = play.exit_code
        self.measured = 0
        self.restarts = play.restarts
        self.restarted = 0
        self.outages = play.outages
        #: The files of the folder of secrets, as they were when it was created.
        self.secrets = {
            file.name: file.read_bytes()
            for mount in spec.mounts
            if mount.target == "/hydra/secrets"
            for file in Path(mount.source).iterdir()
        }
        self.end = threading.Event()
        if not play.waits:
            self.end.set()

    @property
    def there(self) -> bool:
        """Whether the engine still knows it."""
        return not (self.removed or (self.play.vanishes and self.started))

    @property
    def status(self) -> str:
        if not self.started:
            return "created"
        return "exited" if self.over else "running"

    @property
    def variables(self) -> dict[str, str]:
        """All that its process has: those of the engine, and those that came in a file."""
        secret = json.loads(self.secrets.get("environment.json", b"{}"))
        return {**dict(self.spec.environment), **secret}

    @property
    def output(self) -> Path:
        """The job's output folder, which is its first mount."""
        return Path(self.spec.mounts[0].source)


@dataclass
class FakeEngine:
    """An engine without containers. ``plays`` says by job number what a container does.

    A tuple has a play for each attempt; the last one counts for all that follow.

    ``calls`` holds every request that changes something: its name, and the job's number (for
    ``stop`` the grace as well).
    """

    plays: Mapping[int, Play | tuple[Play, ...]] = field(default_factory=dict)
    machine: Host = HOST
    address: str = "unix:///var/run/docker.sock"
    local: dict[str, Image] = field(default_factory=dict)
    registry: dict[str, Image] = field(default_factory=dict)
    #: The registry refuses a push, with these words.
    push_error: str | None = None
    volumes: frozenset[str] = frozenset()
    network_names: tuple[str, ...] = ("bridge", "host", "none")
    #: Answers ``probe``: from a specification to exit code and output; may raise.
    answer: Callable[[ContainerSpec], tuple[int, str]] | None = None
    calls: list[tuple[Any, ...]] = field(default_factory=list)
    probes: list[ContainerSpec] = field(default_factory=list)
    builds: list[BuildRequest] = field(default_factory=list)
    archives: list[bytes] = field(default_factory=list)
    contexts: list[dict[str, bytes]] = field(default_factory=list)
    layers: list[tuple[str, str, dict[str, str], str | None]] = field(default_factory=list)
    working_dirs: list[str | None] = field(default_factory=list)
    #: Every container that was created, by its id.
    made: dict[str, FakeContainer] = field(default_factory=dict)
    #: Further images, as the engine lists them.
    found: tuple[FoundImage, ...] = ()
    #: Names of images that were noted as used.
    touched: list[str] = field(default_factory=list)
    most_at_once: int = 0
    #: What others run on it; the tickets of all launchers; its clock.
    others: tuple[Occupant, ...] = ()
    noted: dict[str, Ticket] = field(default_factory=dict)
    clock: Callable[[], float] = time.time
    #: Called before each look at the tickets: somebody else may act in between.
    before_look: Callable[[], None] = lambda: None
    #: It refuses to keep tickets, with these words.
    ticket_error: str | None = None

    def __post_init__(self) -> None:
        self._changed = threading.Condition()

    # ---- what a test does with it ----------------------------------------------------------------

    @property
    def running(self) -> set[int]:
        return {
            _number(container.spec)
            for container in self.made.values()
            if container.started and not container.over
        }

    @property
    def specs(self) -> dict[int, ContainerSpec]:
        return {_number(container.spec): container.spec for container in self.made.values()}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until ``condition``, which is looked at whenever something happens."""
        with self._changed:
            if not self._changed.wait_for(condition, PATIENCE):
                raise TimeoutError(f"did not happen; so far: {self.calls}")

    def look_again(self) -> None:
        """Have the conditions looked at that somebody waits for."""
        with self._changed:
            self._changed.notify_all()

    def wait_for_call(self, *call: Any) -> None:
        self.wait_for(lambda: call in self.calls)

    def release(self, number: int) -> None:
        """Let the newest container of a job end."""
        [c for c in self.made.values() if _number(c.spec) == number][-1].end.set()

    def has(self, container: str, spec: ContainerSpec) -> None:
        """Have a container that another launcher has started."""
        self.made[container] = FakeContainer(spec, self._play(spec))
        self.made[container].started = True

    # ---- Engine ----------------------------------------------------------------------------------

    def host(self) -> Host:
        return self.machine

    def facts(self) -> EngineFacts:
        return EngineFacts(self.address, "1.0", "1.41", self.machine, "/var/lib/docker")

    def find_image(self, reference: str) -> Image | None:
        return self.local.get(reference)

    def pull(self, reference: str, show: Show) -> Image:
        self._note("pull", reference)
        if reference not in self.registry:
            raise ImageError(f"Could not pull the image {reference}: no such image")
        show("layer: done")
        self.local[reference] = self.registry[reference]
        return self.local[reference]

    def build(self, request: BuildRequest, context: Path, show: Show) -> Image:
        self._note("build", request.tag)
        self.builds.append(request)
        self.contexts.append(
            {
                str(file.relative_to(context)): file.read_bytes()
                for file in sorted(context.rglob("*"))
                if file.is_file()
            }
        )
        show("Step 1/1 : FROM scratch")
        image = Image(f"sha256:{len(self.builds):064x}", request.tag)
        self.local[request.tag] = image
        return image

    def push(self, image: str, repository: str, tag: str, show: Show) -> Image:
        self._note("push", image, f"{repository}:{tag}")
        if self.push_error is not None:
            raise ImageError(self.push_error)
        show("layer: Pushed")
        reference = f"{repository}:{tag}"
        pushed = Image(image, reference, f"{repository}@sha256:{0xD16:064x}")
        self.local[reference] = self.registry[reference] = pushed
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
        self._note("add_layer", tag)
        self.archives.append(archive.read())
        self.layers.append((image, tag, dict(labels), fresh))
        self.working_dirs.append(working_dir)
        made = Image(f"sha256:{0xABC + len(self.layers) - 1:064x}", tag)
        self.local[tag] = made
        return made

    def remove_image(self, image: str) -> None:
        self._note("remove_image", image)

    def images(self, labels: Mapping[str, str | None]) -> tuple[FoundImage, ...]:
        return tuple(image for image in self.found if labels.items() <= dict(image.labels).items())

    def touch(self, name: str) -> None:
        self.touched.append(name)

    def volume_exists(self, name: str) -> bool:
        return name in self.volumes

    def network_exists(self, name: str) -> bool:
        return name in self.network_names

    def networks(self) -> tuple[str, ...]:
        return self.network_names

    def probe(self, spec: ContainerSpec, limit: int) -> tuple[int, str]:
        self.probes.append(spec)
        if self.answer is None:
            raise EngineError("this engine was not expected to be asked")
        code, output = self.answer(spec)
        return code, output[:limit]

    def create(self, spec: ContainerSpec) -> str:
        play = self._play(spec)
        self._note("create", _number(spec))
        if play.create_error is not None:
            raise _refusal(play.create_error, play)
        with self._changed:
            name = f"container-{len(self.made)}"
            self.made[name] = FakeContainer(spec, play)
        return name

    def containers(self, labels: Mapping[str, str | None]) -> tuple[Found, ...]:
        return tuple(
            Found(
                id=name,
                name=container.spec.name,
                labels=dict(container.spec.labels),
                status=container.status,
                created=float(number),
                image=container.spec.image,
            )
            for number, (name, container) in enumerate(self.made.items())
            if container.there and _has(dict(container.spec.labels), labels)
        )

    def occupants(self) -> tuple[Occupant, ...]:
        with self._changed:
            ours = tuple(
                Occupant(
                    id=name,
                    name=container.spec.name,
                    labels=dict(container.spec.labels),
                    cpus=container.spec.limits.cpus,
                    memory=container.spec.limits.memory,
                    gpus=container.spec.gpus,
                )
                for name, container in self.made.items()
                if container.there and container.status == "running"
            )
        return (*self.others, *ours)

    def now(self) -> float:
        return self.clock()

    def post_ticket(self, ticket: Ticket) -> None:
        if self.ticket_error is not None:
            raise EngineError(self.ticket_error)
        with self._changed:
            self.noted[ticket.name] = ticket
            self._changed.notify_all()

    def tickets(self, label: str) -> tuple[Ticket, ...]:
        self.before_look()
        with self._changed:
            name, _, value = label.partition("=")
            return tuple(
                ticket
                for ticket in self.noted.values()
                if name in ticket.labels and value in ("", ticket.labels[name])
            )

    def drop_ticket(self, name: str) -> None:
        with self._changed:
            self.noted.pop(name, None)
            self._changed.notify_all()

    def start(self, container: str) -> None:
        found = self.made[container]
        self._note("start", _number(found.spec))
        if found.play.start_gate is not None:
            found.play.start_gate.wait(PATIENCE)
        if found.play.start_error is not None:
            raise _refusal(found.play.start_error, found.play)
        with self._changed:
            found.started = True
            self.most_at_once = max(self.most_at_once, len(self.running))
            self._changed.notify_all()

    def log_lines(self, container: str, since: str | None) -> Iterator[bytes]:
        found = self.made[container]
        if found.play.away or found.outages:
            found.outages = max(0, found.outages - 1)
            raise EngineError("connection refused", transient=True, answered=False)
        first = found.play.lines
        yield from _later(first, 0, since)
        found.end.wait(PATIENCE)
        yield from _later(found.play.last_lines, len(first), since)
        with self._changed:
            if found.restarts:
                found.restarts -= 1
                found.restarted += 1
                return
            if not found.over and found.play.result is not None and found.started:
                result = found.output / ".docker" / "result.json"
                result.parent.mkdir(parents=True, exist_ok=True)
                # The worker writes it once more as its process ends.
                final = {**found.play.result, "exit_code": found.exit_code}
                result.write_text(json.dumps(final))
            found.over = True
            self._changed.notify_all()

    def state(self, container: str) -> ContainerState | None:
        found = self.made.get(container)
        if found is None or found.removed or found.play.vanishes:
            return None
        if found.play.away:
            raise EngineError("connection refused", transient=True, answered=False)
        return ContainerState(
            running=found.started and not found.over,
            exit_code=found.exit_code,
            oom_killed=found.play.oom_killed,
            stopped=False,
            signal=None,
            error="",
            started_at="2026-11-22T10:00:00Z" if found.started else "0001-01-01T00:00:00Z",
            finished_at="2026-11-22T10:01:00Z",
            restarting=found.play.dies and found.restarted > 0 and not found.over,
            restarts=found.restarted,
        )

    def measure(self, container: str, spec: ContainerSpec) -> Sample | None:
        found = self.made[container]
        uses = found.play.uses
        with self._changed:
            found.measured += 1
            self._changed.notify_all()
        return uses[min(found.measured, len(uses)) - 1] if uses and not found.over else None

    def stop(self, container: str, grace: float) -> None:
        found = self.made[container]
        with self._changed:
            if found.started and (grace == 0 or not found.play.ignores_sigterm):
                found.restarts = 0
                if found.play.waits and not found.end.is_set():
                    found.exit_code = 137 if grace == 0 else 143
                    found.over = True  # it leaves no result
                found.end.set()
        self._note("stop", _number(found.spec), grace)

    def remove(self, container: str) -> None:
        found = self.made[container]
        with self._changed:
            found.removed = found.over = True
            found.end.set()
        self._note("remove", _number(found.spec))

    def discard(self, container: str) -> None:
        found = self.made[container]
        if found.started and not found.over:
            raise EngineError("You cannot remove a running container")
        with self._changed:
            found.removed = found.over = True
            found.end.set()
        self._note("discard", _number(found.spec))

    def _play(self, spec: ContainerSpec) -> Play:
        plays = self.plays.get(_number(spec), Play())
        if isinstance(plays, Play):
            return plays
        attempt = int(dict(spec.labels)["hydra.docker.attempt"])
        return plays[min(attempt, len(plays)) - 1]

    def written(self, container: str) -> int | None:
        left = self.made[container].play.left.values()
        return sum(len(content) for content in left if content)

    def changes(self, container: str) -> tuple[Change, ...]:
        play = self.made[container].play
        self._note("changes", _number(self.made[container].spec))
        if play.diff_error is not None:
            raise EngineError(play.diff_error)
        above = {str(parent) for path in play.left for parent in PurePosixPath(path).parents[:-1]}
        return tuple(
            Change("added" if path in play.left else "changed", path)
            for path in sorted(above | set(play.left))
        )

    def archive(self, container: str, path: str) -> Generator[bytes, None, None]:
        left = self.made[container].play.left
        self._note("archive", path)
        below = [name for name in left if name == path or name.startswith(f"{path}/")]
        if not below:
            raise EngineError(f"no such path: {path}")
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            if path not in below:
                archive.addfile(_entry(PurePosixPath(path).name, None))
            for name in sorted(below):
                relative = str(PurePosixPath(name).relative_to(PurePosixPath(path).parent))
                content = left[name]
                data = content if isinstance(content, bytes) else b""
                archive.addfile(_entry(relative, content), io.BytesIO(data))
        whole = made.getvalue()
        for start in range(0, len(whole), 1000):
            yield whole[start : start + 1000]

    def _note(self, *call: Any) -> None:
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()


def _has(present: Mapping[str, str], wanted: Mapping[str, str | None]) -> bool:
    """Tell whether all the wanted labels are there, with their values (None: with any)."""
    return all(name in present and value in (None, present[name]) for name, value in wanted.items())


def _refusal(words: str, play: Play) -> EngineError:
    error = EngineError(words)
    error.transient = play.transient
    return error


def _later(lines: tuple[str, ...], first: int, since: str | None) -> Iterator[bytes]:
    """Yield lines, one each second, that are later than ``since``."""
    for number, line in enumerate(lines, start=first):
        stamp = f"2026-11-22T10:00:{number:02d}.000000000Z"
        if since is None or stamp > since:
            yield f"{stamp} {line}".encode()


def _entry(name: str, content: bytes | str | None) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mode = 0o644
    if content is None:
        entry.type = tarfile.DIRTYPE
    elif isinstance(content, str):
        entry.type, entry.linkname = tarfile.SYMTYPE, content
    else:
        entry.size = len(content)
    return entry


def _number(spec: ContainerSpec) -> int:
    return int(dict(spec.labels).get("hydra.docker.job", -1))


@dataclass
class FakeTracker:
    """A tracking system that only writes down what it is told. ``broken`` methods raise.

    ``down`` is a store that does not answer: every method raises, and nothing is written down.
    """

    store: StoreAccess = field(default_factory=StoreAccess)
    broken: frozenset[str] = frozenset()
    down: bool = False
    sweep: SweepRun | None = None
    #: The run and the experiment of a sweep that was taken up.
    joined: tuple[str, str] | None = None
    #: The runs that are there, and those that have ended.
    jobs: dict[str, JobRun] = field(default_factory=dict)
    ends: dict[str | None, JobRunEnd] = field(default_factory=dict)
    #: What was measured of the jobs that run, by their runs.
    series: dict[str | None, tuple[Point, ...]] = field(default_factory=dict)
    #: What has become of the parent run, in order.
    statuses: list[str] = field(default_factory=list)

    def open_sweep(self, sweep: SweepRun) -> str | None:
        self._may("open_sweep")
        self.sweep = sweep
        self.statuses.append("RUNNING")
        return "parent"

    def join_sweep(self, run_id: str, experiment: str) -> None:
        self._may("join_sweep")
        self.joined = run_id, experiment
        self.statuses.append("RUNNING")

    def access(self) -> StoreAccess:
        return self.store

    def secrets(self) -> tuple[str, ...]:
        return secrets_of(split_variables(self.store.environment, NO_GLOBS)[1])

    def open_job(self, job: JobRun) -> str | None:
        """Start ``run-3`` for job 3; once that has ended, ``run-3-2``."""
        self._may("open_job")
        number = job.tags[JOB_TAG]
        earlier = [known for known, job in self.jobs.items() if job.tags[JOB_TAG] == number]
        run_id = earlier[-1] if earlier else None
        if run_id is None or run_id in self.ends:
            run_id = f"run-{number}" + (f"-{len(earlier) + 1}" if earlier else "")
        self.jobs[run_id] = job
        return run_id

    def reopen_job(self, run_id: str | None, tags: Mapping[str, str | None]) -> None:
        self._may("reopen_job")
        if run_id is not None:
            tags = {**self.jobs[run_id].tags, **tags}
            kept = {name: value for name, value in tags.items() if value is not None}
            self.jobs[run_id] = replace(self.jobs[run_id], tags=kept)
            self.ends.pop(run_id, None)

    def job_environment(self, run_id: str | None) -> tuple[tuple[str, str], ...]:
        return () if run_id is None else (("MLFLOW_RUN_ID", run_id),)

    def log_series(self, run_id: str | None, points: Sequence[Point]) -> None:
        self._may("log_series")
        self.series[run_id] = (*self.series.get(run_id, ()), *points)

    def close_job(self, run_id: str | None, end: JobRunEnd) -> None:
        self._may("close_job")
        self.ends[run_id] = end

    def reopen_sweep(self) -> None:
        self._may("reopen_sweep")
        self.statuses.append("RUNNING")

    def close_sweep(self, status: RunStatus) -> None:
        self._may("close_sweep")
        self.statuses.append(status.value)

    def answers(self) -> bool:
        return not self.down

    def _newest(self) -> dict[int, str]:
        return {int(job.tags[JOB_TAG]): run_id for run_id, job in self.jobs.items()}

    def _may(self, method: str) -> None:
        if self.down or method in self.broken:
            raise TrackingError(f"{method}: the store does not answer", transient=True)


@dataclass
class FakeHistory:
    """The runs of a store that never was. ``parents`` leads from a run to that of its sweep."""

    runs: dict[str, PastRun] = field(default_factory=dict)
    artifacts: dict[str, dict[str, bytes]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)

    def add(self, run: PastRun, artifacts: Mapping[str, str | bytes], parent: str = "") -> None:
        self.runs[run.id] = run
        self.parents[run.id] = parent
        self.artifacts[run.id] = {
            name: content.encode() if isinstance(content, str) else content
            for name, content in artifacts.items()
        }

    def read(self, tracker: FakeTracker, experiment: str = "train") -> None:
        """Take over the runs that a tracker was told of."""
        for run_id, job in tracker.jobs.items():
            end = tracker.ends.get(run_id)
            run = PastRun(
                id=run_id,
                name=job.name,
                experiment=experiment,
                status=end.status.value if end else "RUNNING",
                tags={**job.tags, **(end.tags if end else {})},
                metrics=dict(end.metrics) if end else {},
            )
            self.add(run, job.artifacts, "parent")

    def run(self, run_id: str) -> PastRun:
        if run_id not in self.runs:
            raise TrackingError(f"There is no run {run_id}")
        return self.runs[run_id]

    def children(self, run: PastRun) -> tuple[PastRun, ...]:
        return tuple(self.runs[child] for child, of in self.parents.items() if of == run.id)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        return self.artifacts[run_id].get(name)


def a_job(output_dir: Path, number: int = 0, **config: Any) -> ComposedJob:
    """Return a composed job with ``config``, without the help of Hydra."""
    resolved = OmegaConf.create(
        {**config, "hydra": {"overrides": {"task": [f"n={number}"]}, "launcher": {}}}
    )
    return ComposedJob(
        number=number,
        name="train",
        overrides=(f"n={number}",),
        output_dir=output_dir,
        working_dir=output_dir.parent,
        cfg=OmegaConf.create(config),
        hydra_cfg=OmegaConf.create({"hydra": {}}),
        resolved=resolved,
        plain=config,
        options={},
        unresolved=(),
    )


def saved_sweep(folder: Path, **values: Any) -> SavedSweep:
    """Return a sweep as it is kept in its folder."""
    fields: dict[str, Any] = {
        "id": "s",
        "folder": folder,
        "working_dir": folder.parent,
        "user": "ann",
        "host": HOST,
        "gpus": (),
        "n_jobs": -1,
        "keep": "failed",
        "fail_fast": False,
        "on_interrupt": "stop",
        "image": "sha256:1",
        "layer": "train:1-s",
        "mlflow": Mlflow(True, None, None, None, ()),
        "run": SweepRun("train", "x", {"hydra.docker.sweep": "s"}, {"packages.txt": "a==1\n"}),
    }
    return SavedSweep(**{**fields, **values})


def saved_job(job: Job, **runnable: Any) -> SavedJob:
    """Return a job as it is kept in the folder of its sweep."""
    spec = ContainerSpec(
        name=f"train-x-{job.number}",
        image="layer",
        command=("python3",),
        working_dir="/",
        limits=Limits(1.0, GIB, GIB, GIB, 100),
        boundary=Boundary(user=None),
        mounts=(Mount(str(job.paths.output), str(job.output_dir)),),
        labels=(("hydra.docker.sweep", "s"), ("hydra.docker.job", str(job.number))),
    )
    planned = RunnableJob(job.number, job.title, spec, job.paths, None)
    return SavedJob(
        job=job,
        runnable=replace(planned, **runnable),
        content=b"job",
        owner=None,
        run=JobRun(" ".join(job.overrides), {JOB_TAG: str(job.number)}),
        identity=Identity.of(job, "c" * 40, "sha256:1"),
    )


def volume_options(*volumes: Volume, **options: Any) -> JobOptions:
    """Return a job's options: the defaults, with volumes and other values."""
    node = OmegaConf.to_container(_open_schema(), resolve=True)
    job = parse(cast("dict[str, Any]", node), environ={}, folder=Path("/")).job
    return replace(job, volumes=volumes, **options)
