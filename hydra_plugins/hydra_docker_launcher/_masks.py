"""Masks: texts without the values of secrets that are known. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import quote, unquote

from ._private import (
    HIDDEN,
    URL_USER,
    Rules,
    has_interpolation,
    secret_parameters,
    without_credentials,
)

#: Characters of the shortest value that is masked in texts: shorter ones are parts of many words.
SHORTEST = 6
#: Texts that are no secrets, whatever they are called.
_HARMLESS = ("default", "disable", "disabled", "enable", "enabled", "localhost", "optional")
#: A text to be replaced, and what is to stand there.
Masks = tuple[tuple[str, str], ...]
Variables = tuple[tuple[str, str], ...]

_PLAIN_VARIABLE = re.compile(r"\$\{oc\.env:[^,{}]*\}")
#: The default of a variable, but for one that is an interpolation itself.
_DEFAULT = re.compile(
    r"(\$\{oc\.env:[^,{}]*),(?:'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|(?<!\$)\{[^{}]*\}|[^{}'\"])*\}"
)
#: What needs a backslash in an override without quotes.
_ESCAPED_BY_HYDRA = re.compile(r"([\\()\[\]{}:=, \t])")
#: What stands as a password in the addresses of GitHub, where the user is the token.
_NO_PASSWORD = ("x-oauth-basic",)


def masks_of(values: Iterable[object], shown: str = HIDDEN) -> Masks:
    """Return masks for values, in the forms in which they come in texts."""
    return tuple(dict.fromkeys((form, shown) for value in values for form in _forms(str(value))))


def _forms(value: str) -> Iterator[str]:
    lines = [value, *(value.splitlines() if "\n" in value else ())]
    for line in map(str.strip, lines):
        for form in (
            line,
            json.dumps(line)[1:-1],
            json.dumps(line, ensure_ascii=False)[1:-1],
            repr(line)[1:-1],
            quote(line, safe=""),
            unquote(line),
            _ESCAPED_BY_HYDRA.sub(r"\\\1", line),
            line.replace("'", "\\'"),
            line.replace("'", "''"),
        ):
            if len(form) >= SHORTEST and form.lower() not in _HARMLESS:
                yield form


def masked(text: str, masks: Masks) -> str:
    """Return a text without the values that ``masks`` name."""
    if not masks:
        return text
    pattern, instead = _compiled(masks)
    return pattern.sub(lambda match: instead[match[0]], text)


def masked_bytes(line: bytes, masks: Masks) -> bytes:
    """Return a line of output without the values that ``masks`` name; bytes of no text stay."""
    if not masks:
        return line
    text = line.decode("utf-8", "surrogateescape")
    return masked(text, masks).encode("utf-8", "surrogateescape")


def masked_plain(value: Any, masks: Masks) -> Any:
    """Return plain values, with all texts in them masked, keys included."""
    if not masks:
        return value
    if isinstance(value, str):
        return masked(value, masks)
    if isinstance(value, Mapping):
        return {masked_plain(key, masks): masked_plain(item, masks) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [masked_plain(item, masks) for item in value]
    return value


@lru_cache(maxsize=256)
def _compiled(masks: Masks) -> tuple[re.Pattern[str], Mapping[str, str]]:
    instead: dict[str, str] = {}
    for text, shown in masks:
        instead.setdefault(text, shown)
    longest_first = sorted(instead, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))), instead


def url_secrets(text: str) -> tuple[str, ...]:
    """Return the passwords of the URLs in a text, and users that stand without one: tokens.

    The values of parameters too, which are called as secrets are.
    """
    found = []
    for match in URL_USER.finditer(text):
        is_ssh = match[0].startswith(("ssh", "git+ssh"))
        password = match["password"]
        if password and password not in _NO_PASSWORD:
            found.append(password)
        elif match["user"] and not is_ssh:
            found.append(match["user"])
    return (*found, *secret_parameters(text))


def secrets_of(variables: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Return what to mask of variables: their values; of a URL, its password alone."""
    return tuple(
        secret for _, value in variables for secret in (url_secrets(value) or (value,)) if secret
    )


def split_variables(
    variables: Iterable[tuple[str, str]],
    rules: Rules | None,
    masks: Masks = (),
    names: Sequence[str] = (),
) -> tuple[Variables, Variables]:
    """Return the variables that everybody may read, and the others: by their names and values.

    With no ``rules``, those in ``names``, and those whose values have something in them that is
    masked.
    """
    public: list[tuple[str, str]] = []
    secret: list[tuple[str, str]] = []
    for name, value in variables:
        by_name = name in names or (rules is not None and rules.is_secret_variable(name, value))
        hidden = by_name or masked(value, masks) != value
        (secret if hidden else public).append((name, value))
    return tuple(public), tuple(secret)


def overrides(words: Iterable[str], rules: Rules, masks: Masks = ()) -> tuple[str, ...]:
    """Return the words of a command line as they may be written down."""
    return tuple(masked(rules.override(word), masks) for word in words)


def without_default(text: str) -> str:
    """Return a text with interpolations of variables (``${oc.env:NAME,default}``) by name only."""
    return _DEFAULT.sub(r"\1}", text)


def is_of_environment(text: str) -> bool:
    """Tell whether a text takes in variables (``${oc.env:NAME}``), and no other key."""
    rest, variables = _PLAIN_VARIABLE.subn("", text)
    return variables > 0 and "${" not in rest


def without_passwords(text: str) -> str:
    """Return a text without the passwords of URLs; an interpolation says where one comes from."""
    found = url_secrets(text)
    if found and all(map(has_interpolation, found)):
        return without_default(text)
    return without_credentials(text)
