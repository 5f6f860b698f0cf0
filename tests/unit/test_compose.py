"""Compose: real Hydra composes small configs on the host; the job gets them resolved."""

from __future__ import annotations

import importlib.util
import io
import itertools
import sys
from dataclasses import field, make_dataclass
from pathlib import Path

import pytest
import yaml
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ReadonlyConfigError

from hydra_plugins.hydra_docker_launcher import _compose
from hydra_plugins.hydra_docker_launcher._compose import (
    compose,
    config_folders,
    flatten,
    hydra_files,
)
from hydra_plugins.hydra_docker_launcher._errors import TaskError
from hydra_plugins.hydra_docker_launcher._worker import ConfigUnpickler

TYPES = """
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Dict, List, Optional

class Color(Enum):
    RED = 1
    BLUE = 2

@dataclass
class Model:
    width: int = 3
    colors: List[Color] = field(default_factory=lambda: [Color.RED])

@dataclass(frozen=True)
class Frozen:
    depth: int = 2
    twice: int = "${.depth}"

@dataclass
class Config:
    color: Color = Color.BLUE
    data: Path = Path("/data")
    size: int = "${model.width}"
    where: Path = "${data}"
    by_color: Dict[Color, int] = field(default_factory=lambda: {Color.RED: 1})
    maybe: Optional[int] = None
    model: Model = field(default_factory=Model)
    frozen: Frozen = field(default_factory=Frozen)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    """A launch folder with a folder of configs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf").mkdir()
    return tmp_path


@pytest.fixture
def job(folder, multirun):
    """Compose one job of a config that is given as YAML."""

    def composed(text, *overrides, number=0):
        (folder / "conf" / "config.yaml").write_text(text)
        context, config = multirun(folder / "conf", "hydra.sweep.dir=multirun/x")
        return compose(context, config, overrides, number)

    return composed


@pytest.fixture
def types(tmp_path, monkeypatch):
    """A module with structured configs."""
    path = tmp_path / "config_types.py"
    path.write_text(TYPES)
    spec = importlib.util.spec_from_file_location("config_types", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "config_types", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def counter():
    """A resolver that never gives the same value twice."""
    numbers = itertools.count(1)
    OmegaConf.register_new_resolver("count", lambda: next(numbers), use_cache=False)
    yield
    OmegaConf.clear_resolver("count")


def received(job) -> DictConfig:
    """Return the config as the worker in a container reads it."""
    return ConfigUnpickler(io.BytesIO(_compose.serialize_config(job))).load()


def test_job(folder, job):
    """A job has Hydra's number, names and folders."""
    found = job("a: 1\nb: ${a}\n", "a=2", "+hydra.job.env_set.X=1", number=3)

    assert (found.number, found.name, found.title) == (3, "app", "job #3 (a=2)")
    assert found.overrides == ("a=2",)
    assert (found.output_dir, found.working_dir) == (folder / "multirun/x/3", folder)
    assert found.plain == {"a": 2, "b": 2}
    assert found.yaml == "a: 2\nb: 2\n"
    assert found.unresolved == ()
    hydra = received(found).hydra
    assert (hydra.job.num, hydra.job.id, hydra.mode.name) == (3, "3", "MULTIRUN")
    assert hydra.runtime.output_dir == str(folder / "multirun/x/3")
    assert hydra.sweep.subdir == "3"


def test_job_without_overrides(job):
    """Its title says so."""
    assert job("a: 1\n").title == "job #0 (no overrides)"


def test_chdir(folder, job):
    """With hydra.job.chdir the job works in its output folder, as on the host."""
    found = job("hydra:\n  job:\n    chdir: true\n")
    assert found.working_dir == found.output_dir == folder / "multirun/x/0"


def test_hydra_config_is_left_alone(job):
    """Composing on the host leaves Hydra's own state as it was."""
    before = HydraConfig.instance().cfg
    job("a: ${hydra:job.num}\n")
    assert HydraConfig.instance().cfg is before


def test_resolved(job):
    """The container gets values; the JobReturn keeps interpolations, as the basic launcher's."""
    found = job("a: 1\nb: [x, '${a}']\nc: {d: '${b}'}\ne: '${hydra:job.num}'\n", number=2)

    assert found.plain == {"a": 1, "b": ["x", 1], "c": {"d": ["x", 1]}, "e": 2}
    assert OmegaConf.to_container(found.cfg) == {
        "a": 1,
        "b": ["x", "${a}"],
        "c": {"d": "${b}"},
        "e": "${hydra:job.num}",
    }
    assert OmegaConf.to_container(received(found), resolve=False)["c"] == {"d": ["x", 1]}


def test_missing(job):
    """A missing value stays missing; what leads to it follows what the script will set."""
    found = job("a: ???\nb: ${a}\nc: x-${a}\nd: [1, '${a}']\n")

    assert found.plain == {"a": "???", "b": "${a}", "c": "x-${a}", "d": [1, "${a}"]}
    assert found.unresolved == ()
    config = received(found)
    assert OmegaConf.is_missing(config, "a")
    config.a = 5
    assert (config.b, config.c, config.d[1]) == (5, "x-5", 5)


def test_resolver_that_gives_no_config_value(job):
    """A resolver's own list, tuple or dict stays one; an object is left for the job."""
    values = {"pair": (1, Path("x")), "list": [1, {"a": [None]}], "object": {"a": object}}
    OmegaConf.register_new_resolver("value", values.get)
    try:
        found = job("pair: ${value:pair}\nlist: ${value:list}\nobject: ${value:object}\n")
    finally:
        OmegaConf.clear_resolver("value")

    assert found.plain == {
        "pair": [1, "x"],
        "list": [1, {"a": [None]}],
        "object": "${value:object}",
    }
    assert [item.partition(":")[0] for item in found.unresolved] == ["object"]
    config = received(found)
    assert (type(config.pair), type(config.list)) == (tuple, list)
    assert (config.pair, config.list) == (values["pair"], values["list"])


def test_host_values(job, monkeypatch):
    """Variables and folders of the host are resolved here, not in the container."""
    monkeypatch.setenv("DATA", "/host/data")
    found = job("data: ${oc.env:DATA}\nout: ${hydra:runtime.output_dir}/x\n")

    assert found.plain == {"data": "/host/data", "out": f"{found.output_dir}/x"}


def test_resolver_that_gives_another_value_each_time(job, counter):
    """It is asked once: YAML and pickled config agree."""
    found = job("seed: ${count:}\nagain: ${seed}\n")

    assert found.plain == {"seed": 1, "again": 1}
    assert received(found) == {"seed": 1, "again": 1, "hydra": received(found).hydra}
    assert yaml.safe_load(found.yaml) == {"seed": 1, "again": 1}


def test_config_folders(multirun, folder, tmp_path, monkeypatch):
    """Folders of configs, those in Python packages too."""
    package = tmp_path / "settings" / "__init__.py"
    package.parent.mkdir()
    package.touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    (folder / "conf" / "config.yaml").write_text("{}")
    _, config = multirun(folder / "conf", "hydra.searchpath=[pkg://settings,pkg://nowhere.at.all]")

    found = config_folders(config)

    assert {folder / "conf", package.parent} <= set(found)


def test_what_cannot_be_resolved_here(job):
    """It stays for the job to resolve, and is named with its reason."""
    found = job("a: ${later:1}\nb: 2\nc: [ '${oc.env:NOT_SET}' ]\n")

    assert found.plain == {"a": "${later:1}", "b": 2, "c": ["${oc.env:NOT_SET}"]}
    assert found.unresolved == (
        "a: Unsupported interpolation type later",
        (
            "c[0]: KeyError raised while resolving interpolation: "
            "\"Environment variable 'NOT_SET' not found\""
        ),
    )


@pytest.mark.parametrize("value", ["pa${b", "${a}", r"\${a}", r"\\${a}", "a}b", "$", "\\"])
def test_value_that_looks_like_an_interpolation(job, monkeypatch, value):
    """A password is a password: what an interpolation gives is not interpolated again."""
    monkeypatch.setenv("PASSWORD", value)
    found = job(
        "defaults:\n  - override hydra/launcher: docker\na: 1\nb: ${oc.env:PASSWORD}\n"
        "hydra:\n  launcher:\n    environment: {PASSWORD: '${oc.env:PASSWORD}'}\n"
    )

    assert received(found).b == value
    assert OmegaConf.create(found.yaml).b == value
    assert found.options["environment"] == {"PASSWORD": value}
    assert found.unresolved == ()


def test_escaped_interpolation(job):
    """What the user has escaped stays text."""
    found = job("a: 1\nb: \\${a}\nc: ${b}\n")
    assert (received(found).b, received(found).c) == ("${a}", "${a}")


def test_structured_config(job, types):
    """Dataclass types, Enums and Paths arrive as such; in the YAML they are strings."""
    ConfigStore.instance().store(name="schema", node=types.Config)

    found = job("defaults: [schema, _self_]\n", "color=RED", "model.width=7")

    assert yaml.safe_load(found.yaml) == {
        "color": "RED",
        "data": "/data",
        "size": 7,
        "where": "/data",
        "by_color": {"RED": 1},
        "maybe": None,
        "model": {"width": 7, "colors": ["RED"]},
        "frozen": {"depth": 2, "twice": 2},
    }
    config = received(found)
    assert (config.color, config.where, config.size) == (types.Color.RED, Path("/data"), 7)
    assert OmegaConf.get_type(config.model) is types.Model
    assert config.model.colors == [types.Color.RED]
    assert config.by_color == {types.Color.RED: 1}
    assert OmegaConf.to_object(config.model) == types.Model(7, [types.Color.RED])


def test_frozen_structured_config(job, types):
    """A frozen one is resolved, and read-only in the job as well."""
    ConfigStore.instance().store(name="schema", node=types.Config)

    frozen = received(job("defaults: [schema, _self_]\n")).frozen

    assert frozen.twice == 2
    with pytest.raises(ReadonlyConfigError):
        frozen.depth = 1


def test_config_stays_a_struct(job):
    """A misspelt key raises in the job as it does with the basic launcher."""
    config = received(job("a: 1\n"))
    assert OmegaConf.is_struct(config)
    with pytest.raises(Exception, match="Key 'b' is not in struct"):
        _ = config.b


def test_plugins_of_the_host_stay_there(job):
    """Launcher and sweeper types are not in the image, and do not travel."""
    content = _compose.serialize_config(job("defaults:\n  - override hydra/launcher: docker\n"))
    assert b"hydra_docker_launcher.config" not in content


def test_dataclass_made_at_run_time(job, types):
    """It has no module to be imported from; the job gets one like it (hydra-zen makes such)."""
    fields = [("width", int, 1), ("color", types.Color, types.Color.RED), ("_target_", str, "x")]
    base = make_dataclass("Base", fields)
    made = make_dataclass("Made", [("inner", base, field(default_factory=base))], bases=(base,))
    ConfigStore.instance().store(name="made", node=made)

    config = received(job("defaults: [made, _self_]\n", "width=7", "inner.color=BLUE"))

    assert (OmegaConf.get_type(config).__name__, OmegaConf.get_type(config.inner)) == (
        "Made",
        OmegaConf.get_type(config).__bases__[0],
    )
    assert (config.width, config.color, config.inner.color) == (
        7,
        types.Color.RED,
        types.Color.BLUE,
    )
    assert OmegaConf.to_object(config.inner).color is types.Color.BLUE


def test_type_that_cannot_travel(job):
    """The message names the job and says what to do."""
    from dataclasses import dataclass

    @dataclass
    class Local:
        a: int = 1

    ConfigStore.instance().store(name="schema", node=Local)
    found = job("defaults: [schema, _self_]\n", "a=2")

    with pytest.raises(TaskError) as caught:
        _compose.serialize_config(found)
    first, last = str(caught.value).splitlines()
    assert first.startswith("job #0 (a=2): a type in its config cannot be taken into a container: ")
    assert "Local" in first
    assert last == "Define it at the top level of a module of the repository."


def test_options_of_a_job(job):
    """A model brings its own limits; the job's own override wins."""
    text = (
        "defaults:\n  - override hydra/launcher: docker\n"
        "model: {mem_limit: 2g}\n"
        "hydra: {launcher: {mem_limit: '${model.mem_limit}', restart: no}}\n"
    )
    assert job(text).options["mem_limit"] == "2g"
    assert job(text, "model.mem_limit=3g").options["mem_limit"] == "3g"


def test_flatten():
    """Params have dotted names; empty mappings and lists are values."""
    assert flatten({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}, "f": None}) == {
        "a.b": 1,
        "a.c.d": [1, 2],
        "e": {},
        "f": None,
    }


@pytest.mark.parametrize("chdir", [True, False])
def test_as_with_the_basic_launcher(folder, multirun, chdir):
    """The files below .hydra/ and the JobReturn's configs are those of Hydra's own launcher."""
    (folder / "conf" / "config.yaml").write_text("a: 1\nb: ${a}\nc: ${hydra:job.num}\nd: ???\n")
    overrides = [["a=5"], ["a=6", "+e=1"]]
    context, config = multirun(
        folder / "conf", "hydra.sweep.dir=multirun/x", f"hydra.job.chdir={chdir}"
    )
    jobs = [compose(context, config, items, n) for n, items in enumerate(overrides)]
    launcher = BasicLauncher()
    launcher.setup(hydra_context=context, task_function=lambda cfg: None, config=config)

    returned = launcher.launch(overrides, 0)

    for found, expected in zip(jobs, returned, strict=True):
        files = (found.output_dir / ".hydra").iterdir()
        assert hydra_files(found) == {file.name: file.read_text() for file in files}
        assert list(found.overrides) == expected.overrides
        assert found.cfg == expected.cfg
        assert OmegaConf.to_yaml(found.hydra_cfg) == OmegaConf.to_yaml(expected.hydra_cfg)
        assert found.working_dir == Path(expected.working_dir).absolute()
