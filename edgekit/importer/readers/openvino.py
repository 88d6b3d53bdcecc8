"""An OpenVINO IR's declarations, its ``rt_info/model_info`` and the ``metadata.yaml`` beside it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from edgekit.core.errors import BundleError
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.beside import read_yaml
from edgekit.importer.readers.literals import literals

_DATATYPES: Mapping[str, str] = {
    "FP32": "FP32",
    "FP16": "FP16",
    "FP64": "FP64",
    "I8": "INT8",
    "I16": "INT16",
    "I32": "INT32",
    "I64": "INT64",
    "U8": "UINT8",
    "U16": "UINT16",
    "U32": "UINT32",
    "U64": "UINT64",
    "BOOL": "BOOL",
    "BOOLEAN": "BOOL",
    "STRING": "BYTES",
}
_MOST_BYTES = 64 << 20


def read_openvino(path: Path, data: Any) -> ModelFile:
    """Return what an IR declares.

    Raises:
        BundleError: The .bin is missing.
        ValueError: The bytes are no such file.
    """
    if len(data) > _MOST_BYTES or data.find(b"<!") >= 0:
        raise ValueError("an IR is at most 64 MiB of XML without declarations")
    try:
        root = ET.fromstring(bytes(data))  # noqa: S314 - entities are refused above
    except ET.ParseError as cause:
        raise ValueError(str(cause)) from cause
    weights = path.with_suffix(".bin")
    if not weights.is_file():
        raise BundleError(f"{path}: {weights.name} is not beside it", hint="copy both files of the model")
    layers = root.findall("./layers/layer")
    info = _model_info(root)
    beside = read_yaml(path.parent / "metadata.yaml")
    return ModelFile(
        path=path,
        format="openvino",
        inputs=tuple(_input(layer) for layer in layers if layer.get("type") == "Parameter"),
        outputs=_outputs(root, layers),
        metadata=literals(info) | beside,
        metadata_from=" and ".join(
            name for name, held in (("rt_info/model_info", info), ("metadata.yaml", beside)) if held
        ),
        operators=Counter(str(layer.get("type")) for layer in layers),
        parts=(path, weights),
    )


def _model_info(root: ET.Element) -> dict[str, str]:
    """Return the rows of ``model_info``; an IR writes each as ``<key value="..."/>``."""
    return {row.tag: row.get("value", "") for row in root.findall("./rt_info/model_info/*")}


def _port(port: ET.Element | None, fallback: str, is_used: str | None = None) -> FileTensor:
    if port is None:
        return FileTensor(fallback, "OTHER")
    # names with a comma inside are escaped as "\\,"
    names = sorted(
        name for name in (port.get("names") or is_used or "").replace("\\,", "\0").split(",") if name
    )
    shape = tuple(int(dim.text or -1) for dim in port.findall("dim"))
    name = names[0].replace("\0", ",") if names else fallback
    return FileTensor(name, _DATATYPES.get(str(port.get("precision")).upper(), "OTHER"), shape)


def _input(layer: ET.Element) -> FileTensor:
    return _port(layer.find("./output/port"), layer.get("name", "input"))


def _outputs(root: ET.Element, layers: list[ET.Element]) -> tuple[FileTensor, ...]:
    """Return the outputs, each named and shaped by the port that feeds its Result layer."""
    by_id = {layer.get("id"): layer for layer in layers}
    feeding = {
        edge.get("to-layer"): (edge.get("from-layer"), edge.get("from-port"))
        for edge in root.findall("./edges/edge")
    }
    outputs = []
    for layer in layers:
        if layer.get("type") == "Result":
            source, number = feeding[layer.get("id")]
            port = by_id[source].find(f"./output/port[@id='{number}']")
            outputs.append(_port(port, layer.get("name", "output"), layer.get("output_names")))
    return tuple(outputs)
