"""Callbacks of the commit."""

import json
import os
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback


class Writer(Callback):
    def __init__(self, name):
        self.name = name
        self.seen = []

    def write(self, folder, event, **facts):
        self.seen.append(event)
        facts.update(name=self.name, seen=self.seen, cwd=os.getcwd())
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, event + ".json").write_text(json.dumps(facts, default=repr))

    def on_multirun_start(self, config, **kwargs):
        self.write(config.hydra.sweep.dir, "on_multirun_start", lr=config.lr, kwargs=sorted(kwargs))

    def on_multirun_end(self, config, **kwargs):
        self.write(config.hydra.sweep.dir, "on_multirun_end", lr=config.lr, kwargs=sorted(kwargs))

    def on_job_start(self, config, *, task_function, **kwargs):
        self.write(
            config.hydra.runtime.output_dir,
            "on_job_start",
            lr=[config.lr, config.twice],
            number=[config.hydra.job.num, HydraConfig.get().job.num],
            function=[task_function.__name__, task_function.__module__],
            files=sorted(os.listdir(Path(config.hydra.runtime.output_dir, ".hydra"))),
            environment=os.environ.get("SET"),
            kwargs=sorted(kwargs),
        )

    def on_job_end(self, config, job_return, **kwargs):
        self.write(
            config.hydra.runtime.output_dir,
            "on_job_end",
            status=job_return.status.name,
            value=repr(job_return._return_value),
            overrides=list(job_return.overrides),
            working_dir=job_return.working_dir,
            task=job_return.task_name,
            cfg=[job_return.cfg.twice, "hydra" in job_return.cfg],
            number=job_return.hydra_cfg.hydra.job.num,
            kwargs=sorted(kwargs),
        )

    def on_compose_config(self, config, **kwargs):
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)
        Path(config.hydra.sweep.dir, "on_compose_config.json").write_text("{}")


class Broken(Callback):
    def on_multirun_start(self, config, **kwargs):
        raise RuntimeError("broken at the start")

    def on_job_start(self, config, **kwargs):
        raise RuntimeError("broken at a job's start")

    def on_job_end(self, config, **kwargs):
        raise RuntimeError("broken at a job's end")
