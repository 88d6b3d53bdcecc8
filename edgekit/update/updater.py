"""The updater: a short-lived process that verifies and fetches.

``python -m edgekit.update.updater job`` takes an ``UpdaterRequest``, ``... enroll`` and ``... request`` an
``EnrollOrder``; see ``base.child`` for the answers.
"""

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edgekit.base.child import run_job
from edgekit.base.disk import LocalDisk
from edgekit.base.files import read_file, replace_file
from edgekit.base.http import Patience, Web
from edgekit.base.install_hint import install_hint
from edgekit.base.lock import lock_file
from edgekit.core import wire
from edgekit.core.errors import BundleError, ConfigError, HashMismatchError, StorageError, UsageError
from edgekit.core.select import require, select
from edgekit.core.spec import AGENT, Manifest, Variant, VariantFile, parse_manifest
from edgekit.update.contract import (
    EnrollOrder,
    Enrolment,
    Origin,
    UpdaterProgress,
    UpdaterRequest,
    UpdaterResult,
)
from edgekit.update.download import Blobs
from edgekit.update.renewal import put_in_place

_LOCK_S = 15.0
_PROGRESS_S = 0.25
_NICE = 10


class Choice(msgspec.Struct, frozen=True):
    """The files of a bundle to fetch: the shared ones, then variant by variant."""

    files: tuple[VariantFile, ...]
    variants: tuple[str, ...]
    rejected: dict[str, str]


def choose(manifest: Manifest, request: UpdaterRequest, device: str, budget_bytes: int) -> Choice:
    """Return the variants to fetch: those that can run here, best first, while there is room.

    Raises:
        NoVariantError: None can run here; the reasons say why.
        StorageError: There is no room even for the best one.
    """
    rejected: dict[str, str] = {}
    fitting: list[Variant] = list(manifest.variants)
    selection = None
    if manifest.model == AGENT:
        from edgekit.update.release import selected

        selection = selected(manifest)
    elif request.facts is not None and request.profile is not None:
        selection = select(manifest, request.facts, request.profile, request.measured_ms)
    if selection is not None:
        require(selection, manifest, device)
        fitting = [candidate.variant for candidate in selection.candidates]
        rejected = {r.variant: "; ".join(r.reasons) for r in selection.rejected}
    files = {file.sha256: file for file in manifest.files}
    taken: list[str] = []
    for variant in fitting:
        more = {**files, **{file.sha256: file for file in variant.files}}
        size = sum(file.bytes for file in more.values())
        if size > budget_bytes:
            rejected[variant.id] = (
                f"needs {size} bytes with the variants chosen before, {budget_bytes} may be used"
            )
            continue
        files = more
        taken.append(variant.id)
    if not taken:
        raise StorageError(
            f"no variant of '{manifest.model} {manifest.version}' has room in {budget_bytes} bytes",
            reasons=tuple(f"{name}: {why}" for name, why in rejected.items()),
            hint="free some space, or raise the limit for bundles",
        )
    return Choice(tuple(files.values()), tuple(taken), rejected)


class Job:
    """One request; ``report`` is called with progress."""

    def __init__(self, request: UpdaterRequest, report: Callable[[UpdaterProgress], None]) -> None:
        self._request, self._report = request, report
        self._state_dir = Path(request.state_dir)
        put_in_place(self._state_dir)  # finishes an interrupted renewal
        self._identity = load_identity(self._state_dir)
        patience = Patience(time.monotonic() + request.timeout_s, request.stall_s)
        self._fleet = Web(self._state_dir / "identity" / "ca.crt", patience)
        self._web: Origin = self._fleet
        if request.carried and request.kind == "fetch":
            from edgekit.update.carried import Carried

            self._web = Carried(Path(request.carried), self._identity)

    def run(self) -> UpdaterResult:
        """Carry it out and return its result.

        Raises:
            EdgekitError: It failed.
        """
        others = {
            "renew": self._renew,
            "measure": self._bring_to_measure,
            "unpack": self._unpack,
            "sign": self._sign,
            "acknowledge": self._acknowledge,
            "cameras": self._bring_cameras,
        }
        if (work := others.get(self._request.kind)) is not None:
            return work()
        desired = self._accept()
        if self._request.kind == "accept":
            return UpdaterResult(desired_version=desired.version)
        return self._fetch(desired)

    def _renew(self) -> UpdaterResult:
        from edgekit.update.identity import finish_renewal, start_renewal

        certificate, ca = self._request.certificate, self._request.ca
        if not certificate:
            return UpdaterResult(csr=start_renewal(self._state_dir, self._identity))
        expires_ms = finish_renewal(self._state_dir, self._identity, certificate, ca)
        return UpdaterResult(certificate_expires_unix_ms=expires_ms)

    def _sign(self) -> UpdaterResult:
        from edgekit.update.carried_outbox import sign_outbox

        source, target = Path(self._request.carried), Path(self._request.area)
        sign_outbox(self._state_dir, self._identity, source, target)
        return UpdaterResult()

    def _acknowledge(self) -> UpdaterResult:
        from edgekit.update.carried_outbox import checked_ack

        ack = checked_ack(Path(self._request.carried), self._identity)
        return UpdaterResult(boot=ack.boot, watermark=ack.watermark)

    def _bring_cameras(self) -> UpdaterResult:
        from edgekit.update.cameras import fetch_cameras

        fetch_cameras(self._state_dir, self._identity, self._request.sha256, self._fleet)
        return UpdaterResult()

    def _unpack(self) -> UpdaterResult:
        from edgekit.update.unpack import unpack

        version, sha256 = self._request.version, self._request.sha256
        unpack(self._state_dir, self._state_dir / "bundles" / f"{AGENT}-{version}", version, sha256)
        return UpdaterResult(model=AGENT, version=version, manifest_sha256=sha256)

    def _accept(self) -> wire.Desired:
        from edgekit.update.trust import raise_desired_floor, verify_desired

        encoded = self._request.desired.encode()
        desired = verify_desired(encoded, self._identity)
        raise_desired_floor(self._state_dir, desired)
        path = self._state_dir / "desired.json"
        if read_file(path) != encoded:
            replace_file(LocalDisk(), path, encoded)
        return desired

    def _fetch(self, desired: wire.Desired) -> UpdaterResult:
        model = self._request.model
        desired_model = desired.models.get(model)
        if desired_model is None:
            raise UsageError(f"desired state {desired.version} has no model '{model}'")
        self._check(desired_model, to_measure=False)
        result = self._bring_bundle(self._state_dir, desired_model)
        return msgspec.structs.replace(result, desired_version=desired.version)

    def _bring_to_measure(self) -> UpdaterResult:
        request = self._request
        desired_model = wire.DesiredModel(request.version, request.target, request.sha256, request.bytes)
        self._check(desired_model, to_measure=True)
        return self._bring_bundle(Path(request.area), desired_model)

    def _check(self, desired_model: wire.DesiredModel, *, to_measure: bool) -> None:
        from edgekit.update.trust import trusted_target

        self._report(UpdaterProgress(stage="trust"))
        now_ms = max(self._request.unix_ms, time.time_ns() // 1_000_000)
        trusted_target(
            self._state_dir,
            self._identity,
            desired_model,
            self._request.model,
            self._web,
            now_ms,
            to_measure=to_measure,
        )

    def _bring_bundle(self, below: Path, desired_model: wire.DesiredModel) -> UpdaterResult:
        model = self._request.model
        blobs = Blobs(below, self._web)
        manifest = self._manifest(below, blobs, desired_model)
        here = sum(f.bytes for f in manifest.every_file() if blobs.has(f.sha256, f.bytes))
        partial = sum(blobs.partial_bytes(f.sha256) for f in manifest.every_file())
        budget = min(self._request.max_bytes, blobs.room_bytes() + here + partial)
        choice = choose(manifest, self._request, self._identity.device, budget)
        fetched = self._bring(blobs, choice.files)
        return UpdaterResult(
            model=model,
            version=desired_model.version,
            manifest_sha256=desired_model.sha256,
            variants=choice.variants,
            rejected=choice.rejected,
            fetched_bytes=fetched,
        )

    def _manifest(self, below: Path, blobs: Blobs, desired_model: wire.DesiredModel) -> Manifest:
        from edgekit.update.trust import manifest_url

        self._report(UpdaterProgress(stage="manifest"))
        model = self._request.model
        what = f"bundle.json of '{model} {desired_model.version}'"
        data = read_file(below / "blobs" / desired_model.sha256)
        if data is None or hashlib.sha256(data).hexdigest() != desired_model.sha256:
            data = self._web.get(manifest_url(self._identity, model, desired_model), desired_model.bytes)
        if len(data) != desired_model.bytes or hashlib.sha256(data).hexdigest() != desired_model.sha256:
            raise HashMismatchError(f"{what} is not the one that was signed")
        manifest = parse_manifest(data, what)
        if (manifest.model, manifest.version) != (model, desired_model.version):
            raise BundleError(f"{what} says '{manifest.model} {manifest.version}'")
        blobs.put(desired_model.sha256, data)
        return manifest

    def _bring(self, blobs: Blobs, files: tuple[VariantFile, ...]) -> int:
        """Fetch the missing files; returns the bytes fetched."""
        missing = [file for file in files if not blobs.has(file.sha256, file.bytes)]
        begun = sum(min(file.bytes, blobs.partial_bytes(file.sha256)) for file in missing)
        total = sum(file.bytes for file in missing)
        blobs.require_room(total - begun, f"'{self._request.model}'")
        done, came, reported_s = begun, 0, 0.0

        def count(number: int) -> None:
            nonlocal done, came, reported_s
            done, came = min(total, done + number), came + number
            if time.monotonic() - reported_s >= _PROGRESS_S:
                reported_s = time.monotonic()
                self._report(UpdaterProgress(stage="blobs", done_bytes=done, total_bytes=total))

        base = self._identity.targets_url.rstrip("/")
        for file in missing:
            blobs.fetch(f"{base}/blobs/{file.sha256}", file.sha256, file.bytes, count)
        self._report(UpdaterProgress(stage="blobs", done_bytes=total, total_bytes=total))
        return came


def load_identity(state_dir: Path) -> Enrolment:
    """Return this device's identity.

    Raises:
        UsageError: It is not enrolled.
        StorageError: The file cannot be read.
    """
    path = state_dir / "identity" / "enrolment.json"
    data = read_file(path)
    if data is None:
        raise UsageError(
            f"{path}: this device is not enrolled", hint="edgekit agent enroll --fleet URL --token T"
        )
    try:
        return msgspec.json.decode(data, type=Enrolment)
    except (msgspec.DecodeError, UnicodeDecodeError) as cause:
        raise StorageError(f"{path} is damaged: {cause}", hint="enrol the device again") from cause


@contextlib.contextmanager
def only_updater(state_dir: Path, wait_s: float = _LOCK_S) -> Iterator[None]:
    """Hold the lock that keeps two updaters from one state folder.

    Raises:
        StorageError: Another updater holds it.
    """
    path = state_dir / "updater.lock"
    descriptor = lock_file(path, wait_s, f"{path}: another updater is at work")
    try:
        yield
    finally:
        os.close(descriptor)


def _enroll(order: EnrollOrder, _: object) -> Enrolment:
    with _libraries(), only_updater(Path(order.state_dir)):
        from edgekit.update.identity import enroll

        return enroll(order)


def _request(order: EnrollOrder, _: object) -> wire.EnrollRequest:
    with _libraries(), only_updater(Path(order.state_dir)):
        from edgekit.update.identity import enrolment_request

        return enrolment_request(order)


def _job(request: UpdaterRequest, progress: Callable[[UpdaterProgress], None]) -> UpdaterResult:
    os.nice(_NICE)
    with _libraries(), only_updater(Path(request.state_dir)):
        return Job(request, progress).run()


@contextlib.contextmanager
def _libraries() -> Iterator[None]:
    """Add the installing command where a library of the updater is broken."""
    try:
        yield
    except ImportError as cause:
        raise ConfigError(
            f"the updater cannot import {cause.name}: {cause}", hint=install_hint("update")
        ) from cause


if __name__ == "__main__":
    os.umask(0o077)
    if sys.argv[1:] == ["job"]:
        sys.exit(run_job(_job, UpdaterRequest))
    sys.exit(run_job(_enroll if sys.argv[1:] == ["enroll"] else _request, EnrollOrder))
