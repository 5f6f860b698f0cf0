"""Image: the option, or a Dockerfile of the pinned commit, becomes an image id."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import hydra
import pytest
from fakes import FakeEngine

from hydra_plugins.hydra_docker_launcher._dockerfile import OLDER
from hydra_plugins.hydra_docker_launcher._engine import BuildRequest, Image, Need
from hydra_plugins.hydra_docker_launcher._errors import ImageError, OptionError
from hydra_plugins.hydra_docker_launcher._image import describe, get_image
from hydra_plugins.hydra_docker_launcher._options import Build, CloneOptions, Mlflow, SweepOptions
from hydra_plugins.hydra_docker_launcher._recipe import find
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
BASES = {
    name: Image(f"sha256:{number:064x}", name)
    for number, name in enumerate(("root", "docker", "gpu", "other"), start=100)
}
PYTHON = f"python:{sys.version_info.major}.{sys.version_info.minor}-slim"


def with_bases(**changed):
    """Return an engine that has the images which the Dockerfiles of these tests start from."""
    return FakeEngine(local={**BASES, **changed})


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
        for name in [name for name, text in files.items() if text is None]:
            (tmp_path / "project" / name).unlink(missing_ok=True)
        commit = commit_files({name: text for name, text in files.items() if text is not None})
        return Source(tmp_path / "project", commit, "main", None)

    return make


@pytest.fixture
def shown():
    return []


def get(engine, source, shown, script=None, **options):
    script = script or (source.root / "train.py" if source is not None else None)
    build = options.pop("build", {})
    options = replace(OPTIONS, build=replace(NO_BUILD, **build), **options)
    return get_image(engine, options, source, script, LABELS, shown.append)


# ---- an image by name ----------------------------------------------------------------------------


def test_image_that_is_there(shown):
    """missing: what is there is used as it is."""
    engine = FakeEngine(local={"train:1": TRAIN})
    assert get(engine, None, shown, image="train:1") == TRAIN
    assert (engine.calls, shown) == ([], [])


@pytest.mark.parametrize("policy", ["missing", "always"])
def test_image_that_is_pulled(shown, policy):
    """missing: pulled where it is not there; always: pulled in any case."""
    newer = replace(TRAIN, id="sha256:" + "2" * 64)
    images = {"train:1": TRAIN} if policy == "always" else {}
    engine = FakeEngine(local=images, registry={"train:1": newer})

    assert get(engine, None, shown, image="train:1", pull_policy=policy) == newer
    assert engine.calls == [("pull", "train:1")]
    assert shown == ["Pulling train:1", "layer: done"]


def test_image_that_must_not_be_pulled(shown):
    """never: what is not there is an error."""
    engine = FakeEngine(local={"train:1": TRAIN}, registry={"train:2": TRAIN})
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
    recipe = find(NO_BUILD, source, source.root / script)
    assert (recipe.folder, recipe.dockerfile) == (folder, "Dockerfile")


def test_without_a_script(source, monkeypatch):
    """A notebook's: from the working directory up."""
    source = source()
    monkeypatch.chdir(source.root / "docker")
    assert find(NO_BUILD, source, None).folder == "docker"
    monkeypatch.chdir("/")
    assert find(NO_BUILD, source, None).folder == ""


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
    recipe = find(replace(NO_BUILD, **build), source(), None)
    assert (recipe.folder, recipe.dockerfile) == (folder, dockerfile)


def test_absolute_context(source):
    """An absolute path inside the repository is taken too."""
    source = source()
    build = replace(NO_BUILD, context=str(source.root / "docker"))
    assert find(build, source, None).folder == "docker"


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
        find(replace(NO_BUILD, context=context), source, None)
    assert str(caught.value) == message.format(root=source.root)


def test_dockerfile_that_is_not_committed(source):
    """What only the working tree has is not built."""
    source = source()
    (source.root / "docker" / "new.Dockerfile").write_text("FROM new")
    build = replace(NO_BUILD, context="docker", dockerfile="new.Dockerfile")
    with pytest.raises(ImageError) as caught:
        find(build, source, None)
    assert str(caught.value) == (
        f"hydra.launcher.build: commit {source.commit[:12]} has no file docker/new.Dockerfile"
    )


def test_no_dockerfile(source):
    """Neither image nor Dockerfile nor requirements: the message has all ways out."""
    source = source(Dockerfile=None)
    script = source.root / "app" / "train.py"
    with pytest.raises(ImageError) as caught:
        find(NO_BUILD, source, script)
    assert str(caught.value) == (
        "There is no image to run the jobs in: hydra.launcher.image is not set, and commit "
        f"{source.commit[:12]} has no Dockerfile in app or above.\nName an image "
        "(hydra.launcher.image=…), or commit a Dockerfile that installs Python, hydra-core and "
        "what your script imports. One is made from a uv.lock, poetry.lock, pylock.toml, "
        "requirements.lock, requirements.txt or pyproject.toml, if the commit has it."
    )


@pytest.mark.parametrize("dockerfile", ["../Dockerfile", "/etc/Dockerfile"])
def test_dockerfile_outside_its_context(source, dockerfile):
    """A Dockerfile is a file of its context."""
    build = replace(NO_BUILD, context="docker", dockerfile=dockerfile)
    with pytest.raises(ImageError, match="has no file"):
        find(build, source(), None)


def test_dockerfile_that_is_a_link(source):
    """It is what it leads to."""
    source = source()
    (source.root / "docker" / "Dockerfile").unlink()
    (source.root / "docker" / "Dockerfile").symlink_to("gpu.Dockerfile")
    recipe = find(replace(NO_BUILD, context="docker"), recommitted(source), None)
    assert (recipe.dockerfile, recipe.text) == ("Dockerfile", "FROM gpu")


def test_context_in_a_submodule(source, tmp_path, monkeypatch):
    """A submodule's folder, at the commit that is recorded for it."""
    source = source()
    subprocess.run(("git", "clone", "--quiet", source.root, tmp_path / "library"), check=True)
    add = ("git", "-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    subprocess.run((*add, tmp_path / "library", "vendor/lib"), cwd=source.root, check=True)
    source = recommitted(source)
    engine, shown = with_bases(), []

    image = get(engine, source, shown, build={"context": "vendor/lib/docker"})

    assert shown[-2].startswith("Building an image from vendor/lib/docker/Dockerfile of commit")
    assert engine.builds[-1].text == "FROM docker"
    copying = {"Dockerfile": "FROM root\nCOPY vendor/lib/docker /x", ".gitattributes": "x text"}
    for name, text in copying.items():
        (source.root / name).write_text(text)
    assert get(engine, recommitted(source), shown) != image
    assert sorted(engine.contexts[-1]) == [
        "vendor/lib/docker/Dockerfile",
        "vendor/lib/docker/gpu.Dockerfile",
        "vendor/lib/docker/requirements.txt",
    ]


# ---- building ------------------------------------------------------------------------------------

DOCKER = {"context": "docker"}


def recommitted(source):
    """Commit whatever the working tree has."""
    git = ("git", "-C", str(source.root))
    subprocess.run((*git, "add", "--all"), check=True)
    subprocess.run((*git, "commit", "--quiet", "--message=another"), check=True)
    head = subprocess.run((*git, "rev-parse", "HEAD"), check=True, capture_output=True, text=True)
    return replace(source, commit=head.stdout.strip())


def test_build(source, shown):
    """The Dockerfile, and of the commit only the files that it copies."""
    text = "FROM gpu AS runtime\nCOPY requirements.txt /x\n"
    source, engine = source(**{"docker/gpu.Dockerfile": text}), with_bases()
    (source.root / "docker" / "secret.txt").write_text("secret")
    build = {
        "context": "docker",
        "dockerfile": "gpu.Dockerfile",
        "target": "runtime",
        "args": (("A", "1"),),
        "network": "host",
    }

    image = get(engine, source, shown, build=build)

    assert image.reference.startswith("hydra-docker/project:")
    assert image.base == f"gpu {BASES['gpu'].id}"
    assert engine.builds == [
        BuildRequest(
            tag=image.reference,
            dockerfile="gpu.Dockerfile",
            text=text,
            target="runtime",
            args=(("A", "1"),),
            network="host",
            labels=(*LABELS, ("hydra.docker.base", BASES["gpu"].id)),
            needs=(),
        )
    ]
    assert engine.contexts == [{"requirements.txt": b"numpy"}]
    assert shown[0] == (
        f"Building an image from docker/gpu.Dockerfile of commit {source.commit[:12]}"
    )


def test_whole_context(source, shown):
    """``COPY .`` takes all that .dockerignore does not name; the Dockerfile's own one wins."""
    source, engine = (
        source(
            **{
                "docker/Dockerfile": "FROM docker\nCOPY . /x",
                "docker/.dockerignore": "*\n!requirements.txt\n",
                "docker/gpu.Dockerfile": "FROM gpu\nCOPY . /x",
                "docker/gpu.Dockerfile.dockerignore": "*.txt\n",
            }
        ),
        with_bases(),
    )

    get(engine, source, shown, build=DOCKER)
    get(engine, source, shown, build={**DOCKER, "dockerfile": "gpu.Dockerfile"})

    assert [sorted(context) for context in engine.contexts] == [
        ["requirements.txt"],
        [".dockerignore", "Dockerfile", "gpu.Dockerfile", "gpu.Dockerfile.dockerignore"],
    ]


COPYING = "FROM root\nCOPY req*.txt /x\nCOPY lib /lib\n"
FILES = {"Dockerfile": COPYING, "requirements.txt": "a", "lib/x.py": "x", "train.py": "t"}


def test_nothing_changed(source, shown):
    """Another commit with the same ingredients is the same image: nothing is built or sent."""
    engine, first = with_bases(), source(**FILES)
    image = get(engine, first, shown)

    second = source(**{**FILES, "train.py": "changed", "app/train.py": "new", "docker/x": "new"})
    assert second.commit != first.commit
    assert get(engine, second, shown) == image
    assert shown[-1] == f"Image {image.short} is up to date with Dockerfile"
    assert engine.calls == [("build", image.reference)]
    assert engine.touched == [image.reference]


@pytest.mark.parametrize(
    "change",
    [
        {"requirements.txt": "b"},
        {"requirements-dev.txt": "a"},
        {"lib/x.py": None},
        {"lib/y/z.py": ""},
        {"Dockerfile": f"{COPYING}# a comment\n"},
        {".gitattributes": "*.py text eol=crlf"},
        {".dockerignore": "lib/x.py"},
    ],
)
def test_changed_file_is_another_image(source, shown, change):
    """What the Dockerfile copies, its own text, and what git makes of the files."""
    engine = with_bases()
    image = get(engine, source(**FILES), shown)
    changed = source(**{**FILES, **change})
    assert get(engine, changed, shown).reference != image.reference
    assert len(engine.builds) == 2


def test_attributes_above_the_context(source, shown):
    """What the root's .gitattributes make of a folder's files is content of that folder."""
    files = {"docker/Dockerfile": "FROM docker\nCOPY requirements.txt /x"}
    engine = with_bases()
    image = get(engine, source(**files), shown, build=DOCKER)
    changed = source(**files, **{".gitattributes": "*.txt text eol=crlf"})
    assert get(engine, changed, shown, build=DOCKER) != image
    assert [context["requirements.txt"] for context in engine.contexts] == [b"numpy", b"numpy"]


def test_mode_is_content(source, shown):
    """A file that becomes executable makes another image."""
    engine, first = with_bases(), source(**FILES)
    image = get(engine, first, shown)
    (first.root / "lib" / "x.py").chmod(0o755)
    assert get(engine, recommitted(first), shown) != image


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"target": "docker"}, False),
        ({"args": (("A", "1"),)}, False),
        ({"network": "host"}, True),  # how a build reaches what it fetches, not what that is
        ({"dockerfile": "Dockerfile"}, True),
    ],
)
def test_build_options(source, shown, change, same):
    """What changes the image changes its tag."""
    source, engine = source(**{"docker/Dockerfile": "FROM docker AS docker"}), with_bases()
    plain = get(engine, source, shown, build=DOCKER)
    other = get(engine, source, shown, build={**DOCKER, **change})
    assert (plain == other) is same


def test_platform(source, shown):
    """The same Dockerfile is another image on another kind of machine."""
    engine, source = with_bases(), source()
    image = get(engine, source, shown)
    engine.machine = replace(engine.machine, platform="linux/arm64")
    assert get(engine, source, shown) != image


def test_base_image_that_changed(source, shown):
    """missing: the base that is here; always: pulled first, and built only if it is another."""
    source, engine = source(), with_bases()
    engine.registry = {"root": BASES["root"]}
    image = get(engine, source, shown)

    assert get(engine, source, shown, pull_policy="always") == image
    assert engine.calls == [("build", image.reference), ("pull", "root")]

    engine.registry["root"] = replace(BASES["root"], id="sha256:2", digest="root@sha256:3")
    newer = get(engine, source, shown, pull_policy="always")
    assert newer.reference != image.reference
    assert newer.base == "root root@sha256:3"
    assert get(engine, source, shown) == newer


def test_base_image_that_is_not_here(source, shown):
    """It is pulled before the build; never: an error."""
    source, engine = source(), FakeEngine(registry=dict(BASES))
    image = get(engine, source, shown)
    assert engine.calls == [("pull", "root"), ("build", image.reference)]
    with pytest.raises(ImageError) as caught:
        get(FakeEngine(), source, shown, pull_policy="never")
    assert str(caught.value) == (
        "The base image root is not on this engine, and pull_policy=never forbids to pull it.\n"
        "Pull or build it first, or set hydra.launcher.pull_policy=missing."
    )


def test_base_image_that_takes_files(source, shown):
    """ONBUILD of the base image: all of the context counts."""
    base = replace(BASES["root"], triggers=("COPY . /src",))
    engine = with_bases(root=base)
    image = get(engine, source(), shown)
    assert sorted(engine.contexts[0]) == [
        "Dockerfile",
        "app/deep/run.py",
        "app/train.py",
        "docker/Dockerfile",
        "docker/gpu.Dockerfile",
        "docker/requirements.txt",
    ]
    assert get(engine, source(**{"app/train.py": "changed"}), shown) != image


def test_base_image_that_cannot_be_told(source, shown):
    """It is refused before the builder is asked, with the option that says it."""
    engine = FakeEngine()
    with pytest.raises(ImageError) as caught:
        get(engine, source(Dockerfile="ARG BASE\nFROM ${BASE}"), shown)
    assert str(caught.value) == (
        "Dockerfile, line 2: it cannot be told which image `FROM ${BASE}` means.\nGive its "
        "arguments values with hydra.launcher.build.args.NAME=…, or a default in the Dockerfile."
    )
    assert engine.calls == []


def test_unknown_target(source, shown):
    """The stages that there are."""
    source = source(Dockerfile="FROM root AS small\nFROM small AS large")
    with pytest.raises(OptionError) as caught:
        get(with_bases(), source, shown, build={"target": "lrage"})
    assert str(caught.value) == (
        "hydra.launcher.build.target=lrage: Dockerfile has no such stage. Valid are: small, large"
    )


def test_buildkit(source, shown):
    """The engine is told what needs BuildKit."""
    engine = with_bases()
    get(engine, source(Dockerfile="FROM root\nRUN --mount=type=cache,target=/x y"), shown)
    assert engine.builds[0].needs == (Need("RUN --mount (line 2)", OLDER),)


# ---- made from requirements ----------------------------------------------------------------------


def test_made_dockerfile(source, shown):
    """No Dockerfile: one is made, shown in full, and built; the sources do not count."""
    files = {"Dockerfile": None, "requirements.txt": "numpy", "app/requirements.txt": "scipy"}
    source_of_app, engine = source(**files), with_bases(**{PYTHON: TRAIN})
    script = source_of_app.root / "app" / "deep" / "run.py"

    image = get(engine, source_of_app, shown, script)

    text = engine.builds[0].text
    assert f"FROM {PYTHON}\n" in text
    assert f'"/tmp/hydra-docker/app/requirements.txt", "hydra-core=={hydra.__version__}"]\n' in text
    assert engine.contexts == [{"app/requirements.txt": b"scipy"}]
    assert shown[: 2 + len(text.splitlines())] == [
        f"Building an image from app/requirements.txt of commit {source_of_app.commit[:12]}",
        "There is no Dockerfile; this one is made for it (commit one to have it otherwise):",
        *(f"  {line}" for line in text.splitlines()),
    ]
    changed = source(**{**files, "app/train.py": "changed"})
    assert get(engine, changed, shown, script) == image
    assert shown[-1] == f"Image {image.short} is up to date with app/requirements.txt"


def test_base_of_a_made_dockerfile(source, shown):
    """build.base instead of the official Python image; its arguments reach pip."""
    source, engine = source(**{"Dockerfile": None, "requirements.txt": "numpy"}), with_bases()
    get(engine, source, shown, build={"base": "other", "args": (("PIP_INDEX_URL", "x"),)})
    assert "FROM other\n" in engine.builds[0].text
    assert "ARG PIP_INDEX_URL\n" in engine.builds[0].text


@pytest.mark.parametrize(
    ("files", "build", "message"),
    [
        (
            {},
            {"base": "other"},
            (
                "hydra.launcher.build.base=other is for a commit without a Dockerfile, and "
                "Dockerfile names its own base. Leave it out."
            ),
        ),
        (
            {"Dockerfile": None, "requirements.txt": ""},
            {"target": "x"},
            (
                "hydra.launcher.build.target=x is for a Dockerfile, and commit {commit} has none: "
                "one would be made from requirements.txt. Leave it out, or commit a Dockerfile."
            ),
        ),
    ],
)
def test_option_that_would_be_ignored(source, files, build, message):
    """An option that is for the other case is refused."""
    source = source(**files)
    with pytest.raises(OptionError) as caught:
        find(replace(NO_BUILD, **build), source, None if not files else source.root / "x.py")
    assert str(caught.value) == message.format(commit=source.commit[:12])


# ---- pushing -------------------------------------------------------------------------------------


def test_push(source, shown):
    """Built, pushed under the tag of its content, and known by its digest there; once."""
    source, engine = source(), with_bases()

    image = get(engine, source, shown, push="team/train")

    built = engine.builds[0].tag
    version = built.partition(":")[2]
    assert image == Image(
        f"sha256:{1:064x}",
        f"team/train:{version}",
        f"team/train@sha256:{0xD16:064x}",
        base=f"root {BASES['root'].id}",
    )
    calls = [
        ("pull", f"team/train:{version}"),
        ("build", built),
        ("push", image.id, f"team/train:{version}"),
    ]
    assert engine.calls == calls
    assert f"team/train:{version} is not in the registry yet" in shown

    assert get(engine, source, shown, push="team/train") == image
    assert engine.calls == calls


def test_pulled_instead_of_built(source, shown):
    """Where the registry has it, nobody builds it again."""
    source, first = source(), with_bases()
    pushed = get(first, source, shown, push="team/train")

    second = with_bases()
    second.registry = first.registry
    assert get(second, source, shown, push="team/train") == pushed
    assert second.calls == [("pull", pushed.reference)]


def test_push_of_an_image_by_name(shown):
    """An image that exists only here is pushed under a tag of its id."""
    engine = FakeEngine(local={"train:1": TRAIN})
    image = get(engine, None, shown, image="train:1", push="box:5000/train")
    assert image.digest == f"box:5000/train@sha256:{0xD16:064x}"
    assert engine.calls == [("push", TRAIN.id, f"box:5000/train:{TRAIN.short}")]


def test_push_that_is_refused(source, shown):
    """The registry's words."""
    engine = with_bases()
    engine.push_error = "denied"
    with pytest.raises(ImageError, match=r"^denied$"):
        get(engine, source(), shown, push="team/train", pull_policy="never")


# ---- dry run -------------------------------------------------------------------------------------


def test_describe(source, shown):
    """A dry run names the image, and asks the engine only what is there."""
    source, engine = source(), with_bases()
    assert describe(engine, replace(OPTIONS, image="train:1"), source, None) == ("train:1",)
    script = source.root / "train.py"
    (wanted,) = describe(engine, OPTIONS, source, script)
    assert engine.calls == []
    image = get(engine, source, shown, script)
    assert wanted == f"{image.reference} (to be built from Dockerfile)"
    assert describe(engine, OPTIONS, source, script) == (
        f"{image.reference} (up to date with Dockerfile)",
    )
    assert describe(FakeEngine(), OPTIONS, source, script) == (
        "built from Dockerfile (once root is pulled)",
    )


def test_describe_a_made_dockerfile(source):
    """It is shown in full."""
    source = source(**{"Dockerfile": None, "requirements.txt": "numpy"})
    script = source.root / "train.py"
    recipe = find(NO_BUILD, source, script)
    assert describe(FakeEngine(), OPTIONS, source, script) == (
        f"built from requirements.txt (once {PYTHON} is pulled)",
        *recipe.text.splitlines(),
    )
