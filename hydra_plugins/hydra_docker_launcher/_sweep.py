"""Sweep: the stages from overrides to results, in their order."""

from __future__ import annotations

import getpass
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
    _delivery,
    _dry_run,
    _image,
    _job_files,
    _options,
    _plan,
    _preflight,
    _results,
    _running,
    _source,
    _task,
)
from ._capacity import Capacity
from ._compose import Job
from ._engine import Engine, Host, Image
from ._errors import OptionError
from ._ledger import Ledger
from ._options import Options, SweepOptions
from ._outcome import End
from ._paths import JobPaths, SweepPaths
from ._plan import Ground, Identity, JobPlan
from ._preflight import Facts
from ._recording import Record, SweepRecorder
from ._running import RunnableJob
from ._source import Source
from ._task import Task
from ._tracking import RunStatus, Tracker

log = logging.getLogger("hydra_docker_launcher")

MakeTracker = Callable[[SweepOptions, Path, str], Tracker]


@dataclass(frozen=True, slots=True, eq=False)
class _Pinned:
    """What the first batch of a sweep has settled for all of them."""

    options: SweepOptions
    first: str
    identity: Identity
    host: Host
    source: Source
    task: Task
    image: Image | None = None
    facts: Facts | None = None
    layer: Image | None = None
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
        self._engine: Engine | None = None
        self._pinned: _Pinned | None = None
        self.id = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
        self.folder = Path(os.path.abspath(str(config.hydra.sweep.dir)))
        self.working_dir = Path.cwd()

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Run one batch: a container per override list, numbered from ``first``."""
        jobs = [
            _compose.compose(self._context, self._config, overrides, number)
            for number, overrides in enumerate(job_overrides, start=first)
        ]
        self._warn_of_unresolved(jobs)
        options = self._options(jobs)
        if self._pinned is None:
            self._pinned = self._pin(jobs[0], options)
        pinned = self._pinned
        if pinned.options.dry_run:
            self._show_plan(pinned, jobs, options)
            return []
        plans = self._plan(pinned, jobs, options)
        return self._run(pinned, jobs, plans)

    # ---- options ---------------------------------------------------------------------------------

    def _options(self, jobs: Sequence[Job]) -> list[Options]:
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
            for name in _options.SWEEP_WIDE:
                one, other = getattr(sweep, name), getattr(options.sweep, name)
                if one != other:
                    raise OptionError(
                        f"hydra.launcher.{name} must be the same for all jobs of a sweep, but is "
                        f"{one!r} for {first} and {other!r} for {job.title}"
                    )
        return parsed

    # ---- source, image, delivery -----------------------------------------------------------------

    def _pin(self, job: Job, options: Sequence[Options]) -> _Pinned:
        sweep = options[0].sweep
        script = _task.running_script(self._task_function)
        source = _source.pin(
            script or self.working_dir,
            revision=sweep.commit,
            dirty=sweep.dirty,
            config_dirs=self._config_dirs(),
            own_paths=(self.folder, *_store_paths(self.working_dir)),
        )
        if script is not None:
            _source.require_file(source, script)
        task = _task.describe(self._task_function, script, source.root)
        self._engine = engine = self._make_engine()
        pinned = _Pinned(
            options=sweep,
            first=job.title,
            identity=_identity(sweep.user),
            host=engine.host(),
            source=source,
            task=task,
        )
        self._check_limits(pinned, job, options)
        if sweep.dry_run:
            return pinned
        log.info("Commit %s of %s", source.commit[:12], source.root)
        if source.left_out:
            log.warning("Running without uncommitted changes: %s", ", ".join(source.left_out))
        return self._pin_image(pinned, engine, job, options, script)

    def _config_dirs(self) -> tuple[Path, ...]:
        sources = self._config.hydra.runtime.config_sources
        return tuple(Path(source.path) for source in sources if source.schema == "file")

    def _pin_image(
        self,
        pinned: _Pinned,
        engine: Engine,
        job: Job,
        options: Sequence[Options],
        script: Path | None,
    ) -> _Pinned:
        sweep, source, identity = pinned.options, pinned.source, pinned.identity
        labels = _plan.labels(self.id, source.commit, identity.name)
        image = _image.get_image(engine, sweep, source, script, labels, log.info)
        log.info("Image %s (%s)", image.reference, image.short)
        facts = _preflight.inspect_image(
            engine,
            image,
            user=identity.container,
            gpus=any(option.job.gpus for option in options),
            runtime=options[0].job.runtime,
            cache=_cache_folder(),
        )
        _preflight.check_versions(facts)
        library = None
        if pinned.task.function is not None:
            _preflight.check_function_by_value(facts, pinned.task.target)
            log.warning(
                "The task function %s is in no script and in no module: it is sent by value, and "
                "is not part of commit %s",
                pinned.task.target,
                source.commit[:12],
            )
            library = _cloudpickle_folder()
        layer = _delivery.deliver(
            engine,
            image,
            source,
            sweep=self.id,
            name=job.name,
            user=identity.container,
            working_dir=self.working_dir,
            library=library,
            labels=labels,
        )
        weakref.finalize(self, engine.remove_image, layer.id)
        record = Record(
            sweep=self.id,
            folder=self.folder,
            job_name=job.name,
            script=str(script) if script is not None else pinned.task.target,
            identity=identity,
            host=pinned.host,
            source=source,
            image=image,
            facts=facts,
            options=sweep,
        )
        recorder = SweepRecorder(
            record,
            tracker=self._make_tracker(sweep, self.working_dir, identity.name),
            ledger=Ledger(SweepPaths(self.folder).ledger, record.ledger_head()),
        )
        recorder.open()
        return _Pinned(
            options=sweep,
            first=pinned.first,
            identity=identity,
            host=pinned.host,
            source=source,
            task=pinned.task,
            image=image,
            facts=facts,
            layer=layer,
            recorder=recorder,
        )

    # ---- plan ------------------------------------------------------------------------------------

    def _ground(self, pinned: _Pinned, options: Sequence[Options]) -> Ground:
        cpus = max(option.job.cpus for option in options)
        return Ground(
            sweep=self.id,
            folder=self.folder,
            working_dir=self.working_dir,
            host=pinned.host,
            image=pinned.layer.id if pinned.layer else pinned.options.image or "IMAGE",
            python=pinned.facts.executable if pinned.facts else _preflight.PYTHONS[0],
            commit=pinned.source.commit,
            identity=pinned.identity,
            n_jobs=_plan.jobs_at_once(pinned.options.n_jobs, cpus, pinned.host),
        )

    def _check_limits(self, pinned: _Pinned, job: Job, options: Sequence[Options]) -> None:
        """Refuse what the machine cannot give before an image is pulled or built."""
        n_jobs = self._ground(pinned, options).n_jobs
        for option in options:
            _plan.limits(option.job, pinned.host, n_jobs, job.title)
            for volume in option.job.volumes:
                if volume.named and self._engine and not self._engine.volume_exists(volume.source):
                    raise OptionError(
                        f"hydra.launcher.volumes: the engine has no volume {volume.source!r}. Make "
                        f"it (docker volume create {volume.source}), or write ./{volume.source} "
                        "for a folder."
                    )

    def _plan(
        self, pinned: _Pinned, jobs: Sequence[Job], options: Sequence[Options]
    ) -> list[RunnableJob]:
        ground = self._ground(pinned, options)
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

    def _show_plan(self, pinned: _Pinned, jobs: Sequence[Job], options: Sequence[Options]) -> None:
        script = _task.running_script(self._task_function)
        image = _image.describe(pinned.options, pinned.source, script)
        print(f"# commit {pinned.source.commit} of {pinned.source.root}")
        print(f"# IMAGE is {image} with that commit's files at {pinned.source.root}")
        for plan in self._plan(pinned, jobs, options):
            print(f"\n# {plan.title}\n{_dry_run.docker_run(plan.spec)}")

    # ---- track, run, results ---------------------------------------------------------------------

    def _run(
        self, pinned: _Pinned, jobs: Sequence[Job], plans: Sequence[RunnableJob]
    ) -> list[JobReturn]:
        engine, recorder = self._engine, pinned.recorder
        if engine is None or recorder is None:
            raise RuntimeError("a batch can only run after the sweep is pinned")
        task_name = JobRuntime.instance().get("name")
        contents = {
            job.number: _job_files.content(job, pinned.task, task_name, plan.spec.restart.name)
            for job, plan in zip(jobs, plans, strict=True)
        }
        recorder.batch(jobs, contents)
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(job.overrides))
        status = RunStatus.FAILED
        try:
            outcomes = _running.run_jobs(
                plans,
                engine=engine,
                capacity=Capacity(
                    pinned.host,
                    pinned.options.n_jobs,
                    pinned.facts.gpus if pinned.facts else (),
                ),
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
        return [
            _results.job_return(job, outcome, task_name)
            for job, outcome in zip(jobs, outcomes, strict=True)
        ]

    @staticmethod
    def _warn_of_unresolved(jobs: Sequence[Job]) -> None:
        shown: dict[str, None] = dict.fromkeys(item for job in jobs for item in job.unresolved)
        for item in shown:
            log.warning("Left for the job to resolve: %s", item)


def _identity(user: str) -> Identity:
    uid, gid = os.getuid(), os.getgid()
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(uid)
    container = {"host": f"{uid}:{gid}", "image": None}.get(user, user)
    return Identity(name=name, uid=uid, gid=gid, container=container)


def _store_paths(folder: Path) -> tuple[Path, ...]:
    return tuple(folder / name for name in ("mlflow-store", "mlflow.db", "mlruns"))


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hydra-docker-launcher" / "images"


def _cloudpickle_folder() -> Path:
    import cloudpickle

    return Path(cloudpickle.__file__).parent
