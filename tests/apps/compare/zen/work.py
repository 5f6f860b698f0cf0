from dataclasses import dataclass

from dump import dump


@dataclass
class Optimizer:
    lr: float
    name: str = "sgd"


def train(optimizer, width, zen_cfg):
    dump(zen_cfg, optimizer=repr(optimizer), kind=type(optimizer) is Optimizer)
    return optimizer.lr * width
