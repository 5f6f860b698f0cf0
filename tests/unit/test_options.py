"""Options: what a ``hydra.launcher`` node may say, and what each wrong word is answered with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _boundary_values, _options, config
from hydra_plugins.hydra_docker_launcher._errors import OptionError
from hydra_plugins.hydra_docker_launcher._options import (
    Build,
    CloneOptions,
    Gpus,
    JobOptions,
    Logging,
    Mlflow,
    Options,
    Restart,
    Retries,
    SweepOptions,
    Ulimit,
    Volume,
    check_names,
    check_same,
    parse,
)

MIB = 1024**2
ENVIRON = {"TOKEN": "of the host", "PIP": "of the host", "SHARED": "too"}
NAMES = [field.name for field in fields(config.DockerLauncherConf) if field.name != "_target_"]
NESTED = {
    "build": config.BuildConf,
    "clone": config.CloneConf,
    "retries": config.RetriesConf,
    "logging": config.LoggingConf,
    "mlflow": config.MlflowConf,
}
VALID = f"Valid are: {', '.join(NAMES)}"


#: A file that can be read.
KEY = Path(__file__)
#: Every option but env_file, which becomes environment, with a value that is not its default.
EVERY: dict[str, Any] = {
    "image": "registry.example:5000/team/train:3",
    "build": {
        "context": "docker",
        "dockerfile": "train.Dockerfile",
        "target": "runtime",
        "args": {"CUDA": 12, "DEBUG": False, "PIP": None, "UNKNOWN": None},
        "network": "host",
        "base": "python:3.12-slim",
    },
    "pull_policy": "always",
    "push": "team/train",
    "resume": True,
    "detach": True,
    "on_interrupt": "detach",
    "system_metrics": False,
    "admission": "sweep",
    "commit": "v1.2",
    "dirty": "ignore",
    "snapshot_limit": "1g",
    "delivery": "clone",
    "remote": "git@example.org:team/train.git",
    "clone": {"ssh_key": str(KEY), "known_hosts": str(KEY), "token": "TOKEN"},
    "cpus": 2,
    "mem_limit": "2g",
    "memswap_limit": "3g",
    "shm_size": "512m",
    "pids_limit": 100,
    "gpus": [0, "GPU-1"],
    "gpu_share": True,
    "ulimits": {"nofile": 65536, "core": {"soft": 0, "hard": -1}},
    "user": "1000:1000",
    "cap_add": ["NET_ADMIN"],
    "cap_drop": [],
    "security_opt": ["apparmor=unconfined"],
    "read_only": True,
    "tmpfs": ["/tmp:size=64m", "/run"],
    "devices": ["/dev/null", "/dev/zero:/dev/nothing:r"],
    "runtime": "runsc",
    "network_mode": "none",
    "extra_hosts": ["store:10.0.0.1", "v6:::1", "host.docker.internal=host-gateway"],
    "init": False,
    "labels": {"team": "vision", "cost": 3},
    "volumes": ["./data:/data:ro", "cache:/cache", "/dev/null:/null:rw"],
    "data_check": "error",
    "data_identity": "content",
    "environment": {"A": 1, "B": True, "TOKEN": None, "UNKNOWN": None},
    "n_jobs": 3,
    "timeout_min": 1.5,
    "stop_grace_period": "1m30s",
    "restart": "on-failure:3",
    "retries": {
        "oom": 1,
        "infra": 2,
        "error": 3,
        "timeout": 4,
        "backoff": "1m30s",
        "mem_factor": 1.5,
    },
    "fail_fast": True,
    "dry_run": True,
    "redact": ["door.*pin", "!model.token"],
    "keep": "all",
    "stray": "collect",
    "stray_limit": "2g",
    "logging": {"driver": "local", "options": {"max-size": "1m", "compress": False}},
    "log_limit": "200m",
    "mlflow": {
        "enabled": False,
        "tracking_uri": "http://tracking:5000",
        "experiment_name": "digits",
        "run_name": "first",
        "tags": {"stage": "draft"},
    },
}


def node(**options: Any) -> dict[str, Any]:
    """Return what the launcher gets: the schema of Hydra's registry with a user's options in it."""
    merged = OmegaConf.merge(config._open_schema(), options)
    content: dict[str, Any] = OmegaConf.to_container(merged, resolve=True)
    return content


def parsed(folder: Path, **options: Any) -> Options:
    return parse(node(**options), environ=ENVIRON, folder=folder)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(OptionError) as caught:
        parsed(folder, **options)
    return str(caught.value)


def test_defaults(tmp_path):
    """Nothing set: one hardened container per job, as many at once as fit."""
    assert parsed(tmp_path) == Options(
        sweep=SweepOptions(
            image=None,
            build=Build(None, None, None, (), None),
            pull_policy="missing",
            commit="HEAD",
            dirty="error",
            snapshot_limit=10 * MIB,
            delivery="copy",
            remote="origin",
            clone=CloneOptions(),
            user="host",
            n_jobs=-1,
            fail_fast=False,
            dry_run=False,
            keep="failed",
            mlflow=Mlflow(True, None, None, None, ()),
        ),
        job=JobOptions(
            cpus=1.0,
            mem_limit=None,
            memswap_limit=None,
            shm_size=None,
            pids_limit=4096,
            gpus=Gpus(),
            ulimits=(),
            cap_add=(),
            cap_drop=("ALL",),
            security_opt=("no-new-privileges:true",),
            read_only=False,
            tmpfs=(),
            devices=(),
            runtime=None,
            network_mode=None,
            extra_hosts=(),
            init=True,
            labels=(),
            volumes=(),
            data_check="warn",
            data_identity="stat",
            environment=(),
            timeout=None,
            stop_grace_period=10.0,
            restart=Restart("no"),
            retries=Retries(oom=0, infra=0, error=0, timeout=0, backoff=5.0, mem_factor=1.0),
            stray="warn",
            stray_limit=1024 * MIB,
            logging=Logging("json-file", (("max-file", "5"), ("max-size", "10m"))),
            log_limit=1024 * MIB,
        ),
    )


def test_every_option(tmp_path):
    """Every option set: each arrives, with its unit."""
    (tmp_path / "data").mkdir()

    assert parsed(tmp_path, **EVERY) == Options(
        sweep=SweepOptions(
            image="registry.example:5000/team/train:3",
            build=Build(
                context="docker",
                dockerfile="train.Dockerfile",
                target="runtime",
                args=(("CUDA", "12"), ("DEBUG", "false"), ("PIP", "of the host")),
                network="host",
                base="python:3.12-slim",
            ),
            pull_policy="always",
            resume=True,
            detach=True,
            on_interrupt="detach",
            system_metrics=False,
            admission="sweep",
            commit="v1.2",
            dirty="ignore",
            snapshot_limit=1024 * MIB,
            delivery="clone",
            remote="git@example.org:team/train.git",
            clone=CloneOptions(KEY, KEY, "TOKEN"),
            user="1000:1000",
            n_jobs=3,
            fail_fast=True,
            dry_run=True,
            keep="all",
            mlflow=Mlflow(
                enabled=False,
                tracking_uri="http://tracking:5000",
                experiment_name="digits",
                run_name="first",
                tags=(("stage", "draft"),),
            ),
            push="team/train",
            redact=("door.*pin", "!model.token"),
        ),
        job=JobOptions(
            cpus=2.0,
            mem_limit=2048 * MIB,
            memswap_limit=3072 * MIB,
            shm_size=512 * MIB,
            pids_limit=100,
            gpus=Gpus(ids=("0", "GPU-1")),
            gpu_share=True,
            ulimits=(Ulimit("nofile", 65536, 65536), Ulimit("core", 0, -1)),
            cap_add=("NET_ADMIN",),
            cap_drop=(),
            security_opt=("apparmor=unconfined",),
            read_only=True,
            tmpfs=(("/tmp", "size=64m"), ("/run", "")),
            devices=("/dev/null:/dev/null:rwm", "/dev/zero:/dev/nothing:r"),
            runtime="runsc",
            network_mode="none",
            extra_hosts=(
                ("store", "10.0.0.1"),
                ("v6", "::1"),
                ("host.docker.internal", "host-gateway"),
            ),
            init=False,
            labels=(("team", "vision"), ("cost", "3")),
            volumes=(
                Volume(str(tmp_path / "data"), "/data", read_only=True, named=False),
                Volume("cache", "/cache", read_only=False, named=True),
                Volume("/dev/null", "/null", read_only=False, named=False),
            ),
            data_check="error",
            data_identity="content",
            environment=(("A", "1"), ("B", "true")),
            secret_environment=(("TOKEN", "of the host"),),
            timeout=90.0,
            stop_grace_period=90.0,
            restart=Restart("on-failure", 3),
            retries=Retries(oom=1, infra=2, error=3, timeout=4, backoff=90.0, mem_factor=1.5),
            stray="collect",
            stray_limit=2048 * MIB,
            logging=Logging(
                "local", (("compress", "false"), ("max-file", "5"), ("max-size", "1m"))
            ),
            log_limit=200 * MIB,
        ),
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shm_size": 0}, "hydra.launcher.shm_size=0: must be more than 0"),
        (
            {"ulimits": {"nofiles": 7}},
            "nice, nofile, nproc, rss, rtprio, rttime, sigpending, stack; did you mean nofile?",
        ),
        (
            {"environment": {"NVIDIA_VISIBLE_DEVICES": "all"}},
            "is the launcher's own: hydra.launcher.gpus says which GPUs a job gets",
        ),
        ({"admission": "host"}, "hydra.launcher.admission=host: valid is: engine, sweep"),
    ],
)
def test_what_the_engine_would_not_take_as_it_is_meant(tmp_path, options, message):
    """A value that the engine would replace or refuse, or that goes behind others' backs."""
    assert message in refusal(tmp_path, **options)


def changes() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name of every option in the schema, with that option alone set."""
    for name in NAMES:
        if name in NESTED:
            for part in (field.name for field in fields(NESTED[name])):
                yield f"{name}.{part}", {name: {part: EVERY[name][part]}}
        elif name == "env_file":
            yield name, {name: "one.env"}
        else:
            yield name, {name: EVERY[name]}


@pytest.mark.parametrize(("name", "option"), list(changes()))
def test_no_option_is_ignored(tmp_path, name, option):
    """Whatever the schema accepts, the parser looks at: each option alone makes a difference."""
    (tmp_path / "data").mkdir()
    (tmp_path / "one.env").write_text("A=1\n")

    assert parsed(tmp_path, **option) != parsed(tmp_path)


def test_every_option_is_of_a_job_or_of_the_sweep():
    """Values have the names of the options; timeouts lose their unit, files become variables."""
    renamed = {"timeout_min": "timeout"}
    expected = {renamed.get(name, name) for name in NAMES if name != "env_file"}
    expected |= {"secret_environment", "env_files"}

    values = {field.name for kind in (SweepOptions, JobOptions) for field in fields(kind)}
    assert values == expected


# ---- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("memlimit", " Did you mean mem_limit?"),
        ("cpu", " Did you mean cpus?"),
        ("volume", " Did you mean volumes?"),
        ("Image", " Did you mean image?"),
        ("zzz", ""),
    ],
)
def test_misspelt_name(tmp_path, name, meant):
    """A name that is no option is named, with the nearest one and all that there are."""
    assert refusal(tmp_path, **{name: 1}) == (
        f"hydra.launcher.{name} is not an option of hydra/launcher=docker.{meant}\n{VALID}"
    )


def test_misspelt_name_in_a_part(tmp_path):
    """The same for the names below build, clone, retries, logging and mlflow."""
    assert refusal(tmp_path, build={"dockerfil": "x"}) == (
        "hydra.launcher.build.dockerfil is not an option of hydra/launcher=docker. "
        "Did you mean build.dockerfile?\n"
        "Valid are: build.context, build.dockerfile, build.target, build.args, build.network, "
        "build.base"
    )
    assert refusal(tmp_path, clone={"sshkey": "x"}) == (
        "hydra.launcher.clone.sshkey is not an option of hydra/launcher=docker. "
        "Did you mean clone.ssh_key?\n"
        "Valid are: clone.ssh_key, clone.known_hosts, clone.token"
    )
    assert refusal(tmp_path, mlflow={"trackin_uri": "x"}) == (
        "hydra.launcher.mlflow.trackin_uri is not an option of hydra/launcher=docker. "
        "Did you mean mlflow.tracking_uri?\n"
        "Valid are: mlflow.enabled, mlflow.tracking_uri, mlflow.experiment_name, "
        "mlflow.run_name, mlflow.tags"
    )
    assert refusal(tmp_path, retries={"timeouts": 1}) == (
        "hydra.launcher.retries.timeouts is not an option of hydra/launcher=docker. "
        "Did you mean retries.timeout?\n"
        "Valid are: retries.oom, retries.infra, retries.error, retries.timeout, retries.backoff, "
        "retries.mem_factor"
    )


def test_secrets_that_are_no_names(tmp_path):
    """Who writes the token itself, or a password into the URL, is told so without showing it."""
    assert refusal(tmp_path, clone={"token": "ghp_secret"}) == (
        "hydra.launcher.clone.token=…: must be the name of a variable that is set in this host's "
        "environment and holds the token, for example GITHUB_TOKEN; not the token itself"
    )
    reason = "must have no password or token in it; hydra.launcher.clone.token names one"
    for remote in (
        "https://ada:ghp_secret@example.org/a.git",
        "https://ghp_secret@example.org/a.git",
        "https://example.org/a.git?access_token=ghp_secret",
        "ssh://git:ghp_secret@example.org/a.git",
    ):
        assert refusal(tmp_path, remote=remote) == f"hydra.launcher.remote=…: {reason}"
    for remote in ("ssh://git@example.org/a.git", "git@example.org:a.git", "upstream"):
        assert parsed(tmp_path, remote=remote).sweep.remote == remote


@pytest.mark.parametrize("name", ["ssh_key", "known_hosts"])
def test_files_of_a_clone(tmp_path, name):
    """They are relative to the launch folder, and must be there."""
    (tmp_path / "file").write_text("")
    found = parsed(tmp_path, clone={name: "file"}).sweep.clone
    assert getattr(found, name) == tmp_path / "file"
    assert refusal(tmp_path, clone={name: "missing"}) == (
        f"hydra.launcher.clone.{name}=missing: cannot read it: No such file or directory"
    )


def test_names_are_checked_before_values_are_resolved():
    """At the start of a sweep, interpolations to job values have no value yet."""
    early = OmegaConf.merge(config._open_schema(), {"mem_limit": "${model.mem_limit}"})
    check_names(early)

    early.mem_limt = "${model.mem_limit}"
    with pytest.raises(OptionError, match=r"mem_limt is not an option .* Did you mean mem_limit\?"):
        check_names(early)


# ---- values ------------------------------------------------------------------------------------

A_REVISION = "must be a revision of git, such as HEAD, a branch, a tag or an id"
A_REMOTE = "must be the name of a remote, or a URL"
A_DRIVER = (
    "the launcher could not read the output back from it; valid is: json-file, local, journald"
)
AN_OPTION_OF_JSON_FILE = (
    "valid is: compress, max-file, max-size, env, env-regex, labels, labels-regex, tag; did you "
    "mean max-size? (with driver=json-file)"
)
AN_OPTION_OF_JOURNALD = "valid is: env, env-regex, labels, labels-regex, tag (with driver=journald)"
A_LOG_SIZE = "must be more than nothing, or -1 for no limit"
ONE_FILE = "there is one file, where max-size=-1 sets no limit"
A_SIZE = "must be a size such as 512m, 2g or 2147483648 (b, k, m, g, t; 1k = 1024)"
A_GPU = "valid is: a number, all, or a list of device ids"
A_NUMBER_OF_RETRIES = "must be a number of further attempts, 0 for none"
A_FACTOR = "must be a number of at least 1, for example 2"
A_RESTART = "valid is: no, on-failure, on-failure:<times>, unless-stopped, always"
A_DEVICE = "must be host_path[:container_path[:permissions]]"
A_VOLUME = "must be source:target or source:target:ro"
A_REPOSITORY = (
    "must be a repository's name in small letters and without a tag, for example team/train or "
    "registry.example:5000/team/train"
)
A_CAPABILITY = f"there is no such capability; valid is: {', '.join(_boundary_values.CAPABILITIES)}"
A_KEY = "valid is: apparmor, label, no-new-privileges, seccomp"
A_LABEL = "valid is: disable, level, role, type, user; did you mean disable?"
MEANT = "; did you mean no-new-privileges?"
AN_AMOUNT = "a number, with k, m, g or t (1k = 1024)"
A_PATH = "must be an absolute path in the container, not /"


@pytest.mark.parametrize(
    ("option", "shown"),
    [
        ({"image": " "}, "image= : is empty; leave it out"),
        ({"commit": ""}, "commit=: is empty; leave it out"),
        ({"commit": "--all"}, f"commit=--all: {A_REVISION}"),
        ({"remote": "--upload-pack=touch x"}, f"remote=--upload-pack=touch x: {A_REMOTE}"),
        ({"remote": "ext::sh -c date"}, f"remote=ext::sh -c date: {A_REMOTE}"),
        ({"runtime": ""}, "runtime=: is empty; leave it out"),
        ({"build": {"target": ""}}, "build.target=: is empty; leave it out"),
        ({"mlflow": {"run_name": ""}}, "mlflow.run_name=: is empty; leave it out"),
        (
            {"pull_policy": "allways"},
            "pull_policy=allways: valid is: always, missing, never; did you mean always?",
        ),
        ({"dirty": "commit"}, "dirty=commit: valid is: error, snapshot, ignore"),
        (
            {"dirty": "snapshots"},
            "dirty=snapshots: valid is: error, snapshot, ignore; did you mean snapshot?",
        ),
        ({"snapshot_limit": "big"}, f"snapshot_limit=big: {A_SIZE}"),
        (
            {"data_check": "errors"},
            "data_check=errors: valid is: off, warn, error; did you mean error?",
        ),
        (
            {"data_identity": "time"},
            "data_identity=time: valid is: stat, content, none",
        ),
        (
            {"delivery": "clones"},
            "delivery=clones: valid is: copy, clone, image; did you mean clone?",
        ),
        (
            {"remote": "--upload-pack=x"},
            "remote=--upload-pack=x: must be the name of a remote, or a URL",
        ),
        ({"push": "team/train:3"}, f"push=team/train:3: {A_REPOSITORY}"),
        ({"push": "Team/train"}, f"push=Team/train: {A_REPOSITORY}"),
        ({"push": "team/train@sha256:1"}, f"push=team/train@sha256:1: {A_REPOSITORY}"),
        ({"push": True}, f"push=True: {A_REPOSITORY}"),
        ({"keep": "fail"}, "keep=fail: valid is: none, failed, all; did you mean failed?"),
        ({"on_interrupt": "leave"}, "on_interrupt=leave: valid is: stop, detach"),
        ({"stray_limit": "all"}, f"stray_limit=all: {A_SIZE}"),
        ({"log_limit": "all"}, f"log_limit=all: {A_SIZE}"),
        ({"log_limit": "1k"}, "log_limit=1k: must be at least 64k"),
        (
            {"logging": {"driver": "none"}},
            f"logging.driver=none: {A_DRIVER}",
        ),
        (
            {"logging": {"driver": "syslog"}},
            f"logging.driver=syslog: {A_DRIVER}",
        ),
        (
            {"logging": {"options": {"max-sizes": "1m"}}},
            f"logging.options={{'max-sizes': '1m'}}: max-sizes: {AN_OPTION_OF_JSON_FILE}",
        ),
        (
            {"logging": {"driver": "journald", "options": {"max-size": "1m"}}},
            f"logging.options={{'max-size': '1m'}}: max-size: {AN_OPTION_OF_JOURNALD}",
        ),
        (
            {"logging": {"options": {"max-size": "0"}}},
            f"logging.options={{'max-size': '0'}}: max-size: {A_LOG_SIZE}",
        ),
        (
            {"logging": {"options": {"max-file": "many"}}},
            "logging.options={'max-file': 'many'}: max-file: must be a positive number of files",
        ),
        (
            {"logging": {"options": {"max-size": "-1", "max-file": 3}}},
            f"logging.options={{'max-size': '-1', 'max-file': 3}}: max-file: {ONE_FILE}",
        ),
        (
            {"stray": "collects"},
            "stray=collects: valid is: warn, collect, ignore, error; did you mean collect?",
        ),
        ({"user": "me"}, "user=me: valid is: host, image, uid, uid:gid"),
        ({"user": "hots"}, "user=hots: valid is: host, image, uid, uid:gid; did you mean host?"),
        ({"user": "1:"}, "user=1:: valid is: host, image, uid, uid:gid"),
        ({"n_jobs": 0}, "n_jobs=0: must be a positive number, or -1 for as many as fit"),
        ({"n_jobs": -2}, "n_jobs=-2: must be a positive number, or -1 for as many as fit"),
        ({"cpus": 0}, "cpus=0.0: must be at least 0.01"),
        ({"mem_limit": "2x"}, f"mem_limit=2x: {A_SIZE}"),
        ({"mem_limit": "1m"}, "mem_limit=1m: must be at least 6m, the engine's minimum"),
        ({"memswap_limit": "-2"}, f"memswap_limit=-2: {A_SIZE}"),
        ({"shm_size": "big"}, f"shm_size=big: {A_SIZE}"),
        ({"pids_limit": 0}, "pids_limit=0: must be a positive number, or -1 for no limit"),
        ({"gpus": "some"}, f"gpus=some: {A_GPU}"),
        ({"gpus": -1}, f"gpus=-1: {A_GPU}"),
        ({"gpus": True}, f"gpus=True: {A_GPU}"),
        ({"gpus": None}, f"gpus=null: {A_GPU}"),
        ({"gpus": [0, "0"]}, "gpus=[0, '0']: an id is there twice"),
        (
            {"ulimits": {"nofile": "many"}},
            "ulimits.nofile=many: must be a number (-1: no limit), or have soft and hard",
        ),
        (
            {"ulimits": {"nofile": {"soft": 1}}},
            "ulimits.nofile={'soft': 1}: must be a number (-1: no limit), or have soft and hard",
        ),
        (
            {"ulimits": {"nofile": {"soft": 2, "hard": 1}}},
            "ulimits.nofile={'soft': 2, 'hard': 1}: soft (2) is more than hard (1)",
        ),
        (
            {"tmpfs": ["/x:size=10gg"]},
            "tmpfs=/x:size=10gg: size must be a size such as 512m, 2g or 50% (k, m, g, t)",
        ),
        (
            {"tmpfs": ["/x:mode=0988"]},
            "tmpfs=/x:mode=0988: mode must be an octal mode such as 1777",
        ),
        ({"tmpfs": ["/x:uid=ada"]}, "tmpfs=/x:uid=ada: uid must be a number"),
        ({"tmpfs": ["/x:nr_inodes=-1"]}, f"tmpfs=/x:nr_inodes=-1: nr_inodes must be {AN_AMOUNT}"),
        ({"cap_add": ["SYS_ADMN"]}, f"cap_add=SYS_ADMN: {A_CAPABILITY}; did you mean SYS_ADMIN?"),
        ({"cap_drop": ["CAP_KIL"]}, f"cap_drop=CAP_KIL: {A_CAPABILITY}; did you mean KILL?"),
        (
            {"security_opt": ["no-new-privilege:true"]},
            f"security_opt=no-new-privilege:true: there is no 'no-new-privilege'; {A_KEY}{MEANT}",
        ),
        (
            {"security_opt": ["no-new-privileges=maybe"]},
            "security_opt=no-new-privileges=maybe: no-new-privileges must be true or false",
        ),
        ({"security_opt": ["apparmor"]}, "security_opt=apparmor: must be apparmor=value"),
        ({"security_opt": ["seccomp="]}, "security_opt=seccomp=: must be seccomp=value"),
        (
            {"security_opt": ["systempaths=unconfined"]},
            f"security_opt=systempaths=unconfined: there is no 'systempaths'; {A_KEY}",
        ),
        (
            {"security_opt": ["label=disabled"]},
            f"security_opt=label=disabled: label: {A_LABEL}",
        ),
        ({"network_mode": "container:"}, "network_mode=container:: must be container:NAME"),
        ({"tmpfs": ["tmp"]}, f"tmpfs=tmp: 'tmp' {A_PATH}"),
        ({"tmpfs": ["/"]}, f"tmpfs=/: '/' {A_PATH}"),
        ({"devices": ["null"]}, f"devices=null: {A_DEVICE}"),
        ({"devices": ["/dev/null:r"]}, f"devices=/dev/null:r: {A_DEVICE}"),
        (
            {"devices": ["/dev/null:/dev/x:z"]},
            "devices=/dev/null:/dev/x:z: permissions are one or more of r, w and m",
        ),
        ({"devices": ["/dev/no"]}, "devices=/dev/no: there is no device /dev/no on this host"),
        ({"extra_hosts": ["store"]}, "extra_hosts=store: must be name:address"),
        (
            {"labels": {"hydra.docker.job": 1}},
            "labels.hydra.docker.job=1: hydra.docker.* is the launcher's own",
        ),
        ({"volumes": ["/data"]}, f"volumes=/data: {A_VOLUME}"),
        ({"volumes": ["/dev:/d:ro:z"]}, f"volumes=/dev:/d:ro:z: {A_VOLUME}"),
        ({"volumes": [":/data"]}, f"volumes=:/data: {A_VOLUME}"),
        ({"volumes": ["/dev:/d:z"]}, "volumes=/dev:/d:z: 'z' is not a mode; valid is: ro, rw"),
        ({"volumes": ["/dev:d"]}, f"volumes=/dev:d: 'd' {A_PATH}"),
        (
            {"environment": 3},
            "environment=3: must be a mapping of names to values, or a list",
        ),
        ({"environment": ["=1"]}, "environment=: is not a name"),
        ({"environment": {"A=B": 1}}, "environment=A=B: is not a name"),
        ({"environment": {"A": [1]}}, "environment.A=[1]: must be a single value"),
        ({"env_file": 3}, "env_file=3: must be a list of strings"),
        ({"env_file": [["x"]]}, "env_file=[['x']]: must be a list of strings"),
        (
            {"timeout_min": 0},
            "timeout_min=0.0: must be a positive number of minutes, or null for no limit",
        ),
        (
            {"stop_grace_period": "soon"},
            "stop_grace_period=soon: must be a time such as 10s, 1m30s, 500ms or 1h",
        ),
        ({"restart": "allways"}, f"restart=allways: {A_RESTART}; did you mean always?"),
        ({"restart": "always:3"}, f"restart=always:3: {A_RESTART}; did you mean always?"),
        (
            {"restart": "on-failure:0"},
            f"restart=on-failure:0: {A_RESTART}; did you mean on-failure?",
        ),
        ({"retries": {"oom": -1}}, f"retries.oom=-1: {A_NUMBER_OF_RETRIES}"),
        ({"retries": {"timeout": -2}}, f"retries.timeout=-2: {A_NUMBER_OF_RETRIES}"),
        ({"retries": {"backoff": "6m"}}, "retries.backoff=6m: must be at most 5m"),
        (
            {"retries": {"backoff": "-1"}},
            "retries.backoff=-1: must be a time such as 10s, 1m30s, 500ms or 1h",
        ),
        ({"retries": {"mem_factor": 0.9}}, f"retries.mem_factor=0.9: {A_FACTOR}"),
        ({"retries": {"mem_factor": "inf"}}, f"retries.mem_factor=inf: {A_FACTOR}"),
    ],
)
def test_wrong_value(tmp_path, option, shown):
    """The message names the option, its value, and what is valid."""
    assert refusal(tmp_path, **option) == f"hydra.launcher.{shown}"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("pids_limit", "x", "pids_limit=x: must be a positive number, or -1 for no limit"),
        ("cpus", None, "cpus=null: must be a number of CPUs such as 0.5 or 2"),
        ("read_only", "yes", "read_only=yes: must be true or false"),
        ("commit", None, "commit=null: must have a value"),
        ("cap_add", {"A": 1}, "cap_add={'A': 1}: must be a list of strings"),
        ("ulimits", ["nofile"], "ulimits=['nofile']: must be a mapping of names to values"),
        ("build", "docker", "build=docker: must be a mapping of names to values"),
        (
            "timeout_min",
            "long",
            "timeout_min=long: must be a positive number of minutes, or null for no limit",
        ),
        ("retries", 3, "retries=3: must be a mapping of names to values"),
        ("retries", {"oom": "x"}, f"retries.oom=x: {A_NUMBER_OF_RETRIES}"),
        ("retries", {"oom": True}, f"retries.oom=True: {A_NUMBER_OF_RETRIES}"),
        (
            "retries",
            {
                **dict.fromkeys(("oom", "infra", "error", "timeout"), 0),
                "backoff": "1s",
                "mem_factor": "double",
            },
            f"retries.mem_factor=double: {A_FACTOR}",
        ),
    ],
)
def test_wrong_type(tmp_path, name, value, shown):
    """Types that the schema refuses already are refused by the parser as well, in its words."""
    with pytest.raises(OptionError) as caught:
        parse({**node(), name: value}, environ={}, folder=tmp_path)
    assert str(caught.value) == f"hydra.launcher.{shown}"


@pytest.mark.parametrize(
    ("value", "restart"),
    [
        ("no", Restart("no")),
        (False, Restart("no")),
        ("on-failure", Restart("on-failure")),
        ("on-failure:2", Restart("on-failure", 2)),
        ("unless-stopped", Restart("unless-stopped")),
        ("always", Restart("always")),
    ],
)
def test_restart(tmp_path, value, restart):
    """Docker's policies; YAML reads a bare ``no`` as false."""
    assert parsed(tmp_path, restart=value).job.restart == restart


@pytest.mark.parametrize("value", ["off", False])
def test_data_check_off(tmp_path, value):
    """YAML reads a bare ``off`` as false."""
    assert parsed(tmp_path, data_check=value).job.data_check == "off"


@pytest.mark.parametrize(
    ("value", "gpus", "any_"),
    [
        (0, Gpus(), False),
        ("0", Gpus(), False),
        ([], Gpus(), False),
        (2, Gpus(count=2), True),
        ("all", Gpus(all=True), True),
        ([1], Gpus(ids=("1",)), True),
    ],
)
def test_gpus(tmp_path, value, gpus, any_):
    """A number, all, or ids; none are no GPUs."""
    found = parsed(tmp_path, gpus=value).job.gpus
    assert (found, bool(found)) == (gpus, any_)


@pytest.mark.parametrize(
    ("value", "swap"), [(None, None), ("-1", -1), (-1, -1), ("1g", 1024 * MIB)]
)
def test_swap(tmp_path, value, swap):
    """-1 is unlimited swap, as in Compose."""
    assert parsed(tmp_path, memswap_limit=value).job.memswap_limit == swap


def test_missing_volume(tmp_path):
    """Docker would make the folder, as root and empty; here it is an error before job 0."""
    assert refusal(tmp_path, volumes=["./data:/data"]) == (
        f"hydra.launcher.volumes=./data:/data: {tmp_path}/data does not exist on this host; create "
        "it first, or correct the path"
    )


def test_volumes_that_hide_something(tmp_path):
    """Two volumes at one place, or one over the launcher's own files, are an error."""
    (tmp_path / "a").mkdir()
    for volumes, message in (
        (["./a:/data", "a:/data"], "hydra.launcher.volumes=/data: is the target of two volumes"),
        (["./a:/hydra/home"], "hydra.launcher.volumes=/hydra/home: /hydra is the launcher's own"),
    ):
        with pytest.raises(OptionError) as caught:
            parsed(tmp_path, volumes=volumes)
        assert str(caught.value) == message


def test_volume_paths(tmp_path, monkeypatch):
    """Relative sources start at the launch folder, ~ is the home, links are followed."""
    home = tmp_path / "home"
    (home / "data").mkdir(parents=True)
    (tmp_path / "link").symlink_to(home / "data")
    monkeypatch.setenv("HOME", str(home))

    volumes = parsed(tmp_path, volumes=[".:/a", "~/data:/b", "./link:/c", "link:/d"]).job.volumes

    assert volumes == (
        Volume(str(tmp_path), "/a", read_only=False, named=False),
        Volume(str(home / "data"), "/b", read_only=False, named=False),
        Volume(str(home / "data"), "/c", read_only=False, named=False),
        Volume("link", "/d", read_only=False, named=True),
    )


def test_environment_as_list(tmp_path):
    """A list has NAME=value, NAME= for empty, and NAME for the host's value, if it has one."""
    options = parsed(tmp_path, environment=["A=1=2", "EMPTY=", "TOKEN", "UNKNOWN"])

    assert options.job.environment == (("A", "1=2"), ("EMPTY", ""))
    assert options.job.secret_environment == (("TOKEN", "of the host"),)


def test_env_file(tmp_path):
    """Lines as for ``docker run --env-file``; later files win, and ``environment`` most of all."""
    (tmp_path / "one.env").write_text("# comment\n\nA=1\nB='quoted'\nTOKEN\nUNKNOWN\nC=file\n")
    (tmp_path / "two.env").write_text("A=2\n")

    options = parsed(tmp_path, env_file=["one.env", "two.env"], environment={"C": "option"})

    assert options.job.environment == (("C", "option"),)
    assert options.job.secret_environment == (
        ("A", "2"),
        ("B", "'quoted'"),
        ("TOKEN", "of the host"),
    )
    assert parsed(tmp_path, env_file="two.env").job.secret_environment == (("A", "2"),)
    assert options.job.env_files == (tmp_path / "one.env", tmp_path / "two.env")


def test_secret_variables(tmp_path):
    """By their names, by the password in a URL, or because a glob says so: not in the engine."""
    variables = {"DB_TOKEN": "a", "STORE": "redis://:pw@box/1", "DOOR_PIN": 12, "AUTH_MODE": "x"}

    options = parsed(tmp_path, environment=variables, redact=["*_pin", "!AUTH_*"])

    assert options.job.environment == (("AUTH_MODE", "x"),)
    assert dict(options.job.secret_environment) == {
        "DB_TOKEN": "a",
        "STORE": "redis://:pw@box/1",
        "DOOR_PIN": "12",
    }


def test_labels_and_tags_without_secrets(tmp_path):
    """Everybody can read them."""
    named = {"db_password": "abc", "store": "redis://:pw@box/1", "team": "vision"}
    shown = (("db_password", "<hidden>"), ("store", "redis://box/1"), ("team", "vision"))

    options = parsed(tmp_path, labels=named, mlflow={"tags": named})

    assert options.job.labels == options.sweep.mlflow.tags == shown


def test_secret_build_argument(tmp_path):
    """The image's history would show it; whether it is one can be said."""
    refused = refusal(tmp_path, build={"args": {"PIP_TOKEN": "abcdef"}})
    assert "hydra.launcher.build.args.PIP_TOKEN=…: is a secret by its name" in refused
    assert "abcdef" not in refused
    options = parsed(tmp_path, build={"args": {"TOKEN_SIZE": 3}}, redact=["!TOKEN_SIZE"])
    assert options.sweep.build.args == (("TOKEN_SIZE", "3"),)


@pytest.mark.parametrize(
    "options",
    [
        {"environment": {"TOKEN": ["abcdef"]}},
        {"environment": ["TOKEN=abcdef", ["x"]]},
        {"mlflow": {"tags": {"token": ["abcdef"]}}},
        {"image": "", "push": "https://ada:abcdef@registry"},
        {"redact": ["*push*"], "push": "Not abcdef"},
        {"redact": ["DOOR_PIN"], "environment": {"DOOR_PIN": "abcdef\0"}},
    ],
)
def test_refusal_without_secrets(tmp_path, options):
    """A message about a wrong value does not show a secret."""
    assert "abcdef" not in refusal(tmp_path, **options)


def test_env_file_that_cannot_be_read(tmp_path):
    """The message names the file, and the line where one is wrong."""
    (tmp_path / "bad.env").write_text("A=1\nexport B=2\n")

    assert refusal(tmp_path, env_file="no.env") == (
        f"hydra.launcher.env_file=no.env: cannot be read: [Errno 2] No such file or directory: "
        f"'{tmp_path}/no.env'"
    )
    assert refusal(tmp_path, env_file="bad.env") == (
        "hydra.launcher.env_file=bad.env:2: must be lines of NAME=value"
    )


def test_seccomp_profile(tmp_path):
    """The engine gets a profile's content, as from Docker's command line."""
    profile = {"defaultAction": "SCMP_ACT_ALLOW"}
    (tmp_path / "profile.json").write_text(json.dumps(profile, indent=4))

    options = parsed(tmp_path, security_opt=["seccomp=profile.json", "seccomp:unconfined"])

    assert options.job.security_opt == (f"seccomp={json.dumps(profile)}", "seccomp:unconfined")
    assert refusal(tmp_path, security_opt=["seccomp=no.json"]) == (
        "hydra.launcher.security_opt=seccomp=no.json: cannot read the seccomp profile: [Errno 2] "
        f"No such file or directory: '{tmp_path}/no.json'"
    )


# ---- of the sweep, of the job --------------------------------------------------------------------


def test_sweep_wide():
    """What concerns the whole sweep; everything else is each job's own."""
    assert _options.SWEEP_WIDE == (
        "image",
        "build",
        "pull_policy",
        "commit",
        "dirty",
        "snapshot_limit",
        "delivery",
        "remote",
        "clone",
        "user",
        "n_jobs",
        "fail_fast",
        "dry_run",
        "keep",
        "mlflow",
        "push",
        "resume",
        "detach",
        "on_interrupt",
        "system_metrics",
        "redact",
        "admission",
    )


def test_sweep_wide_option_that_differs(tmp_path):
    """The message names the option, both values and both jobs."""
    one, other = parsed(tmp_path).sweep, parsed(tmp_path, n_jobs=2).sweep

    check_same(one, "job #0 (a=1)", one, "job #1 (a=2)")
    with pytest.raises(OptionError) as caught:
        check_same(one, "job #0 (a=1)", other, "job #1 (a=2)")
    assert str(caught.value) == (
        "hydra.launcher.n_jobs must be the same for all jobs of a sweep, but is -1 for job #0 "
        "(a=1) and 2 for job #1 (a=2)"
    )


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("cap_add", ["SYS_ADMIN", "CAP_SYS_PTRACE", "cap_kill", "ALL"]),
        ("cap_drop", ["all", "NET_RAW"]),
        ("security_opt", ["no-new-privileges", "label:type:svirt_t", "apparmor=docker-default"]),
        ("security_opt", ["no-new-privileges:false", "label=disable", "seccomp=builtin"]),
    ],
)
def test_boundary_values(tmp_path, name, values):
    """What Docker takes is taken as it stands."""
    assert getattr(parsed(tmp_path, **{name: values}).job, name) == tuple(values)


@pytest.mark.parametrize(
    "options",
    [
        "size=64m,mode=1777,uid=1000,gid=100,noexec,nosuid,nodev",
        "size=50%",
        "size=1G,nr_inodes=10k",
        "rw,exec,mpol=interleave",
        "",
    ],
)
def test_options_of_tmpfs(tmp_path, options):
    """The options of a tmpfs are those that the kernel takes."""
    assert parsed(tmp_path, tmpfs=[f"/x:{options}"]).job.tmpfs == (("/x", options),)


def test_unknown_option_of_tmpfs(tmp_path):
    """Any other one is named with the nearest."""
    told = refusal(tmp_path, tmpfs=["/x:no-exec"])
    assert told.startswith("hydra.launcher.tmpfs=/x:no-exec: there is no option 'no-exec'; valid ")
    assert told.endswith("did you mean noexec?")


@pytest.mark.parametrize(
    ("mode", "network"),
    [
        (None, None),
        ("bridge", None),
        ("host", None),
        ("none", None),
        ("default", None),
        ("container:db", None),
        ("hots", "hots"),
    ],
)
def test_networks(tmp_path, mode, network):
    """What is none of Docker's words is a network's name, which the engine is asked for."""
    assert _boundary_values.network_of(parsed(tmp_path, network_mode=mode).job.network_mode) == (
        network
    )
