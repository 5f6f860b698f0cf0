"""Architecture: who may import what, and what starting a Hydra app costs."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "hydra_plugins" / "hydra_docker_launcher"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")

#: Every module, in the order in which data flows: each may import only those before it.
ORDER = (
    # words that all others use
    "_harmless",
    "_errors",
    "_units",
    "_paths",
    "_untrusted",
    "_job_folder",
    "_console",
    "_interrupt",
    "_private",
    "_masks",
    "_redaction",
    "_job",
    "config",
    "_option_values",
    "_boundary_values",
    "_option_reader",
    "_options",
    "_boundary",
    # the two seams, as protocols
    "_engine",
    "_usage",
    "_usage_book",
    "_tracking",
    # source: a revision becomes a commit
    "_changes",
    "_repository",
    "_checkout",
    "_snapshot",
    "_patch",
    "_remotes",
    "_revision",
    "_source",
    "_config_sources",
    # image: a name or a Dockerfile becomes an image id; what is in the image
    "_dockerfile_words",
    "_dockerfile",
    "_stages",
    "_dockerignore",
    "_context",
    "_requirements",
    "_recipe",
    "_image",
    "_preflight",
    "_machine",
    # compose: override lists become jobs; how the task function is found
    "_frozen",
    "_composed",
    "_compose",
    "_by_value",
    "_task",
    "_multirun",
    # data: what volumes hold, and what the commit says of it
    "_data_identity",
    "_dvc_files",
    "_dvc",
    "_data_check",
    "_content",
    "_fingerprint",
    "_data",
    # plan: frozen specifications
    "_plan",
    "_dry_run",
    "_delivery",
    # what is promised on an engine, and who gets in next
    "_capacity",
    "_shortage",
    "_tickets",
    "_admission",
    # track: the store, and how containers reach it; all of that pinned
    "_mlflow_names",
    "_mlflow_patience",
    "_mlflow_store",
    "_relay",
    "_clone",
    "_pinning",
    # run
    "_advice",
    "_symptoms",
    "_evidence",
    "_outcome",
    "_unpacking",
    "_stray_rules",
    "_collection",
    "_stray",
    "_attempt",
    "_recorder",
    "_sampling",
    "_container_log",
    "_watching",
    "_running",
    "_job_files",
    "_job_record",
    # results
    "_remote_error",
    "_results",
    "_ledger",
    "_provenance",
    "_composition",
    # what another process needs to take up the sweep
    "_codec",
    "_saved",
    "_saving",
    "_sweep_folder",
    "_take_up",
    "_resume",
    "_runs",
    "_disk",
    "_recording",
    "_background",
    # all stages, one after the other; then with the real engine and the real tracker
    "_execution",
    "_attach",
    "_sweep",
    "_refusal",
    "_cgroup",
    "_nvidia",
    "_log_stream",
    "_docker_values",
    "_patience",
    "_buildkit",
    "_docker_engine",
    "_mlflow_artifacts",
    "_mlflow_tracker",
    "_start",
    "docker_launcher",
    # the command line: past runs, read back and run again
    "_wish",
    "_past_source",
    "_past_job",
    "_past_secrets",
    "_past_options",
    "_reproduce",
    "_from_note",
    "_compare",
    "_report",
    "_note",
    # what goes on on this engine
    "_ps",
    "_team",
    "_logs",
    "_doctor",
    "_view_commands",
    "_ownership",
    "_sweep_commands",
    # what is left of all that, and may go
    "_gc_plan",
    "_gc_images",
    "_gc_sweeps",
    "_gc_refs",
    "_gc_caches",
    "_gc",
    "_cli",
)
#: Files that are no part of the line: they run in containers, on their own.
ALONE = ("_cloning", "_worker")
FOREIGN = {
    "docker": "_docker_engine",
    "dvc": "_dvc",
    "dvc_data": "_dvc",
    "git": "_repository",
    "mlflow": "_mlflow_tracker",
}


def imports(module: str) -> tuple[set[str], set[str]]:
    """Return the modules of this package, and the foreign packages, that a module imports."""
    own, foreign = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            foreign |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            foreign.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            own |= {node.module} if node.module else {alias.name for alias in node.names}
    return own, foreign


def test_every_module_has_its_place():
    """A new module must be put into the line."""
    assert sorted((*ORDER, *ALONE)) == MODULES


@pytest.mark.parametrize("module", ORDER)
def test_data_flows_one_way(module):
    """A stage imports only earlier ones."""
    own, _ = imports(module)
    assert own <= set(ORDER[: ORDER.index(module)])


@pytest.mark.parametrize("module", ALONE)
def test_worker_stands_alone(module):
    """The worker goes into images that do not have this package."""
    assert imports(module)[0] == set()


@pytest.mark.parametrize("package", sorted(FOREIGN))
def test_one_module_imports(package):
    """Exactly one module talks to each of the three."""
    assert [module for module in MODULES if package in imports(module)[1]] == [FOREIGN[package]]


def test_plan_is_pure():
    """Planning and deciding read no clock, no environment, no engine, and start no process."""
    impure = {"os", "time", "datetime", "subprocess", "random", "secrets", "socket", "tempfile"}
    for module in (
        "_plan",
        "_dry_run",
        "_capacity",
        "_shortage",
        "_units",
        "_harmless",
        "_usage",
        "_log_stream",
        "_private",
        "_provenance",
        "_stray_rules",
        "_boundary",
        "_gc_plan",
        "_gc_images",
        "_ps",
    ):
        assert imports(module)[1] & impure == set(), module


def test_names_that_hydra_imports():
    """Hydra imports every module that has no underscore, in every app: there are two."""
    assert [name for name in MODULES if not name.startswith("_")] == ["config", "docker_launcher"]


PROBE = """
import json, sys
from hydra.core.plugins import Plugins
Plugins.instance()
loaded = set(sys.modules)
prefix = "hydra_plugins.hydra_docker_launcher"
print(json.dumps([
    sorted(name[len(prefix) + 1:] for name in loaded if name.startswith(prefix + ".")),
    sorted({name.partition(".")[0] for name in loaded}),
]))
"""


def run_python(*arguments: str, cwd: Path) -> str:
    path = os.pathsep.join([str(PACKAGE.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_what_any_hydra_app_imports(tmp_path):
    """Hydra's search for plugins loads the two modules and nothing that is slow."""
    own, packages = json.loads(run_python("-c", PROBE, cwd=tmp_path))

    assert own == ["config", "docker_launcher"]
    assert {"docker", "dvc", "git", "mlflow", "cloudpickle", "requests"}.isdisjoint(packages)


def test_help_of_an_app(tmp_path):
    """``--help`` with this launcher chosen imports none of docker, git and mlflow."""
    app = tmp_path / "app.py"
    app.write_text(
        "import atexit, hydra, sys\n"
        "heavy = ('docker', 'git', 'mlflow')\n"
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
        "@hydra.main(version_base=None)\n"
        "def main(cfg): pass\n"
        "main()\n"
    )

    shown = run_python(str(app), "hydra/launcher=docker", "--help", cwd=tmp_path)

    assert "Powered by Hydra" in shown
    assert shown.splitlines()[-1] == "[]"


def test_launcher_chosen_in_a_single_run(tmp_path):
    """Without --multirun Hydra never calls a launcher, and nothing of it is imported."""
    app = tmp_path / "app.py"
    app.write_text(
        "import hydra, sys\n"
        "@hydra.main(version_base=None)\n"
        "def main(cfg): print([n for n in sys.modules if n.startswith(('docker', 'mlflow'))])\n"
        "main()\n"
    )

    assert run_python(str(app), "hydra/launcher=docker", cwd=tmp_path) == "[]\n"
