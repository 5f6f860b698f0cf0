"""Saving: a sweep and its planned jobs become values that another process can take up. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from . import _data_identity, _job_files, _job_record, _private, _provenance
from ._data_identity import DataIdentity
from ._engine import ContainerSpec
from ._job import Job
from ._masks import Variables
from ._options import LABEL_PREFIX
from ._provenance import Record
from ._running import RunnableJob
from ._saved import Identity, SavedJob, SavedRelay, SavedSweep
from ._tracking import JobRun, SweepRun

#: Options that say how a command looks after the sweep; nothing of a job depends on them.
_OF_A_COMMAND = ("resume", "detach", "on_interrupt")


def saved_sweep(record: Record, tracking_uri: str | None) -> SavedSweep:
    """Return the sweep; ``tracking_uri`` is the host's own, where the options name none."""
    options, code, ready = record.options, record.code, record.ready
    relay = ready.relay
    return SavedSweep(
        id=record.sweep,
        folder=record.folder,
        working_dir=record.origin.working_dir,
        user=code.identity.name,
        host=code.host,
        gpus=ready.facts.gpus,
        n_jobs=options.n_jobs,
        keep=options.keep,
        fail_fast=options.fail_fast,
        on_interrupt="detach" if options.detach else options.on_interrupt,
        image=ready.image.id,
        layer=ready.layer.reference,
        mlflow=replace(
            options.mlflow, tracking_uri=options.mlflow.tracking_uri or tracking_uri or None
        ),
        run=SweepRun(
            experiment=options.mlflow.experiment_name or record.job_name,
            name=options.mlflow.run_name or record.folder.name,
            tags=record.tags(),
            artifacts={
                **record.artifacts(),
                _provenance.FILE: _provenance.text(record.sweep_document()),
            },
        ),
        system_metrics=options.system_metrics,
        admission=options.admission,
        gpu_parts=ready.facts.gpu_parts,
        relays=() if relay is None else (SavedRelay(*relay.address, *relay.target),),
    )


def saved_job(
    record: Record,
    job: Job,
    runnable: RunnableJob,
    content: bytes,
    data: tuple[DataIdentity, ...],
    environment: Variables = (),
    argv: tuple[str, ...] | None = None,
) -> SavedJob:
    """Return the job; ``environment`` are the variables that only its container gets.

    ``argv`` is the command line where that of ``record`` is without its secrets.
    """
    facts, clone = record.ready.facts, record.code.clone
    return SavedJob(
        job=job,
        runnable=runnable,
        content=content,
        owner=runnable.spec.boundary.user or f"{facts.uid}:{facts.gid}",
        run=_job_run(record, job, runnable.spec, content, data),
        identity=identity(record, job),
        secrets=(clone.secrets if clone is not None else ())
        + _job_files.secrets(job.withheld, environment, runnable.masks, argv),
        options=_own_options(record, job),
        data=tuple(item.as_json() for item in data),
    )


def identity(record: Record, job: Job) -> Identity:
    """Return what the result of a job depends on."""
    return Identity.of(job, record.code.source.commit, record.ready.image.id)


def _own_options(record: Record, job: Job) -> dict[str, Any]:
    options = _provenance.changed(_private.shown_options(job.written), record.origin.options)
    return {name: value for name, value in options.items() if name not in _OF_A_COMMAND}


def _job_run(
    record: Record, job: Job, spec: ContainerSpec, content: bytes, data: tuple[DataIdentity, ...]
) -> JobRun:
    return JobRun(
        name=" ".join(job.overrides) or f"{job.name} {job.number}",
        tags={
            **record.tags(),
            f"{LABEL_PREFIX}job": str(job.number),
            f"{LABEL_PREFIX}output_dir": str(job.paths.output),
            **job.tags,
        },
        artifacts=(
            _artifacts(record, job, spec, content, data) if record.options.mlflow.enabled else {}
        ),
        datasets=tuple(filter(None, (item.as_dataset() for item in data))),
    )


def _artifacts(
    record: Record, job: Job, spec: ContainerSpec, content: bytes, data: tuple[DataIdentity, ...]
) -> dict[str, str | bytes]:
    return {
        _job_record.CONFIG: job.yaml,
        "overrides.yaml": job.overrides_yaml,
        _job_record.CONTENT: content,
        _job_record.RECORD: _job_record.to_json(
            job, spec, record.code, record.ready, record.options.rules
        ),
        _provenance.FILE: _provenance.text(record.job_document(job)),
        **({_job_record.DATA: _data_identity.as_text(data)} if data else {}),
    }
