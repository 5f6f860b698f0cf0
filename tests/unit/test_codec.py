"""Codec: frozen dataclasses as values that JSON has, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from hydra_plugins.hydra_docker_launcher._codec import from_plain, to_plain


class Kind(str, Enum):
    ONE = "one"


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    size: int = 0


@dataclass(frozen=True, slots=True)
class Whole:
    text: str | None
    number: float
    flag: bool
    path: Path
    content: bytes
    kind: Kind
    parts: tuple[Part, ...]
    pair: tuple[str, int]
    files: Mapping[str, str | bytes]
    anything: Mapping[str, Any] = field(default_factory=dict)
    part: Part | None = None


WHOLE = Whole(
    text=None,
    number=1.5,
    flag=True,
    path=Path("/a b"),
    content=b"\x00\xff",
    kind=Kind.ONE,
    parts=(Part("a"), Part("ü", 3)),
    pair=("x", 1),
    files={"text": "t", "bytes": b"\x80"},
    anything={"n": None, "deep": {1: [1.5, {"!bytes": "no bytes"}], "b": b"x"}, "inf": 2.0},
    part=Part("p"),
)


def test_there_and_back():
    """Through JSON, every kind of field comes back as it was; a mapping's keys too."""
    assert from_plain(Whole, json.loads(json.dumps(to_plain(WHOLE)))) == WHOLE


def test_whole_number_of_a_float():
    """JSON has one kind of number."""
    assert from_plain(Whole, {**to_plain(WHOLE), "number": 2}).number == 2.0


def test_field_with_a_default():
    """What another version has not written has its default."""
    plain = to_plain(WHOLE)
    del plain["part"]
    assert from_plain(Whole, plain).part is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("text", 3),
        ("flag", 1),
        ("number", "1"),
        ("number", True),
        ("content", "text"),
        ("kind", "two"),
        ("parts", {"name": "a"}),
        ("parts", [{"name": "a", "colour": "red"}]),
        ("parts", [{}]),
        ("pair", ["x"]),
        ("files", []),
        ("unknown", 1),
    ],
)
def test_what_is_none(name, value):
    """A value of another type, or a field that is not known, is refused."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_plain(Whole, {**to_plain(WHOLE), name: value})


def test_type_that_is_not_known():
    with pytest.raises(TypeError, match="a set cannot be saved"):
        to_plain({"a": {1, 2}})
