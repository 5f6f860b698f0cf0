"""Harmless: words of a container, without what could play tricks on a terminal or on a reader."""

from __future__ import annotations

import re
from collections.abc import Iterator

#: Everything that moves the cursor or worse; colours stay. What looks for an end goes no further
#: than the next one's beginning: a container may print a megabyte of beginnings.
_ESCAPES = re.compile(
    r"\x1b(?!\[[0-9;]*m)(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(\x07|\x1b\\)|[@-Z\\-_])?"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: Control characters but for tab and escape, those of 8 bits too; what turns the direction of
#: writing around; line ends that only some programs know; halves of characters.
_CONTROLS = dict.fromkeys(
    (
        *range(9),
        *range(10, 27),
        *range(28, 32),
        *range(127, 160),
        0x061C,
        *range(0x200E, 0x2010),
        *range(0x2028, 0x202F),
        *range(0x2066, 0x206A),
        0xFEFF,
        *range(0xFFF9, 0xFFFC),
        *range(0xD800, 0xE000),
    )
)


def harmless(line: str) -> str:
    """Return a line for a terminal: colours stay."""
    return _ESCAPES.sub("", line).translate(_CONTROLS)


def plain(text: str) -> str:
    """Return a text to write down: line ends and tabs are all that is left beside what is read."""
    lines = _COLOURS.sub("", text).replace("\r\n", "\n").split("\n")
    return "\n".join(harmless(line).replace("\x1b", "") for line in lines)


def lines(text: str) -> Iterator[str]:
    """Yield the lines of a text that say something, without what moves and colours them.

    What goes back to the beginning of a line, as progress does, begins a new one.
    """
    for line in text.splitlines():
        if shown := plain(line).rstrip():
            yield shown


def one_line(text: str) -> str:
    """Return a name that others gave on one line, in characters that only show themselves."""
    bare = _COLOURS.sub("", harmless(text)).replace("\x1b", "")
    return "".join(character if character.isprintable() else "?" for character in bare)
