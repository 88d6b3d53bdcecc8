"""A user-defined metric, ``module:function``, which returns one score per sample."""

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
    """Return the scores of a user-defined metric, shape (count,).

    Args:
        name: ``module:function``; called with the outputs by name and the labels.
        outputs: Logical outputs, (n, ...).
        labels: The class of each sample, or None.
        count: The number of samples.

    Raises:
        ConfigError: The function failed, or did not return ``count`` scores from 0 to 1.
    """
    function = load_function(name, "metric")
    try:
        result: Any = function(dict(outputs), labels)
        scores = np.asarray(result, np.float64)
    except EdgekitError:
        raise
    except Exception as cause:  # the user's own code may raise anything
        raise ConfigError(f"metric {name}: failed: {type(cause).__name__}: {cause}") from cause
    if scores.shape != (count,):
        raise ConfigError(
            f"metric {name}: want {count} scores, one for each sample, got shape {list(scores.shape)}"
        )
    finite = scores[np.isfinite(scores)]
    if len(finite) and (finite.min() < 0 or finite.max() > 1):
        raise ConfigError(
            f"metric {name}: want scores from 0 to 1, got {finite.min():g} to {finite.max():g}",
            hint="higher must be better; scale an error e as 1 / (1 + e)",
        )
    return scores
