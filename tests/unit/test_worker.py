"""The worker: one file that runs a job inside its container. Here it runs in processes."""

from __future__ import annotations

import ast
import enum
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _job_files, _worker
from hydra_plugins.hydra_docker_launcher._compose import compose
from hydra_plugins.hydra_docker_launcher._outcome import read_result
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._remote_error import rebuild
from hydra_plugins.hydra_docker_launcher._task import Task

WORKER = Path(_worker.__file__)
HEAD = "import hydra, os, sys\n@hydra.main(version_base=None, config_name='config')\n"
TAIL = "\nif __name__ == '__main__':\n    main()\n"


class Worker:
    """A launch folder, and the worker in it as a container would have it."""

    def __init__(self, folder: Path, multirun) -> None:
        self.folder = folder
        self.multirun = multirun
        self.paths = JobPaths(folder / "multirun/x/0")
        (folder / "conf").mkdir()
        self.config("lr: 1\ntwice: ${lr}\n")

    def config(self, text: str) -> None:
        (self.folder / "conf" / "config.yaml").write_text(text)

    def run(self, script="", *overrides, task=None, restart="no", **files):
        """Write the job's files as the host does, and run the worker; return its process."""
        (self.folder / "train.py").write_text(script)
        for name, text in files.items():
            (self.folder / f"{name}.py").write_text(text)
        context, config = self.multirun(self.folder / "conf", "hydra.sweep.dir=multirun/x")
        job = compose(context, config, overrides, 0)
        path = str(self.folder / "train.py")
        task = task or Task("script", path, ("train.py", "-m"), (str(self.folder),))
        if not self.paths.result.exists():
            content = _job_files.content(job, task, restart)
            _job_files.write(self.paths, job.yaml, content, None)
        return self.start()

    def start(self, **process):
        program = (
            "import runpy, sys; sys.argv = sys.argv[1:]; import importlib.util as u;"
            "spec = u.spec_from_file_location('worker', sys.argv[0]);"
            "worker = u.module_from_spec(spec); spec.loader.exec_module(worker);"
            "worker.JOB = sys.argv[1]; safe = getattr(sys.flags, 'safe_path', False);"
            "sys.path[: 0 if safe else 1] = [] if safe else ['/hydra']; worker.main()"
        )
        return subprocess.run(
            [sys.executable, "-c", program, str(WORKER), str(self.paths.job)],
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            check=False,
            text=True,
            **(process or {"capture_output": True}),
        )

    @property
    def result(self):
        return read_result(self.paths.result)


@pytest.fixture
def worker(tmp_path, monkeypatch, multirun):
    monkeypatch.chdir(tmp_path)
    return Worker(tmp_path, multirun)


# ---- the file ------------------------------------------------------------------------------------


def test_python_39():
    """An image may have Python 3.9."""
    ast.parse(WORKER.read_text(), feature_version=(3, 9))


def test_every_python():
    """Every Python of this machine from 3.9 on compiles it, with no warning."""
    program = "import pathlib; compile(pathlib.Path(WORKER).read_bytes(), WORKER, 'exec')"
    program = program.replace("WORKER", repr(str(WORKER)))
    assert {
        python: subprocess.run(
            (python, "-W", "error", "-c", program), check=False, capture_output=True, text=True
        ).stderr
        for python in pythons()
    } == dict.fromkeys(pythons(), "")


def pythons():
    """Return this machine's interpreters that run: pyenv's own programs may not."""
    places = [*Path.home().glob(".pyenv/versions/*/bin"), *map(Path, os.get_exec_path())]
    found = {
        minor: str(place / f"python3.{minor}")
        for minor in range(9, 20)
        for place in places
        if (place / f"python3.{minor}").is_file() and place.name != "shims"
    }
    return {sys.executable, *found.values()}


def test_needs_only_python_and_hydra():
    """Nothing of this project, and no other package, has to be in the image."""
    names = set()
    for node in ast.walk(ast.parse(WORKER.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.partition(".")[0])
    assert names - sys.stdlib_module_names == {"hydra", "omegaconf"}


# ---- a job ---------------------------------------------------------------------------------------


def test_script(worker):
    """The script runs as ``__main__``, as from the command line; its value is the result."""
    script = (
        HEAD
        + "def main(cfg):\n"
        + "    from hydra.core.hydra_config import HydraConfig\n"
        + "    hc = HydraConfig.get()\n"
        + "    return {'name': __name__, 'argv': sys.argv, 'path': sys.path[0], 'cwd': os.getcwd(),"
        + " 'lr': cfg.lr, 'twice': cfg.twice, 'mode': hc.mode.name, 'num': hc.job.num,"
        + " 'overrides': list(hc.overrides.task), 'file': __file__}\n"
        + TAIL
    )

    done = worker.run(script, "lr=5")

    folder = str(worker.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert worker.result == {
        "outcome": "completed",
        "value": {
            "name": "__main__",
            "argv": ["train.py", "-m"],
            "path": folder,
            "cwd": folder,
            "lr": 5,
            "twice": 5,
            "mode": "MULTIRUN",
            "num": 0,
            "overrides": ["lr=5"],
            "file": f"{folder}/train.py",
        },
    }


def test_safe_path(worker, monkeypatch):
    """Where an image sets PYTHONSAFEPATH, no entry of sys.path is lost."""
    worker.run(HEAD + "def main(cfg): return sys.path" + TAIL)
    usual = worker.result["value"]
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    worker.run(HEAD + "def main(cfg): return sys.path" + TAIL)
    assert worker.result["value"] == usual


def test_hydra_files(worker):
    """.hydra/*.yaml are as on the host: with interpolations unresolved."""
    worker.run(HEAD + "def main(cfg): pass" + TAIL, "lr=5")

    hydra = worker.paths.output / ".hydra"
    assert yaml.safe_load((hydra / "config.yaml").read_text()) == {"lr": 5, "twice": "${lr}"}
    assert (hydra / "overrides.yaml").read_text() == "- lr=5\n"
    assert "hydra_docker" not in (hydra / "hydra.yaml").read_text()


def test_types_of_the_script(worker):
    """Types that the script itself defines are there when the config is read."""
    types = (
        "import hydra\nfrom dataclasses import dataclass\nfrom enum import Enum\n"
        "from pathlib import Path\nfrom hydra.core.config_store import ConfigStore\n"
        "class Color(Enum):\n    RED = 1\n"
        "@dataclass\nclass Config:\n    color: Color = Color.RED\n    data: Path = Path('/d')\n"
        "ConfigStore.instance().store(name='schema', node=Config)\n"
    )
    (worker.folder / "config_types.py").write_text(types)
    sys.path.insert(0, str(worker.folder))
    try:
        __import__("config_types")
        worker.config("defaults: [schema, _self_]\n")
        script = (
            "import config_types\n"
            + HEAD
            + (
                "def main(cfg):\n"
                "    from omegaconf import OmegaConf\n"
                "    return [cfg.color is config_types.Color.RED, type(cfg.data).__name__,"
                " OmegaConf.get_type(cfg).__name__]"
            )
        )
        done = worker.run(script + TAIL)
    finally:
        sys.path.remove(str(worker.folder))
        del sys.modules["config_types"]

    assert done.stderr == ""
    assert worker.result["value"] == [True, "PosixPath", "Config"]


def test_module(worker):
    """``python -m``."""
    task = Task("module", "package.train", ("-m",), (str(worker.folder),))
    (worker.folder / "package").mkdir()
    (worker.folder / "package" / "__init__.py").write_text("")
    script = HEAD + "def main(cfg): return __spec__.name" + TAIL
    (worker.folder / "package" / "train.py").write_text(script)

    worker.run(task=task)

    assert worker.result == {"outcome": "completed", "value": "package.train"}


def test_function(worker):
    """A function by its import path."""
    task = Task("function", "lib:Tasks.run", ("x",), (str(worker.folder),))
    lib = "class Tasks:\n    @staticmethod\n    def run(cfg): return cfg.lr\n"
    worker.run(task=task, lib=lib)
    assert worker.result == {"outcome": "completed", "value": 1}


def test_function_by_value(worker):
    """A function that travels with the job."""
    import cloudpickle

    function = cloudpickle.dumps(lambda cfg: cfg.lr + 1)
    worker.run(task=Task("value", "f", ("x",), (), function))
    assert worker.result == {"outcome": "completed", "value": 2}


def test_error(worker):
    """An exception in the task function: exit code 1, the user's frames only."""
    script = HEAD + "def main(cfg):\n    raise ValueError('no')" + TAIL

    done = worker.run(script)

    assert done.returncode == 1
    error = worker.result["error"]
    assert (worker.result["outcome"], error["type"], error["args"]) == (
        "error",
        "ValueError",
        ["no"],
    )
    assert error["frames"][-1] == [f"{worker.folder}/train.py", "main", 4]
    assert str(rebuild(error)) == "no"
    assert done.stderr.endswith("ValueError: no\n")
    assert "_worker.py" not in done.stderr


def test_error_outside_the_task_function(worker):
    """A script that fails while it is imported has an exception too."""
    done = worker.run("import no_such_module\n")

    assert done.returncode == 1
    error = worker.result["error"]
    assert (error["type"], error["message"]) == (
        "ModuleNotFoundError",
        "No module named 'no_such_module'",
    )
    assert error["frames"] == [[f"{worker.folder}/train.py", "<module>", 1]]


@pytest.mark.parametrize(
    ("code", "exit_code", "result"),
    [
        ("sys.exit(3)", 3, {"outcome": "exited", "code": 3, "after": None}),
        ("sys.exit()", 0, {"outcome": "exited", "code": 0, "after": None}),
        ("sys.exit('text')", 1, {"outcome": "exited", "code": 1, "after": None}),
        ("os._exit(4)", 4, None),
    ],
)
def test_exit_in_the_task_function(worker, code, exit_code, result):
    """``sys.exit`` goes through Hydra; it is told from a job that completed."""
    done = worker.run(HEAD + f"def main(cfg):\n    {code}" + TAIL)
    assert (done.returncode, worker.result) == (exit_code, result)


@pytest.mark.parametrize(
    ("after", "exit_code", "outcome"),
    [
        ("print('after')", 0, "completed"),
        ("sys.exit(0)", 0, "completed"),
        ("sys.exit(5)", 5, "exited"),
        ("raise ValueError('late')", 1, "error"),
    ],
)
def test_what_follows_the_task_function(worker, after, exit_code, outcome):
    """Code after ``main()`` runs too, and its failure is the job's."""
    script = HEAD + "def main(cfg): return 1" + TAIL + f"    {after}\n"
    done = worker.run(script)
    assert (done.returncode, worker.result["outcome"]) == (exit_code, outcome)


def test_script_without_hydra(worker):
    """A script that never calls its task function has not completed."""
    done = worker.run("print('nothing')\n")
    message = "the script has ended without calling a function decorated with hydra.main"
    assert (done.returncode, worker.result["error"]["message"]) == (1, message)


def test_callbacks(worker, monkeypatch):
    """on_job_start and on_job_end run here; one that fails is a warning."""
    callback = (
        "from hydra.experimental.callback import Callback\n"
        "class Notes(Callback):\n"
        "    def on_job_start(self, config, **kwargs): print('start', config.lr)\n"
        "    def on_job_end(self, config, job_return, **kwargs):\n"
        "        print('end', job_return.return_value); raise ValueError('no')\n"
    )
    (worker.folder / "notes.py").write_text(callback)
    monkeypatch.syspath_prepend(worker.folder)  # the host makes the callbacks too
    worker.config("lr: 1\nhydra:\n  callbacks:\n    notes: {_target_: notes.Notes}\n")

    done = worker.run(HEAD + "def main(cfg): return 2" + TAIL)

    assert (done.returncode, done.stdout.splitlines()) == (0, ["start 1", "end 2"])
    assert "Callback Notes.on_job_end raised ValueError: no" in done.stderr


def test_started_again_after_its_end(worker):
    """A restart policy that never ends starts a finished job again: it does nothing."""
    script = HEAD + "def main(cfg): open('runs', 'a').write('x')" + TAIL
    worker.run(script, restart="always")
    assert worker.start().returncode == 0
    assert (worker.folder / "runs").read_text() == "x"


def test_started_again_after_a_failure(worker):
    """With on-failure the job runs again, and its earlier result is gone."""
    script = HEAD + (
        "def main(cfg):\n"
        "    open('runs', 'a').write('x')\n"
        "    if len(open('runs').read()) < 2: raise ValueError('first')\n"
    )
    assert worker.run(script + TAIL, restart="on-failure").returncode == 1
    assert worker.start().returncode == 0
    assert worker.result == {"outcome": "completed", "value": None}


@pytest.mark.parametrize("prints", ["print(1, flush=True)", "sys.stderr.write('1')"])
def test_nobody_reads_its_output(worker, prints):
    """A job whose engine was killed has not failed as it prints: it has no result at all."""
    reader, writer = os.pipe()
    os.close(reader)
    worker.run(HEAD + "def main(cfg): pass" + TAIL)
    worker.paths.result.unlink()
    (worker.folder / "train.py").write_text(f"{HEAD}def main(cfg): {prints}{TAIL}")
    try:
        process = worker.start(stdout=writer, stderr=writer)
    finally:
        os.close(writer)
    assert process.returncode == 141
    assert worker.result is None


def test_broken_pipe_of_its_own(worker):
    """A broken pipe that is none of its output's is an error of the job."""
    task = "def main(cfg):\n    r, w = os.pipe()\n    os.close(r)\n    os.write(w, b'x')"
    assert worker.run(HEAD + task + TAIL).returncode == 1
    assert worker.result["error"]["type"] == "BrokenPipeError"


# ---- values as JSON ------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1


class Word(str, enum.Enum):
    YES = "yes"


class Number(enum.IntEnum):
    TWO = 2


class Scalar:
    """What NumPy's, PyTorch's and JAX's scalars look like."""

    shape = ()

    def item(self):
        return 2.5


class TensorFlowScalar:
    """It tells its value only as NumPy's."""

    shape = None

    def numpy(self):
        return np.float32(2.5)


class TensorWithoutData:
    """A tensor of the device ``meta``, or of one that is lost."""

    shape = ()

    def item(self):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors")

    def __repr__(self):
        return "tensor(..., device='meta', size=())"


class TensorWithoutShape:
    """A nested tensor of PyTorch."""

    @property
    def shape(self):
        raise RuntimeError("NestedTensorImpl doesn't support sizes")

    def __repr__(self):
        return "nested_tensor(...)"


class Broken:
    def __repr__(self):
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (None, None),
        (True, True),
        (1, 1),
        (0.5, 0.5),
        ("x", "x"),
        ([1, (2, 3)], [1, [2, 3]]),
        ({"a": {"b": None}}, {"a": {"b": None}}),
        (Word.YES, "yes"),
        (Number.TWO, 2),
        (Scalar(), 2.5),
        (TensorFlowScalar(), 2.5),
        (OmegaConf.create({"a": [1], "b": "${a}"}), {"a": [1], "b": [1]}),
        (math.inf, math.inf),
        ("\ud800", "\ud800"),
    ],
)
def test_value(value, plain):
    """What JSON can hold arrives as it is; tuples as lists."""
    encoded = json.loads(json.dumps(_worker.encode_value(value)))
    assert encoded == {"value": plain}
    assert type(encoded["value"]) is type(plain)


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (np.float16(0.5), 0.5),
        (np.float32(0.5), 0.5),
        (np.float64(0.5), 0.5),
        (np.longdouble("0.5"), 0.5),
        (np.int8(3), 3),
        (np.uint64(2**63), 2**63),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(2.5), 2.5),
        (np.array(3), 3),
        (np.array([2.5]), 2.5),
        (np.array([[True]]), True),
        (np.array([1.0, 2.0], dtype=np.float32), [1.0, 2.0]),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array([1.0, 2.0], dtype=np.longdouble), [1.0, 2.0]),
        (np.array([]), []),
        (np.array(["a", "b"]), ["a", "b"]),
        (np.array({"loss": np.float32(0.5)}, dtype=object), {"loss": 0.5}),
        (np.ma.masked, None),
        (np.ma.array([1.0, 2.0], mask=[False, True]), [1.0, None]),
        ((np.float64(1), np.float32(2)), [1.0, 2.0]),
        ({"loss": np.float32(0.5), "best": np.array(True)}, {"loss": 0.5, "best": True}),
    ],
    ids=str,
)
def test_value_of_numpy(value, plain):
    """NumPy's scalars, and arrays of one element, arrive as Python's; larger arrays as lists."""
    encoded = json.loads(json.dumps(_worker.encode_value(value)))
    assert repr(encoded) == repr({"value": plain})  # which tells 1 from 1.0 and from True


@pytest.mark.parametrize(
    ("value", "text", "kind"),
    [
        (Color.RED, "<Color.RED: 1>", f"{__name__}.Color"),
        ({1: 2}, "{1: 2}", "builtins.dict"),
        (b"x", "b'x'", "builtins.bytes"),
        ({"a": {1}}, "{'a': {1}}", "builtins.dict"),
        (np.complex64(1), "np.complex64(1+0j)", "numpy.complex64"),
        (np.datetime64("2026"), "np.datetime64('2026')", "numpy.datetime64"),
        (np.zeros(600_000), repr(np.zeros(600_000)), "numpy.ndarray"),
        (
            TensorWithoutData(),
            "tensor(..., device='meta', size=())",
            f"{__name__}.TensorWithoutData",
        ),
        (TensorWithoutShape(), "nested_tensor(...)", f"{__name__}.TensorWithoutShape"),
        (Broken(), "<repr of Broken raised RuntimeError>", f"{__name__}.Broken"),
        ("x" * 1_000_001, "'" + "x" * 99_999, "builtins.str"),
    ],
)
def test_value_that_is_no_json(value, text, kind):
    """Its repr, within a limit, and the name of its type."""
    assert _worker.encode_value(value) == {"value": text, "not_json": kind}


def test_value_that_contains_itself():
    """A loop is no JSON either."""
    loop = []
    loop.append(loop)
    assert _worker.encode_value(loop) == {"value": "[[...]]", "not_json": "builtins.list"}


@pytest.mark.parametrize(
    ("code", "number"), [(None, 0), (0, 0), (7, 7), (True, 1), ("text", 1), ([], 1)]
)
def test_exit_code(code, number):
    """As the interpreter has it."""
    assert _worker.exit_code(SystemExit(code)) == number


def test_error_that_cannot_be_shown():
    """Its place is all that is left of it."""

    class SilentError(Exception):
        def __str__(self):
            raise RuntimeError("no")

    assert (
        _worker.encode_error(SilentError())["message"] == "<str of SilentError raised RuntimeError>"
    )


def test_deep_recursion():
    """A RecursionError keeps its first frames, up to a limit."""

    def recurse():
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    assert len(_worker.encode_error(caught.value)["frames"]) == _worker.MAX_FRAMES


def test_job_file_is_of_an_old_protocol(worker):
    """Python 3.9 reads it."""
    worker.run(HEAD + "def main(cfg): pass" + TAIL)
    content = worker.paths.job.read_bytes()
    assert content[:2] == b"\x80\x04"
    assert pickle.loads(content)["config"][:2] == b"\x80\x04"
