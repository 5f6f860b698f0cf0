"""Job: what the stages from the plan on know of a job, however its config came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from ._paths import JobPaths
from ._redaction import NOTHING, Withheld


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Job:
    """One job of a sweep, its config composed and resolved.

    ``output_dir`` is ``hydra.runtime.output_dir``, the path that the job sees. ``plain`` is its
    resolved task config as plain values: no Paths, no Enums, missing values as ``???``. In it and
    in ``overrides`` no secret stands: those are ``withheld``.
    """

    number: int
    name: str
    overrides: tuple[str, ...]
    output_dir: Path
    plain: Mapping[str, Any]
    #: ``hydra.launcher`` as it may be written down: what came from the host's environment
    #: (``${oc.env:…}``, a name without a value) is in it by name only.
    written: Mapping[str, Any] = field(default_factory=dict)
    withheld: Withheld = NOTHING
    #: Further tags for its run.
    tags: Mapping[str, str] = field(default_factory=dict)
    #: The folder of the host that is mounted at ``output_dir``; None: that path itself.
    kept_at: Path | None = None

    def plain_job(self) -> Job:
        """Return it without what only the stages before the plan need to know."""
        return Job(**{item.name: getattr(self, item.name) for item in fields(Job)})

    def facts(self) -> dict[str, Any]:
        """Return what else is written down of it, as plain values."""
        return {}

    @property
    def title(self) -> str:
        return f"job #{self.number} ({' '.join(self.overrides) or 'no overrides'})"

    @property
    def paths(self) -> JobPaths:
        """The files of the job, on the host."""
        return JobPaths(self.kept_at or self.output_dir)

    @property
    def yaml(self) -> str:
        """The resolved task config, as YAML that ``yaml.safe_load`` reads."""
        return OmegaConf.to_yaml(OmegaConf.create(dict(self.plain)))

    @property
    def overrides_yaml(self) -> str:
        """The overrides, as Hydra writes them to ``.hydra/overrides.yaml``."""
        return OmegaConf.to_yaml(OmegaConf.create(list(self.overrides)))
