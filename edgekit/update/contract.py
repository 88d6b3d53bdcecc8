"""What the supervisor says to the updater and to enrolment, and what it hears back.

Both are children as ``base.child`` describes them. No trust library is imported here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edgekit.core.spec import Facts, Profile

MAX_BUNDLE_BYTES = 2 << 30


class UpdaterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job for the updater.

    ``accept``: verify the desired state ``desired`` (the exact text that came on ``down/desired``):
    signature, device, version not below the last accepted; then store it as ``desired.json``.
    ``fetch``: accept it likewise, then bring the bundle of ``model`` to this device: TUF metadata,
    manifest, and the blobs of the variants that can run here, the best first, up to ``max_bytes``.
    ``renew``: without ``certificate``, make a new key and return its signing request (``csr``), which
    the supervisor sends as the request ``renew``; with the ``certificate`` that came back, check it
    and put both in place of the old ones.
    ``measure``: bring the bundle whose manifest has the hash ``sha256`` and ``bytes`` bytes, signed as
    the TUF target ``target`` of ``model`` and ``version``, below ``area`` and not into the slots' store.

    Identity, addresses and roots of trust are read from ``{state_dir}/identity``.
    """

    kind: Literal["accept", "fetch", "renew", "measure"]
    state_dir: str
    desired: str = ""
    model: str = ""
    version: str = ""
    target: str = ""
    sha256: str = ""
    bytes: int = 0
    area: str = ""
    certificate: str = ""
    facts: Facts | None = None
    profile: Profile | None = None
    measured_ms: dict[str, float] = {}
    max_bytes: int = MAX_BUNDLE_BYTES
    timeout_s: float = 3600.0
    """The whole job; a job that moves no byte for ``stall_s`` ends before."""
    stall_s: float = 60.0
    unix_ms: int = 0
    """The supervisor's floored clock, for expiry; 0 is the machine's own."""


class UpdaterProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a fetch stands."""

    stage: Literal["trust", "manifest", "blobs"]
    done_bytes: int = 0
    total_bytes: int = 0


class UpdaterResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a job brought.

    ``manifest_sha256`` and ``bundle_bytes`` are those of ``bundle.json``, which lies in ``blobs/``
    now; ``variants`` have every file in ``blobs/``, the best first; ``rejected`` has the reasons of
    the others. ``desired_version`` is the accepted desired state's.
    """

    desired_version: int = 0
    model: str = ""
    version: str = ""
    manifest_sha256: str = ""
    variants: tuple[str, ...] = ()
    rejected: dict[str, str] = {}
    fetched_bytes: int = 0
    csr: str = ""
    certificate_expires_unix_ms: int = 0


class EnrollOrder(msgspec.Struct, frozen=True, kw_only=True):
    """Enrol this device: the fleet's address, the claim token, and where identity is kept."""

    fleet_url: str
    token: str
    state_dir: str
    name: str = ""
    hardware: Facts | None = None


class Enrolment(msgspec.Struct, frozen=True, tag="enrolment", kw_only=True):
    """``identity/enrolment.json``: who this device is, where its fleet is, whom it trusts.

    ``root`` is TUF root metadata as text; ``desired_keys`` are Ed25519 public keys in hexadecimal.
    """

    device: str
    fleet_url: str
    broker_url: str
    metadata_url: str
    targets_url: str
    root: str
    desired_keys: dict[str, str]
    expires_unix_ms: int = 0
    """When the device's certificate ends."""
    renew_after_unix_ms: int = 0
    """Two thirds of its life."""
