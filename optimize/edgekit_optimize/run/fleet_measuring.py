"""Measure candidates on a fleet's devices, and fetch the costs that the fleet already knows.

Signing needs ``edgekit-fleet publish``, which is run as a program since the fleet may not be imported
here; without it, only a bundle that is already published can be measured.
"""

from __future__ import annotations

import json
import math
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.base.failures import Failure, error_of
from edgekit.base.http import Patience, Web
from edgekit.base.tls import trusting
from edgekit.core.errors import ConfigError, EnrollError, LinkError, ProtocolError, ServerError
from edgekit.core.spec import Cost, Variant, version_key
from edgekit.core.wire import MeasuredVariant, MeasurementRecord
from edgekit.model.bundle import open_bundle

_TIMEOUT_S = 60.0
_PUBLISH_S = 1800.0
_MAX_ANSWER_BYTES = 16 << 20
_MAX_HASHES = 100
_MAX_PAGES = 1000
_POLL_S = (0.25, 2.0)
_LATE_S = 5.0
_SETTLED = ("done", "failed", "expired")


class FleetApi:
    """An HTTP client of one fleet manager; an error response is raised as the error that it names.

    Args:
        url: Its address.
        token: An API token, or ``@FILE`` that holds one.
        ca: The CA that signed its HTTPS certificate; None for this machine's CAs.

    Raises:
        ConfigError: The address, the token's file or the certificate is invalid.
    """

    def __init__(self, url: str, token: str, ca: Path | None = None) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{url!r} is not the address of a fleet", hint="want http://HOST:PORT or https://"
            )
        self.url, self.ca = url.rstrip("/"), ca
        self.token = token
        try:
            if token.startswith("@"):
                self.token = Path(token[1:]).read_text(encoding="utf-8").strip()
            tls = trusting(ca)
        except (OSError, ssl.SSLError) as cause:
            raise ConfigError(f"the fleet's token or CA cannot be read: {cause}") from cause
        self._web = Web(None, Patience(math.inf, _TIMEOUT_S), tls, _TIMEOUT_S)

    def get(self, path: str, query: Sequence[tuple[str, str]] = ()) -> Any:
        """Return the JSON at ``/api/v1/<path>``.

        Raises:
            LinkError: The fleet cannot be reached.
            EdgekitError: It refused; a ``ServerError`` if the response names no error.
        """
        words = urllib.parse.urlencode(list(query))
        return self._send("GET", f"{path}?{words}" if words else path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON to ``/api/v1/<path>`` and return the answer; raises as ``get`` does."""
        return self._send("POST", path, json.dumps(body).encode())

    def _send(self, method: str, path: str, body: bytes | None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        try:
            status, data = self._web.send(
                method, f"{self.url}/api/v1/{path}", _MAX_ANSWER_BYTES, body, headers
            )
        except LinkError as error:
            raise LinkError(error.message, hint="is the fleet manager running there?") from error
        if status >= 300:
            raise _refusal(self.url, status, data)
        try:
            return json.loads(data)
        except ValueError as cause:
            raise ProtocolError(f"{self.url}: the answer is not JSON") from cause


def _refusal(url: str, status: int, body: bytes) -> Exception:
    try:
        problem = json.loads(body)
        failure = Failure(
            code=str(problem.get("code") or ServerError.code),
            message=f"{url}: {problem.get('detail') or problem.get('title') or f'status {status}'}"[:2000],
            reasons=tuple(str(reason) for reason in problem.get("reasons", ())),
            hint=str(problem.get("hint", "")),
        )
    except (ValueError, AttributeError, TypeError):
        return ServerError(f"{url}: status {status}")
    return error_of(failure)


# ---------------------------------------------------------------------------------------------
# Costs


def costs_of(
    fleet_url: str,
    token: str,
    hashes: Iterable[str],
    *,
    threads: int | None = None,
    ca: Path | None = None,
) -> dict[str, list[Cost]]:
    """Return the costs of variants that a fleet's devices measured.

    Args:
        fleet_url: The fleet manager's address.
        token: An API token (role viewer), or ``@FILE``.
        hashes: The variants, by ``core.spec.variant_hash``.
        threads: Only costs with this thread count; None for the one that most devices used.
        ca: The fleet's CA, where it speaks HTTPS with its own.

    Returns:
        By hash, one cost for each profile that measured it, ordered by profile; empty if none did. The
        newest library version counts, then the figure of most devices.

    Raises:
        LinkError: The fleet cannot be reached, or refuses.
    """
    api = FleetApi(fleet_url, token, ca)
    unique = list(dict.fromkeys(hashes))
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for start in range(0, len(unique), _MAX_HASHES):
        for row in _cost_rows(api, unique[start : start + _MAX_HASHES]):
            key = str(row["content"]), str(row["profile"])
            is_asked = threads is None or row["threads"] == threads
            if is_asked and (key not in best or _weight(row) > _weight(best[key])):
                best[key] = row
    costs: dict[str, list[Cost]] = {content: [] for content in unique}
    for (content, _), row in sorted(best.items()):
        costs[content].append(_cost(row))
    return costs


def _cost_rows(api: FleetApi, hashes: Sequence[str]) -> Iterator[dict[str, Any]]:
    cursor = ""
    for _ in range(_MAX_PAGES):
        query = [("content", content) for content in hashes] + [("limit", "200")]
        page = api.get("costs", query + ([("cursor", cursor)] if cursor else []))
        yield from (row for row in page["items"] if row["content"] in hashes)
        cursor = str(page["next"] or "")
        if not cursor:
            return


def _weight(row: Mapping[str, Any]) -> tuple[tuple[int, ...], int, int, int]:
    version = version_key(str(row["backend_version"]))
    return version, int(row["devices"]), int(row["threads"]), int(row["measured_unix_ms"])


def _cost(row: Mapping[str, Any]) -> Cost:
    return Cost(
        profile=str(row["profile"]),
        p50_ms=float(row["p50_ms"]),
        p99_ms=float(row["p99_ms"]),
        rss_mb=float(row["rss_mb"]),
        measured=time.strftime("%Y-%m-%d", time.gmtime(int(row["measured_unix_ms"]) / 1000)),
    )


def with_costs(variant: Variant, costs: Sequence[Cost]) -> Variant:
    """Return a variant with these costs added; its own costs win for the same profile."""
    own = {cost.profile for cost in variant.cost}
    more = tuple(cost for cost in costs if cost.profile not in own)
    return msgspec.structs.replace(variant, cost=(*variant.cost, *more))


# ---------------------------------------------------------------------------------------------
# Measuring on a device


def check_fleet(
    fleet: str, token: str, device: str, progress: Callable[[str], None], ca: Path | None = None
) -> None:
    """Check that a fleet answers, accepts the token, and knows the device if one is named.

    Raises:
        EnrollError: No such device is enrolled with this fleet, or it is revoked.
        LinkError: The fleet cannot be reached.
        EdgekitError: It refuses.
    """
    api = FleetApi(fleet, token, ca)
    if device:
        _check_device(api, device, progress)
    else:
        api.get("costs", [("limit", "1")])


def measure_on(
    bundle: Path,
    device: str,
    *,
    fleet: str,
    token: str,
    keys: Path | None,
    threads: int,
    seconds: float,
    timeout_s: float,
    progress: Callable[[str], None],
    ca: Path | None = None,
) -> tuple[list[MeasuredVariant], str]:
    """Have an enrolled device measure a bundle's variants, while it keeps running its own pipelines.

    Args:
        bundle: Folder or ``.ekb`` file.
        device: The device's id in the fleet.
        fleet: The fleet manager's address.
        token: An API token (role publisher; operator where ``keys`` is None), or ``@FILE``.
        keys: The publisher's key folder; None if the bundle is already published.
        threads: CPU threads for the runtimes; 0 for the device's default.
        seconds: How long each variant runs, 0.1 to 60.
        timeout_s: How long to wait for the device, after which the job expires.
        progress: Called with a sentence at each change.
        ca: The fleet's CA, where it speaks HTTPS with its own.

    Returns:
        One row for each variant, those that could run first, and the device's profile.

    Raises:
        EnrollError: No such device is enrolled with this fleet, or it is revoked.
        LinkError: The fleet cannot be reached, or the device did not answer in time.
        TrustError: The keys are not this fleet's publisher's, or the device refuses the signature.
        EdgekitError: The error that was raised on the device or by the publisher's program.
        ConfigError: ``edgekit-fleet`` is not installed here.
    """
    api = FleetApi(fleet, token, ca)
    _check_device(api, device, progress)
    manifest = open_bundle(bundle)
    named = (manifest.manifest.model, manifest.manifest.version)
    if keys is not None:
        progress(f"signing {named[0]} {named[1]} for measuring")
        _publish(bundle, api, keys)
    deadline_s = time.monotonic() + timeout_s
    body = {"device": device, "model": named[0], "version": named[1], "sha256": manifest.digest}
    more = {"threads": threads, "seconds": seconds, "expires_s": max(1, math.ceil(timeout_s))}
    job = api.post("measurements", {**body, **more})
    record = _result(_wait(api, job, deadline_s, progress))
    return list(record.variants), record.board.profile if record.board else ""


def _check_device(api: FleetApi, device: str, progress: Callable[[str], None]) -> None:
    known = f"devices/{urllib.parse.quote(device, safe='')}"
    try:
        record = api.get(known)["device"]
    except ServerError as error:
        if "no device" not in error.message:
            raise
        raise EnrollError(
            f"no device '{device}' is enrolled with {api.url}", hint="edgekit-fleet devices lists them"
        ) from error
    if record["state"] == "revoked":
        raise EnrollError(f"device '{device}' is revoked", hint="restore it, or name another one")
    if not record["online"]:
        progress(f"{device} is offline; the job waits for it")


def _publish(bundle: Path, api: FleetApi, keys: Path) -> None:
    """Sign a bundle for measuring and upload it, by running ``edgekit-fleet publish``."""
    beside = Path(sys.executable).with_name("edgekit-fleet")
    program = str(beside) if beside.exists() else shutil.which("edgekit-fleet")
    if program is None:
        raise ConfigError(
            "edgekit-fleet, which signs bundles for measuring, is not installed",
            hint="pip install edgekit-fleet; or publish the bundle elsewhere (edgekit-fleet publish"
            " --measure) and leave the keys out",
        )
    with tempfile.TemporaryDirectory() as folder:
        secret = Path(folder) / "token"  # not on the command line, which every local user can read
        secret.touch(mode=0o600)
        secret.write_text(api.token, encoding="utf-8")
        command = [program, "publish", str(bundle), "--measure", "--keys", str(keys), "--json"]
        command += ["--fleet", api.url, "--token", f"@{secret}", *(["--ca", str(api.ca)] if api.ca else [])]
        try:
            done = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PUBLISH_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as cause:
            raise LinkError(f"{program}: {cause}") from cause
    if done.returncode == 0:
        return
    try:
        error = json.loads(done.stdout)["error"]
        failure = Failure(
            code=error["code"], message=error["message"], reasons=tuple(error["reasons"]), hint=error["hint"]
        )
    except (ValueError, KeyError, TypeError) as cause:
        tail = done.stderr.decode(errors="replace")[-1000:]
        raise LinkError(f"{program}: exit code {done.returncode}: {tail}") from cause
    raise error_of(failure)


def _wait(
    api: FleetApi, job: dict[str, Any], deadline_s: float, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Return the job once it is settled; short outages of the fleet are tolerated."""
    reported, pause_s = "", _POLL_S[0]
    while job["state"] not in _SETTLED:
        state = f"{job['state']}: {job['reason']}" if job["reason"] else str(job["state"])
        if state != reported:
            reported = state
            progress(f"{job['device']}: {state}")
        if time.monotonic() > deadline_s + _LATE_S:
            raise LinkError(
                f"device '{job['device']}' did not finish the measurement in time ({state})",
                hint=f"the fleet keeps the job: GET {api.url}/api/v1/measurements/{job['id']}",
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, _POLL_S[1])
        try:
            job = api.get(f"measurements/{job['id']}")
        except LinkError as error:
            if not error.retryable or time.monotonic() > deadline_s:
                raise
    return job


def _result(job: dict[str, Any]) -> MeasurementRecord:
    """Return a settled job's measurements, or raise the error that it failed with."""
    what = f"measurement {job['id']} on '{job['device']}'"
    if job["state"] == "expired":
        raise LinkError(f"{what}: {job['reason']}", hint="is the device on, and its agent running?")
    if job["state"] == "failed":
        code = str(job["code"] or LinkError.code)
        raise error_of(Failure(code=code, message=f"{what} failed: {job['reason']}"))
    try:
        return msgspec.convert(job["result"], type=MeasurementRecord)
    except msgspec.ValidationError as cause:
        raise ProtocolError(f"{what}: the result is invalid: {cause}") from cause
