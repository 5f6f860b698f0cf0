"""Compare: what two runs of a job have in common, and what exactly differs."""

import math
from dataclasses import replace

import pytest
from past import IMAGE, OPTIONS, PLAIN, PROVENANCE, TAGS, a_past_job, a_record, a_run

from hydra_plugins.hydra_docker_launcher._compare import Line, compare, data, metrics, same_metrics
from hydra_plugins.hydra_docker_launcher._data_identity import DataIdentity

SAME = (
    Line("outcome", "completed", "completed"),
    Line("commit", "c" * 40, "c" * 40),
    Line("config values", "2", "2"),
    Line("options", "8", "8"),
    Line("image", IMAGE.id, IMAGE.id),
    Line("python", "3.11.2", "3.11.2"),
    Line("hydra-core", "1.3.8", "1.3.8"),
    Line("packages", "2", "2"),
    Line("machine", "known", "known"),
)
THEN = a_past_job()
DATA = DataIdentity("digits", "/data", "/data", "content", "recorded", "sha256:1")


def differing(now):
    """Return the lines that are not as those of two equal jobs."""
    return [line for line in compare(THEN, now) if line not in SAME]


def test_same():
    """Of two equal jobs everything is the same."""
    assert compare(THEN, THEN) == SAME
    assert all(line.same and not line.unknown for line in SAME)


def test_differs():
    """Each part of a config, of the options and of the packages that differs is named."""
    now = a_past_job(
        run=a_run(tags={**TAGS, "hydra.docker.outcome": "error"}),
        record=a_record(
            options={**OPTIONS, "mem_limit": 1, "image": "other"},
            image=replace(IMAGE, id="sha256:2"),
            python="3.12.0",
        ),
        plain={"lr": 0.1, "model": {"width": 3}},
        packages=("hydra-core==1.3.8", "numpy==2.0", "torch @ file:///torch"),
        provenance={
            **PROVENANCE,
            "host": {"name": "bigger", "cpu": "Intel", "cpu_features": ["avx", "amx", "fma"]},
        },
    )
    assert differing(now) == [
        Line("outcome", "completed", "error"),
        Line("config value model.name", "mlp", "-"),
        Line("config value model.width", "-", "3"),
        Line("option mem_limit", "2147483648", "1"),
        Line("image", IMAGE.id, "sha256:2"),
        Line("python", "3.11.2", "3.12.0"),
        Line("package numpy", "1.26", "2.0"),
        Line("package torch @ file:///torch", "-", ""),
        Line("cpu", "AMD", "Intel"),
        Line("cpu features", "avx2", "amx, fma"),
    ]
    assert not any(line.same or line.unknown for line in differing(now))


def test_base_image():
    """Of two images that were built, what they were built from is compared; not of one."""
    then, now, found = (
        a_past_job(provenance={**PROVENANCE, "image": {"id": image, "base": base}})
        for image, base in (("1", "python:3 sha256:1"), ("2", "python:3 sha256:2"), ("1", None))
    )
    assert [line for line in compare(then, now) if line not in SAME] == [
        Line("base image", "python:3 sha256:1", "python:3 sha256:2")
    ]
    assert Line("base image", "python:3 sha256:1", None) in compare(then, THEN)
    assert [line for line in compare(then, found) if line not in SAME] == []


def test_unknown():
    """What one of the two runs does not have written down is neither the same nor other."""
    now = a_past_job(run=a_run(tags={}, status="RUNNING"), packages=(), provenance={})
    lines = differing(now)
    assert lines == [
        Line("outcome", "completed", "running"),
        Line("packages", "2", None),
        Line("machine", "known", None),
    ]
    assert [line.unknown for line in lines] == [False, True, True]
    assert not any(line.same for line in lines)


def test_empty_configs():
    """Two jobs without a config are not told to have the same one."""
    bare = a_past_job(plain={})
    assert "config values" not in {line.what for line in compare(bare, bare)}
    assert Line("config values", None, "2") in compare(bare, THEN)


def test_types_of_values():
    """The number 1 is not the text 1."""
    now = a_past_job(plain={**PLAIN, "lr": "0.1"})
    assert differing(now) == [Line("config value lr", "0.1", "'0.1'")]


@pytest.mark.parametrize(
    ("then", "now", "line"),
    [
        (1 / 3, 1 / 3, Line("loss", "0.3333333333333333", "0.3333333333333333")),
        (0.1, 0.1 + 1e-18, Line("loss", "0.1", "0.1")),
        (0.1, 0.1 + 2e-17, Line("loss", "0.1", "0.10000000000000002")),
        (3.0, 3, Line("loss", "3", "3")),
        (math.nan, math.nan, Line("loss", "nan", "nan")),
        (math.inf, -math.inf, Line("loss", "inf", "-inf")),
        (1e300, 1e300, Line("loss", "1e+300", "1e+300")),
        (None, 1.5, Line("loss", "-", "1.5")),
    ],
)
def test_metrics(then, now, line):
    """Metrics are compared to their last digit; nothing is the same as a number that is none."""
    one = a_past_job(run=a_run(metrics={} if then is None else {"loss": then}))
    other = a_past_job(run=a_run(metrics={"loss": now}))
    assert metrics(one, other) == (line,)
    assert same_metrics((line,)) == (line.then == line.now)


def test_metrics_of_the_machine():
    """What MLflow measures of the machine is no result."""
    job = a_past_job(run=a_run(metrics={"system/cpu_utilization_percentage": 12.0, "b": 1, "a": 2}))
    assert metrics(job, job) == (Line("a", "2", "2"), Line("b", "1", "1"))


def test_data():
    """Of data it is said that all of it is the same, or which is not."""
    then = a_past_job(data=(DATA,))
    other = a_past_job(data=(replace(DATA, digest="sha256:2"),))
    assert data(THEN, THEN) == ()
    assert data(then, then) == (Line("volumes", "1", "1"),)
    assert data(then, other) == ("/data: digits is other data: sha256:1 then, sha256:2 now",)
    assert data(then, THEN) == ("/data: is not there (digits)",)
