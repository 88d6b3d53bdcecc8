"""A camera through V4L2, by way of OpenCV."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec

from edgekit.core.errors import SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.pre import vision
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import Reopener, stamp

HINT = (
    "is it plugged in, free, and may this user read it (group 'video')? edgekit cameras lists what there is"
)
Length = Annotated[int, msgspec.Meta(ge=0, le=16384)]


class CameraOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a camera; 0 leaves a setting as the camera has it.

    ``uri``: a number or a device node; a link below ``/dev/v4l/by-id`` names one camera, whatever its number
    is after a reboot or when it is plugged in again. ``fourcc``: MJPG gives most USB cameras their full rate.
    ``give_up_s``: how long to retry a camera that vanished; 0 is forever.
    """

    uri: str = "0"
    fps: Annotated[float, msgspec.Meta(ge=0, le=1000)] = 0.0
    width: Length = 0
    height: Length = 0
    fourcc: Annotated[str, msgspec.Meta(pattern="^(.{4})?$")] = ""
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0

    def problems(self) -> Iterator[str]:
        """Say what an address is for."""
        if "://" in self.uri:
            kind = "rtsp" if self.uri.startswith("rtsp") else "http"
            yield f'uri: want a number or a device node, got an address (kind = "{kind}" takes one)'


class CameraSource:
    """Frames of a camera; the driver's queue is one frame long, so that none grows old in it.

    ``open_device`` returns an object like ``cv2.VideoCapture``; for tests.
    """

    Options = CameraOptions
    is_live = True

    def __init__(
        self,
        options: CameraOptions,
        context: SourceContext,  # noqa: ARG002 - every source takes one
        open_device: Callable[[CameraOptions], Any] | None = None,
    ) -> None:
        self._options = options
        self._open_device = open_device or open_v4l2
        self._closing = threading.Event()
        self._in_use = threading.Lock()
        self._device: Any = None
        self._full: tuple[float, float] | None = None  # once its resolution is halved
        self._halvings = self._set_halvings = 0
        self._seq = 0
        self._name = f"camera {options.uri!r}"
        self.reopener = Reopener(self._name, self._opened, options.give_up_s, self._closing)

    @property
    def due_s(self) -> float | None:
        """Seconds within which a frame is due; None while the camera is being reopened."""
        return None if self.reopener.is_waiting else 10.0

    def open(self) -> None:
        """Open the camera."""
        self._device = self.reopener.first()

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of the camera."""
        return self.reopener.state()

    def halve(self, times: int) -> None:
        """Set the resolution, from the next frame on: the configured one, halved so many times."""
        self._halvings = times

    def _resize(self) -> None:
        cv2 = vision()
        sides = (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        self._full = self._full or (self._device.get(sides[0]), self._device.get(sides[1]))
        for side, full_px in zip(sides, self._full, strict=True):
            self._device.set(side, int(full_px) >> self._halvings)
        self._set_halvings = self._halvings

    def _opened(self) -> Any:
        self._set_halvings = 0
        if not self._options.uri.isdigit() and not Path(self._options.uri).exists():
            others = sorted(str(path) for path in Path(self._options.uri).parent.glob("*"))[:8]
            beside = (
                f"; beside it there is {', '.join(others)}" if others and "by-" in self._options.uri else ""
            )
            raise SourceError(
                f"{self._name}: cannot be opened: NOT_FOUND: it is not there",
                hint=HINT + beside,
                fault="NOT_FOUND",
            )
        device = self._open_device(self._options)
        if not device.isOpened():
            device.release()
            raise SourceError(
                f"{self._name}: cannot be opened",
                hint=HINT,
            )
        return device

    def read(self) -> Frame | None:
        """Wait for the next frame; None after ``close``."""
        while not self._closing.is_set():
            with self._in_use:
                if self._device is None:
                    break
                if self._halvings != self._set_halvings:
                    self._resize()
                is_there = self._device.grab()
                captured_ns, unix_ms = stamp()  # before decoding: the time of exposure
                pixels = self._device.retrieve()[1] if is_there else None
            if pixels is not None:
                decoded_ms = (time.monotonic_ns() - captured_ns) / 1e6
                self._seq += 1
                return Frame(pixels, self._seq - 1, captured_ns, unix_ms, {"capture_ms": decoded_ms})
            self._release()
            self._device = self.reopener.again("it gave no frame")
        return None

    def close(self) -> None:
        """Free the camera; a read that waits in the driver frees it when it returns."""
        self._closing.set()
        if self._in_use.acquire(timeout=1.0):
            self._in_use.release()
            self._release()

    def _release(self) -> None:
        with self._in_use:
            if self._device is not None:
                self._device.release()
            self._device = None


def open_v4l2(options: CameraOptions) -> Any:
    """Return an OpenCV capture with the options set, which may not be open."""
    cv2 = vision()
    uri: int | str = int(options.uri) if options.uri.isdigit() else options.uri
    device = cv2.VideoCapture(uri, cv2.CAP_V4L2)
    if options.fourcc:
        device.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*options.fourcc))
    settings = {
        cv2.CAP_PROP_FRAME_WIDTH: options.width,
        cv2.CAP_PROP_FRAME_HEIGHT: options.height,
        cv2.CAP_PROP_FPS: options.fps,
        cv2.CAP_PROP_BUFFERSIZE: 1,
    }
    for setting, value in settings.items():
        if value:
            device.set(setting, value)
    return device
