"""What a past job's config withheld, had again on this host."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest
from past import a_past_job, a_record

from hydra_plugins.hydra_docker_launcher._errors import OptionError, ReproduceError
from hydra_plugins.hydra_docker_launcher._past_secrets import given, withheld
from hydra_plugins.hydra_docker_launcher._redaction import NOTHING, Hidden

PLAIN = {
    "db": {"password": "${oc.env:DB_PASSWORD}", "pin": "<hidden>"},
    "copied": "is ${db.pin}",
    "users": [{"token": "<hidden>"}],
}
HIDDEN = (
    Hidden("hydra.overrides.task.0", (1, 0), "db.pin=<hidden>"),
    Hidden("hydra.job.env_set.API_KEY", (1, 1), "${oc.env:API_KEY}"),
    Hidden("db.password", (0, 0), "${oc.env:DB_PASSWORD}"),
    Hidden("db.pin", (0, 1), "<hidden>"),
    Hidden("copied", (2,), "is ${db.pin}"),
    Hidden("users.0.token", (3, 0, 0), "<hidden>"),
)


@pytest.fixture
def past():
    return replace(a_past_job(), record=a_record(withheld=HIDDEN), plain=PLAIN)


def test_values_of_now(past, monkeypatch):
    """Interpolations are resolved here, the rest is given; what depends on it follows."""
    monkeypatch.setenv("DB_PASSWORD", "of ${this} host")
    monkeypatch.setenv("API_KEY", "abcdef")
    environ = {"PIN": "123456", "TOKEN": "t-o-k-e-n"}
    secrets = given([past], (("db.pin", "PIN"), ("users.0.token", "TOKEN")), environ)

    found = withheld(past, secrets)

    assert found.hidden == HIDDEN
    assert [value for _, value in pickle.loads(found.values)] == [
        "db.pin=<hidden>",
        "abcdef",
        "of ${this} host",
        "123456",
        "is 123456",
        "t-o-k-e-n",
    ]
    assert "pin: '123456'" in (found.config or "")
    assert {"abcdef", "of ${this} host", "123456", "t-o-k-e-n"} <= {text for text, _ in found.masks}


def test_values_that_are_not_to_be_had(past, monkeypatch):
    """All of them are named, with what stands in their places, and how to give them."""
    for name in ("DB_PASSWORD", "API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ReproduceError) as raised:
        withheld(past, {"db.pin": "123456"})
    assert "  hydra.job.env_set.API_KEY: ${oc.env:API_KEY}\n" in str(raised.value)
    assert "  db.password: ${oc.env:DB_PASSWORD}\n" in str(raised.value)
    assert "  users.0.token: <hidden>\n" in str(raised.value)
    assert "copied" not in str(raised.value)
    assert "--secret hydra.job.env_set.API_KEY=VARIABLE" in str(raised.value)


@pytest.mark.parametrize(
    ("wished", "message"),
    [
        ((("db.host", "PIN"),), "--secret db.host=…: no such value is hidden in the config; "),
        ((("db.pin", "NOWHERE"),), "--secret db.pin=NOWHERE: NOWHERE is not set here"),
    ],
)
def test_wrong_wishes(past, wished, message):
    """A misspelt key or variable is no secret."""
    with pytest.raises(OptionError) as raised:
        given([past], wished, {"PIN": "1"})
    assert str(raised.value).startswith(message)


def test_nothing_withheld():
    """Most jobs have no secrets."""
    assert withheld(a_past_job(), {}) == NOTHING


def test_variables_that_were_secrets():
    """What was made of a secret is one again, though its name does not say so."""
    past = replace(a_past_job(), record=a_record(secret_variables=("PLAIN",)))
    assert withheld(past, {}).secret_variables("hydra.launcher.environment") == ("PLAIN",)
