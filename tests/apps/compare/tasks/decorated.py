"""Decorators around the task function, inside and outside of hydra.main."""

import functools

import hydra
from decorators import counted, without_wraps
from dump import dump
from hydra import main as hydra_main

called = []


def outside(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        called.append("outside")
        return function(*args, **kwargs)

    return inner


@outside
@hydra_main(version_base="1.3", config_path="conf", config_name="config")
@without_wraps
@counted
def train(cfg):
    dump(cfg, called=called, attribute=train.__wrapped__.__name__)
    return cfg.lr


if __name__ == "__main__":
    train()
