"""Past options: ``hydra.launcher`` as a past job had it, with what is other on this host."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import _options
from ._errors import OptionError, ReproduceError
from ._options import LABEL_PREFIX, Options
from ._past_job import PastJob
from ._wish import Wish
from .config import DockerLauncherConf

REPRODUCES = f"{LABEL_PREFIX}reproduces"

#: What the user can do about an option of then that this host cannot meet.
INSTEAD = (
    "Another value is given with --set NAME=VALUE, another source of a volume with --volume "
    "THEN=NOW."
)
#: Options that say what is repeated, or stand in what the worker of then reads.
_FIXED = {
    "commit": "the commit is that of then",
    "dirty": "the commit is that of then",
    "restart": "what the job's worker reads depends on it",
    "dry_run": "say --dry-run",
    "resume": "what is repeated is a new sweep",
    "detach": "the comparison with then needs the results",
    "on_interrupt": "the comparison with then needs the results",
}


def written(past: PastJob, wish: Wish) -> dict[str, Any]:
    """Return the options for the record of the new run: those of then, with what is wished.

    Variables of the host stand in them by name.
    """
    options = OmegaConf.create(dict(past.record.options))
    volumes = past.record.options.get("volumes") or []
    changes = [*wish.options]
    if wish.volumes:
        changes.insert(0, ("volumes", _moved(volumes, dict(wish.volumes))))
    for name, value in changes:
        check_wished(name)
        try:
            OmegaConf.update(options, name, value, force_add=True)
        except OmegaConfBaseException as error:
            raise OptionError(f"--set {name}={value}: {_first_line(error)}") from error
    plain: Any = OmegaConf.to_container(options)
    return dict(plain)


def check_wished(name: str) -> None:
    """Raise ``OptionError`` for an option that a repetition cannot have another value of."""
    if name in _FIXED:
        raise OptionError(f"--set {name}=…: {_FIXED[name]}")


def parse(past: PastJob, wish: Wish, image: str | None, asked: str) -> Options:
    """Return the options of a job for this host; ``image`` is to be run, None: built from then.

    ``asked`` is the run that is reproduced. Raises ``DockerLauncherError`` where a variable is not
    set here, or an option cannot be met.
    """
    run, record = past.run, past.record
    node = _resolved(past, written(past, wish))
    node |= {
        "commit": record.source.commit,
        "dirty": "ignore",
        "pull_policy": "missing",
        "dry_run": wish.dry_run,
    }
    if image is not None:
        node["image"] = image
    if wish.remote is not None and node.get("delivery") == "clone":
        node["remote"] = wish.remote
    node["mlflow"] = {
        "tracking_uri": wish.tracking_uri,
        "experiment_name": run.experiment,
        "run_name": f"reproduce {asked[:8]}",
        **node.get("mlflow", {}),
        "tags": {**node.get("mlflow", {}).get("tags", {}), REPRODUCES: asked},
    }
    folder = record.working_dir if record.working_dir.is_dir() else wish.folder
    try:
        return _options.parse(with_defaults(node), environ=os.environ, folder=folder)
    except OptionError as error:
        raise OptionError(f"run {run.id}: {error}\n{INSTEAD}") from None


def unset_variables(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the variables that are passed on from the host, and are not set here."""
    value = options.get("environment")
    if isinstance(value, Mapping):
        names = [str(name) for name, item in value.items() if item is None]
    else:
        names = [str(item) for item in value or () if "=" not in str(item)]
    return tuple(name for name in names if name not in os.environ)


def with_defaults(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those that ``node`` does not have at their defaults."""
    defaults: Any = OmegaConf.to_container(OmegaConf.structured(DockerLauncherConf))
    for name, value in node.items():
        both = isinstance(value, Mapping) and isinstance(defaults.get(name), Mapping)
        defaults[name] = {**defaults[name], **value} if both else value
    return dict(defaults)


def _resolved(past: PastJob, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their interpolations resolved, in the config of then."""
    whole = OmegaConf.create({**past.plain, "hydra": {"launcher": dict(options)}})
    try:
        plain: Any = OmegaConf.to_container(whole.hydra.launcher, resolve=True)
    except OmegaConfBaseException as error:
        raise ReproduceError(
            f"An option of the run {past.run.id} was not a value but an interpolation, and cannot "
            f"be resolved here: {_first_line(error)}\nSet that variable, or give the option with "
            "--set NAME=VALUE."
        ) from error
    return dict(plain)


def split_volume(volume: str) -> tuple[str, str]:
    """Return the source of a volume (an interpolation may have colons in it), and the rest."""
    match = re.match(r"((?:\$\{[^}]*\}|[^:])*):?", volume)
    end = match.end() if match is not None else 0
    return volume[:end].removesuffix(":"), volume[end:]


def _moved(volumes: Sequence[str], now: dict[str, str]) -> list[str]:
    """Return volumes with their sources as they are called on this host."""
    parts = [split_volume(volume) for volume in volumes]
    sources = [source for source, _ in parts]
    for source in now:
        if source not in sources:
            had = f"there were: {', '.join(sources)}" if sources else "there was none"
            raise OptionError(f"--volume {source}=…: no volume of then has that source; {had}")
    return [f"{now.get(source, source)}:{rest}" for source, rest in parts]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
