"""Requests and results of the updater and of enrolment, which are children as in ``base.child``.

The supervisor imports this, so no trust library is imported here.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from edgekit.core.spec import Facts, Profile

MAX_BUNDLE_BYTES = 2 << 30


class Origin(Protocol):
    """Where metadata and bundles come from: a server (``base.http.Web``), or a file that was carried here."""

    def get(self, url: str, max_bytes: int) -> bytes:
        """Return the content at a URL, at most ``max_bytes``."""

    def read(self, url: str, start: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) from ``start`` on, or from 0."""


class UpdaterRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One job for the updater; identity, addresses and roots of trust are in ``{state_dir}/identity``.

    ``accept``: verify ``desired`` (the exact text of ``down/desired``) and store it as ``desired.json``.
    ``fetch``: the same, then fetch the bundle of ``model``: TUF metadata, manifest, and blobs of the variants
    that can run here, best first, up to ``max_bytes``.
    ``renew``: without ``certificate``, make a new key and return its signing request (``csr``); with the
    fleet's ``certificate`` and ``ca``, check and replace them.
    ``measure``: fetch the bundle of ``target`` into ``area`` and not into the slots' store.
    ``unpack``: make the environment of the staged release of the agent.
    ``sign``: sign the outbox in the file ``carried``, to ``area``. ``acknowledge``: check the fleet's answer.
    ``cameras``: fetch the camera list with the digest ``sha256``.
    ``carried``: for ``fetch`` the file that metadata and bundle come from in place of the fleet.
    """

    kind: Literal["accept", "fetch", "renew", "measure", "unpack", "sign", "acknowledge", "cameras"]
    state_dir: str
    desired: str = ""
    model: str = ""
    version: str = ""
    target: str = ""
    sha256: str = ""
    bytes: int = 0
    area: str = ""
    carried: str = ""
    certificate: str = ""
    ca: str = ""
    facts: Facts | None = None
    profile: Profile | None = None
    measured_ms: dict[str, float] = {}
    max_bytes: int = MAX_BUNDLE_BYTES
    timeout_s: float = 3600.0
    """For the whole job; it also ends where too little comes for ``stall_s``."""
    stall_s: float = 60.0
    unix_ms: int = 0
    """The supervisor's floored clock, for expiry; 0: the machine's."""


class UpdaterProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a fetch."""

    stage: Literal["trust", "manifest", "blobs"]
    done_bytes: int = 0
    total_bytes: int = 0


class UpdaterResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a job; ``blobs/`` has the files of ``variants`` (best first) and ``bundle.json``."""

    desired_version: int = 0
    model: str = ""
    version: str = ""
    manifest_sha256: str = ""
    variants: tuple[str, ...] = ()
    rejected: dict[str, str] = {}
    fetched_bytes: int = 0
    boot: str = ""
    watermark: int = 0
    csr: str = ""
    certificate_expires_unix_ms: int = 0


class EnrollOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What enrolment needs; ``token`` is the fleet's claim token.

    ``answer``: the content of a file that ``edgekit-fleet enroll`` wrote, in place of the two.
    """

    fleet_url: str = ""
    token: str = ""
    answer: str = ""
    state_dir: str
    name: str = ""
    hardware: Facts | None = None


class Enrolment(msgspec.Struct, frozen=True, tag="enrolment", kw_only=True):
    """``identity/enrolment.json``: this device's identity, its fleet, and its roots of trust.

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
    """30 days before, or after two thirds of a short lifetime."""


def carried_folder(state_dir: Path) -> Path:
    """Return where ``edgekit agent install`` leaves ``bundle.ekb`` and its ``desired.json`` for the agent."""
    return state_dir / "carried"


def cameras_folder(state_dir: Path) -> Path:
    """Return where the fleet's camera list and the cameras' passwords are."""
    return state_dir / "cameras"


def fetched_cameras(state_dir: Path) -> Path:
    """Return where the updater leaves a camera list with its passwords, until it is checked."""
    return cameras_folder(state_dir) / "fetched.json"
