"""The whole of a sweep, from overrides to JobReturns, with fakes for engine and tracker."""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import hydra
import omegaconf
import pytest
from fakes import FakeEngine, FakeTracker, Play
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _attach, _background, _sweep_folder
from hydra_plugins.hydra_docker_launcher._engine import FoundImage, Image
from hydra_plugins.hydra_docker_launcher._errors import (
    DataError,
    ImageError,
    JobError,
    OptionError,
    SourceError,
    SweepError,
    TaskError,
    TrackingError,
)
from hydra_plugins.hydra_docker_launcher._sweep import Sweep
from hydra_plugins.hydra_docker_launcher._tracking import StoreAccess
from hydra_plugins.hydra_docker_launcher.config import DockerLauncherConf
from hydra_plugins.hydra_docker_launcher.docker_launcher import DockerLauncher

IMAGE = Image("sha256:" + "1" * 64, "train:1", "train@sha256:" + "2" * 64)
LAYER = f"sha256:{0xABC:064x}"
FACTS = {
    "python": "3.11.2",
    "hydra": hydra.__version__,
    "omegaconf": omegaconf.__version__,
    "uid": os.getuid(),
    "gid": os.getgid(),
    "packages": ["hydra-core==1.3.8"],
    "gpus": [],
}
CONFIG = """
defaults:
  - override hydra/launcher: docker
lr: 1
model: {mem_limit: 1g}
hydra:
  sweep: {dir: multirun/x}
  launcher: {image: train:1, mem_limit: "${model.mem_limit}"}
"""


TRAIN = """
def task(cfg):
    return cfg.lr * 2
"""


@dataclass
class Bench:
    """A launch folder that is a repository, and what a sweep in it talks to."""

    folder: Path
    multirun: Any
    commit_files: Any
    commit: str
    engine: FakeEngine
    #: The user's function; it is in no script, so that it is found by its name.
    task: Any
    tracker: FakeTracker = field(default_factory=FakeTracker)
    engines_made: int = 0

    def sweep(self, *overrides: str, function=None) -> Sweep:
        self.context, self.config = self.multirun(self.folder / "conf", *overrides)

        def make_engine():
            self.engines_made += 1
            return self.engine

        return Sweep(
            self.context,
            self.config,
            function or self.task,
            make_engine,
            lambda *arguments: self.tracker,
        )

    def configure(self, values: str, **options: str) -> None:
        """Add values to the config, and launcher options that take them by interpolation."""
        lines = "".join(f"    {name}: ${{{key}}}\n" for name, key in options.items())
        text = CONFIG.replace("  launcher: {image: train:1", "  launcher:\n    image: train:1")
        text = text.replace(', mem_limit: "${model.mem_limit}"}\n', f"\n{lines}")
        (self.folder / "conf" / "config.yaml").write_text(values + text)

    @property
    def ledger(self) -> dict[str, Any]:
        return json.loads((self.folder / "multirun/x/sweep.json").read_text())

    @property
    def requests(self) -> list[str]:
        return [call[0] for call in self.engine.calls]


@pytest.fixture
def bench(tmp_path, monkeypatch, multirun, commit_files) -> Iterator[Bench]:
    commit = commit_files(
        {"conf/config.yaml": CONFIG, "train.py": TRAIN, ".gitignore": "multirun\n"}
    )
    folder = tmp_path / "project"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "train", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    engine = FakeEngine(
        local={"train:1": IMAGE},
        answer=lambda spec: (0, "\n@facts@" + json.dumps(FACTS)),
    )
    task = importlib.import_module("train").task
    yield Bench(folder, multirun, commit_files, commit, engine, task)
    sys.modules.pop("train", None)


def value(number):
    return Play(result={"outcome": "completed", "value": number})


def test_sweep(bench):
    """Two jobs, one batch: a container each, at the same paths, with the pinned commit."""
    bench.engine.plays = {0: value(2.0), 1: value(4.0)}

    returned = bench.sweep().launch([["lr=1"], ["lr=2", "model.mem_limit=2g"]], 0)

    assert [(r.status, r.return_value) for r in returned] == [
        (JobStatus.COMPLETED, 2.0),
        (JobStatus.COMPLETED, 4.0),
    ]
    specs = bench.engine.specs
    assert {spec.image for spec in specs.values()} == {LAYER}
    assert [specs[n].limits.memory for n in (0, 1)] == [1024**3, 2 * 1024**3]
    assert [specs[n].working_dir for n in (0, 1)] == [str(bench.folder)] * 2
    assert [specs[n].mounts[0].target for n in (0, 1)] == [
        f"{bench.folder}/multirun/x/0",
        f"{bench.folder}/multirun/x/1",
    ]
    assert [dict(specs[n].labels)["hydra.docker.commit"] for n in (0, 1)] == [bench.commit] * 2
    assert bench.engine.layers[0][0] == IMAGE.id
    assert bench.engine.layers[0][3] == str(bench.folder)


def test_files_of_a_job(bench):
    """The resolved config stands in the output folder, for the eyes of the user only."""
    bench.sweep().launch([["lr=3"]], 0)

    private = bench.folder / "multirun/x/0/.docker"
    assert (private / "config.yaml").read_text() == "lr: 3\nmodel:\n  mem_limit: 1g\n"
    assert (private / "config.yaml").stat().st_mode & 0o777 == 0o600
    assert private.stat().st_mode & 0o777 == 0o700
    assert sorted(path.name for path in private.iterdir()) == [
        "config.yaml",
        "container.json",
        "result.json",
    ]


SECRET = "s3cr3t-of-ada"


def with_secret(bench, **options: str) -> list[str]:
    """Give the bench a config with a secret, and return the overrides of a job with another."""
    bench.configure(f"db: {{password: {SECRET}}}\n", **options)
    bench.engine.plays = {
        0: Play(
            lines=(f"logged in with {SECRET}", "and abcdef-token"),
            exit_code=1,
            result={
                "outcome": "error",
                "error": {
                    "type": "OSError",
                    "module": "builtins",
                    "message": f"no {SECRET}",
                    "args": [f"no {SECRET}"],
                    "traceback": f"OSError: no {SECRET}",
                },
            },
        )
    }
    return ["+token=abcdef-token"]


def test_secrets(bench, caplog, capsys, monkeypatch):
    """They reach the container in files that are gone when it is, and are written down nowhere."""
    monkeypatch.setenv("DB_TOKEN", "env-secret-1")
    overrides = with_secret(bench)
    with caplog.at_level("INFO"):
        (returned,) = bench.sweep("hydra.launcher.environment={DB_TOKEN: null, A: 1}").launch(
            [overrides], 0
        )

    (container,) = bench.engine.made.values()
    assert container.variables["DB_TOKEN"] == "env-secret-1"
    assert SECRET in container.secrets["config.yaml"].decode()
    output = bench.folder / "multirun/x/0"
    mounts = {mount.target: mount.source for mount in container.spec.mounts}
    assert mounts["/hydra/config.yaml"] == f"{output}/.docker/secrets/config.yaml"
    # The container is kept, and has mounted what is written down of the config.
    assert [path.name for path in (output / ".docker/secrets").iterdir()] == ["config.yaml"]

    assert returned.overrides == overrides
    assert f"{returned.overrides}" == "['+token=<hidden>']"
    with pytest.raises(JobError) as raised:
        _ = returned.return_value
    tracked = (bench.tracker.sweep, bench.tracker.jobs, bench.tracker.ends)
    files = [path for path in (bench.folder / "multirun").rglob("*") if path.is_file()]
    files.remove(output / ".docker/result.json")  # its worker masks it, which is none here
    told = [
        str(raised.value),
        caplog.text,
        "".join(capsys.readouterr()),
        repr(tracked),
        repr(container.spec),
        *(path.read_text(errors="replace") for path in files),
    ]
    for secret in (SECRET, "abcdef-token", "env-secret-1"):
        assert [text for text in told if secret in text] == []
    assert "logged in with <hidden>" in (output / "container.log").read_text()
    assert bench.tracker.jobs["run-0"].name == "+token=<hidden>"
    assert bench.tracker.ends["run-0"].params["db.password"] == "<hidden>"


@pytest.mark.parametrize("planted", ["link", "folder"])
def test_job_that_meddles_with_its_secrets(bench, tmp_path, planted):
    """What it has put in the place of their folder, or into it, leads nowhere and stops nothing."""
    overrides = with_secret(bench)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "id_rsa").touch()
    folder = bench.folder / "multirun/x/0/.docker/secrets"

    def meddle() -> None:
        if planted == "folder":
            (folder / "inner").mkdir()
            return
        folder.rename(tmp_path / "moved")
        folder.symlink_to(precious)

    start = bench.engine.start
    bench.engine.start = lambda container: (meddle(), start(container))
    bench.sweep("hydra.launcher.keep=none").launch([overrides], 0)

    assert (precious / "id_rsa").exists()
    (container,) = bench.engine.made.values()
    assert container.removed
    assert bench.ledger["jobs"][0]["outcome"] == "error"


def test_secret_in_the_name_of_a_folder(bench):
    """A job's output folder is called by its overrides; the error says how to leave one out."""
    overrides = with_secret(bench)
    sweep = bench.sweep("hydra.sweep.subdir=${hydra.job.override_dirname}")
    with pytest.raises(OptionError, match=r"\+token=<hidden>\n.*exclude_keys") as raised:
        sweep.launch([overrides], 0)
    assert "abcdef-token" not in str(raised.value)
    assert bench.engine.calls == []


def test_secret_of_the_config_as_build_argument(bench):
    """An image would keep it."""
    overrides = with_secret(bench)
    sweep = bench.sweep("hydra.launcher.build.args.WHICH=${db.password}")
    with pytest.raises(OptionError, match="WHICH has a secret of the config in it"):
        sweep.launch([overrides], 0)
    assert bench.engines_made == 0


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("hydra.launcher.mlflow.run_name=run-${db.password}", "hydra.launcher.mlflow.run_name"),
        (
            "hydra.launcher.mlflow.experiment_name=of-${db.password}",
            "hydra.launcher.mlflow.experiment_name",
        ),
        ("hydra.launcher.volumes=['/nowhere/${db.password}:/d']", "hydra.launcher.volumes"),
        ("hydra.launcher.image=train:${db.password}", "hydra.launcher.image"),
        ("hydra.job.name=train-${db.password}", "hydra.job.name"),
        ("hydra.sweep.dir=multirun/${db.password}", "hydra.sweep.dir"),
    ],
)
@pytest.mark.parametrize("secret", [SECRET, "abc12"])
def test_secret_of_the_config_in_what_all_can_read(bench, caplog, option, key, secret):
    """It is refused, however short it is, and no message shows it; ``redact`` can allow it."""
    bench.configure(f"db: {{password: {secret}}}\n")
    with pytest.raises(OptionError, match=f"{key} has a secret of the config in it") as raised:
        bench.sweep(option).launch([["lr=1"]], 0)
    assert secret not in str(raised.value) + caplog.text
    assert bench.engine.calls == []
    if "volumes" not in option and "image" not in option:
        bench.sweep(option, "hydra.launcher.redact=['!db.password']").launch([["lr=1"]], 0)


def test_secret_of_the_config_in_an_error(bench):
    """An option that is wrong is shown without it."""
    bench.configure(f"db: {{password: {SECRET}}}\n")
    option = "hydra.launcher.environment={NVIDIA_VISIBLE_DEVICES: 'x ${db.password}'}"
    with pytest.raises(OptionError) as raised:
        bench.sweep(option).launch([["lr=1"]], 0)
    assert "environment.NVIDIA_VISIBLE_DEVICES=x <hidden>: is the launcher's own" in str(
        raised.value
    )
    assert SECRET not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize("secret", [SECRET, "abc12"])
def test_secret_of_the_config_in_a_tag(bench, secret, capsys):
    """A tag, a label and a variable that take it in: it is in nothing that others can read."""
    bench.configure(f"db: {{password: {secret}}}\nplace: x ${{db.password}}\n")
    options = (
        "+hydra.launcher.mlflow.tags.note='pw ${db.password}'",
        "+hydra.launcher.labels.of='${db.password}'",
        "hydra.launcher.environment={PLAIN: '${place}', PUBLIC: yes}",
    )
    bench.sweep(*options).launch([["lr=1"]], 0)
    bench.sweep(*options, "hydra.launcher.dry_run=true", "hydra.sweep.dir=y").launch([["lr=1"]], 0)

    (container,) = bench.engine.made.values()
    assert container.variables["PLAIN"] == f"x {secret}"
    assert dict(container.spec.environment)["PUBLIC"] == "yes"
    tracked = repr((bench.tracker.sweep, bench.tracker.jobs, bench.tracker.ends))
    files = [path for path in (bench.folder / "multirun").rglob("*") if path.is_file()]
    told = [
        tracked,
        repr(container.spec),
        *capsys.readouterr(),
        *(path.read_text(errors="replace") for path in files),
    ]
    assert [text for text in told if secret in text] == []
    assert bench.tracker.sweep.tags["note"] == "<hidden>"
    assert dict(container.spec.labels)["of"] == "<hidden>"
    record = json.loads(bench.tracker.jobs["run-0"].artifacts["job.json"])
    assert record["options"]["environment"]["PLAIN"] == "${oc.env:PLAIN}"
    assert record["secret_variables"] == ["PLAIN"]


def test_secret_that_stands_again_in_the_command_line(bench, monkeypatch):
    """An override of another key may have it in it; the job's own ``sys.argv`` is whole."""
    bench.configure(f"db: {{password: {SECRET}}}\n")
    again = f"+note='host?pw={SECRET}'"
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", again])
    bench.sweep("hydra.sweep.dir=multirun/x").launch([[again]], 0)

    (container,) = bench.engine.made.values()
    assert again in json.loads(container.secrets["redaction.json"])["argv"]
    assert "+note='host?pw=<hidden>'" in bench.ledger["task"]["argv"]
    tracked = repr((bench.tracker.sweep, bench.tracker.jobs, bench.tracker.ends))
    files = [path for path in (bench.folder / "multirun").rglob("*") if path.is_file()]
    assert [text for text in (tracked, *map(_text, files)) if SECRET in text] == []


def _text(file: Path) -> str:
    return file.read_bytes().decode("utf-8", "replace")


def test_default_of_a_variable(bench, monkeypatch):
    """What ``oc.env`` falls back to may be the secret; of no secret it stays."""
    monkeypatch.delenv("DB_PASSWORD", raising=False)
    bench.configure(f"db: {{password: {SECRET}}}\n")
    given = (
        "DB_PASSWORD: '${oc.env:DB_PASSWORD,default3333}'",
        "PLAIN: '${oc.env:DB_PASSWORD,default3333}'",
        "THREADS: '${oc.env:THREADS_OF_NOBODY,4}'",
        f"MIX: 'pw={SECRET} ${{oc.env:HOME}}'",
    )
    bench.sweep(f"hydra.launcher.environment={{{', '.join(given)}}}").launch([["lr=1"]], 0)

    (container,) = bench.engine.made.values()
    assert container.variables["PLAIN"] == "default3333"
    record = json.loads(bench.tracker.jobs["run-0"].artifacts["job.json"])
    assert record["options"]["environment"] == {
        "DB_PASSWORD": "${oc.env:DB_PASSWORD}",
        "PLAIN": "${oc.env:DB_PASSWORD}",
        "THREADS": "${oc.env:THREADS_OF_NOBODY,4}",
        "MIX": "${oc.env:MIX}",
    }
    tracked = repr((bench.tracker.sweep, bench.tracker.jobs, container.spec))
    files = [path for path in (bench.folder / "multirun").rglob("*") if path.is_file()]
    for secret in ("default3333", SECRET):
        assert [text for text in (tracked, *map(_text, files)) if secret in text] == []


def test_env_file_in_the_repository(bench):
    """It is no code: it need not be committed, and no snapshot takes it."""
    (bench.folder / "variables.env").write_text("PLAIN=file-secret\n")
    bench.sweep("hydra.launcher.env_file=variables.env").launch([["lr=1"]], 0)
    (bench.folder / "train.py").write_text(f"{TRAIN}# changed\n")
    bench.sweep(
        "hydra.launcher.env_file=variables.env",
        "hydra.launcher.dirty=snapshot",
        "hydra.sweep.dir=multirun/y",
    ).launch([["lr=1"]], 0)

    assert [made.variables["PLAIN"] for made in bench.engine.made.values()] == ["file-secret"] * 2
    files = []
    for archive in bench.engine.archives:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            files += opened.getnames()
    assert any(name.endswith("train.py") for name in files)
    assert not any(name.endswith("variables.env") for name in files)
    assert b"# changed" in bench.tracker.sweep.artifacts["changes.patch"]
    assert "file-secret" not in repr((bench.tracker.sweep, bench.tracker.jobs))


def test_secrets_of_the_store(bench):
    """The password of a tracking server comes by the file as well, wherever it is from."""
    variables = (("MLFLOW_TRACKING_PASSWORD", "store-secret"), ("MLFLOW_TRACKING_USERNAME", "ada"))
    bench.tracker.store = StoreAccess(variables)
    bench.engine.plays = {0: Play(lines=("tried store-secret",))}

    bench.sweep().launch([["lr=1"]], 0)

    (container,) = bench.engine.made.values()
    assert container.variables["MLFLOW_TRACKING_PASSWORD"] == "store-secret"
    assert dict(container.spec.environment)["MLFLOW_TRACKING_USERNAME"] == "ada"
    assert ["store-secret", "<hidden>"] in json.loads(container.secrets["redaction.json"])["masks"]
    assert "store-secret" not in repr(container.spec)
    output = bench.folder / "multirun/x/0"
    assert "tried <hidden>" in (output / "container.log").read_text()
    assert not (output / ".docker/secrets").exists()


def test_files_of_the_commit(bench):
    """The layer has the commit's files, not the working tree's."""
    (bench.folder / "multirun").mkdir()
    (bench.folder / "multirun" / "notes.txt").write_text("ignored by git")

    bench.sweep().launch([["lr=3"]], 0)

    with tarfile.open(fileobj=io.BytesIO(bench.engine.archives[0])) as archive:
        names = {f"/{name}" for name in archive.getnames()}
    root = str(bench.folder)
    assert {name for name in names if name.startswith(root)} == {
        root,
        f"{root}/.gitignore",
        f"{root}/conf",
        f"{root}/conf/config.yaml",
        f"{root}/train.py",
    }


def test_clone(bench, monkeypatch):
    """Containers get what a clone needs: files in the layer, secrets beside the job."""
    git = ("git", "-C", str(bench.folder))
    url = "https://ada@example.org/a.git"
    subprocess.run((*git, "remote", "add", "origin", url), check=True)
    subprocess.run((*git, "update-ref", "refs/remotes/origin/main", "HEAD"), check=True)
    monkeypatch.setenv("REMOTE_TOKEN", "ghp_1")
    clone = ("hydra.launcher.delivery=clone", "hydra.launcher.clone.token=REMOTE_TOKEN")
    seen = []
    create = bench.engine.create

    def look(spec):
        (secrets,) = [mount for mount in spec.mounts if mount.target == "/hydra/secrets"]
        seen.append((Path(secrets.source, "credential").read_text(), secrets.read_only))
        return create(spec)

    bench.engine.create = look
    with pytest.raises(ImageError, match="has no git, which containers need to clone the commit"):
        bench.sweep(*clone).launch([["lr=1"]], 0)
    bench.engine.answer = lambda spec: (0, "\n@facts@" + json.dumps({**FACTS, "git": "2.39.5"}))
    monkeypatch.setenv("XDG_CACHE_HOME", str(bench.folder.parent / "another cache"))
    bench.sweep(*clone).launch([["lr=1"]], 0)

    assert seen == [("username=ada\npassword=ghp_1\n", True)]
    assert not (bench.folder / "multirun/x/0/.docker/secrets").exists()
    with tarfile.open(fileobj=io.BytesIO(bench.engine.archives[-1])) as archive:
        names = {f"/{name}" for name in archive.getnames()}
        assert archive.extractfile("hydra/clone.json").read().count(b"https://example.org/a.git")
    assert f"{bench.folder}/conf" in names
    assert f"{bench.folder}/train.py" not in names
    assert bench.ledger["options"]["remote"] == "https://example.org/a.git"
    assert all(b"ghp_1" not in archive for archive in bench.engine.archives)


def test_image_of_the_commit(bench):
    """Its name, id and digest are recorded, as what to keep; it stays after the sweep."""
    sweep = bench.sweep("hydra.launcher.delivery=image")
    sweep.launch([["lr=1"]], 0)
    (_, tag, _, _), (_, layer, _, _) = bench.engine.layers
    found = bench.engine.local[tag]
    assert bench.ledger["delivered"] == {"reference": tag, "id": found.id, "digest": None}
    tags = bench.tracker.jobs["run-0"].tags
    assert tags["hydra.docker.delivered.id"] == found.id
    assert tags["hydra.docker.delivered.uri"] == tag
    assert tags["mlflow.docker.image.id"] == IMAGE.id

    del sweep
    gc.collect()
    assert [call for call in bench.engine.calls if call[0] == "remove_image"] == [
        ("remove_image", layer)
    ]


def test_image_of_the_commit_that_is_pushed(bench):
    """Both images are pushed, the one of the commit under its own tag; its digest is recorded."""
    bench.sweep("hydra.launcher.delivery=image", "hydra.launcher.push=team/x").launch([["lr=1"]], 0)
    tag = bench.engine.layers[0][1].rpartition(":")[2]
    found = bench.engine.local[f"team/x:{tag}"]
    assert bench.ledger["delivered"] == {
        "reference": f"team/x:{tag}",
        "id": found.id,
        "digest": found.digest,
    }
    assert [call for call in bench.engine.calls if call[0] == "push"] == [
        ("push", IMAGE.id, f"team/x:{IMAGE.short}"),
        ("push", found.id, f"team/x:{tag}"),
    ]


@pytest.mark.parametrize("digest", [None, "train@sha256:2"])
def test_image_that_exists_only_here(bench, caplog, digest):
    """A warning in one line says so, and how to push it; none where a registry has it."""
    bench.engine.local["train:1"] = replace(IMAGE, digest=digest)
    bench.sweep().launch([["lr=1"]], 0)
    told = [record.getMessage() for record in caplog.records if "only on this engine" in record.msg]
    expected = (
        "The image 111111111111 exists only on this engine, and nobody else can run it. "
        "hydra.launcher.push=REPOSITORY pushes it to a registry."
    )
    assert told == ([] if digest else [expected])


def test_as_the_basic_launcher(bench):
    """Sweepers get what Hydra's own launcher returns."""
    overrides = [["lr=1"], ["lr=2"]]
    bench.engine.plays = {0: value(2), 1: value(4)}
    sweep = bench.sweep()
    returned = sweep.launch(overrides, 0)
    launcher = BasicLauncher()
    launcher.setup(hydra_context=bench.context, task_function=bench.task, config=bench.config)

    expected = launcher.launch(overrides, 0)

    def shown(jobs):
        return [
            {
                "overrides": job.overrides,
                "cfg": OmegaConf.to_yaml(job.cfg),
                "hydra_cfg": OmegaConf.to_yaml(job.hydra_cfg),
                "working_dir": job.working_dir,
                "task_name": job.task_name,
                "status": job.status,
                "return_value": job.return_value,
            }
            for job in jobs
        ]

    assert shown(returned) == shown(expected)


def test_record(bench):
    """Parent and child runs, the ledger: what was run, and how it ended."""
    error = {"module": "builtins", "type": "ValueError", "message": "no", "args": ["no"]}
    bench.engine.plays = {
        0: value({"loss": 0.5, "name": "x"}),
        1: Play(exit_code=1, result={"outcome": "error", "error": error}),
    }

    bench.sweep("hydra.launcher.mlflow.tags={stage: draft}").launch([["lr=1"], ["lr=2"]], 0)

    tracker = bench.tracker
    assert tracker.statuses == ["RUNNING", "FAILED"]
    assert (tracker.sweep.experiment, tracker.sweep.name) == ("app", "x")
    assert tracker.sweep.tags["mlflow.source.git.commit"] == bench.commit
    assert tracker.sweep.tags["stage"] == "draft"
    assert {run_id: run.name for run_id, run in tracker.jobs.items()} == {
        "run-0": "lr=1",
        "run-1": "lr=2",
    }
    ends = [tracker.ends["run-0"], tracker.ends["run-1"]]
    assert [end.status.value for end in ends] == ["FINISHED", "FAILED"]
    assert ends[0].metrics == {"loss": 0.5}
    assert ends[0].params == {"lr": 1, "model.mem_limit": "1g"}
    assert ends[1].tags["hydra.docker.cause"] == "raised ValueError: no"
    assert [(row["outcome"], row["exit_code"]) for row in bench.ledger["jobs"]] == [
        ("completed", 0),
        ("error", 1),
    ]
    assert bench.ledger["source"]["commit"] == bench.commit
    assert bench.ledger["image"]["id"] == IMAGE.id


def test_failed_job(bench):
    """A job that fails is a FAILED JobReturn, which raises only when it is asked."""
    bench.engine.plays = {0: Play(exit_code=3, result=None, lines=("oh no",))}

    returned = bench.sweep().launch([["lr=1"]], 0)

    assert returned[0].status is JobStatus.FAILED
    with pytest.raises(JobError) as caught:
        _ = returned[0].return_value
    assert str(caught.value) == (
        "job #0 (lr=1) exited: ended with exit code 3, without a result\n"
        f"Log: {bench.folder}/multirun/x/0/container.log\n"
        "  oh no"
    )


# ---- batches -------------------------------------------------------------------------------------


def test_batches(bench):
    """Later batches use the first one's commit, image and record; the numbers go on."""
    sweep = bench.sweep()
    sweep.launch([["lr=1"], ["lr=2"]], 0)
    bench.commit_files({"train.py": "changed"})
    (bench.folder / "train.py").write_text("changed again, and not committed")

    returned = sweep.launch([["lr=3"]], 2)

    assert [job.overrides for job in returned] == [["lr=3"]]
    assert dict(bench.engine.specs[2].labels)["hydra.docker.commit"] == bench.commit
    assert bench.engines_made == 1
    assert (bench.requests.count("add_layer"), len(bench.engine.probes)) == (1, 1)
    assert bench.tracker.statuses == ["RUNNING", "FINISHED", "RUNNING", "FINISHED"]
    assert [row["job"] for row in bench.ledger["jobs"]] == [0, 1, 2]


def test_layer_is_removed_in_the_end(bench):
    """The image with the commit's files goes when the sweep does."""
    sweep = bench.sweep()
    sweep.launch([["lr=1"]], 0)
    assert "remove_image" not in bench.requests

    del sweep
    gc.collect()

    ((_, tag, _, _),) = bench.engine.layers
    assert bench.engine.calls[-1] == ("remove_image", tag)


def test_images_of_a_resumed_sweep(bench):
    """Those that launchers before have made go too, whether or not they have a name still."""
    sweep = bench.sweep()
    sweep.launch([["lr=1"]], 0)
    ((_, tag, labels, _),) = bench.engine.layers
    nameless = FoundImage("sha256:1", (), (), labels, 0, 0, 0)
    earlier = {**labels, "hydra.docker.sweep": "20261122-100000-abcdef"}
    bench.engine.found = (
        nameless,
        replace(nameless, id="sha256:2", labels=earlier, names=(tag[:-6] + "abcdef",)),
        replace(nameless, id="sha256:3", digests=("team/x@sha256:4",)),
        replace(nameless, id="sha256:4", names=("hydra-docker/project:1",)),
        replace(nameless, id="sha256:5", labels={**labels, "hydra.docker.folder": "/another"}),
    )

    del sweep
    gc.collect()

    assert bench.engine.calls[-3:] == [
        ("remove_image", tag),
        ("remove_image", "sha256:1"),
        ("remove_image", "sha256:2"),
    ]


def test_resumed_after_a_recorded_end(bench):
    """A job that has completed gives its value, and what was left of it is removed."""
    bench.engine.plays = {0: value(2.0)}
    bench.sweep("hydra.launcher.keep=all").launch([["lr=1"]], 0)
    gc.collect()
    again = bench.sweep("hydra.launcher.keep=none", "hydra.launcher.resume=true")
    (returned,) = again.launch([["lr=1"]], 0)
    assert returned.return_value == 2.0
    assert len(bench.engine.made) == 1
    assert bench.engine.containers({}) == ()
    assert not (bench.folder / "multirun/x/0/.docker/job.pickle").exists()


def test_layer_is_removed_after_an_error(bench):
    """So it does where the sweep ends while the image is being made: Ctrl-C, a full disk."""

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    bench.engine.add_layer = interrupted
    sweep = bench.sweep()
    with pytest.raises(KeyboardInterrupt):
        sweep.launch([["lr=1"]], 0)

    del sweep
    gc.collect()

    assert bench.engine.calls[-1][0] == "remove_image"


def test_option_of_the_sweep_that_differs(bench):
    """The message names both jobs, in a batch and across batches; nothing starts."""
    bench.configure("at_once: -1\nrevision: HEAD\n", n_jobs="at_once", commit="revision")
    sweep = bench.sweep()
    with pytest.raises(OptionError) as caught:
        sweep.launch([["lr=1"], ["lr=2", "at_once=2"]], 0)
    assert str(caught.value) == (
        "hydra.launcher.n_jobs must be the same for all jobs of a sweep, but is -1 for job #0 "
        "(lr=1) and 2 for job #1 (lr=2 at_once=2)"
    )
    assert bench.engines_made == 0

    sweep.launch([["lr=1"]], 0)
    with pytest.raises(OptionError) as caught:
        sweep.launch([["lr=5", "revision=v1"]], 1)
    assert str(caught.value) == (
        "hydra.launcher.commit must be the same for all jobs of a sweep, but is 'HEAD' for job #0 "
        "(lr=1) and 'v1' for job #1 (lr=5 revision=v1)"
    )


# ---- what is refused before anything starts ------------------------------------------------------


def test_wrong_option(bench):
    """The message begins with the job whose option it is."""
    with pytest.raises(OptionError) as caught:
        bench.sweep().launch([["lr=1"], ["model.mem_limit=much"]], 0)
    assert str(caught.value) == (
        "job #1 (model.mem_limit=much): hydra.launcher.mem_limit=much: must be a size such as "
        "512m, 2g or 2147483648 (b, k, m, g, t; 1k = 1024)"
    )


def test_limit_beyond_the_machine(bench):
    """The job whose limit it is is named, and nothing is pulled or built."""
    with pytest.raises(OptionError) as caught:
        bench.sweep("hydra.launcher.image=train:2").launch([["lr=1"], ["model.mem_limit=9g"]], 0)
    assert str(caught.value) == (
        "job #1 (model.mem_limit=9g): hydra.launcher.mem_limit=9g is more than box has: 8g"
    )
    assert bench.engine.calls == []


def test_missing_volume(bench):
    """A named volume that the engine does not have would be made, empty, by Docker."""
    with pytest.raises(OptionError) as caught:
        bench.sweep("hydra.launcher.volumes=['data:/data']").launch([["lr=1"]], 0)
    assert str(caught.value) == (
        "hydra.launcher.volumes: the engine has no volume 'data'. Make it (docker volume create "
        "data), or write ./data for a folder."
    )


def test_socket_of_the_engine(bench, tmp_path, caplog):
    """A volume with the engine's socket is told of, wherever the docker context has it."""
    (tmp_path / "desktop").mkdir()
    bench.engine.address = f"unix://{tmp_path}/desktop/docker.sock"
    bench.sweep(f"hydra.launcher.volumes=['{tmp_path}/desktop:/d']").launch([["lr=1"]], 0)
    (told,) = [text for text in caplog.messages if "boundary" in text]
    assert f"/d]: the engine's socket ({tmp_path}/desktop/docker.sock)" in told


def test_missing_network(bench):
    """A network's name that the engine does not know, with the one that was perhaps meant."""
    bench.engine.network_names = ("bridge", "host", "lab", "none")
    with pytest.raises(OptionError) as caught:
        bench.sweep("hydra.launcher.network_mode=hots").launch([["lr=1"]], 0)
    assert str(caught.value) == (
        "hydra.launcher.network_mode=hots: the engine has no network 'hots'; valid is: bridge, "
        "default, host, none, lab, container:NAME; did you mean host?\n"
        "`docker network create hots` makes it."
    )
    assert bench.engine.calls == []
    bench.sweep("hydra.launcher.network_mode=lab").launch([["lr=1"]], 0)


def test_missing_volume_in_a_later_batch(bench):
    """The same in a batch that a sweeper sends later."""
    bench.configure("data: []\n", volumes="data")
    sweep = bench.sweep()
    sweep.launch([["lr=1"]], 0)
    with pytest.raises(OptionError, match="the engine has no volume 'data'"):
        sweep.launch([["data=['data:/data']"]], 1)


def test_data_of_a_job(bench, tmp_path):
    """What a volume held is in sweep.json; a later batch brings what it has more."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    bench.configure("data: []\n", volumes="data")
    sweep = bench.sweep()
    sweep.launch([[f"data=['{tmp_path}/one:/data']"]], 0)
    assert [item["source"] for item in bench.ledger["data"]] == [f"{tmp_path}/one"]

    sweep.launch([[f"data=['{tmp_path}/two:/data']"], [f"data=['{tmp_path}/one:/data']"]], 1)
    assert [(item["source"], item["state"]) for item in bench.ledger["data"]] == [
        (f"{tmp_path}/one", "recorded"),
        (f"{tmp_path}/two", "recorded"),
    ]
    assert [row["data"] for row in bench.ledger["jobs"]] == [[0], [1], [0]]
    runs = bench.tracker.jobs  # two of them start at once
    assert {name: run.datasets[0].source for name, run in runs.items()} == {
        "run-0": f"{tmp_path}/one",
        "run-1": f"{tmp_path}/two",
        "run-2": f"{tmp_path}/one",
    }


def test_function_of_a_module(bench, tmp_path, monkeypatch):
    """Its code is the commit of its own repository, wherever the sweep is launched from."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    sweep = bench.sweep()
    monkeypatch.chdir(elsewhere)
    sweep.launch([["lr=1"]], 0)
    assert dict(bench.engine.specs[0].labels)["hydra.docker.commit"] == bench.commit


def test_function_that_is_installed(bench, tmp_path, monkeypatch, caplog):
    """What no repository has comes with the image; a warning says that no commit holds it."""
    (tmp_path / "installed_trainer.py").write_text(TRAIN)
    monkeypatch.syspath_prepend(tmp_path)
    function = importlib.import_module("installed_trainer").task
    bench.sweep(function=function).launch([["lr=1"]], 0)
    assert (
        "The task function installed_trainer:task is imported from what is installed in the image: "
        f"it is not part of commit {bench.commit[:12]}"
    ) in caplog.messages


PINNED = "outs:\n- etag: abc\n  path: raw\n"


def test_data_that_is_not_as_pinned(bench):
    """It is refused before anything is pulled or built, and in a later batch before its jobs."""
    bench.commit_files({"raw.dvc": PINNED, ".gitignore": "multirun\nraw\n"})
    (bench.folder / "raw").mkdir()
    check = "hydra.launcher.data_check=error"
    with pytest.raises(DataError, match=r"^raw was not compared with what commit"):
        bench.sweep(check, "hydra.launcher.volumes=['./raw:/data']").launch([["lr=1"]], 0)
    assert bench.engine.calls == []
    assert bench.tracker.statuses == []

    bench.configure("data: []\n", volumes="data")
    sweep = bench.sweep(check)
    sweep.launch([["lr=1"]], 0)
    with pytest.raises(DataError):
        sweep.launch([["data=['./raw:/data']"]], 1)
    assert bench.requests.count("create") == 1
    assert bench.tracker.statuses == ["RUNNING", "FINISHED"]


def test_dry_run_looks_at_no_data(bench, capsys):
    """What takes long is not done to print a plan."""
    bench.commit_files({"raw.dvc": PINNED, ".gitignore": "multirun\nraw\n"})
    (bench.folder / "raw").mkdir()
    options = [
        f"hydra.launcher.{option}"
        for option in ("dry_run=true", "data_check=error", "volumes=['./raw:/data']")
    ]
    assert bench.sweep(*options).launch([["lr=1"]], 0) == []
    assert f"{bench.folder}/raw" in capsys.readouterr().out


def test_uncommitted_changes(bench):
    """Code that is not committed would not run: an error, unless it is to be ignored."""
    (bench.folder / "train.py").write_text("changed")

    with pytest.raises(SourceError, match="has uncommitted changes"):
        bench.sweep().launch([["lr=1"]], 0)
    assert bench.engine.calls == []

    bench.sweep("hydra.launcher.dirty=ignore").launch([["lr=1"]], 0)
    assert bench.ledger["source"]["left_out"] == ["train.py"]


def test_configs_need_no_commit(bench):
    """The resolved config is recorded anyway: editing one is no change of the code."""
    (bench.folder / "conf/config.yaml").write_text(CONFIG.replace("lr: 1", "lr: 9"))

    assert bench.sweep().launch([[]], 0)[0].cfg.lr == 9


def test_image_that_cannot_be_had(bench):
    """The engine's words; no run is opened."""
    with pytest.raises(ImageError, match="Could not pull the image train:2: no such image"):
        bench.sweep("hydra.launcher.image=train:2").launch([["lr=1"]], 0)
    assert bench.tracker.statuses == []


def test_store_that_cannot_be_used(bench):
    """No job starts that could not be recorded."""
    bench.tracker.broken = frozenset(["open_sweep"])
    with pytest.raises(TrackingError, match="open_sweep: the store does not answer"):
        bench.sweep().launch([["lr=1"]], 0)
    assert "create" not in bench.requests


def test_config_that_cannot_travel(bench, monkeypatch):
    """The run of the sweep, which is open by then, is closed as FAILED."""
    from hydra_plugins.hydra_docker_launcher import _job_files

    def refuse(*arguments):
        raise TaskError("job #0: a type in its config cannot be taken into a container")

    monkeypatch.setattr(_job_files, "content", refuse)
    with pytest.raises(TaskError):
        bench.sweep().launch([["lr=1"]], 0)
    assert bench.tracker.statuses == ["RUNNING", "FAILED"]


def test_function_that_is_in_no_module(bench, caplog):
    """It is sent by value, with a warning; the image's Python must be of the host's line."""
    import platform

    FACTS_OF_HOST = {**FACTS, "python": platform.python_version()}  # noqa: N806
    bench.engine.answer = lambda spec: (0, "\n@facts@" + json.dumps(FACTS_OF_HOST))

    bench.sweep(function=lambda cfg: cfg.lr).launch([["lr=1"]], 0)

    assert any("it is sent by value, and is not part of commit" in m for m in caplog.messages)
    with tarfile.open(fileobj=io.BytesIO(bench.engine.archives[0])) as archive:
        assert "hydra/lib/cloudpickle/__init__.py" in archive.getnames()


# ---- dry run, Ctrl-C -----------------------------------------------------------------------------


def test_dry_run(bench, capsys):
    """The plan is printed, and nothing is pulled, built, recorded or started."""
    returned = bench.sweep("hydra.launcher.dry_run=true").launch([["lr=1"], ["lr=2"]], 0)

    assert returned == []
    assert bench.engine.calls == []
    assert bench.tracker.statuses == []
    assert not (bench.folder / "multirun").exists()
    shown = capsys.readouterr().out
    assert shown.startswith(
        f"# IMAGE is train:1, with the files of commit {bench.commit}\n"
        f"# at {bench.folder}. Nothing has been started.\n"
        "\n"
        "# job #0 (lr=1)\n"
        "docker run --detach --name app-x-0 \\\n"
        f"    --workdir {bench.folder} \\\n"
    )
    assert "# job #1 (lr=2)\ndocker run --detach --name app-x-1 " in shown
    assert "IMAGE /hydra/worker.py\n" in shown


def test_ctrl_c(bench):
    """Ctrl-C closes the record before it goes on."""
    bench.engine.plays = {0: Play(waits=True)}

    def interrupt():
        bench.engine.wait_for(lambda: bench.engine.running == {0})
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        bench.sweep().launch([["lr=1"]], 0)
    thread.join()

    assert bench.tracker.statuses == ["RUNNING", "KILLED"]
    assert bench.tracker.ends["run-0"].status.value == "KILLED"
    assert bench.ledger["jobs"][0]["outcome"] == "stopped"


# ---- the plugin ----------------------------------------------------------------------------------


def test_launch_needs_setup():
    """Hydra calls setup first."""
    with pytest.raises(RuntimeError, match=r"^launch\(\) needs setup\(\) first$"):
        DockerLauncher().launch([["a=1"]], 0)


def test_misspelt_option_at_setup(bench):
    """A misspelt name fails before the first job is composed."""
    context, config = bench.multirun(bench.folder / "conf", "hydra.launcher.imag=x")
    launcher = DockerLauncher(**OmegaConf.to_container(config.hydra.launcher))

    with pytest.raises(OptionError, match=r"imag is not an option .* Did you mean image\?"):
        launcher.setup(hydra_context=context, task_function=bench.task, config=config)


def test_target():
    """The schema names the class that Hydra makes."""
    target = DockerLauncherConf()._target_
    assert target == f"{DockerLauncher.__module__}.{DockerLauncher.__qualname__}"


# ---- a sweep that is started again ---------------------------------------------------------------


def test_resume(bench):
    """What completed gives its result, what did not runs again in the same run; ids stay."""
    bench.engine.plays = {0: value(3), 1: Play(exit_code=1, result=None)}
    first = bench.sweep()
    first.launch([["lr=1"], ["lr=2"]], 0)
    identity = first.id
    del first
    gc.collect()
    bench.engine.plays = {1: value(4), 2: value(5)}
    bench.engine.calls.clear()

    sweep = bench.sweep("hydra.launcher.resume=true", "hydra.launcher.mem_limit=2g")
    returned = sweep.launch([["lr=1"], ["lr=2"], ["lr=3"]], 0)

    assert [job.return_value for job in returned] == [3, 4, 5]
    assert sweep.id == identity
    created = [call[1] for call in bench.engine.calls if call[0] == "create"]
    assert sorted(created) == [1, 2]
    assert dict(bench.engine.specs[1].environment)["HYDRA_DOCKER_ATTEMPT"] == "2"
    row = bench.ledger["jobs"][1]
    assert (row["attempt"], row["run_id"], row["options"]) == (2, "run-1", {"mem_limit": "2g"})
    assert [(then["attempt"], then["outcome"]) for then in row["attempts"]] == [(1, "exited")]
    assert bench.tracker.joined == ("parent", "app")
    assert bench.tracker.statuses == ["RUNNING", "FAILED", "RUNNING", "FINISHED"]


def test_resume_after_an_engine_that_was_away(bench):
    """A container that ran on when nobody could see it is watched, not run again."""
    bench.engine.plays = {0: Play(away=True)}
    (lost,) = bench.sweep("hydra.launcher.keep=none").launch([["lr=1"]], 0)
    assert lost.status is JobStatus.FAILED
    assert (bench.folder / "multirun/x/.docker/jobs/0.json").exists()
    gc.collect()
    bench.engine.made["container-0"].play = value(3)
    bench.engine.calls.clear()

    again = bench.sweep("hydra.launcher.resume=true", "hydra.launcher.keep=none")
    (returned,) = again.launch([["lr=1"]], 0)

    assert returned.return_value == 3
    assert bench.requests == ["add_layer", "remove"]
    assert "attempts" not in bench.ledger["jobs"][0]


def test_resume_of_another_sweep(bench):
    """Jobs that are not what they were are refused, with what is different, said once."""
    bench.sweep().launch([["lr=1"], ["lr=2"]], 0)
    gc.collect()
    bench.commit_files({"train.py": TRAIN + "# new\n"})
    bench.engine.calls.clear()
    sweep = bench.sweep("hydra.launcher.resume=true")
    with pytest.raises(SweepError) as caught:
        sweep.launch([["lr=1"], ["lr=7"]], 0)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("resume=true: 2 of 2 jobs are not those that this sweep has begun")
    assert lines[1].startswith(f"  commit: {bench.commit} then, ")
    assert lines[2:4] == ["  job #1 (lr=7)", "    config lr: 2 then, 7 now"]
    assert "create" not in bench.requests
    assert [row["outcome"] for row in bench.ledger["jobs"]] == ["completed", "completed"]


def test_resume_of_nothing(bench):
    """A first start with resume=true is a start."""
    (job,) = bench.sweep("hydra.launcher.resume=true").launch([["lr=1"]], 0)
    assert job.status is JobStatus.COMPLETED


class KilledError(BaseException):
    """The process is gone from here on."""


@pytest.mark.parametrize("resume", ["true", "false"])
@pytest.mark.parametrize("ledger", ["head", "gone"])
def test_killed_before_the_first_job(bench, monkeypatch, resume, ledger):
    """The command goes on with what was begun: the parent run is taken up, and closed."""
    open_sweep = bench.tracker.open_sweep
    opened = []

    def open_and_die(sweep):
        opened.append(sweep.tags["hydra.docker.sweep"])
        open_sweep(sweep)
        if len(opened) == 1:
            raise KilledError
        return "parent"

    bench.tracker.open_sweep = open_and_die
    with monkeypatch.context() as killing:
        # Nothing of a process that was killed cleans up.
        killing.setattr(_sweep_folder.SweepFolder, "forget_sweep", lambda _: None)
        first = bench.sweep()
        with pytest.raises(KilledError):
            first.launch([["lr=1"]], 0)
        del first
        gc.collect()
    head = bench.ledger
    assert head.pop("jobs") == []
    assert head["source"]["commit"] == bench.commit
    if ledger == "gone":
        (bench.folder / "multirun/x/sweep.json").unlink()

    sweep = bench.sweep(f"hydra.launcher.resume={resume}")
    (job,) = sweep.launch([["lr=1"]], 0)

    assert job.status is JobStatus.COMPLETED
    assert opened == [head["sweep"]] * 2
    assert bench.ledger["sweep"] == sweep.id == head["sweep"]
    assert bench.ledger["run_id"] == "parent"


def test_over_a_sweep_that_is_over(bench):
    """Without resume=true another sweep begins in its folder."""
    first = bench.sweep()
    first.launch([["lr=1"]], 0)
    identity = first.id
    del first
    gc.collect()
    second = bench.sweep()
    second.launch([["lr=1"]], 0)
    assert bench.ledger["sweep"] == second.id != identity


def test_ledger_that_is_gone(bench, monkeypatch):
    """``attach`` writes another one, with what the sweep's run was told."""
    monkeypatch.setattr(_background, "_spawn", lambda *_: None)
    sweep = bench.sweep("hydra.launcher.detach=true")
    sweep.launch([["lr=1"]], 0)
    del sweep
    gc.collect()
    head = bench.ledger
    folder = bench.folder / "multirun" / "x"
    (folder / "sweep.json").unlink()
    _attach.attach(folder, make_engine=lambda: bench.engine, make_tracker=lambda *_: bench.tracker)
    for name in ("sweep", "folder", "source", "host", "options"):
        assert bench.ledger[name] == head[name]


def test_dry_run_of_a_resumed_sweep(bench, capsys):
    """It tells which jobs would not run."""
    bench.sweep().launch([["lr=1"]], 0)
    gc.collect()
    sweep = bench.sweep("hydra.launcher.resume=true", "hydra.launcher.dry_run=true")
    assert sweep.launch([["lr=1"], ["lr=2"]], 0) == []
    output = capsys.readouterr().out
    assert "# job #0 (lr=1) has completed: it gives the result that it had" in output
    assert "# job #1 (lr=2)\ndocker run" in output


def test_detach(bench, monkeypatch):
    """Nothing runs here, nothing is said to have completed, and all that is needed is kept.

    A signal as the sweep is handed over does not tear that apart.
    """
    spawned = []

    def spawn(_paths, folder):
        if not spawned:
            signal.raise_signal(signal.SIGINT)
        spawned.append(folder)

    monkeypatch.setattr(_background, "_spawn", spawn)
    sweep = bench.sweep("hydra.launcher.detach=true")
    returned = sweep.launch([["lr=1"], ["lr=2"]], 0) + sweep.launch([["lr=3"]], 2)

    assert [job.status for job in returned] == [JobStatus.UNKNOWN] * 3
    assert [job.return_value for job in returned] == [None] * 3
    assert [job.overrides for job in returned] == [["lr=1"], ["lr=2"], ["lr=3"]]
    assert "create" not in bench.requests
    assert "remove_image" not in bench.requests
    assert spawned == [bench.folder, bench.folder]  # nobody looked after it as the third job came
    assert bench.tracker.statuses == ["RUNNING"]
    del sweep
    gc.collect()

    folder = bench.folder / "multirun" / "x"
    ledger = _attach.attach(
        folder, make_engine=lambda: bench.engine, make_tracker=lambda *_: bench.tracker
    )
    assert [row["outcome"] for row in ledger.rows.values()] == ["completed"] * 3
    assert bench.tracker.statuses == ["RUNNING", "RUNNING", "FINISHED"]
    assert "remove_image" in bench.requests
    assert not (folder / ".docker").exists()


def test_detach_with_a_sweeper_that_needs_results(bench):
    sweep = bench.sweep("hydra.launcher.detach=true")
    bench.config.hydra.sweeper._target_ = "hydra_plugins.optuna.OptunaSweeper"
    with pytest.raises(OptionError, match="detach=true gives no results back, and the sweeper"):
        sweep.launch([["lr=1"]], 0)
    assert bench.engines_made == 0
