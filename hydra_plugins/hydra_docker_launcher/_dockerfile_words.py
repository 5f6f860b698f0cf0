"""Dockerfile words: how the arguments of an instruction are split, unquoted and expanded.

The rules are those of BuildKit's ``shell`` and ``parser`` packages. What this cannot tell is None:
a variable that only the base image may set, or a kind of expansion that is not known here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

#: Variables by name; None: set, but nobody can tell to what. (A ``defaultdict`` knows all.)
Variables = Mapping[str, str | None]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RULE = re.compile(r":?[-+]")


def split(text: str, escape: str) -> list[str]:
    """Split at white space that is neither quoted nor escaped; quotes and escapes stay."""
    words, word, quote = [], "", ""
    characters = iter(text)
    for character in characters:
        if character == escape and quote != "'":
            word += character + next(characters, "")
        elif quote:
            word += character
            quote = "" if character == quote else quote
        elif character.isspace():
            words += [word] if word else []
            word = ""
        else:
            word += character
            quote = character if character in "'\"" else ""
    return words + ([word] if word else [])


def json_list(text: str) -> list[str] | None:
    """Return the strings of the JSON form (``["a", "b"]``); None where it is another form."""
    if not text.lstrip().startswith("["):
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if all(isinstance(item, str) for item in found) else None


def expand(word: str, variables: Variables, escape: str) -> str | None:
    """Return a word without its quotes and with its variables' values; None: cannot be told."""
    result, at, quoted = "", 0, False
    while at < len(word):
        character = word[at]
        at += 1
        if character == "'" and not quoted:
            end = word.find("'", at)
            end = len(word) if end < 0 else end
            result += word[at:end]
            at = end + 1
        elif character == '"':
            quoted = not quoted
        elif character == escape and at < len(word):
            kept = escape if quoted and word[at] not in ('"', "$", escape) else ""
            result += kept + word[at]
            at += 1
        elif character == "$":
            value, at = _variable(word, at, variables, escape)
            if value is None:
                return None
            result += value
        else:
            result += character
    return result


def _variable(word: str, at: int, variables: Variables, escape: str) -> tuple[str | None, int]:
    """Return the value of the variable whose ``$`` stands before ``at``, and where it ends."""
    plain = _NAME.match(word, at)
    if plain:
        return _value(plain[0], variables), plain.end()
    if word.startswith("{", at):
        end = _closing(word, at)
        return _braced(word[at + 1 : end], variables, escape), end + 1
    if at < len(word) and (word[at].isdigit() or word[at] in "@*#?-!$"):
        return None, len(word)
    return "$", at


def _value(name: str, variables: Variables) -> str | None:
    try:
        return variables[name]
    except KeyError:
        return None


def _closing(word: str, at: int) -> int:
    depth = 0
    for place in range(at, len(word)):
        depth += {"{": 1, "}": -1}.get(word[place], 0)
        if depth == 0:
            return place
    return len(word)


def _braced(text: str, variables: Variables, escape: str) -> str | None:
    """Return the value of ``NAME``, ``NAME:-word`` or ``NAME:+word``."""
    name = _NAME.match(text)
    if name is None:
        return None
    known = name[0] in variables  # before a defaultdict is asked for its value
    value, rest = _value(name[0], variables), text[name.end() :]
    if value is None or not rest:
        return value
    rule = _RULE.match(rest)
    if rule is None:
        return None
    is_set = bool(value) or (":" not in rule[0] and known)
    if rule[0].endswith("-") and is_set:
        return value
    if rule[0].endswith("+") and not is_set:
        return ""
    return expand(rest[rule.end() :], variables, escape)
