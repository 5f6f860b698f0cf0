"""Image: the option, or what the pinned commit says, becomes an image id."""

from __future__ import annotations

import hashlib
import json
import posixpath
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from . import _context, _dockerfile, _recipe, _source, _stages
from ._context import Context
from ._dockerfile import Dockerfile
from ._dockerignore import Dockerignore
from ._engine import BuildRequest, Engine, Image, Show
from ._errors import ImageError, OptionError
from ._options import LABEL_PREFIX, SweepOptions
from ._recipe import Recipe
from ._source import Source
from ._stages import Intake, UnknownStageError

#: Counted up when the same Dockerfile would become another image by what is done here.
FORMAT = 1
#: On an image that is made here: the id of the image that it was made from.
BASE_LABEL = f"{LABEL_PREFIX}base"


@dataclass(frozen=True, slots=True)
class Plan:
    """A build. ``tag`` is a hash of all that goes into it; ``base`` is as in ``Image``.

    ``base_id`` is the id of that image.
    """

    recipe: Recipe
    dockerfile: Dockerfile
    context: Context
    tag: str
    base: str | None
    base_id: str | None


def get_image(
    engine: Engine,
    options: SweepOptions,
    source: Source,
    script: Path | None,
    labels: tuple[tuple[str, str], ...],
    show: Show,
) -> Image:
    """Return the image of the sweep, pulled, built and pushed where that is needed.

    Raises ``ImageError`` with the engine's or the builder's own words.
    """
    if options.image is not None:
        image = _pulled(engine, options.image, options.pull_policy, show)
        return pushed(engine, image, options.push, image.short, show)
    recipe = _recipe.find(options.build, source, script)
    platform = engine.host().platform
    intake = _intake(options, recipe, platform)
    bases = {
        name: _pulled(engine, name, options.pull_policy, show, what="base image")
        for name in intake.images
    }
    plan = _plan(options, source, recipe, intake, bases, platform)
    found = _found(engine, options, plan, show)
    if found is None:
        found = _built(engine, options, plan, source, labels, show)
    image = replace(found, base=plan.base)
    return pushed(engine, image, options.push, _version(plan.tag), show)


def describe(
    engine: Engine, options: SweepOptions, source: Source, script: Path | None
) -> tuple[str, ...]:
    """Say which image a sweep would run, without pulling or building anything.

    Behind that come the lines of a Dockerfile that is made for it.
    """
    if options.image is not None:
        return (options.image,)
    recipe = _recipe.find(options.build, source, script)
    made = tuple(recipe.text.splitlines()) if recipe.made_from is not None else ()
    platform = engine.host().platform
    intake = _intake(options, recipe, platform)
    bases = {}
    for name in intake.images:
        base = engine.find_image(name)
        if base is None:
            return (f"built from {recipe.origin} (once {name} is pulled)", *made)
        bases[name] = base
    plan = _plan(options, source, recipe, intake, bases, platform)
    if engine.find_image(plan.tag) is not None:
        return (f"{plan.tag} (up to date with {recipe.origin})", *made)
    return (f"{plan.tag} (to be built from {recipe.origin})", *made)


def _intake(options: SweepOptions, recipe: Recipe, platform: str) -> Intake:
    """Return what the build takes in; refuse a stage and a base that there are not."""
    system, _, machine = platform.partition("/")
    known = {"PLATFORM": platform, "OS": system, "ARCH": machine}
    build = options.build
    dockerfile = _dockerfile.parse(recipe.text)
    try:
        intake = _stages.intake(
            dockerfile,
            target=build.target,
            args=dict(build.args),
            platform={
                f"{side}{name}": known[name] for side in ("BUILD", "TARGET") for name in known
            },
        )
    except UnknownStageError as error:
        raise OptionError(
            f"hydra.launcher.build.target={build.target}: {recipe.origin} has no such stage. "
            f"Valid are: {', '.join(error.valid) or '(it names none)'}"
        ) from None
    if intake.unclear:
        line = intake.unclear[0]
        raise ImageError(
            f"{recipe.origin}, line {line.line}: it cannot be told which image `FROM "
            f"{line.arguments}` means.\nGive its arguments values with hydra.launcher.build.args."
            "NAME=…, or a default in the Dockerfile."
        )
    return intake


def _plan(
    options: SweepOptions,
    source: Source,
    recipe: Recipe,
    intake: Intake,
    bases: Mapping[str, Image],
    platform: str,
) -> Plan:
    """Return what is to be built: its files, and the tag that tells its content.

    Not in the tag: the network, which says how a build reaches what it fetches, not what that is;
    the labels, which say who has built it and when.
    """
    everything = any(_stages.triggered(base.triggers) for base in bases.values())
    ignore = _ignore(recipe, source)
    counted = _context.select(recipe.files, [""] if everything else intake.sources, ignore)
    sent = _context.select(recipe.files, [""] if everything else intake.sent, ignore)
    identity = {
        "format": FORMAT,
        "dockerfile": recipe.text,
        "target": options.build.target,
        "args": sorted(options.build.args),
        "platform": platform,
        "bases": sorted((name, base.id) for name, base in bases.items()),
        "files": [[file.path, file.mode, file.id] for file in counted.files],
        "folders": counted.folders,
        "attributes": _attributes(recipe, source, counted),
    }
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    name = "".join(c if c.isalnum() else "-" for c in source.root.name.lower()).strip("-") or "repo"
    base = bases.get(intake.base or "")
    return Plan(
        recipe=recipe,
        dockerfile=_dockerfile.parse(recipe.text),
        context=sent,
        tag=f"hydra-docker/{name}:{digest}",
        base=f"{intake.base} {base.digest or base.id}" if base is not None else None,
        base_id=base.id if base is not None else None,
    )


def _ignore(recipe: Recipe, source: Source) -> Dockerignore:
    """Read the Dockerfile's own ignore file, else that of the context."""
    if recipe.made_from is not None:
        return Dockerignore()
    names = {file.path for file in recipe.files}
    for name in (f"{recipe.dockerfile}.dockerignore", ".dockerignore"):
        if name in names:
            path = posixpath.join(recipe.folder, _context.leads_to(name, recipe.files))
            return Dockerignore(_source.read_text(source, path) or "")
    return Dockerignore()


def _attributes(recipe: Recipe, source: Source, context: Context) -> list[str]:
    """Return the ids of the .gitattributes that have a say in the files of a context."""
    if not context.files:
        return []
    folders = {"", *context.folders}
    own = (
        file.id
        for file in recipe.files
        if posixpath.basename(file.path) == ".gitattributes"
        if posixpath.dirname(file.path) in folders
    )
    return [*_source.attributes(source, recipe.folder), *own]


def _found(engine: Engine, options: SweepOptions, plan: Plan, show: Show) -> Image | None:
    """Return the image of a plan, where the engine or the registry has it already."""
    names = [plan.tag]
    if options.push is not None:
        names.append(f"{options.push}:{_version(plan.tag)}")
    for name in names:
        found = engine.find_image(name)
        if found is not None:
            show(f"Image {found.short} is up to date with {plan.recipe.origin}")
            engine.touch(name)
            return found
    if options.push is None or options.pull_policy == "never":
        return None
    try:
        return engine.pull(names[-1], show)
    except ImageError:
        show(f"{names[-1]} is not in the registry yet")
        return None


def _pulled(
    engine: Engine, reference: str, policy: str, show: Show, *, what: str = "image"
) -> Image:
    found = engine.find_image(reference)
    if found is not None and policy != "always":
        return found
    if policy == "never":
        raise ImageError(
            f"The {what} {reference} is not on this engine, and pull_policy=never forbids to pull "
            "it.\nPull or build it first, or set hydra.launcher.pull_policy=missing."
        )
    show(f"Pulling {reference}")
    return engine.pull(reference, show)


def _built(
    engine: Engine,
    options: SweepOptions,
    plan: Plan,
    source: Source,
    labels: tuple[tuple[str, str], ...],
    show: Show,
) -> Image:
    recipe = plan.recipe
    show(f"Building an image from {recipe.origin} of commit {source.commit[:12]}")
    if recipe.made_from is not None:
        show("There is no Dockerfile; this one is made for it (commit one to have it otherwise):")
        for line in recipe.text.splitlines():
            show(f"  {line}")
    request = BuildRequest(
        tag=plan.tag,
        dockerfile=recipe.dockerfile,
        text=recipe.text,
        target=options.build.target,
        args=options.build.args,
        network=options.build.network,
        labels=(*labels, *(((BASE_LABEL, plan.base_id),) if plan.base_id else ())),
        needs=plan.dockerfile.needs,
    )
    with tempfile.TemporaryDirectory(prefix="hydra-docker-") as name:
        folder = Path(name)
        if plan.context.files or plan.context.folders:
            _source.export(source, folder, recipe.folder)
        _context.keep_only(plan.context, folder)
        return engine.build(request, folder, show)


def pushed(engine: Engine, image: Image, push: str | None, version: str, show: Show) -> Image:
    """Push an image as ``push:version`` (None: do not) where the registry does not have it."""
    if push is None:
        return image
    there = engine.find_image(f"{push}:{version}")
    if there is None or there.id != image.id or not (there.digest or "").startswith(f"{push}@"):
        show(f"Pushing to {push}:{version}")
        there = engine.push(image.id, push, version, show)
    return replace(there, base=image.base)


def _version(tag: str) -> str:
    return tag.rpartition(":")[2]
