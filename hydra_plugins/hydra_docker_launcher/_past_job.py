"""Past job: what tracking holds of a job, read back so that it can be run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import _data_identity, _job_record, _provenance
from ._data_identity import DataIdentity
from ._errors import ReproduceError
from ._job_record import JobRecord
from ._tracking import JOB_TAG, History, PastRun


@dataclass(frozen=True, slots=True)
class PastJob:
    """One job as it was run.

    ``plain`` is its resolved config, ``content`` what its worker read (never unpickled here),
    ``packages`` what its image had, ``data`` what its volumes held, ``patch`` what its commit had
    beyond the parent of a snapshot.
    """

    run: PastRun
    record: JobRecord
    plain: Mapping[str, Any]
    content: bytes
    packages: tuple[str, ...]
    data: tuple[DataIdentity, ...]
    patch: bytes | None
    #: Where it came from, and what it ran on (``_provenance``); empty where nobody has it.
    provenance: Mapping[str, Any] = field(default_factory=dict)


def past_jobs(history: History, run: PastRun) -> tuple[PastJob, ...]:
    """Return the job of a run, or all jobs of a sweep's run, in their order.

    Raises ``ReproduceError`` where the run does not hold what is needed.
    """
    if JOB_TAG in run.tags:
        return (_past_job(history, run),)
    children = [child for child in history.children(run) if JOB_TAG in child.tags]
    if not children:
        raise ReproduceError(
            f"The run {run.id} ({run.name}) is no job of this launcher, and has none below it: "
            f"there is no tag {JOB_TAG}."
        )
    # The last run of a number counts: an earlier one is an attempt that was taken up again.
    jobs = {int(child.tags[JOB_TAG]): child for child in children}
    return tuple(_past_job(history, jobs[number]) for number in sorted(jobs))


def _origin(history: History, run: PastRun) -> dict[str, Any]:
    """Return a document that is there to be told and compared: without it, a job runs as well."""
    try:
        document = json.loads(history.artifact(run.id, _provenance.FILE) or b"{}")
    except ValueError:
        return {}
    known = isinstance(document, dict) and document.get("format") == _provenance.FORMAT
    return document if known else {}


def _data(history: History, run: PastRun) -> tuple[DataIdentity, ...]:
    content = history.artifact(run.id, _job_record.DATA)
    try:
        return _data_identity.from_text((content or b"[]").decode())
    except (ValueError, TypeError, AttributeError) as error:
        raise ReproduceError(
            f"The artifact {_job_record.DATA} of the run {run.id} cannot be read: {error}"
        ) from error


def _past_job(history: History, run: PastRun) -> PastJob:
    def needed(name: str) -> bytes:
        content = history.artifact(run.id, name)
        if content is None:
            raise ReproduceError(
                f"The run {run.id} ({run.name}) has no artifact {name}: another version of this "
                "launcher made it, the artifact was deleted, or the folder of a local store was "
                "moved (its artifacts are looked for where they were)."
            )
        return content

    record = _job_record.from_json(needed(_job_record.RECORD), f"the run {run.id}")
    try:
        config = OmegaConf.create(needed(_job_record.CONFIG).decode())
        plain: Any = OmegaConf.to_container(config)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise ReproduceError(f"The config of the run {run.id} is no YAML: {error}") from error
    if not isinstance(plain, dict):
        raise ReproduceError(f"The config of the run {run.id} is no mapping")
    packages = history.artifact(run.id, _job_record.PACKAGES) or b""
    return PastJob(
        run=run,
        record=record,
        plain=plain,
        content=needed(_job_record.CONTENT),
        packages=tuple(packages.decode(errors="replace").splitlines()),
        data=_data(history, run),
        patch=history.artifact(run.id, _job_record.PATCH),
        provenance=_origin(history, run),
    )
