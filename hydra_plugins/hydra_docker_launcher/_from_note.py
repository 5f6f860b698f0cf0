"""From note: a job made of image, commit and config alone, where nobody has its record."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from . import _compose, _execution, _job_files, _options, _past_source, _private, _source
from ._compose import ComposedJob
from ._engine import Engine
from ._errors import OptionError, ReproduceError, SourceError
from ._execution import Batch, Execution, MakeTracker
from ._job import Job
from ._options import Options
from ._outcome import Outcome
from ._past_options import INSTEAD, check_wished, with_defaults
from ._past_source import Places
from ._reproduce import pin_known, run_ids
from ._source import Source
from ._task import Task
from ._wish import Wish

log = logging.getLogger("hydra_docker_launcher")

#: What a resolved config has no more: they would make Hydra compose another one.
_NOT_RESOLVED = ("hydra", "defaults")


@dataclass(frozen=True, slots=True)
class Note:
    """What a lab book holds of a job. ``script`` is relative to the repository's root.

    ``script`` None: the only one of the commit that uses ``hydra.main``. ``module`` instead of a
    script: it is run as ``python -m`` does.
    """

    image: str
    commit: str
    config: Path
    script: str | None = None
    module: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A job that was run from its note, and its run; None where nothing was recorded."""

    outcome: Outcome
    run_id: str | None


def reproduce_note(
    note: Note, wish: Wish, *, engine: Engine, make_tracker: MakeTracker
) -> Noted | None:
    """Run the job of a note; None of a dry run.

    The config is taken as it is: plain values, without the types of a Structured Config.
    """
    config = _config(note.config)
    node = _node(note, wish)
    options = _parsed(node, wish)
    source = _located(note, wish)
    working_dir = wish.folder if wish.folder.is_relative_to(source.root) else source.root
    script, task = _task(note, source, working_dir)
    name = script.stem if script is not None else task.target.split(".")[-1]
    job = replace(_composed(note, wish, config, name), written=node)
    execution = Execution(
        _execution.new_id(),
        folder=wish.output,
        working_dir=working_dir,
        make_engine=lambda: engine,
        make_tracker=lambda options, _, user: make_tracker(options, wish.folder, user),
        pin_code=pin_known(source, script, task),
    )

    def content(_job: Job, task: Task, restart: str) -> bytes:
        return _job_files.content(job, task, restart)

    try:
        outcomes = execution.run(Batch((job,), (options,)), content)
    except OptionError as error:
        raise OptionError(f"{error}\n{INSTEAD}") from None
    if outcomes is None:
        return None
    (outcome,) = _execution.finished(outcomes)
    return Noted(outcome, run_ids(wish.output).get(0))


def _parsed(node: dict[str, Any], wish: Wish) -> Options:
    try:
        return _options.parse(node, environ=os.environ, folder=wish.folder)
    except OptionError as error:
        raise OptionError(f"{error}\n{INSTEAD}") from None


def _config(file: Path) -> DictConfig:
    """Read a resolved config."""
    try:
        config = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException) as error:
        raise ReproduceError(f"The config {file} cannot be read: {error}") from error
    if not isinstance(config, DictConfig):
        raise ReproduceError(f"The config {file} is no mapping of names to values")
    for name in _NOT_RESOLVED:
        if name in config:
            raise ReproduceError(
                f"The config {file} has a key {name!r}, so it is not the resolved config of a job. "
                "That is the artifact config.yaml of its run; options of hydra.launcher are given "
                "with --set NAME=VALUE."
            )
    _check_complete(config, file)
    return config


def _check_complete(config: DictConfig, file: Path) -> None:
    """Raise ``ReproduceError`` for values that were written down nowhere."""
    plain: Any = OmegaConf.to_container(config, resolve=False)
    flat = _compose.flatten(plain)
    hidden = [key for key, value in flat.items() if _private.HIDDEN in str(value)]
    if hidden:
        raise ReproduceError(
            f"The config {file} has no values for {', '.join(hidden)}: they were secrets of the "
            "job. Write them into the file, or where they are to be had: ${oc.env:VARIABLE}"
        )


def _located(note: Note, wish: Wish) -> Source:
    """Return the commit, in a clone that is here or is made of ``--remote``.

    What the clone is called on this host is what the job sees.
    """
    folder = wish.repository or wish.folder
    if wish.remote is None:
        try:
            return _pinned(folder, note.commit)
        except SourceError as error:
            raise SourceError(
                f"{error}\nRun this in a clone that has it, or name one with --repository, or the "
                "address of one with --remote."
            ) from error
    unknown = Source(root=folder, commit=note.commit, branch=None, remote_url=None)
    found = _past_source.locate(unknown, Places((), wish.remote, wish.clones))
    return _pinned(found.source.repository, note.commit)


def _pinned(folder: Path, commit: str) -> Source:
    return _source.pin(folder, revision=commit, dirty="ignore", config_dirs=(), own_paths=())


def _task(note: Note, source: Source, working_dir: Path) -> tuple[Path | None, Task]:
    """Return the script, and how it is found; its modules are where they usually are."""
    root = source.root
    libraries = [str(folder) for folder in (root / "src", root)]
    if note.module is not None:
        path = tuple(dict.fromkeys((str(working_dir), *libraries)))
        return None, Task("module", note.module, (note.module,), path)
    script = root / (note.script or _only_script(source))
    _source.require_file(source, script)
    path = tuple(dict.fromkeys((str(script.parent), *libraries)))
    return script, Task("script", str(script), (str(script),), path)


def _only_script(source: Source) -> str:
    found = [
        name
        for name in sorted(_source.files(source))
        if name.endswith(".py") and "hydra.main(" in (_source.read_text(source, name) or "")
    ]
    if len(found) == 1:
        return found[0]
    have = f"has {len(found)} scripts" if found else "has no script"
    which = f": {', '.join(found[:10])}" if found else ""
    raise ReproduceError(
        f"Which script was it? Commit {source.commit[:12]} {have} with hydra.main{which}.\n"
        f"Name it with --script, relative to {source.root}."
    )


def _composed(note: Note, wish: Wish, config: DictConfig, name: str) -> ComposedJob:
    """Compose the config of a note as Hydra would that of a multirun."""
    overrides = [
        "hydra/launcher=docker",
        f"hydra.sweep.dir={_quoted(str(wish.output))}",
        "hydra.sweep.subdir='0'",
    ]
    try:
        with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
            # By a name of its own: Hydra reads more than a file's name into some characters.
            Path(folder, "config.yaml").write_text(OmegaConf.to_yaml(config))
            with initialize_config_dir(folder, job_name=name, version_base="1.3"):
                loader: Any = GlobalHydra.instance().config_loader()
                whole = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
                context = HydraContext(config_loader=loader, callbacks=Callbacks())
                return _compose.compose(context, whole, [], 0)
    except (HydraException, OmegaConfBaseException) as error:
        raise ReproduceError(f"The config {note.config} cannot be used: {error}") from error


def _node(note: Note, wish: Wish) -> dict[str, Any]:
    """Return the options of the launcher: those that are wished, the others at their defaults."""
    node = OmegaConf.create({"image": note.image})
    for name, value in wish.options:
        check_wished(name)
        OmegaConf.update(node, name, value, force_add=True)
    plain: Any = OmegaConf.to_container(node)
    fixed = {"commit": note.commit, "dirty": "ignore", "dry_run": wish.dry_run}
    mlflow = {"tracking_uri": wish.tracking_uri, **(plain.get("mlflow") or {})}
    return with_defaults({**plain, **fixed, "mlflow": mlflow})


def _quoted(text: str) -> str:
    """Return a value as Hydra's override grammar reads it literally."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
