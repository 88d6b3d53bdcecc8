"""A publisher, a fleet and its web server, small but real, for the tests of this folder."""

from __future__ import annotations

import datetime as dt
import hashlib
import http.server
import ipaddress
import json
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edgekit.core import wire
from edgekit.core.spec import Golden, Manifest, Requires, Variant, VariantFile
from edgekit.update.contract import Enrolment

DEVICE = "cam-1"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def in_days(days: float) -> dt.datetime:
    return (dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=days)).replace(microsecond=0)


def make_bundle(
    version: str, model: str = "m", size: int = 300_000, **changes
) -> tuple[bytes, dict[str, bytes]]:
    """A manifest of two variants (the second only for riscv64) and the contents of its files, by path."""
    contents = {
        "labels.txt": b"person\ncar",
        "golden/0.npz": b"golden",
        "v/a.bin": version.encode() * (size // len(version)),
        "v/b.bin": b"b" * 1000,
    }
    listed = {p: VariantFile(path=p, bytes=len(d), sha256=digest(d)) for p, d in contents.items()}
    manifest = Manifest(
        format=1, model=model, version=version, task="raw", inputs=(), outputs=(), labels="labels.txt",
        golden=(Golden(inputs="golden/0.npz", outputs="golden/0.npz"),),
        variants=(
            Variant(id="a", backend="onnxruntime", files=(listed["v/a.bin"],)),
            Variant(
                id="b", backend="onnxruntime", files=(listed["v/b.bin"],),
                requires=Requires(arch=("riscv64",)),
            ),
        ),
        files=(listed["labels.txt"], listed["golden/0.npz"]),
    )  # fmt: skip
    return msgspec.json.encode(msgspec.structs.replace(manifest, **changes)), contents


class Server(http.server.ThreadingHTTPServer):
    """Serves bytes by path, with Range; ``faults`` maps a path to what goes wrong there."""

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.posted: list[bytes] = []
        self.answers: dict[str, Callable[[bytes], tuple[int, bytes]]] = {}
        self.scheme = "http"
        super().__init__(("127.0.0.1", 0), _Handler)
        if context is not None:
            self.scheme = "https"
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def stop(self) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that goes away is part of the tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_POST(self):
        sent = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append(sent)
        status, body = self.server.answers.get(self.path, lambda _: (404, b"{}"))(sent)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):  # noqa: C901 - one line for each fault
        wanted = self.headers.get("Range", "")
        self.server.asked.append((self.path, wanted))
        waiting = self.server.faults.get(self.path, [])
        fault = waiting.pop(0) if waiting else ""
        body = self.server.files.get(self.path)
        if body is None or fault == "missing":
            return self.send_error(404)
        if fault == "busy":
            return self.send_error(503)
        if fault == "redirect":
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        start = int(wanted.removeprefix("bytes=").split("-")[0]) if wanted and fault != "norange" else 0
        if wanted and fault != "norange":
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        body = body[start:]
        if fault == "wrong":
            body = b"?" * len(body)
        if fault == "endless":
            self.end_headers()
            while True:
                self.wfile.write(b"e" * 65536)
        if fault == "short":
            body = body[: len(body) // 2]
        if fault == "drip":
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for byte in body:
                self.wfile.write(bytes([byte]))
                self.wfile.flush()
                threading.Event().wait(0.05)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if fault == "drop" else body)
        if fault == "drop":
            self.wfile.flush()
            self.close_connection = True
        return None


class Fleet:
    """A TUF repository with separate keys for each role, and a fleet that signs desired states."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.signers = {
            role: CryptoSigner.generate_ed25519() for role in ("root", "targets", "snapshot", "timestamp")
        }
        self.desired_key = Ed25519PrivateKey.generate()
        self.days = dict.fromkeys(self.signers, 30.0)
        root = Root(version=1, expires=in_days(365), consistent_snapshot=True)
        for role, signer in self.signers.items():
            root.add_key(signer.public_key, role)
        self.root = Metadata(root)
        self.root.sign(self.signers["root"])
        self.targets = Targets(version=1, expires=in_days(365))
        self.versions = {"targets": 0, "snapshot": 0, "timestamp": 0}
        self.first_root = self.root.to_bytes()
        self._serve("1.root.json", self.first_root)
        self.publish_metadata()

    def _serve(self, name: str, data: bytes) -> None:
        self.server.files[f"/tuf/metadata/{name}"] = data

    def publish_metadata(self, *, sign_targets_with: CryptoSigner | None = None) -> None:
        self.versions["targets"] += 1
        self.targets.version = self.versions["targets"]
        self.targets.expires = in_days(self.days["targets"])
        targets = Metadata(self.targets)
        targets.sign(sign_targets_with or self.signers["targets"])
        self._serve(f"{self.targets.version}.targets.json", targets.to_bytes())
        self.versions["snapshot"] += 1
        snapshot = Metadata(
            Snapshot(
                version=self.versions["snapshot"], expires=in_days(self.days["snapshot"]),
                meta={"targets.json": MetaFile(self.targets.version)},
            )
        )  # fmt: skip
        snapshot.sign(self.signers["snapshot"])
        self._serve(f"{self.versions['snapshot']}.snapshot.json", snapshot.to_bytes())
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        self.versions["timestamp"] += 1
        timestamp = Metadata(
            Timestamp(
                version=self.versions["timestamp"], expires=in_days(self.days["timestamp"]),
                snapshot_meta=MetaFile(self.versions["snapshot"]),
            )
        )  # fmt: skip
        timestamp.sign(self.signers["timestamp"])
        self._serve("timestamp.json", timestamp.to_bytes())

    def publish(self, manifest: bytes, contents: dict[str, bytes], *, sign: bool = True) -> wire.DesiredModel:
        """Put a bundle on the server and, as its publisher, sign it; returns how to want it."""
        named = json.loads(manifest)
        model, version = named["model"], named["version"]
        path = wire.target_path(model, version)
        target = TargetFile.from_data(path, manifest, ["sha256"])
        target.unrecognized_fields["custom"] = {"model": model, "version": version}
        if sign:
            self.targets.targets[path] = target
            self.publish_metadata()
        self.server.files[f"/tuf/targets/{model}/{version}/{digest(manifest)}.bundle.json"] = manifest
        for data in contents.values():
            self.server.files[f"/tuf/targets/blobs/{digest(data)}"] = data
        return wire.DesiredModel(version, path, digest(manifest), len(manifest), rollout="r1")

    @property
    def keyid(self) -> str:
        return digest(self.public)[:16]

    @property
    def public(self) -> bytes:
        return self.desired_key.public_key().public_bytes(
            serialization.Encoding.Raw, serialization.PublicFormat.Raw
        )

    def desire(self, version: int, device: str = DEVICE, key=None, keyid=None, **models) -> str:
        unsigned = wire.encode(wire.Desired(device, version, models))
        signature = (key or self.desired_key).sign(wire.signed_bytes(unsigned))
        document = json.loads(unsigned)
        document["signature"] = {"keyid": keyid or self.keyid, "sig": signature.hex()}
        return json.dumps(document)

    def enrolment(self) -> Enrolment:
        return Enrolment(
            device=DEVICE,
            fleet_url=self.server.url,
            broker_url="mqtt://127.0.0.1:1",
            metadata_url=f"{self.server.url}/tuf/metadata",
            targets_url=f"{self.server.url}/tuf/targets",
            root=self.first_root.decode(),
            desired_keys={self.keyid: self.public.hex()},
        )

    def enrol(self, state_dir: Path) -> None:
        """Give a device its identity, without the ceremony."""
        folder = state_dir / "identity"
        folder.mkdir(parents=True)
        (folder / "enrolment.json").write_bytes(msgspec.json.encode(self.enrolment()))


SIGNS_CERTIFICATES = x509.KeyUsage(
    key_cert_sign=True, crl_sign=True, digital_signature=False, content_commitment=False,
    key_encipherment=False, data_encipherment=False, key_agreement=False,
    encipher_only=False, decipher_only=False,
)  # fmt: skip
"""Python 3.13 and later refuse a CA without it."""


class Authority:
    """The fleet's CA."""

    def __init__(self, name: str = "fleet") -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certify()

    def certify(self) -> None:
        """Sign the CA's own certificate; a second time it is a renewal."""
        public = self.key.public_key()
        builder = self._builder(self.name, public)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        builder = builder.add_extension(SIGNS_CERTIFICATES, critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        self.certificate = builder.sign(self.key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.sha256 = digest(self.certificate.public_bytes(serialization.Encoding.DER))

    def _builder(self, subject: x509.Name, public) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self.name).public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(in_days(-30)).not_valid_after(in_days(60))
        )  # fmt: skip

    def issue(self, public, name: str) -> str:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        builder = self._builder(subject, public)
        builder = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()

    def sign(self, csr: str, name: str) -> str:
        request = x509.load_pem_x509_csr(csr.encode())
        assert request.is_signature_valid
        return self.issue(request.public_key(), name)

    def server_context(self, folder: Path) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        (folder / "server.key").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        (folder / "server.crt").write_text(self.issue(key.public_key(), "server"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
        return context
