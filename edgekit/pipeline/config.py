"""A pipeline's TOML file, checked completely before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from edgekit.base.plugins import Rows, load_target
from edgekit.core.egress import NAMES
from edgekit.core.errors import ConfigError
from edgekit.core.spec import NAME
from edgekit.pipeline.check import Options, check_table, kind_problem
from edgekit.pipeline.events import Debounce
from edgekit.pipeline.fallback import FallbackTable
from edgekit.pipeline.model_table import ModelTable
from edgekit.pipeline.sinks import SINK_ROWS
from edgekit.pipeline.sources import SOURCE_ROWS

if TYPE_CHECKING:  # a pipeline without such tables does not import them
    from edgekit.pipeline.blackout import BlackoutTable
    from edgekit.pipeline.profiles import ProfileTable
    from edgekit.pipeline.stages.tables import StageTable
    from edgekit.pipeline.tracking.tables import LineTable, TrackTable, ZoneTable

MAX_CONFIG_BYTES = 1 << 20
MAX_PLACES = 100
MAX_STAGES = 16
Limit = Annotated[float, msgspec.Meta(ge=0)]


class PipelineTable(Options, frozen=True, kw_only=True):
    """``[pipeline]``: its name, and its model (a bundle's path or the name of a managed model).

    ``worker``: the agent's process that runs it; pipelines that name the same one share it. ``auto`` shares
    one with the pipelines of the same model.
    """

    name: str = ""
    model: str = ""
    worker: str = "auto"

    def problems(self) -> Iterable[str]:
        """Report a name that is missing or cannot be used."""
        for key in ("name", "worker"):
            if not NAME.fullmatch(name := getattr(self, key)):
                yield f"{key}: want lower-case letters, digits, '.', '_', '-', got {name!r}"
        if not self.model:
            yield "model: want a bundle's path or a model's name, got ''"


class BudgetTable(Options, frozen=True, kw_only=True):
    """``[budget]``: what a live pipeline keeps within, and what it gives up for that, the first one first.

    ``p95_ms``: from capture to sink. ``max_temperature_c``, ``max_power_w``: of the device. 0 is no limit.
    """

    p95_ms: Limit = 0.0
    max_temperature_c: Limit = 0.0
    max_power_w: Limit = 0.0
    order: tuple[Literal["rate", "resolution", "variant"], ...] = ("rate",)

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit to keep within."""
        return any((self.p95_ms, self.max_temperature_c, self.max_power_w))

    def problems(self) -> Iterable[str]:
        """Report an order that gives up nothing, or the same twice."""
        if not self.order or len(set(self.order)) < len(self.order):
            yield f"order: want each at most once, and at least one, got {list(self.order)}"


class PrivacyTable(Options, frozen=True, kw_only=True):
    """``[privacy]``: what may leave the device (by default nothing), and what is hidden in pixels.

    ``redact``: labels whose boxes are hidden before any frame is encoded; ``"*"`` is every label.
    ``redact_margin_ratio`` widens each box, which stays hidden for ``redact_hold`` more frames, since a
    detector loses an object now and then.
    """

    egress: tuple[str, ...] = ()
    redact: tuple[str, ...] = ()
    redact_style: Literal["fill", "blur"] = "blur"
    redact_margin_ratio: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.1
    redact_hold: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 5

    def problems(self) -> Iterable[str]:
        """Report each unknown class of data."""
        for index, name in enumerate(self.egress):
            if name not in NAMES:
                yield f"egress[{index}]: want one of {', '.join(NAMES)}, got {name!r}"


class Section(msgspec.Struct, frozen=True):
    """A source or sink: its kind and the options of that kind."""

    kind: str
    options: Any


class PipelineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A checked pipeline; its relative paths start at ``folder``."""

    pipeline: PipelineTable
    source: Section
    sinks: tuple[Section, ...] = ()
    model: ModelTable = ModelTable()
    budget: BudgetTable = BudgetTable()
    privacy: PrivacyTable = PrivacyTable()
    events: Debounce = Debounce()
    fallback: FallbackTable = FallbackTable()
    track: TrackTable | None = None
    zones: tuple[ZoneTable, ...] = ()
    lines: tuple[LineTable, ...] = ()
    blackouts: tuple[BlackoutTable, ...] = ()
    profiles: tuple[ProfileTable, ...] = ()
    stages: tuple[StageTable, ...] = ()
    """Of a pipeline of several models; the first is ``pipeline.model`` and ``model`` as well."""
    folder: str = "."


_TABLES: dict[str, type[Options]] = {
    "pipeline": PipelineTable,
    "model": ModelTable,
    "budget": BudgetTable,
    "privacy": PrivacyTable,
    "events": Debounce,
    "fallback": FallbackTable,
}
_TRACKING = {
    name: f"edgekit.pipeline.tracking.tables:{name.capitalize()}Table" for name in ("track", "zone", "line")
}
"""Tables that are imported only where they stand in a file."""
_BLACKOUT = "edgekit.pipeline.blackout:BlackoutTable"
_PROFILE = "edgekit.pipeline.profiles:ProfileTable"
_PROFILE_PROBLEMS = "edgekit.pipeline.profiles:profile_problems"
_STAGE = "edgekit.pipeline.stages.tables:StageTable"
_GRAPH_PROBLEMS = "edgekit.pipeline.stages.tables:graph_problems"


def load_config(path: Path) -> PipelineConfig:
    """Return the pipeline of a TOML file.

    Raises:
        ConfigError: The file cannot be read, or is not a valid pipeline; ``reasons`` has every problem.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read: {cause.strerror}", hint="give a pipeline.toml") from cause
    if len(data) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{path}: want at most {MAX_CONFIG_BYTES} bytes, got more")
    return parse_config(data, str(path), str(path.resolve().parent))


def parse_config(data: bytes | str, what: str = "pipeline.toml", folder: str = ".") -> PipelineConfig:
    """Return the pipeline of a TOML text; ``what`` is the file's name in errors.

    Raises:
        ConfigError: It is not a valid pipeline; ``reasons`` has ``file:key: want X, got Y`` for each problem.
    """
    try:
        text = data if isinstance(data, str) else data.decode()
        document = msgspec.toml.decode(text.removeprefix("\ufeff"))  # some editors begin a file with a mark
    except (msgspec.DecodeError, ValueError) as cause:
        raise ConfigError(f"{what}: is not TOML: {cause}") from cause
    return checked_config(document, what, folder)


def checked_config(document: dict[str, Any], what: str, folder: str = ".") -> PipelineConfig:
    """Return the pipeline of a decoded TOML document; raises as ``parse_config``."""
    known = {*_TABLES, *_TRACKING, "source", "sink", "stage", "blackout", "profile"}
    problems = [
        f"{key}: want one of {', '.join(sorted(known))}, got an unknown table"
        for key in document
        if key not in known
    ]
    stages, document = _stages(document, problems)
    problems += [f"{key}: want a table, got nothing" for key in ("pipeline", "source") if key not in document]
    values: dict[str, Any] = {
        key: check_table(document[key], kind, key, problems)
        for key, kind in _TABLES.items()
        if key in document
    }
    if "source" in document:
        values["source"] = _section(document["source"], SOURCE_ROWS, "source", problems)
    values["sinks"] = _sinks(document.get("sink", []), problems)
    values |= _tracking(document, problems)
    values["blackouts"] = _rows(document.get("blackout", []), "blackout", _BLACKOUT, problems)
    if profiles := _rows(document.get("profile", []), "profile", _PROFILE, problems):
        problems += load_target(_PROFILE_PROBLEMS)(profiles, has_track="track" in document)
    values["profiles"] = profiles
    values["stages"] = stages
    problems += _egress_problems(values)
    if problems:
        reasons = tuple(f"{what}:{problem}" for problem in problems)
        raise ConfigError(
            f"{what} is not a valid pipeline", reasons=reasons, hint="see docs/pipelines.md for every key"
        )
    return PipelineConfig(**values, folder=folder)


def _stages(document: dict[str, Any], problems: list[str]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the ``[[stage]]`` tables, and the document with the first one's model as the pipeline's."""
    if (tables := document.get("stage")) is None:
        return (), document
    if not isinstance(tables, list) or not tables or len(tables) > MAX_STAGES:
        problems.append(f"stage: want up to {MAX_STAGES} [[stage]] tables, got {str(tables)[:80]}")
        return (), document
    kind = load_target(_STAGE)
    rows = [check_table(table, kind, f"stage[{i}]", problems) for i, table in enumerate(tables)]
    head = document.get("pipeline")
    if "model" in document or (isinstance(head, dict) and "model" in head):
        problems.append(
            "stage: want the models in the [[stage]] tables alone, got a model beside them as well"
        )
    valid = [row for row in rows if row is not None]
    if len(valid) < len(rows):
        return (), {**document, "pipeline": _with_model(head, "unknown")}
    problems += load_target(_GRAPH_PROBLEMS)(valid)
    first = {name: getattr(valid[0], name) for name in ModelTable.__struct_fields__}
    options = {name: value for name, value in first.items() if value is not None}
    return tuple(valid), {**document, "pipeline": _with_model(head, valid[0].model), "model": options}


def _with_model(head: Any, model: str) -> Any:
    return {**head, "model": model} if isinstance(head, dict) else head


def _tracking(document: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """Return ``[track]``, ``[[zone]]`` and ``[[line]]``, where they are there."""
    values: dict[str, Any] = {}
    if "track" in document:
        values["track"] = check_table(document["track"], load_target(_TRACKING["track"]), "track", problems)
    for name in ("zone", "line"):
        if (tables := document.get(name)) is None:
            continue
        values[f"{name}s"] = rows = _rows(tables, name, _TRACKING[name], problems)
        names = [row.name for row in rows if row is not None]
        problems += [f"{name}: the name {n!r} stands twice" for n in {n for n in names if names.count(n) > 1}]
        if "track" not in document:
            problems.append(
                f"{name}: want a [track] table beside it, since objects are counted by their tracks"
            )
    return values


def _rows(tables: object, name: str, target: str, problems: list[str]) -> tuple[Any, ...]:
    """Return the tables of a name; None in place of one that is not valid."""
    if not isinstance(tables, list) or len(tables) > MAX_PLACES:
        problems.append(f"{name}: want at most {MAX_PLACES} [[{name}]] tables, got {str(tables)[:80]}")
        return ()
    if not tables:
        return ()
    kind = load_target(target)
    return tuple(check_table(table, kind, f"{name}[{i}]", problems) for i, table in enumerate(tables))


def _sinks(tables: object, problems: list[str]) -> tuple[Section | None, ...]:
    if not isinstance(tables, list):
        problems.append(f"sink: want [[sink]] tables, got {tables!r}")
        return ()
    return tuple(_section(table, SINK_ROWS, f"sink[{i}]", problems) for i, table in enumerate(tables))


def _section(table: object, rows: Rows, where: str, problems: list[str]) -> Section | None:
    if not isinstance(table, dict):
        problems.append(f"{where}: want a table, got {table!r}")
        return None
    if (problem := kind_problem(table.get("kind"), rows, f"{where}.kind")) is not None:
        problems.append(problem)
        return None
    rest = {key: value for key, value in table.items() if key != "kind"}
    options = check_table(rest, rows.load(table["kind"]).Options, where, problems)
    return None if options is None else Section(table["kind"], options)


def _egress_problems(values: dict[str, Any]) -> list[str]:
    privacy = values.get("privacy", PrivacyTable())  # None if it has mistakes of its own
    if privacy is None or privacy.egress:
        return []
    return [
        f"sink[{i}]: want [privacy] egress to name what it may send, got nothing"
        for i, sink in enumerate(values["sinks"])
        if sink is not None and getattr(SINK_ROWS.load(sink.kind), "leaves_device", False)
    ]


def config_problems(text: str, what: str, folder: Path) -> tuple[str, ...]:
    """Return every ``file:key: want X, got Y`` of a pipeline's text; none where it is valid."""
    try:
        parse_config(text, what, str(folder))
    except ConfigError as error:
        return error.reasons or (error.message,)
    return ()
