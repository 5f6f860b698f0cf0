"""hydra-zen: the task function takes what its config instantiates to."""

from dataclasses import dataclass

from dump import dump
from hydra.conf import HydraConf, JobConf
from hydra_zen import builds, store, zen


@dataclass
class Optimizer:
    lr: float
    name: str = "sgd"


def train(optimizer, width, zen_cfg):
    dump(zen_cfg, optimizer=repr(optimizer), kind=type(optimizer) is Optimizer)
    return optimizer.lr * width


store(train, optimizer=builds(Optimizer, lr=0.5), width=2, zen_dataclass={"cls_name": "Train"}, name="train")


if __name__ == "__main__":
    store.add_to_hydra_store()
    zen(train).hydra_main(config_path=None, config_name="train", version_base="1.3")
