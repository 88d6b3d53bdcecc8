"""Sound of a WAV or FLAC file, or of a microphone through ALSA, as windows of a waveform model."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Annotated, Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.check import Options
from edgekit.pipeline.picture_files import readable
from edgekit.pipeline.resample import Resampler, filter_values
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.timing import DUE_S, Player, Reopener, stamp

_MOST_FILTER_VALUES = 1 << 21
"""200 MB while the filter is made; usual rates need some thousand."""
_MOST_TIMES = 64
"""How much more samples may become."""
_Adapter: TypeAlias = "Callable[[NDArray[np.float32]], NDArray[np.float32]]"
_DEVICES = ("hw:", "plughw:", "default", "alsa:")


class AudioOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of sound.

    ``uri``: a file, or an ALSA device such as "default" or "plughw:1,0". ``channel``: which one, from 0; -1
    is their mean. ``realtime``: play a file at its own pace; ``loop``: again at its end. ``rate_hz``: of a
    device, 0 for the model's. ``give_up_s``: how long to retry a device that vanished; 0 is forever.
    """

    uri: str
    channel: Annotated[int, msgspec.Meta(ge=-1, le=63)] = -1
    realtime: bool = False
    loop: bool = False
    rate_hz: Annotated[int, msgspec.Meta(ge=0, le=768_000)] = 0
    give_up_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0


class AudioSource:
    """Windows of mono samples from -1 to 1, at the model's rate.

    Raises:
        ConfigError: The model takes no windows of one channel, or does not say its rate.
    """

    Options = AudioOptions
    slots = 8

    def __init__(self, options: AudioOptions, context: SourceContext) -> None:
        if not context.window or context.channels != 1 or not context.rate_hz:
            raise ConfigError(
                "source 'audio': want a model of windows of one channel at a stated rate",
                hint="its bundle says pre.window and pre.rate_hz",
            )
        self._options, self._rate_hz = options, round(context.rate_hz)
        is_device = options.uri.startswith(_DEVICES)
        self.path = None if is_device else context.path(options.uri)
        self.is_live = is_device or options.realtime
        self._closing = threading.Event()
        self._player = None if is_device or not options.realtime else Player(self._closing)
        self._window = context.window
        self._cutter = Cutter(context.window, context.hop)
        self._ready: deque[tuple[int, NDArray[np.float32], int]] = deque()
        self._blocks: Iterator[NDArray[np.float32] | None] = iter(())
        self._overflows = 0
        name = f"audio {options.uri!r}"
        self.reopener = Reopener(name, self._recording, options.give_up_s, self._closing)

    @property
    def due_s(self) -> float | None:
        """Seconds within which a window is due; None while the device is being reopened."""
        if self.reopener.is_waiting:
            return None
        return DUE_S if self._player is None else self._player.due_s

    def counts(self) -> dict[str, int]:
        """Return how often a device's buffer ran over."""
        return {"overflows": self._overflows} if self.path is None else {}

    def state(self) -> dict[str, Any]:
        """Return what ``status`` says of a device."""
        return self.reopener.state() if self.path is None else {}

    def open(self) -> None:
        """Open the file or device."""
        self._blocks = self.reopener.first() if self.path is None else self._file()

    def read(self) -> Frame | None:
        """Wait for the next window; None at the end or after ``close``."""
        while not self._ready and not self._closing.is_set():
            try:
                block = next(self._blocks)
            except StopIteration:
                return None
            except SourceError as lost:
                if self.path is not None:
                    raise
                self._cutter.gap()
                blocks = self.reopener.again(lost.message)
                if blocks is None:
                    return None
                self._blocks = blocks
                continue
            if block is None:
                self._cutter.gap()
            else:
                self._ready.extend(self._cutter.push(block))
        if self._closing.is_set():
            return None
        seq, window, end = self._ready.popleft()
        media_s = end / self._rate_hz
        if self._player is not None:
            self._player.wait_until(media_s)
        return Frame(window, seq, *stamp(), {"media_s": round(media_s, 6)})

    # -- files

    def _file(self) -> Iterator[NDArray[np.float32] | None]:
        """Yield the file's blocks at the model's rate; None where it begins again."""
        assert self.path is not None
        library, name = soundfile(), f"audio {readable(self.path)!r}"
        while True:
            try:
                with self.path.open("rb") as raw, library.SoundFile(raw) as file:
                    samples = 0
                    for block in file_blocks(file, self._rate_hz, self._options.channel):
                        samples += len(block)
                        yield block
            except (OSError, library.LibsndfileError) as cause:
                why = getattr(cause, "error_string", cause)  # without the open file's name in Python
                raise SourceError(f"{name}: is no sound that libsndfile can decode: {why}") from cause
            except SourceError as error:
                raise SourceError(f"{name}: {error.message}", hint=error.hint) from error
            if not samples:
                raise SourceError(f"{name}: has no sound")
            if samples < self._window:
                has = f"{name}: has {samples} samples at the model's {self._rate_hz} Hz"
                raise SourceError(f"{has}, a window is {self._window}")
            if not self._options.loop:
                return
            yield None

    # -- devices

    def _recording(self) -> Iterator[NDArray[np.float32] | None]:
        """Open the device and return its blocks; None where its buffer ran over."""
        library = sounddevice()
        rate_hz = self._options.rate_hz or self._rate_hz
        try:
            adapted = _adapted(rate_hz, self._rate_hz, self._options.channel)
        except SourceError as error:
            raise SourceError(f"audio {self._options.uri!r}: {error.message}") from error
        try:
            stream = library.InputStream(
                samplerate=rate_hz, device=self._options.uri, dtype="float32", blocksize=rate_hz // 10
            )
            stream.start()
        except (library.PortAudioError, ValueError) as cause:
            raise SourceError(
                f"audio {self._options.uri!r}: cannot be opened: {cause}",
                hint="devices: python -m sounddevice; may this user record (group 'audio')?",
            ) from cause
        return self._of_device(stream, rate_hz, adapted)

    def _of_device(
        self, stream: Any, rate_hz: int, adapted: _Adapter
    ) -> Iterator[NDArray[np.float32] | None]:
        try:
            while not self._closing.is_set():
                block, is_over = stream.read(rate_hz // 10)
                if is_over:
                    self._overflows += 1
                    yield None
                yield adapted(np.asarray(block))
        except sounddevice().PortAudioError as cause:
            raise SourceError(f"audio {self._options.uri!r}: {cause}") from cause
        finally:
            stream.close()

    def close(self) -> None:
        """End a wait; the reader frees the device with its next block."""
        self._closing.set()


def file_blocks(file: Any, rate_hz: int, channel: int) -> Iterator[NDArray[np.float32]]:
    """Yield an open sound file's blocks, (samples, 1), at a rate; ``channel`` -1 is the mean of all.

    Raises:
        SourceError: It has no such channel, a sample that is no number, or a rate that cannot be turned into
            this one.
    """
    adapted = _adapted(int(file.samplerate), rate_hz, channel)
    while len(block := file.read(max(1, file.samplerate // 10), "float32", always_2d=True)):
        yield adapted(block)


def _adapted(from_hz: int, to_hz: int, channel: int) -> _Adapter:
    """Return what makes mono at a rate of a recording's blocks, (samples, channels)."""
    if to_hz > _MOST_TIMES * from_hz or filter_values(from_hz, to_hz) > _MOST_FILTER_VALUES:
        raise SourceError(
            f"{from_hz} Hz cannot be turned into the model's {to_hz} Hz",
            hint=f"convert it first, such as: sox IN.wav -r {to_hz} OUT.wav",
        )
    resampler = None if from_hz == to_hz else Resampler(from_hz, to_hz)

    def adapt(block: NDArray[np.float32]) -> NDArray[np.float32]:
        if channel >= block.shape[1]:
            raise SourceError(f"channel: want at most {block.shape[1] - 1}, got {channel}")
        mono = block.mean(axis=1, keepdims=True) if channel < 0 else block[:, channel : channel + 1]
        if not np.isfinite(mono).all():
            raise SourceError("a sample is no number")
        return mono if resampler is None else resampler.push(mono)

    return adapt


class Cutter:
    """Cuts blocks of samples into windows that overlap, none across a gap.

    Args:
        window: Samples in a window.
        hop: New samples from one window to the next.
    """

    def __init__(self, window: int, hop: int) -> None:
        self._window, self._hop = window, hop
        self._rest: NDArray[np.float32] | None = None
        self._skip = self._seq = self._end = 0

    def push(self, block: NDArray[np.float32]) -> list[tuple[int, NDArray[np.float32], int]]:
        """Return (number, window, samples up to its end) for each window that a block completes."""
        rest = block if self._rest is None else np.concatenate([self._rest, block])
        start, self._skip = min(self._skip, len(rest)), max(0, self._skip - len(rest))
        self._end += len(block)
        windows = []
        while start + self._window <= len(rest):
            until = start + self._window
            windows.append((self._seq, np.array(rest[start:until]), self._end - len(rest) + until))
            self._seq += 1
            start += self._hop
        if start > len(rest):
            self._skip, start = start - len(rest), len(rest)
        self._rest = rest[start:]
        return windows

    def gap(self) -> None:
        """Begin anew: the window in work is lost, and its number is left out."""
        if self._rest is not None and len(self._rest):
            self._seq += 1
        self._rest, self._skip = None, 0


def soundfile() -> Any:
    """Return the module.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import soundfile as library
    except (ImportError, OSError) as cause:
        raise ConfigError(f"source 'audio' needs soundfile: {cause}", hint=install_hint("audio")) from cause
    return library


def sounddevice() -> Any:
    """Return the module.

    Raises:
        ConfigError: It, or the PortAudio that it needs, is not installed.
    """
    try:
        import sounddevice as library
    except ImportError as cause:
        raise ConfigError(f"a microphone needs sounddevice: {cause}", hint=install_hint("audio")) from cause
    except OSError as cause:
        raise ConfigError(
            f"a microphone needs PortAudio: {cause}", hint="sudo apt install libportaudio2"
        ) from cause
    return library
