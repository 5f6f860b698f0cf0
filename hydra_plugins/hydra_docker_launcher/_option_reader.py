"""Option reader: reads the values of one node of a config, and says what is wrong with which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

from ._errors import OptionError
from ._option_values import valid_are
from ._private import NO_GLOBS, Rules, without_credentials

T = TypeVar("T")
#: What stands for a value that no message shows.
UNSHOWN = "…"
_VARIABLES = ("environment", "build.args")
NUL = "has a NUL character, which no path and no variable can have"


class Reader:
    """Reads values of one node; every error names the option, what it was, and what is valid."""

    def __init__(self, node: Mapping[str, Any], prefix: str = "", rules: Rules = NO_GLOBS) -> None:
        self._node = node
        self._prefix = prefix
        self._rules = rules

    def inner(self, name: str) -> Reader:
        """Return what reads the options below one."""
        return Reader(self.mapping(name), f"{self._prefix}{name}.", self._rules)

    def wrong(self, name: str, value: object, reason: str) -> OptionError:
        full = f"{self._prefix}{name}"
        shown = _shown_value(full, value, self._rules)
        said = "it is not valid" if shown == UNSHOWN and str(value) in reason else reason
        return OptionError(f"hydra.launcher.{full}={shown}: {without_credentials(said)}")

    def parsed(self, name: str, parse_value: Callable[[Any], T]) -> T:
        value = self._node.get(name)
        return self._convert(name, value, parse_value)

    def optional(self, name: str, parse_value: Callable[[Any], T]) -> T | None:
        return None if self._node.get(name) is None else self.parsed(name, parse_value)

    def each(self, name: str, parse_item: Callable[[str], T]) -> tuple[T, ...]:
        return tuple(self._convert(name, item, parse_item) for item in self.texts(name))

    def items(self, name: str, parse_item: Callable[[str, Any], T]) -> tuple[T, ...]:
        return tuple(
            self._convert(f"{name}.{key}", item, partial(parse_item, key))
            for key, item in self.mapping(name).items()
        )

    def text(self, name: str) -> str | None:
        value = self._node.get(name)
        if value is not None and not str(value).strip():
            raise self.wrong(name, value, "is empty; leave it out")
        if "\0" in str(value):
            raise self.wrong(name, value, NUL)
        return None if value is None else str(value)

    def required(self, name: str) -> str:
        value = self.text(name)
        if value is None:
            raise self.wrong(name, None, "must have a value")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        value = self._node.get(name)
        if value is None:
            return ()
        items = (value,) if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(
            isinstance(item, (str, int, float)) for item in items
        ):
            raise self.wrong(name, value, "must be a list of strings")
        found = tuple(str(item) for item in items)
        if any("\0" in item for item in found):
            raise self.wrong(name, value, NUL)
        return found

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._node.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.wrong(name, value, "must be a mapping of names to values")
        return {str(key): item for key, item in value.items()}

    def pairs(
        self, name: str, environ: Mapping[str, str] | None = None
    ) -> tuple[tuple[str, str], ...]:
        """Read names with values, from a mapping or from a list of ``NAME=value``.

        A name without a value takes the one of ``environ``, or is left out where that has none
        (Compose's rule).
        """
        value = self._node.get(name)
        items: list[tuple[str, Any]]
        if value is None or isinstance(value, Mapping):
            items = [(str(key), item) for key, item in (value or {}).items()]
        elif not isinstance(value, (list, tuple)):
            raise self.wrong(name, value, "must be a mapping of names to values, or a list")
        else:
            split = (item.partition("=") for item in self.texts(name))
            items = [(key, item if equals else None) for key, equals, item in split]
        result = []
        for key, item in items:
            if not key or "=" in key or "\0" in key:
                raise self.wrong(name, key, "is not a name")
            inherited = item is None and environ is not None
            found = (environ or {}).get(key) if inherited else item
            if inherited and found is None:
                continue
            if isinstance(found, (Mapping, list)):
                raise self.wrong(f"{name}.{key}", found, "must be a single value")
            if "\0" in str(found):
                raise self.wrong(f"{name}.{key}", found, NUL)
            result.append((key, _scalar(found)))
        return tuple(result)

    def choice(self, name: str, valid: tuple[str, ...]) -> str:
        value = self._node.get(name)
        if value not in valid:
            raise self.wrong(name, value, valid_are(valid, value))
        return str(value)

    def flag(self, name: str) -> bool:
        value = self._node.get(name)
        if not isinstance(value, bool):
            raise self.wrong(name, value, "must be true or false")
        return value

    def _convert(self, name: str, value: Any, parse_value: Callable[[Any], T]) -> T:
        try:
            return parse_value(value)
        except (ValueError, TypeError) as error:
            raise self.wrong(name, value, str(error)) from None


def _shown_value(name: str, value: object, rules: Rules) -> str:
    """Return a value as a message may show it."""
    place, _, variable = name.rpartition(".")
    has_values = name in _VARIABLES and not isinstance(value, (str, int))
    by_name = place in _VARIABLES and rules.is_secret_variable(variable, value)
    by_key = rules.is_secret(f"hydra.launcher.{name}", value)
    if value is not None and (has_values or by_name or by_key):
        return UNSHOWN
    return without_credentials(_shown(value))


def _shown(value: object) -> str:
    return "null" if value is None else str(value).replace("\0", "\\0")


def _scalar(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
