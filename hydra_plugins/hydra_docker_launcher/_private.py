"""Private: values that are not written down, of which only names are.

These are the values of environment variables and of build arguments, passwords in URLs, and what
stands under a name that secrets have (``Rules``).
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any

HIDDEN = "<hidden>"
#: Keys of the config below which there are names with values.
JOB_VARIABLES = "hydra.job.env_set"
VARIABLES = ("hydra.launcher.environment", "hydra.launcher.build.args", JOB_VARIABLES)
_SECRET_NAME = re.compile(
    r"(?i)(token(?!i[sz])|secret|passw|passphrase|credential|api_?key|access_?key|private_?key"
    r"|auth(?!or))"
)
_COUNTED = "*token*"
#: Keys whose values are secrets, as globs on the whole key in lower case. The last one that matches
#: counts; with ``!``, the value is none. The words of language models are no secrets.
COMMON = (
    *(
        f"*{word}*"
        for word in ("password", "passwd", "passphrase", "secret", "credential", "authorization")
    ),
    *(f"*{kind}{link}key*" for kind in ("api", "access", "private") for link in ("", "_", "-")),
    _COUNTED,
    *(f"!*{word}*" for word in ("tokeniz", "tokenis", "token_type", "special_token")),
    *(f"!*{name}_token*" for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask")),
    "!hydra.launcher.clone.*",
    "!hydra.launcher.redact*",
    "!hydra.runtime.*",
)
#: From the beginning of a word only: a config may have a megabyte of letters in a row.
_URL_CREDENTIALS = re.compile(r"(?<![\w+.-])(?P<scheme>[\w+.-]+)://(?P<user>[^/@:\s]*)[^/\s]*@")


def looks_secret(name: str) -> bool:
    """Tell whether a name is one that secrets have (``db.password``, ``API_KEY``)."""
    return bool(_SECRET_NAME.search(name))


@dataclass(frozen=True, slots=True)
class Rules:
    """Which names have secrets as their values. ``globs`` are the user's (option ``redact``)."""

    globs: tuple[str, ...] = ()

    def is_secret(self, key: str, value: object = HIDDEN) -> bool:
        """Tell whether ``value`` under a config's full key (``db.accounts.0.password``) is one.

        A key below one that matches does so too. A number is no token: it counts them.
        """
        if value is None or isinstance(value, (bool, Enum)) or value == "":
            return False
        glob = _deciding((*COMMON, *self.globs), key.lower())
        counts = glob == _COUNTED and isinstance(value, (int, float))
        return glob is not None and not glob.startswith("!") and not counts

    def is_secret_variable(self, name: str, value: object = HIDDEN) -> bool:
        """Tell whether a variable's (or a build argument's) value is one, by name or as a URL."""
        if value is None or value == "":
            return False
        glob = _deciding(self.globs, name.lower())
        if glob is not None:
            return not glob.startswith("!")
        return looks_secret(name) or without_credentials(str(value)) != str(value)

    def override(self, text: str) -> str:
        """Return an override (or any word of a command line) as it may be written down."""
        key, equals, value = text.partition("=")
        place, _, variable = key.lstrip("+~").rpartition(".")
        if place == JOB_VARIABLES and not self.is_secret_variable(variable, value):
            return text  # as Hydra writes it down
        shown = shown_override(text)
        if shown != text or not equals:
            return shown
        name = key.lstrip("+~").partition("@")[0].replace("/", ".")
        inner = (f"{name}.{match[1]}" for match in _INNER_KEY.finditer(value))
        if value and any(self.is_secret(one, _number(value)) for one in (name, *inner)):
            return f"{key}={HIDDEN}"
        return text


NO_GLOBS = Rules()
#: A key within an override's value: ``db={host: h, password: p}``.
_INNER_KEY = re.compile(r"[{,\[]\s*['\"]?([\w.-]+)['\"]?\s*:")


def _number(value: str) -> float | str:
    """Return a number as one, a sweep over numbers (``1,2``) as its first."""
    try:
        return float(value.partition(",")[0])
    except ValueError:
        return value


@lru_cache(maxsize=4096)
def _deciding(globs: tuple[str, ...], key: str) -> str | None:
    """Return the last glob that matches a key, or what it is below of."""
    parts = key.split(".")
    above = [".".join(parts[: length + 1]) for length in range(len(parts))]
    for glob in reversed(globs):
        pattern = glob.lower().removeprefix("!")
        if any(fnmatch.fnmatchcase(name, pattern) for name in above):
            return glob
    return None


def without_credentials(text: str) -> str:
    """Return a text without the passwords and tokens of the URLs in it."""
    return _URL_CREDENTIALS.sub(_without_user, text)


def _without_user(match: re.Match[str]) -> str:
    """Drop the user as well, which may be a token, but for ssh, which needs it."""
    user = f"{match['user']}@" if "ssh" in match["scheme"] else ""
    return f"{match['scheme']}://{user}"


def shown_override(text: str) -> str:
    """Return an override (or any word of a command line) without values of variables."""
    key, equals, _ = text.partition("=")
    name = key.lstrip("+~")
    below = any(name == place or name.startswith(f"{place}.") for place in VARIABLES)
    above = any(place.startswith(f"{name}.") for place in VARIABLES)
    if equals and (below or above):
        return f"{key}={HIDDEN}"
    return without_credentials(text)


def hide_variables(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's ``hydra`` node as plain values, without the values of variables.

    A value that is an interpolation (``${oc.env:TOKEN}``) stays: it says where to take it from.
    """
    hydra: dict[str, Any] = plain(node)
    for place in VARIABLES:
        *parents, name = place.split(".")[1:]
        parent: Any = hydra
        for key in parents:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and parent.get(name):
            parent[name] = _hidden(parent[name], HIDDEN)
    overrides: dict[str, Any] = hydra.get("overrides") or {}
    for kind, items in overrides.items():
        overrides[kind] = [shown_override(str(item)) for item in items or ()]
    return hydra


def shown_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``hydra.launcher`` as plain values, with the names alone of variables.

    A name without a value takes the one that the environment has when the options are read again.
    """
    result: dict[str, Any] = plain(options)
    result.pop("_target_", None)
    build = result.get("build")
    for node, name in ((result, "environment"), (build, "args")):
        if isinstance(node, dict) and node.get(name):
            node[name] = _hidden(node[name], None)
    return result


def repeatable_options(options: Mapping[str, Any], rules: Rules = NO_GLOBS) -> dict[str, Any]:
    """Return ``hydra.launcher`` as plain values, from which its jobs can be run again.

    A variable whose name or value looks like a secret is taken from the environment of whoever does
    that: ``${oc.env:NAME}`` stands in its place.
    """
    result: dict[str, Any] = {
        key: _as_it_is(value) for key, value in options.items() if key != "_target_"
    }
    build = result.get("build")
    for node, name in ((result, "environment"), (build, "args")):
        if isinstance(node, dict) and node.get(name):
            node[name] = _without_secrets(node[name], rules)
    return result


def _as_it_is(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(_key(key)): _as_it_is(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_it_is(item) for item in value]
    return value if isinstance(value, str) else plain(value)


def _without_secrets(variables: Any, rules: Rules) -> Any:
    if isinstance(variables, dict):
        return {
            name: f"${{oc.env:{name}}}" if _is_secret(str(name), value, rules) else value
            for name, value in variables.items()
        }
    if isinstance(variables, list):
        return [_item_without_secret(str(item), rules) for item in variables]
    return variables


def _item_without_secret(item: str, rules: Rules) -> str:
    name, equals, value = item.partition("=")
    return f"{name}=${{oc.env:{name}}}" if equals and _is_secret(name, value, rules) else item


def _is_secret(name: str, value: Any, rules: Rules) -> bool:
    return not _is_interpolation(value) and rules.is_secret_variable(name, value)


def plain(value: Any) -> Any:
    """Return a value as JSON and YAML have it, without the passwords of URLs."""
    if isinstance(value, Mapping):
        return {str(_key(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.name
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, (str, PurePath)):
        return without_credentials(str(value))
    return repr(value)


def _key(key: Any) -> Any:
    return key.name if isinstance(key, Enum) else key


def _hidden(variables: Any, instead: str | None) -> Any:
    if isinstance(variables, dict):
        return {
            name: value if value is None or _is_interpolation(value) else instead
            for name, value in variables.items()
        }
    if isinstance(variables, list):
        return [str(item).partition("=")[0] for item in variables]
    return variables if _is_interpolation(variables) else instead


def _is_interpolation(value: object) -> bool:
    return str(value).startswith("${") and str(value).endswith("}")
