"""What ``agent.toml`` says, checked whole before anything is started; and the environment.

The only module of the agent that reads environment variables.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgekit.base.paths import state_dir
from edgekit.core.errors import ConfigError
from edgekit.core.spec import DEVICE_ID, NAME
from edgekit.core.structure import structure_problems

MAX_CONFIG_BYTES = 1 << 20
MAX_PIPELINES = 32
_HINT = "see docs/configuration.md for every key"

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Whole = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A frozen table that refuses unknown keys."""


class AgentTable(_Table, frozen=True, kw_only=True):
    """``[agent]``: the device's name, where it keeps its state, and pipelines given by file alone."""

    name: str = ""
    state: str = ""
    pipelines: tuple[str, ...] = ()


class PipelineEntry(_Table, frozen=True, kw_only=True):
    """``[[pipeline]]``: a pipeline's file, or the whole pipeline in place.

    ``model`` stands in the place of the file's: a bundle's path is pinned, a name is kept up to date
    by the agent. ``initial`` is the bundle that a name starts with. The other keys are the tables of
    a pipeline's own file, for one that has no ``file``.
    """

    file: str = ""
    model: Any = None
    initial: str = ""
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    name: str = ""
    source: dict[str, Any] | None = None
    sink: list[dict[str, Any]] = []
    budget: dict[str, Any] | None = None
    privacy: dict[str, Any] | None = None
    events: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class Intervals(_Table, frozen=True, kw_only=True):
    """``[intervals]``: seconds between metric reports, unasked reported states, sensor readings.

    ``progress_s``: how often a worker tells its supervisor what it did, and trials are judged.
    """

    metrics_s: Seconds = 10.0
    reported_s: Seconds = 300.0
    sensors_s: Seconds = 10.0
    progress_s: Annotated[float, msgspec.Meta(ge=0.05, le=10)] = 1.0


class OutboxTable(_Table, frozen=True, kw_only=True):
    """``[outbox]``: how much may wait for the link."""

    max_bytes: Whole = 64 << 20
    max_rows: Whole = 200_000
    max_age_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)] = 14 * 86_400.0


class LimitsTable(_Table, frozen=True, kw_only=True):
    """``[limits]``: when a worker counts as hung or as crashing, and how long an update may take.

    ``start_s``: from a worker's start to its first frame. ``hang_s``: without a finished frame though
    one was due. ``crashes`` within ``crash_window_s`` make the agent go back to the previous version,
    or call the pipeline failed. ``trial_crashes`` end a trial. ``backoff_max_s`` caps the wait before
    a restart. ``update_s``: one run of the updater.
    """

    start_s: Seconds = 300.0
    hang_s: Seconds = 30.0
    stop_s: Seconds = 10.0
    crashes: Whole = 5
    crash_window_s: Seconds = 600.0
    trial_crashes: Whole = 2
    backoff_s: Seconds = 0.5
    backoff_max_s: Seconds = 60.0
    update_s: Seconds = 3600.0
    status_clients: Whole = 8


class AgentDocument(_Table, frozen=True, kw_only=True):
    """The file as it stands."""

    agent: AgentTable = AgentTable()
    pipeline: tuple[PipelineEntry, ...] = ()
    intervals: Intervals = Intervals()
    outbox: OutboxTable = OutboxTable()
    limits: LimitsTable = LimitsTable()


class PipelinePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline as the supervisor needs it; the worker checks and reads the rest of ``text``.

    One of ``pinned`` (a bundle's path) and ``managed`` (a model's name) is set.
    """

    name: str
    text: str
    what: str
    folder: Path
    pinned: Path | None = None
    managed: str = ""
    initial: Path | None = None
    threads: int = 0
    egress: tuple[str, ...] = ()
    budget_ms: float = 0.0
    """The 95th percentile that ``[budget]`` asks the pipeline to keep; 0 without one."""

    @property
    def model(self) -> str:
        """What messages call the model before it is loaded."""
        return self.managed or str(self.pinned)


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of an agent."""

    state: Path
    name: str
    pipelines: tuple[PipelinePlan, ...]
    intervals: Intervals = Intervals()
    outbox: OutboxTable = OutboxTable()
    limits: LimitsTable = LimitsTable()


class Environment(msgspec.Struct, frozen=True):
    """What the agent takes from its environment variables."""

    notify_socket: str = ""
    """systemd's ``NOTIFY_SOCKET``."""
    config: str = ""
    """``EDGEKIT_CONFIG``: the agent's file, where ``--config`` does not name one."""


def environment() -> Environment:
    """Read the environment."""
    return Environment(
        notify_socket=os.environ.get("NOTIFY_SOCKET", ""),
        config=os.environ.get("EDGEKIT_CONFIG", ""),
    )


def load_agent_config(path: Path, state: Path | None = None) -> AgentConfig:
    """Read ``agent.toml`` and the heads of the pipelines it names.

    Args:
        path: The file.
        state: The state folder, in the place of the file's.

    Raises:
        ConfigError: A file cannot be read or is not valid; ``reasons`` has every problem at once.
    """
    return parse_agent_config(_read(path), str(path), path.resolve().parent, state)


def parse_agent_config(
    text: str, what: str = "agent.toml", folder: Path = Path(), state: Path | None = None
) -> AgentConfig:
    """Check the text of an agent's file; relative paths in it are relative to ``folder``.

    Raises:
        ConfigError: It is not valid, or a pipeline it names is not; ``reasons`` has every problem.
    """
    raw = _decode(text, what)
    problems = [f"{what}:{problem}" for problem in structure_problems(raw, AgentDocument)]
    if problems:
        raise ConfigError(f"{what} is not valid", reasons=tuple(problems), hint=_HINT)
    document = msgspec.convert(raw, AgentDocument)
    plans = _plans(document, what, folder, problems)
    if document.agent.name and not DEVICE_ID.fullmatch(document.agent.name):
        problems.append(
            f"{what}:agent.name: want letters, digits, '_', '-', at most 64, got {document.agent.name!r}"
        )
    if problems:
        raise ConfigError(f"{what} is not valid", reasons=tuple(problems), hint=_HINT)
    if state is None:
        state = folder / document.agent.state if document.agent.state else state_dir()
    return AgentConfig(
        state=state.expanduser().resolve(),
        name=document.agent.name,
        pipelines=tuple(plans),
        intervals=document.intervals,
        outbox=document.outbox,
        limits=document.limits,
    )


def _plans(document: AgentDocument, what: str, folder: Path, problems: list[str]) -> list[PipelinePlan]:
    entries = [PipelineEntry(file=file) for file in document.agent.pipelines]
    entries += document.pipeline
    if not 1 <= len(entries) <= MAX_PIPELINES:
        problems.append(f"{what}:pipeline: want 1 to {MAX_PIPELINES} pipelines, got {len(entries)}")
        return []
    plans: list[PipelinePlan] = []
    for place, entry in enumerate(entries):
        try:
            plans.append(_plan(entry, f"{what}:pipeline[{place}]", folder))
        except ConfigError as error:  # noqa: PERF203 - every problem is told at once
            problems += error.reasons or (error.message,)
    names = [plan.name for plan in plans]
    problems += [f"{what}:pipeline: the name {n!r} stands twice" for n in sorted(_twice(names))]
    return plans


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if names.count(name) > 1}


def _plan(entry: PipelineEntry, where: str, folder: Path) -> PipelinePlan:
    """Return what the supervisor needs of one pipeline.

    Raises:
        ConfigError: The entry or its file is not valid.
    """
    tables, text, what, home = _tables(entry, where, folder)
    head, privacy = tables.get("pipeline"), tables.get("privacy", {})
    if not isinstance(head, dict) or not isinstance(privacy, dict):
        raise ConfigError(f"{what}:pipeline: want a [pipeline] table")
    name = head.get("name")
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ConfigError(
            f"{what}:pipeline.name: want lower-case letters, digits, '.', '_', '-', got {name!r}"
        )
    is_own = entry.model is not None
    model, model_home = (entry.model, folder) if is_own else (head.get("model"), home)
    if not isinstance(model, str) or not model:
        raise ConfigError(f"{what}:pipeline.model: want a bundle's path or a model's name, got {model!r}")
    egress = privacy.get("egress", [])
    if not (isinstance(egress, list) and all(isinstance(word, str) for word in egress)):
        raise ConfigError(f"{what}:privacy.egress: want a list of words, got {egress!r}")
    pinned = _pinned(model, model_home, where)
    initial = folder / Path(entry.initial).expanduser() if entry.initial else None
    if initial is not None and pinned is not None:
        raise ConfigError(
            f"{where}.initial: want none, since the model is a pinned path, got {entry.initial!r}"
        )
    if initial is not None and not initial.exists():
        raise ConfigError(f"{where}.initial: want a bundle, there is no {initial}")
    return PipelinePlan(
        name=name,
        text=text,
        what=what,
        folder=home,
        pinned=pinned,
        managed="" if pinned else model,
        initial=initial,
        threads=entry.threads,
        egress=tuple(egress),
        budget_ms=_budget_ms(tables),
    )


def _budget_ms(tables: dict[str, Any]) -> float:
    """Return the pipeline's budget; whether it is a sensible one is for the worker to say."""
    budget = tables.get("budget")
    found = budget.get("p95_ms", 0.0) if isinstance(budget, dict) else 0.0
    return float(found) if isinstance(found, (int, float)) else 0.0


def _pinned(model: str, home: Path, where: str) -> Path | None:
    """Return the path that a model is, or None where it is a name.

    A name that is also a path is one: ``./person-detect`` is the way to say the path.

    Raises:
        ConfigError: It is neither.
    """
    is_path = "/" in model or model.endswith((".ekb", ".tflite", ".onnx", ".xml"))
    if not is_path:
        if NAME.fullmatch(model):
            return None
        raise ConfigError(f"{where}.model: want a bundle's path or a model's name, got {model!r}")
    path = home / Path(model).expanduser()
    if not path.exists():
        raise ConfigError(f"{where}.model: there is no {path}")
    return path


def _tables(entry: PipelineEntry, where: str, folder: Path) -> tuple[dict[str, Any], str, str, Path]:
    """Return a pipeline's tables, text, name for messages, and folder."""
    inline = {
        key: value
        for key in ("source", "sink", "budget", "privacy", "events", "options")
        if (value := getattr(entry, key))
    }
    if bool(entry.file) == bool(inline):
        raise ConfigError(f"{where}: want either 'file' or the pipeline's own tables, at least 'source'")
    if entry.file:
        path = folder / Path(entry.file).expanduser()
        text = _read(path)
        return _decode(text, str(path)), text, str(path), path.resolve().parent
    tables = {"pipeline": {"name": entry.name, "model": entry.model}, **inline}
    if "options" in tables:
        tables["model"] = tables.pop("options")
    return tables, to_toml(tables), where, folder.resolve()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: want at most {MAX_CONFIG_BYTES} bytes, got more")
        return data.decode()
    except OSError as cause:
        raise ConfigError(f"{path}: cannot be read: {cause.strerror}", hint=_HINT) from cause
    except UnicodeDecodeError as cause:
        raise ConfigError(f"{path}: is not UTF-8: {cause}") from cause


def _decode(text: str, what: str) -> dict[str, Any]:
    try:
        decoded: dict[str, Any] = msgspec.toml.decode(text)
    except (msgspec.DecodeError, ValueError) as cause:
        raise ConfigError(f"{what}: is not TOML: {cause}", hint=_HINT) from cause
    return decoded


def to_toml(tables: dict[str, Any]) -> str:
    """Return decoded TOML as text again, each table on one line.

    >>> print(to_toml({"source": {"kind": "images", "fps": 2.5}, "sink": [{"kind": "jsonl"}]}))
    source = {"kind" = "images", "fps" = 2.5}
    sink = [{"kind" = "jsonl"}]
    """
    return "\n".join(f"{key} = {_value(value)}" for key, value in tables.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    # JSON writes text and numbers as TOML does, but for one character; dates are as they are
    is_plain = isinstance(value, (str, bool, int, float))
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f") if is_plain else str(value)


def worker_environment() -> dict[str, str]:
    """Return the environment that a worker is started with.

    Source: measured; OpenBLAS reserves memory for each thread it could use, and nothing here uses it.
    """
    return {"OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **os.environ}
