"""Files for a mosquitto that somebody else runs: a configuration, and an access list that isolates devices.

The files make mosquitto trust the fleet's CA, and take the name in a certificate as the device. One that the
fleet manager starts by itself is in ``own_mosquitto``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from edgekit.base.files import write_durably
from edgekit.core import wire
from edgekit_fleet.identity.authority import FLEET_NAME, Authority


@dataclass(frozen=True)
class MosquittoTls:
    """Certificate and key of the listener, the CA of the clients' certificates, and which are revoked."""

    certificate: Path
    key: Path
    ca: Path
    crl: Path


def write_files(folder: Path, *, host: str, port: int, tls: MosquittoTls | None) -> Path:
    """Write ``mosquitto.conf`` and ``acl`` below a folder and return the configuration's path.

    Args:
        folder: The folder for them; mosquitto keeps its messages there too.
        host: Address to listen on.
        port: Port to listen on.
        tls: Files of the listener; None for plain TCP without access control, for tests on loopback.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_durably(folder / "acl", ACCESS_LIST.encode())
    path = folder / "mosquitto.conf"
    write_durably(path, configuration(folder, host=host, port=port, tls=tls).encode())
    return path


def hand_over(folder: Path, authority: Authority, host: str, port: int, serials: Iterable[str]) -> Path:
    """Write every file that a mosquitto of this fleet needs, its certificate included.

    Existing files are kept, so that mosquitto needs no reload; delete the folder to write new ones.

    Args:
        folder: The folder for them; mosquitto's user must be able to read it.
        authority: The fleet's CA.
        host: How devices reach the broker.
        port: The broker's port.
        serials: The certificates that are revoked now; ``GET /api/v1/crl`` has the list from then on.

    Returns:
        The configuration's path.
    """
    names = ("server.crt", "server.key", "ca.crt", "crl.pem")
    files = MosquittoTls(*(folder / name for name in names))
    if not (folder / "mosquitto.conf").exists():
        certificate, key = authority.server_files("mosquitto", [host, "localhost", "127.0.0.1"])
        write_durably(files.certificate, certificate.read_bytes())
        write_durably(files.key, key.read_bytes(), mode=0o640)
        write_durably(files.ca, authority.certificate_pem.encode())
        write_durably(files.crl, authority.revocation_list(serials).encode())
        write_files(folder, host="0.0.0.0", port=port, tls=files)  # noqa: S104 - devices must reach it; TLS is on
    return folder / "mosquitto.conf"


DEVICES_ACCESS = f"""# a device publishes below its up, subscribes below its down; %u is its certificate's CN
pattern write {wire.ROOT}/%u/up/#
pattern read {wire.ROOT}/%u/down/#
"""
ACCESS_LIST = f"""# the fleet manager
user {FLEET_NAME}
topic readwrite {wire.ROOT}/#

{DEVICES_ACCESS}"""


def configuration(folder: Path, *, host: str, port: int, tls: MosquittoTls | None) -> str:
    """Return the configuration.

    ``max_queued_messages 0``: by default mosquitto drops acknowledged messages beyond 1000 (measured:
    869 of 40,000). ``max_inflight_messages``: the default of 20 makes ingest wait for round trips.
    """
    common = f"""# written by edgekit-fleet
per_listener_settings false
listener {port} {host}
persistence true
persistence_location {folder}/
autosave_interval 60
max_queued_messages 0
max_inflight_messages 1000
max_packet_size {wire.MAX_MESSAGE_BYTES * 2}
"""
    if tls is None:
        return common + "allow_anonymous true\n"
    return (
        common
        + f"""allow_anonymous false
cafile {tls.ca}
certfile {tls.certificate}
keyfile {tls.key}
crlfile {tls.crl}
require_certificate true
use_identity_as_username true
acl_file {folder}/acl
"""
    )
