"""A plain script, with code around the call."""

import inspect
import multiprocessing
import pickle
import sys

import beside  # next to the script
import hydra
from dump import dump

seen = ["at import"]


class Point:
    def __init__(self, x):
        self.x = x


def double(point):
    return Point(2 * point.x)


def elsewhere(point):
    """Call ``double`` in a process that has imported this script anew."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.map(double, [point])[0].x


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    seen.append("in the task")
    dump(
        cfg,
        seen=seen[:3],
        beside=beside.__file__,
        name=__name__,
        file=__file__,
        function=main.__name__,
        source=inspect.getsource(Point),
        pickled=pickle.loads(pickle.dumps(Point(3))).x,
        spawned=elsewhere(Point(4)),
    )
    print("printed by the task", file=sys.stderr)
    return cfg.lr


if __name__ == "__main__":
    seen.append("before the call")
    returned = main()
    assert returned is None
    seen.append("after the call")
    print("after", seen.count("after the call"))
