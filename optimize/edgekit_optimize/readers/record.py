"""The record beside a root's files: the model they came from, and the conversions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgekit.core.errors import ModelError
from edgekit_optimize.plan import Form, Root

Kind = Literal["onnx", "torch", "tflite", "openvino", "keras"]
LIMIT = 1e-3
"""Limit of a numerical check, as a share of the outputs' magnitude."""

_NAME = "source.json"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion: the form of the root that it produced, and the tool.

    ``transposed``: the form's images have the other layout (NHWC for NCHW) than the canonical form's.
    """

    conversion: str
    tool: str
    form: Form
    transposed: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """The source of a root, with what is needed to run it again, and the conversions from it.

    ``path`` is the file, or ``module:function``; ``state`` holds a torch module's weights as they
    were when it was read, so that a builder with random weights is the same model again.
    ``limit`` is the limit of a numerical check, as a share of the outputs' magnitude: larger for a source
    in half precision, which rounds itself.
    """

    kind: Kind
    path: str
    transposed: bool = False
    state: str = ""
    shapes: dict[str, tuple[int, ...]] = {}
    limit: float = LIMIT
    steps: tuple[Step, ...] = ()


def write_record(folder: Path, record: Record) -> None:
    """Write a record beside the root's files."""
    (folder / _NAME).write_bytes(msgspec.json.encode(record))


def record_of(root: Root) -> Record:
    """Return the record of a root; without one, its canonical form counts as the source.

    Raises:
        ModelError: The record is damaged.
    """
    file = Path(root.onnx or root.tflite or root.openvino).parent / _NAME
    try:
        record = msgspec.json.decode(file.read_bytes(), type=Record)
        # the folder may have been renamed since; the weights are beside the record
        state = str(file.with_name(Path(record.state).name)) if record.state else ""
        return msgspec.structs.replace(record, state=state)
    except FileNotFoundError:
        return _without(root)
    except msgspec.DecodeError as cause:
        raise ModelError(f"{file} is damaged: {cause}", hint="read the model again") from cause


def _without(root: Root) -> Record:
    source = root.canonical
    forms = {"onnx": root.onnx, "tflite": root.tflite, "openvino": root.openvino}
    others: tuple[Form, ...] = ("onnx", "tflite", "openvino")
    return Record(
        kind=source,
        path=forms[source],
        steps=tuple(
            Step(conversion=f"{source} to {form}", tool="unknown", form=form, transposed=form == "tflite")
            for form in others
            if forms[form] and form != source
        ),
    )
