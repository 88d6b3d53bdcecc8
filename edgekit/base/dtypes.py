"""The Open Inference Protocol's datatypes as NumPy's: little-endian, as both supported processors are."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    from edgekit.core.spec import Datatype

DTYPES: Mapping[Datatype, np.dtype[Any]] = MappingProxyType(
    {
        "BOOL": np.dtype(np.bool_),
        "UINT8": np.dtype(np.uint8),
        "UINT16": np.dtype(np.uint16),
        "UINT32": np.dtype(np.uint32),
        "UINT64": np.dtype(np.uint64),
        "INT8": np.dtype(np.int8),
        "INT16": np.dtype(np.int16),
        "INT32": np.dtype(np.int32),
        "INT64": np.dtype(np.int64),
        "FP16": np.dtype(np.float16),
        "FP32": np.dtype(np.float32),
        "FP64": np.dtype(np.float64),
    }
)
TEXT: np.dtype[Any] = np.dtype(object)
"""The dtype of a BYTES tensor here: an array of ``str``."""
DATATYPES: Mapping[np.dtype[Any], Datatype] = MappingProxyType({v: k for k, v in DTYPES.items()})
