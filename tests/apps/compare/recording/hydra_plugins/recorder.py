"""Hydra's basic sweeper, which also writes down what the launcher returns: hydra/sweeper=recorder.

It is on the host only, outside of every repository.
"""

import json
import traceback
from pathlib import Path

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf


def told(error):
    if error is None:
        return None
    every = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in every if "-packages" not in frame.filename]
    return {
        "type": type(error).__name__,
        "text": str(error),
        "notes": getattr(error, "__notes__", []),
        "frames": [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames],
        "cause": told(error.__cause__),
        "context": told(error.__context__),
    }


class Recorder(BasicSweeper):
    def setup(self, **arguments):
        super().setup(**arguments)
        launch = self.launcher.launch
        returns = []

        def launch_and_record(*batch, **options):
            results = launch(*batch, **options)
            returns.extend(row(result) for result in results)
            file = Path(self.config.hydra.sweep.dir, "returns.json")
            file.write_text(json.dumps(returns, indent=1, default=repr))
            return results

        self.launcher.launch = launch_and_record


def row(result):
    failed = result.status == JobStatus.FAILED
    return {
        "status": result.status.name,
        "overrides": list(result.overrides),
        "value": None if failed else repr(result.return_value),
        "error": told(result._return_value) if failed else None,
        "working_dir": result.working_dir,
        "task_name": result.task_name,
        "cfg": OmegaConf.to_yaml(result.cfg),
        "hydra": OmegaConf.to_yaml(result.hydra_cfg),
    }


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="recorder",
    node={
        **OmegaConf.to_container(OmegaConf.structured(BasicSweeperConf)),
        "_target_": "hydra_plugins.recorder.Recorder",
    },
    provider="tests",
)
