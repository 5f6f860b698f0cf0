"""Types of a module of the commit."""

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Any, List


class Color(Enum):
    RED = (255, 0, 0)
    BLUE = (0, 0, 255)


class Flavour(str, Enum):
    SWEET = "sweet"
    SOUR = "sour"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


@dataclass
class Shape:
    size: Size = Size.SMALL
    colors: List[Color] = field(default_factory=lambda: [Color.RED, Color.BLUE])
    name: str = "${.size}-${..mode}"
    free: Any = field(default_factory=lambda: {"a": Color.RED, "b": [Size.LARGE]})
