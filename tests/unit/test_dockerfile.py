"""Dockerfile: its text becomes instructions; what of it needs BuildKit."""

from __future__ import annotations

from textwrap import dedent

import pytest

from hydra_plugins.hydra_docker_launcher._dockerfile import (
    NEWER,
    OLDER,
    Dockerfile,
    Instruction,
    parse,
)
from hydra_plugins.hydra_docker_launcher._dockerfile_words import expand, json_list, split
from hydra_plugins.hydra_docker_launcher._engine import Need


def read(text):
    """Return name and arguments of each instruction."""
    found = parse(dedent(text)).instructions
    return [(instruction.name, instruction.arguments) for instruction in found]


# ---- lines ---------------------------------------------------------------------------------------


def test_instructions():
    """One a line; comments and empty lines are none; names in any case."""
    text = "\n# a comment\nFROM a AS b\n\n  # another\n  copy x  /y \nRun make # not a comment\n"
    assert parse(text).instructions == (
        Instruction("FROM", (), "a AS b", 3),
        Instruction("COPY", (), "x  /y", 6),
        Instruction("RUN", (), "make # not a comment", 7),
    )


def test_continued_lines():
    """A backslash at the end continues a line; comments and empty lines in between are left out."""
    assert read(
        """\
        RUN one \\
          # a comment \\
        # one more

          two \\\t
        three
        COPY a \\
        """
    ) == [("RUN", "one   two three"), ("COPY", "a")]


def test_two_backslashes_do_not_continue():
    r"""``\\`` is an escaped backslash."""
    assert read("RUN a \\\\\nRUN b\n") == [("RUN", "a \\\\"), ("RUN", "b")]


@pytest.mark.parametrize("name", ["escape", "Escape", " ESCAPE "])
def test_escape_directive(name):
    """Another escape character, for paths of Windows."""
    dockerfile = parse(f"#{name}=`\nCOPY a\\ `\n  b\n")
    assert dockerfile.escape == "`"
    assert [i.arguments for i in dockerfile.instructions] == ["a\\   b"]


def test_directive_behind_a_comment():
    """Behind any other line it is a comment."""
    for line in ("# a comment", "FROM a", ""):
        assert parse(f"{line}\n# escape=`\n# syntax=x\n") == Dockerfile(
            parse(line).instructions, "\\", None
        )


def test_line_ends_of_windows():
    """CRLF, and a byte order mark."""
    found = parse("\ufeff# syntax=docker/dockerfile:1\r\nFROM a\r\nRUN b \\\r\n c\r\n")
    assert found.syntax == "docker/dockerfile:1"
    assert [(i.name, i.arguments) for i in found.instructions] == [("FROM", "a"), ("RUN", "b  c")]


def test_flags():
    """Flags stand before the arguments, and have values."""
    (copy,) = parse('COPY --from=build --CHOWN="1:1" -- a --b /c').instructions
    assert copy.flags == (("from", "build"), ("chown", '"1:1"'))
    assert copy.arguments == "a --b /c"
    assert (copy.flag("from"), copy.flag("link")) == ("build", None)


def test_heredocs():
    """Their lines are no instructions; several may follow each other; ``-`` allows tabs."""
    assert read(
        """\
        RUN <<A cat <<-"B"
        FROM inside
        A
        COPY inside
        \tB
        COPY <<'C' x /y
        $z
        C
        RUN ["sh", "<<D"]
        RUN echo "<<E" $((1<<2)) <<<F
        """
    ) == [
        ("RUN", '<<A cat <<-"B"'),
        ("COPY", "<<'C' x /y"),
        ("RUN", '["sh", "<<D"]'),
        ("RUN", 'echo "<<E" $((1<<2)) <<<F'),
    ]


def test_heredoc_without_an_end():
    """It is none: an older builder would read on with the next instruction."""
    assert read("RUN x <<EOF\nCOPY a b\n") == [("RUN", "x <<EOF"), ("COPY", "a b")]


# ---- what needs BuildKit -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("FROM a\nRUN b\nCOPY --from=c --chown=1 d e", []),
        (
            "# syntax=docker/dockerfile:1\nRUN --mount=type=cache b",
            ["# syntax=docker/dockerfile:1"],
        ),
        ("RUN --mount=type=cache,target=/x b", ["RUN --mount (line 1)"]),
        ("run --network=none b", ["RUN --network (line 1)"]),
        ("COPY --link --chmod=1 a b", ["COPY --link (line 1)", "COPY --chmod (line 1)"]),
        ("RUN <<EOF\nb\nEOF", ["RUN with a heredoc (line 1)"]),
        ("FROM --platform=$BUILDPLATFORM a", ["FROM with the platform's variables (line 1)"]),
        ("FROM a\nARG TARGETARCH", ["ARG TARGETARCH (line 2)"]),
        ("FROM a\nARG TARGETARCH=amd64", []),
    ],
)
def test_needs(text, needs):
    """Each with its line; a frontend of its own stands for all of them."""
    assert [need.what for need in parse(text).needs] == needs


def test_which_engine_has_it():
    """Docker 20.10 brings Dockerfile syntax 1.2, Docker 23 syntax 1.4."""
    assert parse("RUN --mount=x y\nCOPY --link a b\n").needs == (
        Need("RUN --mount (line 1)", OLDER),
        Need("COPY --link (line 2)", NEWER),
    )


# ---- words ---------------------------------------------------------------------------------------


def test_split():
    """At white space that is neither quoted nor escaped."""
    assert split(r"""a="b c" 'd e'\ f  g""", "\\") == ['a="b c"', r"'d e'\ f", "g"]


def test_json_form():
    """A list of strings; anything else is words."""
    assert json_list(' ["a b", "c"] ') == ["a b", "c"]
    for text in ("[a-c].txt /x", "[1]", "a b", '["a"'):
        assert json_list(text) is None


VARIABLES = {"A": "one", "EMPTY": "", "UNTOLD": None}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("plain/x", "plain/x"),
        ("$A/x", "one/x"),
        ("${A}x", "onex"),
        ('"$A b"', "one b"),
        ("'$A'", "$A"),
        (r"\$A", "$A"),
        (r'"a\b\"c"', r'a\b"c'),
        ("${A:-b}", "one"),
        ("${EMPTY:-b}", "b"),
        ("${EMPTY:-${A}/b}", "one/b"),
        ("${EMPTY-b}", ""),
        ("${A:+b}", "b"),
        ("${EMPTY:+b}", ""),
        ("a$", "a$"),
        ("$UNTOLD", None),
        ("$MISSING/x", None),
        ("${MISSING:-b}", None),  # the base image may set it
        ("${A#o}", None),
        ("$1", None),
        ("${}", None),
    ],
)
def test_expand(word, value):
    """Quotes go, variables get their values; None where that cannot be told."""
    assert expand(word, VARIABLES, "\\") == value
