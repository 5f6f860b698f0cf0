"""Past job: what tracking holds of a job, read back so that it can be run again."""

import json
from dataclasses import replace

import pytest
from fakes import FakeHistory
from past import PLAIN, PROVENANCE, TAGS, a_past_job, a_record, a_run
from test_job_record import JSON

from hydra_plugins.hydra_docker_launcher._data_identity import DataIdentity
from hydra_plugins.hydra_docker_launcher._errors import ReproduceError
from hydra_plugins.hydra_docker_launcher._past_job import past_jobs

DATA = DataIdentity("digits", "/data", "/data", "content", "recorded", "sha256:1")
ARTIFACTS = {
    "job.json": json.dumps(JSON),
    "job.pickle": b"what the worker reads",
    "config.yaml": "lr: 0.1\nmodel:\n  name: mlp\n",
    "provenance.json": json.dumps(PROVENANCE),
    "packages.txt": "hydra-core==1.3.8\nnumpy==1.26\n",
}


def history(**changed):
    """Return a store with one job's run; an artifact that is None is missing."""
    artifacts = {**ARTIFACTS, **{name.replace("__", "."): text for name, text in changed.items()}}
    found = FakeHistory()
    found.add(a_run(), {name: text for name, text in artifacts.items() if text is not None})
    return found


def read(found):
    return past_jobs(found, found.run("a" * 32))


def test_job():
    """Everything of a job is read from its run."""
    assert read(history()) == (a_past_job(),)


def test_what_may_be_missing():
    """A run with neither packages nor data, patch or provenance can be run again."""
    bare = a_past_job(packages=(), provenance={})
    assert read(history(packages__txt=None, provenance__json=None)) == (bare,)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": 7}', b"\xff"])
def test_provenance_of_another_version(content):
    """What is only compared is no reason to refuse a run."""
    assert read(history(provenance__json=content)) == (a_past_job(provenance={}),)


def test_data_and_patch():
    """Data identities and the patch of a snapshot are read where there are some."""
    found = history(data__json=json.dumps([DATA.as_json()]), changes__patch=b"diff\xe9")
    assert read(found) == (a_past_job(data=(DATA,), patch=b"diff\xe9"),)


@pytest.mark.parametrize("name", ["job.json", "job.pickle", "config.yaml"])
def test_missing(name):
    """What is needed and not there is named."""
    with pytest.raises(ReproduceError) as raised:
        read(history(**{name.replace(".", "__"): None}))
    assert str(raised.value) == (
        f"The run {'a' * 32} (lr=0.1) has no artifact {name}: another version of this launcher "
        "made it, the artifact was deleted, or the folder of a local store was moved (its "
        "artifacts are looked for where they were)."
    )


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config__yaml", "lr: [", "is no YAML"),
        ("config__yaml", b"\xff", "is no YAML"),
        ("config__yaml", "- 1\n", "is no mapping"),
        ("data__json", "{", "cannot be read"),
        ("data__json", "[1]", "cannot be read"),
        ("data__json", "[{}]", "cannot be read"),
    ],
)
def test_garbage(name, content, said):
    """An artifact that is not what it should be is refused, with the run."""
    with pytest.raises(ReproduceError, match=rf"of the run a+ {said}"):
        read(history(**{name: content}))


def test_sweep():
    """The run of a sweep stands for its jobs, in their order; of two attempts the later counts."""
    found = FakeHistory()
    found.add(a_run(id="sweep", name="10-00-00", tags={}), {})
    for run_id, number in (("late", 1), ("early", 0), ("again", 0)):
        artifacts = {**ARTIFACTS, "job.json": json.dumps({**JSON, "number": number})}
        tags = {**TAGS, "hydra.docker.job": str(number)}
        found.add(a_run(id=run_id, tags=tags), artifacts, "sweep")
    found.add(a_run(id="own", tags={}), {}, "sweep")  # the script's

    first, second = past_jobs(found, found.run("sweep"))

    assert (first.run.id, first.record) == ("again", a_record())
    assert (second.run.id, second.record) == ("late", a_record(number=1))
    assert first.plain == second.plain == PLAIN


def test_no_run_of_this_launcher():
    """A run that somebody else made is told from one of a job."""
    found = FakeHistory()
    found.add(replace(a_run(), name="tuning", tags={}), {})
    with pytest.raises(ReproduceError) as raised:
        read(found)
    assert str(raised.value) == (
        f"The run {'a' * 32} (tuning) is no job of this launcher, and has none below it: there is "
        "no tag hydra.docker.job."
    )
