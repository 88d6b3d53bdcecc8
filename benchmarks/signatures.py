"""Whether edgekit reads and decodes what exporters write as their own libraries do.

``--data FOLDER`` holds for each family ``NAME.json`` (what a file of the exporter declares) and ``NAME.npz``
(outputs of a real file for one picture, and what the exporter's own library answers for them), written
without edgekit. For each variant with an answer the family is recognised from the declaration, the decoder
built from the conclusion, and the items compared with the library's: as sets, since random networks give many
equal scores.

    python benchmarks/signatures.py --data FOLDER [--only NAME] [--json]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _report import finish, parser

from edgekit.core.errors import EdgekitError
from edgekit.core.spec import Item, Post, corners
from edgekit.importer.decide import conclude
from edgekit.importer.findings import OWN_KEYS, POST_KEYS, Conclusion, pre_keys_of
from edgekit.importer.model_file import FileTensor, ModelFile
from edgekit.importer.readers.literals import literals
from edgekit.pipeline.decoders import Outcome, Setup, make_decoder
from edgekit.pipeline.pre import place

SHARE = 0.97
"""Of the library's rows that must be among edgekit's items, and of edgekit's that must be the library's."""
_EDGE_PX, _SCORE, _POINT_PX = 1.5, 0.01, 1.5
_SOFTMAX = {"activation": "softmax", "background": "last"}
_FLAGS: Mapping[str, dict[str, Any]] = {
    "effdet": {"anchor_scale": 3, "first": 1},
    "transformers-detr": _SOFTMAX,
    "transformers-yolos": _SOFTMAX,
    "transformers-rt-detr": {"activation": "sigmoid"},
    "transformers-rt-detr-v2": {"activation": "sigmoid"},
    "transformers-d-fine": {"activation": "sigmoid"},
}
"""What only the user knows of a family; ``first``: the number that its library gives the first class."""
_LABELS = {
    "torchvision-ssdlite": 6,
    "rfdetr-detect": 6,
    "rfdetr-seg": 6,
    "transformers-detr": 6,
}
_TYPES = {"float32": "FP32", "float16": "FP16", "int64": "INT64", "int32": "INT32", "uint8": "UINT8"}
_LIMITS = frozenset({100})
_CLIPPED = ("libreyolo-yolo9", "libreyolo-yolonas", "libreyolo-yolox")
"""Their library clips boxes to the picture before it suppresses, and noise lies mostly outside."""
_BARS = {"libreyolo-yolox": 0.75, "libreyolo-yolo9": 0.9}
"""Lower bars: of noise that overlaps everywhere their suppression keeps other rows; the rest are alike."""
_TIED = "its library's answer has one score everywhere: which rows are the best is chance"
_ANSWERS = ("boxes_xyxy", "xywhr", "probs", "rows")
Arrays = dict[str, Any]


def file_of(name: str, variant: Mapping[str, Any], tensors: Arrays) -> ModelFile:
    """Return a file as its reader gives it, with its answers and the flags of its family."""

    def declared(rows: Any) -> tuple[FileTensor, ...]:
        return tuple(
            FileTensor(
                row["name"],
                _TYPES.get(row["dtype"], "OTHER"),
                tuple(size if isinstance(size, int) else -1 for size in row["shape"]),
            )
            for row in rows
        )

    flags = {key: value for key, value in _FLAGS.get(name, {}).items() if key != "first"}
    if not variant["metadata_props"].get("names"):
        flags["labels"] = tuple(f"class {number}" for number in range(_LABELS.get(name, 5)))
    return ModelFile(
        path=Path("m.onnx"),
        format="onnx",
        inputs=declared(variant["inputs"]),
        outputs=declared(variant["outputs"]),
        metadata=literals(variant["metadata_props"]),
        metadata_from="metadata_props" if variant["metadata_props"] else "",
        operators=variant["operators"],
        flags=flags,
        tried={key: (array.astype(np.float32),) for key, array in tensors.items()},
    )


def items_of(file: ModelFile, conclusion: Conclusion, tensors: Arrays, answer: Arrays) -> tuple[Item, ...]:
    """Return what edgekit's decoder makes of the tensors, in pixels of the picture."""
    values = {row.key: row.value for row in conclusion.findings}
    known = pre_keys_of(str(values["decoder"])) | POST_KEYS | OWN_KEYS
    options = {key: _plain(value) for key, value in values.items() if key not in known}
    thresholds = answer.get("conf_iou")
    score = float(answer.get("threshold", thresholds[0] if thresholds is not None else 0.0))
    score = 0.0 if "probs" in answer else score  # every class is compared
    iou = float(thresholds[1]) if thresholds is not None else values.get("iou_threshold", 0.45)
    outputs = {name: np.asarray(tensors[row.tensor], np.float32) for name, row in conclusion.outputs.items()}
    shapes = {name: array.shape for name, array in outputs.items()}
    image = file.image()
    if image is None:
        raise LookupError("no image")
    size = answer.get("input_hw", (image.height, image.width))[::-1]
    post = Post(
        decoder=values["decoder"], score_threshold=score, iou_threshold=iou, top_k=99, options=options
    )
    size = int(size[0]), int(size[1])
    decode = make_decoder(Setup(post, tuple(values.get("labels") or ()), shapes, size))
    original = answer.get("original_hw")
    source = (int(original[1]), int(original[0])) if original is not None else size
    at = place(values["resize"], source, size, 1.0, values.get("align", "centre"))
    return decode(Outcome(outputs, at if original is not None else None))


def clipped(tensors: Arrays, conclusion: Conclusion, answer: Arrays) -> Arrays:
    """Return the tensors with boxes clipped to the picture's part of the input."""
    logical = next(name for name in ("boxes", "predictions") if name in conclusion.outputs)
    name = conclusion.outputs[logical].tensor
    turned = conclusion.value("layout") == "columns"
    table = np.array(tensors[name].transpose(0, 2, 1) if turned else tensors[name], np.float32)
    high, wide = (int(side) for side in answer["input_hw"])
    source = int(answer["original_hw"][1]), int(answer["original_hw"][0])
    at = place("letterbox", source, (wide, high), 1.0, conclusion.value("align") or "centre")
    low = np.array([at.left, at.top])
    top = low + np.array([at.width * at.scale_x, at.height * at.scale_y])
    first, second = table[..., :2].copy(), table[..., 2:4].copy()
    if conclusion.value("box") == "xyxy":
        table[..., :2], table[..., 2:4] = np.clip(first, low, top), np.clip(second, low, top)
    else:
        corner, other = np.clip(first - second / 2, low, top), np.clip(first + second / 2, low, top)
        table[..., :2], table[..., 2:4] = (corner + other) / 2, other - corner
    return tensors | {name: table.transpose(0, 2, 1) if turned else table}


def _plain(value: Any) -> Any:
    return [_plain(part) for part in value] if isinstance(value, tuple) else value


def compare(items: tuple[Item, ...], answer: Arrays, first: int) -> tuple[float, int]:
    """Return the smaller share of rows that both sides have, and how many the library has."""
    if "probs" in answer:
        seen = np.zeros(len(answer["probs"]))
        for item in items:
            seen[item.index or 0] = item.score or 0
        return float(np.abs(seen - answer["probs"]).max() < _SCORE), 1
    rows = _rows_of(answer, first)
    if len(rows) in _LIMITS:  # the library reports no more
        items = items[: len(rows)]
    unused, hits = list(range(len(items))), 0
    for row in rows:
        near = next((n for n in unused if _like(items[n], row)), None)
        if near is not None:
            unused.remove(near)
            hits += 1
    most = max(len(rows), len(items))
    return (hits / most if most else 1.0), len(rows)


def _rows_of(answer: Arrays, first: int) -> list[Arrays]:
    if "rows" in answer:
        table = answer["rows"][0]
        return [
            {"box": row[:4], "score": row[4], "class": int(row[5]) - first} for row in table if row[4] > 0
        ]
    box = "boxes_xyxy" if "boxes_xyxy" in answer else "corners"
    rows = zip(answer[box], answer["scores"], answer["classes"], strict=True)
    found = [{"box": b, "score": float(s), "class": int(c) - first} for b, s, c in rows]
    for row, points in zip(found, answer.get("keypoints", ()), strict=False):
        row |= {"points": points, "size": answer["original_hw"][::-1]}
    return found


def _has_area(item: Item) -> bool:
    left, top, right, bottom = item.box or (0, 0, 0, 0)
    return (right - left) * (bottom - top) > 0


def _like(item: Item, row: Arrays) -> bool:
    if item.index != row["class"] or abs((item.score or 0) - row["score"]) > _SCORE:
        return False
    if item.oriented_box is not None:
        seen, wanted = np.sort(np.array(corners(item.oriented_box)).reshape(-1)), np.sort(row["box"])
    else:
        seen, wanted = np.array(item.box), row["box"]
    pairs = [(seen, wanted, _EDGE_PX)]
    if "points" in row:  # a library clips them to the picture
        points = np.clip(np.array(item.points), 0, row["size"])
        pairs.append((points, row["points"][:, :2], _POINT_PX))
    return all(np.abs(one - other).max() <= limit for one, other, limit in pairs)


def families(folder: Path, only: str, *, sabotage: bool) -> tuple[list[dict[str, Any]], list[str]]:
    """Return a row for each variant with an answer (the share that agrees), and what cannot be compared."""
    results, skipped = [], []
    for path in sorted(folder.glob("*.json")):
        if only not in path.stem or not path.with_suffix(".npz").is_file():
            continue
        with np.load(path.with_suffix(".npz")) as archive:
            held = {key: archive[key] for key in archive.files}
        for name, variant in json.loads(path.read_text("utf-8"))["variants"].items():
            tensors, answer = _split(held, name, variant)
            if "error" in variant or not tensors or not any(kind in answer for kind in _ANSWERS):
                continue
            row: dict[str, Any] = {"family": path.stem, "variant": name}
            if len(answer.get("scores", ())) > 1 and np.ptp(answer["scores"]) < _SCORE / 100:
                skipped.append(f"{path.stem} {name}: {_TIED}")
                continue
            try:
                file = file_of(path.stem, variant, tensors)
                conclusion = conclude(file)
                if sabotage:
                    tensors = {key: array[..., ::-1] for key, array in tensors.items()}
                is_clipped = path.stem in _CLIPPED and name != "nms_true"
                tensors = clipped(tensors, conclusion, answer) if is_clipped else tensors
                items = items_of(file, conclusion, tensors, answer)
                items = tuple(item for item in items if not is_clipped or _has_area(item))
                first = _FLAGS.get(path.stem, {}).get("first", 0)
                row["share"], row["rows"] = compare(items, answer, first)
                row["as"] = conclusion.family
            except (EdgekitError, LookupError, ValueError) as error:
                row |= {"share": 0.0, "error": f"{type(error).__name__}: {error}"[:300]}
            results.append(row)
    return results, skipped


def _split(held: Arrays, name: str, variant: Mapping[str, Any]) -> tuple[Arrays, Arrays]:
    """Return the tensors by output and the answer by key, of one variant."""
    prefix = f"{name}/" if any(key.startswith(f"{name}/") for key in held) else ""
    if not prefix and any("/" in key for key in held):
        return {}, {}
    own = {key.removeprefix(prefix): array for key, array in held.items() if key.startswith(prefix)}
    default = {
        key.removeprefix("default/"): array for key, array in held.items() if key.startswith("default/")
    }
    tensors = {}
    for number, row in enumerate(variant.get("outputs", ())):
        for key in (row["name"], str(number)):
            if key in own or (key in default and key == "output1"):
                tensors[row["name"]] = own.get(key, default.get(key))
    answer = {key.removeprefix("answer_"): array for key, array in own.items() if key.startswith("answer_")}
    if len(_prefixes(held)) == 1:  # the only variant's answer stands without its name
        answer |= {
            key.removeprefix("answer_"): array for key, array in held.items() if key.startswith("answer_")
        }
    answer |= {key: own[key] for key in ("input_hw",) if key in own}
    if (original := own.get("original_hw", held.get("original_hw"))) is not None:
        answer["original_hw"] = original
    return (tensors if len(tensors) == len(variant.get("outputs", ())) else {}), answer


def _prefixes(held: Arrays) -> set[str]:
    return {key.partition("/")[0] for key in held if "/" in key}


def main() -> int:
    """Compare every family; print the smallest share, as a part of its family's bar."""
    arguments = parser(__doc__, full="the same", sabotage="the outputs turned round")
    arguments.add_argument("--data", type=Path, help="the folder of signatures")
    arguments.add_argument("--only", default="", help="only the families whose name has this text")
    given = arguments.parse_args()
    if given.data is None:
        print("--data FOLDER is needed: no exports of others are in this repository", file=sys.stderr)
        return 2
    rows, skipped = families(given.data, given.only, sabotage=given.sabotage)
    shares = [row["share"] / _BARS.get(row["family"], SHARE) for row in rows]
    worst = min(shares, default=0.0)
    low = [row for row, share in zip(rows, shares, strict=True) if share < 1]
    detail = {
        "variants": len(rows),
        "families": len({row["family"] for row in rows}),
        "not": low,
        "skipped": skipped,
    }
    claim = "what exporters write is decoded as their own libraries decode it"
    unit = "of the rows that must agree"
    return finish(claim, round(worst, 4), unit, 1.0, bool(rows) and not low, detail, given.json)


if __name__ == "__main__":
    sys.exit(main())
