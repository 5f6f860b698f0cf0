"""Writes down all that a job can see of its launcher, into dump.json in its output folder."""

import json
import logging
import os
import sys
import warnings
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd, to_absolute_path
from omegaconf import DictConfig, ListConfig, OmegaConf


def dump(cfg, **more):
    """Dump the job's config and surroundings, and what else the app has to tell."""
    hydra = HydraConfig.get()
    main = sys.modules["__main__"]
    root = repository()
    facts = {
        "config": node(cfg),
        "unresolved": OmegaConf.to_yaml(cfg),
        "hydra": {key: shown(HydraConfig.instance().cfg.hydra, key) for key in hydra},
        "cwd": os.getcwd(),
        "original_cwd": get_original_cwd(),
        "absolute_path": to_absolute_path("data.csv"),
        "output_dir": hydra.runtime.output_dir,
        "argv": sys.argv,
        "path0": sys.path[0],
        "path": [entry for entry in sys.path if Path(entry) == root or root in Path(entry).parents],
        "main": {
            "name": main.__name__,
            "file": main.__file__,
            "spec": main.__spec__ and main.__spec__.name,
            "package": main.__package__,
        },
        "environment": {name: os.environ.get(name) for name in ("SET", "COPIED", "NEITHER")},
        "logging": {
            "level": logging.getLogger().level,
            "handlers": [handler(each) for each in logging.getLogger().handlers],
        },
        "more": more,
    }
    text = json.dumps(facts, indent=1, default=repr)
    Path(hydra.runtime.output_dir, "dump.json").write_text(text)


def node(container):
    """Return a config's keys, values and types, its interpolations followed."""
    if isinstance(container, DictConfig):
        keys = list(container)
    elif isinstance(container, ListConfig):
        return {
            "type": name(OmegaConf.get_type(container)),
            "struct": OmegaConf.is_struct(container),
            "readonly": OmegaConf.is_readonly(container),
            "items": [shown(container, key) for key in range(len(container))],
        }
    else:
        return value(container)
    facts = {
        "type": name(OmegaConf.get_type(container)),
        "struct": OmegaConf.is_struct(container),
        "readonly": OmegaConf.is_readonly(container),
    }
    return {**facts, **{shown_key(key): shown(container, key) for key in keys}}


def shown_key(key):
    return "." + (key if isinstance(key, str) else repr(key))


def shown(container, key):
    if OmegaConf.is_missing(container, key):
        return "missing"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return node(container[key])
    except Exception as error:
        return "{}: {}".format(type(error).__name__, str(error).splitlines()[0])


def value(item):
    return "{} {!r}".format(name(type(item)), item)


def name(kind):
    return "{}.{}".format(kind.__module__, kind.__qualname__)


def handler(each):
    level, file = each.level, getattr(each, "baseFilename", None)
    return [type(each).__name__, level, file, each.formatter and each.formatter._fmt]


def repository():
    """Return the folder that the toy app's repository is in: it has this marker."""
    folder = Path(__file__).resolve().parent
    while not (folder / ".toy-repository").exists():
        folder = folder.parent
    return folder
