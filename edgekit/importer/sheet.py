"""One picture that shows side by side what each candidate makes of the user's pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.base.files import write_durably
from edgekit.core.spec import Item, Prediction
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sinks.video import draw

_WIDTH, _HEADER, _EDGE = 420, 26, 4
Seen = tuple[str, Sequence[Sequence[dict[str, Any]]]]


def write_sheet(path: Path, pictures: Sequence[NDArray[np.uint8]], seen: Mapping[str, Seen | str]) -> Path:
    """Write a PNG with a column for each candidate and a row for each picture, and return its path.

    Args:
        path: Of the PNG; an older one is replaced.
        pictures: Each (height, width, 3), uint8, BGR.
        seen: By the candidate's name its task and each picture's items as built-ins, or why it sees nothing.
    """
    cv2 = vision()
    columns = []
    for name, found in seen.items():
        header = np.full((_HEADER, _WIDTH, 3), 255, np.uint8)
        text = f"--decoder {name}{': ' + found if isinstance(found, str) else ''}"
        cv2.putText(header, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
        task, rows = ("", [[] for _ in pictures]) if isinstance(found, str) else found
        cells = [header, *(_cell(picture, task, row) for picture, row in zip(pictures, rows, strict=True))]
        columns.append(np.pad(np.concatenate(cells), ((0, 0), (0, _EDGE), (0, 0)), constant_values=255))
    _, encoded = cv2.imencode(".png", np.concatenate(columns, axis=1))
    write_durably(path, encoded.tobytes())
    return path


def _cell(picture: NDArray[np.uint8], task: str, items: Sequence[dict[str, Any]]) -> NDArray[Any]:
    prediction = Prediction(task=task, items=tuple(msgspec.convert(item, Item) for item in items))
    height = max(1, round(picture.shape[0] * _WIDTH / picture.shape[1]))
    drawn = draw(picture, prediction)
    return np.asarray(vision().resize(drawn, (_WIDTH, height), interpolation=vision().INTER_AREA))
