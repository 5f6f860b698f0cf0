"""Reproduce: past jobs run again, through the stages that every sweep goes through."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import _execution, _past_options, _past_secrets, _past_source, _pinning, _source
from ._engine import Engine, Image
from ._errors import ImageError, OptionError, ReproduceError
from ._execution import Batch, Execution, MakeTracker
from ._job import Job
from ._outcome import End, Outcome
from ._past_job import PastJob
from ._past_options import REPRODUCES
from ._past_source import FoundSource, Places
from ._paths import SweepPaths
from ._pinning import Code, Request
from ._provenance import Composition
from ._source import Source
from ._task import Task
from ._wish import Wish

log = logging.getLogger("hydra_docker_launcher")

#: Of what is written down of a job: what the new run has of its own.
_KNOWN = ("number", "name", "overrides", "output_dir", "options")


@dataclass(frozen=True, slots=True)
class Again:
    """A job that was run again. ``run_id`` is its new run; None where nothing was recorded.

    ``remarks`` say in sentences what could not be had as it was.
    """

    past: PastJob
    outcome: Outcome
    run_id: str | None
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RepeatedJob(Job):
    """A past job, with what was written down of it beside its record."""

    recorded: Mapping[str, Any]

    def facts(self) -> dict[str, Any]:
        return dict(self.recorded)


@dataclass(frozen=True, slots=True)
class FoundImage:
    """The image to run (None: to be built from the commit), and how it came here, if not as is."""

    reference: str | None
    remark: str | None = None


def reproduce(
    past: Sequence[PastJob], wish: Wish, *, asked: str, engine: Engine, make_tracker: MakeTracker
) -> list[Again] | None:
    """Run the jobs of one past sweep again, as a new sweep; None of a dry run.

    ``asked`` is the run that was asked for. Raises ``DockerLauncherError`` before anything starts
    where commit, image or data are not to be had.
    """
    first = past[0].record
    secrets = _past_secrets.given(past, wish.secrets, os.environ)
    for job in past:  # refuses options and secrets before anything is fetched or pulled
        _past_options.parse(job, wish, None, asked)
        _past_secrets.withheld(job, secrets)
    here = (wish.repository,) if wish.repository else (wish.folder, first.source.root)
    places = Places(here, wish.remote, wish.clones)
    found = _past_source.locate(first.source, places, past[0].patch)
    source = found.source
    log.info("Commit %s is in %s", source.commit[:12], source.repository)
    image = _image(past[0], wish, engine)
    parsed = tuple(_past_options.parse(job, wish, image.reference, asked) for job in past)
    jobs = tuple(_job(job, _past_options.written(job, wish), wish.output, secrets) for job in past)
    contents = {job.record.number: job.content for job in past}

    def content(job: Job, _task: Task, _restart: str) -> bytes:
        return contents[job.number]

    execution = Execution(
        _execution.new_id(),
        folder=wish.output,
        working_dir=first.working_dir,
        make_engine=lambda: engine,
        make_tracker=lambda options, _, user: make_tracker(options, wish.folder, user),
        pin_code=pin_known(source, first.script, first.task),
        composition=lambda: _composition(past[0]),
    )
    try:
        outcomes = execution.run(Batch(jobs, parsed), content)
    except OptionError as error:
        raise OptionError(f"{error}\n{_past_options.INSTEAD}") from None
    if outcomes is None:
        return None
    runs = run_ids(wish.output)
    return [
        Again(then, outcome, runs.get(job.number), _remarks(then, job, found, image))
        for then, job, outcome in zip(past, jobs, _execution.finished(outcomes), strict=True)
    ]


def completed(jobs: Sequence[Again]) -> bool:
    return all(job.outcome.end is End.COMPLETED for job in jobs)


def run_ids(folder: Path) -> dict[int, str | None]:
    """Return the runs of the jobs of a sweep, by their numbers, as its ledger has them."""
    rows = json.loads(SweepPaths(folder).ledger.read_text())["jobs"]
    return {row["job"]: row.get("run_id") for row in rows}


def find_image(engine: Engine, image: Image, *, built: bool, pull: bool = True) -> FoundImage:
    """Return the image of then, pulled by its digest where it is not here.

    Where it is gone and was ``built``, it is to be built again from the commit. Without ``pull``
    nothing is pulled. Raises ``ReproduceError`` where it is not to be had.
    """
    by_digest = None if image.digest is None else engine.find_image(image.digest)
    if by_digest is not None and by_digest.id == image.id:
        return FoundImage(image.digest)  # which tells others more than the id
    if engine.find_image(image.id) is not None:
        return FoundImage(image.id)
    reasons = [f"{image.short} is not on this engine"]
    if image.digest is not None:
        if not pull:
            return FoundImage(image.digest, f"the image is to be pulled: {image.digest}")
        try:
            if by_digest is None:
                engine.pull(image.digest, _show)
        except ImageError as error:
            reasons.append(str(error))
        else:
            return FoundImage(image.digest, f"the image was had by its digest, {image.digest}")
    if built:
        remark = f"the image of then is gone ({'; '.join(reasons)}): built again from the commit"
        log.warning("%s", remark)
        return FoundImage(None, remark)
    raise ReproduceError(
        f"The image {image.reference} of then is gone: {'; '.join(reasons)}.\nName one that is "
        f"close to it with --set image=..., for example the one that {image.reference} is now."
    )


def pin_known(source: Source, script: Path | None, task: Task) -> Callable[[Request, Engine], Code]:
    """Return what takes the place of ``_pinning.pin_code`` where the code is settled already."""

    def pin_code(request: Request, engine: Engine) -> Code:
        _pinning.check_engine(request.jobs, engine)
        identity = _pinning.identity(request.options.user)
        return Code(
            source=source,
            script=script,
            task=task,
            identity=identity,
            host=engine.host(),
            pushed=_source.is_pushed(source),
            patch=_source.patch(source),
        )

    return pin_code


def _show(line: str) -> None:
    print(f"image | {line}", flush=True)


def _image(past: PastJob, wish: Wish, engine: Engine) -> FoundImage:
    """Return the image for all jobs: that of then, but for ``--set image=…``."""
    wished = dict(wish.options).get("image")
    if wished is not None:
        return FoundImage(str(wished), f"another image was asked for: {wished}")
    built = past.record.options.get("image") is None
    return find_image(engine, past.record.image, built=built, pull=not wish.dry_run)


def _composition(past: PastJob) -> Composition:
    """Return where the config came from then: here it is not composed again."""
    configs, overrides = (past.provenance.get(name) or () for name in ("configs", "overrides"))
    return Composition(configs=tuple(configs), overrides=tuple(overrides))


def _job(past: PastJob, written: dict[str, Any], output: Path, secrets: Mapping[str, str]) -> Job:
    record = past.record
    facts = past.provenance.get("job") or {}
    return RepeatedJob(
        number=record.number,
        name=record.name,
        overrides=record.overrides,
        output_dir=record.output_dir,
        plain=past.plain,
        written=written,
        tags={REPRODUCES: past.run.id},
        kept_at=output / str(record.number),
        withheld=_past_secrets.withheld(past, secrets),
        recorded={name: value for name, value in facts.items() if name not in _KNOWN},
    )


def _remarks(past: PastJob, job: Job, source: FoundSource, image: FoundImage) -> tuple[str, ...]:
    remarks = [remark for remark in (source.remark, image.remark) if remark is not None]
    if past.run.status == "RUNNING":
        remarks.append("the run of then is still running: its metrics are those so far")
    remarks += [
        f"{name} was passed on from the host's environment, and is not set here"
        for name in _past_options.unset_variables(job.written)
    ]
    return tuple(remarks)
