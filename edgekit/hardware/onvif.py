"""Network cameras that speak ONVIF: found by WS-Discovery, and asked for their streams.

What answers may be anything: answers are bounded in bytes, number and time, documents with a DTD are refused,
and only the address that answered is asked further.

Source: WS-Discovery 1.1; ONVIF Core and Media Service Specifications; WSS Username Token Profile 1.0.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import struct
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

from edgekit.base.http import Patience, Web
from edgekit.core.errors import EdgekitError, SourceError

MULTICAST = ("239.255.255.250", 3702)
_MAX_BYTES = 256 << 10
_MAX_CAMERAS, _MAX_STREAMS, _MAX_TEXT = 64, 16, 512
_ASK_S = 5.0
_ENVELOPE = (
    '<?xml version="1.0" encoding="utf-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope"'
    ' xmlns:a="http://schemas.xmlsoap.org/ws/2004/08/addressing">'
    "<s:Header>{header}</s:Header><s:Body>{body}</s:Body></s:Envelope>"
)
_PROBE_HEADER = (
    "<a:Action>http://schemas.xmlsoap.org/ws/2005/04/discovery/Probe</a:Action><a:MessageID>urn:uuid:{id}"
    "</a:MessageID><a:To>urn:schemas-xmlsoap-org:ws:2005:04:discovery</a:To>"
)
_PROBE = (
    '<Probe xmlns="http://schemas.xmlsoap.org/ws/2005/04/discovery"><Types'
    ' xmlns:n="http://www.onvif.org/ver10/network/wsdl">n:NetworkVideoTransmitter</Types></Probe>'
)
_WSSE = "http://docs.oasis-open.org/wss/2004/01/oasis-200401-wss-"
_SECURITY = (
    f'<Security xmlns="{_WSSE}wssecurity-secext-1.0.xsd"><UsernameToken><Username>{{user}}</Username>'
    f'<Password Type="{_WSSE}username-token-profile-1.0#PasswordDigest">{{digest}}</Password>'
    f"<Nonce>{{nonce}}</Nonce>"
    f'<Created xmlns="{_WSSE}wssecurity-utility-1.0.xsd">{{created}}</Created></UsernameToken></Security>'
)
_DEVICE, _MEDIA = "http://www.onvif.org/ver10/device/wsdl", "http://www.onvif.org/ver10/media/wsdl"
_STREAM_URI = (
    '<GetStreamUri xmlns="{media}"><StreamSetup><Stream xmlns="http://www.onvif.org/ver10/schema">RTP-Unicast'
    '</Stream><Transport xmlns="http://www.onvif.org/ver10/schema"><Protocol>RTSP</Protocol></Transport>'
    "</StreamSetup><ProfileToken>{token}</ProfileToken></GetStreamUri>"
)


@dataclass(frozen=True)
class OnvifStream:
    """One stream of a camera; the size is 0 where the camera does not say it."""

    uri: str
    codec: str
    width_px: int
    height_px: int


@dataclass(frozen=True)
class OnvifCamera:
    """A camera that answered; ``problem`` says why there is no stream of it."""

    host: str
    service: str
    name: str
    streams: tuple[OnvifStream, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Login:
    """A user's name and password, for every camera that is asked."""

    user: str = ""
    password: str = field(default="", repr=False)


def discover(wait_s: float, target: tuple[str, int] = MULTICAST) -> tuple[OnvifCamera, ...]:
    """Return the cameras that answer a probe within ``wait_s``, without their streams, at most 64.

    ``target`` is everybody on the networks of this machine, or the address of one camera.

    Raises:
        SourceError: There is no such address.
    """
    found: dict[str, OnvifCamera] = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        _send_probe(probe, target)
        end_s = time.monotonic() + wait_s
        while len(found) < _MAX_CAMERAS and (left_s := end_s - time.monotonic()) > 0:
            probe.settimeout(left_s)
            try:
                data, (host, _) = probe.recvfrom(_MAX_BYTES)
            except OSError:
                break
            if host not in found and (camera := _match(data, host)) is not None:
                found[host] = camera
            if target != MULTICAST and found:
                break
    return tuple(found[host] for host in sorted(found))


def _send_probe(probe: socket.socket, target: tuple[str, int]) -> None:
    header = _PROBE_HEADER.format(id=uuid.uuid4())
    data = _ENVELOPE.format(header=header, body=_PROBE).encode()
    if target != MULTICAST:
        try:
            probe.sendto(data, target)
        except (OSError, UnicodeError) as cause:
            why = getattr(cause, "strerror", None) or cause
            raise SourceError(f"{target[0]!r} cannot be asked: {why}", fault="CONNECTION_FAILED") from None
        return
    for index, _ in socket.if_nameindex():
        with contextlib.suppress(OSError):  # an interface without an address
            # ip_mreqn of ip(7)
            way = struct.pack("4s4si", socket.inet_aton(target[0]), bytes(4), index)
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, way)
            probe.sendto(data, target)


def _match(data: bytes, host: str) -> OnvifCamera | None:
    try:
        root = _parsed(data)
    except SourceError:
        return None
    services = [url for text in _texts(root, "XAddrs") for url in text.split() if _is_of(url, host)]
    if not services:
        return None
    scopes = [scope for text in _texts(root, "Scopes") for scope in text.split()]
    names = {kind: _scope(scopes, kind) for kind in ("name", "hardware")}
    return OnvifCamera(host, services[0], " ".join(filter(None, names.values())) or host)


def _scope(scopes: list[str], kind: str) -> str:
    start = f"onvif://www.onvif.org/{kind}/"
    value = next((scope[len(start) :] for scope in scopes if scope.startswith(start)), "")
    return printable(unquote(value))[:64]


def printable(text: str) -> str:
    """Return a text without what would move a terminal's cursor or begin a line."""
    return "".join(filter(str.isprintable, text))


def _is_of(url: str, host: str) -> bool:
    """Whether a URL leads to the machine that named it, so that no answer sends us elsewhere."""
    try:
        parts = urlsplit(url)
        is_whole = parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        return False
    is_shown = len(url) <= _MAX_TEXT and url.isascii() and url.isprintable()
    return parts.scheme in ("http", "https") and parts.hostname == host and is_whole and is_shown


def _parsed(data: bytes) -> ET.Element:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    # as text, so that no encoding that the document states hides its DTD
    if "<!" in text:  # could name entities that grow; SOAP has none
        raise SourceError("the answer has a DTD")
    try:
        return ET.fromstring(text)  # noqa: S314 - bounded, and without a DTD
    except (ET.ParseError, ValueError) as cause:
        raise SourceError(f"the answer is not XML: {cause}") from None


def _texts(root: ET.Element, name: str) -> list[str]:
    return [(node.text or "").strip() for node in _nodes(root, name)]


def _nodes(root: ET.Element, name: str) -> list[ET.Element]:
    return [node for node in root.iter() if str(node.tag).rpartition("}")[2] == name]


def with_streams(camera: OnvifCamera, login: Login) -> OnvifCamera:
    """Return the camera with its streams, the largest first; or with why it tells none."""
    try:
        streams = _Asker(camera, login).streams()
    except EdgekitError as error:
        problem = printable(error.message)[:_MAX_TEXT]
        return OnvifCamera(camera.host, camera.service, camera.name, problem=problem)
    ordered = sorted(streams, key=lambda stream: -stream.width_px * stream.height_px)
    problem = "" if ordered else "it names no stream"
    return OnvifCamera(camera.host, camera.service, camera.name, tuple(ordered), problem)


class _Asker:
    def __init__(self, camera: OnvifCamera, login: Login) -> None:
        self._camera, self._login = camera, login
        self._web = Web(None, Patience(time.monotonic() + _ASK_S, _ASK_S), silence_s=_ASK_S)
        self._ahead = timedelta()

    def streams(self) -> list[OnvifStream]:
        service = self._camera.service
        if self._login.user:
            self._ahead = self._clock_ahead()
        body = f'<GetCapabilities xmlns="{_DEVICE}"><Category>Media</Category></GetCapabilities>'
        places = [url for url in _texts(self._ask(service, body), "XAddr") if _is_of(url, self._camera.host)]
        if not places:
            raise SourceError("it names no media service of its own address")
        profiles = _nodes(self._ask(places[0], f'<GetProfiles xmlns="{_MEDIA}"/>'), "Profiles")
        return [stream for row in profiles[:_MAX_STREAMS] if (stream := self._stream(places[0], row))]

    def _stream(self, media: str, profile: ET.Element) -> OnvifStream | None:
        encoders = _nodes(profile, "VideoEncoderConfiguration")
        token = profile.get("token", "")
        if not encoders or not token:
            return None
        answer = self._ask(media, _STREAM_URI.format(media=_MEDIA, token=escape(token)))
        uri = next((self._own(text) for text in _texts(answer, "Uri")), "")
        if not uri:
            return None
        codec = printable(next(iter(_texts(encoders[0], "Encoding")), ""))[:16]
        width, height = (_number(encoders[0], name) for name in ("Width", "Height"))
        return OnvifStream(uri, codec, width, height)

    def _own(self, uri: str) -> str:
        """Return a stream's address at the host that answered, without credentials; empty if it is none."""
        try:
            parts = urlsplit(uri)
            port = parts.port
        except ValueError:
            return ""
        if parts.scheme not in ("rtsp", "rtsps") or not uri.isprintable() or len(uri) > _MAX_TEXT:
            return ""
        place = self._camera.host + (f":{port}" if port else "")
        return f"{parts.scheme}://{place}{parts.path}" + (f"?{parts.query}" if parts.query else "")

    def _clock_ahead(self) -> timedelta:
        """Return how far the camera's clock is ahead of this one: a digest holds for seconds."""
        question = f'<GetSystemDateAndTime xmlns="{_DEVICE}"/>'
        try:
            answer = self._ask(self._camera.service, question, is_anonymous=True)
        except SourceError:  # some want a login even for this; then its clock has to be right
            return timedelta()
        for node in _nodes(answer, "UTCDateTime"):
            numbers = [_number(node, name) for name in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
            try:
                return datetime(*numbers, tzinfo=timezone.utc) - datetime.now(timezone.utc)  # type: ignore[arg-type,misc]
            except (ValueError, OverflowError):
                break
        return timedelta()

    def _ask(self, url: str, body: str, *, is_anonymous: bool = False) -> ET.Element:
        header = "" if is_anonymous or not self._login.user else self._security()
        data = _ENVELOPE.format(header=header, body=body).encode()
        headers = {"Content-Type": "application/soap+xml; charset=utf-8"}
        status, answer = self._web.send("POST", url, _MAX_BYTES, data, headers)
        if status in (401, 403) or b"NotAuthorized" in answer:
            wants = "it wants a user and a password (--user, --password-file)"
            refuses = "it refuses this user and password, or its clock runs wrong"
            raise SourceError(refuses if header else wants, fault="AUTH_FAILED")
        if status != 200:
            raise SourceError(f"it answered {status}")
        return _parsed(answer)

    def _security(self) -> str:
        nonce = os.urandom(16)
        created = (datetime.now(timezone.utc) + self._ahead).strftime("%Y-%m-%dT%H:%M:%SZ")
        secret = nonce + created.encode() + self._login.password.encode()
        digest = hashlib.sha1(secret, usedforsecurity=False).digest()  # what the profile prescribes
        return _SECURITY.format(
            user=escape(self._login.user),
            digest=base64.b64encode(digest).decode(),
            nonce=base64.b64encode(nonce).decode(),
            created=created,
        )


def _number(root: ET.Element, name: str) -> int:
    text = next(iter(_texts(root, name)), "")
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 6 else 0


def best_two(streams: tuple[OnvifStream, ...]) -> tuple[OnvifStream, OnvifStream]:
    """Return the stream to detect on, and the one to keep clips of.

    The first is the smallest that is at least 320 wide, and of H.264 or H.265 where there is such; the second
    the largest.
    """
    by_size: Callable[[OnvifStream], int] = lambda stream: stream.width_px * stream.height_px  # noqa: E731
    coded = [stream for stream in streams if stream.codec.upper() in ("H264", "H265")] or list(streams)
    small = [stream for stream in coded if stream.width_px >= 320] or coded
    return min(small, key=by_size), max(coded, key=by_size)
