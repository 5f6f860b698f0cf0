"""Job record: all that is needed to run a job again, written into its run and read back."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import GIB, HOST, a_job
from past import COMMIT, IMAGE, OPTIONS, ROOT, a_record

from hydra_plugins.hydra_docker_launcher._engine import Boundary, ContainerSpec, Limits
from hydra_plugins.hydra_docker_launcher._errors import ReproduceError
from hydra_plugins.hydra_docker_launcher._job_record import from_json, to_json
from hydra_plugins.hydra_docker_launcher._masks import masks_of
from hydra_plugins.hydra_docker_launcher._pinning import Code, Ready
from hydra_plugins.hydra_docker_launcher._plan import Identity
from hydra_plugins.hydra_docker_launcher._preflight import Facts
from hydra_plugins.hydra_docker_launcher._redaction import Withheld

RECORD = a_record()
SPEC = ContainerSpec(
    name="train-then-0",
    image="sha256:layer",
    command=("python3",),
    working_dir=str(ROOT),
    limits=Limits(1.5, 2 * GIB, 2 * GIB, GIB, 4096),
    boundary=Boundary(user=None),
)
CODE = Code(RECORD.source, RECORD.script, RECORD.task, Identity("ada", 1, 1, None), HOST)
FACTS = Facts("python3", "3.11.2", "1.3.8", "2.3.0", 1, 1, ())
READY = Ready(IMAGE, FACTS, IMAGE)

JSON = {
    "format": 1,
    "number": 0,
    "name": "train",
    "overrides": ["lr=0.1"],
    "output_dir": "/home/ada/project/multirun/then/0",
    "working_dir": "/home/ada/project",
    "options": dict(OPTIONS),
    "source": {
        "root": "/home/ada/project",
        "commit": COMMIT,
        "parent": None,
        "branch": "main",
        "remote": None,
    },
    "script": "/home/ada/project/train.py",
    "task": {
        "kind": "script",
        "target": "/home/ada/project/train.py",
        "argv": ["/home/ada/project/train.py", "-m"],
        "path": ["/home/ada/project"],
    },
    "image": {"reference": "train:1", "id": IMAGE.id, "digest": None},
    "executable": "python3",
    "python": "3.11.2",
    "hydra": "1.3.8",
}


def written(options, code=CODE):
    job = replace(
        a_job(Path("/home/ada/project/multirun/then/0")), overrides=("lr=0.1",), written=options
    )
    return json.loads(to_json(job, SPEC, code, READY))


def test_command_line_without_secrets():
    """One that stands in the override of another key is masked there too."""
    task = replace(CODE.task, argv=("train.py", "+note=pw-hunter22"))
    job = replace(
        a_job(ROOT / "multirun/then/0"),
        written=OPTIONS,
        withheld=Withheld(
            masks=masks_of(["hunter22"]), options=("hydra.launcher.environment.PLAIN",)
        ),
    )
    text = to_json(job, SPEC, replace(CODE, task=task), READY)
    assert json.loads(text)["task"]["argv"] == ["train.py", "+note=pw-<hidden>"]
    assert from_json(text, "a run").secret_variables == ("PLAIN",)


def test_literal():
    """Limits that were a share of one machine are numbers; what is of the place is left out."""
    asked = {name: value for name, value in OPTIONS.items() if name != "mem_limit"}
    of_the_place = {
        "_target_": "x",
        "mlflow": {"enabled": True},
        "n_jobs": 4,
        "keep": "all",
        "push": "registry/train",
        "snapshot_limit": "10m",
        "fail_fast": True,
        "dry_run": False,
        "commit": "HEAD",
        "dirty": "error",
    }
    assert written({**asked, "mem_limit": None, **of_the_place}) == JSON


def test_round_trip():
    """What is read is what was written."""
    assert from_json(json.dumps(JSON), "the run 1") == RECORD


def test_snapshot():
    """A snapshot's record holds the commit that its patch is one of."""
    source = replace(RECORD.source, parent="b" * 40, remote_url="git@host:ada/project")
    record = from_json(json.dumps(written(OPTIONS, replace(CODE, source=source))), "the run 1")
    assert record == replace(RECORD, source=source)


def test_no_script():
    """A task function of no script has none."""
    code = replace(CODE, script=None)
    record = from_json(json.dumps(written(OPTIONS, code)), "the run 1")
    assert record == replace(RECORD, script=None)


def test_another_format():
    """A record of another version is refused, with the run."""
    with pytest.raises(ReproduceError) as raised:
        from_json(json.dumps({**JSON, "format": 7}), "the run 1")
    assert str(raised.value) == (
        "The record of the run 1 (job.json) has format 7, and this version of the launcher reads "
        "format 1. Use the version that made the run."
    )


def test_what_is_missing():
    """A part that is missing is named."""
    content = {name: value for name, value in JSON.items() if name != "executable"}
    with pytest.raises(ReproduceError, match=r"cannot be read: it has no 'executable'"):
        from_json(json.dumps(content), "the run 1")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"format": 1}',
        json.dumps({**JSON, "task": None}).encode(),
        json.dumps({**JSON, "number": "first"}).encode(),
        json.dumps({**JSON, "options": 3}).encode(),
        b"[" * 100_000,
    ],
)
def test_garbage(content):
    """What is no record is refused, with the run and the artifact."""
    with pytest.raises(
        ReproduceError, match=r"^The record of the run 1 \(job\.json\) cannot be read: "
    ):
        from_json(content, "the run 1")


def test_secret():
    """What looks like a secret is to be set by whoever runs the job again."""
    options = {**OPTIONS, "environment": {"API_KEY": "k", "DEPTH": 3}}
    environment = written(options)["options"]["environment"]
    assert environment == {"API_KEY": "${oc.env:API_KEY}", "DEPTH": 3}
