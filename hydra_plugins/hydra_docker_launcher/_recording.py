"""Recording: what happens to a sweep goes to the ledger, to tracking, and to the user."""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone

from . import (
    _compose,
    _data_identity,
    _job_files,
    _job_record,
    _plan,
    _private,
    _provenance,
    _results,
)
from ._data_identity import DataIdentity
from ._engine import ContainerSpec, ContainerState
from ._errors import TrackingError
from ._job import Job
from ._ledger import Ledger, write_json
from ._options import LABEL_PREFIX
from ._outcome import End, Outcome
from ._provenance import Record
from ._relay import Relay, reachable_url
from ._running import RunnableJob
from ._tracking import JobRun, JobRunEnd, RunStatus, SweepRun, Tracker
from ._units import show_size

log = logging.getLogger("hydra_docker_launcher")

#: Everything that moves the cursor or worse; colours stay.
_ESCAPES = re.compile(r"\x1b(?!\[[0-9;]*m)(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[@-Z\\-_])?")
_CONTROLS = dict.fromkeys((*range(9), *range(10, 27), *range(28, 32), 127))


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
        self._specs: dict[int, ContainerSpec] = {}
        self._attempts: dict[int, list[dict[str, object]]] = {}
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
                artifacts={
                    **self._record.artifacts(),
                    _provenance.FILE: _provenance.text(self._record.sweep_document()),
                },
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
        every = list(dict.fromkeys(item for of_job in self._data.values() for item in of_job))
        self._ledger.note(data=[item.as_json() for item in every])
        if self._closed:
            self._tracker.reopen_sweep()
            self._closed = False
        for job in jobs:
            log.info("\t#%d : %s", job.number, " ".join(job.overrides))
            of_job = [every.index(item) for item in self._data.get(job.number, ())]
            self._ledger.update(
                job.number,
                overrides=list(job.overrides),
                output_dir=str(job.paths.output),
                **({"data": of_job} if of_job else {}),
                outcome=None,
                **self._own_options(job),
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
        content = self._contents[job.number]
        _job_files.write(job.paths, composed.yaml, content, user, secrets)
        if job.number not in self._runs:  # one run for all attempts
            run = self._job_run(composed, spec, content)
            self._runs[job.number] = self._tracker.open_job(run)
        run_id = self._runs[job.number]
        access = self._tracker.access()
        environment = access.environment + self._tracker.job_environment(run_id)
        if access.url is not None and access.url_variable is not None:
            address = self._reachable(access.url, spec.boundary.network_mode or "bridge")
            environment += ((access.url_variable, address),)
        return _plan.with_run(spec, run_id, environment, access.folders)

    def started(self, job: RunnableJob, spec: ContainerSpec, container: str) -> None:
        self._specs[job.number] = spec
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

    def attempted(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
        delay: float,
    ) -> None:
        """Write the attempt down, and tell the user why the job runs again."""
        attempts = self._attempts.setdefault(job.number, [])
        attempts.append(
            {
                "attempt": job.attempt,
                "outcome": outcome.end.value,
                "cause": outcome.cause,
                "exit_code": outcome.exit_code,
                **_known_of(outcome),
                "container": container,
                "started": state.started_at if state else None,
                "ended": state.finished_at if state else _now(),
            }
        )
        self._ledger.update(job.number, attempts=list(attempts))
        log.warning(
            "%s %s: %s\nAttempt %d starts in %g s.",
            job.title,
            outcome.end.value,
            _harmless(outcome.cause),
            job.attempt + 1,
            delay,
        )

    def ended(
        self,
        job: RunnableJob,
        outcome: Outcome,
        container: str | None,
        state: ContainerState | None,
    ) -> None:
        composed = self._jobs[job.number]
        spec = self._specs.get(job.number, job.spec)
        self._contents.pop(job.number, None)
        self._ends.append(outcome.end)
        self._tell(composed, outcome)
        row = {
            "outcome": outcome.end.value,
            "cause": outcome.cause,
            "exit_code": outcome.exit_code,
            **_known_of(outcome),
            "ended": _now(),
        }
        self._ledger.update(job.number, **row)
        if container is not None:
            write_json(
                job.paths.container,
                {
                    "id": container,
                    "name": spec.name,
                    "image": self._record.ready.image.id,
                    "started_at": state.started_at if state else None,
                    "finished_at": state.finished_at if state else None,
                    "run_id": self._runs.get(job.number),
                    "limits": _limits(spec),
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
            **{f"{LABEL_PREFIX}{name}": value for name, value in _known_of(outcome).items()},
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

    def _own_options(self, job: Job) -> dict[str, object]:
        options = _private.shown_options(job.written)
        own = _provenance.changed(options, self._record.origin.options)
        return {"options": own} if own else {}

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
            artifacts=(
                self._artifacts(job, spec, content) if self._record.options.mlflow.enabled else {}
            ),
            datasets=tuple(filter(None, (item.as_dataset() for item in data))),
        )

    def _artifacts(self, job: Job, spec: ContainerSpec, content: bytes) -> dict[str, str | bytes]:
        data = self._data.get(job.number, ())
        record = _job_record.to_json(job, spec, self._record.code, self._record.ready)
        return {
            _job_record.CONFIG: job.yaml,
            "overrides.yaml": job.overrides_yaml,
            _job_record.CONTENT: content,
            _job_record.RECORD: record,
            _provenance.FILE: _provenance.text(self._record.job_document(job)),
            **({_job_record.DATA: _data_identity.as_text(data)} if data else {}),
            **self._record.artifacts(),
        }

    def _reachable(self, url: str, network_mode: str) -> str:
        with self._lock:
            if network_mode not in self._relays:
                self._relays[network_mode] = reachable_url(
                    url, network_mode=network_mode, gateway=self._record.code.host.gateway
                )
            return self._relays[network_mode][0]


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


def _known_of(outcome: Outcome) -> dict[str, str | int]:
    """Return what is known of an end beside its cause. ``memory_peak`` in bytes."""
    known = {
        "advice": outcome.advice,
        "warning": outcome.warning,
        "memory_peak": outcome.memory_peak,
    }
    return {name: value for name, value in known.items() if value is not None}


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
