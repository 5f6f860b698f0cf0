"""Invariants: what must hold of a sweep when it has ended, whatever has happened on its way."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from marked_sweep import MarkedSweep, Snapshot

#: How jobs may end, and what MLflow calls that.
STATUS = {
    "completed": "FINISHED",
    "error": "FAILED",
    "exited": "FAILED",
    "out of memory": "FAILED",
    "timed out": "FAILED",
    "stopped": "KILLED",
    "could not start": "FAILED",
    "lost": "FAILED",
}
#: Label of a container that is none of the sweep's.
FOREIGN = "hydra-docker-faults.foreign"
#: What a sweep leaves in its folder, and in that of a job.
OF_SWEEP = {"sweep.json", "multirun.yaml", "results.json", "launcher.log"}
OF_JOB = {
    ".hydra/config.yaml",
    ".hydra/hydra.yaml",
    ".hydra/overrides.yaml",
    ".docker/config.yaml",
    ".docker/container.json",
    ".docker/result.json",
    "app.log",
    "container.log",
    "progress",
}


class Damage(Enum):
    """What a fault does to the jobs that run: nothing, end them, or lose their output too."""

    NONE = 0
    JOBS = 1
    OUTPUT = 2


@dataclass(frozen=True)
class Run:
    """A run in the store."""

    id: str
    status: str
    begun: int
    artifacts: str
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def job(self) -> int | None:
        """The number of the job; None: it is the run of a whole sweep."""
        return int(self.tags["hydra.docker.job"]) if "hydra.docker.job" in self.tags else None


def check_ended(sweep: MarkedSweep, before: Snapshot, damage: Damage = Damage.NONE) -> None:
    """See that every job has one final outcome that all agree on, and that nothing is left.

    ``before`` is what the sweep had got when the fault came.
    """
    rows = sweep.rows()
    assert [row["job"] for row in rows] == list(range(sweep.jobs)), sweep.output
    for row in rows:
        assert row.get("outcome") in STATUS, f"job without an outcome: {row}\n{sweep.output}"
        assert row.get("cause"), f"job without a cause: {row}\n{sweep.output}"
    _check_kept(sweep, before)
    for row in rows:
        if row["outcome"] == "completed":
            _check_completed(sweep, row["job"], damage)
    _check_logged(sweep, rows)
    _check_nothing_is_left(sweep)


def check_outcomes(sweep: MarkedSweep, allowed: Collection[str] = ()) -> None:
    """See that every job has completed, or has ended in one of the ways ``allowed``."""
    outcomes = Counter(row["outcome"] for row in sweep.rows())
    assert set(outcomes) <= {"completed", *allowed}, f"{outcomes}\n{sweep.output}"


def check_returned(sweep: MarkedSweep) -> None:
    """See that the sweeper has got the value of every job, of whatever run it was."""
    results = json.loads((sweep.folder / "results.json").read_text())
    values = [(result["num"], result["status"], result["value"]) for result in results]
    expected = [
        (job, "COMPLETED", {"number": job, "token": sweep.marks(job).ended[-1]})
        for job in range(sweep.jobs)
    ]
    assert values == expected, sweep.output


def _check_kept(sweep: MarkedSweep, before: Snapshot) -> None:
    """See that a completed job has not been run again, and that no output is gone."""
    for job, token in before.completed.items():
        assert sweep.marks(job).begun[-1] == token, f"#{job} was run again\n{sweep.output}"
        assert sweep.result(job)["value"]["token"] == token, sweep.output
    for job, progress in before.progress.items():
        now = (sweep.folder / str(job) / "progress").read_bytes()
        assert now.startswith(progress), f"output of #{job} is gone\n{sweep.output}"


def _check_completed(sweep: MarkedSweep, job: int, damage: Damage) -> None:
    marks = sweep.marks(job)
    token = sweep.result(job)["value"]["token"]
    assert sweep.result(job)["outcome"] == "completed"
    story = f"#{job}: {marks}, result of {token}\n{sweep.output}"
    assert marks.ended[-1:] == (token,), f"not the result of the last run: {story}"
    assert marks.begun[-1:] == (token,), f"run again after its end: {story}"
    if damage is Damage.NONE:
        assert marks.begun == marks.ended == (token,), f"not run exactly once: {story}"
    log = (sweep.folder / str(job) / "container.log").read_text()
    for word in ("begin", "end"):
        count = log.count(f"{word} {token}\n")
        # What a container prints as its engine is killed is lost with the engine.
        fits = count <= 1 if damage is Damage.OUTPUT else count == 1
        assert fits, f"container.log of #{job}:\n{log}\n{story}"


def _check_logged(sweep: MarkedSweep, rows: list[dict[str, object]]) -> None:
    every = runs(sweep.store.database)
    folders = (None, str(sweep.folder))
    running = [
        run.tags.get("mlflow.runName")
        for run in every
        if run.status == "RUNNING" and run.tags.get("hydra.docker.folder") in folders
    ]
    assert not running, f"still RUNNING in MLflow: {running}\n{sweep.output}"
    own = [run for run in every if run.tags.get("hydra.docker.folder") == str(sweep.folder)]
    parents = [run for run in own if run.job is None]
    all_completed = all(row["outcome"] == "completed" for row in rows)
    assert parents, sweep.output
    assert (parents[-1].status == "FINISHED") == all_completed, f"{parents}\n{sweep.output}"
    for row in rows:
        of_job = [run for run in own if run.job == row["job"]]
        if not of_job and "run_id" not in row and row["outcome"] in ("stopped", "could not start"):
            continue  # never started, so it has no run
        assert of_job, f"no run in MLflow: {row}\n{sweep.output}"
        newest = of_job[-1]
        story = f"{row}\n{of_job}\n{sweep.output}"
        assert newest.status == STATUS[str(row["outcome"])], story
        assert newest.tags.get("hydra.docker.outcome") == row["outcome"], story
        if "run_id" in row:
            assert newest.id == row["run_id"], story
        if row["outcome"] == "completed":
            assert newest.metrics.get("number") == row["job"], story
            assert (sweep.store.artifacts(newest.artifacts) / "container.log").is_file(), story
        finished = [run for run in of_job if run.status == "FINISHED"]
        assert len(finished) == (row["outcome"] == "completed"), f"completed twice: {story}"


def runs(database: Path) -> list[Run]:
    """Return all runs of a store, the oldest first."""
    with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
        tags: dict[str, dict[str, str]] = {}
        for run, key, value in store.execute("SELECT run_uuid, key, value FROM tags"):
            tags.setdefault(run, {})[key] = value
        metrics: dict[str, dict[str, float]] = {}
        for run, key, value in store.execute("SELECT run_uuid, key, value FROM latest_metrics"):
            metrics.setdefault(run, {})[key] = value
        found = store.execute(
            "SELECT run_uuid, status, start_time, artifact_uri FROM runs"
            " WHERE lifecycle_stage = 'active' ORDER BY start_time, rowid"
        )
        return [
            Run(run, status, begun, place, tags.get(run, {}), metrics.get(run, {}))
            for run, status, begun, place in found
        ]


def _check_nothing_is_left(sweep: MarkedSweep) -> None:
    bench = sweep.bench
    for command in sweep.commands:
        assert command.ended, sweep.output
    containers = [
        (container["Names"], container["State"])
        for container in bench.containers()
        if not container["Labels"].get(FOREIGN)
    ]
    assert not containers, f"containers are left: {containers}\n{sweep.output}"
    assert not bench.new_images(), f"images are left: {bench.new_images()}\n{sweep.output}"
    assert not bench.tickets(), f"tickets are left: {bench.tickets()}\n{sweep.output}"
    left = list(bench.temporary.iterdir())
    assert not left, f"temporary files are left: {left}\n{sweep.output}"
    _check_files(sweep)


def _check_files(sweep: MarkedSweep) -> None:
    """See that there is no file but the known ones: no lock, and none that is half written."""
    left = []
    for path in sorted(sweep.folder.rglob("*")):
        if path.is_dir():
            continue
        job, _, name = str(path.relative_to(sweep.folder)).partition("/")
        known = name in OF_JOB if job.isdecimal() else job in OF_SWEEP and not name
        left += [] if known else [str(path)]
    left += [str(path) for path in (sweep.bench.root / ".git").rglob("*.lock")]
    assert not left, f"files are left: {left}\n{sweep.output}"
