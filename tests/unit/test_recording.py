"""Recording: what happens to a sweep goes to the ledger, to tracking, and to the user."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from fakes import HOST, FakeTracker, a_job

from hydra_plugins.hydra_docker_launcher import (
    _ledger,
    _recording,
    _runs,
    _saving,
    _sweep_folder,
    _usage,
)
from hydra_plugins.hydra_docker_launcher._data_identity import DataIdentity, from_text
from hydra_plugins.hydra_docker_launcher._engine import (
    Boundary,
    ContainerSpec,
    ContainerState,
    Image,
    Limits,
    Mount,
    Sample,
)
from hydra_plugins.hydra_docker_launcher._errors import DockerLauncherError, TrackingError
from hydra_plugins.hydra_docker_launcher._ledger import Ledger
from hydra_plugins.hydra_docker_launcher._machine import Processor, Software
from hydra_plugins.hydra_docker_launcher._options import (
    Build,
    CloneOptions,
    Gpus,
    Mlflow,
    Retries,
    SweepOptions,
)
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome, Stray, StrayFile
from hydra_plugins.hydra_docker_launcher._paths import JobPaths, SweepPaths
from hydra_plugins.hydra_docker_launcher._pinning import Code, Ready
from hydra_plugins.hydra_docker_launcher._plan import Identity
from hydra_plugins.hydra_docker_launcher._preflight import Facts
from hydra_plugins.hydra_docker_launcher._provenance import (
    Composition,
    Origin,
    Record,
    text,
)
from hydra_plugins.hydra_docker_launcher._recording import SweepRecorder
from hydra_plugins.hydra_docker_launcher._running import RunnableJob
from hydra_plugins.hydra_docker_launcher._source import Source
from hydra_plugins.hydra_docker_launcher._task import Task
from hydra_plugins.hydra_docker_launcher._tracking import (
    Dataset,
    JobRun,
    JobRunEnd,
    RunStatus,
    StoreAccess,
    SweepRun,
)

GIB = 1024**3
NOW = "2026-11-22T10:00:00+00:00"
IMAGE = Image(
    "sha256:" + "1" * 64,
    "train:1",
    "registry/train@sha256:" + "2" * 64,
    base="python:3.11 sha256:3",
)
STATE = ContainerState(False, 0, False, False, None, "", "2026-11-22T10:00:01Z", "2026-…:02Z")
OPTIONS = SweepOptions(
    image="train:1",
    build=Build(None, None, None, (), None),
    pull_policy="missing",
    commit="HEAD",
    dirty="ignore",
    snapshot_limit=0,
    delivery="copy",
    remote="origin",
    clone=CloneOptions(),
    user="host",
    n_jobs=2,
    fail_fast=False,
    dry_run=False,
    keep="failed",
    mlflow=Mlflow(True, None, None, None, (("stage", "draft"),)),
)
ORIGIN = Origin(
    started=NOW,
    working_dir=Path("/project"),
    software=Software("3.12.1", "1.4.0", "2.4.0", "0.1.0"),
    processor=Processor("Fast 9000", ("avx2",)),
    composition=Composition((), ()),
    options={"cpus": 1.0, "dirty": "ignore"},
)
CONFIG = "lr: 0.1\nmodel:\n  width: 3\n"
IDENTITY = {
    "config": f"sha256:{hashlib.sha256(CONFIG.encode()).hexdigest()}",
    "commit": "c" * 40,
    "image": IMAGE.id,
}
SWEEP_TAGS = {
    "mlflow.source.name": "/project/train.py",
    "mlflow.source.type": "LOCAL",
    "mlflow.source.git.commit": "c" * 40,
    "mlflow.source.git.dirty": "false",
    "mlflow.source.git.branch": "main",
    "mlflow.docker.image.uri": IMAGE.digest,
    "hydra.docker.image.base": IMAGE.base,
    "mlflow.docker.image.id": IMAGE.id,
    "hydra.docker.sweep": "s",
    "hydra.docker.folder": "{folder}",
    "hydra.docker.host": "box",
    "hydra.docker.engine": "Fake 1.0",
    "hydra.docker.cpu": "Fast 9000",
    "hydra.docker.python": "3.11.2",
    "hydra.docker.hydra": "1.3.8",
    "hydra.docker.packages": hashlib.sha256(b"hydra-core==1.3.8\n").hexdigest(),
    "hydra.docker.config_dirty": "false",
    "stage": "draft",
}


class Bench:
    """A recorder on a fake tracker, with one job."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data: tuple[DataIdentity, ...] = ()
        job = a_job(folder / "0", lr=0.1, model={"width": 3})
        self.job = replace(job, written={"cpus": 1.5, "dirty": "ignore"})
        identity = Identity("ann", os.getuid(), os.getgid(), f"{os.getuid()}:{os.getgid()}")
        source = Source(Path("/project"), "c" * 40, "main", None, ("train.py",))
        script = Path("/project/train.py")
        code = Code(source, script, Task("script", str(script), (), ()), identity, HOST)
        facts = Facts("python3", "3.11.2", "1.3.8", "2.3.0", 1000, 100, ("hydra-core==1.3.8",))
        ready = Ready(IMAGE, facts, replace(IMAGE, id="layer"))
        self.record = Record("s", folder, "train", OPTIONS, code, ready, ORIGIN)
        self.tracker = FakeTracker()
        self.sweep_folder = _sweep_folder.take(SweepPaths(folder))
        self.recorder = self.recorder_of(self.record)
        output = self.job.output_dir
        self.spec = ContainerSpec(
            name="train-x-0",
            image="layer",
            command=("python3",),
            working_dir="/",
            limits=Limits(1.5, GIB, GIB, GIB // 2, 100),
            boundary=Boundary(user=identity.container),
            gpus=Gpus(ids=("A", "B")),
            mounts=(Mount(str(output), str(output)),),
        )
        self.runnable = RunnableJob(0, self.job.title, self.spec, JobPaths(output), None)

    def recorder_of(self, record):
        self.record = record
        return SweepRecorder(
            _saving.saved_sweep(record, None),
            folder=self.sweep_folder,
            ledger=Ledger(self.folder / "sweep.json", record.ledger_head()),
            tracker=self.tracker,
        )

    @property
    def saved(self):
        return _saving.saved_job(self.record, self.job, self.runnable, self.content, self.data)

    def open(self, content=b"job"):
        self.content = content
        self.recorder.open()
        self.recorder.batch([self.saved])

    def start(self):
        self.open()
        return self.recorder.starting(self.runnable, self.spec)

    def end(self, outcome, container="c0", state=STATE):
        self.recorder.ended(self.runnable, outcome, container, state)
        return self.tracker.ends.get("run-0")

    @property
    def ledger(self):
        return json.loads((self.folder / "sweep.json").read_text())


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setattr(_recording, "_now", lambda: NOW)
    return Bench(tmp_path)


@pytest.fixture
def impatient(monkeypatch):
    """Nobody waits for a store."""
    monkeypatch.setattr(_runs, "PATIENCE", 0.0)
    monkeypatch.setattr(_runs, "PAUSE", 0.0)


COMPLETED = Outcome(End.COMPLETED, "completed", 0)
ERROR = Outcome(End.ERROR, "raised ValueError: no", 1)


def test_ledger(bench):
    """What the whole sweep has in common, then a row per job, with the options of its own."""
    bench.open()
    assert bench.ledger == {
        "format": 1,
        **bench.record.ledger_head(),
        "run_id": "parent",
        "data": [],
        "jobs": [
            {
                "job": 0,
                "overrides": ["n=0"],
                "output_dir": str(bench.job.output_dir),
                "identity": IDENTITY,
                "outcome": None,
                "options": {"cpus": 1.5},
            }
        ],
    }


def test_parent_run(bench):
    """One run per sweep, in the experiment of the job's name, called after the folder."""
    bench.open()
    assert bench.tracker.sweep == SweepRun(
        experiment="train",
        name=bench.folder.name,
        tags={**SWEEP_TAGS, "hydra.docker.folder": str(bench.folder)},
        artifacts={
            "packages.txt": "hydra-core==1.3.8\n",
            "provenance.json": text(bench.record.sweep_document()),
        },
    )


def test_names_that_the_user_chose(bench):
    """Experiment and run name of the options win."""
    mlflow = Mlflow(True, None, "digits", "first", ())
    record = replace(bench.record, options=replace(OPTIONS, mlflow=mlflow))
    bench.recorder_of(record).open()
    assert (bench.tracker.sweep.experiment, bench.tracker.sweep.name) == ("digits", "first")


def test_child_run(bench):
    """One run per job, opened with its resolved config before its container exists."""
    bench.start()
    run = bench.tracker.jobs["run-0"]
    record = json.loads(run.artifacts.pop("job.json"))
    assert record["number"] == 0  # the whole of it: test_job_record.py
    assert bench.tracker.jobs == {
        "run-0": JobRun(
            name="n=0",
            tags={
                **SWEEP_TAGS,
                "hydra.docker.folder": str(bench.folder),
                "hydra.docker.cpus": "1.5",
                "hydra.docker.mem_limit": "1g",
                "hydra.docker.shm_size": "512m",
                "hydra.docker.pids_limit": "100",
                "hydra.docker.gpus": "A,B",
                "hydra.docker.attempt": "1",
                "hydra.docker.job": "0",
                "hydra.docker.output_dir": str(bench.job.output_dir),
            },
            artifacts={
                "config.yaml": "lr: 0.1\nmodel:\n  width: 3\n",
                "overrides.yaml": "- n=0\n",
                "packages.txt": "hydra-core==1.3.8\n",
                "job.pickle": b"job",
                "provenance.json": text(
                    {
                        **bench.record.sweep_document(),
                        "job": {
                            "number": 0,
                            "name": "train",
                            "overrides": ["n=0"],
                            "output_dir": str(bench.job.output_dir),
                            "options": {"cpus": 1.5, "dirty": "ignore"},
                            **bench.job.facts(),
                        },
                    }
                ),
            },
        )
    }


RAW = DataIdentity(
    name="data/raw",
    source="/project/data/raw",
    target="/data",
    kind="dvc",
    state="matches",
    digest="md5:6344899fdba26357fc73c30277a12c0a.dir",
    files=3,
    bytes=9,
    tracked_by="data/raw.dvc",
)
CACHE = DataIdentity("cache", "cache", "/cache", "none", "not identified", note="a named volume")


def test_data(bench):
    """What a job's volumes hold is in sweep.json and in its run; what has a digest, as dataset."""
    bench.data = (RAW, CACHE)
    bench.start()

    facts = {
        "name": "data/raw",
        "source": "/project/data/raw",
        "target": "/data",
        "kind": "dvc",
        "state": "matches",
        "digest": "md5:6344899fdba26357fc73c30277a12c0a.dir",
        "files": 3,
        "bytes": 9,
        "tracked_by": "data/raw.dvc",
    }
    nothing = {
        "name": "cache",
        "source": "cache",
        "target": "/cache",
        "kind": "none",
        "state": "not identified",
        "note": "a named volume",
    }
    assert bench.ledger["data"] == [facts, nothing]
    assert bench.ledger["jobs"][0]["data"] == [0, 1]
    run = bench.tracker.jobs["run-0"]
    assert json.loads(run.artifacts["data.json"]) == [facts, nothing]
    assert from_text(run.artifacts["data.json"]) == (RAW, CACHE)
    assert DataIdentity.from_json({**facts, "of a newer version": 1}) == RAW
    assert run.datasets == (Dataset("data/raw", RAW.digest, "/project/data/raw", "/data", facts),)


def test_attempts(bench, caplog):
    """Of a job that is run again: each attempt in its row, one run, and a word to the user."""
    bench.runnable = replace(bench.runnable, retries=Retries(oom=2, backoff=10.0))
    bench.start()
    bench.recorder.started(bench.runnable, bench.spec, "c0")
    caplog.clear()

    killed = Outcome(End.OUT_OF_MEMORY, "used all of mem_limit=1g", 137)
    bench.recorder.attempted(bench.runnable, killed, "c0", STATE, 10.0)

    assert caplog.messages == [
        "job #0 (n=0) out of memory: used all of mem_limit=1g\nAttempt 2 of 3 in 10 s."
    ]
    attempt = {
        "attempt": 1,
        "outcome": "out of memory",
        "cause": "used all of mem_limit=1g",
        "exit_code": 137,
        "container": "c0",
        "started": STATE.started_at,
        "ended": STATE.finished_at,
    }
    row = bench.ledger["jobs"][0]
    assert (row["attempts"], row["outcome"], row["container"]) == ([attempt], None, None)

    second = replace(bench.runnable, attempt=2, earlier=(End.OUT_OF_MEMORY,))
    bigger = replace(
        bench.spec, name="train-x-0-2", limits=replace(bench.spec.limits, memory=2 * GIB)
    )
    paths = bench.runnable.paths
    paths.result.write_text("of the first attempt")
    bench.recorder.starting(second, bigger)
    assert not paths.result.exists()
    assert paths.job.read_bytes() == b"job"
    bench.recorder.started(second, bigger, "c1")
    bench.recorder.ended(second, COMPLETED, "c1", STATE)

    assert list(bench.tracker.jobs) == list(bench.tracker.ends) == ["run-0"]
    row = bench.ledger["jobs"][0]
    assert (row["attempts"], row["outcome"], row["container"]) == ([attempt], "completed", "c1")
    last = json.loads(paths.container.read_text())
    assert (last["name"], last["limits"]["mem_limit"]) == ("train-x-0-2", "2g")


def test_snapshot(bench):
    """A snapshot's runs tell the commit that it stands on, and have the patch that makes it."""
    source = replace(
        bench.record.code.source, commit="d" * 40, parent="c" * 40, changed=("train.py",)
    )
    patch = b"diff --git \xe9\r\n"
    code = replace(bench.record.code, source=source, pushed=False, patch=patch)
    record = replace(bench.record, code=code)
    bench.recorder = bench.recorder_of(record)

    bench.start()

    expected = {
        "mlflow.source.git.commit": "d" * 40,
        "mlflow.source.git.dirty": "true",
        "hydra.docker.parent_commit": "c" * 40,
        "hydra.docker.pushed": "false",
    }
    for run in (bench.tracker.sweep, bench.tracker.jobs["run-0"]):
        assert run.tags.items() >= expected.items()
        assert run.artifacts["changes.patch"] == patch
    written = bench.ledger["source"]
    assert (written["commit"], written["parent"]) == ("d" * 40, "c" * 40)
    assert (written["dirty"], written["pushed"]) == (True, False)


def test_files_of_a_job(bench):
    """Config and job file are there before the container, for the user's eyes only."""
    (bench.job.output_dir / ".docker").mkdir(parents=True)
    (bench.job.output_dir / ".docker" / "result.json").write_text("of an earlier attempt")

    bench.start()

    private = bench.job.output_dir / ".docker"
    assert {path.name: path.read_text() for path in private.iterdir()} == {
        "config.yaml": "lr: 0.1\nmodel:\n  width: 3\n",
        "job.pickle": "job",
    }
    assert {path.stat().st_mode & 0o777 for path in private.iterdir()} == {0o600}


def test_output_folder_that_cannot_be_written(bench):
    """The message names the folder."""
    bench.job.output_dir.write_text("a file")
    with pytest.raises(DockerLauncherError) as caught:
        bench.start()
    assert str(caught.value).startswith(
        f"Cannot write to the job's output folder {bench.job.output_dir}: "
    )


def test_store_in_the_container(bench, tmp_path):
    """The container gets the store's folder, its variables and its run."""
    bench.tracker.store = StoreAccess(
        environment=(("MLFLOW_TRACKING_URI", "sqlite:///x"),), folders=(tmp_path / "store",)
    )

    spec = bench.start()

    assert spec == replace(
        bench.spec,
        environment=(("MLFLOW_TRACKING_URI", "sqlite:///x"), ("MLFLOW_RUN_ID", "run-0")),
        mounts=(*bench.spec.mounts, Mount(str(tmp_path / "store"), str(tmp_path / "store"))),
        labels=(("hydra.docker.run_id", "run-0"),),
    )


def test_server_on_the_host(bench):
    """The address of a store on the host's network is as it is, and is looked up once."""
    bench.tracker.store = StoreAccess(url="http://127.0.0.1:5000", url_variable="MLFLOW_URI")
    bench.open()
    spec = replace(bench.spec, boundary=replace(bench.spec.boundary, network_mode="host"))

    found = bench.recorder.starting(bench.runnable, spec)

    assert dict(found.environment)["MLFLOW_URI"] == "http://127.0.0.1:5000"
    bench.recorder.close(RunStatus.FINISHED)


def test_server_on_loopback(bench):
    """Containers reach a server on the host's loopback through a relay, until the batch ends."""
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    port = server.server_address[1]
    host = replace(HOST, gateway="127.0.0.2")
    record = replace(bench.record, code=replace(bench.record.code, host=host))
    bench.recorder = bench.recorder_of(record)
    bench.tracker.store = StoreAccess(url=f"http://localhost:{port}", url_variable="MLFLOW_URI")
    before = threading.active_count()

    found = dict(bench.start().environment)["MLFLOW_URI"]

    assert found.startswith("http://127.0.0.2:")
    bench.recorder.close(RunStatus.FINISHED)
    assert threading.active_count() == before
    server.server_close()


def test_started(bench):
    """The ledger knows the container as soon as it exists."""
    bench.start()
    bench.recorder.started(bench.runnable, bench.spec, "c0")
    assert bench.ledger["jobs"][0] == {
        "job": 0,
        "overrides": ["n=0"],
        "output_dir": str(bench.job.output_dir),
        "identity": IDENTITY,
        "outcome": None,
        "options": {"cpus": 1.5},
        "attempt": 1,
        "container": "c0",
        "name": "train-x-0",
        "run_id": "run-0",
        "started": NOW,
    }


def test_completed(bench):
    """Status, params, metrics, tags and log of the child run; a row; the container's file."""
    bench.start()
    bench.runnable.paths.log.write_text("log")

    end = bench.end(replace(COMPLETED, value={"loss": 0.5, "epochs": 3, "name": "x", "ok": True}))

    assert end == JobRunEnd(
        status=RunStatus.FINISHED,
        params={"lr": 0.1, "model.width": 3},
        metrics={"loss": 0.5, "epochs": 3.0},
        tags={
            "hydra.docker.outcome": "completed",
            "hydra.docker.cause": "completed",
            "hydra.docker.container": "c0",
            "hydra.docker.exit_code": "0",
        },
        files={"container.log": bench.runnable.paths.log},
        ended_at=datetime.fromisoformat(NOW).timestamp(),
    )
    row = {"outcome": "completed", "cause": "completed", "exit_code": 0, "ended": NOW}
    assert bench.ledger["jobs"][0].items() >= row.items()
    assert json.loads(bench.runnable.paths.container.read_text()) == {
        "id": "c0",
        "name": "train-x-0",
        "image": IMAGE.id,
        "started_at": "2026-11-22T10:00:01Z",
        "finished_at": "2026-…:02Z",
        "run_id": "run-0",
        "limits": {
            "cpus": "1.5",
            "mem_limit": "1g",
            "shm_size": "512m",
            "pids_limit": "100",
            "gpus": "A,B",
        },
        **row,
    }


@pytest.mark.parametrize(
    ("value", "metrics"),
    [
        (None, {}),
        (0.5, {"return_value": 0.5}),
        (3, {"return_value": 3.0}),
        (True, {}),
        ("x", {}),
        ([1, 2], {}),
        (float("inf"), {"return_value": float("inf")}),
        (10**400, {}),
        (-(10**400), {}),
    ],
)
def test_metrics(bench, value, metrics):
    """A returned number is a metric; what is no number, or too large for one, is none."""
    bench.start()
    assert bench.end(replace(COMPLETED, value=value)).metrics == metrics


def test_job_without_container(bench):
    """A job that never started has a row and a run, and no file of a container."""
    bench.start()
    end = bench.end(Outcome(End.NOT_STARTED, "no such image"), container=None, state=None)

    assert end.status is RunStatus.FAILED
    assert end.files == {}
    assert end.tags == {
        "hydra.docker.outcome": "could not start",
        "hydra.docker.cause": "no such image",
    }
    assert not bench.runnable.paths.container.exists()


def test_log_that_a_container_replaced(bench, tmp_path):
    """A link in place of the log would send another file of the host to the store."""
    (tmp_path / "secret").write_text("secret")
    bench.start()
    bench.runnable.paths.log.symlink_to(tmp_path / "secret")

    assert bench.end(COMPLETED).files == {}


def test_files_that_a_container_replaced(bench, tmp_path):
    """A link in place of the container's file is replaced, not followed."""
    (tmp_path / "precious").write_text("precious")
    bench.start()
    bench.runnable.paths.container.symlink_to(tmp_path / "precious")

    bench.end(COMPLETED)

    assert (tmp_path / "precious").read_text() == "precious"


def test_folder_that_a_container_replaced(bench, caplog):
    """A job that made a file of the folder costs its container.json, and nothing else."""
    bench.start()
    shutil.rmtree(bench.runnable.paths.private)
    bench.runnable.paths.private.write_text("")

    assert bench.end(COMPLETED).status is RunStatus.FINISHED
    assert bench.ledger["jobs"][0]["outcome"] == "completed"
    (message,) = loud(caplog)
    assert message.startswith(f"job #0 (n=0): cannot write {bench.runnable.paths.container}: ")


def test_ledger_that_cannot_be_written(bench, monkeypatch):
    """The end is not recorded, and whoever watches the job is told; its run is closed."""
    bench.start()

    def refuse(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_ledger, "write_json", refuse)
    with pytest.raises(OSError, match="No space left"):
        bench.end(COMPLETED)
    assert bench.tracker.ends["run-0"].status is RunStatus.FINISHED
    assert bench.sweep_folder.numbers() == [0]


def test_batch_that_cannot_be_written(bench, monkeypatch):
    """It is written down as a whole or not at all: nobody starts a job of it later."""
    monkeypatch.setattr(bench.recorder._ledger, "begin", lambda _rows: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bench.open()
    assert bench.sweep_folder.numbers() == []


def loud(caplog):
    """Return what the user sees at any level of logging."""
    return [record.message for record in caplog.records if record.levelname != "INFO"]


# ---- what the user sees --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("hello", "hello"),
        ("\ttab", "\ttab"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
        ("\x1b[2Jclear", "clear"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;http://x\x1b\\link", "link"),
        ("a\rb\x08c\x00d\x7f", "abcd"),
        ("\x9b2Jx", "2Jx"),
        ("\u202egpj.exe\u2066a\u2028b", "gpj.exeab"),
        ("wörld ✓", "wörld ✓"),
        ("\x1b", ""),
    ],
)
def test_output(bench, capsys, text, shown):
    """Lines carry the job's number; colours stay, what plays tricks on a terminal does not."""
    bench.recorder.output(bench.runnable, text)
    assert capsys.readouterr().out == f"#0 | {shown}\n"


def test_failed_job_is_told(bench, caplog):
    """The report of a job that did not complete, without tricks in the container's words."""
    bench.start()
    bench.end(replace(ERROR, cause="raised ValueError: \x1b[2Jno\nway"))
    assert loud(caplog) == ["job #0 (n=0) error: raised ValueError: no\nway"]


def test_warnings_of_a_completed_job(bench, caplog):
    """What is no JSON arrives as its repr, and a killed child is worth a word."""
    bench.start()
    bench.end(replace(COMPLETED, value="<M>", not_json="train.M", warning="completed, but …"))
    assert loud(caplog) == [
        "job #0 (n=0) completed, but …",
        (
            "job #0 (n=0) returned a train.M, which is no JSON value: the sweeper gets its repr. "
            "Return numbers, strings, lists or dicts, and write anything else to the output folder."
        ),
    ]


def test_stray_files(bench, caplog):
    """They are told in full once a sweep, then in a line, and stand in the ledger and the run."""
    bench.start()
    stray = Stray(1, (StrayFile("/srv/model.pt", 2048),))
    end = bench.end(replace(COMPLETED, stray=stray))
    assert bench.ledger["jobs"][0]["stray"] == {"total": 1, "paths": ["/srv/model.pt"]}
    assert end.tags["hydra.docker.stray"] == "1"
    bench.end(replace(ERROR, stray=stray))
    what = "job #0 (n=0) left 1 file in its container and in no mount"
    first, _, second = loud(caplog)
    assert first.startswith(f"{what}, which go with the container:\n  /srv/model.pt (2k)\nWrite ")
    assert second == f"{what}: /srv/model.pt (2k)"


def test_stray_files_that_were_collected(bench, caplog, tmp_path):
    """A line says where they are; what could not be looked at is a warning, and no number."""
    caplog.set_level("INFO")
    bench.start()
    caplog.clear()
    folder = tmp_path / "stray"
    bench.end(replace(COMPLETED, stray=Stray(2, (), folder)))
    assert caplog.messages == [f"job #0 (n=0): 2 files of its container are in {folder}"]
    assert bench.ledger["jobs"][0]["stray"]["collected"] == str(folder)
    end = bench.end(replace(COMPLETED, stray=Stray(unread="gone")))
    assert loud(caplog) == [
        "job #0 (n=0): what it left in its container could not be looked at: gone"
    ]
    assert "hydra.docker.stray" not in end.tags


def test_summary(bench, caplog):
    """The end of a batch counts how its jobs ended."""
    caplog.set_level("INFO")
    bench.start()
    bench.end(COMPLETED)
    bench.end(ERROR)
    bench.end(COMPLETED)
    caplog.clear()

    bench.recorder.close(RunStatus.FAILED)
    bench.recorder.close(RunStatus.FAILED)

    assert caplog.messages == ["2 completed, 1 error"]
    assert bench.tracker.statuses == ["RUNNING", "FAILED", "FAILED"]


def test_next_batch(bench):
    """The parent run goes on running when a sweeper sends more jobs."""
    bench.start()
    bench.end(COMPLETED)
    bench.recorder.close(RunStatus.FINISHED)
    bench.recorder.batch([])
    assert bench.tracker.statuses == ["RUNNING", "FINISHED", "RUNNING"]


# ---- what jobs use -------------------------------------------------------------------------------

STARTED = datetime.fromisoformat(NOW).timestamp()
USED = {
    "cpus": {"mean": 0.1, "peak": 0.1},
    "memory": {"mean": 5000000, "peak": 5000000},
    "seconds": 20.0,
    "samples": 1,
}


def measured(bench, container="c0", cpu=2.0, times=1):
    """Have a job measured, the last time 20 seconds after its container was started."""
    bench.recorder.started(bench.runnable, bench.spec, container)
    for part in (number / times for number in range(1, times + 1)):
        sample = Sample(STARTED + part * 20, part * cpu, 5_000_000)
        bench.recorder.sampled(bench.runnable, container, STARTED, sample)


def test_used(bench):
    """What a job has used stands in its row, and in its run as system metrics: series and peaks."""
    bench.start()
    measured(bench)
    end = bench.end(replace(COMPLETED, value=0.5, memory_peak=GIB))
    row = bench.ledger["jobs"][0]
    assert (row["used"], row["memory_peak"]) == (USED, GIB)
    assert end.metrics == {
        "return_value": 0.5,
        "system/used/cpus_mean": 0.1,
        "system/used/cpus_peak": 0.1,
        "system/used/memory_mean_megabytes": 5.0,
        "system/used/memory_peak_megabytes": 5.0,  # the kernel's has the page cache in it
    }
    (point,) = end.series
    assert (point.time, point.values["system/system_memory_usage_megabytes"]) == (STARTED + 20, 5)


def test_used_by_an_attempt(bench):
    """Each attempt has what it has used; the series of all of them is the run's."""
    bench.start()
    measured(bench)
    bench.recorder.attempted(bench.runnable, ERROR, "c0", STATE, 0.0)
    bench.runnable = replace(bench.runnable, attempt=2)
    measured(bench, "c1", cpu=4.0)
    end = bench.end(COMPLETED, "c1")
    row = bench.ledger["jobs"][0]
    assert row["attempts"][0]["used"] == USED
    assert row["used"]["cpus"] == {"mean": 0.2, "peak": 0.2}
    assert [point.step for point in end.series] == [0, 1000]


def test_job_that_was_not_measured(bench):
    """It has no such words: nobody takes them for zero."""
    bench.start()
    bench.recorder.started(bench.runnable, bench.spec, "c0")
    end = bench.end(COMPLETED)
    assert "used" not in bench.ledger["jobs"][0]
    assert (end.metrics, end.series) == ({}, ())


def test_used_while_the_store_is_away(bench, impatient):
    """Peaks and series are kept with the job, and sent by whoever sends its end."""
    bench.start()
    measured(bench)
    bench.tracker.down = True
    bench.end(COMPLETED)
    bench.runnable.paths.result.write_text(json.dumps({"outcome": "completed"}))
    bench.recorder.settled(bench.runnable)
    bench.recorder.close(RunStatus.FINISHED)
    bench.recorder.finish()

    bench.tracker.down = False
    bench.sweep_folder = _sweep_folder.take(SweepPaths(bench.folder))
    recorder = SweepRecorder(
        bench.sweep_folder.sweep(),
        folder=bench.sweep_folder,
        ledger=Ledger.read(bench.folder / "sweep.json"),
        tracker=bench.tracker,
    )
    recorder.join(())
    (job,) = bench.sweep_folder.jobs().values()
    recorder.settle(job, COMPLETED)
    end = bench.tracker.ends["run-0"]
    assert end.metrics["system/used/cpus_mean"] == 0.1
    assert len(end.series) == 1
    recorder.close(RunStatus.FINISHED)
    recorder.finish()
    assert not (bench.folder / ".docker").exists()


def test_used_when_the_sweep_is_handed_over(bench):
    """Another process goes on measuring a job that runs, and knows its peak of before."""
    bench.start()
    measured(bench)
    bench.recorder.hand_over()

    bench.sweep_folder = _sweep_folder.take(SweepPaths(bench.folder))
    bench.recorder = SweepRecorder(
        bench.sweep_folder.sweep(),
        folder=bench.sweep_folder,
        ledger=Ledger.read(bench.folder / "sweep.json"),
        tracker=bench.tracker,
    )
    bench.recorder.join(())
    bench.recorder.batch([bench.saved])
    bench.recorder.started(bench.runnable, bench.spec, "c0")
    sample = Sample(STARTED + 40, 2.0, 1_000_000)
    bench.recorder.sampled(bench.runnable, "c0", STARTED, sample)
    end = bench.end(COMPLETED)
    assert bench.ledger["jobs"][0]["used"]["memory"] == {"mean": 4000000, "peak": 5000000}
    assert [point.step for point in end.series] == [0, 1]


def test_reserved_too_much(bench, caplog):
    """The user is told once of limits that are far above what completed jobs have used.

    A job that has read much data has filled its limit with it, as the kernel tells its worker.
    """
    caplog.set_level("INFO")
    bench.start()
    full = replace(COMPLETED, memory_peak=bench.spec.limits.memory)
    for outcome in (COMPLETED, ERROR, full):
        measured(bench, cpu=1.9, times=_usage.ENOUGH)
        bench.end(outcome)
    caplog.clear()
    bench.recorder.close(RunStatus.FINISHED)
    bench.recorder.close(RunStatus.FINISHED)
    assert caplog.messages == [
        (
            "2 jobs used far less than their memory: peak 4.8m of 1g (hydra.launcher.mem_limit)\n"
            "2 jobs used far less than their CPUs: peak 0.1 of 1.5 (hydra.launcher.cpus)"
        ),
        "2 completed, 1 error",
    ]


# ---- a store that fails --------------------------------------------------------------------------


def test_store_that_is_away_before_a_job(bench, caplog, impatient):
    """A job starts without its run, which is made and closed when the store answers again."""
    bench.open()
    bench.tracker.down = True
    spec = bench.recorder.starting(bench.runnable, bench.spec)
    assert "MLFLOW_RUN_ID" not in dict(spec.environment)
    bench.recorder.started(bench.runnable, spec, "c0")
    bench.end(replace(COMPLETED, value=0.5))
    bench.recorder.settled(bench.runnable)
    bench.recorder.close(RunStatus.FINISHED)
    assert bench.tracker.jobs == {}
    assert (bench.folder / ".docker" / "jobs" / "0.json").exists()
    assert len(loud(caplog)) == 1
    assert f"after the sweep: hydra-docker sync {bench.folder}" in loud(caplog)[0]

    bench.tracker.down = False
    bench.runnable.paths.result.write_text(json.dumps({"outcome": "completed", "value": 0.5}))
    bench.recorder.close(RunStatus.FINISHED)
    bench.recorder.finish()

    assert bench.tracker.jobs["run-0"].started_at == datetime.fromisoformat(NOW).timestamp()
    assert bench.tracker.jobs["run-0"].tags["hydra.docker.mem_limit"] == "1g"
    assert bench.tracker.ends["run-0"].status is RunStatus.FINISHED
    assert bench.tracker.ends["run-0"].metrics == {"return_value": 0.5}
    assert bench.tracker.statuses == ["RUNNING", "FINISHED"]
    assert bench.ledger["jobs"][0]["run_id"] == "run-0"
    assert not (bench.folder / ".docker").exists()


@dataclass
class Clock:
    """A clock on which only waiting takes time, in which something happens."""

    meanwhile: Callable[[], object]
    now: float = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        assert self.now < 2 * _runs.PATIENCE
        self.meanwhile()


def test_store_that_fails_for_one_job_only(bench, monkeypatch):
    """A job waits for a minute, and is started then, however well the others' runs are logged."""
    bench.open()
    runs = bench.recorder._runs
    runs._ids[7] = "of another"
    monkeypatch.setattr(_runs, "time", Clock(lambda: runs.log_series(7, [])))
    bench.tracker.broken = frozenset(["open_job"])
    spec = bench.recorder.starting(bench.runnable, bench.spec)
    assert "MLFLOW_RUN_ID" not in dict(spec.environment)


def test_what_is_kept_for_a_store_that_is_away(bench, impatient):
    """What only the container was to know is not kept with it."""
    bench.spec = replace(bench.spec, environment=(("TOKEN", "s3cret"),))
    bench.runnable = replace(bench.runnable, spec=bench.spec)
    bench.open()
    file = bench.folder / ".docker" / "jobs" / "0.json"
    assert "s3cret" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    bench.recorder.starting(bench.runnable, bench.spec)
    bench.tracker.down = True
    bench.end(COMPLETED)
    bench.recorder.settled(bench.runnable)
    assert "s3cret" not in file.read_text()


def test_store_that_refuses_a_job(bench, monkeypatch):
    """A job that cannot be recorded does not start."""

    def refuse(job):
        raise TrackingError("the experiment is deleted")

    monkeypatch.setattr(bench.tracker, "open_job", refuse)
    with pytest.raises(TrackingError, match="the experiment is deleted"):
        bench.start()


def test_store_that_fails_after_a_job(bench, caplog):
    """A store that has gone away is no reason to lose a result."""
    bench.tracker.broken = frozenset(["close_job", "close_sweep"])
    bench.start()
    bench.end(COMPLETED)
    bench.recorder.close(RunStatus.FINISHED)

    (told,) = loud(caplog)  # once, not for every request
    assert told.startswith("close_job: the store does not answer\nThe jobs go on. ")
    assert bench.ledger["jobs"][0]["outcome"] == "completed"
