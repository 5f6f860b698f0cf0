"""The worker: one file that runs a job inside its container. Here it runs in processes."""

from __future__ import annotations

import ast
import enum
import json
import math
import os
import pickle
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _job_files, _job_folder, _worker
from hydra_plugins.hydra_docker_launcher._compose import compose
from hydra_plugins.hydra_docker_launcher._outcome import read_result, read_returned
from hydra_plugins.hydra_docker_launcher._paths import JobPaths
from hydra_plugins.hydra_docker_launcher._remote_error import rebuild
from hydra_plugins.hydra_docker_launcher._task import Task

pytestmark = pytest.mark.no_cover  # it is left out of the report: processes run it

WORKER = Path(_worker.__file__)
HEAD = "import hydra, os, sys\n@hydra.main(version_base=None, config_name='config')\n"
OF_PROCESS = ("exit_code", "memory")
TAIL = "\nif __name__ == '__main__':\n    main()\n"


class Worker:
    """A launch folder, and the worker in it as a container would have it."""

    def __init__(self, folder: Path, multirun) -> None:
        self.folder = folder
        self.multirun = multirun
        #: What the job's command line was, where that is not what is written down.
        self.argv: tuple[str, ...] | None = None
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
            masks = job.withheld.masks
            secrets = _job_files.secrets(job.withheld, (), masks, self.argv)
            _job_files.write(self.paths, job.yaml, content, None, secrets)
        return self.start()

    def start(self, **process):
        program = (
            "import runpy, sys; sys.argv = sys.argv[1:]; import importlib.util as u;"
            "spec = u.spec_from_file_location('worker', sys.argv[0]);"
            "worker = u.module_from_spec(spec); spec.loader.exec_module(worker);"
            "worker.JOB, worker.SECRETS = sys.argv[1:3];"
            "safe = getattr(sys.flags, 'safe_path', False);"
            "sys.path[: 0 if safe else 1] = [] if safe else ['/hydra']; worker.main()"
        )
        return subprocess.run(
            [
                sys.executable,
                "-c",
                program,
                str(WORKER),
                str(self.paths.job),
                str(self.paths.secrets),
            ],
            cwd=self.folder,
            env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
            check=False,
            text=True,
            **(process or {"capture_output": True}),
        )

    @property
    def result(self):
        """What the worker tells of the task function; ``end``: of its process."""
        result = read_result(self.paths.result)
        return result and {name: result[name] for name in result if name not in OF_PROCESS}

    @property
    def end(self):
        result = read_result(self.paths.result)
        return {name: result[name] for name in result if name in OF_PROCESS}


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


def test_secrets(worker):
    """The job has them; no file that it leaves has: not those in .hydra, nor its result."""
    worker.config("db: {password: hunter22}\ncopied: ${db.password}!\n")
    worker.argv = ("train.py", "-m", "+token=from-argv")
    script = (
        HEAD
        + "def main(cfg):\n"
        + "    assert (cfg.db.password, cfg.copied) == ('hunter22', 'hunter22!')\n"
        + "    assert cfg.token == 'from-argv' and sys.argv[-1] == '+token=from-argv'\n"
        + "    from hydra.core.hydra_config import HydraConfig\n"
        + "    assert HydraConfig.get().overrides.task == ['+token=from-argv']\n"
        + "    raise ValueError('no login as ' + cfg.db.password)\n"
    )
    done = worker.run(script + TAIL, "+token=from-argv")

    assert "ValueError: no login as hunter22" in done.stderr  # the host masks the log
    assert worker.result["error"]["message"] == "no login as <hidden>"
    assert worker.result["error"]["args"] == ["no login as <hidden>"]
    hydra = worker.paths.output / ".hydra"
    assert (hydra / "config.yaml").read_text() == (
        "db:\n  password: <hidden>\ncopied: ${db.password}!\ntoken: <hidden>\n"
    )
    assert (hydra / "overrides.yaml").read_text() == "- +token=<hidden>\n"
    left = [path for path in worker.paths.output.rglob("*") if path.parent != worker.paths.secrets]
    texts = [path.read_bytes() for path in left if path.is_file() and path.suffix != ".log"]
    assert not any(b"hunter22" in text or b"from-argv" in text for text in texts)


def test_secret_that_is_returned(worker):
    """The sweeper gets it as it is, by a file that the host removes; the result is without it."""
    worker.config("db: {password: hunter22}\n")
    value = {"said": "is hunter22", "lr": 0.5}
    worker.run(HEAD + "def main(cfg): return dict(said='is ' + cfg.db.password, lr=0.5)" + TAIL)
    assert worker.result["value"] == {"said": "is <hidden>", "lr": 0.5}
    assert read_returned(worker.paths, worker.result) == value
    _job_folder.remove_secrets(worker.paths)
    assert not worker.paths.returned.exists()
    assert read_returned(worker.paths, worker.result) == worker.result["value"]


def test_secrets_that_are_gone(worker):
    """A container that is kept and started by hand says what it lacks."""
    worker.config("password: hunter22\n")
    worker.run(HEAD + "def main(cfg): return 1" + TAIL)
    (worker.paths.secrets / "values.pickle").unlink()
    worker.start()
    assert "the secrets of the job's config are gone" in worker.result["error"]["message"]


def test_variables_of_a_file(tmp_path, monkeypatch):
    """They are there before Python starts, as if the engine had given them; and once only."""
    started = []
    monkeypatch.setattr(_worker, "SECRETS", str(tmp_path))
    monkeypatch.setattr(os, "execve", lambda *arguments: started.append(arguments))
    monkeypatch.setattr(sys, "argv", ["/hydra/worker.py"])
    _worker.take_variables()
    assert started == []

    (tmp_path / "environment.json").write_text('{"DB_TOKEN": "abc", "PYTHONHASHSEED": "0"}')
    _worker.take_variables()
    ((program, words, variables),) = started
    assert (program, words) == (sys.executable, [sys.executable, "/hydra/worker.py"])
    assert (variables["DB_TOKEN"], variables["PYTHONHASHSEED"]) == ("abc", "0")

    monkeypatch.setattr(os, "environ", dict(variables))
    _worker.take_variables()
    assert len(started) == 1
    assert _worker.STARTED_AGAIN not in os.environ


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


# ---- the end of the process ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("return 1", 0), ("sys.exit(3)", 3), ("raise ValueError('no')", 1)],
)
def test_end(worker, code, exit_code):
    """When the script has ended, the result says so, with its exit code."""
    done = worker.run(HEAD + f"def main(cfg):\n    {code}" + TAIL)
    assert done.returncode == exit_code
    assert worker.end["exit_code"] == exit_code


def test_end_is_the_last_thing(worker):
    """While code after the task function runs, the result is not final."""
    script = HEAD + "def main(cfg): return 1" + TAIL
    read = f"print('exit_code' in open({str(worker.paths.result)!r}).read())"
    done = worker.run(script + f"    {read}\n    import atexit; atexit.register(lambda: {read})\n")
    assert done.stdout == "False\nFalse\n"
    assert worker.end["exit_code"] == 0


def test_end_after_os_exit(worker):
    """``os._exit`` after the task function has returned: the exit code is the engine's to tell."""
    done = worker.run(HEAD + "def main(cfg): return 1" + TAIL + "    os._exit(7)\n")
    assert (done.returncode, worker.result["outcome"]) == (7, "completed")
    assert "exit_code" not in worker.end


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (0, {"outcome": "completed", "value": 1}),
        (7, {"outcome": "exited", "code": 7, "after": "completed"}),
    ],
)
def test_os_exit_with_a_policy_that_never_ends(worker, code, result):
    """After a restart nobody knows that exit code: the worker notes it, and runs nothing again."""
    script = HEAD + "def main(cfg):\n    open('runs', 'a').write('x'); return 1" + TAIL
    done = worker.run(script + f"    os._exit({code})\n", restart="always")
    assert done.returncode == code
    assert worker.start().returncode == 0
    assert (worker.result, worker.end["exit_code"]) == (result, code)
    assert (worker.folder / "runs").read_text() == "x"


@pytest.mark.parametrize(
    ("code", "result", "exit_code"),
    [
        ("return 1", {"outcome": "exited", "code": None, "after": "completed", "died": True}, None),
        ("raise ValueError('no')", {"outcome": "error"}, 1),
    ],
)
def test_death_with_a_policy_that_never_ends(worker, code, result, exit_code):
    """A process that dies of a signal after its task function has ended is not run again either."""
    script = HEAD + (
        "def main(cfg):\n"
        "    import atexit, signal\n"
        "    atexit.register(lambda: os.kill(os.getpid(), signal.SIGKILL))\n"
        f"    {code}"
    )
    assert worker.run(script + TAIL, restart="always").returncode == -9
    peak = worker.end.get("memory")
    assert worker.start().returncode == 0
    assert worker.result.items() >= result.items()
    assert worker.end == {"exit_code": exit_code, **({"memory": peak} if peak else {})}


def test_unreadable_result(worker):
    """A script that spoils its result is not run for ever."""
    worker.run(HEAD + "def main(cfg): return 1" + TAIL, restart="always")
    worker.paths.result.write_text("[")
    assert worker.start().returncode == 0
    assert worker.result == {"outcome": "exited", "code": None, "after": None, "died": True}


def test_children_have_no_say(worker):
    """What a forked child does, or how it exits, is no result of the job."""
    script = HEAD + (
        "def main(cfg):\n"
        "    child = os.fork()\n"
        "    if child == 0: sys.exit(5)\n"
        "    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), os.path.exists(RESULT)]"
    ).replace("RESULT", repr(str(worker.paths.result)))
    worker.run(script + TAIL, restart="always")
    assert worker.result == {"outcome": "completed", "value": [5, False]}
    assert worker.end["exit_code"] == 0


def test_power_cut(tmp_path, monkeypatch):
    """A result is on the disk before it has its name: no power cut leaves an empty one."""
    result = tmp_path / "result.json"
    kept = []

    def keep(handle):
        kept.append((stat.S_ISDIR(os.fstat(handle).st_mode), result.exists()))

    monkeypatch.setattr(_worker.os, "fsync", keep)
    _worker.save(str(result), {"outcome": "completed"})
    assert kept == [(False, False), (True, True)]
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


def test_worker_that_is_killed_as_it_writes(worker):
    """What it leaves has a name that the launcher knows and removes."""
    script = (
        HEAD
        + "def main(cfg):\n    import json, signal\n"
        + "    json.dump = lambda *_: os.kill(os.getpid(), signal.SIGKILL)"
    )
    worker.run(script + TAIL)
    (left,) = [path for path in worker.paths.private.iterdir() if "result" in path.name]
    _job_folder.remove_secrets(worker.paths)
    assert not left.exists()


def test_disk_that_is_full(worker):
    """A result that cannot be written leaves no half of it, and the exit code says the rest."""
    script = (
        HEAD
        + "def main(cfg):\n    import resource\n"
        + ("    resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); return 'x' * 100")
    )
    done = worker.run(script + TAIL)
    assert done.returncode == 1
    assert "OSError: [Errno 27] File too large" in done.stderr
    assert [path.name for path in worker.paths.private.iterdir() if "result" in path.name] == []


# ---- memory and space ----------------------------------------------------------------------------

V1 = {
    "memory.max_usage_in_bytes": "33554432\n",
    "memory.limit_in_bytes": "67108864\n",
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
}
V2 = {
    "memory.peak": "33554432\n",
    "memory.max": "67108864\n",
    "memory.events": "low 0\nhigh 0\nmax 7\noom 2\noom_kill 2\noom_group_kill 0\n",
}
COUNTED = {"peak": 33554432, "limit": 67108864, "oom_kills": 2}


@pytest.mark.parametrize(
    ("own", "folder", "files", "counted"),
    [
        ("4:memory:/docker/x\n0::/docker/x\n", "memory", V1, COUNTED),
        ("4:cpu,memory:/docker/x\n", "memory/docker/x", V1, COUNTED),
        ("0::/\n", "", V2, COUNTED),
        ("0::/docker/x\n", "docker/x", V2, COUNTED),
        ("0::/\n", "", {**V2, "memory.max": "max\n"}, {"peak": 33554432, "oom_kills": 2}),
        ("0::/\n", "", {"memory.events": "oom_kill 0\n"}, {"oom_kills": 0}),
        ("0::/\n", "", {"memory.events": "oom 1\n"}, {}),
        ("0::/\n", "", {}, {}),
        ("1:cpu:/x\n", "memory", V1, {}),
    ],
)
def test_memory(tmp_path, monkeypatch, own, folder, files, counted):
    """The own cgroup, of either version, seen as the root or by its path on the host."""
    group = tmp_path / "cgroup" / folder
    group.mkdir(parents=True)
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (group / name).write_text(text)
    monkeypatch.setattr(_worker, "OWN_CGROUP", str(tmp_path / "own"))
    monkeypatch.setattr(_worker, "CGROUP", str(tmp_path / "cgroup"))
    assert _worker.read_memory() == counted


def test_memory_without_cgroups(monkeypatch, tmp_path):
    """A container may hide them."""
    monkeypatch.setattr(_worker, "OWN_CGROUP", str(tmp_path / "none"))
    assert _worker.read_memory() == {}


class Space:
    """What ``os.statvfs`` returns."""

    f_frsize = 4096
    f_files = f_favail = 100

    def __init__(self, blocks: int, available: int, flag: int = 0, favail: int = 100) -> None:
        self.f_blocks = blocks
        self.f_bavail = available
        self.f_flag = flag
        self.f_favail = favail


def test_full_places(tmp_path, monkeypatch):
    """Where files of a job can be, and no block or no inode is left; no single file."""
    spaces = {
        "full": Space(16, 0),
        "with space": Space(10_000, 0),
        "half": Space(16, 8),
        "large": Space(10**6, 100),
        "inodes": Space(10**6, 10**5, favail=0),
        "read-only": Space(16, 0, flag=os.ST_RDONLY),
        "unlimited": Space(0, 0),
        "remote": Space(16, 0),
    }
    lines = [f"none {tmp_path}/gone tmpfs rw 0 0\n"]
    for name in spaces:
        (tmp_path / name).mkdir()
        kind = "nfs4" if name == "remote" else "ext4"
        lines.append(f"dev {tmp_path}/{name} {kind} rw 0 0\n".replace("h s", "h\\040s"))
    (tmp_path / "file").write_text("")
    (tmp_path / "mounts").write_text("".join([*lines, f"dev {tmp_path}/file ext4 rw 0 0\n"]))
    monkeypatch.setattr(_worker, "MOUNTS", str(tmp_path / "mounts"))
    monkeypatch.setattr(_worker.os, "statvfs", lambda place: spaces[Path(place).name])
    assert [Path(place).name for place in _worker.full_places()] == [
        "full",
        "with space",
        "large",
        "inodes",
    ]


def test_full_places_of_an_error(worker):
    """They are looked for only where an exception says that there is no space."""
    for words, told in (("[Errno 28] No space left on device", True), ("no", False)):
        worker.run(HEAD + f"def main(cfg): raise OSError({words!r})" + TAIL)
        assert ("full" in worker.result) is told


def test_full_places_of_an_exit(worker, monkeypatch):
    """Who calls ``sys.exit`` has no exception: they are named where there are any."""
    lost = {"outcome": "exited", "code": 1, "after": None}
    monkeypatch.setattr(_worker, "full_places", lambda: ["/scratch"])
    assert _worker.exited(1, None) == {**lost, "full": ["/scratch"]}
    monkeypatch.setattr(_worker, "full_places", list)
    assert _worker.exited(1, None) == lost


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
