"""Recording: what happens to a sweep goes to the ledger, to tracking, and to the user."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from . import _compose, _job_files, _job_record, _plan, _results
from ._data import DataIdentity
from ._engine import ContainerSpec, ContainerState, Image
from ._errors import TrackingError
from ._job import Job
from ._ledger import Ledger, write_json
from ._options import LABEL_PREFIX, SweepOptions
from ._outcome import End, Outcome
from ._pinning import Code, Ready
from ._relay import Relay, reachable_url
from ._running import RunnableJob
from ._tracking import JobRun, JobRunEnd, RunStatus, SweepRun, Tracker
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

#: Everything that moves the cursor or worse; colours stay.
_ESCAPES = re.compile(r"\x1b(?!\[[0-9;]*m)(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[@-Z\\-_])?")
_CONTROLS = dict.fromkeys((*range(9), *range(10, 27), *range(28, 32), 127))


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a sweep before its first job starts."""

    sweep: str
    folder: Path
    job_name: str
    options: SweepOptions
    code: Code
    ready: Ready

    def ledger_head(self) -> dict[str, Any]:
        """Return the head of ``sweep.json``. Values of variables are not in it, only names."""
        options = self.options
        return {
            "sweep": self.sweep,
            "started": _now(),
            "user": self.code.identity.name,
            "script": self.code.entry,
            "source": {
                "root": str(self.code.source.root),
                "commit": self.code.source.commit,
                "parent": self.code.source.parent,
                "dirty": self.code.source.dirty,
                "pushed": self.code.pushed,
                "branch": self.code.source.branch,
                "remote": self.code.source.remote_url,
                "left_out": list(self.code.source.left_out),
            },
            "image": {
                "reference": self.ready.image.reference,
                "id": self.ready.image.id,
                "digest": self.ready.image.digest,
                "base": self.ready.image.base,
                "python": self.ready.facts.python,
                "hydra": self.ready.facts.hydra,
            },
            **({"delivered": _delivered(self.ready.baked)} if self.ready.baked else {}),
            "host": {
                "name": self.code.host.name,
                "engine": self.code.host.engine,
                "cpus": self.code.host.cpus,
                "memory": self.code.host.memory,
            },
            "options": {
                "n_jobs": options.n_jobs,
                "user": options.user,
                "pull_policy": options.pull_policy,
                "dirty": options.dirty,
                "delivery": options.delivery,
                **({"remote": self.code.clone.shown} if self.code.clone else {}),
                "keep": options.keep,
                "fail_fast": options.fail_fast,
            },
        }

    def tags(self) -> dict[str, str]:
        """Return the tags of every run of the sweep."""
        tags = {
            "mlflow.source.name": self.code.entry,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.git.commit": self.code.source.commit,
            "mlflow.source.git.dirty": _flag(self.code.source.dirty),
            "mlflow.source.git.branch": self.code.source.branch,
            "mlflow.source.git.repoURL": self.code.source.remote_url,
            "mlflow.docker.image.uri": self.ready.image.digest or self.ready.image.reference,
            "mlflow.docker.image.id": self.ready.image.id,
            f"{LABEL_PREFIX}image.base": self.ready.image.base,
            f"{LABEL_PREFIX}parent_commit": self.code.source.parent,
            f"{LABEL_PREFIX}pushed": _flag(self.code.pushed),
            f"{LABEL_PREFIX}sweep": self.sweep,
            f"{LABEL_PREFIX}folder": str(self.folder),
            f"{LABEL_PREFIX}host": self.code.host.name,
            f"{LABEL_PREFIX}engine": self.code.host.engine,
            **self._delivered_tags(),
            **dict(self.options.mlflow.tags),
        }
        return {name: value for name, value in tags.items() if value is not None}

    def artifacts(self) -> dict[str, str | bytes]:
        """Return the files of every run of the sweep."""
        patch = {} if self.code.patch is None else {_job_record.PATCH: self.code.patch}
        packages = "".join(f"{package}\n" for package in self.ready.facts.packages)
        return {_job_record.PACKAGES: packages, **patch}

    def _delivered_tags(self) -> dict[str, str]:
        baked = self.ready.baked
        if baked is None:
            return {}
        return {
            f"{LABEL_PREFIX}delivered.uri": baked.digest or baked.reference,
            f"{LABEL_PREFIX}delivered.id": baked.id,
        }


def _delivered(baked: Image) -> dict[str, Any]:
    """Return the image with the commit's files in it: the one to keep, or to hand on."""
    return {"reference": baked.reference, "id": baked.id, "digest": baked.digest}


class SweepRecorder:
    """Writes down one sweep. Its methods are called from the threads of the jobs."""

    def __init__(self, record: Record, tracker: Tracker, ledger: Ledger) -> None:
        self._record = record
        self._tracker = tracker
        self._ledger = ledger
        self._jobs: dict[int, Job] = {}
        self._contents: dict[int, bytes] = {}
        self._data: dict[int, tuple[DataIdentity, ...]] = {}
        self._runs: dict[int, str | None] = {}
        self._ends: list[End] = []
        self._relays: dict[str, tuple[str, Relay | None]] = {}
        self._lock = threading.Lock()
        self._closed = False

    # ---- the sweep -------------------------------------------------------------------------------

    def open(self) -> None:
        """Start the parent run. Raises ``TrackingError`` where the store cannot be used."""
        mlflow = self._record.options.mlflow
        self._tracker.open_sweep(
            SweepRun(
                experiment=mlflow.experiment_name or self._record.job_name,
                name=mlflow.run_name or self._record.folder.name,
                tags=self._record.tags(),
                artifacts=self._record.artifacts(),
            )
        )

    def batch(
        self,
        jobs: Sequence[Job],
        contents: Mapping[int, bytes],
        data: Mapping[int, tuple[DataIdentity, ...]],
    ) -> None:
        """Take in the jobs that run next, what their workers are to read, and their data."""
        self._jobs.update({job.number: job for job in jobs})
        self._contents.update(contents)
        self._data.update(data)
        every = dict.fromkeys(item for of_job in self._data.values() for item in of_job)
        self._ledger.note(data=[item.as_json() for item in every])
        if self._closed:
            self._tracker.reopen_sweep()
            self._closed = False
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(job.overrides))
            self._ledger.update(
                job.number,
                overrides=list(job.overrides),
                output_dir=str(job.paths.output),
                outcome=None,
            )

    def close(self, status: RunStatus) -> None:
        """Give the parent run its status, and tell the user how the batch has ended."""
        self._closed = True
        try:
            self._tracker.close_sweep(status)
        except TrackingError as error:
            log.warning("%s", error)
        for _, relay in self._relays.values():
            if relay is not None:
                relay.close()
        self._relays.clear()
        counts = {end: self._ends.count(end) for end in dict.fromkeys(self._ends)}
        self._ends.clear()
        log.info(", ".join(f"{number} {end.value}" for end, number in counts.items()) or "no job")

    # ---- one job ---------------------------------------------------------------------------------

    def starting(self, job: RunnableJob, spec: ContainerSpec) -> ContainerSpec:
        """Write the job's files and start its run; return its specification with the run in it."""
        composed = self._jobs[job.number]
        user = (
            spec.boundary.user or f"{self._record.ready.facts.uid}:{self._record.ready.facts.gid}"
        )
        clone = self._record.code.clone
        secrets = clone.secrets if clone is not None else ()
        content = self._contents.pop(job.number)
        _job_files.write(job.paths, composed.yaml, content, user, secrets)
        run_id = self._tracker.open_job(self._job_run(composed, spec, content))
        self._runs[job.number] = run_id
        access = self._tracker.access()
        environment = access.environment + self._tracker.job_environment(run_id)
        if access.url is not None and access.url_variable is not None:
            address = self._reachable(access.url, spec.boundary.network_mode or "bridge")
            environment += ((access.url_variable, address),)
        return _plan.with_run(spec, run_id, environment, access.folders)

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        self._ledger.update(
            job.number,
            container=container,
            name=spec.name,
            run_id=self._runs.get(job.number),
            started=_now(),
        )

    def output(self, job: RunnableJob, text: str) -> None:
        """Show a line of the job's output, without what could play tricks on a terminal."""
        with self._lock:
            sys.stdout.write(f"#{job.number} | {_harmless(text)}\n")
            sys.stdout.flush()

    def ended(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
    ) -> None:
        composed = self._jobs[job.number]
        self._ends.append(outcome.end)
        self._tell(composed, outcome)
        row = {
            "outcome": outcome.end.value,
            "cause": outcome.cause,
            "exit_code": outcome.exit_code,
            "ended": _now(),
        }
        self._ledger.update(job.number, **row)
        if container is not None:
            write_json(
                job.paths.container,
                {
                    "id": container,
                    "name": job.spec.name,
                    "image": self._record.ready.image.id,
                    "started_at": state.started_at if state else None,
                    "finished_at": state.finished_at if state else None,
                    "run_id": self._runs.get(job.number),
                    "limits": _limits(job.spec),
                    **row,
                },
            )
        self._close_run(job, composed, outcome, container)

    def _close_run(
        self, job: RunnableJob, composed: Job, outcome: Outcome, container: str | None
    ) -> None:
        tags = {
            f"{LABEL_PREFIX}outcome": outcome.end.value,
            f"{LABEL_PREFIX}cause": outcome.cause,
            f"{LABEL_PREFIX}container": container,
            f"{LABEL_PREFIX}exit_code": outcome.exit_code,
        }
        end = JobRunEnd(
            status=outcome.end.run_status,
            params=_compose.flatten(composed.plain),
            metrics=_metrics(outcome),
            tags={name: str(value) for name, value in tags.items() if value is not None},
            files={"container.log": job.paths.log} if _results.has_log(job.paths) else {},
        )
        try:
            self._tracker.close_job(self._runs.get(job.number), end)
        except TrackingError as error:
            log.warning("%s", error)

    def _tell(self, job: Job, outcome: Outcome) -> None:
        if outcome.end is not End.COMPLETED:
            log.error("%s", "\n".join(map(_harmless, _results.describe(job, outcome).split("\n"))))
            return
        if outcome.warning:
            log.warning("%s %s", job.title, outcome.warning)
        if outcome.not_json:
            log.warning(
                "%s returned a %s, which is no JSON value: the sweeper gets its repr. Return "
                "numbers, strings, lists or dicts, and write anything else to the output folder.",
                job.title,
                outcome.not_json,
            )

    def _job_run(self, job: Job, spec: ContainerSpec, content: bytes) -> JobRun:
        limits = {f"{LABEL_PREFIX}{name}": value for name, value in _limits(spec).items()}
        data = self._data.get(job.number, ())
        return JobRun(
            name=" ".join(job.overrides) or f"{job.name} {job.number}",
            tags={
                **self._record.tags(),
                **limits,
                f"{LABEL_PREFIX}job": str(job.number),
                f"{LABEL_PREFIX}output_dir": str(job.paths.output),
                **job.tags,
            },
            artifacts={
                _job_record.CONFIG: job.yaml,
                "overrides.yaml": job.overrides_yaml,
                _job_record.CONTENT: content,
                _job_record.RECORD: _job_record.to_json(
                    job, spec, self._record.code, self._record.ready
                ),
                **({"data.json": _data_json(data)} if data else {}),
                **self._record.artifacts(),
            },
            datasets=tuple(filter(None, (item.as_dataset() for item in data))),
        )

    def _reachable(self, url: str, network_mode: str) -> str:
        with self._lock:
            if network_mode not in self._relays:
                self._relays[network_mode] = reachable_url(
                    url, network_mode=network_mode, gateway=self._record.code.host.gateway
                )
            return self._relays[network_mode][0]


def _data_json(data: Sequence[DataIdentity]) -> str:
    return json.dumps([item.as_json() for item in data], indent=2) + "\n"


def _harmless(line: str) -> str:
    """Return a line of a container's words without what could play tricks on a terminal."""
    return _ESCAPES.sub("", line).translate(_CONTROLS)


def _limits(spec: ContainerSpec) -> dict[str, str]:
    limits = spec.limits
    return {
        "cpus": f"{limits.cpus:g}",
        "mem_limit": show_size(limits.memory),
        "shm_size": show_size(limits.shm_size),
        "pids_limit": str(limits.pids),
        "gpus": ",".join(spec.gpus.ids) or ("all" if spec.gpus.all else str(spec.gpus.count)),
    }


def _flag(value: bool | None) -> str | None:
    return None if value is None else str(value).lower()


def _metrics(outcome: Outcome) -> dict[str, float]:
    """Return a returned number as ``return_value``, a dict's numbers by their keys."""
    value = outcome.value
    items = value.items() if isinstance(value, dict) else [("return_value", value)]
    return {
        name: float(number)
        for name, number in items
        if isinstance(number, (int, float)) and not isinstance(number, bool)
        if isinstance(number, float) or abs(number) <= sys.float_info.max
    }


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
