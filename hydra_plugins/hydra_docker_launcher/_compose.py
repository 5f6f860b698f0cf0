"""Compose: every override list becomes a job, its config composed and resolved on the host."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import io
import os
import pickle
import re
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PosixPath, PurePath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any

from hydra import version
from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import AnyNode, Container, DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from . import _composed, _masks, _private, _redaction
from ._errors import TaskError
from ._job import Job
from ._masks import Masks
from ._private import NO_GLOBS, Rules, hide_variables
from ._redaction import Withheld, escaped

#: Parts of Hydra's node whose types stand in plugins, which an image does not have.
PLUGIN_NODES = ("launcher", "sweeper")

HYDRA_1_3 = hasattr(version, "base_at_least")

PATH_TYPES = (PurePath, PurePosixPath, PureWindowsPath, Path, PosixPath, WindowsPath)
#: Types of single values that a config can hold.
SINGLE = (str, int, float, bool, bytes, PurePath, Enum, type(None))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ComposedJob(Job):
    """A job as Hydra has composed it.

    ``cfg`` and ``hydra_cfg`` are what Hydra's basic launcher puts into a ``JobReturn``
    (interpolations unresolved); ``resolved`` is the whole config as the container gets it.
    """

    working_dir: Path
    cfg: DictConfig
    hydra_cfg: DictConfig
    resolved: DictConfig
    #: ``hydra.launcher``, resolved, as plain values.
    options: Mapping[str, Any]
    #: Keys whose interpolation could not be resolved on the host, with the reason.
    unresolved: tuple[str, ...]
    #: The overrides as Hydra knows them, with what is not written down.
    task_overrides: tuple[str, ...] = ()
    rules: Rules = NO_GLOBS

    def facts(self) -> dict[str, Any]:
        """Return what else is written down of it: Hydra's own node, without values of variables.

        ``hydra`` is the resolved node but for ``launcher``, as OmegaConf reads it.
        """
        with _redaction.withheld(self.resolved, self.withheld.hidden):
            node: Any = OmegaConf.to_container(self.resolved.hydra, resolve=False, enum_to_str=True)
        hydra = _masks.masked_plain(hide_variables(node), self.withheld.masks)
        hydra.pop("launcher", None)
        return {
            "working_dir": str(self.working_dir),
            "unresolved": list(self.unresolved),
            "hydra": hydra,
        }


def compose(
    context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int
) -> ComposedJob:
    """Compose and resolve the config of one job, as Hydra's basic launcher would."""
    composed = _composed.take(context, config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    before = HydraConfig.instance().cfg
    try:
        HydraConfig.instance().set_config(composed)
        output_dir = _output_dir(composed)
        with read_write(composed.hydra.runtime), open_dict(composed.hydra.runtime):
            composed.hydra.runtime.output_dir = str(output_dir)
        HydraConfig.instance().set_config(composed)
        hydra_cfg: Any = HydraConfig.instance().cfg
        if not HYDRA_1_3:
            _resolve_env_set(hydra_cfg)
        resolved, unresolved = resolve(composed)
    finally:
        HydraConfig.instance().cfg = before
    hydra = resolved.hydra
    plain = _plain(resolved)
    options = _unescaped(plain.pop("hydra")["launcher"])
    _drop_plugin_types(hydra)
    rules = _rules(options)
    withheld = _withhold(resolved, composed, plain, options, rules)
    if withheld.hidden:
        with _redaction.withheld(resolved, withheld.hidden):
            plain = _plain(resolved)
            plain.pop("hydra")
    overrides = tuple(hydra.overrides.task)
    return ComposedJob(
        number=number,
        name=hydra.job.name,
        overrides=_masks.overrides(overrides, rules, withheld.masks),
        task_overrides=overrides,
        rules=rules,
        withheld=withheld,
        output_dir=output_dir,
        working_dir=output_dir if _changes_directory(hydra) else Path.cwd(),
        cfg=_without_hydra(composed),
        hydra_cfg=hydra_cfg,
        resolved=resolved,
        plain=plain,
        options=options,
        written=_written(hydra_cfg.hydra.launcher, options, rules, withheld),
        unresolved=tuple(_masks.masked(item, withheld.masks) for item in unresolved),
    )


def rules_of(config: DictConfig) -> Rules:
    """Return the rules of a sweep, from the config that its jobs' configs are made of."""
    try:
        globs = OmegaConf.to_container(config.hydra.launcher.redact, resolve=True)
    except (OmegaConfBaseException, ValueError):
        return NO_GLOBS
    return _rules({"redact": globs})


def _rules(options: Mapping[str, Any]) -> Rules:
    """Return the rules that the options name; where those are wrong, the launcher says so later."""
    globs = options.get("redact")
    globs = [globs] if isinstance(globs, str) else globs
    return Rules(tuple(map(str, globs)) if isinstance(globs, list) else ())


def _withhold(
    resolved: DictConfig,
    composed: DictConfig,
    plain: Mapping[str, Any],
    options: Mapping[str, Any],
    rules: Rules,
) -> Withheld:
    """Find out what of a job's config is not written down. ``plain`` is its task's part."""
    # In the config that the job gets, the options of the launcher have no such values any more.
    known = _redaction.masks_in("hydra.launcher", options, rules)
    hidden, masks = _redaction.find(resolved, composed, rules, known)
    found = Withheld(hidden=tuple(hidden), masks=masks)
    found = dataclasses.replace(
        found,
        options=_redaction.options_with_secrets(options, resolved, composed, rules, found),
    )
    if not hidden:
        return found
    in_task = any(not item.key.startswith("hydra.") for item in hidden)
    with _redaction.withheld(resolved, hidden) as values:
        return dataclasses.replace(
            found,
            values=pickle.dumps([_as_text_if_path(value) for value in values], protocol=4),
            config=OmegaConf.to_yaml(OmegaConf.create(dict(plain))) if in_task else None,
        )


def _as_text_if_path(value: Any) -> Any:
    """Return a value for the job; a path goes as one: where Python keeps its class differs."""
    return ("path", str(value)) if isinstance(value, PurePath) else ("value", value)


def _written(
    node: Any, resolved: Mapping[str, Any], rules: Rules, withheld: Withheld
) -> dict[str, Any]:
    """Return options as they may be written down: an interpolation of a variable stays one."""
    raw = OmegaConf.to_container(node, resolve=False, enum_to_str=True)
    written: dict[str, Any] = _keep_variables(raw, resolved)
    written = _private.repeatable_options(written, rules) | (
        {"_target_": written["_target_"]} if "_target_" in written else {}
    )
    return {
        name: _without_secrets(f"hydra.launcher.{name}", value, rules, withheld)
        for name, value in written.items()
    }


def _without_secrets(key: str, value: Any, rules: Rules, withheld: Withheld) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_secrets(f"{key}.{name}", item, rules, withheld)
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(key, item, rules, withheld) for item in value]
    place = next((place for place in _private.VARIABLES if key.startswith(place)), None)
    if place is not None:
        return _variable_without_secret(place, key, value, rules, withheld)
    by_name = rules.is_secret(key, value)
    if by_name and not _private.is_interpolation(value):
        return _private.HIDDEN
    named = by_name or key in withheld.options
    if not named and not isinstance(value, str):
        return value
    text = _masks.without_default(str(value)) if named else str(value)
    shown = _masks.masked(_masks.without_passwords(text), withheld.masks)
    is_bare = named and shown == value and not _private.is_interpolation(value)
    return _private.HIDDEN if is_bare else shown


def _variable_without_secret(
    place: str, key: str, value: Any, rules: Rules, withheld: Withheld
) -> Any:
    """Return a variable, or an item of a list of them, as whoever runs the job again can have it.

    Where a part of it is a secret, they give all of it by its name.
    """
    listed = key == place
    name, equals, text = (
        str(value).partition("=") if listed else (key[len(place) + 1 :], "=", value)
    )
    full = f"{place}.{name}"
    if not equals or not (isinstance(text, str) or full in withheld.options):
        return value
    secret = full in withheld.options or rules.is_secret_variable(name, text)
    shown = _masks.without_default(str(text)) if secret else str(text)
    if _masks.masked(_masks.without_passwords(shown), withheld.masks) != shown or (
        secret and not _masks.is_of_environment(shown)
    ):
        shown = f"${{oc.env:{name}}}"
    if shown == text:
        return value
    return f"{name}={shown}" if listed else shown


def _keep_variables(raw: Any, resolved: Any) -> Any:
    if isinstance(raw, dict) and isinstance(resolved, dict):
        return {key: _keep_variables(raw.get(key), value) for key, value in resolved.items()}
    if isinstance(raw, list) and isinstance(resolved, list) and len(raw) == len(resolved):
        return [_keep_variables(one, other) for one, other in zip(raw, resolved, strict=True)]
    if isinstance(raw, str) and "${oc.env:" in raw:
        return raw
    return escaped(resolved) if isinstance(resolved, str) else resolved


def config_folders(config: DictConfig) -> tuple[Path, ...]:
    """Return the folders that Hydra looks for configs in, those of Python packages included."""
    folders = []
    for source in config.hydra.runtime.config_sources:
        if source.schema == "file":
            folders.append(Path(source.path))
        elif source.schema == "pkg":
            folders += map(Path, _folders_of_package(source.path.replace("/", ".").rstrip(".")))
    return tuple(folders)


def _folders_of_package(name: str) -> Sequence[str]:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return ()
    return (spec and spec.submodule_search_locations) or ()


def serialize_config(job: ComposedJob, pickler: type[pickle.Pickler] = pickle.Pickler) -> bytes:
    """Return the resolved config with its types. Raises ``TaskError`` that names the type.

    Paths go as text: where Python keeps the class differs between its versions. A dataclass that
    was made at run time (hydra-zen makes them) goes as its fields.
    """

    class Pickler(pickler):  # type: ignore[valid-type, misc]
        def persistent_id(self, value: object) -> tuple[Any, ...] | None:
            if isinstance(value, PurePath):
                return ("path", str(value))
            if isinstance(value, type) and value in PATH_TYPES:
                return ("path type", value.__name__)
            if isinstance(value, type) and pickler is pickle.Pickler and _is_made(value):
                return ("dataclass", id(value), _made_from(value))
            return None

    file = io.BytesIO()
    try:
        with _redaction.withheld(job.resolved, job.withheld.hidden):
            Pickler(file, protocol=4).dump(job.resolved)
    except Exception as error:
        raise TaskError(
            f"{job.title}: a type in its config cannot be taken into a container: {error}\n"
            "Define it at the top level of a module of the repository."
        ) from error
    return file.getvalue()


def _is_made(kind: type) -> bool:
    """Tell whether a dataclass was made by ``make_dataclass``: no module has it by its name."""
    if not dataclasses.is_dataclass(kind) or "." in kind.__qualname__:
        return False
    return getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is not kind


def _made_from(kind: Any) -> dict[str, Any]:
    """Return what the worker gives to ``make_dataclass``. Defaults do not matter any more."""
    return {
        "cls_name": kind.__qualname__,
        "module": kind.__module__,
        "bases": kind.__bases__,
        "fields": [(field.name, field.type, field.init) for field in dataclasses.fields(kind)],
        "frozen": kind.__dataclass_params__.frozen,
    }


def hydra_files(job: ComposedJob) -> dict[str, str]:
    """Return the files below ``.hydra/``, by name, as Hydra's basic launcher writes them."""
    return {
        "config.yaml": shown_yaml(job.cfg, job.rules, job.withheld.masks),
        "hydra.yaml": shown_yaml(job.hydra_cfg, job.rules, job.withheld.masks),
        "overrides.yaml": job.overrides_yaml,
    }


def shown_yaml(config: Any, rules: Rules, masks: Masks = ()) -> str:
    """Return a config with its interpolations as YAML, without secrets."""
    hidden, _ = _redaction.find(config, config, rules, masks)
    with _redaction.withheld(config, hidden):
        return OmegaConf.to_yaml(config)


def flatten(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping flat: ``{"optimizer": {"lr": 1}}`` as ``{"optimizer.lr": 1}``."""
    flat: dict[str, Any] = {}
    for key, value in plain.items():
        if isinstance(value, Mapping) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def resolve(config: DictConfig) -> tuple[DictConfig, tuple[str, ...]]:
    """Return a copy with every interpolation replaced by its value.

    One that leads to a missing value stays: the script may set that value when it runs. One that
    cannot be resolved here (a resolver that the script registers only when it runs, a variable that
    is not set, an object that no YAML can hold) stays as well, for the job to resolve if it needs
    it; these are named in the second value.
    """
    copied = copy.deepcopy(config)
    unresolved: list[str] = []
    with warnings.catch_warnings():
        # Hydra 1.4 warns whenever one of its own deprecated interpolations is resolved.
        warnings.simplefilter("ignore")
        _resolve_items(copied, unresolved)
    return copied, tuple(unresolved)


def _resolve_items(container: Any, unresolved: list[str]) -> None:
    if container._is_none() or container._is_missing() or container._is_interpolation():
        return
    content = container._content
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        node = container._get_node(key)
        if node._is_interpolation():
            _resolve_item(container, key, unresolved)
        elif isinstance(node, Container):
            _resolve_items(node, unresolved)


def _resolve_item(container: Any, key: Any, unresolved: list[str]) -> None:
    try:
        value = container[key]
        if isinstance(value, Container):
            _resolve_items(value, unresolved)
        elif isinstance(value, str):
            value = escaped(value)
        elif _is_plain(value):
            # A resolver's own list, tuple or dict stays one; it does not become a ListConfig.
            value = AnyNode(value, flags={"allow_objects": True})
        with read_write(container):
            container[key] = value  # UnsupportedValueType: an object, such as a torch.dtype
    except InterpolationToMissingValueError:
        return  # it follows what the script sets when it runs
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        unresolved.append(f"{container._get_full_key(key)}: {reason}")


def _is_plain(value: Any) -> bool:
    """Tell whether ``value`` is a list, tuple or dict of values that a config can hold."""
    if isinstance(value, dict):
        return all(map(_is_plain_or_single, (*value.keys(), *value.values())))
    return isinstance(value, (list, tuple)) and all(map(_is_plain_or_single, value))


def _is_plain_or_single(value: Any) -> bool:
    return _is_plain(value) or isinstance(value, SINGLE)


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unescaped(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_unescaped(item) for item in value]
    if isinstance(value, str):
        return re.sub(r"(\\*)\1\\\$\{", r"\1${", value)
    return value


def _output_dir(config: DictConfig) -> Path:
    folder = str(OmegaConf.select(config, "hydra.sweep.dir"))
    return Path(os.path.abspath(os.path.join(folder, str(config.hydra.sweep.subdir))))


def _resolve_env_set(hydra_cfg: Any) -> None:
    """Do what Hydra 1.4's ``run_job`` does before it writes .hydra/hydra.yaml."""
    env_set = hydra_cfg.hydra.job.env_set
    with read_write(env_set):
        OmegaConf.resolve(env_set)


def _changes_directory(hydra: DictConfig) -> bool:
    """Tell whether Hydra makes the output folder the job's working directory."""
    chdir = hydra.job.chdir
    if chdir is None and HYDRA_1_3:
        return not version.base_at_least("1.2")
    return bool(chdir)


def _without_hydra(composed: DictConfig) -> DictConfig:
    """Return a copy of the task's part of a config, without a copy of Hydra's larger part."""
    content: Any = composed._content
    hydra = content.pop("hydra")
    try:
        return copy.deepcopy(composed)
    finally:
        content["hydra"] = hydra


def _drop_plugin_types(hydra: DictConfig) -> None:
    """Make the plugins' nodes plain; the launcher's goes without values of variables."""
    with read_write(hydra), open_dict(hydra):
        for name in PLUGIN_NODES:
            plain: Any = OmegaConf.to_container(hydra[name], resolve=False, enum_to_str=True)
            if name == "launcher":
                target = plain.get("_target_")
                plain = {"_target_": target, **_private.shown_options(plain)}
            hydra[name] = OmegaConf.create(plain)


def _plain(config: DictConfig) -> dict[str, Any]:
    content = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    plain: dict[str, Any] = _plain_value(content)
    return plain


def _plain_value(value: Any) -> Any:
    """Return a value as YAML has it: a path as its text, an Enum's member by its name."""
    if isinstance(value, dict):
        return {_plain_key(key): _plain_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, PurePath) else value


def _plain_key(key: Any) -> Any:
    return key.name if isinstance(key, Enum) else key
