"""Config sources are read once: what happens to their files later does not change a sweep."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from pathlib import Path

import pytest
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.errors import MissingConfigException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _frozen
from hydra_plugins.hydra_docker_launcher._frozen import FrozenSource, Tree, read_tree

CONFIG = """
defaults:
  - model: small
  - optional db: none
  - _self_
lr: 1
hydra:
  searchpath: [file://{team}, pkg://frozen_team.conf]
"""


@pytest.fixture
def write(tmp_path):
    """Write files by their path below ``tmp_path``."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return write


@pytest.fixture
def project(tmp_path, write, monkeypatch):
    """A project's configs, a team's in another folder, and some that a package has."""
    write(
        {
            "conf/config.yaml": CONFIG.format(team=tmp_path / "team"),
            "conf/model/small.yaml": "# @package net\nwidth: 3\n",
            "team/model/large.yaml": "# @package net\nwidth: 300\n",
            "site/frozen_team/__init__.py": "",
            "site/frozen_team/conf/__init__.py": "",
            "site/frozen_team/conf/model/huge.yaml": "# @package net\nwidth: 30000\n",
        }
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("frozen_team")]:
        del sys.modules[name]


def compose(context, config, *overrides):
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    return {"lr": composed.lr, **composed.get("net", {}), **composed.get("db", {})}


def test_edits_and_deletions_are_not_seen(project, multirun, write):
    """Files of the main source, of a searchpath and of a package stay as they were."""
    context, config = multirun(project / "conf")
    _frozen.freeze(context, config)
    loader = context.config_loader

    write(
        {
            "conf/config.yaml": "lr: 2\n",
            "conf/model/small.yaml": "no: yaml: at all\n",
            "conf/db/none.yaml": "db: new\n",
            "team/model/large.yaml": "# @package net\nwidth: 301\n",
            "site/frozen_team/conf/model/huge.yaml": "# @package net\nwidth: 30001\n",
        }
    )
    edited = [
        compose(context, config),
        compose(context, config, "model=large", "lr=3"),
        compose(context, config, "model=huge"),
    ]
    for folder in ("conf", "team", "site"):
        shutil.rmtree(project / folder)
    deleted = [compose(context, config), compose(context, config, "model=large")]

    assert edited == [{"lr": 1, "width": 3}, {"lr": 3, "width": 300}, {"lr": 1, "width": 30000}]
    assert deleted == [{"lr": 1, "width": 3}, {"lr": 1, "width": 300}]
    assert loader.get_group_options("model", config_name="config") == ["huge", "large", "small"]


def test_nothing_else_changes(project, multirun):
    """The composed config is what Hydra's own sources give: types, sources, choices, packages."""
    context, config = multirun(project / "conf")
    live = context.config_loader.load_sweep_config(config, ["model=large"])
    own_loader = context.config_loader
    _frozen.freeze(context, config)
    first = context.config_loader.load_sweep_config(config, ["model=large"])
    first.net.width = 7
    second = context.config_loader.load_sweep_config(config, ["model=large"])

    assert second == live
    assert second.hydra.runtime == live.hydra.runtime
    sources = [(s.provider, s.schema, s.path) for s in second.hydra.runtime.config_sources]
    assert ("hydra.searchpath in main", "file", str(project / "team")) in sources
    assert ("hydra.searchpath in main", "pkg", "frozen_team.conf") in sources
    assert all(type(source) is not FrozenSource for source in own_loader.get_sources())
    frozen = context.config_loader
    _frozen.freeze(context, config)  # with the sources that are frozen already
    assert context.config_loader.load_sweep_config(config, ["model=large"]) == live
    assert type(frozen) is type(own_loader)


def test_messages_name_the_files(project, multirun, write):
    """What Hydra says of a missing or a broken config names the paths that the user knows."""
    write({"conf/model/broken.yaml": "a: b: c\n"})
    context, config = multirun(project / "conf")
    said = []
    for _ in range(2):
        with pytest.raises(MissingConfigException) as missing:
            context.config_loader.load_sweep_config(config, ["model=nine"])
        with pytest.raises(Exception, match=r"broken\.yaml") as broken:
            context.config_loader.load_sweep_config(config, ["model=broken"])
        said.append((str(missing.value), str(broken.value)))
        _frozen.freeze(context, config)

    assert said[0] == said[1]
    assert f"path=file://{project / 'conf'}" in said[1][0]
    assert f'in "{project / "conf/model/broken.yaml"}", line 1' in said[1][1]


def test_only_configs_are_read(tmp_path, write):
    """A source may be the whole project: outputs, hidden folders and other files are left out."""
    write(
        {
            "config.yaml": "a: 1\n",
            "app.py": "",
            "db/mysql.yaml": "b: 2\n",
            "db/old.yml": "b: 3\n",
            "data/big.bin": "",
            "multirun/1/sweep.json": "{}",
            "multirun/1/0/.hydra/config.yaml": "a: 7\n",
            ".venv/x.yaml": "",
            "mlflow-store/meta.yaml": "",
        }
    )
    assert read_tree(str(tmp_path)) == Tree(
        root=str(tmp_path),
        folders={
            "": [".venv", "config.yaml", "data", "db", "mlflow-store", "multirun"],
            "data": [],
            "db": ["mysql.yaml", "old.yml"],
            "multirun": ["1"],
        },
        files={"config.yaml": b"a: 1\n", "db/mysql.yaml": b"b: 2\n", "db/old.yml": b"b: 3\n"},
        unread={".venv", "mlflow-store", "multirun/1"},
    )


def test_links(tmp_path, write):
    """Links to files and folders are followed; one that leads up, or nowhere, is not."""
    write({"team/mysql.yaml": "b: 2\n", "conf/config.yaml": "a: 1\n"})
    conf = tmp_path / "conf"
    (conf / "db").symlink_to(tmp_path / "team")
    (conf / "same").symlink_to("db")
    (conf / "also.yaml").symlink_to("config.yaml")
    (conf / "gone.yaml").symlink_to("nothing.yaml")
    (conf / "up").symlink_to("..")
    tree = read_tree(str(conf))
    assert tree.files == {
        "config.yaml": b"a: 1\n",
        "also.yaml": b"a: 1\n",
        "db/mysql.yaml": b"b: 2\n",
        "same/mysql.yaml": b"b: 2\n",
    }
    assert tree.unread == {"up"}


def test_too_many_files(tmp_path, write, monkeypatch, caplog, multirun):
    """Where a source has no end of files, the user is told; what has been read once stays."""
    monkeypatch.setattr(_frozen, "ENTRIES", 2)
    write({"config.yaml": "lr: 1\n", "data/a.txt": "", "net/wide.yaml": "width: 3\n"})
    context, config = multirun(tmp_path)
    with caplog.at_level(logging.WARNING, logger="hydra_docker_launcher"):
        _frozen.freeze(context, config)
    found = [compose(context, config, "+net=wide")]
    write({"config.yaml": "lr: 2\n", "net/wide.yaml": "width: 4\n"})
    found.append(compose(context, config, "+net=wide"))

    assert found == [{"lr": 1, "width": 3}] * 2
    assert caplog.messages[1] == (  # after hydra.conf
        f"file://{tmp_path} has more than 2 files: a config deep below it is fixed only once it "
        "has been read. Give configs a folder of their own."
    )


def test_a_file_that_cannot_be_read(tmp_path, write, monkeypatch):
    """It is no error before somebody asks for it; too large a one is read when it is needed."""
    monkeypatch.setattr(_frozen, "LARGEST", 10)
    write({"config.yaml": "lr: 1\n", "large.yaml": "text: 1234567890\n"})
    os.mkfifo(tmp_path / "pipe.yaml")
    tree = read_tree(str(tmp_path))
    assert (set(tree.files), tree.unread) == ({"config.yaml"}, {"large.yaml"})


@pytest.mark.parametrize("kept", [0, 1000])
def test_configs_kept_parsed(tmp_path, write, monkeypatch, kept):
    """Whether a config is parsed once or every time: nobody sees what another has changed."""
    monkeypatch.setattr(_frozen, "PARSED", kept)
    write({"db.yaml": "# @package _global_\nport: 1\n"})
    source = FrozenSource(FileConfigSource("main", f"file://{tmp_path}"))
    for _ in range(2):
        result = source.load_config("db")
        assert (result.config, result.header) == ({"port": 1}, {"package": "_global_"})
        result.config.port = 2


class CountingSource(ConfigSource):
    """A source of a plugin, which is no folder. It answers differently every time."""

    asked = 0

    @staticmethod
    def scheme():
        return "counting"

    def available(self):
        return True

    def is_group(self, config_path):
        return config_path == ""

    def is_config(self, config_path):
        self.asked += 1
        return self.asked == 1

    def list(self, config_path, results_filter):
        self.asked += 1
        return [f"config{self.asked}"]

    def load_config(self, config_path):
        self.asked += 1
        config = OmegaConf.create({"asked": self.asked})
        return ConfigResult("main", "counting://x", config, {"package": None})


def test_sources_of_plugins():
    """What is no folder is asked when it is needed, and answers the same from then on."""
    source = FrozenSource(CountingSource("main", "counting://x"))
    answers = [
        (
            source.is_group(""),
            source.is_config("a"),
            source.list("", None),
            source.load_config("a").config,
            (source.scheme(), source.path, source.provider, source.available()),
        )
        for _ in range(2)
    ]
    assert answers[0] == answers[1]
    assert answers[0] == (True, True, ["config2"], {"asked": 3}, ("counting", "x", "main", True))


def test_paths_out_of_a_source(tmp_path, write):
    """A config that is named by a path out of its source is read once as well."""
    write({"conf/config.yaml": "", "other/x.yaml": "a: 1\n"})
    source = FrozenSource(FileConfigSource("main", f"file://{tmp_path / 'conf'}"))
    first = source.is_config("../other/x"), source.load_config("../other/x").config
    Path(tmp_path, "other/x.yaml").unlink()
    assert (source.is_config("../other/x"), source.load_config("../other/x").config) == first
    assert first == (True, {"a": 1})
