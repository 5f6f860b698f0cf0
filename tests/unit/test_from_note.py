"""From note: a job made of image, commit and config alone."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeEngine, FakeTracker
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from past import IMAGE
from test_launcher import FACTS

from hydra_plugins.hydra_docker_launcher._engine import Mount
from hydra_plugins.hydra_docker_launcher._errors import OptionError, ReproduceError, SourceError
from hydra_plugins.hydra_docker_launcher._from_note import Note, Noted, reproduce_note
from hydra_plugins.hydra_docker_launcher._wish import Wish

SCRIPT = "import hydra\n@hydra.main(version_base=None)\ndef main(cfg): pass\nmain()\n"
CONFIG = "lr: 0.1\nlater: ???\ntext: \\${x}\n"


@dataclass
class Bench:
    folder: Path
    commit: str
    engine: FakeEngine
    tracker: FakeTracker = field(default_factory=FakeTracker)

    def config(self, text: str, name: str = "config.yaml") -> Path:
        file = self.folder.parent / name
        file.write_text(text)
        return file

    def run(self, config: Path | None = None, **changes: Any) -> Noted | None:
        names = ("script", "module", "commit")
        note = {name: changes.pop(name) for name in names if name in changes}
        return reproduce_note(
            Note(**{"image": IMAGE.id, "commit": self.commit, "config": config, **note}),
            Wish(
                changes.pop("folder", self.folder),
                self.folder.parent / "out",
                self.folder.parent / "cache",
                **changes,
            ),
            engine=self.engine,
            make_tracker=lambda *_: self.tracker,
        )

    @property
    def record(self) -> Any:
        return json.loads(self.tracker.jobs["run-0"].artifacts["job.json"])

    @property
    def content(self) -> dict[str, Any]:
        return pickle.loads(self.tracker.jobs["run-0"].artifacts["job.pickle"])


@pytest.fixture
def bench(tmp_path, monkeypatch, commit_files):
    commit = commit_files({"train.py": SCRIPT, "library.py": "", "tools/__init__.py": ""})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = FakeEngine(
        local={IMAGE.id: IMAGE}, answer=lambda spec: (0, "\n@facts@" + json.dumps(FACTS))
    )
    return Bench(tmp_path / "project", commit, engine)


def test_job(bench):
    """The script runs on the config as it is, in the clone, with the options at their defaults."""
    noted = bench.run(bench.config(CONFIG))
    assert (noted.outcome.end.value, noted.run_id) == ("completed", "run-0")
    output = f"{bench.folder.parent}/out/0"
    (spec,) = bench.engine.specs.values()
    assert spec.working_dir == str(bench.folder)
    private = Path(output, ".docker")
    files = (private / "config.yaml", private / "job.pickle")
    guarded = ((private, False), *((file, True) for file in files))
    assert spec.mounts == (
        Mount(output, output),
        Mount(f"{output}/.docker/config.yaml", "/hydra/config.yaml", read_only=True),
        Mount(f"{output}/.docker/job.pickle", "/hydra/job.pickle", read_only=True),
        *(Mount(str(p), str(p), read_only=ro) for p, ro in guarded),
    )
    assert bench.engine.layers[0][0] == IMAGE.id
    assert bench.tracker.sweep.experiment == "train"
    run = bench.tracker.jobs["run-0"]
    assert run.artifacts["config.yaml"] == CONFIG
    assert run.tags["mlflow.source.git.commit"] == bench.commit
    root = str(bench.folder)
    assert bench.record["task"] == {
        "kind": "script",
        "target": f"{root}/train.py",
        "argv": [f"{root}/train.py"],
        "path": [root, f"{root}/src"],
    }
    assert bench.content["hydra_files"]["config.yaml"] == CONFIG


def test_can_be_reproduced(bench):
    """The new run is one like any other: its record has all that is needed."""
    bench.run(bench.config(CONFIG), options=(("cpus", 2),))
    assert bench.record["options"]["image"] == IMAGE.id
    assert bench.record["options"]["cpus"] == 2
    assert bench.record["source"]["commit"] == bench.commit


def test_hydra_is_left_alone(bench):
    """Composing the config leaves no Hydra behind."""
    bench.run(bench.config(CONFIG), dry_run=True)
    assert not GlobalHydra.instance().is_initialized()


def test_module(bench):
    """What ran as ``python -m`` runs so again."""
    bench.run(bench.config(CONFIG), module="tools.train")
    root = str(bench.folder)
    assert bench.record["task"] == {
        "kind": "module",
        "target": "tools.train",
        "argv": ["tools.train"],
        "path": [root, f"{root}/src"],
    }
    assert bench.record["script"] is None
    assert bench.tracker.sweep.experiment == "train"


def test_dry_run(bench, capsys):
    """A dry run prints the container and starts nothing."""
    assert bench.run(bench.config(CONFIG), dry_run=True) is None
    assert f"IMAGE is {IMAGE.id}" in capsys.readouterr().out
    assert bench.engine.calls == []


@pytest.mark.parametrize("name", ["my config=1,2 @x.yaml", "c{o}n:f'i\"g", "-.yml", "ünï%20.yaml"])
def test_odd_file_names(bench, name):
    """The config's file may be called anything."""
    bench.run(bench.config(CONFIG, name))
    assert bench.tracker.jobs["run-0"].artifacts["config.yaml"] == CONFIG


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hydra:\n  launcher:\n    cpus: 4\n", "has a key 'hydra', so it is not the resolved con"),
        ("defaults: [base]\n", "has a key 'defaults', so it is not the resolved config of a job"),
        ("- 1\n", "is no mapping of names to values"),
        ("3", "cannot be read"),
        ("a: [", "cannot be read"),
        ("a: ${", "cannot be read|cannot be used"),
    ],
)
def test_no_config(bench, text, said):
    """What is not the resolved config of a job is refused before anything starts."""
    with pytest.raises(ReproduceError, match=said):
        bench.run(bench.config(text))
    assert bench.engine.calls == []


def test_no_file(bench):
    """A file that is not there is named."""
    with pytest.raises(ReproduceError, match=r"config /nowhere\.yaml cannot be read: .*No such"):
        bench.run(Path("/nowhere.yaml"))


def test_which_script(bench, commit_files):
    """Where several scripts could be meant, they are named."""
    bench.commit = commit_files({"tools/eval.py": SCRIPT})
    with pytest.raises(ReproduceError) as raised:
        bench.run(bench.config(CONFIG))
    assert str(raised.value) == (
        f"Which script was it? Commit {bench.commit[:12]} has 2 scripts with hydra.main: "
        f"tools/eval.py, train.py.\nName it with --script, relative to {bench.folder}."
    )
    bench.run(bench.config(CONFIG), script="tools/eval.py")
    assert bench.record["task"]["target"] == f"{bench.folder}/tools/eval.py"


def test_no_script(bench, commit_files):
    """Where none could be meant, that is said."""
    bench.commit = commit_files({"train.py": "print(1)"})
    with pytest.raises(ReproduceError, match=r"has no script with hydra\.main\.\nName it with"):
        bench.run(bench.config(CONFIG))


def test_script_that_the_commit_does_not_have(bench):
    """A script is one of the commit."""
    with pytest.raises(SourceError, match=r"gone\.py is not in commit"):
        bench.run(bench.config(CONFIG), script="gone.py")


def test_commit_that_is_not_here(bench):
    """The error says how to name another clone."""
    with pytest.raises(SourceError, match=r"(?s)is no commit.*--repository, or the address of one"):
        bench.run(bench.config(CONFIG), commit="d" * 40)


def test_short_commit(bench):
    """The first digits of a commit are enough."""
    bench.run(bench.config(CONFIG), commit=bench.commit[:10])
    assert bench.record["source"]["commit"] == bench.commit


def test_repository(bench, tmp_path):
    """The clone may be elsewhere."""
    bench.run(bench.config(CONFIG), folder=tmp_path, repository=bench.folder)
    (spec,) = bench.engine.specs.values()
    assert spec.working_dir == str(bench.folder)


def test_remote(bench, tmp_path):
    """A remote is cloned; the clone's path is what the job sees."""
    bench.run(bench.config(CONFIG), folder=tmp_path, remote=f"file://{bench.folder}")
    (clone,) = (path for path in (tmp_path / "cache/repositories").iterdir() if path.is_dir())
    assert bench.record["source"]["root"] == str(clone)
    assert bench.record["task"]["target"] == f"{clone}/train.py"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((("mem_limt", "4g"),), "mem_limt is not an option.*mean mem_limit"),
        ((("commit", "HEAD"),), "--set commit=…: the commit is that of then"),
        ((("cpus", 64),), "(?s)cpus=64 is more than box has.*Another value is given with --set"),
    ],
)
def test_options(bench, options, said):
    """Options are checked before anything starts."""
    with pytest.raises(OptionError, match=said):
        bench.run(bench.config(CONFIG), options=options)
    assert bench.engine.calls == []


def test_interpolations(bench):
    """A config may have interpolations; they are resolved, as in a sweep."""
    bench.run(bench.config("a: 1\nb: ${a}\n"))
    artifact = bench.tracker.jobs["run-0"].artifacts["config.yaml"]
    assert OmegaConf.to_container(OmegaConf.create(artifact)) == {"a": 1, "b": 1}
