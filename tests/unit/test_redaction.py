"""Redaction: what of a config is a secret, what stands in its place, and texts without secrets."""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Optional, Union

import pytest
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher._compose import compose, hydra_files, serialize_config
from hydra_plugins.hydra_docker_launcher._masks import (
    masked,
    masked_bytes,
    masked_plain,
    masks_of,
    split_variables,
    url_secrets,
)
from hydra_plugins.hydra_docker_launcher._multirun import mask
from hydra_plugins.hydra_docker_launcher._private import Rules, without_credentials
from hydra_plugins.hydra_docker_launcher._redaction import find, leaf, withheld
from hydra_plugins.hydra_docker_launcher._worker import fill_in


class Kind(Enum):
    PLAIN = 1


@dataclass
class Keys:
    private_key: str = "typed-secret"
    key_file: Optional[Path] = None
    pin_token: Union[int, str] = "union-secret"
    secret_kind: Kind = Kind.PLAIN


# ---- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("db.password", "abc", True),
        ("DB.PassWord", "abc", True),
        ("db.password", 1234, True),
        ("db.password", None, False),
        ("db.use_password", True, False),
        ("secrets.of.all.kinds", "abc", True),
        ("services.0.api_key", "abc", True),
        ("aws.access-key", "abc", True),
        ("headers.Authorization", "Bearer abc", True),
        ("hf_token", "abc", True),
        ("tokens.0", "abc", True),
        ("model.max_tokens", 512, False),
        ("tokenizer.name", "bert", False),
        ("tokenizer.pad_token", "[PAD]", False),
        ("model.mask_token_id", "[MASK]", False),
        ("author", "ada", False),
        ("key", "c major", False),
        ("hydra.launcher.clone.token", "GITHUB_TOKEN", False),
        ("hydra.runtime.choices.secrets", "prod", False),
        ("secret_kind", Kind.PLAIN, False),
        ("db.pass", "abc", True),
        ("smtp_pass", "abc", True),
        ("db.pass", 1234, True),
        ("db.pwd", "abc", True),
        ("http.auth", "ada:abc", True),
        ("http.auth", ["ada", "abc"], True),
        ("http.auth.user.password", "abc", True),
        ("wandb.key", "abc", True),
        ("openai_key", "abc", True),
        ("signing_key", "abc", True),
        ("db.connection_string", "Server=x;Pwd=abc", True),
        ("sentry.dsn", "abc", True),
        ("github.pat", "abc", True),
        ("dbPass", "abc", True),
        ("db.mainPwd", "abc", True),
        ("services.openaiKey", "abc", True),
        ("sentryDsn.of.all", "abc", True),
        ("apiKey", "abc", True),
        ("maxTokens", 512, False),
        ("padToken", "[PAD]", False),
        ("lowPass", "abc", False),
        ("sortKey", "abc", False),
        ("overPassing", "abc", False),
        ("compass", "abc", False),
        ("bypass", "abc", False),
        ("model.pass_through", "abc", False),
        ("filter.low_pass", "abc", False),
        ("forward_pass", "abc", False),
        ("n_passes", 3, False),
        ("two_stage_pass", 3, False),
        ("http.auth.type", "basic", False),
        ("paper.authors", "ada", False),
        ("authority", "abc", False),
        ("pwd", "/home/ada", False),
        ("paths.pwd", "../code", False),
        ("data.path", "/a/b", False),
        ("attention.key", "abc", False),
        ("key_dim", 64, False),
        ("num_keys", 8, False),
        ("sort_key", "abc", False),
        ("music.master_keyboard", "abc", False),
        ("wandb.key_metric", "loss", False),
        ("data.pattern", "*.csv", False),
        ("compat", "abc", False),
    ],
)
def test_keys(key, value, expected):
    """Names that secrets have, anywhere in the full key; numbers of tokens are counts."""
    assert Rules().is_secret(key, value) is expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DB_PASS", "abc", True),
        ("PASS", "abc", True),
        ("MYSQL_PWD", "abc", True),
        ("SMTP_PASS", "abc", True),
        ("GITHUB_PAT", "abc", True),
        ("ENCRYPTION_KEY", "abc", True),
        ("SIGNING_KEY", "abc", True),
        ("WANDB_KEY", "abc", True),
        ("AZURE_STORAGE_KEY", "abc", True),
        ("AZURE_STORAGE_CONNECTION_STRING", "abc", True),
        ("SENTRY_DSN", "abc", True),
        ("GCP_CREDS", "abc", True),
        ("CALLBACK", "https://host/x?api_key=abc", True),
        ("dbPass", "abc", True),
        ("oldPwd", "abc", False),
        ("byPass", "abc", False),
        ("PWD", "/home/ada", False),
        ("OLDPWD", "/home/ada", False),
        ("PROJECT_PWD", "/home/ada", False),
        ("COMPASS", "abc", False),
        ("BYPASS", "abc", False),
        ("PASS_THROUGH", "abc", False),
        ("LOW_PASS", "abc", False),
        ("N_PASSES", "3", False),
        ("GIT_AUTHOR_NAME", "Ada", False),
        ("LD_LIBRARY_PATH", "/a/b", False),
        ("KEY_DIM", "64", False),
        ("SORT_KEY", "abc", False),
        ("XKB_KEYBOARD", "us", False),
        ("PATTERN", "*.csv", False),
        ("CREDITS", "abc", False),
    ],
)
def test_names_of_variables(name, value, expected):
    """The usual names; words that have them in them, and folders, are none."""
    assert Rules().is_secret_variable(name, value) is expected


def test_globs_of_the_user():
    """They are added to the common ones; the last that matches counts, ``!`` takes out."""
    rules = Rules(("door.*pin", "vault", "!vault.url", "!*.token_file", "doorKey", "!adaPass"))
    secret = ("door.main_PIN", "vault.a.b", "x.token", "doorKey", "bobPass")
    none = ("vault.url", "x.token_file", "x.tokenFile", "door.open", "adaPass", "frontDoorKey")
    assert [key for key in (*secret, *none) if rules.is_secret(key, "abc")] == [*secret]


@pytest.mark.parametrize(
    ("override", "shown"),
    [
        ("db.password=abc", "db.password=<hidden>"),
        ("+db.password=abc,def", "+db.password=<hidden>"),
        ("++db={host: h, password: abc}", "++db=<hidden>"),
        ("users=[{name: ada, token: abc}]", "users=<hidden>"),
        ("db/secret@db=prod", "db/secret@db=<hidden>"),
        ("~db.password", "~db.password"),
        ("model.max_tokens=128,256", "model.max_tokens=128,256"),
        ("db.password=", "db.password="),
        ("lr=0.1", "lr=0.1"),
    ],
)
def test_overrides(override, shown):
    """An override keeps its key."""
    assert Rules().override(override) == shown


def test_variables():
    """By their names, as URLs with a password, or because what is masked stands in them."""
    variables = (
        ("WANDB_API_KEY", "a"),
        ("TOKENIZERS_PARALLELISM", "false"),
        ("STORE", "redis://:pw@box/1"),
        ("COPY", "for hunter22"),
        ("EMPTY_TOKEN", ""),
    )
    public, secret = split_variables(variables, Rules(), masks_of(["hunter22"]))
    assert [name for name, _ in public] == ["TOKENIZERS_PARALLELISM", "EMPTY_TOKEN"]
    assert [name for name, _ in secret] == ["WANDB_API_KEY", "STORE", "COPY"]


# ---- texts ---------------------------------------------------------------------------------------


def test_forms_of_a_value():
    """As it stands in JSON, in a repr, in a URL; of one with several lines, each of them."""
    masks = masks_of(['pass"word\\1', "p@ss/wörd", "-----BEGIN KEY-----\nMIIabcdef\nab\n"])
    for text in (
        'is pass"word\\1.',
        'is pass\\"word\\\\1.',
        "is p%40ss%2Fw%C3%B6rd.",
        "is p@ss/w\\u00f6rd.",
        "is MIIabcdef.",
    ):
        assert masked(text, masks) == "is <hidden>."


def test_short_values():
    """A value of less than six characters, or a common word, is part of too many texts."""
    assert masks_of(["abcde", "default", "True"]) == ()
    assert masked("abcdef", masks_of(["abcdef"])) == "<hidden>"


@pytest.mark.parametrize(
    "override", ["note=pa\\\\ss\\,wörd\\ x", "note='pa\\\\ss,wörd x'", "note: 'pa\\\\ss,wörd x'"]
)
def test_forms_in_an_override(override):
    """As it stands there without quotes, and in them."""
    assert "wörd" not in masked(override, masks_of(["pa\\ss,wörd x"]))


def test_longer_values_first():
    """A value that is part of another one does not leave the rest of that."""
    assert masked("secret-of-ada", masks_of(["secret", "secret-of-ada"])) == "<hidden>"


def test_plain_values_and_bytes():
    """Whatever has texts in it; bytes that are no text stay as they are."""
    masks = masks_of(["hunter22"])
    value = {"a hunter22": ["hunter22", 1, None, {"b": "x hunter22"}]}
    assert masked_plain(value, masks) == {"a <hidden>": ["<hidden>", 1, None, {"b": "x <hidden>"}]}
    assert masked_bytes(b"\xff hunter22 \xfe", masks) == b"\xff <hidden> \xfe"


def test_urls():
    """The password; a user alone is a token, but not for ssh."""
    text = "https://ada:pw@host and https://ghp_x@host and ssh://git@host and https://host/a@b"
    assert url_secrets(text) == ("pw", "ghp_x")


@pytest.mark.parametrize(
    ("url", "found", "shown"),
    [
        (
            "s3://b/x?a=1&sig=a%2Fb&token=t",
            ("a%2Fb", "t"),
            "s3://b/x?a=1&sig=<hidden>&token=<hidden>",
        ),
        ("https://h/?api_key=abc#top", ("abc",), "https://h/?api_key=<hidden>#top"),
        ("https://h/?max_tokens=5&key=model.pt", (), "https://h/?max_tokens=5&key=model.pt"),
        (
            "https://h/?key=AIzaSyA1234567890abc",
            ("AIzaSyA1234567890abc",),
            "https://h/?key=<hidden>",
        ),
        ("https://h/?token=${oc.env:T}", (), "https://h/?token=${oc.env:T}"),
        ("redis://ada:p/w@h/1", ("p/w",), "redis://h/1"),
        ("https://ada@example.org:pw@h/x", ("pw",), "https://h/x"),
        ("https://ghp_x:x-oauth-basic@h/x", ("ghp_x",), "https://h/x"),
        ("http://h:5000/x@y", (), "http://h:5000/x@y"),
        ("http://[::1]:5000/x@y", (), "http://[::1]:5000/x@y"),
    ],
)
def test_parts_of_urls(url, found, shown):
    """Parameters that are called as secrets are; a password with a slash; a port is none."""
    assert url_secrets(url) == found
    assert without_credentials(url) == shown
    assert without_credentials(shown) == shown


# ---- configs -------------------------------------------------------------------------------------

RAW = """
db:
  password: ${oc.env:DB_PASSWORD,fallback-secret}
  other: ${.password}
  pin: 123456
users:
  - {name: ada, tokens: [nested-1, nested-2]}
whole: ${accounts}
accounts: {api_key: whole-secret}
store: postgres://ada:url-secret@host/x
half: postgres://ada:${oc.env:DB_PASSWORD}@host/x
copied: user=ada password=${db.password}
wandb: {key: "${oc.env:WANDB_TOKEN}"}
empty_secret: null
lr: 0.1
"""


def shown(config: Any, raw: Any, *globs: str) -> dict[str, str]:
    hidden, _ = find(config, raw, Rules(globs))
    return {item.key: item.shown for item in hidden}


@pytest.fixture
def configs(monkeypatch):
    monkeypatch.setenv("DB_PASSWORD", "from-the-host")
    monkeypatch.setenv("WANDB_TOKEN", "wandb-secret")
    raw = OmegaConf.create(RAW)
    return OmegaConf.create(OmegaConf.to_container(raw, resolve=True)), raw


def test_what_stands_instead(configs):
    """Interpolations, without the default of a variable; URLs without user and password."""
    assert shown(*configs, "db.pin") == {
        "db.password": "${oc.env:DB_PASSWORD}",
        "db.other": "${.password}",
        "db.pin": "<hidden>",
        "users.0.tokens.0": "<hidden>",
        "users.0.tokens.1": "<hidden>",
        "whole.api_key": "${accounts.api_key}",
        "accounts.api_key": "<hidden>",
        "store": "postgres://host/x",
        "half": "postgres://ada:${oc.env:DB_PASSWORD}@host/x",
        "copied": "user=ada password=${db.password}",
        "wandb.key": "${oc.env:WANDB_TOKEN}",
    }


def test_short_value_that_stands_again():
    """What refers to a secret is one too, however short that is."""
    raw = OmegaConf.create({"password": "abc", "url": "host?${password}&x", "x": "abc"})
    config = OmegaConf.create({"password": "abc", "url": "host?abc&x", "x": "abc"})
    assert shown(config, raw) == {"password": "<hidden>", "url": "host?${password}&x"}


def test_what_refers_to_a_secret():
    """By way of another key, from where it stands, by a resolver; what counts tokens does not."""
    keys = {
        "db": {"password": "abc", "own": "x ${.password}", "max_tokens": 512},
        "one": "at ${two}",
        "two": "at ${db.password}",
        "bracket": "at ${db[password]}",
        "selected": "at ${oc.select:db.password,none}",
        "length": "at ${db.max_tokens}",
        "listed": ["at ${..db.password}"],
        "variable": "at ${oc.env:MY_TOKEN,a-default}",
        "quoted": "at ${oc.env:MY_TOKEN,'a}default'}",
        "store": "redis://:${oc.env:STORE,a-default}@host",
        "folder": "${pwd}/data",
        "pwd": "/home/ada",
        "hydra": {"job": {"env_set": {"PLAIN": "${db.password}", "FREE": "${length}"}}},
    }
    raw = OmegaConf.create(keys)
    config = OmegaConf.create(OmegaConf.to_container(raw, resolve=True))
    assert shown(config, raw) == {
        "db.password": "<hidden>",
        "db.own": "x ${.password}",
        "one": "at ${two}",
        "two": "at ${db.password}",
        "bracket": "at ${db[password]}",
        "selected": "at ${oc.select:db.password,none}",
        "listed.0": "at ${..db.password}",
        "variable": "at ${oc.env:MY_TOKEN}",
        "quoted": "at ${oc.env:MY_TOKEN}",
        "store": "redis://:${oc.env:STORE}@host",
        "hydra.job.env_set.PLAIN": "${db.password}",
    }


def test_values_of_overrides():
    """They are masked wherever they stand again, each of a sweep; names of groups are not."""
    task = [
        "db.password='hunter2222',other-one",
        "+note=host?pw=hunter2222",
        "a=x-other-one",
        "secrets=production",
        "place=production",
        "+user={token: of-the-user}",
        "again=of-the-user",
    ]
    node = {"secrets": {"password": "abc"}, "hydra": {"overrides": {"task": task}}}
    config = OmegaConf.create(node)
    assert shown(config, config) == {
        "secrets.password": "<hidden>",
        "hydra.overrides.task.0": "db.password=<hidden>",
        "hydra.overrides.task.1": "+note=host?pw=<hidden>",
        "hydra.overrides.task.2": "a=x-<hidden>",
        "hydra.overrides.task.3": "secrets=<hidden>",
        "hydra.overrides.task.5": "+user=<hidden>",
        "hydra.overrides.task.6": "again=<hidden>",
    }


def test_before_interpolations_are_resolved(configs):
    """The same in .hydra/config.yaml: what leads to a secret is none."""
    _, raw = configs
    assert shown(raw, raw) == {
        "db.password": "${oc.env:DB_PASSWORD}",
        "users.0.tokens.0": "<hidden>",
        "users.0.tokens.1": "<hidden>",
        "accounts.api_key": "<hidden>",
        "store": "postgres://host/x",
    }


def test_in_place_for_a_while(configs):
    """The config has its values again afterwards, and where they are."""
    config, raw = configs
    before = OmegaConf.to_yaml(config)
    hidden, masks = find(config, raw, Rules())
    with withheld(config, hidden) as values:
        text = OmegaConf.to_yaml(config)
    assert masked(text, masks) == text
    assert "from-the-host" not in text
    assert OmegaConf.to_yaml(config) == before
    assert [leaf(config, item.at)._val for item in hidden] == values


def test_variables_in_a_config():
    """Those that Hydra and the launcher set, as a mapping and as a list."""
    node = {
        "launcher": {"environment": ["DB_TOKEN=abc", "PLAIN=abc", "HOST_TOKEN"]},
        "job": {"env_set": {"API_KEY": "abc", "PLAIN": "abc"}},
        "overrides": {"task": ["db.password=x", "lr=1"]},
    }
    config = OmegaConf.create({"hydra": node})
    assert shown(config, config) == {
        "hydra.launcher.environment.0": "DB_TOKEN=<hidden>",
        "hydra.job.env_set.API_KEY": "<hidden>",
        "hydra.overrides.task.0": "db.password=<hidden>",
    }


# ---- from the host to the job --------------------------------------------------------------------


def test_config_of_a_job(multirun, tmp_path):
    """The pickle has no secret in it; the worker puts each where it was, with its type."""
    conf = tmp_path / "conf"
    conf.mkdir()
    (conf / "config.yaml").write_text(
        "defaults: [keys: of_redaction, _self_]\ndb: {password: conf-secret, size: 3}\n"
    )
    ConfigStore.instance().store(group="keys", name="of_redaction", node=Keys)
    context, config = multirun(conf, f"hydra.sweep.dir={tmp_path}/out")

    job = compose(context, config, ["+db.passphrase=over-secret"], 0)

    content = serialize_config(job)
    files = hydra_files(job)
    written = [content, job.yaml.encode(), *(text.encode() for text in files.values())]
    for secret in (b"conf-secret", b"typed-secret", b"union-secret", b"over-secret"):
        assert all(secret not in text for text in written), secret
        assert secret in pickle.dumps(job.withheld.values)
    assert job.overrides == ("+db.passphrase=<hidden>",)
    assert job.task_overrides == ("+db.passphrase=over-secret",)
    assert "- +db.passphrase=<hidden>" in files["hydra.yaml"]
    assert "conf-secret" in job.withheld.config
    assert job.plain["db"] == {"password": "<hidden>", "size": 3, "passphrase": "<hidden>"}


@pytest.mark.parametrize("kind", ["path", "value"])
def test_worker_fills_in(tmp_path, monkeypatch, kind):
    """Whatever the type of the node is."""
    config = OmegaConf.structured(Keys)
    hidden, _ = find(config, config, Rules(("key_file",)))

    job = SimpleNamespace(withheld=[item.at for item in hidden])
    monkeypatch.setattr("hydra_plugins.hydra_docker_launcher._worker.SECRETS", str(tmp_path))
    values = [(kind, "/a/key") for _ in hidden]
    (tmp_path / "values.pickle").write_bytes(pickle.dumps(values))
    fill_in(config, job)
    expected = Path("/a/key") if kind == "path" else "/a/key"
    assert config.private_key == config.pin_token == expected
    (tmp_path / "values.pickle").unlink()
    with pytest.raises(RuntimeError, match="secrets of the job's config are gone"):
        fill_in(config, job)


def test_multirun_yaml(tmp_path):
    """Hydra's sweeper has written it; only where it has secrets in it is it written anew."""
    file = tmp_path / "multirun.yaml"
    file.write_text("db:\n  password: abc\n  host: ${host}\nhost: h\n")
    mask(tmp_path, Rules())
    assert file.read_text() == "db:\n  password: <hidden>\n  host: ${host}\nhost: h\n"
    file.write_text("lr:   1\n")
    mask(tmp_path, Rules())
    assert file.read_text() == "lr:   1\n"
    mask(tmp_path / "nowhere", Rules())


def test_multirun_yaml_that_is_a_link(tmp_path):
    """It is left alone: it is not the sweeper's."""
    (tmp_path / "other").write_text("password: abc\n")
    (tmp_path / "multirun.yaml").symlink_to(tmp_path / "other")
    mask(tmp_path, Rules())
    assert (tmp_path / "other").read_text() == "password: abc\n"
