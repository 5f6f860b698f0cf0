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
from itertools import accumulate
from pathlib import PurePath
from typing import Any

HIDDEN = "<hidden>"
#: Keys of the config below which there are names with values.
JOB_VARIABLES = "hydra.job.env_set"
VARIABLES = ("hydra.launcher.environment", "hydra.launcher.build.args", JOB_VARIABLES)
#: Words in names of secrets, wherever they stand.
_SECRET_NAME = re.compile(
    r"(?i)(token(?!i[sz])|secret|passw|passphrase|credential|api_?key|access_?key|private_?key"
    r"|auth(?!or)|connection_?string|conn_?str(?![a-z]))"
)
#: Kinds of keys, and services that call their tokens so: ``ENCRYPTION_KEY``, ``wandb.key``. Other
#: keys are those of a sort, of a dict, of attention, of a piece of music.
_KINDS_OF_KEYS = ("encryption", "signing", "master", "account", "hmac", "jwt")
_SERVICES = (
    *("anthropic", "aws", "azure", "clearml", "comet", "gcp", "github", "gitlab", "huggingface"),
    *("mlflow", "neptune", "openai", "sendgrid", "stripe", "wandb"),
)
#: What passes, but is no password: of a filter, of a network.
_PASSES = (
    *("all", "band", "high", "low", "backward", "forward", "by", "first", "last", "multi", "n"),
    *("num", "one", "second", "single", "two"),
)
#: Last words of names of secrets, which are common as parts of other words.
_SECRET_END = re.compile(
    r"(?i)("
    rf"(?<![a-z0-9])({'|'.join((*_KINDS_OF_KEYS, 'storage', *_SERVICES))})[._-]?key"
    r"|(?<![a-z0-9])(creds?|dsn|pat)"
    rf"|{''.join(f'(?<!(?<![a-z0-9]){word}[._-])' for word in _PASSES)}(?<![a-z0-9])pass"
    r"|(?<![a-z0-9])(?<!^)(?<!old_)pwd"
    r")$"
)
_COUNTED = ("*token*", "*_pass", "*-pass")
#: Names that a folder may have as well, for its path is no secret.
_FOLDERS = ("pwd", "*[._-]pwd")
#: Keys whose values are secrets, as globs on the whole key in lower case (``dbPass`` is ``db_pass``
#: as well). The last one that matches counts; with ``!``, the value is none. The words of language
#: models are no secrets.
COMMON = (
    *(f"{start}{word}" for word in ("pass", "auth", "creds", "dsn") for start in ("", "*.")),
    *(f"*[_-]{word}" for word in ("auth", "creds", "dsn")),
    *("*_pass", "*-pass"),
    *(f"!{start}{word}[_-]pass" for word in _PASSES for start in ("", "*[._-]")),
    *(f"!*auth.{word}" for word in ("type", "method", "mode", "kind", "scheme", "url")),
    *_FOLDERS,
    *(f"{start}{kind}[._-]key" for kind in _SERVICES for start in ("", "*[._-]")),
    *(f"{start}{kind}[_-]key" for kind in _KINDS_OF_KEYS for start in ("", "*[._-]")),
    *(f"*{host}[._]pat" for host in ("github", "gitlab")),
    *("*connection_string*", "*connectionstring*", "*conn_str"),
    *(
        f"*{word}*"
        for word in ("password", "passwd", "passphrase", "secret", "credential", "authorization")
    ),
    *(f"*{kind}{link}key*" for kind in ("api", "access", "private") for link in ("", "_", "-")),
    "*token*",
    *(f"!*{word}*" for word in ("tokeniz", "tokenis", "token_type", "special_token")),
    *(f"!*{name}_token*" for name in ("bos", "eos", "pad", "unk", "cls", "sep", "mask")),
    "!hydra.launcher.clone.*",
    "!hydra.launcher.redact*",
    "!hydra.runtime.*",
)
_INTERPOLATIONS = re.compile(r"(\$\{[^{}]*(\{[^{}]*\}[^{}]*)*\})+")
#: Who logs in, in a URL. From the beginning of a word only: a config may have a megabyte of letters
#: in a row. A password may have a slash in it; a port and a path look like one.
URL_USER = re.compile(
    r"(?<![\w+.-])(?P<scheme>[\w+.-]+)://(?P<user>[^/:\s\[]{0,4096})"
    r"(?::(?P<password>[^/\s]{0,4096}|(?!\d+/|\$\{)[^\s@'\"<>]{0,4096}))?@"
)
_URL_QUERY = re.compile(r"(?<![\w+.-])[\w+.-]+://[^\s?#'\"<>]{0,4096}\?[^\s'\"<>]*")
_PARAMETER = re.compile(r"(?P<before>[?&;](?P<name>[\w.-]+)=)(?P<value>[^&;#]+)")
#: Names of parameters of URLs that are secrets there, beside those that are so anywhere.
_SECRET_PARAMETERS = ("sig", "pwd")
#: Between the words of a name such as ``dbPass``.
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_LONG_KEY = 20  # characters from which on ``key=`` is one of an API, and no name


def looks_secret(name: str) -> bool:
    """Tell whether a name is one that secrets have (``db.password``, ``API_KEY``, ``dbPass``)."""
    return bool(_SECRET_NAME.search(name) or _SECRET_END.search(_in_words(name)))


def _in_words(name: str) -> str:
    """Return ``dbPass`` as ``db_Pass``."""
    return _HUMP.sub("_", name)


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
        glob = _deciding((*COMMON, *self.globs), key)
        if glob is None or glob.startswith("!"):
            return False
        if glob in self.globs:
            return True
        counts = glob in _COUNTED and isinstance(value, (int, float))
        return not counts and not (glob in _FOLDERS and _is_path(value))

    def is_secret_variable(self, name: str, value: object = HIDDEN) -> bool:
        """Tell whether a variable's (or a build argument's) value is one, by name or as a URL."""
        if value is None or value == "":
            return False
        glob = _deciding(self.globs, name)
        if glob is not None:
            return not glob.startswith("!")
        if name.lower().endswith("pwd") and _is_path(value):
            return False
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
    """Return the last glob that matches a key, as it is or in words, or what it is below of."""
    forms = dict.fromkeys((key.lower(), _in_words(key).lower()))
    above = [name for form in forms for name in accumulate(form.split("."), "{}.{}".format)]
    above = [name for name in above if _any_of(globs).match(name)]
    for glob in reversed(globs) if above else ():
        if any(fnmatch.fnmatchcase(name, _pattern(glob)) for name in above):
            return glob
    return None


def _pattern(glob: str) -> str:
    return glob.lower().removeprefix("!")


@lru_cache(maxsize=16)
def _any_of(globs: tuple[str, ...]) -> re.Pattern[str]:
    """Return what most keys do not match, in one look: no glob is theirs."""
    return re.compile("|".join(fnmatch.translate(_pattern(glob)) for glob in globs) or r"(?!)")


def without_credentials(text: str) -> str:
    """Return a text without the passwords and tokens of the URLs in it."""
    if "://" not in text:
        return text
    return _URL_QUERY.sub(_without_parameters, URL_USER.sub(_without_user, text))


def _without_user(match: re.Match[str]) -> str:
    """Drop the user as well, which may be a token, but for ssh, which needs it."""
    user = f"{match['user']}@" if "ssh" in match["scheme"] else ""
    return f"{match['scheme']}://{user}"


def _without_parameters(url: re.Match[str]) -> str:
    return _PARAMETER.sub(
        lambda found: f"{found['before']}{HIDDEN}" if _is_secret_parameter(found) else found[0],
        url[0],
    )


def secret_parameters(text: str) -> tuple[str, ...]:
    """Return the values of parameters of the URLs in a text that are secrets by their names."""
    return tuple(
        found["value"]
        for url in _URL_QUERY.finditer(text)
        for found in _PARAMETER.finditer(url[0])
        if _is_secret_parameter(found)
    )


def _is_secret_parameter(found: re.Match[str]) -> bool:
    name, value = found["name"].lower(), found["value"]
    if value.startswith("${") or (value.isdigit() and "tokens" in name):
        return False
    if name == "key":
        return len(value) >= _LONG_KEY
    return name in _SECRET_PARAMETERS or name.endswith("signature") or looks_secret(found["name"])


def _is_path(value: object) -> bool:
    """Tell whether a value is the path of a folder, as PWD has it."""
    return str(value) in (".", "..") or str(value).startswith(("/", "~", "./", "../"))


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
    return not is_interpolation(value) and rules.is_secret_variable(name, value)


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
            name: value if value is None or is_interpolation(value) else instead
            for name, value in variables.items()
        }
    if isinstance(variables, list):
        return [str(item).partition("=")[0] for item in variables]
    return variables if is_interpolation(variables) else instead


def is_interpolation(value: object) -> bool:
    """Tell whether a value is nothing but interpolations: no word of it is a value."""
    return _INTERPOLATIONS.fullmatch(str(value)) is not None


def has_interpolation(value: object) -> bool:
    return isinstance(value, str) and re.search(r"(?<!\\)\$\{", value) is not None
