"""Reproduce: past jobs run again, through the stages that every sweep goes through."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import _execution, _options, _past_source, _pinning, _source
from ._engine import Engine, Image
from ._errors import ImageError, OptionError, ReproduceError
from ._execution import Batch, Execution, MakeTracker
from ._job import Job
from ._options import LABEL_PREFIX, Options
from ._outcome import End, Outcome
from ._past_job import PastJob
from ._paths import SweepPaths
from ._pinning import Code, Request
from ._source import Source
from ._task import Task
from .config import DockerLauncherConf

log = logging.getLogger("hydra_docker_launcher")

REPRODUCES = f"{LABEL_PREFIX}reproduces"


@dataclass(frozen=True, slots=True)
class Wish:
    """Where things are on this host, and what shall be other than then.

    ``folder`` is the one this was started from, ``output`` the one of the new sweep, and clones are
    kept in ``cache``. ``volumes`` pairs a source of then with where it is now, ``options`` names of
    ``hydra.launcher`` with values.
    """

    folder: Path
    output: Path
    cache: Path
    repository: Path | None = None
    remote: str | None = None
    volumes: tuple[tuple[str, str], ...] = ()
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Again:
    """A job that was run again. ``run_id`` is its new run; None where nothing was recorded."""

    past: PastJob
    outcome: Outcome
    run_id: str | None


def reproduce(
    past: Sequence[PastJob], wish: Wish, *, asked: str, engine: Engine, make_tracker: MakeTracker
) -> list[Again] | None:
    """Run the jobs of one past sweep again, as a new sweep; None of a dry run.

    ``asked`` is the run that was asked for. Raises ``DockerLauncherError`` before anything starts
    where commit, image or data are not to be had.
    """
    first = past[0].record
    here = (wish.repository,) if wish.repository else (wish.folder, first.source.root)
    cache = wish.cache / "repositories"
    source = _past_source.locate(first.source, here, wish.remote, cache, past[0].patch)
    log.info("Commit %s is in %s", source.commit[:12], source.repository)
    image = find_image(engine, first.image, built=first.options.get("image") is None)
    options = tuple(_parsed(job, wish, image, asked) for job in past)
    jobs = tuple(_job(job, wish.output) for job in past)
    contents = {job.record.number: job.content for job in past}

    def content(job: Job, _task: Task, _restart: str) -> bytes:
        return contents[job.number]

    execution = Execution(
        _execution.new_id(),
        folder=wish.output,
        working_dir=first.working_dir,
        make_engine=lambda: engine,
        make_tracker=lambda options, _, user: make_tracker(options, wish.folder, user),
        pin_code=_pin_past(past[0], source),
    )
    outcomes = execution.run(Batch(jobs, options), content)
    if outcomes is None:
        return None
    rows = json.loads(SweepPaths(wish.output).ledger.read_text())["jobs"]
    run_ids = {row["job"]: row.get("run_id") for row in rows}
    return [
        Again(job, outcome, run_ids.get(job.record.number))
        for job, outcome in zip(past, outcomes, strict=True)
    ]


def completed(jobs: Sequence[Again]) -> bool:
    return all(job.outcome.end is End.COMPLETED for job in jobs)


def find_image(engine: Engine, image: Image, *, built: bool) -> str | None:
    """Return the id of the image of then, pulled by its digest where it is not here.

    None where it is gone and was ``built``: it can be built again from the commit.
    """
    found = engine.find_image(image.id)
    if found is not None:
        return found.id
    reasons = [f"{image.short} is not on this engine"]
    if image.digest is not None:
        try:
            return (engine.find_image(image.digest) or engine.pull(image.digest, _show)).id
        except ImageError as error:
            reasons.append(str(error))
    if built:
        log.warning("The image of then is gone (%s): it is built again", "; ".join(reasons))
        return None
    raise ReproduceError(
        f"The image {image.reference} of then is gone: {'; '.join(reasons)}.\nName one that is "
        f"close to it with --set image=..., for example the one that {image.reference} is now."
    )


def _show(line: str) -> None:
    print(f"image | {line}", flush=True)


def _pin_past(past: PastJob, source: Source) -> Callable[[Request, Engine], Code]:
    def pin_code(request: Request, engine: Engine) -> Code:
        _pinning.check_volumes(request.jobs, engine)
        return Code(
            source=source,
            script=past.record.script,
            task=past.record.task,
            identity=_pinning.identity(request.options.user),
            host=engine.host(),
            pushed=_source.is_pushed(source),
            patch=_source.patch(source),
        )

    return pin_code


def _job(past: PastJob, output: Path) -> Job:
    record = past.record
    return Job(
        number=record.number,
        name=record.name,
        overrides=record.overrides,
        output_dir=record.output_dir,
        plain=past.plain,
        written=record.options,
        tags={REPRODUCES: past.run.id},
        kept_at=output / str(record.number),
    )


def _parsed(past: PastJob, wish: Wish, image: str | None, asked: str) -> Options:
    record = past.record
    options = OmegaConf.create(dict(record.options))
    settled = {
        "commit": record.source.commit,
        "dirty": "ignore",
        "pull_policy": "missing",
        "volumes": _volumes(record.options.get("volumes") or [], dict(wish.volumes)),
        "mlflow": {
            "experiment_name": past.run.experiment,
            "run_name": f"reproduce {asked[:8]}",
            "tags": {REPRODUCES: asked},
        },
        **({} if image is None else {"image": image}),
        **dict(wish.options),
    }
    for name, value in settled.items():
        OmegaConf.update(options, name, value, force_add=True)
    folder = record.working_dir if record.working_dir.is_dir() else wish.folder
    try:
        node = _with_defaults(OmegaConf.to_container(options, resolve=True))
        return _options.parse(node, environ=os.environ, folder=folder)
    except OmegaConfBaseException as error:
        raise ReproduceError(
            f"An option of the run {past.run.id} came from the environment of its host: "
            f"{str(error).splitlines()[0]}\nSet that variable, or give the option with --set."
        ) from error
    except OptionError as error:
        raise OptionError(
            f"run {past.run.id}: {error}\nA limit, a device or another option of then can be "
            "replaced with --set NAME=VALUE, the source of a volume with --volume THEN=NOW."
        ) from None


def _volumes(volumes: Sequence[str], now: dict[str, str]) -> list[str]:
    """Return volumes with their sources as they are called on this host."""
    moved = []
    for volume in volumes:
        source, _, rest = volume.partition(":")
        moved.append(f"{now.get(source, source)}:{rest}")
    return moved


def _with_defaults(node: Any) -> dict[str, Any]:
    """Return options with those that the record does not have at their defaults."""
    schema = OmegaConf.structured(DockerLauncherConf)
    OmegaConf.set_struct(schema, False)
    merged: Any = OmegaConf.to_container(OmegaConf.merge(schema, node))
    return dict(merged)
