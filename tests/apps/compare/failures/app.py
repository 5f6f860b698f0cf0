"""Fails in the way that ``how`` says."""

import ctypes
import os
import signal
import sys

import hydra
from dump import dump


class OwnError(Exception):
    def __init__(self, message, code):
        super().__init__(message)
        self.code = code


def fine():
    return 1


def chained():
    try:
        {}["lr"]
    except KeyError as error:
        new = RuntimeError("no learning rate")
        if hasattr(new, "add_note"):
            new.add_note("a note of the script")
        raise new from error


def own():
    raise OwnError("loss is nan", 7)


def during():
    try:
        [][1]
    except IndexError:
        int("x")


def syntax():
    import broken

    return broken


def missing_file():
    with open("/nowhere/data.csv") as file:
        return file


def exits():
    sys.exit(3)


def exits_hard():
    os._exit(7)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def segfault():
    ctypes.string_at(0)


def in_callee():
    import deeper

    deeper.fail("deep")


@hydra.main(version_base="1.3", config_path=None, config_name=None)
def main(cfg):
    dump(cfg)
    return globals()[cfg.how]()


if __name__ == "__main__":
    main()
    print("not reached after a failure")
