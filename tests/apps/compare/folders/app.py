"""Logs, and writes files where it stands and where it should."""

import logging
import os
from pathlib import Path

import hydra
from dump import dump
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_original_cwd, to_absolute_path

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="hydra_conf", config_name="config")
def main(cfg):
    output = HydraConfig.get().runtime.output_dir
    log.debug("debug %s", cfg.text)
    log.info("info %s", cfg.text)
    logging.getLogger("other.library").debug("from a library")
    dump(
        cfg,
        here=sorted({*os.listdir(output)} - {'.docker', 'container.log'}),
        relative=os.path.relpath(output, get_original_cwd()),
        data=Path(to_absolute_path("hydra_conf/config.yaml")).read_text(),
        levels={name: logging.getLogger(name).level for name in ("__main__", "other", "hydra")},
    )
    Path("relative.txt").write_text(cfg.text)
    Path(output, "absolute.txt").write_text(cfg.text)


if __name__ == "__main__":
    main()
    logging.getLogger("after").warning("after the call")
