"""The command line, ``hydra-docker``: its arguments, exit codes, and what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeEngine, FakeHistory, FakeTracker, Play
from past import IMAGE, a_run
from test_from_note import SCRIPT
from test_job_record import JSON
from test_launcher import FACTS
from test_past_job import ARTIFACTS

from hydra_plugins.hydra_docker_launcher import _cli, _start
from hydra_plugins.hydra_docker_launcher._cli import main

RUN = "a" * 32
FAILING = Play(exit_code=3, result=None)


class Bench:
    """A folder with a clone in it, an engine, and a store with one run."""

    def __init__(self, folder: Path, commit: str) -> None:
        self.folder = folder
        self.engine = FakeEngine(
            local={IMAGE.id: IMAGE}, answer=lambda spec: (0, "\n@facts@" + json.dumps(FACTS))
        )
        self.tracker = FakeTracker()
        self.stores: list[tuple[str | None, Path]] = []
        record = {**JSON, "source": {**JSON["source"], "commit": commit}}
        self.commit = commit
        self.history = FakeHistory()
        self.history.add(a_run(), {**ARTIFACTS, "job.json": json.dumps(record)})

    def open_history(self, uri, folder):
        self.stores.append((uri, folder))
        return self.history


@pytest.fixture
def bench(tmp_path, monkeypatch, commit_files):
    commit = commit_files({"train.py": SCRIPT})
    found = Bench(tmp_path / "project", commit)
    monkeypatch.chdir(found.folder)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_start, "docker_engine", lambda: found.engine)
    monkeypatch.setattr(_start, "tracker", lambda *_: found.tracker)
    monkeypatch.setattr(_start, "history", found.open_history)
    return found


# ---- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["reproduce", "--volume", "/a", RUN], "'/a' is not of the form THEN=NOW"),
        (["reproduce", "--set", "cpus", RUN], "'cpus' is not of the form NAME=VALUE"),
        (["reproduce", "--set", "x=[", RUN], "'x=[' cannot be read"),
        (["reproduce", "--script", "a", "--module", "b"], "not allowed with argument --script"),
        (["note"], "the following arguments are required: RUN_ID"),
    ],
)
def test_wrong_arguments(capsys, arguments, said):
    """Wrong use ends with exit code 2, and says what is right."""
    with pytest.raises(SystemExit) as raised:
        main(arguments)
    assert raised.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give a RUN_ID, or all of --image, --commit, --config (--image is missing)"),
        (
            ["--image", "i", "--commit", "c"],
            "give a RUN_ID, or all of --image, --commit, --config (--config is missing)",
        ),
        (
            [RUN, "--image", "i"],
            "--image is for a job without a RUN_ID; --set image=… replaces the image of the run",
        ),
        ([RUN, "--module", "m"], "--module is for a job without a RUN_ID"),
        (
            ["--image", "i", "--commit", "c", "--config", "f", "--volume", "/a=/b"],
            "--volume is for the volumes of a RUN_ID; --set volumes=[…] gives others",
        ),
    ],
)
def test_arguments_of_a_note(bench, capsys, arguments, said):
    """A run, or a note, but not both."""
    assert main(["reproduce", *arguments]) == 2
    assert capsys.readouterr().err == f"hydra-docker: {said}\n"
    assert bench.stores == []


@pytest.mark.parametrize("command", [[], ["reproduce"], ["note"], ["gc"]])
def test_help(capsys, command):
    """Every command explains itself."""
    with pytest.raises(SystemExit) as raised:
        main([*command, "--help"])
    assert raised.value.code == 0
    assert capsys.readouterr().out.startswith("usage: hydra-docker")


# ---- reproduce -----------------------------------------------------------------------------------


def test_reproduce(bench, capsys):
    """The report ends with where the outputs are; the exit code is 0."""
    bench.tracker.close_sweep = lambda _: bench.history.read(bench.tracker)
    assert main(["reproduce", RUN]) == 0
    (folder,) = (bench.folder / "reproduced").iterdir()
    out = capsys.readouterr().out
    assert out.startswith(f"\njob #0 (lr=0.1): completed\n  run then  {RUN}\n  run now   run-0\n")
    assert out.endswith(f"\n\noutputs in {folder}\n")
    assert (folder / "sweep.json").is_file()
    assert bench.stores == [(None, bench.folder)]


def test_what_is_asked_for(bench, tmp_path, capsys):
    """Every option comes where it belongs."""
    bench.history.artifacts[RUN]["job.json"] = bench.history.artifacts[RUN]["job.json"].replace(
        b'"cpus": 1.5', b'"cpus": 1.5, "volumes": ["/then:/data"]'
    )
    arguments = ["--output", "new/out", "--volume", f"/then={tmp_path}", "--set", "cpus=2"]
    more = ["--set", "hydra.launcher.labels={team: vision}", "--tracking-uri", "http://store"]
    assert main(["reproduce", RUN, *arguments, *more]) == 0
    (spec,) = bench.engine.specs.values()
    assert spec.mounts[0].source == str(bench.folder / "new/out/0")
    assert (spec.mounts[3].source, spec.mounts[3].target) == (str(tmp_path), "/data")
    assert spec.limits.cpus == 2
    assert dict(spec.labels)["team"] == "vision"
    assert bench.stores == [("http://store", bench.folder)]


def test_job_that_does_not_complete(bench, capsys):
    """The exit code says that a job has not completed."""
    bench.engine.plays = {0: FAILING}
    assert main(["reproduce", RUN]) == 1
    assert "job #0 (lr=0.1): exited: ended with exit code 3" in capsys.readouterr().out


def test_dry_run(bench, capsys):
    """A dry run leaves no folder behind."""
    assert main(["reproduce", "--dry-run", RUN]) == 0
    assert "Nothing has been started." in capsys.readouterr().out
    assert not (bench.folder / "reproduced").exists()


def test_error(bench, capsys):
    """An error is a message without a traceback, and nothing half-made is left."""
    assert main(["reproduce", "gone"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: There is no run gone\n"
    assert captured.out == ""
    assert not (bench.folder / "reproduced").exists()


@pytest.mark.parametrize(("arguments", "status"), [(["--dry-run", RUN], 141), ([RUN], 0)])
def test_output_that_is_read_no_further(bench, monkeypatch, arguments, status):
    """``| head`` ends a command, without a traceback, but no job: with those it ends as they do."""
    bench.engine.plays = {0: Play(lines=("hello",))}
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(["reproduce", *arguments]) == status


def test_ctrl_c(bench, capsys, monkeypatch):
    """Ctrl-C before anything runs leaves nothing behind."""

    def interrupt(_uri, _folder):
        raise KeyboardInterrupt

    monkeypatch.setattr(_start, "history", interrupt)
    assert main(["reproduce", RUN]) == 130
    assert capsys.readouterr().err == "interrupted\n"
    assert not (bench.folder / "reproduced").exists()


def test_from_a_note(bench, capsys, tmp_path):
    """A job of a note says how it ended, and which run it is."""
    config = tmp_path / "config.yaml"
    config.write_text("lr: 0.1\n")
    arguments = ["--image", IMAGE.id, "--commit", bench.commit, "--config", str(config)]
    assert main(["reproduce", *arguments]) == 0
    (folder,) = (bench.folder / "reproduced").iterdir()
    out = capsys.readouterr().out
    assert out == f"\njob completed\n  run now   run-0\n\noutputs in {folder}\n"
    bench.engine.plays = {0: FAILING}
    assert main(["reproduce", *arguments]) == 1
    assert main(["reproduce", "--dry-run", *arguments]) == 0
    assert bench.stores == []


# ---- note ----------------------------------------------------------------------------------------


def test_note(bench, capsys):
    """A note is printed, and the config is written beside it."""
    assert main(["note", RUN]) == 0
    assert capsys.readouterr().out.splitlines()[:3] == [
        f"image:  {IMAGE.id}  (train:1; in no registry)",
        f"commit: {bench.commit}  (/home/ada/project)",
        "config: config-aaaaaaaa.yaml",
    ]
    text = (bench.folder / "config-aaaaaaaa.yaml").read_text()
    assert text == ARTIFACTS["config.yaml"]


def test_note_of_a_snapshot(bench, capsys):
    """The patch of a snapshot is written beside the config."""
    record = json.loads(bench.history.artifacts[RUN]["job.json"])
    record["source"]["parent"] = "b" * 40
    bench.history.artifacts[RUN]["job.json"] = json.dumps(record).encode()
    bench.history.artifacts[RUN]["changes.patch"] = b"diff --git \xe9"
    assert main(["note", RUN]) == 0
    assert "changes-aaaaaaaa.patch on bbbbbbbbbbbb; " in capsys.readouterr().out
    assert (bench.folder / "changes-aaaaaaaa.patch").read_bytes() == b"diff --git \xe9"


def test_note_that_cannot_be_written(bench, capsys):
    """Where the config cannot be written, no note is printed."""
    (bench.folder / "config-aaaaaaaa.yaml").mkdir()
    assert main(["note", RUN]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: Cannot write config-aaaaaaaa.yaml into this ")
    assert captured.out == ""


# ---- as a command --------------------------------------------------------------------------------


def test_command(tmp_path):
    """In a folder without a store the command says so, and imports no engine for it."""
    environment = {name: value for name, value in os.environ.items() if "MLFLOW" not in name}
    path = os.pathsep.join([str(Path(_cli.__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli", "reproduce", "abc"),
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: There is no MLflow store in {tmp_path}: ")
    assert list(tmp_path.iterdir()) == []
