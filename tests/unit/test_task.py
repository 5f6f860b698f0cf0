"""Task: how the task function of a sweep is found again inside a container."""

from __future__ import annotations

import functools
import json
import os
import pickle
import subprocess
import sys
import threading
import types
from pathlib import Path

import pytest

from hydra_plugins.hydra_docker_launcher._errors import TaskError
from hydra_plugins.hydra_docker_launcher._task import Task, describe, running_script

ROOT = Path(__file__).parents[2]


def plain(cfg):
    """A function of a module."""
    return cfg


def decorator(function):
    @functools.wraps(function)
    def wrapper(cfg):
        return function(cfg)

    return wrapper


@decorator
def decorated(cfg):
    return cfg


class Tasks:
    @staticmethod
    def method(cfg):
        return cfg


#: A launcher that says what it would run, and ends.
PROBE = """
import json
from hydra.plugins.launcher import Launcher
from hydra.core.config_store import ConfigStore

class Probe(Launcher):
    def setup(self, *, hydra_context, task_function, config):
        self.task_function = task_function

    def launch(self, job_overrides, initial_job_idx):
        from dataclasses import asdict
        from pathlib import Path
        from hydra_plugins.hydra_docker_launcher import _task
        script = _task.running_script(self.task_function)
        task = _task.describe(self.task_function, script, Path.cwd())
        print("@" + json.dumps({"script": script and str(script), **asdict(task)}))
        return []

ConfigStore.instance().store(
    group="hydra/launcher", name="probe",
    node={"_target_": "hydra_plugins.probe.probe.Probe"}, provider="probe",
)
"""
APP = "import hydra\n@hydra.main(version_base=None)\ndef main(cfg): pass\n"
PACKAGE = {"lib/__init__.py": "", "lib/app.py": APP}
CALL = "if __name__ == '__main__':\n    main()\n"


@pytest.fixture
def described(tmp_path):
    """Start an app as a user does; return what its launcher found."""
    (tmp_path / "hydra_plugins" / "probe").mkdir(parents=True)
    (tmp_path / "hydra_plugins" / "probe" / "probe.py").write_text(PROBE)
    (tmp_path / "hydra_plugins" / "probe" / "__init__.py").write_text("")

    def start(*arguments, files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        done = subprocess.run(
            [sys.executable, *arguments, "-m", "hydra/launcher=probe"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])},
            check=True,
            capture_output=True,
            text=True,
        )
        (line,) = (line for line in done.stdout.splitlines() if line.startswith("@"))
        return json.loads(line[1:])

    start.folder = tmp_path
    return start


def test_script(described):
    """``python app/train.py``: the script itself, with its folder in front of sys.path."""
    folder = described.folder
    assert described("app/train.py", files={"app/train.py": APP + CALL}) == {
        "script": f"{folder}/app/train.py",
        "kind": "script",
        "target": f"{folder}/app/train.py",
        "argv": ["app/train.py", "-m", "hydra/launcher=probe"],
        "path": [f"{folder}/app", str(folder)],
        "function": None,
    }


def test_script_that_imports_its_task(described):
    """A script that only calls a function of a package is still the place to start from."""
    found = described("run.py", files={**PACKAGE, "run.py": "from lib.app import main\nmain()\n"})
    assert (found["kind"], found["target"]) == ("script", f"{described.folder}/run.py")


def test_module(described):
    """``python -m app.train``."""
    found = described("-m", "app.train", files={"app/__init__.py": "", "app/train.py": APP + CALL})
    assert (found["kind"], found["target"]) == ("module", "app.train")
    assert found["path"] == [str(described.folder)]


def test_console_script(described):
    """A console script is no file of the repository: its function is imported."""
    found = described("start", files={**PACKAGE, "start": "from lib.app import main\nmain()\n"})
    assert (found["script"], found["kind"], found["target"]) == (None, "function", "lib.app:main")


@pytest.mark.parametrize(
    ("function", "name"),
    [(plain, "plain"), (decorated, "decorated"), (Tasks.method, "Tasks.method")],
)
def test_function_of_a_module(function, name):
    """Outside a script: by import path."""
    assert running_script(function) is None
    assert describe(function, None, ROOT) == Task(
        "function", f"{__name__}:{name}", tuple(sys.argv), describe(plain, None, ROOT).path
    )


def test_import_path(monkeypatch, tmp_path):
    """What of sys.path lies in the repository goes along; installed packages do not."""
    for folder in ("src", "lib", "venv/site-packages"):
        (tmp_path / folder).mkdir(parents=True)
    elsewhere = tmp_path.parent
    entries = ["src", "lib", "missing", "venv/site-packages", "src"]
    monkeypatch.setattr(
        sys, "path", [*sys.path, str(elsewhere), *(str(tmp_path / e) for e in entries)]
    )

    task = describe(plain, None, tmp_path)

    assert task.path == (str(tmp_path / "src"), str(tmp_path / "lib"))


def test_import_path_of_an_editable_install(monkeypatch, tmp_path):
    """A finder may know where the repository's modules are, with no entry of sys.path."""
    for name in ("here/package/__init__.py", "there/single.py", "package/renamed.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    modules = {
        "package": "here/package/__init__.py",
        "package.part": "here/package/part.py",
        "single": "there/single.py",
        "loaded_under_another_name": "package/renamed.py",
    }
    for name, file in modules.items():
        module = types.ModuleType(name)
        module.__file__ = str(tmp_path / file)
        monkeypatch.setitem(sys.modules, name, module)

    task = describe(plain, None, tmp_path)

    assert task.path == (str(tmp_path / "here"), str(tmp_path / "there"))


def test_function_by_value():
    """A closure or a lambda has no import path: it is serialized, and tracebacks name its file."""
    offset = 2

    task = describe(lambda x: x + offset, None, ROOT)

    assert (task.kind, task.target) == ("value", "test_function_by_value.<locals>.<lambda>")
    function = pickle.loads(task.function)
    assert function(3) == 5
    assert function.__code__.co_filename == __file__


def test_function_that_was_replaced(monkeypatch):
    """The name leads to another function by now: importing it would run the wrong code."""
    module = types.ModuleType("replaced_module")
    exec("def task(cfg): return 'old'", module.__dict__)
    old = module.task
    module.task = lambda cfg: "new"
    monkeypatch.setitem(sys.modules, "replaced_module", module)

    assert describe(old, None, ROOT).kind == "value"


def test_function_that_cannot_travel():
    """The message says why, and what to do."""
    lock = threading.Lock()

    with pytest.raises(TaskError) as caught:
        describe(lambda cfg: lock, None, ROOT)
    assert str(caught.value) == (
        "The task function test_function_that_cannot_travel.<locals>.<lambda> is in no script and "
        "cannot be imported, and cannot be serialized either: TypeError: cannot pickle "
        "'_thread.lock' object\nPut it into a module of the repository."
    )
