"""``agent.toml``, checked before anything starts, and the agent's environment variables."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from edgekit.agent.cameras import FLEET, camera_tables, source_with_camera
from edgekit.agent.model_use import (
    Initials,
    ModelUse,
    Named,
    later_models,
    model_problems,
    use_of,
    use_problems,
)
from edgekit.base.paths import state_dir
from edgekit.core.errors import ConfigError, UsageError
from edgekit.core.spec import DEVICE_ID, NAME
from edgekit.core.structure import structure_problems
from edgekit.pipeline.fallback import FallbackTable
from edgekit.serve.address import Address, address_of
from edgekit.serve.ports import CACHE_S, Limits

MAX_CONFIG_BYTES = 1 << 20
MAX_PIPELINES = 32
AUTO = "auto"
_HINT = "see docs/configuration.md for every key"
T = TypeVar("T")

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Whole = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)]


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class AgentTable(_Table, frozen=True, kw_only=True):
    """``[agent]``: the device's name, its state folder, and pipelines given only by file.

    ``self_update``: whether the fleet may replace the agent itself by a signed release.
    """

    name: str = ""
    state: str = ""
    self_update: bool = False
    pipelines: tuple[str, ...] = ()


class PipelineEntry(_Table, frozen=True, kw_only=True):
    """``[[pipeline]]``: a pipeline's ``file``, or the tables of such a file in place.

    ``model`` replaces the file's: a bundle's path is pinned, a name is kept up to date by the agent, with
    ``initial`` as its first bundle; of several models ``initial`` is the first one's, or a table with a
    bundle for each by name. ``worker`` replaces the file's. ``updates``: a managed model takes a
    version of the fleet by itself, or only once a sink of the pipeline (Home Assistant) says so.
    """

    file: str = ""
    model: Any = None
    initial: str | dict[str, str] = ""
    worker: str = ""
    updates: Literal["auto", "ask"] = "auto"
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    name: str = ""
    source: dict[str, Any] | None = None
    sink: list[dict[str, Any]] = []
    budget: dict[str, Any] | None = None
    privacy: dict[str, Any] | None = None
    events: dict[str, Any] | None = None
    track: dict[str, Any] | None = None
    zone: list[dict[str, Any]] = []
    line: list[dict[str, Any]] = []
    stage: list[dict[str, Any]] = []
    fallback: dict[str, Any] | None = None
    options: dict[str, Any] | None = None


class Intervals(_Table, frozen=True, kw_only=True):
    """``[intervals]``: seconds between metric reports, periodic reported states, sensor readings.

    ``progress_s``: between a worker's progress messages, at which trials are judged.
    """

    metrics_s: Seconds = 10.0
    reported_s: Seconds = 300.0
    sensors_s: Seconds = 10.0
    progress_s: Annotated[float, msgspec.Meta(ge=0.05, le=10)] = 1.0


class OutboxTable(_Table, frozen=True, kw_only=True):
    """``[outbox]``: limits of what waits for the link."""

    max_bytes: Whole = 64 << 20
    max_rows: Whole = 200_000
    max_age_s: Annotated[float, msgspec.Meta(gt=0, le=366 * 86_400)] = 14 * 86_400.0


class LimitsTable(_Table, frozen=True, kw_only=True):
    """``[limits]``: when a worker counts as hung or crashing, and how long an update may take.

    ``start_s``: from a worker's start to its first frame. ``hang_s``: without a finished frame though one was
    due. ``crashes`` within ``crash_window_s`` make the agent go back to the previous version, or fail the
    pipeline. ``trial_crashes`` end a trial. ``backoff_max_s`` is the longest wait before a restart.
    ``update_s``: one run of the updater. ``agent_trial_s``: how long a release of the agent may take until it
    does what the agent before it did. ``growth_mb``: a worker whose memory grows steadily is started anew
    beyond so many MiB; 0 is only before the machine's memory is used up.
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
    agent_trial_s: Seconds = 300.0
    growth_mb: Annotated[float, msgspec.Meta(ge=0)] = 256.0
    status_clients: Whole = 8


class ServedModel(_Table, frozen=True, kw_only=True):
    """``[[serve.model]]``: bundles that are served beside the pipelines' versions of a model, and how.

    ``split``: percent of the requests that name no version, by version; ``shadow``: the version that is asked
    too, unseen. In both, ``pipelines`` is whichever version the pipelines run. ``replicas``: the
    accelerators, variants or backends on which each of the bundles is open at once; empty: on the best.
    """

    name: Annotated[str, msgspec.Meta(min_length=1)]
    bundles: tuple[str, ...] = ()
    replicas: tuple[str, ...] = ()
    split: dict[str, Annotated[int, msgspec.Meta(ge=1, le=100)]] = {}
    shadow: str = ""


class ServeTable(_Table, frozen=True, kw_only=True):
    """``[serve]``: where the pipelines' models answer local programs; as ``edgekit serve``'s options.

    ``page``: whether a browser may see there what the pipelines see.
    """

    host: str | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None
    uds: str = ""
    token_file: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    grpc_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None
    cache_mb: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    cache_ttl_s: Annotated[float, msgspec.Meta(gt=0)] = CACHE_S
    cache_stale_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    jobs: bool = False
    page: bool = False
    model: tuple[ServedModel, ...] = ()


class AgentDocument(_Table, frozen=True, kw_only=True):
    """The file as written."""

    agent: AgentTable = AgentTable()
    pipeline: tuple[PipelineEntry, ...] = ()
    intervals: Intervals = Intervals()
    outbox: OutboxTable = OutboxTable()
    limits: LimitsTable = LimitsTable()
    serve: ServeTable | None = None


class PipelinePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One pipeline as the supervisor needs it; the worker reads the rest of ``text``."""

    name: str
    text: str
    what: str
    folder: Path
    template: str = ""
    """``text`` as it is written, where its source is a camera of the fleet; else empty."""
    models: tuple[ModelUse, ...]
    """The first one, then those of the later stages."""
    worker: str = AUTO
    """The process that runs it, by name; ``AUTO``: one with the pipelines of the same models."""
    fallback: FallbackTable = FallbackTable()
    egress: tuple[str, ...] = ()
    asks: bool = False
    """Whether an update waits until a sink approves it."""
    budget_ms: float = 0.0
    """The 95th percentile of ``[budget]``; 0 without one."""

    @property
    def first(self) -> ModelUse:
        """The model that the pipeline's loop runs."""
        return self.models[0]


def managed_models(plans: Iterable[PipelinePlan]) -> tuple[str, ...]:
    """Return the names of the models that pipelines have kept up to date, each once."""
    return tuple(dict.fromkeys(use.managed for plan in plans for use in plan.models if use.managed))


class Serving(msgspec.Struct, frozen=True):
    """Where local programs reach the models, and the file with the token that they need."""

    address: Address
    token_file: Path | None
    page: bool = False
    grpc_port: int | None = None
    """Where gRPC is answered too, at the address's host."""
    limits: Limits = Limits()
    jobs: bool = False
    """Whether requests may be answered later; they are kept in the state folder."""
    models: tuple[ServedModel, ...] = ()
    """With paths that hold wherever the agent runs."""


class AgentConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration of an agent; ``path`` is its file, from which it is read again."""

    state: Path
    name: str
    path: Path | None = None
    self_update: bool = False
    pipelines: tuple[PipelinePlan, ...]
    intervals: Intervals = Intervals()
    outbox: OutboxTable = OutboxTable()
    limits: LimitsTable = LimitsTable()
    serve: Serving | None = None


class Environment(msgspec.Struct, frozen=True):
    """systemd's ``NOTIFY_SOCKET``, and ``EDGEKIT_CONFIG``: the agent's file if ``--config`` names none.

    ``launched``: how ``edgekit.agent.launcher`` started this process: "became" it, or is its "parent".
    """

    notify_socket: str = ""
    config: str = ""
    launched: str = ""


def environment() -> Environment:
    """Read the environment."""
    names = ("NOTIFY_SOCKET", "EDGEKIT_CONFIG", "EDGEKIT_LAUNCHED")
    return Environment(*(os.environ.get(name, "") for name in names))


Check = Callable[[str, str, Path], Sequence[str]]
"""Returns what is wrong in a pipeline's text, given its name for messages and its folder."""


def load_agent_config(path: Path, state: Path | None = None, check: Check | None = None) -> AgentConfig:
    """Return the checked ``agent.toml`` with the heads of its pipelines.

    ``state`` replaces the file's state folder. ``check`` checks the rest of a pipeline, by
    default its worker does.

    Raises:
        ConfigError: A file cannot be read or is not valid; ``reasons`` has every problem.
    """
    config = parse_agent_config(_read(path), str(path), path.resolve().parent, state, check)
    return msgspec.structs.replace(config, path=path.resolve())


def parse_agent_config(
    text: str,
    what: str = "agent.toml",
    folder: Path = Path(),
    state: Path | None = None,
    check: Check | None = None,
) -> AgentConfig:
    """Return the checked text of an agent's file, with paths relative to ``folder``.

    Raises:
        ConfigError: It or one of its pipelines is not valid; ``reasons`` has every problem.
    """
    raw = _decode(text, what)
    problems = [f"{what}:{problem}" for problem in structure_problems(raw, AgentDocument)]
    agent = raw.get("agent")
    given = agent if isinstance(agent, dict) else {}
    state = _state(str(given.get("state", "")), folder, state)
    plans = _plans(raw, what, folder, state, check, problems)
    name = given.get("name", "")
    if isinstance(name, str) and name and not DEVICE_ID.fullmatch(name):
        problems.append(f"{what}:agent.name: want letters, digits, '_', '-', at most 64, got {name!r}")
    if problems:
        reasons = tuple(dict.fromkeys(problems))
        raise ConfigError(f"{what} is not valid", reasons=reasons, hint=_HINT)
    document = msgspec.convert(raw, AgentDocument)
    return AgentConfig(
        state=state,
        name=document.agent.name,
        self_update=document.agent.self_update,
        pipelines=tuple(plans),
        intervals=document.intervals,
        outbox=document.outbox,
        limits=document.limits,
        serve=_serving(document.serve, what, folder) if document.serve else None,
    )


def in_the_file(text: str) -> str:
    """Return what an error of ``edgekit serve`` says, with its options as the keys of ``[serve]``.

    >>> in_the_file("--tls-cert and --tls-key go together")
    'tls_cert and tls_key go together'
    """
    words = text.split(" ")
    return " ".join(word[2:].replace("-", "_") if word.startswith("--") else word for word in words)


def _serving(table: ServeTable, what: str, folder: Path) -> Serving:
    """Return the address in ``[serve]``.

    Raises:
        ConfigError: Its keys contradict each other.
    """
    uds, token_file, certificate, key = (
        folder / Path(given).expanduser() if given else None
        for given in (table.uds, table.token_file, table.tls_cert, table.tls_key)
    )
    if table.page and token_file is None:
        raise ConfigError(f"{what}:serve.page: want token_file, which a visitor needs, got none", hint=_HINT)
    try:
        address = address_of(table.host, table.port, uds, certificate, key)
        limits = Limits(
            cache_bytes=table.cache_mb << 20, cache_s=table.cache_ttl_s, cache_stale_s=table.cache_stale_s
        )
        models = tuple(_served(model, folder) for model in table.model)
        return Serving(address, token_file, table.page, table.grpc_port, limits, table.jobs, models)
    except UsageError as error:
        raise ConfigError(f"{what}:serve: {in_the_file(error.message)}", hint=_HINT) from error


def _served(model: ServedModel, folder: Path) -> ServedModel:
    paths = tuple(str(folder / Path(path).expanduser()) for path in model.bundles)
    return msgspec.structs.replace(model, bundles=paths)


def agent_identity(path: Path) -> tuple[Path, str]:
    """Return the state folder and name in an agent's file, whatever else is wrong in it.

    Raises:
        ConfigError: It cannot be read, or is not TOML.
    """
    table = _decode(_read(path), str(path)).get("agent")
    given = table if isinstance(table, dict) else {}
    return _state(str(given.get("state", "")), path.resolve().parent, None), str(given.get("name", ""))


def _state(given: str, folder: Path, state: Path | None) -> Path:
    if state is None:
        state = folder / given if given else state_dir()
    return state.expanduser().resolve()


def _plans(
    raw: dict[str, Any], what: str, folder: Path, state: Path, check: Check | None, problems: list[str]
) -> list[PipelinePlan]:
    """Return the plans of the valid pipelines, even if the rest of the file is not valid."""
    agent, tables = raw.get("agent"), raw.get("pipeline", [])
    files = agent.get("pipelines", []) if isinstance(agent, dict) else []
    listed = [{"file": file} for file in files] if isinstance(files, list) else []
    listed += tables if isinstance(tables, list) else []
    if not 1 <= len(listed) <= MAX_PIPELINES:
        problems.append(f"{what}:pipeline: want 1 to {MAX_PIPELINES} pipelines, got {len(listed)}")
        return []
    plans: list[PipelinePlan] = []
    for index, table in enumerate(listed):
        try:
            entry = msgspec.convert(table, PipelineEntry)
            plans.append(_plan(entry, f"{what}:pipeline[{index}]", folder, state, check))
        except ConfigError as error:  # noqa: PERF203 - every problem is reported at once
            problems += error.reasons or (error.message,)
        except msgspec.ValidationError:
            continue  # its structure is among the problems already
    names = [plan.name for plan in plans]
    twice = (name for name in dict.fromkeys(names) if names.count(name) > 1)
    problems += [f"{what}:pipeline: the name {name!r} stands twice" for name in twice]
    return plans


def _plan(entry: PipelineEntry, where: str, folder: Path, state: Path, check: Check | None) -> PipelinePlan:
    tables, text, what, home = _tables(entry, where, folder)
    template = ""
    if is_of_the_fleet(tables):
        template, text = text, with_camera(text, camera_tables(state))
    head, first = tables.get("pipeline"), _first_model(tables, entry, where, folder, home)
    named = [first, *later_models(tables, what, home)]
    managed = tuple(each.model for each in named[1:] if isinstance(each.model, str) and not each.is_path)
    initials = Initials(f"{where}.initial", entry.initial, folder, managed)
    problems = list(check(text, what, home)) if check else []
    if not problems:
        problems = _head_problems(tables, what)
    if entry.worker and not NAME.fullmatch(entry.worker):
        problems.append(
            f"{where}.worker: want lower-case letters, digits, '.', '_', '-', got {entry.worker!r}"
        )
    problems += [problem for each in named for problem in model_problems(each, initials)]
    models: tuple[ModelUse, ...] = ()
    if not problems:
        models = tuple(use_of(each, initials, entry.threads) for each in named)
        problems += use_problems(models, initials, asks=entry.updates == "ask")
    if problems:
        raise ConfigError(problems[0], reasons=tuple(problems))
    assert isinstance(head, dict)
    return PipelinePlan(
        name=head["name"],
        text=text,
        what=what,
        folder=home,
        template=template,
        models=models,
        worker=entry.worker or head.get("worker", AUTO),
        asks=entry.updates == "ask",
        fallback=_fallback(tables),
        egress=tuple(tables.get("privacy", {}).get("egress", ())),
        budget_ms=_checked(tables, "budget", "p95_ms", float, 0.0),
    )


def _first_model(tables: dict[str, Any], entry: PipelineEntry, where: str, folder: Path, home: Path) -> Named:
    """Return the model of the pipeline's loop, that of the first of several stages."""
    stages = tables.get("stage")
    first = stages[0] if isinstance(stages, list) and stages else None
    options = tables.get("model") if first is None else first
    options = options if isinstance(options, dict) else {}
    if entry.model is not None:
        return Named(f"{where}.model", entry.model, folder, options)
    head = tables.get("pipeline") if first is None else options
    model = head.get("model") if isinstance(head, dict) else None
    return Named(f"{where}.model", model, home, options)


def is_of_the_fleet(tables: dict[str, Any]) -> bool:
    """Return whether a pipeline's source is a camera that the fleet defines."""
    source = tables.get("source")
    return isinstance(source, dict) and source.get("kind") == FLEET


def with_camera(text: str, cameras: Mapping[str, dict[str, Any]]) -> str:
    """Return a pipeline's text with its camera's own ``[source]``, or as it is where there is no such camera.

    ``cameras``: the tables by name.
    """
    tables: dict[str, Any] = msgspec.toml.decode(text)
    source = source_with_camera(tables["source"], cameras)
    return text if source == tables["source"] else to_toml({**tables, "source": source})


def with_cameras(config: AgentConfig) -> AgentConfig:
    """Return a configuration with the cameras of the list in force now.

    Raises:
        ConfigError: The list cannot be read.
    """
    cameras = camera_tables(config.state)
    plans = tuple(
        msgspec.structs.replace(plan, text=with_camera(plan.template, cameras)) if plan.template else plan
        for plan in config.pipelines
    )
    return msgspec.structs.replace(config, pipelines=plans)


def _checked(tables: dict[str, Any], table: str, key: str, kind: type[T], default: T) -> T:
    """Return a value of a table that the worker checks; the default where it is missing or not valid."""
    given = tables.get(table)
    try:
        return msgspec.convert(given.get(key, default), kind) if isinstance(given, dict) else default
    except msgspec.ValidationError:
        return default


def _fallback(tables: dict[str, Any]) -> FallbackTable:
    """Return the pipeline's ``[fallback]``, which the worker checks."""
    try:
        return msgspec.convert(tables.get("fallback", {}), FallbackTable)
    except msgspec.ValidationError:
        return FallbackTable()


def _head_problems(tables: dict[str, Any], what: str) -> list[str]:
    head, privacy = tables.get("pipeline"), tables.get("privacy", {})
    if not isinstance(head, dict) or not isinstance(privacy, dict):
        return [f"{what}:pipeline: want a [pipeline] table"]
    problems = []
    egress = privacy.get("egress", [])
    for key, name in (("name", head.get("name")), ("worker", head.get("worker", AUTO))):
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            problems.append(
                f"{what}:pipeline.{key}: want lower-case letters, digits, '.', '_', '-', got {name!r}"
            )
    if not (isinstance(egress, list) and all(isinstance(word, str) for word in egress)):
        problems.append(f"{what}:privacy.egress: want a list of words, got {egress!r}")
    return problems


def _tables(entry: PipelineEntry, where: str, folder: Path) -> tuple[dict[str, Any], str, str, Path]:
    """Return a pipeline's tables, text, name for messages, and folder."""
    keys = (
        *("source", "sink", "budget", "privacy", "events", "track", "zone", "line", "stage"),
        *("fallback", "options"),
    )
    inline = {key: value for key in keys if (value := getattr(entry, key)) not in (None, [])}
    if bool(entry.file) == bool(inline):
        raise ConfigError(f"{where}: want either 'file' or the pipeline's own tables, at least 'source'")
    if entry.file:
        path = folder / Path(entry.file).expanduser()
        text = _read(path)
        return _decode(text, str(path)), text, str(path), path.resolve().parent
    named = {"name": entry.name, "model": entry.model, "worker": entry.worker or AUTO}
    head = {key: value for key, value in named.items() if value is not None}
    tables: dict[str, Any] = {"pipeline": head, **inline}
    if "options" in tables:
        tables["model"] = tables.pop("options")
    return tables, to_toml(tables), where, folder.resolve()


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigError(f"{path}: want at most {MAX_CONFIG_BYTES} bytes, got more")
        return data.decode("utf-8-sig")  # some editors begin a file with a mark
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
    # JSON text and numbers are valid TOML but for one character; dates are kept
    is_plain = isinstance(value, (str, bool, int, float))
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f") if is_plain else str(value)


def worker_environment(state: Path) -> dict[str, str]:
    """Return the environment of a worker of the agent with this state folder.

    Source: measured; OpenBLAS reserves memory for each thread it could use, and nothing here uses it.
    """
    return {
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONUNBUFFERED": "1",
        **os.environ,
        "EDGEKIT_STATE": str(state),
    }
