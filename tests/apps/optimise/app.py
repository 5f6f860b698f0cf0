"""An objective for a sweeper: its minimum is at x=2, y=-1."""

import sys

import hydra


class NumberLike:
    """A scalar as NumPy and PyTorch have them: no shape, one item."""

    shape = ()

    def __init__(self, value):
        self.value = value

    def item(self):
        return self.value


@hydra.main(version_base="1.3", config_path=None)
def main(cfg):
    x, y = cfg.x, cfg.y
    if x > cfg.get("fail_above", 100):
        raise ValueError(f"x={x} is too much")
    if cfg.get("objectives") == 2:
        return (x - 2) ** 2, (y + 1) ** 2
    value = (x - 2) ** 2 + (y + 1) ** 2
    return NumberLike(value) if cfg.get("array") else value


if __name__ == "__main__":
    sys.exit(main())
