"""Stages: what a Dockerfile takes from outside."""

from __future__ import annotations

from textwrap import dedent

import pytest

from hydra_plugins.hydra_docker_launcher._dockerfile import parse
from hydra_plugins.hydra_docker_launcher._stages import Intake, UnknownStageError, intake, triggered

PLATFORM = {"TARGETARCH": "amd64", "BUILDPLATFORM": "linux/amd64"}


def take(text, target=None, **args):
    return intake(parse(dedent(text)), target=target, args=args, platform=PLATFORM)


def sources(text, **args):
    return take(f"FROM a\n{dedent(text)}", **args).sources


# ---- sources -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("COPY a.txt ./b/ /x/", ("a.txt", "b")),
        ('COPY ["a b", "c", "/x"]', ("a b", "c")),
        ('COPY "a" /x', ("a",)),
        ("COPY . /x", ("",)),
        ("COPY / /x", ("",)),
        ("COPY /a/../b/./c/ /x", ("b/c",)),
        ("COPY ../a /x", ("a",)),  # the classic builder refuses it, BuildKit reads it so
        ("COPY *.txt src/**/[ab].py /x", ("*.txt", "src/**/[ab].py")),
        ("copy --chown=1:1 a /x", ("a",)),
        ("COPY --from=other a /x", ()),
        ("ADD a.tar /x", ("a.tar",)),
        ("ADD https://example.org/a git@example.org:a.git b /x", ("b",)),
        ("COPY <<EOF a /x\ntext\nEOF", ("a",)),
        ("RUN --mount=type=bind,source=a,target=/x b", ("a",)),
        ("RUN --mount=target=/x b", ("",)),
        ("RUN --mount=src=a,target=/x --mount=type=bind,source=c,target=/y b", ("a", "c")),
        ("RUN --mount=type=cache,target=/x --mount=type=secret,id=y b", ()),
        ("RUN --mount=from=other,source=a,target=/x b", ()),
        ("RUN COPY a b", ()),
        ("ONBUILD COPY a /x", ()),  # of those who start from this image
    ],
)
def test_sources(line, expected):
    """What COPY, ADD and RUN --mount take from the context."""
    assert sources(line) == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("ARG P=a\nCOPY $P/x /x", ("a/x",)),
        ("ENV P a b\nCOPY ${P} /x", ("a b",)),
        ("ENV P=a Q=$P/b\nCOPY ${Q} /x", ("",)),  # P has no value yet in that line
        ("ENV P=a\nENV Q=$P/b\nCOPY ${Q} /x", ("a/b",)),
        ("ARG P=a\nENV P=b\nCOPY $P /x", ("b",)),
        ("ENV P=b\nARG P=a\nCOPY $P /x", ("b",)),
        ("COPY $P /x\nARG P=a", ("",)),
        ("COPY $P /x", ("",)),  # the base image may set it
        ("ARG P\nCOPY $P /x", ("",)),
    ],
)
def test_variables(lines, expected):
    """ARG and ENV as they are at that line; all of the context where that cannot be told."""
    assert sources(lines) == expected


def test_build_arguments():
    """They win over defaults, where the stage declares them; ARG before FROM reaches in as well."""
    assert sources("ARG P=a\nCOPY $P /x", P="b") == ("b",)
    assert sources("COPY $P /x", P="b") == ("",)
    assert take("ARG P=a\nFROM x\nARG P\nCOPY $P /x").sources == ("a",)
    assert take("ARG P=a\nFROM x\nCOPY $P /x").sources == ("",)
    assert sources("ARG TARGETARCH\nCOPY bin-$TARGETARCH /x") == ("bin-amd64",)


def test_no_stage():
    """What is no Dockerfile is for the builder to refuse."""
    assert take("RUN a\n") == Intake(None, (), ("",), ("",))


# ---- stages --------------------------------------------------------------------------------------

STAGES = """\
ARG BASE=python:3.11
FROM ${BASE} AS small
COPY requirements.txt /x
FROM gcc AS unused
COPY native /x
FROM small AS Large
COPY --from=tool:1 /bin/tool /bin/
COPY large.txt /x
FROM scratch
COPY --from=0 /x /x
COPY last.txt /x
"""


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (
            "small",
            Intake("python:3.11", ("python:3.11",), ("requirements.txt",), ("requirements.txt",)),
        ),
        ("1", Intake("gcc", ("gcc",), ("native",), ("native", "requirements.txt"))),
        (
            "LARGE",
            Intake(
                "python:3.11",
                ("python:3.11", "tool:1"),
                ("large.txt", "requirements.txt"),
                ("large.txt", "native", "requirements.txt"),
            ),
        ),
        (
            None,
            Intake(
                "scratch",
                ("python:3.11",),
                ("last.txt", "requirements.txt"),
                ("large.txt", "last.txt", "native", "requirements.txt"),
            ),
        ),
    ],
)
def test_stages(target, expected):
    """Only the stages that the target needs count; those before it are sent as well."""
    assert take(STAGES, target) == expected


def test_unknown_stage():
    """The names that there are."""
    with pytest.raises(UnknownStageError) as caught:
        take(STAGES, "lrage")
    assert caught.value.valid == ("small", "unused", "large")


@pytest.mark.parametrize(
    ("text", "args", "images"),
    [
        ("FROM --platform=linux/arm64 a:1 AS b", {}, ("a:1",)),
        ("ARG A=a\nFROM $A:1", {"A": "b"}, ("b:1",)),
        ("FROM ${A:-a:1}", {}, ("a:1",)),
        ("FROM a@sha256:1", {}, ("a@sha256:1",)),
        ("FROM scratch", {}, ()),
        ("FROM a\nFROM a", {}, ("a",)),
        ("FROM a\nRUN --mount=from=tool,target=/x y", {}, ("a", "tool")),
        ("FROM a AS b\nFROM c\nRUN --mount=from=b,target=/x y", {}, ("c", "a")),
    ],
)
def test_images(text, args, images):
    """Images that a build starts from or copies from; stages are none."""
    assert set(take(text, **args).images) == set(images)


@pytest.mark.parametrize("text", ["ARG A\nFROM $A", "FROM ${A#b}"])
def test_image_that_cannot_be_told(text):
    """The line of it is named; of a stage that is not needed, nobody asks."""
    assert [line.name for line in take(text).unclear] == ["FROM"]
    assert take(f"{text} AS x\nFROM scratch").unclear == ()


def test_variables_of_a_stage_that_is_started_from():
    """ENV is inherited. ARG is in some builders and not in others: that cannot be told."""
    text = "FROM a AS b\nENV P=p\nARG Q=q\nFROM b\nCOPY $P /x\n"
    assert take(text).sources == ("p",)
    assert take(f"{text}COPY $Q /x").sources == ("", "p")


def test_onbuild():
    """It acts in the stage that starts from it."""
    text = "FROM a AS b\nONBUILD COPY x /x\nFROM b\nCOPY y /y\n"
    assert take(text).sources == ("x", "y")
    assert take(text, "b").sources == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((), False),
        (("RUN make", "ENV A=b", "COPY --from=x a /b"), False),
        (("RUN make", "COPY . /src"), True),
        (("RUN --mount=target=/src make",), True),
    ],
)
def test_onbuild_of_a_base_image(lines, expected):
    """Tells whether it takes files of the context."""
    assert triggered(lines) is expected
