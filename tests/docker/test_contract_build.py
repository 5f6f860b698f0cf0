"""Builds by content: what goes into an image, and when none is built."""

from __future__ import annotations

import time
from typing import Any

import pytest
from images import build_image
from sweep_command import Finished, MakeRepository, Repository

ARGUMENT = "hydra.launcher.build."
ONLY_HERE = "exists only on this engine, and nobody else can run it."


@pytest.fixture
def repository(make_repository: MakeRepository, hydra_image: str) -> Repository:
    """Requirements that a Dockerfile copies, and sources that it does not."""
    repository = make_repository("context")
    del repository.defaults["hydra.launcher.image"]
    repository.write("Dockerfile", f"FROM {hydra_image}\nCOPY requirements* /context/\n")
    repository.write("requirements.txt", "numpy\n")
    repository.commit()
    return repository


def listing(finished: Finished) -> list[str]:
    """Return what the image of the job holds below /context."""
    assert finished.status == 0, finished.output
    lines = finished.job(0).log.splitlines()
    return [line.partition(" ")[2] for line in lines]


def test_built_when_and_only_when_needed(repository: Repository) -> None:
    """Edited sources: nothing is built, but the use is noted. Edited requirements: one build."""
    first = repository.sweep()
    assert listing(first) == ["file requirements.txt"]
    assert "image | Building an image from Dockerfile of commit" in first.output
    assert first.output.count(ONLY_HERE) == 1

    repository.write("app.py", (repository.root / "app.py").read_text() + "# edited\n")
    repository.write("data/new.txt", "new")
    repository.commit()
    begin = time.time()
    second = repository.sweep()
    events = repository.api.events(since=begin, until=f"{time.time():.9f}", decode=True)
    assert second.ledger["image"] == first.ledger["image"]
    assert "is up to date with Dockerfile\n" in second.output
    name, image = second.ledger["image"]["reference"], second.ledger["image"]["id"]
    # A build would have given the name to another image: labels tell the sweep.
    assert [event["id"] for event in events if _is_tag(event, name)] == [image]

    repository.write("requirements.txt", "scipy\n")
    repository.commit()
    dry = repository.sweep("hydra.launcher.dry_run=true")
    third = repository.sweep("name=a,b,c,d", "hydra.launcher.cpus=0.1")
    assert third.output.count("Building an image from") == 1
    assert third.outcomes == ["completed"] * 4
    reference = third.ledger["image"]["reference"]
    assert reference != name
    assert f"\n# IMAGE is {reference} (to be built from Dockerfile), with" in dry.output
    assert "image |" not in dry.output
    assert ONLY_HERE not in dry.output


def _is_tag(event: dict[str, Any], tag: str) -> bool:
    """Tell whether an event gives an image the tag, as the end of a build does."""
    return event["Type"] == "image" and event["Actor"]["Attributes"].get("name") == tag


def test_dockerignore(repository: Repository, hydra_image: str) -> None:
    """``COPY .`` as Docker does it, in both builders: what is ignored is not there."""
    repository.write("Dockerfile", f"FROM {hydra_image}\nCOPY . /context/\n")
    repository.write(".dockerignore", "Dockerfile\n.gitignore\n*.py\n*/*.txt\n!data/b.txt\n")
    for name in ("data/a.txt", "data/b.txt", "notes/a.txt", "c d.txt"):
        repository.write(name, name)
    repository.commit()
    expected = [
        "file .dockerignore",
        "file c d.txt",
        "file config.yaml",
        "folder data",
        "file data/b.txt",
        "folder notes",
        "file requirements.txt",
    ]
    assert listing(repository.sweep()) == expected

    # The same with BuildKit.
    text = (repository.root / "Dockerfile").read_text()
    repository.write("Dockerfile", f"{text}RUN --mount=type=cache,target=/cache true\n")
    repository.commit()
    finished = repository.sweep()
    assert "image | #1 [internal] load build definition" in finished.output
    assert listing(finished) == expected


def test_buildkit(repository: Repository, hydra_image: str) -> None:
    """RUN --mount: built with BuildKit; of the context, only what it mounts is sent."""
    mount = "--mount=type=bind,source=requirements.txt,target=/r"
    repository.write("Dockerfile", f"FROM {hydra_image}\nRUN {mount} install -D /r /context/r\n")
    repository.write("large.bin", "x" * 1_000_000)
    repository.commit()
    first = repository.sweep()
    assert listing(first) == ["file r"]
    sent = [line for line in first.output.splitlines() if "transferring context" in line]
    assert not [line for line in sent if "kB" in line or "MB" in line], sent

    repository.write("Dockerfile", f"FROM {hydra_image}\nRUN {mount} echo oh no; exit 7\n")
    repository.commit()
    failed = repository.sweep()
    assert failed.status == 1
    assert "Could not build the image from Dockerfile (BuildKit, exit code" in failed.output
    assert "oh no" in failed.output.partition("The builder's last lines:\n")[2]
    assert not (failed.folder / "sweep.json").exists()


def test_made_from_requirements(repository: Repository, hydra_image: str) -> None:
    """No Dockerfile: one is made from the nearest requirements, shown, and built."""
    repository.git("rm", "--quiet", "Dockerfile")
    repository.write("requirements.txt", "omegaconf>=2.1\n")
    repository.commit()
    options = (f"{ARGUMENT}base={hydra_image}", f"{ARGUMENT}network=host")
    dry = repository.sweep(*options, "hydra.launcher.dry_run=true")
    first = repository.sweep(*options)
    assert first.status == 0, first.output
    assert "image | There is no Dockerfile; this one is made for it" in first.output
    assert f"image |   FROM {hydra_image}\n" in first.output
    assert f"#   FROM {hydra_image}\n" in dry.output


def test_onbuild(repository: Repository, hydra_image: str) -> None:
    """A base image that copies by itself (ONBUILD) gets the whole context."""
    dockerfile = f"FROM {hydra_image}\nONBUILD COPY data /context/\n".encode()
    base = build_image(repository.api, "hydra-docker-test:onbuild", {"Dockerfile": dockerfile})
    repository.write("Dockerfile", f"FROM {base}\n")
    repository.write("data/x.txt", "x")
    repository.commit()
    assert listing(repository.sweep()) == ["file x.txt"]
