"""hydra-zen's launch(): Hydra is called from a program, with a function of a module."""

import sys

from hydra_zen import builds, launch, make_config, zen
from work import Optimizer, train

if __name__ == "__main__":
    config = make_config(optimizer=builds(Optimizer, lr=0.5), width=2)
    separate = [item for item in sys.argv[1:] if "=" in item and not item.startswith("-")]
    jobs = launch(config, zen(train), overrides=separate, multirun=True, version_base="1.3")
    print([job.return_value for batch in jobs for job in batch])
