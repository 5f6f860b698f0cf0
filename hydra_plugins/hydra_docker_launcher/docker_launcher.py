"""The launcher plugin that Hydra finds: ``hydra/launcher=docker``.

This module is imported whenever any Hydra app starts; what does the work is imported in ``launch``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.utils import JobReturn, configure_log, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig

from . import config as _config  # noqa: F401  (registers the options)

if TYPE_CHECKING:
    from ._sweep import Sweep


class DockerLauncher(Launcher):
    """Runs every job of a sweep in a Docker container of its own."""

    def __init__(self, **options: Any) -> None:  # noqa: ARG002
        """Take ``hydra.launcher``. The options are read again, job by job, in ``launch``."""
        super().__init__()
        self._config: DictConfig | None = None
        self._sweep: Sweep | None = None

    def setup(
        self,
        *,
        hydra_context: HydraContext,
        task_function: Callable[[Any], Any],
        config: DictConfig,
    ) -> None:
        from ._options import check_names
        from ._start import start_sweep

        check_names(config.hydra.launcher)
        self._config = config
        self._sweep = start_sweep(hydra_context, config, task_function)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run one batch of jobs; see ``Sweep.launch``. SIGTERM and SIGHUP are taken as Ctrl-C.

        Where that leaves the sweep to the background, the app ends with 128 + the signal's number.
        """
        if self._config is None or self._sweep is None:
            raise RuntimeError("launch() needs setup() first")
        from ._interrupt import Detached, exit_code, taken_as_ctrl_c

        setup_globals()
        configure_log(self._config.hydra.hydra_logging, self._config.hydra.verbose)
        try:
            with taken_as_ctrl_c():
                return self._sweep.launch(job_overrides, initial_job_idx)
        except Detached as interrupt:
            raise SystemExit(exit_code(interrupt)) from None
