"""A network camera (RTSP), through FFmpeg's libraries."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec

from edgekit.core.addresses import shown
from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.libav import Decoder, libav
from edgekit.pipeline.packets import PacketRing, VideoPacket
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.rtsp_address import parse_address, read_password
from edgekit.pipeline.sources.rtsp_session import Access, Session
from edgekit.pipeline.sources.timing import DUE_S, Reopener

logger = logging.getLogger(__name__)

MAX_AGE_S = 0.8
"""A picture that is older once it is decoded is left out, and so is what depends on it."""
HINTS = {
    "AUTH_FAILED": "check user and password_file or password_env; some cameras lock an account for minutes",
    "NOT_FOUND": "check the address's path: edgekit cameras lists the streams of cameras with ONVIF",
    "TIMEOUT": "is the camera switched on, and its port open from here?",
    "CONNECTION_FAILED": "is the camera switched on, and the address right?",
    "CODEC_UNSUPPORTED": "set the camera to H.264 or H.265",
}


class RtspOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a network camera.

    ``uri``: the stream to detect on, ``rtsp://`` or ``rtsps://``. ``main_uri``: the stream of full size,
    whose packets are kept for clips and not decoded; without it, those of ``uri`` are. ``user``,
    ``password_file`` (its first line) or ``password_env`` (an environment variable): credentials.
    ``fingerprint``: the SHA-256 of the certificate that alone is accepted; ``ca``: the CAs to trust instead
    of the system's. ``open_s``: for connecting. ``stall_s``: without a picture for so long, the camera is
    connected again. ``give_up_s``: how long to retry a camera that is gone; 0 is forever.
    """

    uri: str
    main_uri: str = ""
    transport: Literal["tcp", "udp"] = "tcp"
    user: str = ""
    password_file: str = ""
    password_env: str = ""
    fingerprint: Annotated[str, msgspec.Meta(pattern="^([0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}$|^$")] = ""
    ca: str = ""
    open_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 5.0
    stall_s: Annotated[float, msgspec.Meta(gt=0, le=60)] = 2.0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0

    def problems(self) -> Iterator[str]:
        """Report addresses and credentials that cannot be right; no text has an address in it."""
        schemes = set()
        for key in ("uri", "main_uri"):
            if key == "uri" or self.main_uri:
                try:
                    schemes.add(parse_address(getattr(self, key)).scheme)
                except ValueError as problem:
                    yield f"{key}: {problem}"
        if self.password_file and self.password_env:
            yield "password_env: want this or password_file, got both"
        if (self.fingerprint or self.ca) and schemes == {"rtsp"}:
            yield f"{'fingerprint' if self.fingerprint else 'ca'}: want it with rtsps://, got rtsp://"
        if self.transport == "udp" and "rtsps" in schemes:
            yield 'transport: want "tcp" with rtsps://, got "udp", which is not encrypted'


class RtspSource:
    """Frames of a network camera: always the latest, decoded from packets that a thread receives.

    ``packets`` keeps the compressed stream for clips, once a sink asks it to.
    """

    Options = RtspOptions
    is_live = True

    def __init__(self, options: RtspOptions, context: SourceContext) -> None:
        self._options, self._context = options, context
        self._closing = threading.Event()
        self._in_use = threading.Lock()
        self.packets = PacketRing()
        self._halvings = self._seq = 0
        self._session: Session | None = None
        self._decoder: Decoder | None = None
        self._needs_keyframe = True
        name = f"rtsp {shown(options.uri)}"
        self.reopener = Reopener(name, self._opened, options.give_up_s, self._closing)
        self._main = (
            _MainStream(self._connected, self.packets, options.main_uri) if options.main_uri else None
        )

    @property
    def due_s(self) -> float | None:
        """Seconds within which a frame is due; None while the camera is being connected again."""
        return None if self.reopener.is_waiting else DUE_S

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the camera."""
        main = {} if self._main is None else {"main": self._main.reopener.state()}
        return {**self.reopener.state(), **main}

    def open(self) -> None:
        """Connect to the camera."""
        libav()  # a missing library is no fault of the camera
        if self._main is not None and self.packets.seconds:
            self._main.start()
        self._session = self.reopener.first()

    def halve(self, times: int) -> None:
        """Give images with each side halved so many times, from the next one on."""
        self._halvings = times

    def _opened(self) -> Session | None:
        on_packet = self.packets.add if self._main is None else _ignored
        session = self._connected(self._options.uri, on_packet, self._closing, keeps=True)
        if session is not None and session.info is not None:
            self._decoder = Decoder(session.info)
            self._needs_keyframe = True
        return session

    def _connected(
        self, uri: str, on_packet: Callable[[VideoPacket], object], closing: threading.Event, *, keeps: bool
    ) -> Session | None:
        """Return an open connection to one of the camera's streams; None when closing."""
        try:
            session = Session(self._access(uri), keeps=keeps, on_packet=on_packet)
            if session.wait_open(closing) is not None:
                return session
        except SourceError as error:
            raise SourceError(
                f"rtsp {shown(uri)}: {error.fault}: {error.message}",
                hint=error.hint or HINTS.get(error.fault, ""),
                fault=error.fault,
            ) from None
        session.close()
        return None

    def _access(self, uri: str) -> Access:
        """Return how to reach a stream, with the credentials as they are now."""
        options, path = self._options, self._context.path
        address = parse_address(uri)
        file = path(options.password_file) if options.password_file else None
        password = read_password(file, options.password_env) or address.password
        return Access(
            replace(address, user=options.user or address.user, password=password),
            options.transport,
            options.open_s,
            options.stall_s,
            options.fingerprint.replace(":", "").lower(),
            path(options.ca) if options.ca else None,
        )

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        with self._in_use:
            while not self._closing.is_set() and self._session is not None:
                packets, missing = self._session.take()
                if packets:
                    if (frame := self._latest(packets, missing)) is not None:
                        return frame
                elif (lost := self._session.lost()) is not None:
                    self._session = self.reopener.again(lost.message, lost.fault)
            self._release()
        return None

    def _latest(self, packets: list[VideoPacket], missing: int) -> Frame | None:
        """Decode packets and return the last picture, if it is fresh."""
        assert self._decoder is not None
        began_ns = time.monotonic_ns()
        last: tuple[VideoPacket, Any] | None = None
        for packet in self._decodable(packets, missing):
            for picture in self._decoder.decode(packet):
                last = packet, picture
        if last is None or self._is_late(last[0]):
            return None
        packet, picture = last
        pixels = self._decoder.image(picture, self._halvings)
        now_ns = time.monotonic_ns()
        unix_ms = (time.time_ns() - (now_ns - packet.captured_ns)) // 1_000_000
        meta = {
            "capture_ms": (now_ns - began_ns) / 1e6,
            "stream_s": float(packet.pts * packet.stream.time_base),
        }
        return Frame(pixels, self._seq - 1, packet.captured_ns, unix_ms, meta)

    def _decodable(self, packets: list[VideoPacket], missing: int) -> list[VideoPacket]:
        """Return the packets from the last keyframe on; none of those that depend on a lost one."""
        self._seq += missing + len(packets)  # those that are left out are gaps, and count as dropped
        keyframe = max((at for at, packet in enumerate(packets) if packet.is_keyframe), default=None)
        if keyframe is None:
            self._needs_keyframe |= missing > 0
            return [] if self._needs_keyframe else packets
        assert self._decoder is not None
        if keyframe or missing or self._needs_keyframe:
            self._decoder.forget()
        self._needs_keyframe = False
        return packets[keyframe:]

    def _is_late(self, packet: VideoPacket) -> bool:
        """Whether a picture is late; decoding does not keep up then, and goes on at the next keyframe."""
        is_late = time.monotonic_ns() - packet.captured_ns > MAX_AGE_S * 1e9
        self._needs_keyframe |= is_late
        return is_late

    def close(self) -> None:
        """End a wait, and the connections; a read that is connecting just now ends them when it returns."""
        self._closing.set()
        if self._main is not None:
            self._main.close()
        if (session := self._session) is not None:
            session.close(1.0)
        if self._in_use.acquire(timeout=1.0):
            self._release()
            self._in_use.release()

    def _release(self) -> None:
        """Free what holds memory at once: the source and its parts refer to each other."""
        session, self._session, self._decoder = self._session, None, None
        if session is not None:
            session.close()


def _ignored(_: VideoPacket) -> None:
    """Keep nothing of a packet."""


class _MainStream:
    """Fills the ring from the camera's other stream, in a thread, for as long as the source is open.

    ``connect`` is ``RtspSource._connected``. Its faults concern clips alone.
    """

    def __init__(self, connect: Callable[..., Session | None], packets: PacketRing, uri: str) -> None:
        self._closing = threading.Event()
        self._session: Session | None = None

        def opened() -> Session | None:
            return connect(uri, packets.add, self._closing, keeps=False)

        self.reopener = Reopener(f"rtsp {shown(uri)}", opened, 0.0, self._closing)
        self._thread = threading.Thread(target=self._run, name="rtsp-main", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def _run(self) -> None:
        try:
            self._session = self.reopener.first()
        except SourceError as error:
            self._session = self.reopener.again(error.message, error.fault)
        while self._session is not None and not self._closing.is_set():
            lost = self._session.lost()
            if lost is not None:
                self._session = self.reopener.again(lost.message, lost.fault)
        if self._session is not None:
            self._session.close()

    def close(self) -> None:
        """End the thread; safe to call twice, and before ``start``."""
        self._closing.set()
        if (session := self._session) is not None:
            session.close()
        if self._thread.ident is not None:
            self._thread.join(1.0)
