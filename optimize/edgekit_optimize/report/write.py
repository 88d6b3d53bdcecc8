"""Write a study's report and card, and read a report back."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.files import write_durably
from edgekit.core.errors import ConfigError, EdgekitError, StorageError
from edgekit.core.structure import structure_problems
from edgekit_optimize.report.card import card
from edgekit_optimize.report.page import page
from edgekit_optimize.study import STUDY_FORMAT, Study

MAX_REPORT_BYTES = 64 << 20


def write_report(study: Study, folder: Path) -> tuple[Path, Path]:
    """Write ``report.html`` and ``report.json``, replacing each atomically.

    Args:
        study: The study.
        folder: The folder to write to; created if needed.

    Returns:
        The paths of the page and of the JSON.

    Raises:
        EdgekitError: A number of the study is not finite; ``reasons`` names each.
        StorageError: The folder cannot be written.
    """
    study = _checked(study)
    where = (folder / "report.html", folder / "report.json")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_durably(where[1], encode_study(study))
        write_durably(where[0], page(study).encode())
    except OSError as cause:
        raise StorageError(f"{folder}: the report cannot be written: {cause}") from cause
    return where


def encode_study(study: Study) -> bytes:
    """Return a study as JSON: keys sorted, indented, the same bytes for the same study."""
    return msgspec.json.format(msgspec.json.encode(study, order="sorted"), indent=1) + b"\n"


def read_study(path: Path) -> Study:
    """Read a ``report.json``.

    Raises:
        ConfigError: There is no such file, or it is not a report; ``reasons`` names each invalid field.
    """
    try:
        if path.stat().st_size > MAX_REPORT_BYTES:
            raise ConfigError(f"{path}: {path.stat().st_size} bytes, a report has at most {MAX_REPORT_BYTES}")
        data = path.read_bytes()
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    try:
        raw = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise ConfigError(f"{path}: not JSON: {cause}") from cause
    made_by = raw.get("format") if isinstance(raw, dict) else None
    if made_by is not None and made_by != STUDY_FORMAT:
        raise ConfigError(
            f"{path}: format: want {STUDY_FORMAT}, got {made_by!r}",
            hint="read it with the edgekit that wrote it, or run the study again",
        )
    try:
        return msgspec.convert(raw, type=Study)
    except msgspec.ValidationError as cause:
        problems = tuple(f"{path.name}:{problem}" for problem in structure_problems(raw, Study))
        reasons = problems or (f"{path.name}: {cause}",)
        raise ConfigError(f"{path} is not a report of edgekit optimize", reasons=reasons) from cause


def write_card(study: Study, title: str, license: str) -> str:  # noqa: A002  the manifest's word
    """Return ``card.md`` for the bundle: float against every variant, in Markdown.

    Args:
        study: The study.
        title: The heading, as ``efficientnet-lite0: image classifier``.
        license: The licence of the model, empty if unknown.
    """
    return card(_checked(study), title, license)


def _checked(study: Study) -> Study:
    r"""Return the study without anything that JSON or UTF-8 cannot express.

    Bytes of a file name that are not UTF-8 are shown as ``\udcXX``. A number that is not finite is an
    error.
    """
    problems: list[str] = []
    clean = _walk(msgspec.to_builtins(study), "", problems)
    if problems:
        raise EdgekitError("the study has numbers that are not finite", reasons=tuple(problems))
    return msgspec.convert(clean, type=Study)


def _walk(value: Any, path: str, problems: list[str]) -> Any:
    if isinstance(value, dict):
        return {
            _walk(key, path, problems): _walk(item, f"{path}.{key}".lstrip("."), problems)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_walk(item, f"{path}[{index}]", problems) for index, item in enumerate(value)]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, float) and not math.isfinite(value):
        problems.append(f"{path}: {value}")
    return value
