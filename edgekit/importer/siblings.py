"""Several files of one model: do they say the same, and how does each one's output become the first one's?"""

from __future__ import annotations

from edgekit.core.errors import BundleError
from edgekit.core.spec import Adjust
from edgekit.importer.findings import Conclusion
from edgekit.importer.model_file import ModelFile
from edgekit.importer.trial import image_size

_DIFFER = frozenset({"layout", "units", "prototype_layout", "score_threshold", "iou_threshold", "size"})
"""What two exports of one network may say differently; anything else means another model."""
_BOX, _POINT = 4, 3
_NCHW, _NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


def adjustments(
    first: Conclusion, first_file: ModelFile, other: Conclusion, file: ModelFile
) -> dict[str, Adjust]:
    """Return how a file's outputs become the first file's logical outputs, by logical name.

    Raises:
        BundleError: The files are of different models, or of different input sizes.
    """
    keys = sorted({row.key for row in (*first.findings, *other.findings)} - _DIFFER)
    against = [
        f"{key}: {first_file.path.name} has {first.value(key)!r}, {file.path.name} {other.value(key)!r}"[:300]
        for key in keys
        if _plain(first.value(key)) != _plain(other.value(key))
    ]
    sizes = image_size(first_file)[0], image_size(file)[0]
    if sizes[0] != sizes[1]:
        against.append(f"input size: {list(sizes[0])} and {list(sizes[1])}")
    if first.outputs.keys() != other.outputs.keys():
        against.append(f"outputs: {', '.join(first.outputs)} and {', '.join(other.outputs)}")
    if against:
        raise BundleError(
            f"{file.path}: is not the same model as {first_file.path}",
            reasons=tuple(against),
            hint="import each file into a bundle of its own, or state what they share with a flag",
        )
    found = {}
    if (adjust := _table(first, other, sizes[0], _width(file, other))) is not None:
        found[next(iter(first.outputs))] = adjust
    layouts = first.value("prototype_layout"), other.value("prototype_layout")
    if layouts[0] != layouts[1]:
        found["prototypes"] = Adjust(permute=_NHWC if layouts[0] == "NHWC" else _NCHW)
    return found


def _plain(value: object) -> object:
    """Return a value so that 0, 0.0 and [0.0] are one, and labels are in lower case with blanks."""
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return parts[0] if len(parts) == 1 else parts
    if isinstance(value, str):
        return value.replace("_", " ").lower()
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _width(file: ModelFile, conclusion: Conclusion) -> int:
    """Return the numbers of a row in the output of the boxes."""
    tensor = next(t for t in file.outputs if t.name == next(iter(conclusion.outputs.values())).tensor)
    shape = file.shape_of(tensor)
    return shape[1] if conclusion.value("layout") == "columns" else shape[-1]


def _table(first: Conclusion, other: Conclusion, size: tuple[int, int], width: int) -> Adjust | None:
    is_turned = first.value("layout") != other.value("layout")
    factors: tuple[float, ...] = ()
    if first.value("units") != other.value("units"):
        high, wide = size
        into = (float(wide), float(high))
        if first.value("units") == "shares":
            into = (1 / wide, 1 / high)
        points = int(first.value("keypoints") or 0)
        step = int(first.value("point_size") or _POINT)
        plain = width - _BOX - points * step
        each = (*into, *(1.0,) * (step - 2))
        factors = (*into, *into, *(1.0,) * plain, *each * points)
    if not is_turned and not factors:
        return None
    axis = 1 if first.value("layout") == "columns" else 2
    return Adjust(permute=(0, 2, 1) if is_turned else (), axis=axis, factors=factors)
