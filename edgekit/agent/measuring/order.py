"""The fleet's measurement orders, and the reasons not to carry one out now."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import UsageError
from edgekit.core.spec import MAX_MANIFEST_BYTES, NAME, VERSION
from edgekit.core.wire import PipelineState, measuring_path, target_path

HOT_MARGIN_C = 5.0
"""Margin below the highest temperature of the board's profile."""
MIN_FREE_MB = 128.0
_SHA256 = re.compile(r"[0-9a-f]{64}")


class MeasureOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The arguments of the command ``measure``; ``threads`` 0 is this device's default."""

    job: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    model: str
    version: str
    target: str
    sha256: str
    bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_MANIFEST_BYTES)]
    threads: Annotated[int, msgspec.Meta(ge=0, le=256)] = 0
    seconds: Annotated[float, msgspec.Meta(ge=0.1, le=60)] = 2.0
    expires_unix_ms: Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]


def parse_order(args: Mapping[str, Any]) -> MeasureOrder:
    """Return the checked arguments of a command.

    Raises:
        UsageError: An argument is missing or not valid.
    """
    try:
        order = msgspec.convert(dict(args), type=MeasureOrder)
    except msgspec.ValidationError as cause:
        raise UsageError(f"measure: {cause}") from cause
    is_named = NAME.fullmatch(order.model) and VERSION.fullmatch(order.version)
    if not is_named or not _SHA256.fullmatch(order.sha256):
        raise UsageError(f"measure: '{order.model[:64]} {order.version[:32]}' is not a signed bundle's name")
    allowed = (measuring_path(order.model, order.sha256), target_path(order.model, order.version))
    if order.target not in allowed:
        raise UsageError(f"measure: {order.target[:200]!r} is not where such a bundle is signed")
    return order


def hindrance(
    updates: Mapping[str, str],
    pipelines: Mapping[str, PipelineState],
    budgets_ms: Mapping[str, float],
    sensors: Mapping[str, float],
    hottest_c: float,
) -> str:
    """Return why nothing should be measured now, or "".

    Args:
        updates: The state of each model's update machine.
        pipelines: By name.
        budgets_ms: The 95th percentiles that pipelines must keep.
        sensors: As ``hardware.sensors`` reads them.
        hottest_c: The board's limit; 0: not stated.
    """
    hot_c = hottest_c - HOT_MARGIN_C if hottest_c else math.inf
    return next(chain(_busy(updates, pipelines, budgets_ms), _strained(sensors, hot_c)), "")


def _busy(
    updates: Mapping[str, str], pipelines: Mapping[str, PipelineState], budgets_ms: Mapping[str, float]
) -> Iterator[str]:
    for model, state in updates.items():
        if state != "IDLE":
            yield f"an update of {model} is under way ({state})"
    for name, pipeline in pipelines.items():
        budget_ms = budgets_ms.get(name, 0.0)
        if pipeline.state == "starting":
            yield f"pipeline {name} is starting"
        if budget_ms and pipeline.p95_ms > budget_ms:
            yield f"pipeline {name} is over its budget: p95 {pipeline.p95_ms:.0f} of {budget_ms:.0f} ms"


def _strained(sensors: Mapping[str, float], hot_c: float) -> Iterator[str]:
    warm_c, free_mb = sensors.get("temperature_c", 0.0), sensors.get("memory_free_mb", math.inf)
    if warm_c > hot_c:
        yield f"the board is at {warm_c:.0f} C, measuring needs {hot_c:.0f} C or less"
    if sensors.get("throttled"):
        yield "the board is throttled"
    if free_mb < MIN_FREE_MB:
        yield f"{free_mb:.0f} MB of memory are free, measuring needs {MIN_FREE_MB:.0f} MB"
