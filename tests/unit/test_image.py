"""Image: the option, or a Dockerfile of the pinned commit, becomes an image id."""

from __future__ import annotations

from dataclasses import replace

import pytest
from fakes import FakeEngine

from hydra_plugins.hydra_docker_launcher._engine import BuildRequest, Image
from hydra_plugins.hydra_docker_launcher._errors import ImageError, OptionError
from hydra_plugins.hydra_docker_launcher._image import Recipe, describe, find_recipe, get_image
from hydra_plugins.hydra_docker_launcher._options import Build, CloneOptions, Mlflow, SweepOptions
from hydra_plugins.hydra_docker_launcher._source import Source

NO_BUILD = Build(None, None, None, (), None)
OPTIONS = SweepOptions(
    image=None,
    build=NO_BUILD,
    pull_policy="missing",
    commit="HEAD",
    dirty="error",
    snapshot_limit=0,
    delivery="copy",
    remote="origin",
    clone=CloneOptions(),
    user="host",
    n_jobs=-1,
    fail_fast=False,
    dry_run=False,
    keep="failed",
    mlflow=Mlflow(False, None, None, None, ()),
)
LABELS = (("hydra.docker.sweep", "s"),)
TRAIN = Image("sha256:" + "1" * 64, "train:1")


@pytest.fixture
def source(tmp_path, commit_files):
    """A commit with a Dockerfile at its root, and another one nearer to a script."""

    def make(**changed):
        files = {
            "Dockerfile": "FROM root",
            "app/train.py": "",
            "app/deep/run.py": "",
            "docker/Dockerfile": "FROM docker",
            "docker/gpu.Dockerfile": "FROM gpu",
            "docker/requirements.txt": "numpy",
            **changed,
        }
        commit = commit_files({name: text for name, text in files.items() if text is not None})
        return Source(tmp_path / "project", commit, "main", None)

    return make


@pytest.fixture
def shown():
    return []


def get(engine, source, shown, script=None, **options):
    build = options.pop("build", {})
    options = replace(OPTIONS, build=replace(NO_BUILD, **build), **options)
    return get_image(engine, options, source, script, LABELS, shown.append)


# ---- an image by name ----------------------------------------------------------------------------


def test_image_that_is_there(shown):
    """missing: what is there is used as it is."""
    engine = FakeEngine(images={"train:1": TRAIN})
    assert get(engine, None, shown, image="train:1") == TRAIN
    assert (engine.calls, shown) == ([], [])


@pytest.mark.parametrize("policy", ["missing", "always"])
def test_image_that_is_pulled(shown, policy):
    """missing: pulled where it is not there; always: pulled in any case."""
    newer = replace(TRAIN, id="sha256:" + "2" * 64)
    images = {"train:1": TRAIN} if policy == "always" else {}
    engine = FakeEngine(images=images, registry={"train:1": newer})

    assert get(engine, None, shown, image="train:1", pull_policy=policy) == newer
    assert engine.calls == [("pull", "train:1")]
    assert shown == ["Pulling train:1", "layer: done"]


def test_image_that_must_not_be_pulled(shown):
    """never: what is not there is an error."""
    engine = FakeEngine(images={"train:1": TRAIN}, registry={"train:2": TRAIN})
    assert get(engine, None, shown, image="train:1", pull_policy="never") == TRAIN
    with pytest.raises(ImageError) as caught:
        get(engine, None, shown, image="train:2", pull_policy="never")
    assert str(caught.value) == (
        "The image train:2 is not on this engine, and pull_policy=never forbids to pull it.\n"
        "Pull or build it first, or set hydra.launcher.pull_policy=missing."
    )
    assert engine.calls == []


def test_image_that_does_not_exist(shown):
    """The engine's words."""
    with pytest.raises(ImageError, match=r"^Could not pull the image train:2: no such image$"):
        get(FakeEngine(), None, shown, image="train:2")


def test_short_id():
    """As ``docker images`` shows it."""
    assert TRAIN.short == "1" * 12


# ---- which Dockerfile ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "folder"),
    [
        ("train.py", ""),
        ("app/train.py", ""),
        ("app/deep/run.py", ""),
        ("docker/x.py", "docker"),
        ("docker/deep/x.py", "docker"),
    ],
)
def test_nearest_dockerfile(source, script, folder):
    """The one in the script's folder, else in the nearest folder above, in the commit."""
    source = source()
    recipe = find_recipe(NO_BUILD, source, source.root / script)
    assert (recipe.folder, recipe.dockerfile) == (folder, "Dockerfile")


def test_without_a_script(source, monkeypatch):
    """A notebook's: from the working directory up."""
    source = source()
    monkeypatch.chdir(source.root / "docker")
    assert find_recipe(NO_BUILD, source, None).folder == "docker"
    monkeypatch.chdir("/")
    assert find_recipe(NO_BUILD, source, None).folder == ""


@pytest.mark.parametrize(
    ("build", "folder", "dockerfile"),
    [
        ({"context": "docker"}, "docker", "Dockerfile"),
        ({"context": "./docker/"}, "docker", "Dockerfile"),
        ({"context": "docker", "dockerfile": "gpu.Dockerfile"}, "docker", "gpu.Dockerfile"),
        ({"context": "."}, "", "Dockerfile"),
        ({"context": ".", "dockerfile": "docker/gpu.Dockerfile"}, "", "docker/gpu.Dockerfile"),
    ],
)
def test_named_dockerfile(source, build, folder, dockerfile):
    """Context and dockerfile as the options say, relative to the repository's root."""
    recipe = find_recipe(replace(NO_BUILD, **build), source(), None)
    assert (recipe.folder, recipe.dockerfile) == (folder, dockerfile)


def test_absolute_context(source):
    """An absolute path inside the repository is taken too."""
    source = source()
    build = replace(NO_BUILD, context=str(source.root / "docker"))
    assert find_recipe(build, source, None).folder == "docker"


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ("/etc", "hydra.launcher.build.context=/etc: must be a folder of the repository {root}"),
        ("../x", "hydra.launcher.build.context=../x: must not lead out of the repository"),
    ],
)
def test_context_outside(source, context, message):
    """A context that is not in the commit could not be pinned."""
    source = source()
    with pytest.raises(OptionError) as caught:
        find_recipe(replace(NO_BUILD, context=context), source, None)
    assert str(caught.value) == message.format(root=source.root)


def test_dockerfile_that_is_not_committed(source):
    """What only the working tree has is not built."""
    source = source()
    (source.root / "docker" / "new.Dockerfile").write_text("FROM new")
    build = replace(NO_BUILD, context="docker", dockerfile="new.Dockerfile")
    with pytest.raises(ImageError) as caught:
        find_recipe(build, source, None)
    assert str(caught.value) == (
        f"hydra.launcher.build: commit {source.commit[:12]} has no file docker/new.Dockerfile"
    )


def test_no_dockerfile(source):
    """Neither image nor Dockerfile: the message has both ways out."""
    source = source(Dockerfile=None)
    script = source.root / "app" / "train.py"
    with pytest.raises(ImageError) as caught:
        find_recipe(NO_BUILD, source, script)
    assert str(caught.value) == (
        "There is no image to run the jobs in: hydra.launcher.image is not set, and commit "
        f"{source.commit[:12]} has no Dockerfile in app or above.\nName an image "
        "(hydra.launcher.image=…), or commit a Dockerfile that installs Python, hydra-core and "
        "what your script imports."
    )


# ---- building ------------------------------------------------------------------------------------

DOCKER = {"context": "docker"}


def test_build(source, shown):
    """The context is the commit's folder; working tree and other folders are not in it."""
    source, engine = source(), FakeEngine()
    (source.root / "docker" / "secret.txt").write_text("secret")
    build = {
        "context": "docker",
        "dockerfile": "gpu.Dockerfile",
        "target": "runtime",
        "args": (("A", "1"),),
        "network": "host",
    }
    recipe = find_recipe(Build(**build), source, None)

    image = get(engine, source, shown, build=build)

    assert image.reference == recipe.tag
    assert engine.builds == [
        BuildRequest(
            tag=recipe.tag,
            dockerfile="gpu.Dockerfile",
            target="runtime",
            args=(("A", "1"),),
            network="host",
            labels=LABELS,
            pull=False,
        )
    ]
    assert engine.contexts == [
        {
            "Dockerfile": b"FROM docker",
            "gpu.Dockerfile": b"FROM gpu",
            "requirements.txt": b"numpy",
        }
    ]
    assert shown[0] == (
        f"Building an image from docker/gpu.Dockerfile of commit {source.commit[:12]}"
    )


def test_build_only_when_something_changed(source, shown):
    """Another commit with the same context is the same image; ``always`` builds again."""
    engine, first = FakeEngine(), source()
    image = get(engine, first, shown, build=DOCKER)

    second = source(**{"app/train.py": "changed"})
    assert second.commit != first.commit
    assert get(engine, second, shown, build=DOCKER) == image
    assert shown[-1] == f"Image {image.short} is up to date with docker/Dockerfile"
    assert len(engine.builds) == 1

    get(engine, second, shown, build=DOCKER, pull_policy="always")
    assert engine.builds[-1].pull is True

    third = source(**{"docker/requirements.txt": "scipy"})
    assert get(engine, third, shown, build=DOCKER).reference != image.reference
    assert len(engine.builds) == 3


@pytest.mark.parametrize(
    "change",
    [
        {"target": "x"},
        {"args": (("A", "1"),)},
        {"network": "host"},
        {"dockerfile": "gpu.Dockerfile"},
    ],
)
def test_every_build_option_is_another_image(source, change):
    """What changes the image changes its tag."""
    source = source()
    plain = find_recipe(replace(NO_BUILD, context="docker"), source, None)
    other = find_recipe(replace(NO_BUILD, context="docker", **change), source, None)
    assert plain.tag != other.tag


def test_describe(source):
    """A dry run names the image without asking an engine."""
    source = source()
    assert describe(replace(OPTIONS, image="train:1"), source, None) == "train:1"
    options = replace(OPTIONS, build=replace(NO_BUILD, context="docker"))
    recipe = find_recipe(options.build, source, None)
    assert recipe == Recipe("docker", "Dockerfile", describe(options, source, None))
    assert recipe.tag.startswith("hydra-docker/project:")
