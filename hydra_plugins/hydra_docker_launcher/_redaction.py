"""Redaction: what of a config is not written down. Pure.

A config's secret stands where it was with another text in its place: the interpolation that it came
from (``${oc.env:DB_PASSWORD}``), else ``<hidden>``. The job gets the values in a file of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container as Collection
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from hydra.errors import HydraException
from omegaconf import Container
from omegaconf.base import Node, UnionNode

from ._masks import Masks, masked, masks_of, url_secrets, without_default, without_passwords
from ._private import (
    HIDDEN,
    VARIABLES,
    Rules,
    has_interpolation,
    is_interpolation,
    without_credentials,
)

#: A reference to another key of the config, from its root, or with dots in front.
_REFERENCE = re.compile(r"\$\{\s*(?:oc\.select:\s*)?(\.*[^\W\d][\w.\[\]-]*)\s*[,}]")
_VARIABLE = re.compile(r"\$\{oc\.env:\s*['\"]?([\w.]+)")


@dataclass(frozen=True, slots=True)
class Hidden:
    """A value that is not written down: its full key, and the text in its place.

    ``at`` leads to it in the config: the places of its key and of those above, from 0.
    """

    key: str
    at: tuple[int, ...]
    shown: str


@dataclass(frozen=True, slots=True)
class Withheld:
    """The secrets of a job's config. ``values`` are what its worker puts in place, pickled.

    ``config`` is the resolved config with them as YAML, None where it holds none. ``masks`` are for
    texts. ``options`` are the full keys of the launcher's options that one of them stands in.
    """

    hidden: tuple[Hidden, ...] = ()
    values: bytes = b""
    config: str | None = None
    masks: Masks = ()
    options: tuple[str, ...] = ()

    def shown_option(self, key: str, value: str) -> str:
        """Return the value of an option as everybody may read it."""
        text = masked(value, self.masks)
        return HIDDEN if text == value and key in self.options else text

    def secret_variables(self, place: str) -> tuple[str, ...]:
        """Return the names below ``place`` (one of ``VARIABLES``) that a secret stands under."""
        below = f"{place}."
        return tuple(key[len(below) :] for key in self.options if key.startswith(below))


NOTHING = Withheld()


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a config's values: all of them, and the keys of those that are secrets."""

    rules: Rules
    values: Mapping[str, Any]
    secret: Collection[str]

    def lead_to_one(self, key: str, raw: str | None) -> bool:
        """Tell whether an interpolation at ``key`` takes in a secret, however short that is."""
        if raw is None or not has_interpolation(raw):
            return False
        return any(map(self.rules.is_secret_variable, _VARIABLE.findall(raw))) or any(
            reference in self.secret
            or self.rules.is_secret(reference, self.values.get(reference, HIDDEN))
            for reference in _references(key, raw)
        )


def _references(key: str, raw: str) -> Iterator[str]:
    """Yield the full keys that an interpolation at ``key`` refers to."""
    for found in _REFERENCE.findall(raw):
        name = re.sub(r"\[([^\]]*)\]", r".\1", found.lstrip("."))
        up = len(found) - len(found.lstrip("."))
        yield ".".join((*key.split(".")[:-up], name)) if up else name


def find(config: Any, raw: Any, rules: Rules, masks: Masks = ()) -> tuple[list[Hidden], Masks]:
    """Return what of a config is not written down, and the masks for its values.

    ``raw`` is the config before its interpolations were resolved, ``masks`` are known already.
    """
    leaves = [
        (key, at, node._value(), _raw_of(raw, names)) for key, names, at, node in _leaves(config)
    ]
    secret: set[str] = set()
    known = _Known(rules, {key: value for key, _, value, _ in leaves}, secret)
    found: dict[tuple[int, ...], Hidden] = {}
    values: list[object] = []
    pairs: list[tuple[str, str]] = []
    rest, count = leaves, -1
    while len(found) > count:  # what refers to one that was found is one too
        count, looked_at, rest = len(found), rest, []
        for key, at, value, origin in looked_at:
            shown = _shown(key, value, origin, known)
            if shown is None:
                if origin is not None:
                    rest.append((key, at, value, origin))
                continue
            found[at] = Hidden(key, at, shown)
            secret.add(key)
            if key.startswith("hydra.overrides."):
                pairs.append((str(value), shown))
                pairs += _masks_in_override(str(value), known)
            elif not has_interpolation(value):
                values += _secrets_in(key, value, rules)
    masks = tuple(dict.fromkeys((*masks, *pairs, *masks_of(values))))
    for key, at, value, origin in leaves:
        if at in found:
            hidden = found[at]
            found[at] = Hidden(key, at, masked(hidden.shown, masks))
        elif (text := _text(value)) is not None and masked(text, masks) != text:
            found[at] = Hidden(key, at, masked(origin or text, masks))
    return [found[at] for _, at, _, _ in leaves if at in found], masks


def options_with_secrets(
    options: Mapping[str, Any], config: Any, raw: Any, rules: Rules, withheld: Withheld
) -> tuple[str, ...]:
    """Return the full keys of the launcher's options that a secret of the config stands in.

    ``options`` are resolved, ``raw`` is the config before that was done. An item of a list counts
    as the list, one of variables as its name.
    """
    values = {key: node._value() for key, _, _, node in _leaves(config)}
    known = _Known(rules, values, {item.key for item in withheld.hidden})
    found: dict[str, None] = {}

    def look(names: tuple[Any, ...], key: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for name, item in value.items():
                look((*names, name), f"{key}.{name}", item)
        elif isinstance(value, (list, tuple)):
            for number, item in enumerate(value):
                name = f"{key}.{str(item).partition('=')[0]}" if key in VARIABLES else key
                look((*names, number), name, item)
        else:
            text = value if isinstance(value, str) else ""
            hidden = masked(text, withheld.masks) != text
            if hidden or known.lead_to_one(key, _raw_of(raw, names)):
                found[key] = None

    look(("hydra", "launcher"), "hydra.launcher", options)
    return tuple(found)


def _masks_in_override(text: str, known: _Known) -> Masks:
    """Return the masks for the values that a secret override gives, all those of a sweep."""
    key, value = _parsed_override(text)
    if any(name.startswith(f"{key}.") for name in known.values) and not isinstance(value, dict):
        return ()  # it chooses from a group
    # An interpolation is shown: it is no value.
    return tuple(mask for mask in masks_in(key, value, known.rules) if "${" not in mask[0])


def _parsed_override(text: str) -> tuple[str, Any]:
    """Return key and value of an override; the values of a sweep as a list."""
    key, _, value = text.partition("=")
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return key.lstrip("+~"), value
    given: Any = override.value()
    choices = given.list if isinstance(given, ChoiceSweep) else given
    return override.key_or_group.replace("/", "."), _unquoted(choices)


def _unquoted(value: Any) -> Any:
    if isinstance(value, QuotedString):
        return value.text
    if isinstance(value, Mapping):
        return {str(_unquoted(key)): _unquoted(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unquoted(item) for item in value]
    return value


def masks_in(key: str, value: Any, rules: Rules) -> Masks:
    """Return the masks for the secrets in plain values, which stand at ``key`` in a config."""
    if isinstance(value, Mapping):
        items = [(f"{key}.{_name(name)}", item) for name, item in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(f"{key}.{number}", item) for number, item in enumerate(value)]
    elif _shown(key, value, None, _Known(rules, {}, frozenset())) is None:
        return ()
    else:
        return masks_of(_secrets_in(key, value, rules))
    return tuple(mask for item in items for mask in masks_in(*item, rules))


@contextmanager
def withheld(config: Any, hidden: Sequence[Hidden]) -> Iterator[list[Any]]:
    """Put the texts to be shown into a config for a while. Yields the values."""
    nodes = [leaf(config, item.at) for item in hidden]
    values = [node._val for node in nodes]
    try:
        for node, item in zip(nodes, hidden, strict=True):
            node.__dict__["_val"] = item.shown
        yield values
    finally:
        for node, value in zip(nodes, values, strict=True):
            node.__dict__["_val"] = value


def leaf(config: Any, at: Sequence[int]) -> Any:
    """Return the node at a place of a config."""
    node = config
    for number in at:
        content = node._content
        node = list(content.values() if isinstance(content, dict) else content)[number]
        node = node._content if isinstance(node, UnionNode) else node
    return node


def _leaves(
    config: Any, names: tuple[Any, ...] = (), at: tuple[int, ...] = ()
) -> Iterator[tuple[str, tuple[Any, ...], tuple[int, ...], Any]]:
    """Yield key, names and place of every value, with its node."""
    content = config._content
    if not isinstance(content, (dict, list)):
        return
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for number, (name, item) in enumerate(items):
        node: Any = item
        if isinstance(node, UnionNode):
            node = node._content
        below = (*names, name), (*at, number)
        if isinstance(node, Container):
            yield from _leaves(node, *below)
        elif isinstance(node, Node):
            yield ".".join(map(_name, below[0])), *below, node


def _name(key: Any) -> str:
    return str(getattr(key, "name", key))


def _raw_of(config: Any, names: Sequence[Any]) -> str | None:
    """Return the interpolation that a value came from, None where it had none."""
    node = config
    for number, name in enumerate(names):
        content = getattr(node, "_content", None)
        try:
            node = content[name] if isinstance(content, (dict, list)) else None
        except (KeyError, IndexError):
            return None
        if isinstance(node, UnionNode) and isinstance(node._content, Node):
            node = node._content
        if node is None:
            return None
        value = node._value()
        if isinstance(value, str) and has_interpolation(value):
            rest = names[number + 1 :]
            reference = _REFERENCE.fullmatch(value)
            if not rest or reference is None:
                return value if not rest else None
            return f"${{{'.'.join((reference[1], *map(_name, rest)))}}}"
    return None


def _shown(key: str, value: Any, raw: str | None, known: _Known) -> str | None:
    """Return the text for a value that is a secret by itself, None for any other one."""
    rules = known.rules
    if value is None or isinstance(value, bool) or value in ("", "???"):
        return None
    variable = _variable(key, value)
    if variable is not None:
        name, single = variable
        if rules.is_secret_variable(name, single):
            listed = single is not value
            shown = _interpolation(raw.partition("=")[2] if listed and raw else raw)
            return f"{name}={shown}" if listed else _unless_same(shown, value)
    elif rules.is_secret(key, value):
        return _unless_same(_interpolation(raw), value)
    if raw is not None and known.lead_to_one(key, raw):
        open_ones = [item for item in url_secrets(raw) if not has_interpolation(item)]
        return _unless_same(HIDDEN if open_ones else without_default(raw), value)
    if variable is not None:
        return None
    if not isinstance(value, str):
        return (raw or HIDDEN) if _holds_secret(key, value, rules) else None
    if key.startswith("hydra.overrides."):
        return _unless_same(rules.override(value), value)
    if without_credentials(value) == value:
        return None
    if raw is not None and not url_secrets(raw):
        return _unless_same(without_default(raw), value)
    return _unless_same(without_passwords(raw or value), value)


def _holds_secret(key: str, value: Any, rules: Rules) -> bool:
    """Tell whether a resolver's own list or dict has a secret in it."""
    if isinstance(value, dict):
        below = ((f"{key}.{_name(name)}", item) for name, item in value.items())
        return any(rules.is_secret(*item) or _holds_secret(*item, rules) for item in below)
    if isinstance(value, (list, tuple)):
        return any(_holds_secret(key, item, rules) for item in value)
    return isinstance(value, str) and without_credentials(value) != value


def _unless_same(shown: str, value: Any) -> str | None:
    return None if shown == value else shown


def _variable(key: str, value: Any) -> tuple[str, Any] | None:
    """Return name and value of a variable that a config sets: by key, or as ``NAME=value``."""
    for place in VARIABLES:
        if key.startswith(f"{place}."):
            name = key[len(place) + 1 :]
            if not name.isdigit():
                return name, value
            item, equals, text = str(value).partition("=")
            return item, text if equals else None
    return None


def _interpolation(raw: str | None) -> str:
    """Return an interpolation without a default, which may be a secret; ``<hidden>`` for others."""
    if raw is None or not is_interpolation(raw):
        return HIDDEN
    return without_default(raw)


def _secrets_in(key: str, value: Any, rules: Rules) -> Iterable[object]:
    variable = _variable(key, value)
    if variable is not None and variable[1] is not value:
        value = variable[1]
    if isinstance(value, (list, tuple, dict)):
        return [item for item in _flat(value) if not isinstance(item, (bool, type(None)))]
    text = _unescaped(str(value))
    if without_credentials(text) == text:
        return [text]
    return [*([text] if rules.is_secret(key, value) else []), *url_secrets(text)]


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = value.values()
    for item in value:
        if isinstance(item, (list, tuple, dict)):
            yield from _flat(item)
        else:
            yield item


def _text(value: Any) -> str | None:
    """Return what a secret may stand in, None for a value that has no words."""
    if isinstance(value, (str, PurePath)):
        return str(value)
    if isinstance(value, (list, tuple, dict)):
        return json.dumps(_as_text(value))
    return None


def _as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_name(key)): _as_text(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_text(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def escaped(text: str) -> str:
    """Return ``text`` so that it is no interpolation; a password may have ``${`` in it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def _unescaped(text: str) -> str:
    return re.sub(r"(\\*)\1\\\$\{", r"\1${", text)
