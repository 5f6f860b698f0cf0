"""Units: sizes, durations and CPU numbers in Compose's notation."""

import pytest

from hydra_plugins.hydra_docker_launcher._units import (
    age,
    cpu_number,
    duration,
    show_age,
    show_size,
    size,
    small_number,
    whole_seconds,
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0),
        ("1b", 1),
        ("64k", 65536),
        ("64kb", 65536),
        ("64KiB", 65536),
        ("512m", 512 * 1024**2),
        ("2g", 2 * 1024**3),
        ("2 G", 2 * 1024**3),
        ("1.5g", 3 * 512 * 1024**2),
        ("1t", 1024**4),
        (2147483648, 2147483648),
        (" 8m ", 8 * 1024**2),
    ],
)
def test_size(text, number):
    """A size is a number with a unit of 1024, as in Docker."""
    assert size(text) == number


@pytest.mark.parametrize("text", ["", "2x", "-1", "1,5g", "g", "2g2m", "1e3", None, True, "٢x"])
def test_no_size(text):
    """Anything else says what is valid."""
    with pytest.raises(ValueError, match=r"^must be a size such as 512m, 2g or 2147483648"):
        size(text)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0b"),
        (1023, "1023b"),
        (1024, "1k"),
        (1536, "1.5k"),
        (512 * 1024**2, "512m"),
        (3 * 512 * 1024**2, "1.5g"),
        (5 * 1024**4, "5t"),
    ],
)
def test_show_size(number, text):
    """A size is shown in the largest unit that it fills."""
    assert show_size(number) == text


@pytest.mark.parametrize("text", ["1b", "7k", "1.5g", "512m", "2t"])
def test_shown_size_is_read_back(text):
    """What is shown is a valid size, the same one."""
    assert show_size(size(text)) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("10s", 10.0),
        ("1m30s", 90.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        ("2m", 120.0),
        ("1h", 3600.0),
        ("1h2m3s4ms", 3723.004),
        (15, 15.0),
        ("0", 0.0),
        ("2.5", 2.5),
    ],
)
def test_duration(text, seconds):
    """A time is written as in Compose; a plain number is seconds."""
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "10 s", "ten", "-1s", "1d", "30s1m", None, "nan", "inf"])
def test_no_duration(text):
    """Anything else says what is valid."""
    with pytest.raises(ValueError, match=r"^must be a time such as 10s, 1m30s, 500ms or 1h$"):
        duration(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7d", 604800),
        ("36h", 129600),
        ("1d12h", 129600),
        ("1d1h1m", 90060),
        ("30m", 1800),
        ("0", 0),
    ],
)
def test_age(text, seconds):
    """An age is written in days, hours and minutes."""
    assert age(text) == seconds


@pytest.mark.parametrize("text", ["", "7", "1w", "2 d", "-1d", "1m1h", "1.5d", "10s"])
def test_no_age(text):
    """Anything else says what is valid."""
    with pytest.raises(ValueError, match=r"^must be an age such as 7d, 36h, 1d12h or 30m "):
        age(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0m"), (-5, "0m"), (59, "0m"), (3599, "59m"), (3600, "1h"), (86399, "23h"), (9e5, "10d")],
)
def test_show_age(seconds, text):
    """It is shown in its largest unit, rounded down."""
    assert show_age(seconds) == text


@pytest.mark.parametrize(("text", "number"), [(1, 1.0), ("0.5", 0.5), (0.01, 0.01), ("16", 16.0)])
def test_cpu_number(text, number):
    """CPUs are a decimal number."""
    assert cpu_number(text) == number


@pytest.mark.parametrize("text", ["all", None, True, "1,5"])
def test_no_cpu_number(text):
    """What is no number says what is valid."""
    with pytest.raises(ValueError, match=r"^must be a number of CPUs such as 0.5 or 2$"):
        cpu_number(text)


@pytest.mark.parametrize("number", [0, -1, 0.001, "inf", "nan"])
def test_impossible_cpu_number(number):
    """The engine's minimum is a hundredth of a CPU, and there is no limit without a number."""
    with pytest.raises(ValueError, match=r"^must be at least 0.01$"):
        cpu_number(number)


@pytest.mark.parametrize(("seconds", "whole"), [(0.0, 0), (0.1, 1), (0.5, 1), (1.0, 1), (2.4, 3)])
def test_whole_seconds(seconds, whole):
    """Where only whole seconds count, a time is never cut short."""
    assert whole_seconds(seconds) == whole


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("123456789", 123456789), ("1234567890", None), ("9" * 5000, None), ("²", None)]
    + [(text, None) for text in ("", "-1", "1.0", " 1", "x")],
)
def test_small_numbers(text, number):
    """What others wrote is a number only where it is a short one of plain digits."""
    assert small_number(text) == number
