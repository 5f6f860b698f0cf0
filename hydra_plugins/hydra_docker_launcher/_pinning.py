"""Pinning: what the first batch of a sweep settles for all of its batches."""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import _admission, _clone, _delivery, _image, _plan, _preflight, _source, _task
from ._boundary_values import CONTAINER, NETWORK_WORDS, network_of
from ._capacity import Machine
from ._clone import Clone
from ._delivery import Place
from ._engine import Engine, Host, Image
from ._errors import OptionError
from ._mlflow_store import find_store
from ._option_values import valid_are
from ._options import JobOptions, Mlflow, SweepOptions
from ._plan import Identity
from ._preflight import Facts
from ._relay import Relay
from ._source import Source
from ._task import Task

log = logging.getLogger("hydra_docker_launcher")


@dataclass(frozen=True, slots=True)
class Request:
    """A sweep, as its first batch asks for it. Paths are absolute."""

    sweep: str
    job_name: str
    folder: Path
    working_dir: Path
    options: SweepOptions
    jobs: tuple[JobOptions, ...]


@dataclass(frozen=True, slots=True)
class Code:
    """The code of a sweep: a commit, how the task function is found in it, who runs it, where."""

    source: Source
    script: Path | None
    task: Task
    identity: Identity
    host: Host
    #: Whether a remote has the commit, or a snapshot's parent; None where there is no remote.
    pushed: bool | None = None
    #: What makes a snapshot of its parent.
    patch: bytes | None = None
    clone: Clone | None = None

    @property
    def entry(self) -> str:
        """The script, or the name of the task function."""
        return str(self.script) if self.script is not None else self.task.target


@dataclass(frozen=True, slots=True)
class Ready:
    """The image of a sweep (``image``), what it has, and the one with the commit's files on top.

    ``baked`` is that of the commit, which stays after the sweep; ``relay`` is to be closed then.
    """

    image: Image
    facts: Facts
    layer: Image
    baked: Image | None = None
    relay: Relay | None = None


def pin_code(
    request: Request,
    engine: Engine,
    *,
    task_function: Callable[[Any], Any],
    config_dirs: tuple[Path, ...],
) -> Code:
    """Pin the commit, and refuse what the engine's machine cannot give.

    Pulls, builds and starts nothing.
    """
    options = request.options
    script = _task.running_script(task_function)
    module = None if script is not None else _task.module_file(task_function)
    if module is not None and not _source.is_tracked(module):
        module = None
    file = script or module
    source = _source.pin(
        file or request.working_dir,
        revision=options.commit,
        dirty=options.dirty,
        snapshot_limit=options.snapshot_limit,
        config_dirs=config_dirs,
        own_paths=(
            request.folder,
            *_store_paths(options.mlflow, request.working_dir),
            # Variables that are written down nowhere: no snapshot takes them.
            *(file for job in request.jobs for file in job.env_files),
        ),
    )
    if file is not None:
        _source.require_file(source, file)
    code = Code(
        source=source,
        script=script,
        task=_task.describe(task_function, script, source.root),
        identity=identity(options.user),
        host=engine.host(),
        pushed=_source.is_pushed(source),
        patch=_source.patch(source),
    )
    check_engine(request.jobs, engine)
    _tell(code)
    if "swap" in code.host.cannot_limit and any(job.memswap_limit is None for job in request.jobs):
        log.warning(
            "The engine on %s cannot limit swap: containers that reach mem_limit may swap",
            code.host.name,
        )
    if file is None and code.task.kind == "function":
        log.warning(
            "The task function %s is imported from what is installed in the image: it is not part "
            "of commit %s",
            code.task.target,
            source.commit[:12],
        )
    return code


def _tell(code: Code) -> None:
    """Say which code runs, and what somebody else would lack to run it again."""
    source = code.source
    if source.parent is None:
        log.info("Commit %s of %s", source.commit[:12], source.root)
    else:
        log.info(
            "Snapshot %s of the uncommitted changes on %s of %s: %d file%s",
            source.commit[:12],
            source.parent[:12],
            source.root,
            len(source.changed),
            "" if len(source.changed) == 1 else "s",
        )
    if source.left_out:
        log.warning("Running without uncommitted changes: %s", ", ".join(source.left_out))
    if code.pushed is False:
        log.warning(
            "Commit %s is on no branch of a remote, as far as the last fetch knows: only this "
            "machine can repeat the sweep. To share it: %s",
            source.base[:12],
            _source.push_command(source),
        )


def with_clone(request: Request, code: Code) -> Code:
    """Return the code with how containers clone it, where that is its delivery."""
    options = request.options
    if options.delivery != "clone":
        return code
    found = _clone.find_clone(code.source, options.remote, options.clone, request.jobs, os.environ)
    return replace(code, clone=found)


def make_ready(request: Request, code: Code, engine: Engine) -> Ready:
    """Pull or build the image, see what it has, and put the commit's files on top of it."""
    labels = (
        *_plan.labels(request.sweep, code.source.commit, code.identity.name),
        _plan.folder_label(request.folder),
    )
    image = _image.get_image(engine, request.options, code.source, code.script, labels, _show)
    log.info("Image %s (%s)", image.reference, image.short)
    if image.digest is None:
        log.warning(
            "The image %s exists only on this engine, and nobody else can run it. "
            "hydra.launcher.push=REPOSITORY pushes it to a registry.",
            image.short,
        )
    hold = partial(_admission.held, engine, Machine.of(code.host, ()), labels=labels)
    facts = _preflight.inspect_image(
        engine,
        image,
        user=code.identity.container,
        gpus=any(job.gpus for job in request.jobs),
        runtime=request.jobs[0].runtime,
        cache=cache_folder() / "images",
        **({"hold": hold} if request.options.admission == "engine" else {}),
    )
    _preflight.check_versions(facts)
    for job in request.jobs:
        _preflight.check_user(facts, code.identity.uid, job.cap_add)
        _preflight.check_gpus(facts, job.gpus)
    if code.clone is not None:
        return _ready_to_clone(request, code, engine, image, facts, labels)
    delivered = _delivery.deliver(
        engine,
        image,
        Place(code.source, request.working_dir, code.identity.container),
        how=request.options.delivery,
        tag=layer_tag(request, code),
        library=_library(code, facts),
        labels=labels,
    )
    baked = delivered.baked
    if baked is not None:
        version = baked.reference.rpartition(":")[2]
        baked = _image.pushed(engine, baked, request.options.push, version, _show)
    return Ready(image, facts, delivered.layer, baked)


def _ready_to_clone(
    request: Request,
    code: Code,
    engine: Engine,
    image: Image,
    facts: Facts,
    labels: tuple[tuple[str, str], ...],
) -> Ready:
    """Give the containers what they need to clone the commit."""
    if code.clone is None:
        raise RuntimeError("there is nothing to clone")
    _preflight.check_git(facts, image, ssh=code.clone.ssh)
    clone, relay = _clone.reach(code.clone, request.jobs, code.host.gateway)
    try:
        delivered = _delivery.deliver(
            engine,
            image,
            # They must be able to write to it, whoever they are.
            Place(code.source, request.working_dir, f"{facts.uid}:{facts.gid}"),
            how="clone",
            tag=layer_tag(request, code),
            library=_library(code, facts),
            files=_clone.files(clone, facts.passwd, facts.uid, facts.gid),
            labels=labels,
        )
    except BaseException:
        if relay is not None:
            relay.close()
        raise
    return Ready(image, facts, delivered.layer, relay=relay)


def layer_tag(request: Request, code: Code) -> str:
    """Return the name of the image that ``make_ready`` makes, to be removed after the sweep."""
    return _delivery.layer_tag(request.job_name, code.source.commit, request.sweep)


def _show(line: str) -> None:
    """Show what the engine says while it pulls or builds."""
    print(f"image | {line}", flush=True)


def _library(code: Code, facts: Facts) -> Path | None:
    """Return the package that the worker needs to load a function that is sent by value."""
    if code.task.kind != "value":
        return None
    import cloudpickle

    if code.task.function is not None:  # one that is run again stands in what the worker reads
        _preflight.check_function_by_value(facts, code.task.target)
    log.warning(
        "The task function %s is in no script and in no module: it is sent by value, and is not "
        "part of commit %s",
        code.task.target,
        code.source.commit[:12],
    )
    return Path(cloudpickle.__file__).parent


def check_engine(jobs: Sequence[JobOptions], engine: Engine) -> None:
    """Raise ``OptionError`` for what options name and the engine does not have."""
    check_volumes(jobs, engine)
    check_networks(jobs, engine)


def check_networks(jobs: Sequence[JobOptions], engine: Engine) -> None:
    """Raise ``OptionError`` for a network that the engine would look for in vain, job by job."""
    named = {network_of(job.network_mode) for job in jobs} - {None}
    for name in sorted(filter(None, named)):
        if not engine.network_exists(name):
            valid = (*dict.fromkeys((*NETWORK_WORDS, *engine.networks())), f"{CONTAINER}NAME")
            raise OptionError(
                f"hydra.launcher.network_mode={name}: the engine has no network {name!r}; "
                f"{valid_are(valid, name)}\n`docker network create {name}` makes it."
            )


def check_volumes(jobs: Sequence[JobOptions], engine: Engine) -> None:
    """Raise ``OptionError`` for a named volume that the engine would make, empty."""
    named = {volume.source for job in jobs for volume in job.volumes if volume.named}
    for name in sorted(named):
        if not engine.volume_exists(name):
            raise OptionError(
                f"hydra.launcher.volumes: the engine has no volume {name!r}. Make it (docker "
                f"volume create {name}), or write ./{name} for a folder."
            )


def identity(user: str) -> Identity:
    """Return the launching user, and as whom its containers run (option ``user``)."""
    uid, gid = os.getuid(), os.getgid()
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(uid)
    container = {"host": f"{uid}:{gid}", "image": None}.get(user, user)
    return Identity(name=name, uid=uid, gid=gid, container=container)


def _store_paths(mlflow: Mlflow, folder: Path) -> tuple[Path, ...]:
    """Return what the tracking store keeps below the launch folder: it is no code."""
    if not mlflow.enabled:
        return ()
    return find_store(mlflow.tracking_uri, folder, os.environ).own_paths


def cache_folder() -> Path:
    """Return where is kept what can be got again: below ``XDG_CACHE_HOME``, else ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "hydra-docker-launcher"
