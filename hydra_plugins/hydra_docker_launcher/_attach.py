"""Attach: a sweep whose launcher has ended, or was killed, is taken up in its folder.

From its own files, its ledger and the labels of its containers: no script is run again for that,
and no config is composed.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _background, _delivery, _provenance, _running, _sweep_folder, _take_up, _tickets
from ._capacity import Capacity
from ._engine import Engine
from ._errors import SweepError
from ._execution import MakeEngine, MakeTracker
from ._harmless import one_line
from ._interrupt import Detached, ignored
from ._ledger import Ledger
from ._outcome import End, Outcome
from ._paths import SweepPaths
from ._recording import SweepRecorder
from ._saved import SavedJob, SavedSweep
from ._sweep_folder import SweepFolder
from ._tracking import RunStatus

log = logging.getLogger("hydra_docker_launcher")

PAUSE = 0.5  # seconds between two looks whether a launcher has added jobs


class Attached:
    """A sweep that is taken up by this process.

    ``background``: it has no terminal, and leaves the sweep to whoever attaches to it.
    """

    def __init__(
        self,
        folder: SweepFolder,
        sweep: SavedSweep,
        *,
        make_tracker: MakeTracker,
        background: bool = False,
    ) -> None:
        self._folder = folder
        self._sweep = sweep
        self._background = background
        path = SweepPaths(sweep.folder).ledger
        self._ledger = Ledger.read(path) or Ledger(path, _head(sweep))
        self._recorder = SweepRecorder(
            sweep,
            folder=folder,
            ledger=self._ledger,
            tracker=make_tracker(sweep.mlflow, sweep.working_dir, sweep.user),
            show_output=not background,
        )

    def run(self, engine: Engine, *, stop: str | None = None) -> None:
        """Bring every job to its end; with ``stop``, a reason, at once.

        Raises ``Detached`` where an interrupt leaves the sweep to the background, or to the process
        that has asked for it.
        """
        # Containers must come to their end, also where nothing of that can be tracked.
        self._recorder.join(self._sweep.relays, required=False)
        status = RunStatus.FAILED
        try:
            self._run(engine, stop)
            status = RunStatus.KILLED if self._was_stopped(stop) else RunStatus.FINISHED
        except Detached:
            with ignored():
                self._recorder.hand_over()
                if not self._background:
                    _background.start(self._folder.paths, self._sweep.working_dir)
            raise
        except KeyboardInterrupt:
            status = RunStatus.KILLED
            self._finish(engine, status)
            raise
        except Exception:
            self._finish(engine, status)
            raise
        self._finish(engine, status)

    def _was_stopped(self, reason: str | None) -> bool:
        """Tell whether a job has ended because it was to be stopped."""
        outcomes = [row["outcome"] for row in self._ledger.rows.values()]
        return reason is not None and End.STOPPED.value in outcomes

    def _finish(self, engine: Engine, status: RunStatus) -> None:
        self._recorder.close(status)
        if not self._folder.numbers():
            _delivery.remove_layers(engine, self._sweep.folder, self._sweep.layer)
        self._recorder.finish()

    def sync(self) -> int:
        """Send what the tracking store has not got; jobs that have not ended stay as they are.

        Returns how many jobs are still to be sent.
        """
        self._recorder.join(self._sweep.relays)
        for job in self._folder.jobs().values():
            outcome = self._seen(job)
            if outcome is not None:
                self._recorder.settle(job, outcome)
        left = self._folder.jobs().values()
        if any(self._seen(job) is None for job in left):
            self._recorder.hand_over()
        else:
            self._recorder.close(RunStatus.FINISHED)
            self._recorder.finish()
        return sum(self._seen(job) is not None for job in left)

    def _run(self, engine: Engine, stop: str | None) -> None:
        seen: set[int] = set()
        while True:
            jobs = {
                number: job for number, job in self._folder.jobs().items() if number not in seen
            }
            if not jobs and not (self._background and self._folder.expects_more()):
                return
            if not jobs:
                time.sleep(PAUSE)
                continue
            seen |= jobs.keys()
            self._run_jobs(engine, jobs, stop)

    def _run_jobs(self, engine: Engine, jobs: Mapping[int, SavedJob], stop: str | None) -> None:
        containers = _take_up.containers(engine, self._sweep.id, self._ledger)
        left = []
        for number, job in jobs.items():
            container = containers.get(number)
            if _take_up.is_doubtful(self._ledger.row(number), container):
                self._recorder.take_back(number)
            outcome = self._recorded(job)
            if outcome is None:
                left.append(_take_up.gone_on(job, self._ledger.row(number), container))
            else:
                self._recorder.settle(job, outcome)
                _take_up.clean_up(engine, job, outcome, container, self._sweep.keep)
        if not left:
            return
        sweep = self._sweep
        _running.run_jobs(
            [job.runnable for job in left],
            engine=engine,
            capacity=Capacity(
                sweep.host,
                sweep.n_jobs,
                sweep.gpus,
                engine_wide=sweep.admission == "engine",
                gpu_parts=sweep.gpu_parts,
            ),
            recorder=self._recorder,
            keep=sweep.keep,
            fail_fast=sweep.fail_fast,
            on_interrupt="detach" if self._background else sweep.on_interrupt,
            stop=stop,
            system_metrics=sweep.system_metrics,
            begin=lambda: self._recorder.batch(left),
        )

    def _seen(self, job: SavedJob) -> Outcome | None:
        """Return the end of a job, None where it has none, or where nobody has seen it."""
        return None if _take_up.is_unseen(self._ledger.row(job.number)) else self._recorded(job)

    def _recorded(self, job: SavedJob) -> Outcome | None:
        return _take_up.recorded(self._ledger.row(job.number), job.job.paths.result)


def _head(sweep: SavedSweep) -> dict[str, Any]:
    """Return the head of the ledger of a sweep that has none: of what its run was to be told."""
    told = sweep.run.artifacts.get(_provenance.FILE, "{}")
    facts: dict[str, Any] = json.loads(told)
    facts.pop("format", None)
    return {**facts, "sweep": sweep.id, "folder": str(sweep.folder)}


def attach(
    folder: Path, *, make_engine: MakeEngine, make_tracker: MakeTracker, background: bool = False
) -> Ledger:
    """Take up the sweep in ``folder`` and bring it to its end; return its ledger.

    Raises ``SweepError`` where there is none, or another process looks after it; ``Detached`` where
    an interrupt leaves it to the background.
    """
    return _with_sweep(folder, make_engine, make_tracker, background=background, stop=None)


def stop(
    folder: Path, *, make_engine: MakeEngine, make_tracker: MakeTracker, reason: str
) -> Ledger:
    """Stop the jobs of the sweep in ``folder`` that have not ended; return its ledger."""
    return _with_sweep(folder, make_engine, make_tracker, background=False, stop=reason)


def sync(folder: Path, *, make_tracker: MakeTracker) -> int:
    """Send what the tracking store has not got of the sweep in ``folder``.

    Returns how many jobs are still to be sent.
    """
    taken = _take(folder)
    if taken is None:
        return 0
    sweep_folder, sweep = taken
    try:
        return Attached(sweep_folder, sweep, make_tracker=make_tracker).sync()
    finally:
        sweep_folder.release()


def ledger_of(folder: Path) -> Ledger:
    """Return the ledger of the sweep in ``folder``. Raises ``SweepError`` where there is none."""
    ledger = Ledger.read(SweepPaths(folder).ledger)
    if ledger is None:
        raise SweepError(
            f"{folder} is the folder of no sweep: it has no sweep.json. Name a folder that a sweep "
            "with hydra/launcher=docker has made (hydra.sweep.dir)."
        )
    return ledger


def summary(ledger: Ledger) -> str:
    """Return how many jobs have ended how, in words."""
    outcomes = [one_line(str(row["outcome"] or "not ended")) for row in ledger.rows.values()]
    counts = {outcome: outcomes.count(outcome) for outcome in dict.fromkeys(outcomes)}
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items()) or "no job"


def all_completed(ledger: Ledger) -> bool:
    return all(row["outcome"] == End.COMPLETED.value for row in ledger.rows.values())


def _with_sweep(
    folder: Path,
    make_engine: MakeEngine,
    make_tracker: MakeTracker,
    *,
    background: bool,
    stop: str | None,
) -> Ledger:
    taken = _take(folder, background=background)
    if taken is None:
        return ledger_of(folder)
    sweep_folder, sweep = taken
    try:
        engine = make_engine()
        _tickets.drop_left(engine)  # nobody else may ever ask for a place on this engine
        attached = Attached(sweep_folder, sweep, make_tracker=make_tracker, background=background)
        log.info("Sweep %s in %s", one_line(sweep.id), one_line(str(sweep.folder)))
        attached.run(engine, stop=stop)
    finally:
        sweep_folder.release()
    return ledger_of(folder)


def _take(folder: Path, *, background: bool = False) -> tuple[SweepFolder, SavedSweep] | None:
    """Become the process that looks after a sweep; None of one that is over."""
    paths = _sweep_folder.find(folder)
    if paths is None:
        ledger_of(folder)
        return None
    sweep_folder = _background.take_over(paths, background=background)
    sweep = sweep_folder.sweep()
    if sweep is None:
        sweep_folder.release()
        return None
    return sweep_folder, sweep
