"""Report: what a repeated run has in common with the one of then, as text."""

from dataclasses import replace

from past import TAGS, a_past_job, a_record, a_run
from test_past_job import ARTIFACTS, history

from hydra_plugins.hydra_docker_launcher._data_identity import DataIdentity
from hydra_plugins.hydra_docker_launcher._outcome import End, Outcome
from hydra_plugins.hydra_docker_launcher._report import Reported, read_back, report
from hydra_plugins.hydra_docker_launcher._reproduce import Again

COMPLETED = Outcome(End.COMPLETED, "completed", 0)
THEN = a_past_job()
NOW = replace(THEN, run=a_run(id="b" * 32))
AGAIN = Again(THEN, COMPLETED, NOW.run.id)
DATA = DataIdentity("digits", "/data", "/data", "content", "recorded", "sha256:1")

SAME = f"""\
job #0 (lr=0.1): completed
  run then  {"a" * 32}
  run now   {"b" * 32}
  same      outcome, commit, 2 config values, 8 options, image, python, hydra-core, 2 packages, \
machine
  metric    then  now
  accuracy  0.5   0.5  same"""


def test_same():
    """A job that is the same in everything."""
    assert report([Reported(AGAIN, NOW)]) == SAME


def test_differs():
    """What differs, what nobody knows, what is to be said of the data, and how things were had."""
    then = replace(THEN, data=(DATA,), packages=(), run=a_run(metrics={"a": 1 / 3, "long": 2.0}))
    now = replace(
        NOW,
        data=(replace(DATA, digest="sha256:2"),),
        record=a_record(image=replace(THEN.record.image, id="sha256:" + "2" * 64)),
        run=a_run(id="b" * 32, metrics={"a": 0.25, "only now": 1.0}),
    )
    remarks = ("the image of then is gone: built again", "TOKEN is not set here")
    assert (
        report([Reported(Again(then, COMPLETED, "b", remarks), now)])
        == f"""\
job #0 (lr=0.1): completed
  run then  {"a" * 32}
  run now   {"b" * 32}
  same      outcome, commit, 2 config values, 8 options, python, hydra-core, machine
  differs   image: sha256:11111111111111111111111111111111… then, \
sha256:22222222222222222222222222222222… now
  data      /data: digits is other data: sha256:1 then, sha256:2 now
  unknown   packages: not written down
  remark    the image of then is gone: built again
  remark    TOKEN is not set here
  metric    then                now
  a         0.3333333333333333  0.25  differs
  long      2                   -     differs
  only now  -                   1     differs"""
    )


def test_sweep():
    """A block for each job, and a line that counts; a job that failed says how."""
    tags = {**TAGS, "hydra.docker.outcome": "error"}
    failed = replace(THEN, record=a_record(number=1), run=a_run(tags=tags, metrics={}))
    again = Again(failed, Outcome(End.ERROR, "raised ValueError: loss\nis nan", 1), "b")
    now = replace(failed, run=replace(failed.run, id="b" * 32))
    assert (
        report([Reported(AGAIN, NOW), Reported(again, now)])
        == f"""\
{SAME}

job #1 (lr=0.1): error: raised ValueError: loss is nan
  run then  {"a" * 32}
  run now   {"b" * 32}
  same      outcome, commit, 2 config values, 8 options, image, python, hydra-core, 2 packages, \
machine
  no metrics in either run

1 of 2 completed; metrics the same in 2"""
    )


def test_not_recorded():
    """Without a new run there is nothing to compare with."""
    again = Again(replace(THEN, record=a_record(overrides=())), COMPLETED, None, ("a remark",))
    assert (
        report(read_back([again], history()))
        == f"""\
job #0 (no overrides): completed
  run then  {"a" * 32}
  remark    a remark
  Nothing is compared: it was not recorded"""
    )


def test_read_back():
    """The new run is read as the one of then was; where it cannot be, the report says why."""
    found = history()
    found.add(a_run(id="b" * 32), ARTIFACTS)
    assert read_back([AGAIN], found) == [Reported(AGAIN, NOW)]
    lost = Again(THEN, COMPLETED, "gone")
    assert read_back([lost], found) == [Reported(lost, None, "There is no run gone")]
