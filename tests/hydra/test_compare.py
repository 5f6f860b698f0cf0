"""The same toy app under Hydra's basic launcher and under this one: a job sees the same.

Types, values, HydraConfig, folders, arguments, import path, files and return values are compared;
where they are not the same, the difference and its reason stand in ``DIFFERENCES``.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

import docker
import pytest
import yaml
from hydra import version
from hydra.test_utils.test_utils import TSweepRunner
from side_by_side import APPS, IMAGE, App, Repository, Run, differences
from test_suites import OPTIONS

HYDRA_1_3 = hasattr(version, "base_at_least")

#: All that may differ (patterns of ``case/file:fact``), and why. What must differ is left out in
#: ``side_by_side.py``: what selects the launcher, times, the folder of installed packages.
DIFFERENCES = {
    "*/dump.json:unresolved*": (
        "in the container an interpolation has been replaced by its value: what was written down "
        "is what runs. The files in .hydra/ have the interpolations"
    ),
    "resolvers/*/dump.json:config/.random*": (
        "a resolver that gives another value each time is asked once, on the host; the basic "
        "launcher's job asks it at every access"
    ),
    "resolvers/*/dump.json:config/.cached": "it is random, and these are two runs",
    "resolvers/*/dump.json:config/.fine/.hydra_overrides/readonly": (
        "the node that an interpolation leads to is copied to where the interpolation stood, and "
        "has the flags of that place"
    ),
    "resolvers/*/dump.json:config/.fine/.config/struct": "as above",
    "*/dump.json:environment/NEITHER": (
        "of the host's variables a container has those that hydra.job.env_set, hydra.job.env_copy "
        "and hydra.launcher.environment name"
    ),
    "resolvers/*/dump.json:environment/COPIED": "as above: nothing names it there",
    "src layout/*/dump.json:main/file": (
        "links and .. are resolved in the script's path: the container has the commit at the "
        "repository's real path"
    ),
    "console script/*/dump.json:main/file": (
        "a console script lies in an environment, not in the commit: its function is imported "
        "from the package, and __main__ is the worker"
    ),
    "console script/*/dump.json:path*": (
        "so sys.path begins with the folder of the package, not with that of the script; that "
        "folder is added because only the finder of the host's editable install knows it"
    ),
    "zen launch/*/dump.json:main/file": (
        "a program that calls launch() would start its sweep again: only its function runs, and "
        "__main__ is the worker"
    ),
    "resolvers/returns.json:/*/cfg/2": "what a task writes into its config stays in the container",
    "*/returns.json:/*/error/notes*": (
        "the launcher's report on the job (which, why, where its log is) is a note"
    ),
    "failures/returns.json:/0/error/context*": (
        "where a cause was named (raise … from …), the context stays behind: it is never shown"
    ),
    "failures/returns.json:/1/error/*": (
        "an exception type of the user's own is not made again on the host, where the container's "
        "word would choose the code that runs: it is a JobError with type, message and traceback"
    ),
    "callbacks/*/on_job_*.json:seen/*": (
        "a container makes its callbacks anew: what they kept in memory in on_multirun_start, or "
        "in a job before, is not there"
    ),
    "callbacks/on_multirun_end.json:seen/*": "as above: what they keep in a job stays there",
    "folders/returns.json:/*/working_dir": (
        "a relative output folder is told as an absolute path, as it is everywhere else"
    ),
    "folders/*.log:3": (
        "code after the task function runs in the container, still with the job's logging; under "
        "the basic launcher Hydra's own logging is back by then"
    ),
    "symbolic link/*/dump.json:cwd": (
        "the output folder is mounted at the path that the user gave: there is no link to follow"
    ),
    "symbolic link/*.log:3": "as for folders: the code after the task function",
    "no logging/*/dump.json:logging/level": (
        "hydra.hydra_logging is the host's; without hydra.job_logging a container has none at all, "
        "as with Hydra's launchers that start processes"
    ),
}
used: set[str] = set()


def compare(basic: Run, docker: Run) -> None:
    """Fail on any difference that is not in the list, or where nothing has been written down."""
    assert basic.status == docker.status, f"{basic.output}\n{docker.output}"
    assert any(":" in key for key in basic.facts), basic.output
    found = differences(basic, docker)
    listed = {
        key: [pattern for pattern in DIFFERENCES if fnmatchcase(key, pattern)] for key in found
    }
    used.update(pattern for patterns in listed.values() for pattern in patterns)
    new = [key for key, patterns in listed.items() if not patterns]
    lines = [f"{key}\n    basic:  {found[key][0]}\n    docker: {found[key][1]}" for key in new]
    assert not new, "\n".join([*lines, docker.output])


MakeApp = Callable[..., Repository]


@pytest.fixture
def make(tmp_path: Path) -> MakeApp:
    """Make a repository of an app: ``make(case, name of the app, how it is started)``."""

    def made(case: str, name: str | None = None, **how: object) -> Repository:
        return Repository(tmp_path / "repository", case, App(name or case, **how))

    return made


# ---- the config ----------------------------------------------------------------------------------


def test_types(make: MakeApp) -> None:
    """Dataclasses, Enums, Paths, tuples, bytes, Optionals, Unions: of the same types."""
    basic, docker = make("types").both("mode=train,test", "inner.depth=3")
    compare(basic, docker)
    same = json.loads((docker.folder / "1/dump.json").read_text())["more"]["same"]
    assert same.pop("by_mode") == 0.1
    assert same.pop("missing") == ["absent", "absent_inner"]
    assert set(same.values()) == {True}


def test_interpolations(make: MakeApp) -> None:
    """Every kind of interpolation and resolver, missing values, escapes, failing resolvers."""
    repository = make("resolvers", environment={"COPIED": "value ${top}"})
    basic, docker = repository.both("top=5,6")
    compare(basic, docker)
    assert "Left for the job to resolve: fails: ValueError" in docker.output


def test_what_is_written_down_is_what_runs(make: MakeApp) -> None:
    """The value of a random resolver is the one in the YAML; a host's resolver is not needed."""
    repository = make("resolvers", environment={"COPIED": "value"})
    docker = repository.docker()
    assert docker.status == 0, docker.output
    written = yaml.safe_load((docker.folder / "0/.docker/config.yaml").read_text())
    seen = {
        key.rpartition(".")[2]: value
        for key, value in docker.facts.items()
        if key.startswith("resolvers/0/dump.json:config/")
    }
    for name in ("random", "cached", "random_again"):
        assert seen[name] == f"builtins.float {written[name]}"
    assert written["random_again"] == written["random"]
    assert written["fine"]["host_only"] == "3 from the host"


# ---- task functions ------------------------------------------------------------------------------

STARTS = {
    "script": {"command": ("app.py",)},
    "module": {"command": ("-m", "package.train")},
    "package": {"command": ("-m", "package")},
    "console script": {
        "command": (str(APPS / "environment" / "train-model"),),
        "environment": {"PYTHONPATH": str(APPS / "environment"), "EDITABLE": "{root}"},
    },
    "decorators": {"command": ("decorated.py",)},
    "call from another file": {"command": ("by_call.py",)},
    "no guard": {"command": ("bare.py",)},
    "src layout": {
        "command": ("../scripts/run.py",),
        "modules": "src",
        "cwd": "conf",
        "environment": {"PYTHONPATH": "{root}/src"},
    },
}


@pytest.mark.parametrize("case", STARTS)
def test_task_functions(make: MakeApp, case: str) -> None:
    """However Hydra's app is started, names, arguments, folders and imports are the same."""
    compare(*make(case, "tasks", **STARTS[case]).both("lr=2"))


@pytest.fixture(scope="module")
def zen_image() -> str:
    """The image with hydra-zen in it."""
    tag = f"{IMAGE}-zen" if ":" in IMAGE else f"{IMAGE}:zen"
    pip = "python3 -m pip install --quiet --no-cache-dir --root-user-action=ignore"
    zen = f"hydra-zen=={metadata.version('hydra-zen')} typing-extensions"
    dockerfile = f"FROM {IMAGE}\nRUN {pip} --no-deps {zen}\n"
    docker.from_env().images.build(
        fileobj=io.BytesIO(dockerfile.encode()), tag=tag, network_mode="host", rm=True
    )
    return tag


@pytest.mark.parametrize("case", ["zen hydra_main", "zen launch"])
def test_hydra_zen(make: MakeApp, zen_image: str, case: str) -> None:
    """hydra-zen's zen(...).hydra_main() and launch(), with the dataclasses that it makes."""
    script = {"zen hydra_main": "app.py", "zen launch": "launching.py"}[case]
    compare(*make(case, "zen", command=(script,), image=zen_image).both("width=1,3"))


def test_function_by_value(
    hydra_sweep_runner: TSweepRunner, capfd: pytest.CaptureFixture[str]
) -> None:
    """A function that no module has is sent by value, with a warning."""
    factor = 3

    def local(cfg) -> int:
        return factor * cfg.number

    returned = []
    for options in ([], ["hydra/launcher=docker", *OPTIONS]):
        sweep = hydra_sweep_runner(
            calling_file=None,
            calling_module="hydra.test_utils.a_module",
            task_function=local,
            config_path="configs",
            config_name="compose.yaml",
            overrides=["+number=2,5", *options],
        )
        with sweep:
            returned.append([job.return_value for job in sweep.returns[0]])
    assert returned == [[6, 15], [6, 15]]
    assert "is sent by value, and is not part of commit" in capfd.readouterr().out


# ---- failures ------------------------------------------------------------------------------------


def report(output: str) -> list[str]:
    """Return what Hydra prints at the end, without marks below a line and the launcher's note."""
    start = re.search(r"^Error executing job with overrides", output, re.MULTILINE)
    assert start, output
    shown = output[start.start() :].partition("\nSet the environment variable HYDRA_FULL_ERROR")[0]
    ours = re.compile(r"^\s*([~^]+\s*)?$|^job #\d+ |^Install it in the image|^Log: ")
    return [line for line in shown.splitlines() if not ours.search(line)]


def test_failures(make: MakeApp) -> None:
    """Hydra's report, exit code and exceptions are the same; the other jobs of the sweep finish."""
    hows = "chained,own,during,syntax,missing_file,in_callee,fine"
    basic, docker = make("failures").both(f"+how={hows}")
    compare(basic, docker)
    assert docker.status == 1
    assert [row["outcome"] for row in docker.ledger] == ["error"] * 6 + ["completed"]
    assert report(docker.output) == report(basic.output)
    assert "a note of the script" in report(docker.output)


def test_own_exception(make: MakeApp) -> None:
    """The traceback of a type of the user's own stands in the report as it would on the host."""
    basic, docker = make("own exception", "failures").both("+how=own")
    assert basic.status == docker.status == 1
    assert report(docker.output) == report(basic.output)


def test_full_error(make: MakeApp) -> None:
    """With HYDRA_FULL_ERROR Hydra shows its own frames too, and the user's file and line."""
    repository = make("full error", "failures")
    found = repository.docker("+how=in_callee", environment={"HYDRA_FULL_ERROR": "1"})
    assert found.status == 1
    assert "hydra/_internal/utils.py" in found.output
    assert f'File "{repository.root}/deeper.py", line 2, in fail' in found.output
    assert "AssertionError: deep is not empty" in found.output


def test_ends_without_an_exception(make: MakeApp) -> None:
    """sys.exit, os._exit, SIGKILL and a segfault fail their own job only."""
    found = make("ends", "failures").docker("+how=exits,exits_hard,killed,segfault,fine")
    assert found.status == 1
    assert [(row["outcome"], row["cause"]) for row in found.ledger] == [
        ("exited", "called sys.exit(3) before its task function returned"),
        ("exited", "ended with exit code 7, without a result"),
        ("exited", "died of SIGKILL (exit code 137)"),
        ("exited", "died of SIGSEGV (exit code 139)"),
        ("completed", "completed"),
    ]


def test_import_error_in_the_container_only(make: MakeApp) -> None:
    """A module that the image does not have: the report names it, with the script's line."""
    repository = make("import", "failures", command=("needs_module.py",))
    found = repository.docker("+how=x")
    assert found.status == 1
    assert report(found.output) == [
        "Error executing job with overrides: ['+how=x']",
        "Traceback (most recent call last):",
        f'  File "{repository.root}/needs_module.py", line 3, in <module>',
        "    import host_only",
        "ModuleNotFoundError: No module named 'host_only'",
    ]


# ---- callbacks -----------------------------------------------------------------------------------


def test_callbacks(make: MakeApp) -> None:
    """Callbacks of the commit get the same, in the container and on the host; one that raises only
    causes a warning.
    """
    basic, docker = make("callbacks").both("lr=1,3", "+hydra.job.env_set.SET=x")
    compare(basic, docker)
    for event in ("on_multirun_start", "on_multirun_end", "0/on_job_start", "1/on_job_end"):
        assert (docker.folder / f"{event}.json").is_file()
    warned = re.compile(r"(#\d)? ?.*UserWarning: (Callback Broken\.on_.*)")
    warnings = sorted(filter(None, map(warned.match, docker.output.splitlines())), key=str)
    assert {(found[1], found[2]) for found in warnings} == {
        (None, "Callback Broken.on_multirun_start raised RuntimeError: broken at the start"),
        *(
            (job, f"Callback Broken.on_job_{event} raised RuntimeError: broken at a job's {event}")
            for job in ("#0", "#1")
            for event in ("start", "end")
        ),
    }


def test_callbacks_of_a_job_that_fails(make: MakeApp) -> None:
    """on_job_end gets the exception."""
    compare(*make("callbacks").both("lr=2"))


# ---- options of a job ----------------------------------------------------------------------------


def test_options_by_interpolation(make: MakeApp) -> None:
    """A model brings its own limits; the config is otherwise the same."""
    by_model = ("hydra.launcher.mem_limit=${model.mem_limit}", "hydra.launcher.cpus=${model.cpus}")
    repository = make("options")
    basic = repository.run("hydra/launcher=basic", "model=small,large")
    docker = repository.docker("model=small,large", *by_model)
    compare(basic, docker)
    limits = [(limit["mem_limit"], limit["cpus"]) for limit in docker.limits]
    assert limits == [("100m", "0.25"), ("200m", "0.5")]


def test_options_by_config_group(make: MakeApp) -> None:
    """A config group with ``@package _global_`` sets options; per job where Hydra allows it."""
    repository = make("options")
    found = repository.docker("machine=half,quarter")
    if HYDRA_1_3:
        assert [limit["cpus"] for limit in found.limits] == ["0.5", "0.25"]
        return
    assert found.status == 1
    assert "'hydra.launcher' must be configured before the sweep starts" in found.output
    found = repository.docker("machine=half", "model=small,large")
    assert [limit["mem_limit"] for limit in found.limits] == ["150m", "150m"]


def test_model_that_only_the_sweep_chooses(make: MakeApp) -> None:
    """Hydra reads the options before it knows the model; oc.select bears with that."""
    repository = make("options", command=("app.py", "--config-name=choose"))
    limit = "hydra.launcher.mem_limit=${oc.select:model.mem_limit}"
    found = repository.docker("model=small,large", limit)
    assert [limit["mem_limit"] for limit in found.limits] == ["100m", "200m"]


def test_option_of_the_sweep_that_differs(make: MakeApp) -> None:
    """It is an error that names both jobs, before anything starts."""
    found = make("options").docker("model=small,other", "hydra.launcher.keep=${model.keep}")
    assert found.status == 1
    message = (
        "hydra.launcher.keep must be the same for all jobs of a sweep, but is 'none' for "
        "job #0 (model=small) and 'failed' for job #1 (model=other)"
    )
    assert message in found.output
    assert not found.folder.joinpath("0").exists()


# ---- logging and folders -------------------------------------------------------------------------

VARIABLES = {"COPIED": "from the host", "NEITHER": "stays there"}


def test_folders(make: MakeApp) -> None:
    """A relative sweep folder, odd names of job folders, chdir, verbose, env_set and env_copy."""
    compare(
        *make("folders", sweep="multirun/same", environment=VARIABLES).both(
            "text='a b','ü☃=(x)','s/l'",
            f"+long={'x' * 60}",
            "hydra.sweep.subdir=${hydra.job.override_dirname}",
            "hydra.job.chdir=true",
            "hydra.verbose=true",
            "hydra.output_subdir=meta",
            "+hydra.job.env_set.SET='x-${hydra:job.num}'",
            "hydra.job.env_copy=[COPIED]",
        )
    )


def test_folder_outside(make: MakeApp, tmp_path: Path) -> None:
    """An absolute sweep folder outside of the repository, no .hydra/, no logging of the job."""
    compare(
        *make("outside", "folders", sweep=f"{tmp_path}/a way/Some Name").both(
            "lr=1,2",
            "hydra.job.name=Some Name",
            "hydra.job.chdir=false",
            "hydra.output_subdir=null",
            "hydra/job_logging=disabled",
        )
    )


def test_folder_behind_a_symbolic_link(make: MakeApp, tmp_path: Path) -> None:
    """An output folder in a linked folder; logging into files of the output folder."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    compare(
        *make("symbolic link", "folders", sweep=f"{tmp_path}/link/same").both(
            "hydra/job_logging=two", "hydra.verbose=[__main__]", "hydra.job.chdir=true"
        )
    )


def test_no_logging(make: MakeApp) -> None:
    """Hydra configures no logging, a job's folder is of several levels, with ``..`` above."""
    compare(
        *make("no logging", "folders", sweep="{root}/../up/../multi", environment=VARIABLES).both(
            "lr=1",
            "hydra/job_logging=none",
            "hydra/hydra_logging=disabled",
            "hydra.job.config.override_dirname.exclude_keys=[lr]",
            "hydra.sweep.subdir=x${hydra.job.override_dirname}/${now:%Y}",
            "+hydra.job.env_set.COPIED=set",
        )
    )


def test_list_of_differences(request: pytest.FixtureRequest) -> None:
    """Every difference in the list has been seen: what is gone must go from the list."""
    own = [item for item in request.session.items if item.path == Path(__file__)]
    if len(own) < len(STARTS) + 20 or request.session.testsfailed:
        pytest.skip("not all comparisons have been made")
    assert set(DIFFERENCES) == used
