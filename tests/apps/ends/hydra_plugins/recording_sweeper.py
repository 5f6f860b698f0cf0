"""Hydra's basic sweeper, which also writes down the job returns: hydra/sweeper=recording."""

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
    return {
        "type": type(error).__name__,
        "text": str(error),
        "notes": getattr(error, "__notes__", []),
        "frames": [[f.filename, f.name, f.lineno] for f in traceback.extract_tb(error.__traceback__)],
        "cause": told(error.__cause__),
    }


class RecordingSweeper(BasicSweeper):
    def setup(self, **arguments):
        super().setup(**arguments)
        launch = self.launcher.launch
        self.returns = []

        def launch_and_record(*batch, **options):
            results = launch(*batch, **options)
            self.returns += [self.row(result) for result in results]
            file = Path(self.config.hydra.sweep.dir, "results.json")
            file.write_text(json.dumps(self.returns))
            return results

        self.launcher.launch = launch_and_record

    @staticmethod
    def row(result):
        failed = result.status == JobStatus.FAILED
        return {
            "status": result.status.name,
            "overrides": list(result.overrides),
            "value": None if failed else result._return_value,
            "error": told(result._return_value) if failed else None,
            "working_dir": result.working_dir,
            "task_name": result.task_name,
            "cfg": OmegaConf.to_container(result.cfg),
            "num": result.hydra_cfg.hydra.job.num,
        }


ConfigStore.instance().store(
    group="hydra/sweeper",
    name="recording",
    node={**OmegaConf.to_container(OmegaConf.structured(BasicSweeperConf)),
          "_target_": "hydra_plugins.recording_sweeper.RecordingSweeper"},
    provider="tests",
)
