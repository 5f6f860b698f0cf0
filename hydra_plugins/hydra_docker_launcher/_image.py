"""Image: the option, or a Dockerfile of the pinned commit, becomes an image id."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from . import _source
from ._engine import BuildRequest, Engine, Image, Show
from ._errors import ImageError, OptionError
from ._options import Build, SweepOptions
from ._source import Source

NO_IMAGE = (
    "There is no image to run the jobs in: hydra.launcher.image is not set, and commit {commit} "
    "has no Dockerfile {where}.\nName an image (hydra.launcher.image=…), or commit a Dockerfile "
    "that installs Python, hydra-core and what your script imports."
)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A build from a folder of the pinned commit (``""``: its root). ``tag`` tells the content."""

    folder: str
    dockerfile: str
    tag: str


def get_image(
    engine: Engine,
    options: SweepOptions,
    source: Source,
    script: Path | None,
    labels: tuple[tuple[str, str], ...],
    show: Show,
) -> Image:
    """Return the image of the sweep, pulled or built where that is needed.

    Raises ``ImageError`` with the engine's or the builder's own words.
    """
    if options.image is not None:
        return _pulled(engine, options.image, options.pull_policy, show)
    recipe = find_recipe(options.build, source, script)
    found = engine.find_image(recipe.tag)
    if found is not None and options.pull_policy != "always":
        show(f"Image {found.short} is up to date with {_where(recipe)}")
        return found
    return _built(engine, options, recipe, source, labels, show)


def describe(options: SweepOptions, source: Source, script: Path | None) -> str:
    """Say which image a sweep would run, without pulling or building anything."""
    if options.image is not None:
        return options.image
    return find_recipe(options.build, source, script).tag


def find_recipe(build: Build, source: Source, script: Path | None) -> Recipe:
    """Return which Dockerfile to build, and the tag that its image has.

    The tag is a hash of the context folder as the commit has it (git's own id of that tree) and of
    the build's options. Raises ``ImageError`` where there is no Dockerfile.
    """
    if build.context is not None or build.dockerfile is not None:
        folder = _relative(build.context or "", source)
        dockerfile = build.dockerfile or "Dockerfile"
        if source_path(folder, dockerfile) not in _source.files(source):
            raise ImageError(
                f"hydra.launcher.build: commit {source.commit[:12]} has no file "
                f"{source_path(folder, dockerfile)}"
            )
    else:
        folder, dockerfile = _nearest_dockerfile(source, script), "Dockerfile"
    identity = json.dumps([_source.folder_id(source, folder), dockerfile, asdict(build)])
    digest = hashlib.sha256(identity.encode()).hexdigest()[:16]
    name = "".join(c if c.isalnum() else "-" for c in source.root.name.lower()).strip("-") or "repo"
    return Recipe(folder, dockerfile, f"hydra-docker/{name}:{digest}")


def source_path(folder: str, name: str) -> str:
    return str(PurePosixPath(folder, name)) if folder else str(PurePosixPath(name))


def _relative(context: str, source: Source) -> str:
    path = PurePosixPath(context)
    if path.is_absolute():
        try:
            path = PurePosixPath(Path(context).resolve().relative_to(source.root))
        except ValueError:
            raise OptionError(
                f"hydra.launcher.build.context={context}: must be a folder of the repository "
                f"{source.root}"
            ) from None
    if ".." in path.parts:
        raise OptionError(
            f"hydra.launcher.build.context={context}: must not lead out of the repository"
        )
    return "" if str(path) == "." else str(path)


def _nearest_dockerfile(source: Source, script: Path | None) -> str:
    start = script.parent if script is not None else Path.cwd()
    try:
        folder = PurePosixPath(start.relative_to(source.root))
    except ValueError:
        folder = PurePosixPath()
    files = _source.files(source)
    for candidate in (folder, *folder.parents):
        name = "" if str(candidate) == "." else str(candidate)
        if source_path(name, "Dockerfile") in files:
            return name
    where = "at its root" if not folder.parts else f"in {folder} or above"
    raise ImageError(NO_IMAGE.format(commit=source.commit[:12], where=where))


def _pulled(engine: Engine, reference: str, policy: str, show: Show) -> Image:
    found = engine.find_image(reference)
    if found is not None and policy != "always":
        return found
    if policy == "never":
        raise ImageError(
            f"The image {reference} is not on this engine, and pull_policy=never forbids to pull "
            "it.\nPull or build it first, or set hydra.launcher.pull_policy=missing."
        )
    show(f"Pulling {reference}")
    return engine.pull(reference, show)


def _built(
    engine: Engine,
    options: SweepOptions,
    recipe: Recipe,
    source: Source,
    labels: tuple[tuple[str, str], ...],
    show: Show,
) -> Image:
    show(f"Building an image from {_where(recipe)} of commit {source.commit[:12]}")
    request = BuildRequest(
        tag=recipe.tag,
        dockerfile=recipe.dockerfile,
        target=options.build.target,
        args=options.build.args,
        network=options.build.network,
        labels=labels,
        pull=options.pull_policy == "always",
    )
    with tempfile.TemporaryDirectory(prefix="hydra-docker-") as folder:
        _source.export(source, Path(folder), recipe.folder)
        return engine.build(request, Path(folder), show)


def _where(recipe: Recipe) -> str:
    return source_path(recipe.folder, recipe.dockerfile)
