"""Terminal: text that others wrote, shown so that it can play no tricks. Pure."""

from __future__ import annotations

import re

#: Everything that moves the cursor or worse; colours stay.
_ESCAPES = re.compile(r"\x1b(?!\[[0-9;]*m)(\[[0-?]*[ -/]*[@-~]|\].*?(\x07|\x1b\\)|[@-Z\\-_])?")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
#: All but tab and escape; those above 127 are the same in one byte, for some terminals.
_CONTROLS = dict.fromkeys((*range(9), *range(10, 27), *range(28, 32), *range(127, 160)))


def harmless(line: str) -> str:
    """Return a line of a container's words without what could play tricks on a terminal."""
    return _ESCAPES.sub("", line).translate(_CONTROLS)


def plain(text: str) -> str:
    """Return a name that others gave on one line, in characters that only show themselves."""
    text = _COLOURS.sub("", harmless(text))
    return "".join(character if character.isprintable() else "?" for character in text)
