"""Add measurements from real boards, through the fleet."""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

from edgekit.core.errors import UsageError
from edgekit.core.spec import variant_hash
from edgekit.core.wire import MeasuredVariant
from edgekit_optimize.run.deliver import fill_bundle
from edgekit_optimize.run.fleet_measuring import check_fleet, costs_of, measure_on
from edgekit_optimize.run.inputs import Inputs
from edgekit_optimize.run.request import Request
from edgekit_optimize.run.search import Search
from edgekit_optimize.study import Timing

logger = logging.getLogger(__name__)


def check_flags(request: Request) -> None:
    """Check that the requested measurement is possible, before hours of work.

    Raises:
        UsageError: A device or token without a fleet, or a fleet without a token.
        EnrollError: There is no such device.
        LinkError: The fleet cannot be reached.
        EdgekitError: The fleet refuses.
    """
    asked = request.remote
    if (asked.device or asked.token or asked.keys) and not asked.fleet:
        raise UsageError("--measure-on, --token and --keys need --fleet URL")
    if asked.fleet and not asked.token:
        raise UsageError("--fleet needs --token", hint="edgekit-fleet token create makes one")
    if asked.fleet:
        check_fleet(asked.fleet, asked.token, asked.device, logger.info, asked.ca)


def measure(search: Search, request: Request, inputs: Inputs) -> None:
    """Add the costs that the fleet knows, and have a device measure the candidates that pass the gate.

    Raises:
        EnrollError: There is no such device.
        LinkError: The fleet cannot be reached, or the device does not answer in time.
        TrustError: The keys are not the fleet's publisher's.
    """
    asked = request.remote
    if not asked.fleet:
        return
    _take_known(search, request)
    if not asked.device:
        return
    fit = [result for result in search.candidates() if result.gate == "pass" and not result.error]
    if not fit:
        logger.warning("no candidate passes the gate: there is nothing for %s to measure", asked.device)
        return
    search.progress.stage(f"measuring on {asked.device}")
    with tempfile.TemporaryDirectory() as scratch:
        bundle = Path(scratch) / "candidates"
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        fill_bundle(bundle, search, inputs, fit, created=created, command=request.command)
        rows, profile = measure_on(
            bundle,
            asked.device,
            fleet=asked.fleet,
            token=asked.token,
            keys=asked.keys,
            threads=request.threads,
            seconds=request.seconds,
            timeout_s=asked.timeout_s,
            progress=logger.info,
            ca=asked.ca,
        )
    search.add_timings({row.id: _timing(row, profile, request) for row in rows if not row.error})
    for row in rows:
        if row.error:
            search.add_note(row.id, f"not timed on {asked.device}: {row.error}")


def _take_known(search: Search, request: Request) -> None:
    hashes = {name: variant_hash(entry.variant) for name, entry in search.runner.entries.items()}
    asked = request.remote
    known = costs_of(asked.fleet, asked.token, hashes.values(), threads=request.threads, ca=asked.ca)
    here = search.runner.profile.id
    for name, content in hashes.items():
        for cost in known[content]:
            if cost.profile == here:
                continue  # this run has measured it
            timing = Timing(
                profile=cost.profile,
                device="fleet",
                threads=request.threads,
                p50_ms=cost.p50_ms,
                p99_ms=cost.p99_ms,
                rss_mb=cost.rss_mb,
                measured=cost.measured,
            )
            search.add_timings({name: timing})


def _timing(row: MeasuredVariant, profile: str, request: Request) -> Timing:
    assert row.p50_ms is not None
    assert row.p99_ms is not None
    return Timing(
        profile=profile,
        device=request.remote.device,
        threads=request.threads,
        p50_ms=row.p50_ms,
        p95_ms=row.p95_ms,
        p99_ms=row.p99_ms,
        pre_ms=row.pre_ms or 0.0,
        load_ms=row.load_ms or 0.0,
        rss_mb=row.rss_mb or 0.0,
        rounds=1,
        measured=time.strftime("%Y-%m-%d", time.gmtime()),
    )
