"""Codec: frozen dataclasses as values that JSON has, and back, by the types of their fields.

Nothing is executed when a file is read, unlike with a pickle, and a person can read it too.
"""

from __future__ import annotations

import base64
import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, Union

Value = TypeVar("Value")

#: Instead of an object: what JSON has no notation for.
_BYTES = "!bytes"
_PAIRS = "!pairs"


def to_plain(value: Any) -> Any:
    """Return ``value`` as JSON has it. Raises ``TypeError`` for a type that is not known here."""
    if value is None or isinstance(value, (bool, str)):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("!") for key in value):
            return {key: to_plain(item) for key, item in value.items()}
        return {_PAIRS: [[to_plain(key), to_plain(item)] for key, item in value.items()]}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    raise TypeError(f"a {type(value).__name__} cannot be saved")


def from_plain(kind: type[Value], plain: Any) -> Value:
    """Return the ``kind`` that ``to_plain`` has written.

    Raises ``KeyError``, ``TypeError`` or ``ValueError`` where it is not one.
    """
    value: Value = _read(kind, plain)
    return value


def _read(kind: Any, plain: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, plain)
    if origin is tuple:
        return _read_tuple(arguments, plain)
    if kind is Any or kind is object:
        return _read_any(plain)
    if origin is not None and issubclass(origin, Mapping):
        return {_read(arguments[0], key): _read(arguments[1], item) for key, item in _pairs(plain)}
    if kind is bytes:
        return base64.b64decode(plain[_BYTES], validate=True)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, plain)
    if kind is float and type(plain) in (int, float):
        return float(plain)
    if isinstance(kind, type) and issubclass(kind, (Enum, Path)):
        return kind(plain)
    if kind in (str, int, bool, type(None)) and type(plain) is kind:
        return plain
    raise TypeError(f"{plain!r} is no {getattr(kind, '__name__', kind)}")


def _read_union(kinds: tuple[Any, ...], plain: Any) -> Any:
    if plain is None and type(None) in kinds:
        return None
    if bytes in kinds and isinstance(plain, dict) and _BYTES in plain:
        return _read(bytes, plain)
    first, *others = [kind for kind in kinds if kind not in (bytes, type(None))]
    if others:
        raise TypeError(f"cannot tell which of {kinds} it is")
    return _read(first, plain)


def _read_tuple(kinds: tuple[Any, ...], plain: Any) -> tuple[Any, ...]:
    if not isinstance(plain, list):
        raise TypeError(f"{plain!r} is no list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_read(kinds[0], item) for item in plain)
    return tuple(_read(kind, item) for kind, item in zip(kinds, plain, strict=True))


def _read_any(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_read_any(item) for item in plain]
    if isinstance(plain, dict):
        if _BYTES in plain:
            return _read(bytes, plain)
        return {_read_any(key): _read_any(item) for key, item in _pairs(plain)}
    return plain


def _pairs(plain: Any) -> list[tuple[Any, Any]]:
    if not isinstance(plain, dict):
        raise TypeError(f"{plain!r} is no mapping")
    if _PAIRS in plain:
        return [(key, item) for key, item in plain[_PAIRS]]
    return list(plain.items())


def _read_dataclass(kind: Any, plain: Any) -> Any:
    if not isinstance(plain, dict):
        raise TypeError(f"{plain!r} is no {kind.__name__}")
    known = _types(kind)
    # A field that this version does not know is of another version: it is not left out silently.
    unknown = plain.keys() - known.keys()
    if unknown:
        raise ValueError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    return kind(**{name: _read(known[name], item) for name, item in plain.items()})


@cache
def _types(kind: Any) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
