"""The image of a sweep: built from the pinned commit, once, and fixed for the whole sweep."""

from __future__ import annotations

import pytest
from sweep_command import MakeRepository, Repository

BUILD = "hydra.launcher.build."


@pytest.fixture
def repository(make_repository: MakeRepository, hydra_image: str) -> Repository:
    repository = make_repository("built")
    del repository.defaults["hydra.launcher.image"]
    repository.defaults[f"{BUILD}args"] = (
        f"{{BASE_IMAGE: {hydra_image}, WHO: Ada, FROM_HOST: null}}"
    )
    repository.defaults[f"{BUILD}target"] = "small"
    repository.environment["FROM_HOST"] = "Grace"
    return repository


def test_build(repository: Repository) -> None:
    """The nearest Dockerfile of the commit is built when what it is built from has changed."""
    first = repository.sweep()
    assert first.status == 0, first.output
    commit = repository.commits[-1]
    assert f"Building an image from Dockerfile of commit {commit[:12]}" in first.output
    assert "built for Ada and Grace" in first.output
    assert "#0 | mark committed\n" in first.output
    reference = first.ledger["image"]["reference"]
    assert reference.startswith("hydra-docker/built:")
    assert repository.api.inspect_image(reference)["Id"] == first.ledger["image"]["id"]

    # What is edited and not committed is not built.
    dockerfile = (repository.root / "Dockerfile").read_text()
    repository.write("Dockerfile", dockerfile.replace("committed", "edited"))
    second = repository.sweep("hydra.launcher.dirty=ignore")
    assert "is up to date with Dockerfile" in second.output
    assert "Building" not in second.output
    assert "#0 | mark committed\n" in second.output
    assert second.ledger["image"] == first.ledger["image"]

    repository.commit()
    third = repository.sweep()
    assert "Building an image from Dockerfile" in third.output
    assert "#0 | mark edited\n" in third.output

    # The commit of before has its image still.
    fourth = repository.sweep(f"hydra.launcher.commit={commit}")
    assert "Building" not in fourth.output
    assert fourth.ledger["image"] == first.ledger["image"]
    assert "#0 | mark committed\n" in fourth.output


def test_target_and_dockerfile(repository: Repository) -> None:
    """build.target chooses a stage, build.context and build.dockerfile where the recipe is."""
    repository.git("mv", "Dockerfile", "image.dockerfile")
    (repository.root / "docker").mkdir()
    repository.git("mv", "image.dockerfile", "docker/image.dockerfile")
    repository.commit()
    finished = repository.sweep(
        f"{BUILD}context=docker", f"{BUILD}dockerfile=image.dockerfile", f"{BUILD}target=large"
    )
    assert finished.status == 0, finished.output
    assert "Building an image from docker/image.dockerfile of commit" in finished.output
    assert "#0 | mark large\n" in finished.output


def test_build_that_fails(repository: Repository) -> None:
    """A build that fails shows the builder's own last lines, and no job starts."""
    dockerfile = (repository.root / "Dockerfile").read_text()
    repository.write(
        "Dockerfile", dockerfile.replace("ENV MARK", "RUN echo oh no; exit 7\nENV MARK")
    )
    repository.commit()
    finished = repository.sweep()
    assert finished.status == 1
    assert "Could not build the image from Dockerfile: " in finished.output
    assert "returned a non-zero code: 7" in finished.output
    lines = finished.output.partition("The builder's last lines:\n")[2].splitlines()
    assert "  oh no" in lines[:20]
    assert not (finished.folder / "sweep.json").exists()


def test_no_such_dockerfile(repository: Repository) -> None:
    """A Dockerfile that the commit does not have is refused, even if the folder has it."""
    repository.write("other.dockerfile", "FROM scratch\n")
    finished = repository.sweep(
        f"{BUILD}dockerfile=other.dockerfile", "hydra.launcher.dirty=ignore"
    )
    assert finished.status == 1
    commit = repository.commits[-1][:12]
    assert f"hydra.launcher.build: commit {commit} has no file other.dockerfile" in finished.output
