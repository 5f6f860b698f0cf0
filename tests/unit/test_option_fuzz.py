"""Whatever an option says, it is a value in range, or an error that names the option.

The examples are the same in every run.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hydra_plugins.hydra_docker_launcher import _boundary_values as boundary
from hydra_plugins.hydra_docker_launcher import _option_values as values
from hydra_plugins.hydra_docker_launcher import _units, config
from hydra_plugins.hydra_docker_launcher._errors import OptionError
from hydra_plugins.hydra_docker_launcher._options import Options, parse

settings.register_profile(
    "same examples in every run",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=120,
    suppress_health_check=list(HealthCheck),
)
# To trace these takes longer than they do; test_options.py covers the same lines.
pytestmark = pytest.mark.no_cover
SAME = settings.get_profile("same examples in every run")

DEFAULTS: Any = OmegaConf.to_container(config._open_schema(), resolve=True)
INT64 = 2**63 - 1  # what the engine's API takes


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        if isinstance(value, dict) and value and not prefix:  # the default of a mapping is empty
            yield from leaves(value, f"{name}.")
        elif name != "_target_":
            yield f"{prefix}{name}"


OPTIONS = tuple(leaves(DEFAULTS))

# ---- what people, and tools, may write -----------------------------------------------------------

#: Characters that mean something in an option, and some that never do.
CHARACTERS = "0123456789kmgtibshdGMeE.:-/=~_,ro \t\n\0+[]{}'\"$@#٢²é\x1b"
texts = st.one_of(
    st.text(CHARACTERS, max_size=12),
    st.text(max_size=6),
    st.sampled_from(
        (
            "",
            " ",
            "all",
            "no",
            "nan",
            "inf",
            "-inf",
            "1e999",
            "host",
            "~",
            "~nobody-of-that-name/x",
            "/",
            "//",
            "/..",
            ".",
            "..",
            "a" * 300,
            "9" * 400,
            "9" * 5000,
            "1" * 400 + "g",
            "0:0",
            "4294967296",
            "\0",
            "a\0b",
            "/dev/null",
            "/dev/null:/dev/x:rwm",
            ".:/data:ro",
            ".:/data/../..",
            ".:/hydra/x",
            ".:/x/../hydra/config.yaml",
            "data:/data",
            "a=b:1.2.3.4",
            "seccomp=/dev/null",
            "on-failure:3",
            "hydra.docker.sweep",
        )
    ),
)
scalars = st.one_of(
    texts,
    st.integers(),
    st.integers(-2, 2**70),
    st.floats(),
    st.booleans(),
    st.none(),
)
anything = st.one_of(
    scalars,
    st.lists(scalars, max_size=3),
    st.dictionaries(texts, scalars, max_size=3),
    st.lists(st.lists(scalars, max_size=2), max_size=2),
    st.dictionaries(texts, st.dictionaries(texts, scalars, max_size=2), max_size=2),
    st.fixed_dictionaries({"nofile": st.fixed_dictionaries({"soft": scalars, "hard": scalars})}),
)


def with_option(name: str, value: Any) -> dict[str, Any]:
    outer, _, inner = name.rpartition(".")
    if not outer:
        return {**DEFAULTS, name: value}
    return {**DEFAULTS, outer: {**DEFAULTS[outer], inner: value}}


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


@given(value=anything)
@settings(SAME, max_examples=120)
@example(value="1" * 400)
@example(value=["~nobody-of-that-name/x:/data"])
@example(value=[f"{'a' * 300}/x:/data", "/dev/null:/x"])
@example(value=["/a" * 3000 + ":/data"])
@example(value={"A": "a\0b"})
@example(value=["\0"])
def test_every_option(folder, value):
    """Any value of any option is taken, or refused by the option's name; nothing else happens."""
    assert len(OPTIONS) > 60
    for name in OPTIONS:
        try:
            options = parse(with_option(name, value), environ={"A": "1"}, folder=folder)
        except OptionError as error:
            assert f"hydra.launcher.{name}" in str(error)  # noqa: PT017
        else:
            check(options)


@given(name=texts, value=anything)
@settings(SAME)
def test_name_of_no_option(folder, name, value):
    """A name that is no option is refused with those that are."""
    if name in DEFAULTS:
        return
    with pytest.raises(OptionError, match=r"(?s)is not an option.*Valid are: image, "):
        parse({**DEFAULTS, name: value}, environ={}, folder=folder)


def check(options: Options) -> None:
    """Every value is one that the engine's API takes."""
    sweep, job = options.sweep, options.job
    assert 0.01 <= job.cpus < math.inf
    for size in (job.mem_limit, job.shm_size, sweep.snapshot_limit, job.stray_limit):
        assert size is None or 0 <= size <= INT64
    assert job.mem_limit is None or job.mem_limit >= values.MINIMUM_MEMORY
    assert job.memswap_limit is None or -1 <= job.memswap_limit <= INT64
    assert job.pids_limit == -1 or 0 < job.pids_limit <= INT64
    assert sweep.n_jobs == -1 or sweep.n_jobs > 0
    assert job.timeout is None or 0 < job.timeout < math.inf
    assert 0 <= job.stop_grace_period < math.inf
    assert 0 <= job.retries.backoff <= values.LONGEST_BACKOFF
    assert 1 <= job.retries.mem_factor < math.inf
    assert min(job.retries.oom, job.retries.infra, job.retries.error, job.retries.timeout) >= 0
    assert job.restart.retries >= 0
    assert job.gpus.count >= 0
    assert all(job.gpus.ids)
    for limit in job.ulimits:
        assert -1 <= limit.soft <= INT64
        assert -1 <= limit.hard <= INT64
        assert limit.hard == -1 or -1 < limit.soft <= limit.hard
    for target in [volume.target for volume in job.volumes] + [path for path, _ in job.tmpfs]:
        assert target.startswith("/")
        assert not target.startswith("//")
        assert {"..", ".", ""}.isdisjoint(target.split("/")[1:])
        assert target != "/"
    for volume in job.volumes:
        assert volume.named == ("/" not in volume.source)
        assert not volume.target.startswith("/hydra/")
    user = sweep.user
    assert user in ("host", "image") or (user.isascii() and 0 <= int(user.split(":")[0]) < 2**31)
    strings = [text for pair in (*job.environment, *job.labels) for text in pair]
    strings += [text for pair in job.tmpfs for text in pair] + list(job.devices)
    assert not any("\0" in text for text in strings)
    assert not any(not name or "=" in name for name, _ in job.environment)


# ---- single notations ----------------------------------------------------------------------------


@given(st.integers(0, 2**60))
@settings(SAME)
def test_shown_size(number):
    """What is shown of a size is a size, within the tenth that is shown; once more, the same."""
    shown = _units.show_size(number)
    again = _units.size(shown)
    assert abs(again - number) <= max(0.051 * number, 0)
    assert _units.show_size(again) == shown
    assert _units.size(number) == _units.size(f"{number}b") == number


@given(st.integers(0, 999), st.sampled_from("bkmgt"), st.sampled_from(("", "b", "ib", "B")))
@settings(SAME)
def test_sizes_with_units(number, unit, more):
    """A unit is 1024 of the one below, in small letters and capitals, with a b and without."""
    text = f"{number}{unit}{more if unit != 'b' else ''}"
    assert _units.size(text) == _units.size(text.upper()) == number * 1024 ** "bkmgt".index(unit)


@given(st.integers(0, 500), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
@settings(SAME)
def test_durations(hours, minutes, seconds, milliseconds):
    """A time is the sum of its parts, of which any may be left out."""
    parts = {"h": hours, "m": minutes, "s": seconds, "ms": milliseconds}
    text = "".join(f"{number}{unit}" for unit, number in parts.items() if number) or "0s"
    assert _units.duration(text) == pytest.approx(
        hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    )


@given(st.integers(0, 10**6))
@settings(SAME)
def test_shown_age(minutes):
    """What is shown of an age is an age, rounded down to its largest unit."""
    shown = _units.show_age(minutes * 60.0)
    assert 0 <= minutes * 60 - _units.age(shown) < 86400
    assert _units.show_age(_units.age(shown)) == shown


PARSERS: dict[str, Callable[[Any], Any]] = {
    "size": _units.size,
    "duration": _units.duration,
    "age": _units.age,
    "cpu_number": _units.cpu_number,
    "memory": values.memory,
    "swap": values.swap,
    "pids": values.pids,
    "n_jobs": values.n_jobs,
    "minutes": values.minutes,
    "retries": values.retries,
    "backoff": values.backoff,
    "mem_factor": values.mem_factor,
    "user": values.user,
    "gpus": values.gpus,
    "ulimit": lambda value: values.ulimit("nofile", value),
    "tmpfs": boundary.tmpfs,
    "capability": boundary.capability,
    "network_mode": boundary.network_mode,
    "device": values.device,
    "extra_host": values.extra_host,
    "volume": lambda value: values.volume(value, Path("/")),
    "security_opt": lambda value: boundary.security_opt(value, Path("/")),
    "readable_file": lambda value: values.readable_file(value, Path("/")),
    "restart": values.restart,
    "repository": values.repository,
    "data_check": values.data_check,
}


@pytest.mark.parametrize("name", sorted(PARSERS))
@given(text=texts)
@settings(SAME, max_examples=60)
def test_notation(name, text):
    """Any text is a value, which is the same each time, or a ValueError that says what is valid."""
    read = PARSERS[name]
    try:
        found = read(text)
    except ValueError as error:
        assert str(error)  # noqa: PT017
        assert not isinstance(error, UnicodeError)  # noqa: PT017
    else:
        assert read(text) == found


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1))
@settings(SAME)
def test_users(uid, gid):
    """A number, or two with a colon, are a user as they stand."""
    assert values.user(uid) == str(uid)
    assert values.user(f"{uid}:{gid}") == f"{uid}:{gid}"


ids = st.text("0123456789abcdefGPU-", min_size=1, max_size=8)


@given(st.lists(ids, max_size=4))
@settings(SAME)
def test_gpu_ids(wanted):
    """Ids are taken in their order; one that is there twice is refused."""
    if len(set(wanted)) == len(wanted):
        assert values.gpus(wanted).ids == tuple(wanted)
    else:
        with pytest.raises(ValueError, match="there twice"):
            values.gpus(wanted)


@given(st.integers(-1, INT64), st.integers(-1, INT64))
@settings(SAME)
def test_ulimits(soft, hard):
    """The soft limit is never above the hard one; -1 is no limit."""
    valid = hard == -1 or -1 < soft <= hard
    if valid:
        found = values.ulimit("nofile", {"soft": soft, "hard": hard})
        assert (found.soft, found.hard) == (soft, hard)
    else:
        with pytest.raises(ValueError, match="is more than hard"):
            values.ulimit("nofile", {"soft": soft, "hard": hard})
    assert values.ulimit("nofile", hard).soft == hard


part = st.text("abc._- ü", min_size=1, max_size=6).filter(lambda name: name not in (".", ".."))


@given(st.lists(part, min_size=1, max_size=4), st.booleans())
@settings(SAME)
def test_targets(parts, slash):
    """The target of a volume is an absolute path, which is taken as it stands."""
    target = "/" + "/".join(parts)
    found = values.volume(f"/:{target}{'/' if slash else ''}:ro", Path("/"))
    assert (found.source, found.target, found.read_only, found.named) == ("/", target, True, False)


names = st.text("ABC_abc019.-", min_size=1, max_size=8)
words = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=10)


@given(st.dictionaries(names, words, max_size=4))
@settings(SAME)
def test_environment(folder, variables):
    """A mapping and a list of NAME=value say the same, whatever is in the values."""
    listed = [f"{name}={value}" for name, value in variables.items()]
    for form in (variables, listed):
        node = with_option("environment", form)
        found = parse(node, environ={}, folder=folder).job.environment
        assert dict(found) == variables
