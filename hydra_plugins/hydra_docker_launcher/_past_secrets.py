"""Past secrets: values of a past job's config that nobody has written down, had again.

The record of the job names their keys, and the text that stands in their place. An interpolation is
resolved on this host; any other value is given by the name of a variable that holds it.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from . import _masks, _private, _redaction
from ._errors import OptionError, ReproduceError
from ._past_job import PastJob
from ._redaction import NOTHING, Hidden, Withheld

#: Of Hydra's own node only these values change what the job does.
_OF_HYDRA = "hydra.job.env_set."


def given(
    past: Sequence[PastJob], wished: Sequence[tuple[str, str]], environ: Mapping[str, str]
) -> dict[str, str]:
    """Return the values that are given by the names of variables, by the keys of configs.

    Raises ``OptionError`` for a key that no job withholds, or a variable that is not set.
    """
    known = [item.key for job in past for item in job.record.withheld if _counts(item)]
    values = {}
    for key, variable in wished:
        if key not in known:
            has = ", ".join(dict.fromkeys(known)) or "there is none"
            raise OptionError(f"--secret {key}=…: no such value is hidden in the config; {has}")
        if not environ.get(variable):
            raise OptionError(f"--secret {key}={variable}: {variable} is not set here")
        values[key] = environ[variable]
    return values


def withheld(past: PastJob, secrets: Mapping[str, str]) -> Withheld:
    """Return what of a past job's config is not written down, with the values of now.

    Raises ``ReproduceError`` that names each value that is not to be had, and how to give it.
    """
    hidden = past.record.withheld
    names = past.record.secret_variables
    options = tuple(f"hydra.launcher.environment.{name}" for name in names)
    if not hidden:
        return replace(NOTHING, options=options)
    config: Any = OmegaConf.create(dict(past.plain))
    for item in hidden:
        if item.key in secrets:
            OmegaConf.update(config, item.key, _literal(secrets[item.key]), force_add=True)
    values, missing = [], []
    for item in hidden:
        value = _value(item, config, secrets)
        if value is None and _counts(item):
            missing.append(item)
        values.append(item.shown if value is None else value)
    if missing:
        raise ReproduceError(_message(past, missing))
    for item, value in zip(hidden, values, strict=True):
        if not item.key.startswith("hydra."):
            OmegaConf.update(config, item.key, _literal(value), force_add=True)
    own = [value for item, value in zip(hidden, values, strict=True) if value != item.shown]
    in_task = any(not item.key.startswith("hydra.") for item in hidden)
    return Withheld(
        hidden=hidden,
        values=pickle.dumps([("value", value) for value in values], protocol=4),
        config=OmegaConf.to_yaml(config) if in_task else None,
        masks=_masks.masks_of(own),
        options=options,
    )


def _counts(item: Hidden) -> bool:
    return not item.key.startswith("hydra.") or item.key.startswith(_OF_HYDRA)


def _value(item: Hidden, config: Any, secrets: Mapping[str, str]) -> Any:
    """Return a value as this host has it, None where it has none."""
    if item.key in secrets:
        return secrets[item.key]
    if not _counts(item) or _private.HIDDEN in item.shown or "${" not in item.shown:
        return None
    try:
        if item.key.startswith("hydra."):
            value = OmegaConf.create({"value": item.shown}).value
        else:
            value = OmegaConf.select(config, item.key, throw_on_missing=True)
        value = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
    except OmegaConfBaseException:
        return None
    return None if value is None or _private.HIDDEN in str(value) else value


def _literal(value: Any) -> Any:
    """Return a value so that OmegaConf takes it as it is."""
    return _redaction.escaped(value) if isinstance(value, str) else value


def _message(past: PastJob, missing: Sequence[Hidden]) -> str:
    lines = [f"  {item.key}: {item.shown}" for item in missing]
    first = missing[0]
    return (
        f"The config of the run {past.run.id} had values that are written down nowhere, and that "
        "cannot be had here:\n" + "\n".join(lines) + "\nSet the variables that they name, or put "
        "each into a variable and name that one: hydra-docker reproduce "
        f"{past.run.id[:8]} --secret {first.key}=VARIABLE"
    )
