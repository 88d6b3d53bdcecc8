"""The model families that ``edgekit import`` recognises: one file and one row each.

A row's function ``recognise(file) -> Conclusion | None`` looks at a ``ModelFile`` and returns what it
concludes if the file is of its family, None if it is not. It opens nothing and guesses nothing: what only
the user knows goes into ``Conclusion.asks``. Order of evidence: ``file.metadata`` (then ``is_stated=True``),
the signature (``file.output(1, -1, 85)``, ``file.operators``), the answers (``file.tried``), the family's
convention with source "assumed". ``docs/importing.md`` shows a complete row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from edgekit.base.plugins import load_target
from edgekit.importer.findings import Conclusion
from edgekit.importer.model_file import ModelFile

Recognise = Callable[[ModelFile], Conclusion | None]

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "ultralytics": "edgekit.importer.families.ultralytics:recognise",
        "yolov8": "edgekit.importer.families.yolov8:recognise",
        "table": "edgekit.importer.families.table:recognise",
        "silero": "edgekit.importer.families.silero:recognise",
        "vector": "edgekit.importer.families.vector:recognise",
        "map": "edgekit.importer.families.map:recognise",
        "line": "edgekit.importer.families.line:recognise",
        "window": "edgekit.importer.families.window:recognise",
        "waveform": "edgekit.importer.families.waveform:recognise",
        "yolov5": "edgekit.importer.families.yolov5:recognise",
        "grids": "edgekit.importer.families.grids:recognise",
        "yolox": "edgekit.importer.families.yolox:recognise",
        "yolo-fastestv2": "edgekit.importer.families.yolo_fastestv2:recognise",
        "nanodet": "edgekit.importer.families.nanodet:recognise",
        "blaze": "edgekit.importer.families.blaze:recognise",
        "retinaface": "edgekit.importer.families.retinaface:recognise",
        "fomo": "edgekit.importer.families.fomo:recognise",
        "detr": "edgekit.importer.families.detr:recognise",
        "libreyolo": "edgekit.importer.families.libreyolo:recognise",
        "postprocess": "edgekit.importer.families.postprocess:recognise",
        "efficientdet": "edgekit.importer.families.efficientdet:recognise",
        "centre": "edgekit.importer.families.centre:recognise",
        "landmarks": "edgekit.importer.families.landmarks:recognise",
        "people": "edgekit.importer.families.people:recognise",
        "listed": "edgekit.importer.families.listed:recognise",
        "ultraface": "edgekit.importer.families.ultraface:recognise",
        "apart": "edgekit.importer.families.apart:recognise",
        "rows": "edgekit.importer.families.rows:recognise",
        "paddle": "edgekit.importer.families.paddle:recognise",
        "raw": "edgekit.importer.families.raw:recognise",
    }
)
"""Each family's function. The order does not matter: two that fit are asked back, never ranked."""


def conclusions_of(file: ModelFile) -> list[Conclusion]:
    """Return what each family concludes of a file, of those that recognise it.

    Raises:
        BundleError: The file's metadata contradict its shapes.
    """
    results = []
    for target in FAMILIES.values():
        recognise: Recognise = load_target(target)
        if (conclusion := recognise(file)) is not None:
            results.append(conclusion)
    return results
