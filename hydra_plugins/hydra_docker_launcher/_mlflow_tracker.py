"""MLflow as the tracking system: the one module that imports mlflow.

Everything goes through ``MlflowClient`` with explicit ids: no active run, no global tracking URI.
The host owns the record, so the status of a run is always set, whatever else fails.
"""

from __future__ import annotations

import fcntl
import json
import logging
import math
import os
import re
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Dataset as DatasetEntity
from mlflow.entities import (
    DatasetInput,
    Experiment,
    InputTag,
    Metric,
    Param,
    Run,
    RunTag,
    ViewType,
)
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds, read_mlflow_creds
from mlflow.utils.rest_utils import http_request

from . import _mlflow_artifacts
from ._errors import TrackingError
from ._mlflow_names import (
    LONGEST_DATASET,
    LONGEST_INPUT_TAG,
    LONGEST_PARAM,
    LONGEST_TAG,
    MOST_DATASETS,
    dataset_digest,
    named,
    shortened,
)
from ._mlflow_patience import bounded, insist, is_transient
from ._mlflow_store import Store, StoreKind, find_store
from ._options import LABEL_PREFIX
from ._tracking import (
    JOB_TAG,
    OUTCOME_TAG,
    SWEEP_TAG,
    Dataset,
    JobRun,
    JobRunEnd,
    PastRun,
    RunStatus,
    StoreAccess,
    SweepRun,
)
from ._usage import Point

T = TypeVar("T")

_PARENT_RUN = "mlflow.parentRunId"
_USER = "mlflow.user"
_ANSWER_TIMEOUT_S = 5
#: Until another process has made or migrated the store, which takes a minute on a slow disk.
_LOCK_PATIENCE_S = 180.0
_LOCK_PAUSE_S = 0.05
_SERVER_ERROR = 500
_MOST_RUNS = 50_000  # more than MLflow gives at once, it refuses
_LARGEST = sys.float_info.max
_RUN_ID = re.compile(r"[0-9a-f]+")
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}

#: What they say at these levels is either no news for the user, or raised as TrackingError.
_QUIET = {
    "alembic": logging.ERROR,
    "mlflow.store.db.utils": logging.CRITICAL,
    "mlflow.tracking": logging.ERROR,
    "mlflow.utils.validation": logging.ERROR,
    "urllib3.connectionpool": logging.ERROR,
}


class MlflowTracker:
    """One sweep in one MLflow store. ``folder`` is the directory that the user launched from."""

    def __init__(self, tracking_uri: str | None, folder: Path, user: str) -> None:
        """Find the store; nothing is opened or created yet. TrackingError if it cannot be used."""
        self._store = find_store(tracking_uri, folder, os.environ)
        self._folder = folder
        self._user = user
        self._opened: _Opened | None = None

    def open_sweep(self, sweep: SweepRun) -> str:
        """Make the store usable (once, on the host), start the parent run, return its id."""
        _keep_quiet()
        client, experiment = self._insist(
            "open the MLflow store", lambda: _open(self._store, sweep.experiment)
        )
        access = self._access(experiment)
        own = sweep.tags.get(SWEEP_TAG)
        which = {SWEEP_TAG: own} if own else {}
        start = _Start(
            "start the run of the sweep", sweep.name, self._tags(sweep.tags), sweep.artifacts
        )
        run_id = self._start_run(client, experiment.experiment_id, start, which, access)
        self._opened = _Opened(client, experiment.experiment_id, run_id, access)
        return run_id

    def join_sweep(self, run_id: str, experiment: str) -> None:
        """Take up the parent run that another process has opened, and set it running again.

        It keeps the end time that it has until it ends again: MLflow takes none away.
        """
        _keep_quiet()
        if self._store.database is not None and not self._store.database.exists():
            raise TrackingError(
                f"The run {run_id} of the sweep is gone: {self._store.database} does not exist.",
                gone=True,
            )
        doing = f"take up the run {run_id} of the sweep"
        client, found = self._insist(doing, lambda: _join(self._store, run_id, experiment))
        access = self._access(found)
        self._insist(doing, lambda: client.update_run(run_id, status="RUNNING"))
        self._opened = _Opened(client, found.experiment_id, run_id, access)

    def access(self) -> StoreAccess:
        """Tell what a container needs to reach the store. Valid once a sweep is open."""
        return self._sweep.access

    def secrets(self) -> tuple[str, ...]:
        """Return what containers are told to reach the store and nobody else is. Asks nobody."""
        return self._store.secrets(_environment())

    def open_job(self, job: JobRun) -> str:
        """Start a child run of the sweep, return its id.

        One that was begun before for this job, and never closed, is taken up.
        """
        sweep = self._sweep
        number = job.tags.get(JOB_TAG)
        which = {_PARENT_RUN: sweep.run_id, JOB_TAG: number} if number else {}
        start = _Start(
            f"start the run of job {job.name!r}",
            job.name,
            {**self._tags(job.tags), _PARENT_RUN: sweep.run_id},
            job.artifacts,
            job.datasets,
            job.started_at,
        )
        run_id = self._start_run(sweep.client, sweep.experiment_id, start, which, sweep.access)
        sweep.used.add(run_id)
        return run_id

    def reopen_job(self, run_id: str | None, tags: Mapping[str, str | None]) -> None:
        """Set a job's run running again, with further tags (None: without the tag).

        It loses the tag of its outcome; all else that it has logged stays.
        """
        if run_id is None:
            return
        client = self._sweep.client
        self._sweep.used.add(run_id)
        self._insist(
            f"set the run {run_id} running again",
            lambda: _reopen(client, run_id, {OUTCOME_TAG: None, **tags}),
        )

    def job_environment(self, run_id: str | None) -> tuple[tuple[str, str], ...]:
        """Return the variables that lead a script's ``mlflow.log_...`` into the run.

        The first ``start_run`` uses up MLFLOW_RUN_ID; later ones land in the same experiment.
        """
        if run_id is None:
            return ()
        return (("MLFLOW_RUN_ID", run_id), ("MLFLOW_EXPERIMENT_ID", self._sweep.experiment_id))

    def log_series(self, run_id: str | None, points: Sequence[Point]) -> None:
        """Log points of metrics that are measured as a job runs. Called again, nothing twice."""
        if run_id is None or not points:
            return
        client = self._sweep.client
        self._insist(
            "log system metrics", lambda: client.log_batch(run_id, metrics=_as_metrics(points))
        )

    def close_job(self, run_id: str | None, end: JobRunEnd) -> None:
        """Log what the end of a job tells, then set the run's status: also if logging failed.

        Where the store does not answer, nothing more is tried. Called again with the same ``end``,
        it logs what is missing, and nothing twice.
        """
        if run_id is None:
            return
        client = self._sweep.client
        self._sweep.used.add(run_id)
        pieces: dict[str, Callable[[], None]] = {
            "log its params": lambda: _log_params(client, run_id, end.params),
            "log its tags": lambda: _log_tags(client, run_id, end.tags),
            "log its metrics": lambda: _log_metrics(client, run_id, end),
        }
        for name, path in end.files.items():
            log_file = partial(_mlflow_artifacts.log_file, client, self._sweep.access.folders)
            pieces[f"log its file {name}"] = partial(log_file, run_id, name, path)
        failures: list[TrackingError] = []
        for doing, log in pieces.items():
            self._try(doing, log, failures)
            if failures and failures[-1].transient:
                break  # each of the other pieces would take its time to fail as well
        if not any(failure.transient for failure in failures) or self.answers():
            self._try(
                "set its status",
                lambda: _end_run(client, run_id, end.status, end.ended_at),
                failures,
            )
        if failures:
            shown = "\n".join(map(str, failures))
            raise TrackingError(
                f"MLflow run {run_id} ({end.status.value}) is incomplete:\n{shown}",
                transient=any(failure.transient for failure in failures),
            )

    def reopen_sweep(self) -> None:
        """Set the parent run running again: a sweeper has sent another batch."""
        sweep = self._sweep
        self._insist(
            "set the sweep running again",
            lambda: sweep.client.update_run(sweep.run_id, status="RUNNING"),
        )

    def close_sweep(self, status: RunStatus) -> None:
        """Give the parent run its status.

        Runs that the store has started after all, when they were given up and started anew, go to
        its trash.
        """
        sweep = self._sweep
        self._insist("remove runs that were started twice", self._remove_twins)
        self._insist(
            "set the status of the sweep",
            lambda: _end_run(sweep.client, sweep.run_id, status),
        )

    def _remove_twins(self) -> None:
        sweep = self._sweep
        children = {_PARENT_RUN: sweep.run_id}
        for run in _search(sweep.client, sweep.experiment_id, children, "RUNNING"):
            number = run.data.tags.get(JOB_TAG)
            if run.info.run_id in sweep.used or OUTCOME_TAG in run.data.tags or number is None:
                continue
            same = _search(sweep.client, sweep.experiment_id, {**children, JOB_TAG: number})
            if any(other.info.run_id in sweep.used for other in same):
                sweep.client.delete_run(run.info.run_id)

    def answers(self) -> bool:
        """Tell within seconds whether the store answers. A plugin's store is not asked."""
        try:
            with bounded():
                _check_answers(self._store)
            self._store.check_unlocked(_ANSWER_TIMEOUT_S)
        except Exception:  # noqa: BLE001 -- whatever it is, it is no answer
            return False
        return True

    @property
    def _sweep(self) -> _Opened:
        if self._opened is None:
            raise TrackingError(f"The MLflow store {self._store.shown} has not been opened yet.")
        return self._opened

    def _access(self, experiment: Experiment) -> StoreAccess:
        access = self._store.access(experiment.artifact_location, self._folder, _environment())
        with _reported("make the folders of the MLflow store", self._store):
            for path in access.folders:
                path.mkdir(parents=True, exist_ok=True)
        return access

    def _insist(self, doing: str, call: Callable[[], T]) -> T:
        """Make a call that is idempotent; where it fails, again, while the store answers."""
        with _reported(doing, self._store):
            return insist(call, lambda: _check_answers(self._store))

    def _try(self, doing: str, call: Callable[[], None], failures: list[TrackingError]) -> None:
        try:
            self._insist(doing, call)
        except TrackingError as failure:
            failures.append(failure)

    def _start_run(
        self,
        client: MlflowClient,
        experiment_id: str,
        start: _Start,
        which: Mapping[str, str],
        access: StoreAccess,
    ) -> str:
        """Start a run, or take up the one with the tags ``which`` that was begun before."""
        run_id = self._insist(
            start.doing,
            lambda: (
                _left_behind(client, experiment_id, which)
                or _create_run(client, experiment_id, start)
            ),
        )
        try:
            self._insist(start.doing, lambda: _fill_run(client, run_id, start, access))
        except TrackingError:
            # Nobody else learns the id of this run; the next call takes it up.
            if self.answers():
                self._try("end it", lambda: _end_run(client, run_id, RunStatus.FAILED), [])
            raise
        return run_id

    def _tags(self, tags: Mapping[str, str]) -> dict[str, str]:
        return {_USER: self._user, **tags}


class MlflowHistory:
    """The runs of one MLflow store. ``folder`` is the directory that its default is in."""

    def __init__(self, tracking_uri: str | None, folder: Path) -> None:
        """Find the store, and see that it answers. TrackingError if it cannot be used."""
        _keep_quiet()
        self._store = find_store(tracking_uri, folder, os.environ)
        if self._store.database is not None and not self._store.database.exists():
            raise TrackingError(
                f"There is no MLflow store in {folder}: {self._store.database} does not exist. Go "
                "to the folder of the sweep, or name its store with --tracking-uri."
            )
        with _reported("open the MLflow store", self._store):
            _check_answers(self._store)
            self._client = _open_client(self._store)

    def run(self, run_id: str) -> PastRun:
        with _reported(f"find the run {run_id}", self._store):
            found = self._find(run_id)
            if not found:
                raise TrackingError(
                    f"There is no run {run_id} in {self._store.shown}. Go to the folder of its "
                    "sweep, or name the store with --tracking-uri."
                )
            if len(found) > 1:
                ids = ", ".join(run.info.run_id for run in found[:5])
                raise TrackingError(f"Several runs begin with {run_id}: {ids}. Give more digits.")
            (run,) = found
            _refuse_deleted_run(self._store, run)
            return self._past_run(run)

    def _find(self, run_id: str) -> list[Run]:
        """Return the runs, deleted ones too, whose id begins with ``run_id``."""
        if not _RUN_ID.fullmatch(run_id):
            return []
        experiments = []
        page: str | None = ""
        while page is not None:
            answer = self._client.search_experiments(ViewType.ALL, page_token=page or None)
            experiments += [experiment.experiment_id for experiment in answer]
            page = answer.token or None
        query = f"attributes.run_id LIKE '{run_id}%'"
        return list(self._client.search_runs(experiments, query, ViewType.ALL, max_results=6))

    def children(self, run: PastRun) -> tuple[PastRun, ...]:
        with _reported(f"find the jobs of the sweep {run.id}", self._store):
            experiment = self._client.get_run(run.id).info.experiment_id
            found = _search(self._client, experiment, {_PARENT_RUN: run.id})
            return tuple(self._past_run(child) for child in found)

    def artifact(self, run_id: str, name: str) -> bytes | None:
        with _reported(f"read {name} of the run {run_id}", self._store):
            if all(item.path != name for item in self._client.list_artifacts(run_id)):
                return None
            with tempfile.TemporaryDirectory() as folder:
                return Path(self._client.download_artifacts(run_id, name, folder)).read_bytes()

    def _past_run(self, run: Run) -> PastRun:
        return PastRun(
            id=run.info.run_id,
            name=run.info.run_name or "",
            experiment=self._client.get_experiment(run.info.experiment_id).name,
            status=run.info.status,
            tags=dict(run.data.tags),
            metrics=dict(run.data.metrics),
        )


@dataclass(frozen=True, slots=True)
class _Start:
    """What a run is started with. ``doing`` is what its errors call it."""

    doing: str
    name: str
    tags: Mapping[str, str]
    artifacts: Mapping[str, str | bytes]
    datasets: Sequence[Dataset] = ()
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """What is known once a sweep is opened or joined."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    access: StoreAccess
    #: The runs of jobs that this process knows of.
    used: set[str] = field(default_factory=set)


@contextmanager
def _reported(doing: str, store: Store) -> Iterator[None]:
    """The boundary: whatever MLflow and the store below it raise becomes a TrackingError."""
    try:
        with bounded():
            yield
    except TrackingError:
        raise
    # MLflow lets errors of SQLAlchemy, requests and plugins through, and knows no common root.
    except Exception as error:
        message = store.masked(str(error)).strip() or type(error).__name__
        first_line = message.splitlines()[0]
        raise TrackingError(
            f"Could not {doing} ({store.shown}): {first_line}\n{_way_out(store, first_line)}",
            transient=is_transient(error),
        ) from error


def _way_out(store: Store, reason: str) -> str:
    if "out-of-date database schema" in reason:
        return f"Back it up, then run: mlflow db upgrade {store.shown}"
    if "database is locked" in reason:
        advice = "Another program writes to it and does not end; let it end, or end it"
    elif store.kind is StoreKind.SQLITE:
        advice = f"Check that {store.database} is an MLflow database, and that you may write to it"
    elif store.kind is StoreKind.SERVER:
        advice = "Check that the server runs, and the address and MLFLOW_TRACKING_* credentials"
    else:
        advice = "Check the address in hydra.launcher.mlflow.tracking_uri or MLFLOW_TRACKING_URI"
    return f"{advice}; hydra.launcher.mlflow.enabled=false runs without tracking."


def _keep_quiet() -> None:
    for name, level in _QUIET.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, level))
    # MLflow's own switch for the line that it prints per ended run of a server's store.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")


def _environment() -> dict[str, str]:
    """The host's variables, with the credentials that MLflow reads from a file in the home."""
    found = read_mlflow_creds()
    names = {
        "MLFLOW_TRACKING_USERNAME": found.username,
        "MLFLOW_TRACKING_PASSWORD": found.password,
    }
    return {**os.environ, **{name: value for name, value in names.items() if value}}


def _check_answers(store: Store) -> None:
    """Fail within seconds where MLflow would try again for minutes."""
    if store.kind is StoreKind.SERVER:
        # MLflow's own request (credentials, TLS, proxies as in all others); it carries no types.
        answer = http_request(  # type: ignore[no-untyped-call]
            get_default_host_creds(store.uri),  # type: ignore[no-untyped-call]
            "/health",
            "GET",
            max_retries=0,
            timeout=_ANSWER_TIMEOUT_S,
            raise_on_status=False,
        )
        # Anything less is an answer: a proxy before the server may not know /health.
        if answer.status_code >= _SERVER_ERROR:
            raise ConnectionError(f"the server answers with status {answer.status_code}")
    if store.kind is StoreKind.DATABASE:
        parts = urlsplit(store.uri)
        port = parts.port or _DATABASE_PORTS[parts.scheme.partition("+")[0]]
        if parts.hostname:
            socket.create_connection((parts.hostname, port), _ANSWER_TIMEOUT_S).close()


def _open(store: Store, experiment: str) -> tuple[MlflowClient, Experiment]:
    """Make the store usable, with an experiment of that name in it."""
    store.prepare()
    client = _open_client(store)
    with _alone(store):
        return client, _experiment(client, store, experiment)


def _join(store: Store, run_id: str, experiment: str) -> tuple[MlflowClient, Experiment]:
    """Find the run of a sweep, and return its experiment, which had that name."""
    store.prepare()
    client = _open_client(store)
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(
            f"There is no run {run_id} in {store.shown}, where the sweep was tracked in the MLflow "
            f"experiment {experiment!r}.",
            gone=True,
        ) from error
    found = client.get_experiment(run.info.experiment_id)
    _active(store, found.name, found)
    _refuse_deleted_run(store, run)
    return client, found


def _open_client(store: Store) -> MlflowClient:
    with _alone(store):  # two processes that migrate one database break it
        return MlflowClient(store.uri)


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Hold the folder of an SQLite store locked against other launching processes.

    Jobs have it mounted, and could hold it for good: raises ``TrackingError`` after a while.
    """
    if store.database is None:
        yield
        return
    folder = os.open(store.database.parent, os.O_RDONLY)
    deadline = time.monotonic() + _LOCK_PATIENCE_S
    try:
        while not _locks(folder):
            if time.monotonic() > deadline:
                raise TrackingError(
                    f"The folder {store.database.parent} of the MLflow store has been locked by "
                    f"another process for {_LOCK_PATIENCE_S:g} s. A launcher locks it for moments "
                    "only; a job may do it for good. See who it is (fuser "
                    f"{store.database.parent}), and end it.",
                    transient=True,
                )
            time.sleep(_LOCK_PAUSE_S)
        yield
    finally:
        os.close(folder)


def _locks(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _experiment(client: MlflowClient, store: Store, name: str) -> Experiment:
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            client.create_experiment(name, store.artifact_location(name))
        except MlflowException as error:
            # On a server, somebody else's sweep may have been quicker.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        found = client.get_experiment_by_name(name)
    return _active(store, name, found)


def _active(store: Store, name: str, found: Experiment | None) -> Experiment:
    """Return the experiment, or say how to get it back where it is deleted."""
    if found is None or found.lifecycle_stage != "active":
        which = "" if found is None else f" --experiment-id {found.experiment_id}"
        raise TrackingError(
            f"The MLflow experiment {name!r} in {store.shown} is deleted. Restore it with "
            f"`MLFLOW_TRACKING_URI={store.shown} mlflow experiments restore{which}`, remove it for "
            "good with `mlflow gc`, or set hydra.launcher.mlflow.experiment_name to another name."
        )
    return found


def _refuse_deleted_run(store: Store, run: Run) -> None:
    if run.info.lifecycle_stage != "active":
        raise TrackingError(
            f"The run {run.info.run_id} in {store.shown} is deleted. Restore it with "
            f"`MLFLOW_TRACKING_URI={store.shown} mlflow runs restore --run-id {run.info.run_id}`."
        )


def _search(
    client: MlflowClient, experiment_id: str, tags: Mapping[str, str], status: str | None = None
) -> list[Run]:
    """Return the runs that have all these tags, in the order in which they were started."""
    wanted = [f"tags.`{key}` = '{value}'" for key, value in tags.items()]
    if status is not None:
        wanted.append(f"attributes.status = '{status}'")
    found: list[Run] = []
    page: str | None = ""
    while page is not None:
        answer = client.search_runs(
            [experiment_id],
            filter_string=" and ".join(wanted),
            max_results=_MOST_RUNS,
            order_by=["attributes.start_time ASC"],
            page_token=page or None,
        )
        found += answer
        page = answer.token or None
    return found


def _left_behind(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> str | None:
    """Return the newest run with these tags that was started and never closed, if there is one."""
    if not tags:
        return None
    child = _PARENT_RUN in tags
    found = [
        run.info.run_id
        for run in _search(client, experiment_id, tags)
        if run.info.status in ("RUNNING", "FAILED")
        if OUTCOME_TAG not in run.data.tags
        if (_PARENT_RUN in run.data.tags) == child
    ]
    return found[-1] if found else None


def _create_run(client: MlflowClient, experiment_id: str, start: _Start) -> str:
    run = client.create_run(
        experiment_id, _milliseconds(start.started_at), _as_kept(start.tags), start.name
    )
    return str(run.info.run_id)


def _fill_run(client: MlflowClient, run_id: str, start: _Start, access: StoreAccess) -> None:
    """Log what a run is started with, over what is there already."""
    run = client.get_run(run_id)
    if run.info.status != "RUNNING" or _as_kept(start.tags).items() - run.data.tags.items():
        _reopen(client, run_id, start.tags)
    for file_name, content in start.artifacts.items():
        _mlflow_artifacts.log_content(client, access.folders, run_id, file_name, content)
    inputs = _dataset_inputs(start.datasets)
    for first in range(0, len(inputs), MOST_DATASETS):
        _log_inputs(client, run_id, inputs[first : first + MOST_DATASETS])


def _log_inputs(client: MlflowClient, run_id: str, inputs: list[DatasetInput]) -> None:
    """Log datasets to a run.

    Where several runs log the same new one at once, a store with SQL looks for it, finds nothing,
    and then cannot insert what another run has inserted meanwhile.
    """
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if "IntegrityError" not in str(error):
            raise
        client.log_inputs(run_id, inputs)


def _as_kept(tags: Mapping[str, str]) -> dict[str, str]:
    """Return tags with the names and the lengths that MLflow takes."""
    return {key: shortened(value, LONGEST_TAG) for key, value in named(tags).items()}


def _reopen(client: MlflowClient, run_id: str, tags: Mapping[str, str | None]) -> None:
    there = client.get_run(run_id).data.tags
    for name in named({name: "" for name, value in tags.items() if value is None}):
        if name in there:
            client.delete_tag(run_id, name)
    _log_tags(client, run_id, {name: value for name, value in tags.items() if value is not None})
    client.update_run(run_id, status="RUNNING")


def _milliseconds(seconds: float | None) -> int | None:
    """Return a time as MLflow wants it."""
    return None if seconds is None else int(seconds * 1000)


def _dataset_inputs(datasets: Sequence[Dataset]) -> list[DatasetInput]:
    """Return the datasets as MLflow takes them: one for each name and (shortened) digest."""
    inputs: dict[tuple[str, str], DatasetInput] = {}
    for dataset in datasets:
        name = shortened(dataset.name, LONGEST_DATASET)
        short = dataset_digest(dataset.digest)
        tags = {
            "mlflow.data.context": dataset.target,
            f"{LABEL_PREFIX}data.digest": dataset.digest,
            f"{LABEL_PREFIX}data.state": str(dataset.facts.get("state", "")),
        }
        inputs[name, short] = DatasetInput(
            DatasetEntity(
                name,
                short,
                source_type="local",
                source=json.dumps({"uri": dataset.source}),
                profile=json.dumps(dict(dataset.facts)),
            ),
            [InputTag(key, shortened(value, LONGEST_INPUT_TAG)) for key, value in tags.items()],
        )
    return list(inputs.values())


def _end_run(
    client: MlflowClient, run_id: str, status: RunStatus, ended_at: float | None = None
) -> None:
    client.set_terminated(run_id, status.value, _milliseconds(ended_at))


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    there = client.get_run(run_id).data.params
    new = [
        Param(key, shortened(str(value), LONGEST_PARAM))
        for key, value in named(params).items()
        if key not in there
    ]
    client.log_batch(run_id, params=new)  # which splits what is too many


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    client.log_batch(run_id, tags=[RunTag(*tag) for tag in _as_kept(tags).items()])


def _as_metrics(points: Sequence[Point]) -> list[Metric]:
    """Return points as MLflow takes them, which keeps one of equal values at equal times."""
    return [
        Metric(key, float(value), int(point.time * 1000), point.step)
        for point in points
        for key, value in named(point.values).items()
    ]


def _log_metrics(client: MlflowClient, run_id: str, end: JobRunEnd) -> None:
    """Log metrics at the time of the end, and the series; again, they are logged once.

    MLflow keeps one of equal values at equal times. Where the time is not known, those that are
    there from a call before this one are left out.
    """
    metrics, ended_at = end.metrics, end.ended_at
    there = client.get_run(run_id).data.metrics if metrics and ended_at is None else {}
    time_ms = int((time.time() if ended_at is None else ended_at) * 1000)
    new = [
        Metric(key, float(value), time_ms, 0)
        for key, value in named(metrics).items()
        if key not in there or not _is_newest(client, run_id, key, float(value))
    ]
    client.log_batch(run_id, metrics=[*_as_metrics(end.series), *new])


def _is_newest(client: MlflowClient, run_id: str, key: str, value: float) -> bool:
    """Tell whether the newest of a metric's values at step 0 is this one."""
    values = [metric for metric in client.get_metric_history(run_id, key) if metric.step == 0]
    values.sort(key=lambda metric: int(metric.timestamp))
    return any(_same(metric.value, value) for metric in values[-1:])


def _same(one: float, other: float) -> bool:
    """Compare numbers as stores keep them: infinity is the largest one there."""
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return max(-_LARGEST, min(_LARGEST, one)) == max(-_LARGEST, min(_LARGEST, other))
