"""Secrets, planted by every way in, reach the job, and are in nothing that the sweep leaves."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sweep_command import Command, Finished, MakeRepository, Repository, wait_for

#: Every value that is planted begins so, and nothing else does.
MARK = "canary-"
#: But for this one, which is too short to be masked where it stands in other texts.
SHORT = "Zq7x9"
HOST = {"IN_CONFIG": f"{MARK}interpolation", "WANDB_API_KEY": f"{MARK}passed-on"}
#: What the app must have seen, by the names of its answers.
PLANTED: dict[str, Any] = {
    "password": f"{MARK}interpolation",
    "user_secret": f"{MARK}literal-0",
    "nested": [f"{MARK}nested-0", f"{MARK}nested-1"],
    "store": f"postgres://ada:{MARK}url-0@db.example.org/runs",
    "copied": f"password={MARK}interpolation host=db.example.org",
    "pin": f"{MARK}pin-0",
    "typed": f"{MARK}typed-0",
    "DB_TOKEN": f"{MARK}environment",
    "PLAIN_SETTING": f"{MARK}of-a-file",
    "WANDB_API_KEY": f"{MARK}passed-on",
    "COPY": f"for {MARK}interpolation",
    "SIGNING_SECRET": f"{MARK}set-0",
    "note": f"host?pw={MARK}override",
    "GIVEN": f"{MARK}default",
    "SHORT": SHORT,
}
#: Of one job's, the second has the value of the first in it.
OVERRIDES = (f"db.passphrase={MARK}override", f"+note='host?pw={MARK}override'")
OPTIONS = (
    "hydra.launcher.environment.DB_TOKEN=canary-environment",
    "hydra.launcher.environment.WANDB_API_KEY=null",
    "hydra.launcher.environment.COPY='for ${db.password}'",
    "hydra.launcher.environment.GIVEN='${oc.env:NOWHERE_TOKEN,canary-default}'",
    "hydra.launcher.environment.SHORT='${door.short_pin}'",
    "hydra.launcher.env_file=variables.env",
    "hydra.launcher.redact=['door.*pin']",
    "hydra.launcher.labels.db_password=canary-label",
    "hydra.launcher.labels.of='${db.password}'",
    "hydra.launcher.mlflow.tags.api_token=canary-tag",
    "hydra.launcher.mlflow.tags.note='pw ${db.password}'",
    "hydra.launcher.mlflow.enabled=true",
    "hydra.launcher.keep=all",
)


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:12]


def planted_in(content: bytes) -> bool:
    return MARK.encode() in content or SHORT.encode() in content


def planted_words(text: str) -> list[str]:
    return [word for word in text.split() if planted_in(word.encode())]


def files_with_it(*folders: Path) -> list[str]:
    files = (path for folder in folders for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in files if planted_in(path.read_bytes())]


def processes(command: Command) -> Iterator[str]:
    """Yield the command lines of all processes but the user's own command."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) not in (command.process.pid, os.getpid()):
            try:
                yield (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue


def inspected(repository: Repository) -> str:
    """Return all that the engine shows of containers and images of the sweep, history too."""
    api = repository.api
    containers = [api.inspect_container(found["Id"]) for found in repository.containers()]
    images = {container["Image"] for container in containers}
    shown = [*containers, *map(api.inspect_image, images), *map(api.history, images)]
    return json.dumps(shown)


@pytest.fixture(scope="module")
def repository(make_repository: MakeRepository) -> Repository:
    made = make_repository("secrets")
    made.write("variables.env", "PLAIN_SETTING=canary-of-a-file\nLANG_OF_FILE=C.UTF-8\n")
    made.write(".gitignore", "variables.env\nmultirun/\nmlflow-store/\nmlflow.db\n")
    made.commit()
    return made


@pytest.fixture(scope="module")
def while_it_ran() -> dict[str, Any]:
    """What was to be seen while the jobs ran."""
    return {}


@pytest.fixture(scope="module")
def sweep(repository: Repository, while_it_ran: dict[str, Any]) -> Finished:
    command = repository.start("how=returns,raises", *OVERRIDES, *OPTIONS, environment=HOST)
    jobs = [command.folder / str(number) for number in (0, 1)]

    def both_run() -> bool:
        assert command.process.poll() is None, command.output
        return all((job / "answers.json").is_file() for job in jobs)

    wait_for(both_run, "both jobs run", timeout=120)
    secrets = [path for job in jobs for path in (job / ".docker" / "secrets").iterdir()]
    saved = [path for path in (command.folder / ".docker").rglob("*") if path.is_file()]
    while_it_ran["secrets"] = {path.name: oct(path.stat().st_mode & 0o777) for path in secrets}
    while_it_ran["saved"] = {oct(path.stat().st_mode & 0o777) for path in saved}
    kept = {str(path) for path in (*secrets, *saved)}
    while_it_ran["files"] = [path for path in files_with_it(command.folder) if path not in kept]
    while_it_ran["processes"] = [line for line in processes(command) if planted_words(line)]
    while_it_ran["inspected"] = inspected(repository)
    for job in jobs:
        (job / "go").touch()
    return command.finish()


def test_the_job_has_them_all(sweep: Finished) -> None:
    """What is written down nowhere has reached the job as it was, by files of mode 0600."""
    assert sweep.outcomes == ["completed", "error"], sweep.output
    answers = sweep.job(0).json()
    found = {name: answers["hashes"][name] for name in PLANTED}
    assert found == {name: digest(value) for name, value in PLANTED.items()}
    override = "db.passphrase=canary-override"
    assert answers["hashes"]["override"] == digest([override])
    assert answers["hashes"]["argv"] == digest([override])
    assert answers["mounted"]
    assert set(answers["modes"].values()) == {0o600}


def test_while_it_runs(sweep: Finished, while_it_ran: dict[str, Any]) -> None:
    """While it runs, only files that nobody else can read hold them."""
    assert set(while_it_ran["secrets"]) == {
        "config.yaml",
        "environment.json",
        "redaction.json",
        "values.pickle",
    }
    assert set(while_it_ran["secrets"].values()) == while_it_ran["saved"] == {"0o600"}
    assert while_it_ran["files"] == []
    assert while_it_ran["processes"] == []
    assert planted_words(while_it_ran["inspected"]) == []


def test_nothing_is_left(sweep: Finished, repository: Repository) -> None:
    """No byte of them is in the sweep's folder, in MLflow's store, in the engine, in caches."""
    store = repository.root / "mlflow-store"
    cache = Path(repository.environment["XDG_CACHE_HOME"])
    assert (store / "mlflow.db").is_file()
    assert files_with_it(sweep.folder, store, cache) == []
    assert planted_words(sweep.output) == []
    assert planted_words(inspected(repository)) == []


def test_what_stands_instead(sweep: Finished, repository: Repository) -> None:
    """Interpolations are shown, other values are not; what is no secret stays as it was."""
    client = MlflowClient(f"sqlite:///{repository.root / 'mlflow-store' / 'mlflow.db'}")
    row = sweep.ledger["jobs"][1]
    run = client.get_run(row["run_id"])
    params = run.data.params
    shown = {
        "db.password": "${oc.env:IN_CONFIG}",
        "db.passphrase": "<hidden>",
        "db.host": "db.example.org",
        "store": "postgres://db.example.org/runs",
        "copied": "password=${db.password} host=${db.host}",
        "door.main_pin": "<hidden>",
        "door.short_pin": "<hidden>",
        "note": "host?pw=<hidden>",
        "signing.private_key": "<hidden>",
        "signing.rounds": "3",
        "optimizer.max_tokens": "512",
    }
    assert {name: params[name] for name in shown} == shown
    assert run.info.run_name == "how=raises db.passphrase=<hidden> +note='host?pw=<hidden>'"
    assert "cannot log in with <hidden> and <hidden>" in run.data.tags["hydra.docker.cause"]
    assert run.data.tags["api_token"] == "<hidden>"
    assert run.data.tags["note"] == "<hidden>"
    hydra = sweep.job(0).folder / ".hydra"
    assert "password: ${oc.env:IN_CONFIG}" in (hydra / "config.yaml").read_text()
    assert "all of it:" in sweep.job(0).log
    container = repository.api.inspect_container(row["container"])
    assert container["Config"]["Labels"]["db_password"] == "<hidden>"


def test_build_argument(repository: Repository) -> None:
    """An image's history shows build arguments to everybody: a secret is refused as one."""
    argument = "hydra.launcher.build.args.PIP_TOKEN=canary-argument"
    done = repository.sweep("hydra.launcher.image=null", argument, *OPTIONS, environment=HOST)
    assert done.status == 1
    assert "build.args.PIP_TOKEN=…: is a secret by its name or its value" in done.output
    assert planted_words(done.output) == []
    assert files_with_it(done.folder) == []


def test_names(repository: Repository) -> None:
    """A run's name is everybody's: a secret in it is refused, and the message does not show it."""
    named = "hydra.launcher.mlflow.run_name='run-${db.password}'"
    done = repository.sweep(*OPTIONS, named, environment=HOST)
    assert done.status == 1
    assert "hydra.launcher.mlflow.run_name has a secret of the config in it" in done.output
    assert planted_words(done.output) == []
    assert files_with_it(done.folder) == []


def test_dry_run(repository: Repository) -> None:
    """The printed plan names the variables that come in a file."""
    done = repository.sweep(*OVERRIDES, *OPTIONS, "hydra.launcher.dry_run=true", environment=HOST)
    assert done.status == 0, done.output
    names = "PLAIN_SETTING, LANG_OF_FILE, DB_TOKEN, WANDB_API_KEY, COPY, GIVEN, SHORT"
    assert f"not by --env: {names}" in done.output
    assert planted_words(done.output) == []
    assert files_with_it(done.folder) == []


def test_reproduce(sweep: Finished, repository: Repository) -> None:
    """What a repetition needs is asked for by name, and taken from variables."""
    run = sweep.ledger["jobs"][0]["run_id"]
    host = {**HOST, **{name: PLANTED[name] for name in ("DB_TOKEN", "COPY", "SHORT")}}
    host["NOWHERE_TOKEN"] = PLANTED["GIVEN"]
    refused = reproduced(repository, [run], host)
    assert refused.returncode == 1
    assert "--secret" in refused.stderr
    assert "  db.passphrase: <hidden>\n" in refused.stderr

    again = {
        "db.passphrase": "canary-override",
        "db.user_secret": PLANTED["user_secret"],
        "services.0.tokens.0": PLANTED["nested"][0],
        "services.0.tokens.1": PLANTED["nested"][1],
        "store": PLANTED["store"],
        "door.main_pin": PLANTED["pin"],
        "door.short_pin": SHORT,
        "note": PLANTED["note"],
        "signing.private_key": PLANTED["typed"],
        "hydra.job.env_set.SIGNING_SECRET": PLANTED["SIGNING_SECRET"],
    }
    variables = {f"GIVEN_{number}": value for number, value in enumerate(again.values())}
    pairs = [f"{key}={name}" for key, name in zip(again, variables, strict=True)]
    words = [word for pair in pairs for word in ("--secret", pair)]
    words += ["--set", "environment.GO=1"]
    done = reproduced(repository, [run, *words], {**host, **variables})
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (repository.root / "reproduced").iterdir()
    answers = json.loads((folder / "0" / "answers.json").read_text())
    assert {name: answers["hashes"][name] for name in PLANTED} == {
        name: digest(value) for name, value in PLANTED.items()
    }
    assert files_with_it(folder, repository.root / "mlflow-store") == []
    assert planted_words(done.stdout + done.stderr) == []
    again_inspected = [repository.api.inspect_container(c["Id"]) for c in repository.containers()]
    assert planted_words(json.dumps(again_inspected)) == []


def reproduced(
    repository: Repository, words: Iterable[str], host: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "hydra_plugins.hydra_docker_launcher._cli", "reproduce", *words),
        cwd=repository.root,
        env={**repository.environment, **host},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
