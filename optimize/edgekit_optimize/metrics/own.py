"""A metric of the user's own: ``module:function``, one score for each sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.core.errors import ConfigError, EdgekitError
from edgekit_optimize.data.listing import load_function
from edgekit_optimize.metrics.scores import Outputs


def own_scores(
    name: str, outputs: Outputs, labels: NDArray[np.int64] | None, count: int
) -> NDArray[np.float64]:
    """Return what the user's function says of each sample.

    Args:
        name: ``module:function``; called with the outputs by name and the labels.
        outputs: Logical outputs, (n, ...).
        labels: The class of each sample, or None.
        count: How many samples there are.

    Raises:
        ConfigError: The function failed, or returned something else than ``count`` scores from 0 to 1.
    """
    function = load_function(name, "metric")
    try:
        given: Any = function(dict(outputs), labels)
        scores = np.asarray(given, np.float64)
    except EdgekitError:
        raise
    except Exception as cause:  # the user's own code may raise anything
        raise ConfigError(f"metric {name}: failed: {type(cause).__name__}: {cause}") from cause
    if scores.shape != (count,):
        raise ConfigError(
            f"metric {name}: want {count} scores, one for each sample, got shape {list(scores.shape)}"
        )
    held = scores[np.isfinite(scores)]
    if len(held) and (held.min() < 0 or held.max() > 1):
        raise ConfigError(
            f"metric {name}: want scores from 0 to 1, got {held.min():g} to {held.max():g}",
            hint="higher must be better; scale an error e as 1 / (1 + e)",
        )
    return scores
