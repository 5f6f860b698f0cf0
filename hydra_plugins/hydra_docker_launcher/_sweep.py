"""Sweep: what Hydra's sweeper asks for, from overrides to ``JobReturn``."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobRuntime
from hydra.types import HydraContext
from omegaconf import DictConfig

from . import (
    _compose,
    _composed,
    _composition,
    _execution,
    _job_files,
    _masks,
    _multirun,
    _pinning,
    _results,
)
from ._compose import ComposedJob
from ._errors import DockerLauncherError, OptionError
from ._execution import Batch, Execution, MakeEngine, MakeTracker
from ._job import Job
from ._task import Task

log = logging.getLogger("hydra_docker_launcher")


class Sweep:
    """One sweep of a Hydra app, in one or more batches."""

    def __init__(
        self,
        context: HydraContext,
        config: DictConfig,
        task_function: Callable[[Any], Any],
        make_engine: MakeEngine,
        make_tracker: MakeTracker,
    ) -> None:
        self._context = context
        self._config = config
        folder = Path(os.path.abspath(str(config.hydra.sweep.dir)))
        rules = _compose.rules_of(config)
        self._folder = folder
        self._mask_multirun = functools.partial(_multirun.mask, folder, rules)
        self._execution = Execution(
            _execution.new_id(),
            folder=folder,
            working_dir=Path.cwd(),
            make_engine=make_engine,
            make_tracker=make_tracker,
            pin_code=functools.partial(
                _pinning.pin_code,
                task_function=task_function,
                config_dirs=_compose.config_folders(config),
            ),
            composition=functools.partial(_composition.composition, config, rules),
        )
        # For a sweeper that refuses its jobs before it calls the launcher.
        atexit.register(self._mask_multirun)

    @property
    def id(self) -> str:
        return self._execution.id

    def launch(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
        """Run one batch: a container per override list, numbered from ``first``.

        Returns a ``JobReturn`` per job, in their order; none of a dry run. That of a job that runs
        on in the background has the status UNKNOWN, and no return value.
        """
        self._mask_multirun()
        jobs = self._compose(job_overrides, first)
        with _told_without_secrets(jobs):
            return self._launch(jobs)

    def _launch(self, jobs: Sequence[ComposedJob]) -> list[JobReturn]:
        options = self._execution.parse([(job, job.options) for job in jobs])
        if options[0].sweep.detach:
            self._check_sweeper()
        composed = {job.number: job for job in jobs}

        def content(job: Job, task: Task, restart: str) -> bytes:
            return _job_files.content(composed[job.number], task, restart)

        outcomes = self._execution.run(Batch(tuple(jobs), options), content)
        name = JobRuntime.instance().get("name")
        return [
            _results.job_return(job, outcome, name)
            for job, outcome in zip(jobs, outcomes or (), strict=outcomes is not None)
        ]

    def _check_sweeper(self) -> None:
        """Raise ``OptionError`` for a sweeper that chooses its jobs by the results of others."""
        sweeper = str(self._config.hydra.sweeper.get("_target_"))
        if sweeper.rpartition(".")[2] != "BasicSweeper":
            raise OptionError(
                "hydra.launcher.detach=true gives no results back, and the sweeper "
                f"{sweeper} chooses the next jobs by them. With hydra.launcher.on_interrupt=detach "
                "its jobs survive the terminal that it runs in."
            )

    def _compose(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[ComposedJob]:
        jobs = [
            _compose.compose(self._context, self._config, overrides, number)
            for number, overrides in enumerate(job_overrides, start=first)
        ]
        _composed.forget(self._context)
        for job in jobs:
            _check_folder(job, self._folder)
            _check_names(job)
        for item in dict.fromkeys(item for job in jobs for item in job.unresolved):
            log.warning("Left for the job to resolve: %s", item)
        return jobs


@contextmanager
def _told_without_secrets(jobs: Sequence[ComposedJob]) -> Iterator[None]:
    """Mask what errors say: a secret may be part of an option's value, or of a path."""
    try:
        yield
    except DockerLauncherError as error:
        masks = tuple(dict.fromkeys(mask for job in jobs for mask in job.withheld.masks))
        told = "".join(traceback.format_exception(error))
        if _masks.masked(told, masks) == told:
            raise
        error.args = tuple(_masks.masked_plain(error.args, masks))
        raise error from None


def _check_names(job: ComposedJob) -> None:
    """Raise ``OptionError`` for a secret in a name that everything of the sweep is called by."""
    hidden = {item.key for item in job.withheld.hidden}
    for key in ("hydra.job.name", "hydra.sweep.dir", "hydra.sweep.subdir"):
        if key in hidden:
            raise OptionError(
                f"{job.title}: {key} has a secret of the config in it, and everybody who lists "
                "folders, images or runs would see it. Leave it out there."
            )


def _check_folder(job: ComposedJob, sweep: Path) -> None:
    """Raise ``OptionError`` where the name of a job's output folder would tell a secret."""
    name = os.path.relpath(job.output_dir, sweep)
    shown = _masks.masked(name, job.withheld.masks)
    for given, written in zip(job.task_overrides, job.overrides, strict=True):
        shown = shown.replace(given, written)
    if shown != name:
        keys = ", ".join(item.key for item in job.withheld.hidden if "hydra." not in item.key)
        raise OptionError(
            f"{job.title}: the name of its output folder would have a secret in it: {shown}\n"
            f"Leave it out of hydra.sweep.subdir; hydra.job.override_dirname leaves out what "
            f"hydra.job.config.override_dirname.exclude_keys names: [{keys}]"
        )
