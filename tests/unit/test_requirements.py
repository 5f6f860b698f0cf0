"""Requirements: the Dockerfile that is made where a commit has none."""

from __future__ import annotations

import pytest

from hydra_plugins.hydra_docker_launcher._errors import ImageError
from hydra_plugins.hydra_docker_launcher._requirements import dockerfile, find

FOLDERS = ("app/deep", "app", "")
HEAD = (
    "FROM python:3.11-slim\n"
    "ARG PIP_BREAK_SYSTEM_PACKAGES=1\n"
    "ARG PIP_DISABLE_PIP_VERSION_CHECK=1\n"
    "ARG PIP_NO_CACHE_DIR=1\n"
    "ARG PIP_ROOT_USER_ACTION=ignore\n"
)
PROJECT = (
    '[project]\nname = "x"\ndependencies = ["numpy>=1,<3", "torch[cpu] ; os_name == \'posix\'"]\n'
)
TOOL = "python3 -m pip install --quiet --target /tmp/hydra-docker/tool"
DONE = "rm -rf /tmp/hydra-docker/tool"


def made(path, args=(), **files):
    """Return what is made of a file, without the lines that are always the same."""
    contents = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
    text = dockerfile(path, contents.get, base="python:3.11-slim", hydra="1.3.8", args=args)
    head = f"# Made by hydra/launcher=docker from {path}.\n{HEAD}"
    assert text.startswith(head)
    return text.removeprefix(head).splitlines()


def refusal(path, **files):
    with pytest.raises(ImageError) as caught:
        made(path, **files)
    return str(caught.value)


# ---- which file ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ((), None),
        (("requirements.txt",), "requirements.txt"),
        (("requirements.txt", "app/requirements.txt"), "app/requirements.txt"),
        (("app/requirements.txt", "other/uv.lock"), "app/requirements.txt"),
        (("pyproject.toml", "requirements.txt", "requirements.lock"), "requirements.lock"),
        (("pyproject.toml", "uv.lock", "requirements.txt"), "uv.lock"),
        (("environment.yml",), "environment.yml"),
        (("environment.yml", "requirements.txt"), "requirements.txt"),
        (("app/pyproject.toml", "requirements.txt"), "requirements.txt"),
        (("pyproject.toml",), "pyproject.toml"),
    ],
)
def test_find(names, found):
    """The nearest folder; in it, what is most exact. Settings of tools are no requirements."""
    contents = {"app/pyproject.toml": "[tool.ruff]\n", "pyproject.toml": PROJECT}
    assert find(names, FOLDERS, contents.get) == found


# ---- requirements.txt ----------------------------------------------------------------------------


def test_requirements():
    """hydra-core comes with them, in the host's version, unless they name it."""
    copy = 'COPY ["requirements.txt", "/tmp/hydra-docker/requirements.txt"]'
    pip = '"python3", "-m", "pip", "install", "--requirement", "/tmp/hydra-docker/requirements.txt"'
    assert made("requirements.txt", requirements_txt="numpy\n") == [
        copy,
        f'RUN [{pip}, "hydra-core==1.3.8"]',
    ]
    for named in (
        "hydra-core",
        "Hydra_Core>=1.3",
        "  hydra.core[x]==1.3.2 ; a",
        "hydra-core @ git+x",
    ):
        assert made("requirements.txt", requirements_txt=named) == [copy, f"RUN [{pip}]"]
    for other in ("hydra-core-extras", "# hydra-core", "my-hydra-core"):
        assert "hydra-core==1.3.8" in made("requirements.txt", requirements_txt=other)[-1]


def test_requirements_with_hashes():
    """Pip wants a hash for everything then: hydra-core comes by itself."""
    lines = made("requirements.lock", requirements_lock="numpy==1 --hash=sha256:0\n")
    assert lines[-1] == 'RUN ["python3", "-m", "pip", "install", "hydra-core==1.3.8"]'
    assert "hydra-core" not in lines[-2]


def test_included_requirements():
    """Files that it includes come along, at the same places beside each other."""
    lines = made(
        "app/requirements.txt",
        app__requirements_txt="-r ../base.txt\n-c limits.txt\n--requirement=https://x/y.txt\n",
        base_txt="-r base.txt\nhydra-core\n",
        app__limits_txt="numpy<2",
    )
    assert lines == [
        f'COPY ["{name}", "/tmp/hydra-docker/{name}"]'
        for name in ("app/requirements.txt", "base.txt", "app/limits.txt")
    ] + [
        (
            'RUN ["python3", "-m", "pip", "install", "--requirement", '
            '"/tmp/hydra-docker/app/requirements.txt"]'
        )
    ]


@pytest.mark.parametrize(
    "line", ["-e .", "--editable=./x", "./wheels/x.whl", "x @ file:///x", ".[a]"]
)
def test_requirements_of_the_project_itself(line):
    """The sources are not in the image: each job brings those of its commit."""
    assert refusal("requirements.txt", requirements_txt=f"numpy\n{line}\n") == (
        f"The commit has no Dockerfile, and none can be made from requirements.txt: it installs "
        f"files of the project ({line}).\nCommit a Dockerfile that installs Python, hydra-core and "
        "what your script imports, or name an image (hydra.launcher.image=…)."
    )


def test_editable_from_a_repository():
    """-e of a git URL is no file of the project."""
    assert len(made("requirements.txt", requirements_txt="-e git+https://x/y#egg=y\n")) == 2


def test_included_file_that_is_missing():
    """It is named."""
    assert refusal("requirements.txt", requirements_txt="-r base.txt") == (
        "To make an image from the commit's requirements, the launcher needs base.txt, and the "
        "commit has no such file. Commit it, or a Dockerfile."
    )


def test_words_are_only_words():
    """A name with characters of shells, JSON and Dockerfiles stays one word."""
    path = 'a "$x" b/requirements.txt'
    text = dockerfile(path, {path: "numpy"}.get, base="b", hydra="1", args=())
    assert r'COPY ["a \"\\$x\" b/requirements.txt", "/tmp/hydra-docker/a \"\\$x\" b/' in text
    assert r'"--requirement", "/tmp/hydra-docker/a \"$x\" b/requirements.txt"' in text


def test_arguments():
    """Build arguments are variables of the installation."""
    assert made("requirements.txt", args=("PIP_INDEX_URL",), requirements_txt="")[0] == (
        "ARG PIP_INDEX_URL"
    )


# ---- pyproject.toml and lock files ---------------------------------------------------------------


def test_pyproject():
    """Its dependencies, not the project."""
    assert made("pyproject.toml", pyproject_toml=PROJECT) == [
        (
            'RUN ["python3", "-m", "pip", "install", "--", "numpy>=1,<3", '
            '"torch[cpu] ; os_name == \'posix\'", "hydra-core==1.3.8"]'
        )
    ]


def test_uv_lock():
    """With uv to read it: pip installs it with its hashes, uv does not stay."""
    lock = '[[package]]\nname = "hydra-core"\nversion = "1.3.2"\n'
    assert made("a/uv.lock", a__uv_lock=lock, a__pyproject_toml=PROJECT) == [
        'COPY ["a/pyproject.toml", "/tmp/hydra-docker/pyproject.toml"]',
        'COPY ["a/uv.lock", "/tmp/hydra-docker/uv.lock"]',
        (
            f"RUN {TOOL} uv && UV_PYTHON_DOWNLOADS=never /tmp/hydra-docker/tool/bin/uv export "
            "--quiet --project /tmp/hydra-docker --frozen --no-dev --no-emit-workspace "
            f"--output-file /tmp/hydra-docker/locked.txt && {DONE}"
        ),
        'RUN ["python3", "-m", "pip", "install", "--requirement", "/tmp/hydra-docker/locked.txt"]',
    ]


def test_poetry_lock():
    """Poetry exports its main group."""
    lines = made("poetry.lock", poetry_lock="", pyproject_toml=PROJECT)
    assert lines[2] == (
        f"RUN {TOOL} poetry poetry-plugin-export && PYTHONPATH=/tmp/hydra-docker/tool python3 -m "
        f"poetry export --directory /tmp/hydra-docker --output /tmp/hydra-docker/locked.txt && "
        f"{DONE}"
    )
    assert lines[4] == 'RUN ["python3", "-m", "pip", "install", "hydra-core==1.3.8"]'


def test_pylock():
    """It is for uv to install."""
    assert made("pylock.toml", pylock_toml='[[packages]]\nname = "hydra-core"\n') == [
        'COPY ["pylock.toml", "/tmp/hydra-docker/pylock.toml"]',
        (
            f"RUN {TOOL} uv && UV_PYTHON_DOWNLOADS=never /tmp/hydra-docker/tool/bin/uv pip install "
            f"--system --break-system-packages --no-cache -r /tmp/hydra-docker/pylock.toml "
            f"&& {DONE}"
        ),
    ]


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("environment.yml", "", "environment.yml cannot be installed by pip or uv"),
        ("Pipfile.lock", "", "Pipfile.lock cannot be installed by pip or uv"),
        ("pyproject.toml", '[project]\ndynamic = ["dependencies"]', "its dependencies are dynamic"),
        ("pyproject.toml", "[project]\ndependencies = {}", "its project.dependencies is no list"),
        (
            "pyproject.toml",
            '[project]\ndependencies = ["x @ file:///x"]',
            "it installs files of this machine (x @ file:///x)",
        ),
        ("pyproject.toml", "[project", "it is not valid TOML: "),
    ],
)
def test_what_cannot_be_installed(name, text, reason):
    """It says why."""
    message = refusal(name, **{name.replace(".", "_"): text})
    assert message.startswith(
        f"The commit has no Dockerfile, and none can be made from {name}: {reason}"
    )
