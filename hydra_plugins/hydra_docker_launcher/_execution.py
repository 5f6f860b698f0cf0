"""Execution: the stages from pinned code to outcomes, for jobs whose configs are composed."""

from __future__ import annotations

import logging
import os
import secrets
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path

from . import (
    _attempt,
    _background,
    _boundary,
    _clone,
    _delivery,
    _dry_run,
    _image,
    _machine,
    _masks,
    _options,
    _pinning,
    _plan,
    _preflight,
    _private,
    _resume,
    _running,
    _saving,
    _sweep_folder,
    _take_up,
)
from ._boundary import Surroundings
from ._capacity import Capacity
from ._data import DataBook
from ._data_identity import DataIdentity
from ._engine import Engine
from ._errors import OptionError
from ._interrupt import Detached, held_back, ignored
from ._job import Job
from ._ledger import Ledger
from ._masks import Masks
from ._options import Mlflow, Options, SweepOptions
from ._outcome import End, Outcome
from ._paths import SweepPaths
from ._pinning import Code, Ready, Request
from ._plan import Ground
from ._provenance import Composition, Origin, Record
from ._recording import SweepRecorder
from ._relay import Relay
from ._running import RunnableJob
from ._saved import SavedJob
from ._stray_rules import Policy
from ._sweep_folder import SweepFolder
from ._task import Task
from ._tracking import RunStatus, Tracker

log = logging.getLogger("hydra_docker_launcher")

#: Options that get to the job without the eyes of others, are shown without secrets, or are
#: refused with more to say about them.
_WITHOUT_SECRETS = (
    "hydra.launcher.environment",
    "hydra.launcher.build.args",
    "hydra.launcher.labels.",
    "hydra.launcher.mlflow.tags.",
    "hydra.launcher.mlflow.tracking_uri",
    "hydra.launcher.clone.",
)

MakeEngine = Callable[[], Engine]
MakeTracker = Callable[[Mlflow, Path, str], Tracker]
#: Settles which code a sweep runs; pulls, builds and starts nothing.
PinCode = Callable[[Request, Engine], Code]
#: Returns what the worker of a job reads (its restart policy is the third argument).
Content = Callable[[Job, Task, str], bytes]


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that run together, with the options of each."""

    jobs: tuple[Job, ...]
    options: tuple[Options, ...]


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What the later batches of a sweep take over from the first one (``first``: its first job)."""

    first: str
    options: SweepOptions
    engine: Engine
    code: Code
    data: DataBook


@dataclass(frozen=True, slots=True)
class _Opened:
    """A sweep whose first batch may start: its image is there, and its record is open."""

    ready: Ready
    record: Record
    ledger: Ledger
    recorder: SweepRecorder
    folder: SweepFolder
    #: What a process before this one has left, by the jobs' numbers.
    before: Mapping[int, SavedJob]


@dataclass(slots=True)
class _Ending:
    """What is left to do when a sweep has ended, or its process."""

    engine: Engine
    outputs: Path
    layer: str
    folder: SweepFolder
    #: Nothing has been started that another process would have to go on with.
    new: bool
    relay: Relay | None = None
    recorder: SweepRecorder | None = None

    def __call__(self) -> None:
        if self.relay is not None:
            self.relay.close()
        _delivery.remove_layers(self.engine, self.outputs, self.layer)
        if self.recorder is not None:
            self.recorder.finish()
            return
        if self.new:
            self.folder.forget_sweep()
        self.folder.release()


class Execution:
    """One sweep, in one or more batches. What the first batch pins, the later ones use.

    ``sweep`` is its id, which is unique; one that is resumed has the id that it had. ``folder`` is
    the sweep's, ``working_dir`` the launch folder.
    """

    def __init__(
        self,
        sweep: str,
        folder: Path,
        working_dir: Path,
        *,
        make_engine: MakeEngine,
        make_tracker: MakeTracker,
        pin_code: PinCode,
        composition: Callable[[], Composition] = Composition,
    ) -> None:
        self.id = sweep
        self._folder = folder
        self._working_dir = working_dir
        self._make_engine = make_engine
        self._make_tracker = make_tracker
        self._pin_code = pin_code
        self._composition = composition
        self._pinned: _Pinned | None = None
        #: What of the boundary is open, as the user was told.
        self._told_open: set[str] = set()
        self._surroundings: Surroundings | None = None
        self._opened: _Opened | None = None
        self._background: _background.Launching | None = None
        self._finalizer: weakref.finalize[[], Execution] | None = None

    def parse(self, nodes: Sequence[tuple[Job, object]]) -> tuple[Options, ...]:
        """Read the options of every job (its ``hydra.launcher`` node).

        Raises ``OptionError``, also where those of the sweep are not the same in all.
        """
        parsed = []
        for job, node in nodes:
            if not isinstance(node, dict):
                raise OptionError(f"{job.title}: hydra.launcher is no mapping")
            _check_options(job)
            try:
                options = _options.parse(node, environ=os.environ, folder=self._working_dir)
            except OptionError as error:
                raise OptionError(f"{job.title}: {error}") from None
            parsed.append(_options.shown_tags(options, job.withheld))
        sweep = self._pinned.options if self._pinned else parsed[0].sweep
        first = self._pinned.first if self._pinned else nodes[0][0].title
        for (job, _), options in zip(nodes, parsed, strict=True):
            _options.check_same(sweep, first, options.sweep, job.title)
        return tuple(parsed)

    def run(self, batch: Batch, content: Content) -> list[Outcome | None] | None:
        """Run every job to its end; return their outcomes in order, None of a dry run.

        The outcome of a job that runs on in the background is None.
        """
        for job, options in zip(batch.jobs, batch.options, strict=True):
            _check_arguments(job, options)
        if self._pinned is None:
            self._pinned = self._pin(batch)
        else:
            self._tell_what_is_open(batch, self._pinned.engine)
            jobs = [option.job for option in batch.options]
            _pinning.check_engine(jobs, self._pinned.engine)
        if self._pinned.options.dry_run:
            plans = self._plan(self._pinned, batch, None)
            _print(self._pinned, batch, plans, self._past())
            return None
        if self._opened is None:
            self._opened = self._open(self._pinned, batch)
        _sweep_folder.require_apart(self._opened.folder.paths, _outputs(batch))
        for option in batch.options:
            _preflight.check_gpus(self._opened.ready.facts, option.job.gpus)
        plans = self._plan(self._pinned, batch, self._opened.ready)
        data = _identify(self._pinned, batch)
        status = RunStatus.FAILED
        try:
            saved = _saved(self._pinned, self._opened.record, batch, plans, content, data)
            outcomes = self._run(self._pinned, self._opened, saved)
            status = RunStatus.FINISHED
        except Detached:
            self._hand_over(self._opened)
            raise
        except KeyboardInterrupt:
            status = RunStatus.KILLED
            raise
        finally:
            if self._background is None:
                self._opened.recorder.close(status)
        return outcomes

    def _run(
        self, pinned: _Pinned, opened: _Opened, jobs: Sequence[SavedJob]
    ) -> list[Outcome | None]:
        numbers = [job.number for job in jobs]
        if self._background is not None:
            self._background.add(jobs)
            return [None] * len(jobs)
        done: dict[int, Outcome] = {}
        if pinned.options.resume:
            missing = _resume.missing(
                pinned.engine,
                self.id,
                opened.ledger,
                jobs,
                opened.before,
                pinned.options.keep,
            )
            jobs, done = missing.jobs, dict(missing.done)
            for number in missing.not_lost:
                opened.recorder.take_back(number)
            _resume.tell(missing)
        if pinned.options.detach and jobs:
            opened.recorder.batch(jobs)
            self._hand_over(opened)
            return [done.get(number) for number in numbers]
        outcomes = _running.run_jobs(
            [job.runnable for job in jobs],
            engine=pinned.engine,
            capacity=Capacity(
                pinned.code.host,
                pinned.options.n_jobs,
                opened.ready.facts.gpus,
                engine_wide=pinned.options.admission == "engine",
                gpu_parts=opened.ready.facts.gpu_parts,
            ),
            recorder=opened.recorder,
            keep=pinned.options.keep,
            fail_fast=pinned.options.fail_fast,
            on_interrupt=pinned.options.on_interrupt,
            system_metrics=pinned.options.system_metrics,
            begin=lambda: opened.recorder.batch(jobs),
        )
        done |= {job.number: outcome for job, outcome in zip(jobs, outcomes, strict=True)}
        return [done[number] for number in numbers]

    def _hand_over(self, opened: _Opened) -> None:
        """Let a process in the background go on with the sweep."""
        with ignored():
            if self._finalizer is not None:
                self._finalizer.detach()
            if opened.ready.relay is not None:
                opened.ready.relay.close()
            opened.recorder.hand_over()
            self._background = _background.start(opened.folder.paths, self._working_dir)

    def _past(self) -> Ledger | None:
        """Return the ledger of the sweep that may be in the folder already."""
        return Ledger.read(SweepPaths(self._folder).ledger)

    def _begun(self, batch: Batch) -> str | None:
        """Return the id of the sweep in the folder that goes on now; None: a new one begins.

        One whose launcher was killed before it had a job goes on also without ``resume``: its
        parent run may be there, and nobody else would ever close it.
        """
        past, options = self._past(), batch.options[0].sweep
        if past is not None and options.resume:
            return str(past.head["sweep"])
        if options.dry_run or (past is not None and past.rows):
            return None
        saved = _sweep_folder.read_sweep(_sweep_folder.place(self._folder, _outputs(batch)))
        return None if saved is None else saved.id

    def _tell_what_is_open(self, batch: Batch, engine: Engine) -> None:
        """Warn of what options open of the boundary, before anything is pulled or built."""
        if self._surroundings is None:
            self._surroundings = _surroundings(engine.facts().address)
        opened = _boundary.warning(
            [options.job for options in batch.options],
            batch.options[0].sweep.user,
            self._surroundings,
            self._told_open,
        )
        if opened is not None:
            log.warning("%s", opened)

    def _pin(self, batch: Batch) -> _Pinned:
        """Settle the commit (source), and refuse what this machine cannot give."""
        options = batch.options[0].sweep
        self.id = self._begun(batch) or self.id
        request = self._request(batch)
        engine = self._make_engine()
        self._tell_what_is_open(batch, engine)
        code = _pinning.with_clone(request, self._pin_code(request, engine))
        pinned = _Pinned(batch.jobs[0].title, options, engine, code, DataBook(code.source))
        self._plan(pinned, batch, None)  # refuses limits before anything is pulled or built
        if not options.dry_run:
            _identify(pinned, batch)  # refuses data before anything is pulled or built
        return pinned

    def _request(self, batch: Batch) -> Request:
        return Request(
            sweep=self.id,
            job_name=batch.jobs[0].name,
            folder=self._folder,
            working_dir=self._working_dir,
            options=batch.options[0].sweep,
            jobs=tuple(option.job for option in batch.options),
        )

    def _open(self, pinned: _Pinned, batch: Batch) -> _Opened:
        """Settle the image, and open the record of the sweep, which nobody else may look after."""
        request, code, engine = self._request(batch), pinned.code, pinned.engine
        origin = self._origin(batch)  # now: until the image is there, configs may be edited
        paths = _sweep_folder.place(self._folder, _outputs(batch))
        folder = _background.take_over(paths, resume=pinned.options.resume)
        past = self._past() if pinned.options.resume else None  # which nobody else changes any more
        if past is not None and not past.rows:
            past = None  # it has begun, and no more: all of it is made anew but for its id
        if past is not None:  # what is written down of a job is what differs from the first one's
            origin = replace(origin, options=past.head.get("options", {}))
        # Before the layer is made: Ctrl-C may come in between.
        layer = _pinning.layer_tag(request, code)
        ending = _Ending(engine, self._folder, layer, folder, new=folder.sweep() is None)
        self._finalizer = weakref.finalize(self, ending)
        ready = _pinning.make_ready(request, code, engine)
        ending.relay = ready.relay
        shown = _shown_code(code, request.options, batch)
        record = Record(
            self.id, self._folder, request.job_name, request.options, shown, ready, origin
        )
        recorder, ledger = self._recorder(record, folder, past)
        ending.recorder = recorder
        before = folder.jobs() if pinned.options.resume else {}
        for job in before.values():
            row = ledger.row(job.number)
            outcome = _take_up.recorded(row, job.job.paths.result)
            if outcome is not None and not _take_up.is_unseen(row):
                recorder.settle(job, outcome)
        return _Opened(ready, record, ledger, recorder, folder, before)

    def _origin(self, batch: Batch) -> Origin:
        composition = self._composition()
        overrides = (_masks.masked(word, _config_masks(batch)) for word in composition.overrides)
        return Origin(
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            working_dir=self._working_dir,
            software=_machine.software(),
            processor=_machine.processor(),
            composition=replace(composition, overrides=tuple(overrides)),
            options=_private.shown_options(batch.jobs[0].written),
        )

    def _recorder(
        self, record: Record, folder: SweepFolder, past: Ledger | None
    ) -> tuple[SweepRecorder, Ledger]:
        options = record.options
        ledger = past or Ledger(SweepPaths(self._folder).ledger, record.ledger_head())
        sweep = _saving.saved_sweep(record, os.environ.get("MLFLOW_TRACKING_URI"))
        saved = folder.sweep()
        if saved is not None and saved.id == self.id:
            sweep = replace(sweep, run_id=saved.run_id, relays=(*saved.relays, *sweep.relays))
        if past is not None:
            sweep = replace(sweep, run_id=sweep.run_id or past.head.get("run_id"))
        recorder = SweepRecorder(
            sweep,
            folder=folder,
            ledger=ledger,
            tracker=self._make_tracker(
                options.mlflow, self._working_dir, record.code.identity.name
            ),
        )
        self._folder.mkdir(parents=True, exist_ok=True)  # where the sweeper has not
        try:
            with held_back():
                if past is None:
                    recorder.open()
                else:
                    recorder.join(saved.relays if saved else ())
        except KeyboardInterrupt:
            recorder.close(RunStatus.KILLED)
            raise
        return recorder, ledger

    def _plan(self, pinned: _Pinned, batch: Batch, ready: Ready | None) -> list[RunnableJob]:
        code, options = pinned.code, batch.options
        ground = Ground(
            sweep=self.id,
            folder=self._folder,
            working_dir=self._working_dir,
            host=code.host,
            image=ready.layer.id if ready else "IMAGE",
            python=ready.facts.executable if ready else _preflight.PYTHONS[0],
            commit=code.source.commit,
            identity=code.identity,
            n_jobs=pinned.options.n_jobs,
            mounts=code.clone.mounts if code.clone else (),
            secrets=bool(code.clone and code.clone.secrets)
            or _shown_code(code, pinned.options, batch).task.argv != code.task.argv,
        )
        return [
            RunnableJob(
                number=job.number,
                title=job.title,
                spec=_plan.container(ground, job, option.job),
                paths=job.paths,
                timeout=option.job.timeout,
                retries=option.job.retries,
                log_limit=option.job.log_limit,
                masks=self._masks(pinned, job, option),
                stray=Policy(
                    option.job.stray,
                    option.job.stray_limit,
                    root=str(code.source.root),
                    cloned=code.clone is not None,
                ),
            )
            for job, option in zip(batch.jobs, options, strict=True)
        ]

    def _masks(self, pinned: _Pinned, job: Job, options: Options) -> Masks:
        """Return what is masked in a job's output, and in what is told of it."""
        _, secret = _plan.variables(job, options.job)
        known = _masks.secrets_of(secret)
        clone = pinned.code.clone
        known += _clone.secrets_in(clone) if clone is not None else ()
        known += () if self._opened is None else self._opened.recorder.secrets()
        return tuple(dict.fromkeys((*job.withheld.masks, *_masks.masks_of(known))))


def _saved(
    pinned: _Pinned,
    record: Record,
    batch: Batch,
    plans: Sequence[RunnableJob],
    content: Content,
    data: Mapping[int, tuple[DataIdentity, ...]],
) -> list[SavedJob]:
    argv = pinned.code.task.argv
    record = replace(record, code=_shown_code(pinned.code, pinned.options, batch))
    task = record.code.task
    return [
        _saving.saved_job(
            record,
            job,
            plan,
            content(job, task, plan.spec.restart.name),
            data[job.number],
            _plan.variables(job, options.job)[1],
            argv if argv != task.argv else None,
        )
        for job, plan, options in zip(batch.jobs, plans, batch.options, strict=True)
    ]


def _shown_code(code: Code, options: SweepOptions, batch: Batch) -> Code:
    """Return the code as it may be written down: its command line without secrets of any job."""
    argv = _masks.overrides(code.task.argv, options.rules, _config_masks(batch))
    return replace(code, task=replace(code.task, argv=argv))


def _config_masks(batch: Batch) -> Masks:
    return tuple(dict.fromkeys(mask for job in batch.jobs for mask in job.withheld.masks))


def _outputs(batch: Batch) -> list[Path]:
    return [job.paths.output for job in batch.jobs]


def _check_arguments(job: Job, options: Options) -> None:
    """Raise ``OptionError`` for a secret of the config in a build argument: images keep those."""
    named = job.withheld.secret_variables("hydra.launcher.build.args")
    for name, value in options.sweep.build.args:
        if name in named or _masks.masked(value, job.withheld.masks) != value:
            raise OptionError(
                f"{job.title}: hydra.launcher.build.args.{name} has a secret of the config in it, "
                "and the history of the image would show it to everybody who has the image."
            )


def _check_options(job: Job) -> None:
    """Raise ``OptionError`` for a secret of the config in an option that everybody may read."""
    for key in job.withheld.options:
        if not key.startswith(_WITHOUT_SECRETS):
            raise OptionError(
                f"{job.title}: {key} has a secret of the config in it, and what it says is shown "
                "by the engine, in sweep.json or in MLflow. Leave it out there. Where it is no "
                "secret, say so with hydra.launcher.redact='[\"!KEY\"]'; KEY is the config's key "
                "that it comes from."
            )


def finished(outcomes: Sequence[Outcome | None]) -> list[Outcome]:
    """Return the outcomes of jobs of which none runs on in the background."""
    found = [outcome for outcome in outcomes if outcome is not None]
    if len(found) < len(outcomes):
        raise RuntimeError("a job runs on in the background")
    return found


def new_id() -> str:
    """Return an id for a sweep: when it started, in UTC, and a random part."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _surroundings(address: str) -> Surroundings:
    """Return what a volume may open here; ``address`` is the engine's."""
    sockets = [*_boundary.SOCKETS]
    scheme, _, path = address.partition("://")
    if scheme == "unix":
        sockets.insert(0, path)
    return Surroundings(
        home=str(Path.home().resolve()),
        sockets=tuple(dict.fromkeys(os.path.realpath(path) for path in sockets)),
    )


def _identify(pinned: _Pinned, batch: Batch) -> dict[int, tuple[DataIdentity, ...]]:
    """Return what each job's volumes hold; what is known already is not looked at again."""
    found = pinned.data.identify([options.job for options in batch.options])
    return {job.number: data for job, data in zip(batch.jobs, found, strict=True)}


def _print(
    pinned: _Pinned, batch: Batch, plans: Sequence[RunnableJob], past: Ledger | None
) -> None:
    code = pinned.code
    secret = {
        job.number: [name for name, _ in _plan.variables(job, options.job)[1]]
        for job, options in zip(batch.jobs, batch.options, strict=True)
    }

    def by_file(number: int) -> str:
        names = ", ".join(secret[number])
        return f"\n# These variables reach it in a file, not by --env: {names}" if names else ""

    image, *made = _image.describe(pinned.engine, pinned.options, code.source, code.script)
    print(f"# IMAGE is {image}, with the files of commit {code.source.commit}")
    cloned = f", which each container clones from {code.clone.shown}" if code.clone else ""
    print(f"# at {code.source.root}{cloned}. Nothing has been started.")
    for line in made:
        print(f"#   {line}")
    for plan in plans:
        row = past.row(plan.number) if past is not None and pinned.options.resume else {}
        if row.get("outcome") == End.COMPLETED.value:
            print(
                f"\n# {plan.title} has completed: it gives the result that it had, if its config, "
                "its commit and its image are those of then"
            )
            continue
        spec = _attempt.specification(plan, code.host.memory)
        print(f"\n# {plan.title}{by_file(plan.number)}\n{_dry_run.docker_run(spec)}")
