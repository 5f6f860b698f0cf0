"""Sweep: the stages from overrides to results, in their order."""

from __future__ import annotations

import logging
import os
import secrets
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime
from hydra.types import HydraContext
from omegaconf import DictConfig

from . import (
    _compose,
    _composed,
    _dry_run,
    _image,
    _job_files,
    _options,
    _pinning,
    _plan,
    _preflight,
    _results,
    _running,
)
from ._capacity import Capacity
from ._compose import Job
from ._engine import Engine
from ._errors import OptionError
from ._interrupt import held_back
from ._ledger import Ledger
from ._options import Options, SweepOptions
from ._outcome import End, Outcome
from ._paths import JobPaths, SweepPaths
from ._pinning import Code, Ready, Request
from ._plan import Ground, JobPlan
from ._recording import Record, SweepRecorder
from ._running import RunnableJob
from ._tracking import RunStatus, Tracker

log = logging.getLogger("hydra_docker_launcher")

MakeTracker = Callable[[SweepOptions, Path, str], Tracker]


@dataclass(frozen=True, slots=True)
class _Pinned:
    """What the later batches of a sweep take over from the first one (``first``: its first job)."""

    first: str
    options: SweepOptions
    engine: Engine
    code: Code
    ready: Ready | None = None
    recorder: SweepRecorder | None = None


class Sweep:
    """One sweep, in one or more batches. What the first batch pins, the later ones use."""

    def __init__(
        self,
        context: HydraContext,
        config: DictConfig,
        task_function: Callable[[Any], Any],
        make_engine: Callable[[], Engine],
        make_tracker: MakeTracker,
    ) -> None:
        self._context = context
        self._config = config
        self._task_function = task_function
        self._make_engine = make_engine
        self._make_tracker = make_tracker
        self._pinned: _Pinned | None = None
        self.id = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.folder = Path(os.path.abspath(str(config.hydra.sweep.dir)))
        self.working_dir = Path.cwd()

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run one batch: a container per override list, numbered from ``first``.

        Returns a ``JobReturn`` per job, in their order; none of a dry run.
        """
        jobs = self._compose(job_overrides, first)
        options = self._parse(jobs)
        if self._pinned is None:
            self._pinned = self._pin(jobs, options)
        else:
            _pinning.check_volumes([option.job for option in options], self._pinned.engine)
        plans = self._plan(self._pinned, jobs, options)
        if self._pinned.options.dry_run:
            self._print(self._pinned, plans)
            return []
        outcomes = self._track_and_run(self._pinned, jobs, plans)
        return [
            _results.job_return(job, outcome, JobRuntime.instance().get("name"))
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]

    def _compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[Job]:
        jobs = [
            _compose.compose(self._context, self._config, overrides, number)
            for number, overrides in enumerate(job_overrides, start=first)
        ]
        _composed.forget(self._context)
        for item in dict.fromkeys(item for job in jobs for item in job.unresolved):
            log.warning("Left for the job to resolve: %s", item)
        return jobs

    def _parse(self, jobs: Sequence[Job]) -> list[Options]:
        """Read the launcher's options of every job; those of the sweep must be the same in all."""
        parsed = []
        for job in jobs:
            try:
                options = _options.parse(job.options, environ=os.environ, folder=self.working_dir)
            except OptionError as error:
                raise OptionError(f"{job.title}: {error}") from None
            parsed.append(options)
        sweep = self._pinned.options if self._pinned else parsed[0].sweep
        first = self._pinned.first if self._pinned else jobs[0].title
        for job, options in zip(jobs, parsed, strict=True):
            _options.check_same(sweep, first, options.sweep, job.title)
        return parsed

    def _pin(self, jobs: Sequence[Job], options: Sequence[Options]) -> _Pinned:
        """Settle commit and image (source, image), and open the record of the sweep."""
        request = Request(
            sweep=self.id,
            job_name=jobs[0].name,
            folder=self.folder,
            working_dir=self.working_dir,
            config_dirs=_compose.config_folders(self._config),
            task_function=self._task_function,
            options=options[0].sweep,
            jobs=tuple(option.job for option in options),
        )
        engine = self._make_engine()
        code = _pinning.pin_code(request, engine)
        pinned = _Pinned(jobs[0].title, request.options, engine, code)
        self._plan(pinned, jobs, options)  # refuses limits before anything is pulled or built
        if request.options.dry_run:
            return pinned
        # Before it is made: Ctrl-C may come in between.
        weakref.finalize(self, engine.remove_image, _pinning.layer_tag(request, code))
        ready = _pinning.make_ready(request, code, engine)
        recorder = self._open_record(request, code, ready)
        return _Pinned(pinned.first, pinned.options, engine, code, ready, recorder)

    def _open_record(self, request: Request, code: Code, ready: Ready) -> SweepRecorder:
        record = Record(self.id, self.folder, request.job_name, request.options, code, ready)
        recorder = SweepRecorder(
            record,
            tracker=self._make_tracker(request.options, self.working_dir, code.identity.name),
            ledger=Ledger(SweepPaths(self.folder).ledger, record.ledger_head()),
        )
        self.folder.mkdir(parents=True, exist_ok=True)  # where the sweeper has not
        try:
            with held_back():
                recorder.open()
        except KeyboardInterrupt:
            recorder.close(RunStatus.KILLED)
            raise
        return recorder

    def _plan(
        self, pinned: _Pinned, jobs: Sequence[Job], options: Sequence[Options]
    ) -> list[RunnableJob]:
        code, ready = pinned.code, pinned.ready
        ground = Ground(
            sweep=self.id,
            folder=self.folder,
            working_dir=self.working_dir,
            host=code.host,
            image=ready.layer.id if ready else "IMAGE",
            python=ready.facts.executable if ready else _preflight.PYTHONS[0],
            commit=code.source.commit,
            identity=code.identity,
            n_jobs=_plan.jobs_at_once(
                pinned.options.n_jobs, max(option.job.cpus for option in options), code.host
            ),
        )
        return [
            RunnableJob(
                number=job.number,
                title=job.title,
                spec=_plan.container(
                    ground, JobPlan(job.number, job.name, job.title, job.output_dir), option.job
                ),
                paths=JobPaths(job.output_dir),
                timeout=option.job.timeout,
            )
            for job, option in zip(jobs, options, strict=True)
        ]

    @staticmethod
    def _print(pinned: _Pinned, plans: Sequence[RunnableJob]) -> None:
        code = pinned.code
        image = _image.describe(pinned.options, code.source, code.script)
        print(f"# IMAGE is {image}, with the files of commit {code.source.commit}")
        print(f"# at {code.source.root}. Nothing has been started.")
        for plan in plans:
            print(f"\n# {plan.title}\n{_dry_run.docker_run(plan.spec)}")

    @staticmethod
    def _track_and_run(
        pinned: _Pinned, jobs: Sequence[Job], plans: Sequence[RunnableJob]
    ) -> list[Outcome]:
        recorder, ready = pinned.recorder, pinned.ready
        if recorder is None or ready is None:
            raise RuntimeError("a dry run has nothing to run")
        status = RunStatus.FAILED
        try:
            contents = {
                job.number: _job_files.content(job, pinned.code.task, plan.spec.restart.name)
                for job, plan in zip(jobs, plans, strict=True)
            }
            recorder.batch(jobs, contents)
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
