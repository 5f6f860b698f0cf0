"""From note: a job made of image, commit and config alone, where nobody has its record."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf.errors import OmegaConfBaseException

from . import _compose, _execution, _job_files, _options, _past_source, _pinning, _source
from ._compose import ComposedJob
from ._engine import Engine
from ._errors import ReproduceError
from ._execution import Batch, Execution, MakeTracker
from ._job import Job
from ._outcome import End
from ._pinning import Code, Request
from ._reproduce import Wish
from ._source import Source
from ._task import Task

log = logging.getLogger("hydra_docker_launcher")


@dataclass(frozen=True, slots=True)
class Note:
    """What a lab book holds of a job. ``script`` is relative to the repository's root.

    ``script`` None: the only one of the commit that uses ``hydra.main``.
    """

    image: str
    commit: str
    config: Path
    script: str | None = None


def reproduce_note(
    note: Note,
    wish: Wish,
    *,
    engine: Engine,
    make_tracker: MakeTracker,
) -> bool | None:
    """Run the job of a note; tell whether it completed, None of a dry run.

    The config is taken as it is: plain values, without the types of a Structured Config.
    """
    source = _located(note, wish)
    script = source.root / (note.script or _only_script(source))
    _source.require_file(source, script)
    job = _composed(note, wish, script.stem)
    node = {**job.options, "dirty": "ignore", **dict(wish.options)}
    options = _options.parse(node, environ=os.environ, folder=wish.folder)
    folders = (script.parent, source.root / "src", source.root)
    task = Task("script", str(script), (str(script),), tuple(map(str, folders)))
    working_dir = wish.folder if wish.folder.is_relative_to(source.root) else source.root
    execution = Execution(
        _execution.new_id(),
        folder=wish.output,
        working_dir=working_dir,
        make_engine=lambda: engine,
        make_tracker=lambda options, _, user: make_tracker(options, wish.folder, user),
        pin_code=_pin(source, script, task),
    )

    def content(_job: Job, task: Task, restart: str) -> bytes:
        return _job_files.content(job, task, restart)

    outcomes = execution.run(Batch((job,), (options,)), content)
    return None if outcomes is None else outcomes[0].end is End.COMPLETED


def _located(note: Note, wish: Wish) -> Source:
    folder = wish.repository or wish.folder
    if wish.remote is None:
        return _source.pin(
            folder,
            revision=note.commit,
            dirty="ignore",
            snapshot_limit=0,
            config_dirs=(),
            own_paths=(),
        )
    unknown = Source(root=folder, commit=note.commit, branch=None, remote_url=wish.remote)
    located = _past_source.locate(unknown, (), wish.remote, wish.cache / "repositories")
    return _source.pin(
        located.repository,
        revision=note.commit,
        dirty="ignore",
        snapshot_limit=0,
        config_dirs=(),
        own_paths=(),
    )


def _only_script(source: Source) -> str:
    found = [
        name
        for name in sorted(_source.files(source))
        if name.endswith(".py") and "hydra.main(" in (_source.read_text(source, name) or "")
    ]
    if len(found) != 1:
        which = "none" if not found else ", ".join(found[:10])
        raise ReproduceError(
            f"Which script was it? Commit {source.commit[:12]} has several with hydra.main, or "
            f"none: {which}.\nName it with --script, relative to {source.root}."
        )
    return found[0]


def _composed(note: Note, wish: Wish, name: str) -> ComposedJob:
    """Compose the config of a note as Hydra would that of a multirun."""
    file = note.config.absolute()
    if not file.is_file():
        raise ReproduceError(f"There is no config file {file}")
    overrides = [
        "hydra/launcher=docker",
        f"hydra.sweep.dir={_quoted(str(wish.output))}",
        "hydra.sweep.subdir='0'",
        f"hydra.launcher.image={_quoted(note.image)}",
        f"hydra.launcher.commit={_quoted(note.commit)}",
    ]
    try:
        with initialize_config_dir(str(file.parent), job_name=name, version_base="1.3"):
            loader: Any = GlobalHydra.instance().config_loader()
            config = loader.load_configuration(file.name, overrides, RunMode.MULTIRUN)
            context = HydraContext(config_loader=loader, callbacks=Callbacks())
            return _compose.compose(context, config, [], 0)
    except (HydraException, OmegaConfBaseException) as error:
        raise ReproduceError(f"The config {file} cannot be used: {error}") from error


def _quoted(text: str) -> str:
    """Return a value as Hydra's override grammar reads it literally."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _pin(source: Source, script: Path, task: Task) -> Callable[[Request, Engine], Code]:
    def pin_code(request: Request, engine: Engine) -> Code:
        _pinning.check_volumes(request.jobs, engine)
        identity = _pinning.identity(request.options.user)
        return Code(source, script, task, identity, engine.host())

    return pin_code
