"""Units: sizes, durations and CPU numbers, in the notation of the Compose specification."""

from __future__ import annotations

import math
import re
from decimal import Decimal

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([kmgt]?)i?b?", re.IGNORECASE)
_FACTORS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_AGE = re.compile(r"(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?")
_DURATION = re.compile(
    r"(?:([0-9]+)h)?(?:([0-9]+)m(?!s))?(?:([0-9]+(?:\.[0-9]+)?)s)?(?:([0-9]+)ms)?"
)
#: What the engine's API can hold: bytes, and whole seconds.
LARGEST, LONGEST = 2**63 - 1, 2.0**31
OLDEST = 36500 * 86400.0  # seconds
DIGITS = 40  # of a number; more are not looked at


def small_number(text: str) -> int | None:
    """Return the number that up to nine digits are, None of any other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def size(value: object) -> int:
    """Return a size in bytes: ``512m``, ``2g``, ``1.5gb``, ``2147483648``.

    The factor is 1024, as in Docker. Raises ``ValueError`` that says what is valid.
    """
    match = _SIZE.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError("must be a size such as 512m, 2g or 2147483648 (b, k, m, g, t; 1k = 1024)")
    number = int(Decimal(match[1][:DIGITS]) * _FACTORS[match[2].lower()])
    if number > LARGEST or len(match[1].partition(".")[0]) > DIGITS:
        raise ValueError("must be less than 8388608t")
    return number


def show_size(number: int) -> str:
    """Return bytes in the largest unit that leaves no long fraction: ``2g``, ``1.5g``, ``512m``."""
    for unit in ("t", "g", "m", "k"):
        amount = number / _FACTORS[unit]
        if amount >= 1:
            return f"{amount:.1f}".removesuffix(".0") + unit
    return f"{number}b"


def duration(value: object) -> float:
    """Return seconds: ``10s``, ``1m30s``, ``500ms``, ``1h``, or a plain number of seconds.

    Raises ``ValueError`` that says what is valid.
    """
    text = str(value).strip()
    match = _DURATION.fullmatch(text)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text):
        total = float(text)
    elif match is None or not text:
        raise ValueError("must be a time such as 10s, 1m30s, 500ms or 1h")
    else:
        hours, minutes, seconds, milliseconds = (float(part or 0) for part in match.groups())
        total = hours * 3600 + minutes * 60 + seconds + milliseconds / 1000
    if total >= LONGEST:
        raise ValueError("must be less than 596523h")
    return total


def whole_seconds(seconds: float) -> int:
    """Return the whole seconds that a time takes: half a second is one, not none."""
    return math.ceil(seconds)


def age(value: object) -> float:
    """Return seconds: ``7d``, ``36h``, ``1d12h``, ``30m``, or ``0``.

    Raises ``ValueError`` that says what is valid.
    """
    text = str(value).strip()
    match = _AGE.fullmatch(text)
    if text == "0":
        return 0.0
    if match is None or not text:
        raise ValueError("must be an age such as 7d, 36h, 1d12h or 30m (d, h, m)")
    days, hours, minutes = (float(part or 0) for part in match.groups())
    total = days * 86400 + hours * 3600 + minutes * 60
    if total > OLDEST:
        raise ValueError("must be at most 36500d")
    return total


def show_age(seconds: float) -> str:
    """Return an age in its largest unit, rounded down: ``9d``, ``3h``, ``12m``."""
    for unit, length in (("d", 86400), ("h", 3600)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds // 60))}m"


def cpu_number(value: object) -> float:
    """Return a number of CPUs, at least 0.01 (the engine's minimum)."""
    try:
        number = float(str(value))
    except ValueError:
        raise ValueError("must be a number of CPUs such as 0.5 or 2") from None
    if not 0.01 <= number < float("inf"):
        raise ValueError("must be at least 0.01")
    return number
