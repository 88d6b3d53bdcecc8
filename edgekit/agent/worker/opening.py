"""How a pipeline says that its models are opened, and where their bundles are."""

from __future__ import annotations

from pathlib import Path

from edgekit.core.errors import ConfigError
from edgekit.model.ready import Choices
from edgekit.pipeline.config import PipelineConfig
from edgekit.pipeline.model_table import ModelTable


def table_choices(
    config: PipelineConfig,
    table: ModelTable,
    variant: str | None = None,
    batch: int = 0,
    low_score: float | None = None,
) -> Choices:
    """Return the choices of a ``[model]`` or ``[[stage]]`` table."""
    return Choices(
        pairs=config.fallback.pairs,
        variant=variant or table.variant or None,
        threads=table.threads or None,
        batch=batch or None,
        score_threshold=table.score_threshold if low_score is None else low_score,
        iou_threshold=table.iou_threshold,
        top_k=table.top_k,
        gallery=Path(config.folder, table.gallery).expanduser() if table.gallery else None,
    )


def model_path(config: PipelineConfig, model: str = "") -> Path:
    """Return the path of a pipeline's bundle, or of a stage's, relative to its file or the working folder.

    Raises:
        ConfigError: There is none.
    """
    name = model or config.pipeline.model
    for path in (Path(config.folder) / Path(name).expanduser(), Path(name)):
        if path.exists():
            return path
    raise ConfigError(
        f"pipeline {config.pipeline.name!r}: model {name!r}: there is no such bundle",
        hint="give a bundle's path; a model by name alone is for pipelines that an agent runs",
    )
