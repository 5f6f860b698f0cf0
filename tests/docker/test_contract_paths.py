"""DESIGN.md section 3: a job sees the same paths as on the host, and the commit's files only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from sweep_command import Finished, MakeRepository, Repository

TRACKED = [
    ".gitignore",
    "conf/config.yaml",
    "data/table.csv",
    "tools/helper.py",
    "tools/train.py",
]


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    """A repository with more in its working tree than the commit has."""
    repository = make_repository("paths", dirty="ignore")
    repository.write("untracked.txt", "not for jobs")
    repository.write("ignored.txt", "nor this")
    (repository.root / "empty").mkdir()
    return repository


@pytest.fixture(scope="module")
def sweep(repository: Repository) -> Finished:
    finished = repository.sweep("name=digits,wine", script="tools/train.py")
    assert finished.status == 0, finished.output
    return finished


PLACES = {
    "root": {"script": "tools/train.py"},
    "subfolder": {"script": "../tools/train.py", "cwd": "data"},
    "folder that the commit does not have": {"script": "../tools/train.py", "cwd": "empty"},
    "outside": {"script": "{root}/tools/train.py", "cwd": "{outside}"},
    "module": {"script": "tools.train", "python": ("-m",)},
    "chdir": {"script": "tools/train.py", "override": "hydra.job.chdir=true"},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_same_as_on_the_host(
    repository: Repository, tmp_path: Path, place: Mapping[str, Any]
) -> None:
    """Paths, names and types are those that Hydra's basic launcher gives a job on the host."""
    script = place["script"].format(root=repository.root)
    cwd = repository.root / place.get("cwd", "").format(outside=tmp_path)
    found = []
    for launcher in ("basic", "docker"):
        finished = repository.sweep(
            f"hydra/launcher={launcher}",
            "name=wine",
            f"hydra.sweep.dir={cwd}/multirun/same",
            *filter(None, [place.get("override")]),
            script=script,
            cwd=cwd,
            python=place.get("python", ()),
        )
        assert finished.status == 0, finished.output
        found.append(json.loads((cwd / "multirun/same/0/answers.json").read_text()))
    on_the_host, in_the_container = found
    assert in_the_container == on_the_host
    assert in_the_container["name"] == "__main__"
    assert in_the_container["file"] == str(repository.root / "tools/train.py")
    assert in_the_container["output_dir"] == str(cwd / "multirun/same/0")


def test_files(sweep: Finished) -> None:
    """The commit's files are there; untracked and ignored ones of the working tree are not."""
    assert sweep.job(0).json("files.json") == TRACKED
    assert "Running without uncommitted changes: untracked.txt" in sweep.output


def test_script_runs_as_main(sweep: Finished) -> None:
    """Code before the guard and code under it run in the container, around the task."""
    lines = [line.partition(" ")[2] for line in sweep.job(0).log.splitlines()]
    assert lines[:3] == ["before the guard", "task", "after the task"]


def test_config(sweep: Finished) -> None:
    """/hydra/config.yaml is the resolved config as plain YAML, read-only; a Path is a string."""
    for number, name in enumerate(("digits", "wine")):
        expected = {"folder": f"/data/{name}", "name": name, "kind": "large"}
        config = sweep.job(number).json("config.json")
        assert config == {"content": expected, "write": "Read-only file system"}


def test_hydra_files(sweep: Finished) -> None:
    """.hydra/ and the job's log lie where they lie with every launcher, unresolved as there."""
    folder = sweep.job(1).folder
    assert (folder / ".hydra/overrides.yaml").read_text() == "- name=wine\n"
    assert "folder: /data/${name}\n" in (folder / ".hydra/config.yaml").read_text()
    assert "launcher:\n" in (folder / ".hydra/hydra.yaml").read_text()
    assert (folder / "train.log").is_file()
    assert (sweep.folder / "multirun.yaml").is_file()


def test_working_tree_is_untouched(repository: Repository, sweep: Finished) -> None:
    """A sweep writes nothing into the repository but its own output."""
    status = repository.git("status", "--porcelain", "--ignored").splitlines()
    # The script runs on the host as well, and leaves its bytecode there.
    own = ("multirun/", "empty/", "__pycache__/")
    assert [line for line in status if not line.endswith(own)] == [
        "?? untracked.txt",
        "!! ignored.txt",
    ]


def test_mlflow_is_not_imported(sweep: Finished) -> None:
    """With mlflow.enabled=false MLflow is imported neither here nor there."""
    assert "mlflow was imported" not in sweep.output
    assert sweep.output.rstrip().endswith("after the task\nFalse")
