"""What is written down holds names of variables, not their values, and no passwords of URLs."""

from __future__ import annotations

from enum import Enum
from pathlib import PurePosixPath

import pytest

from hydra_plugins.hydra_docker_launcher._private import (
    hide_variables,
    plain,
    repeatable_options,
    shown_options,
    shown_override,
    without_credentials,
)


class Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("lr=0.1", "lr=0.1"),
        ("hydra/launcher=docker", "hydra/launcher=docker"),
        ("hydra.launcher.cpus=2", "hydra.launcher.cpus=2"),
        ("hydra.launcher.environment.TOKEN=abc", "hydra.launcher.environment.TOKEN=<hidden>"),
        ("+hydra.launcher.environment={A: b}", "+hydra.launcher.environment=<hidden>"),
        ("hydra.launcher.build.args.KEY=abc", "hydra.launcher.build.args.KEY=<hidden>"),
        ("++hydra.launcher={environment: {A: b}}", "++hydra.launcher=<hidden>"),
        ("+hydra.job.env_set.TOKEN=a=b", "+hydra.job.env_set.TOKEN=<hidden>"),
        ("~hydra.launcher.environment.TOKEN", "~hydra.launcher.environment.TOKEN"),
        ("hydra.launcher.environments=1", "hydra.launcher.environments=1"),
        ("--multirun", "--multirun"),
        ("db=postgres://ada:secret@db.example.org/x", "db=postgres://db.example.org/x"),
        ("", ""),
    ],
)
def test_overrides(override, shown):
    """An override that sets a variable keeps its key."""
    assert shown_override(override) == shown


def test_options():
    """They can be read again as options: a name without a value means the host's."""
    options = {
        "_target_": "the.Launcher",
        "image": "train:1",
        "build": {"context": None, "args": {"KEY": "secret", "WHICH": "${oc.env:WHICH}"}},
        "environment": {"TOKEN": "secret", "PASSED_IN": None},
        "env_file": ["variables.env"],
        "mlflow": {"tracking_uri": "https://ada:secret@mlflow.example.org"},
    }
    assert shown_options(options) == {
        "image": "train:1",
        "build": {"context": None, "args": {"KEY": None, "WHICH": "${oc.env:WHICH}"}},
        "environment": {"TOKEN": None, "PASSED_IN": None},
        "env_file": ["variables.env"],
        "mlflow": {"tracking_uri": "https://mlflow.example.org"},
    }
    assert options["environment"]["TOKEN"] == "secret"


@pytest.mark.parametrize(
    ("environment", "shown"),
    [(None, None), ([], []), (["TOKEN=a=b", "PASSED_IN"], ["TOKEN", "PASSED_IN"]), ({}, {})],
)
def test_environment_in_other_forms(environment, shown):
    """It can be a list, or nothing."""
    assert shown_options({"environment": environment}) == {"environment": shown}


def test_hydra_node():
    """Hydra's own node has variables in three places; where one comes from may be said."""
    node = {
        "job": {"name": "train", "env_set": {"TOKEN": "secret", "B": "${oc.env:B}"}},
        "launcher": {"environment": {"TOKEN": "secret"}, "build": {"args": {"KEY": "secret"}}},
        "overrides": {"task": ["lr=1"], "hydra": ["hydra.launcher.environment.TOKEN=secret"]},
        "sweeper": {"storage": "postgresql://ada:secret@db/study"},
    }
    assert hide_variables(node) == {
        "job": {"name": "train", "env_set": {"TOKEN": "<hidden>", "B": "${oc.env:B}"}},
        "launcher": {"environment": {"TOKEN": "<hidden>"}, "build": {"args": {"KEY": "<hidden>"}}},
        "overrides": {"task": ["lr=1"], "hydra": ["hydra.launcher.environment.TOKEN=<hidden>"]},
        "sweeper": {"storage": "postgresql://db/study"},
    }
    assert hide_variables({}) == {}


def test_plain_values():
    """Whatever a config holds becomes what JSON has."""
    value = {
        Colour.RED: [Colour.RED, 1, True, None, 0.5, float("nan"), float("inf")],
        2: (PurePosixPath("/a/b"), b"\x00"),
    }
    assert plain(value) == {
        "RED": ["RED", 1, True, None, 0.5, "nan", "inf"],
        "2": ["/a/b", "b'\\x00'"],
    }


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://token@host/r.git", "https://host/r.git"),
        ("ssh://git@host/r.git", "ssh://git@host/r.git"),
        ("git@host:r.git", "git@host:r.git"),
        ("https://host/r?dbPass=abc&lowPass=1", "https://host/r?dbPass=<hidden>&lowPass=1"),
        ("see https://host and write to ada@host", "see https://host and write to ada@host"),
    ],
)
def test_urls(text, shown):
    """The user of an address can be a token; ssh needs it, and has no password there."""
    assert without_credentials(text) == shown


def test_repeatable_options():
    """What looks like a secret is taken from the environment of whoever runs the job again."""
    options = {
        "_target_": "x",
        "image": "https://ada:pw@registry/train",
        "environment": {
            "OMP_NUM_THREADS": 2,
            "GIT_AUTHOR_NAME": "Ada",
            "WANDB_API_KEY": "abc",
            "DB": "postgres://ada:pw@db/x",
            "GIVEN": "${oc.env:OTHER}",
            "PASSED_TOKEN": None,
        },
        "build": {"args": ["VERSION=1", "PIP_TOKEN=abc", "HOST_TOKEN"]},
    }
    assert repeatable_options(options) == {
        "image": "https://ada:pw@registry/train",
        "environment": {
            "OMP_NUM_THREADS": 2,
            "GIT_AUTHOR_NAME": "Ada",
            "WANDB_API_KEY": "${oc.env:WANDB_API_KEY}",
            "DB": "${oc.env:DB}",
            "GIVEN": "${oc.env:OTHER}",
            "PASSED_TOKEN": None,
        },
        "build": {"args": ["VERSION=1", "PIP_TOKEN=${oc.env:PIP_TOKEN}", "HOST_TOKEN"]},
    }
