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

from . import _dry_run, _image, _machine, _options, _pinning, _plan, _preflight, _private, _running
from ._capacity import Capacity
from ._data import DataBook
from ._data_identity import DataIdentity
from ._engine import Engine
from ._errors import OptionError
from ._interrupt import held_back
from ._job import Job
from ._ledger import Ledger
from ._options import Options, SweepOptions
from ._outcome import End, Outcome
from ._paths import SweepPaths
from ._pinning import Code, Ready, Request
from ._plan import Ground
from ._provenance import Composition, Origin, Record
from ._recording import SweepRecorder
from ._running import RunnableJob
from ._stray_rules import Policy
from ._task import Task
from ._tracking import RunStatus, Tracker

log = logging.getLogger("hydra_docker_launcher")

MakeEngine = Callable[[], Engine]
MakeTracker = Callable[[SweepOptions, Path, str], Tracker]
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
    ready: Ready | None = None
    recorder: SweepRecorder | None = None


class Execution:
    """One sweep, in one or more batches. What the first batch pins, the later ones use.

    ``id`` is unique, ``folder`` is the sweep's, ``working_dir`` the launch folder.
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

    def parse(self, nodes: Sequence[tuple[str, object]]) -> tuple[Options, ...]:
        """Read the options of every job (its title, its ``hydra.launcher`` node).

        Raises ``OptionError``, also where those of the sweep are not the same in all.
        """
        parsed = []
        for title, node in nodes:
            if not isinstance(node, dict):
                raise OptionError(f"{title}: hydra.launcher is no mapping")
            try:
                options = _options.parse(node, environ=os.environ, folder=self._working_dir)
            except OptionError as error:
                raise OptionError(f"{title}: {error}") from None
            parsed.append(options)
        sweep = self._pinned.options if self._pinned else parsed[0].sweep
        first = self._pinned.first if self._pinned else nodes[0][0]
        for (title, _), options in zip(nodes, parsed, strict=True):
            _options.check_same(sweep, first, options.sweep, title)
        return tuple(parsed)

    def run(self, batch: Batch, content: Content) -> list[Outcome] | None:
        """Run every job to its end; return their outcomes in order, None of a dry run."""
        if self._pinned is None:
            self._pinned = self._pin(batch)
        else:
            jobs = [option.job for option in batch.options]
            _pinning.check_volumes(jobs, self._pinned.engine)
        plans = self._plan(self._pinned, batch)
        if self._pinned.options.dry_run:
            _print(self._pinned, plans)
            return None
        data = _identify(self._pinned, batch)
        return _track_and_run(self._pinned, batch.jobs, plans, content, data)

    def _pin(self, batch: Batch) -> _Pinned:
        """Settle commit and image (source, image), and open the record of the sweep."""
        request = Request(
            sweep=self.id,
            job_name=batch.jobs[0].name,
            folder=self._folder,
            working_dir=self._working_dir,
            options=batch.options[0].sweep,
            jobs=tuple(option.job for option in batch.options),
        )
        engine = self._make_engine()
        code = _pinning.with_clone(request, self._pin_code(request, engine))
        data = DataBook(code.source)
        pinned = _Pinned(batch.jobs[0].title, request.options, engine, code, data)
        self._plan(pinned, batch)  # refuses limits before anything is pulled or built
        if request.options.dry_run:
            return pinned
        _identify(pinned, batch)  # refuses data before anything is pulled or built
        origin = self._origin(batch)  # now: until the image is there, configs may be edited
        # Before it is made: Ctrl-C may come in between.
        weakref.finalize(self, engine.remove_image, _pinning.layer_tag(request, code))
        ready = _pinning.make_ready(request, code, engine)
        if ready.relay is not None:
            weakref.finalize(self, ready.relay.close)
        record = Record(
            self.id, self._folder, request.job_name, request.options, code, ready, origin
        )
        return replace(pinned, ready=ready, recorder=self._open(record))

    def _origin(self, batch: Batch) -> Origin:
        return Origin(
            started=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            working_dir=self._working_dir,
            software=_machine.software(),
            processor=_machine.processor(),
            composition=self._composition(),
            options=_private.shown_options(batch.jobs[0].written),
        )

    def _open(self, record: Record) -> SweepRecorder:
        recorder = SweepRecorder(
            record,
            tracker=self._make_tracker(
                record.options, self._working_dir, record.code.identity.name
            ),
            ledger=Ledger(SweepPaths(self._folder).ledger, record.ledger_head()),
        )
        self._folder.mkdir(parents=True, exist_ok=True)  # where the sweeper has not
        try:
            with held_back():
                recorder.open()
        except KeyboardInterrupt:
            recorder.close(RunStatus.KILLED)
            raise
        return recorder

    def _plan(self, pinned: _Pinned, batch: Batch) -> list[RunnableJob]:
        code, ready, options = pinned.code, pinned.ready, batch.options
        ground = Ground(
            sweep=self.id,
            folder=self._folder,
            working_dir=self._working_dir,
            host=code.host,
            image=ready.layer.id if ready else "IMAGE",
            python=ready.facts.executable if ready else _preflight.PYTHONS[0],
            commit=code.source.commit,
            identity=code.identity,
            n_jobs=_plan.jobs_at_once(
                pinned.options.n_jobs, max(option.job.cpus for option in options), code.host
            ),
            mounts=code.clone.mounts if code.clone else (),
            secrets=bool(code.clone and code.clone.secrets),
        )
        return [
            RunnableJob(
                number=job.number,
                title=job.title,
                spec=_plan.container(ground, job, option.job),
                paths=job.paths,
                timeout=option.job.timeout,
                retries=option.job.retries,
                stray=Policy(
                    option.job.stray,
                    option.job.stray_limit,
                    root=str(code.source.root),
                    cloned=code.clone is not None,
                ),
            )
            for job, option in zip(batch.jobs, options, strict=True)
        ]


def new_id() -> str:
    """Return an id for a sweep: when it started, in UTC, and a random part."""
    return f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"


def _identify(pinned: _Pinned, batch: Batch) -> dict[int, tuple[DataIdentity, ...]]:
    """Return what each job's volumes hold; what is known already is not looked at again."""
    found = pinned.data.identify([options.job for options in batch.options])
    return {job.number: data for job, data in zip(batch.jobs, found, strict=True)}


def _print(pinned: _Pinned, plans: Sequence[RunnableJob]) -> None:
    code = pinned.code
    image, *made = _image.describe(pinned.engine, pinned.options, code.source, code.script)
    print(f"# IMAGE is {image}, with the files of commit {code.source.commit}")
    cloned = f", which each container clones from {code.clone.shown}" if code.clone else ""
    print(f"# at {code.source.root}{cloned}. Nothing has been started.")
    for line in made:
        print(f"#   {line}")
    for plan in plans:
        print(f"\n# {plan.title}\n{_dry_run.docker_run(plan.spec)}")


def _track_and_run(
    pinned: _Pinned,
    jobs: Sequence[Job],
    plans: Sequence[RunnableJob],
    content: Content,
    data: Mapping[int, tuple[DataIdentity, ...]],
) -> list[Outcome]:
    recorder, ready = pinned.recorder, pinned.ready
    if recorder is None or ready is None:
        raise RuntimeError("a dry run has nothing to run")
    status = RunStatus.FAILED
    try:
        contents = {
            job.number: content(job, pinned.code.task, plan.spec.restart.name)
            for job, plan in zip(jobs, plans, strict=True)
        }
        recorder.batch(jobs, contents, data)
        outcomes = _running.run_jobs(
            plans,
            engine=pinned.engine,
            capacity=Capacity(pinned.code.host, pinned.options.n_jobs, ready.facts.gpus),
            recorder=recorder,
            keep=pinned.options.keep,
            fail_fast=pinned.options.fail_fast,
        )
        if all(outcome.end is End.COMPLETED for outcome in outcomes):
            status = RunStatus.FINISHED
    except KeyboardInterrupt:
        status = RunStatus.KILLED
        raise
    finally:
        recorder.close(status)
    return outcomes
