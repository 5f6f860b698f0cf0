"""MLflow as the tracking system: the one module that imports mlflow.

Everything goes through ``MlflowClient`` with explicit ids: no active run, no global tracking URI.
The host owns the record, so the status of a run is always set, whatever else fails.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
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
from ._mlflow_store import Store, StoreKind, find_store
from ._options import LABEL_PREFIX
from ._tracking import Dataset, JobRun, JobRunEnd, PastRun, RunStatus, StoreAccess, SweepRun

_PARENT_RUN = "mlflow.parentRunId"
_USER = "mlflow.user"
_ANSWER_TIMEOUT_S = 5
_SERVER_ERROR = 500
_MOST_CHILDREN = 50_000  # more than MLflow gives at once, it refuses
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
        with _reported("open the MLflow store", self._store):
            self._store.prepare()
            _check_answers(self._store)
            with _alone(self._store):  # two processes that migrate one database break it
                client = MlflowClient(self._store.uri)
                experiment = _experiment(client, self._store, sweep.experiment)
        access = self._store.access(experiment.artifact_location, self._folder, _environment())
        with _reported("start the run of the sweep", self._store):
            for path in access.folders:
                path.mkdir(parents=True, exist_ok=True)
            tags = self._tags(sweep.tags)
            run_id = _start_run(client, experiment.experiment_id, sweep.name, tags, sweep.artifacts)
        self._opened = _Opened(client, experiment.experiment_id, run_id, access)
        return run_id

    def access(self) -> StoreAccess:
        """Tell what a container needs to reach the store. Valid after ``open_sweep``."""
        return self._sweep.access

    def open_job(self, job: JobRun) -> str:
        """Start a child run of the sweep, return its id."""
        sweep = self._sweep
        tags = {**self._tags(job.tags), _PARENT_RUN: sweep.run_id}
        with _reported(f"start the run of job {job.name!r}", self._store):
            return _start_run(
                sweep.client, sweep.experiment_id, job.name, tags, job.artifacts, job.datasets
            )

    def job_environment(self, run_id: str | None) -> tuple[tuple[str, str], ...]:
        """Return the variables that lead a script's ``mlflow.log_...`` into the run.

        The first ``start_run`` uses up MLFLOW_RUN_ID; later ones land in the same experiment.
        """
        if run_id is None:
            return ()
        return (("MLFLOW_RUN_ID", run_id), ("MLFLOW_EXPERIMENT_ID", self._sweep.experiment_id))

    def close_job(self, run_id: str | None, end: JobRunEnd) -> None:
        """Log what the end of a job tells, then set the run's status: also if logging failed."""
        if run_id is None:
            return
        client = self._sweep.client
        pieces: dict[str, Callable[[], None]] = {
            "log its params": lambda: _log_params(client, run_id, end.params),
            "log its tags": lambda: _log_tags(client, run_id, end.tags),
            "log its metrics": lambda: _log_metrics(client, run_id, end.metrics),
        }
        for name, path in end.files.items():
            pieces[f"log its file {name}"] = _file_logger(client, run_id, name, path)
        failures: list[str] = []
        for doing, log in pieces.items():
            if not self._tried(doing, log, failures) and not self._answers():
                break  # MLflow would try each of the other pieces for minutes
        self._tried("set its status", lambda: _end_run(client, run_id, end.status), failures)
        if failures:
            shown = "\n".join(failures)
            raise TrackingError(f"MLflow run {run_id} ({end.status.value}) is incomplete:\n{shown}")

    def reopen_sweep(self) -> None:
        """Set the parent run running again: a sweeper has sent another batch."""
        sweep = self._sweep
        with _reported("set the sweep running again", self._store):
            sweep.client.update_run(sweep.run_id, status="RUNNING")

    def close_sweep(self, status: RunStatus) -> None:
        """Give the parent run its status."""
        sweep = self._sweep
        with _reported("set the status of the sweep", self._store):
            _end_run(sweep.client, sweep.run_id, status)

    @property
    def _sweep(self) -> _Opened:
        if self._opened is None:
            raise TrackingError(f"The MLflow store {self._store.shown} has not been opened yet.")
        return self._opened

    def _tried(self, doing: str, call: Callable[[], None], failures: list[str]) -> bool:
        try:
            with _reported(doing, self._store):
                call()
        except TrackingError as failure:
            failures.append(str(failure))
            return False
        return True

    def _answers(self) -> bool:
        return self._tried("reach the store", lambda: _check_answers(self._store), [])

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
            with _alone(self._store):
                self._client = MlflowClient(self._store.uri)

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
            if run.info.lifecycle_stage != "active":
                raise TrackingError(
                    f"The run {run.info.run_id} in {self._store.shown} is deleted. Restore it with "
                    f"`MLFLOW_TRACKING_URI={self._store.shown} mlflow runs restore --run-id "
                    f"{run.info.run_id}`."
                )
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
            found = self._client.search_runs(
                [experiment],
                filter_string=f"tags.`{_PARENT_RUN}` = '{run.id}'",
                order_by=["attributes.start_time ASC"],
                max_results=_MOST_CHILDREN,
            )
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
class _Opened:
    """What is known from ``open_sweep`` on."""

    client: MlflowClient
    experiment_id: str
    run_id: str
    access: StoreAccess


@contextmanager
def _reported(doing: str, store: Store) -> Iterator[None]:
    """The boundary: whatever MLflow and the store below it raise becomes a TrackingError."""
    try:
        yield
    except TrackingError:
        raise
    # MLflow lets errors of SQLAlchemy, requests and plugins through, and knows no common root.
    except Exception as error:
        message = store.masked(str(error)).strip() or type(error).__name__
        first_line = message.splitlines()[0]
        raise TrackingError(
            f"Could not {doing} ({store.shown}): {first_line}\n{_way_out(store, first_line)}"
        ) from error


def _way_out(store: Store, reason: str) -> str:
    if "out-of-date database schema" in reason:
        return f"Back it up, then run: mlflow db upgrade {store.shown}"
    if store.kind is StoreKind.SQLITE:
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
            raise MlflowException(f"the server answers with status {answer.status_code}")
    if store.kind is StoreKind.DATABASE:
        parts = urlsplit(store.uri)
        port = parts.port or _DATABASE_PORTS[parts.scheme.partition("+")[0]]
        if parts.hostname:
            socket.create_connection((parts.hostname, port), _ANSWER_TIMEOUT_S).close()


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Hold the folder of an SQLite store locked against other launching processes."""
    if store.database is None:
        yield
        return
    folder = os.open(store.database.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


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
    if found is None or found.lifecycle_stage != "active":
        which = "" if found is None else f" --experiment-id {found.experiment_id}"
        raise TrackingError(
            f"The MLflow experiment {name!r} in {store.shown} is deleted. Restore it with "
            f"`MLFLOW_TRACKING_URI={store.shown} mlflow experiments restore{which}`, remove it for "
            "good with `mlflow gc`, or set hydra.launcher.mlflow.experiment_name to another name."
        )
    return found


def _start_run(
    client: MlflowClient,
    experiment_id: str,
    name: str,
    tags: Mapping[str, str],
    artifacts: Mapping[str, str | bytes],
    datasets: Sequence[Dataset] = (),
) -> str:
    texts = {key: shortened(value, LONGEST_TAG) for key, value in named(tags).items()}
    run_id: str = client.create_run(experiment_id, tags=texts, run_name=name).info.run_id
    try:
        for file_name, content in artifacts.items():
            _log_content(client, run_id, file_name, content)
        inputs = _dataset_inputs(datasets)
        for start in range(0, len(inputs), MOST_DATASETS):
            client.log_inputs(run_id, inputs[start : start + MOST_DATASETS])
    except Exception:
        with suppress(MlflowException):  # nobody else learns the id of this run
            _end_run(client, run_id, RunStatus.FAILED)
        raise
    return run_id


def _log_content(client: MlflowClient, run_id: str, name: str, content: str | bytes) -> None:
    if isinstance(content, str):
        client.log_text(run_id, content, name)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, name)
        file.write_bytes(content)
        client.log_artifact(run_id, str(file))


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


def _end_run(client: MlflowClient, run_id: str, status: RunStatus) -> None:
    client.set_terminated(run_id, status=status.value)


def _log_params(client: MlflowClient, run_id: str, params: Mapping[str, object]) -> None:
    there = client.get_run(run_id).data.params
    new = [
        Param(key, shortened(str(value), LONGEST_PARAM))
        for key, value in named(params).items()
        if key not in there
    ]
    client.log_batch(run_id, params=new)  # which splits what is too many


def _log_tags(client: MlflowClient, run_id: str, tags: Mapping[str, str]) -> None:
    new = [RunTag(key, shortened(value, LONGEST_TAG)) for key, value in named(tags).items()]
    client.log_batch(run_id, tags=new)


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    now = int(time.time() * 1000)
    new = [Metric(key, float(value), now, 0) for key, value in named(metrics).items()]
    client.log_batch(run_id, metrics=new)


def _file_logger(client: MlflowClient, run_id: str, name: str, path: Path) -> Callable[[], None]:
    """Return the call that logs ``path`` as artifact ``name`` (``folder/file``)."""

    def log() -> None:
        # Containers write into these folders: a link could lead to a file that they may not read.
        if path.is_symlink():
            raise TrackingError(f"Left out the artifact {name}: {path} is a link.")
        if not path.is_file():
            return
        target = PurePosixPath(name)
        folder = None if target.parent == PurePosixPath() else str(target.parent)
        if target.name == path.name:
            client.log_artifact(run_id, str(path), folder)
            return
        with tempfile.TemporaryDirectory() as named:
            alias = Path(named, target.name)
            alias.symlink_to(path.absolute())
            client.log_artifact(run_id, str(alias), folder)

    return log
