"""A registry: what is pushed there can be run by its digest when this engine has lost it."""

from __future__ import annotations

from pathlib import Path

import pytest
from docker.errors import ImageNotFound
from registry import credentials, running_registry
from sweep_command import Finished, MakeRepository, Repository

ONLY_HERE = "exists only on this engine"


@pytest.fixture
def repository(make_repository: MakeRepository, hydra_image: str) -> Repository:
    repository = make_repository("built")
    del repository.defaults["hydra.launcher.image"]
    repository.defaults["hydra.launcher.build.args"] = f"{{BASE_IMAGE: {hydra_image}}}"
    return repository


def forget(repository: Repository, finished: Finished) -> None:
    """Remove a sweep's image from the engine, under all of its names."""
    found = finished.ledger["image"]["id"]
    repository.api.remove_image(found, force=True)
    with pytest.raises(ImageNotFound):
        repository.api.inspect_image(found)


def test_push_and_pull(repository: Repository, registry: str) -> None:
    """Built, pushed, removed here; pulled by digest, by tag and by content: the same image."""
    name = f"{registry}/team/built"
    built = repository.sweep(f"hydra.launcher.push={name}")
    assert built.status == 0, built.output
    assert f"image | Pushing to {name}:" in built.output
    assert ONLY_HERE not in built.output
    image = built.ledger["image"]
    assert image["reference"].startswith(f"{name}:")
    assert image["digest"].startswith(f"{name}@sha256:")
    base = repository.defaults["hydra.launcher.build.args"].strip("{}").partition(": ")[2]
    assert image["base"] == f"{base} {repository.api.inspect_image(base)['Id']}"

    forget(repository, built)
    by_digest = repository.sweep(f"hydra.launcher.image='{image['digest']}'")
    assert by_digest.status == 0, by_digest.output
    assert f"image | Pulling {image['digest']}\n" in by_digest.output
    assert "#0 | mark large\n" in by_digest.output
    assert by_digest.ledger["image"] == {**image, "reference": image["digest"], "base": None}

    forget(repository, built)
    by_tag = repository.sweep(f"hydra.launcher.image='{image['reference']}'")
    assert by_tag.ledger["image"] == {**image, "base": None}  # pinned by its digest

    forget(repository, built)
    by_content = repository.sweep(f"hydra.launcher.push={name}")
    assert by_content.ledger["image"] == image
    assert "Building" not in by_content.output
    assert "Pushing" not in by_content.output
    forget(repository, built)


def test_login(repository: Repository, registry_folder: Path, tmp_path: Path) -> None:
    """A push that the registry refuses ends the sweep before its first job, and leaves no tag.

    Who has logged in with ``docker login`` may push.
    """
    with running_registry(repository.api, registry_folder, login=True) as address:
        name = f"{address}/team/built"
        refused = repository.sweep(f"hydra.launcher.push={name}")
        assert refused.status == 1
        assert f"Could not push the image to {name}:" in refused.output
        assert f"you may push to it (`docker login {address}`)" in refused.output
        assert not (refused.folder / "sweep.json").exists()
        assert repository.api.images(name) == []

        absent = repository.sweep("hydra.launcher.push=127.0.0.1:1/team/built")
        assert absent.status == 1
        assert "Could not push the image to 127.0.0.1:1/team/built:" in absent.output
        assert "connection refused" in absent.output

        allowed = repository.sweep(
            f"hydra.launcher.push={name}", environment=credentials(tmp_path / "docker", address)
        )
        assert allowed.status == 0, allowed.output
        assert "is up to date with Dockerfile" in allowed.output
        assert allowed.ledger["image"]["digest"].startswith(f"{name}@sha256:")
        forget(repository, allowed)
