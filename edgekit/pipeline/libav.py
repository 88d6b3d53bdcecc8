"""FFmpeg's libraries through PyAV: the one file that knows them.

``write_clip`` writes packets as they came; nothing is decoded or encoded.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, StorageError
from edgekit.pipeline.packets import VideoPacket


@lru_cache(maxsize=1)
def libav() -> Any:
    """Return PyAV's module, with FFmpeg's own messages off: they contain addresses with passwords.

    Raises:
        ConfigError: It is not installed, or cannot be loaded.
    """
    try:
        import av
        import av.logging
    except ImportError as cause:
        is_absent = isinstance(cause, ModuleNotFoundError) and cause.name == "av"
        why = "is not installed" if is_absent else f"cannot be loaded: {cause}"
        raise ConfigError(f"this needs PyAV, which {why}", hint=install_hint("rtsp")) from cause
    av.logging.set_level(None)
    return av


def write_clip(path: Path, run: Sequence[VideoPacket]) -> None:
    """Write the packets of one run of ``PacketRing.take`` as a video that begins at 0 s.

    Args:
        path: A file that is replaced; its suffix is the container (``.mp4``, ``.mkv``).
        run: At least one packet, the first one a keyframe, all of one stream.

    Raises:
        ConfigError: PyAV is not installed.
        StorageError: The file cannot be written, or a container cannot hold this codec.
    """
    av, info, first = libav(), run[0].stream, run[0].dts
    head = io.BytesIO(info.extradata + run[0].data)
    try:
        # FFmpeg's demuxer of bare packets is called as the codec: it gives the stream that the muxer copies
        with av.open(head, format=info.codec) as template, av.open(str(path), "w") as output:
            stream = output.add_stream_from_template(template.streams.video[0], opaque=True)
            for packet in run:
                output.mux(_for_muxer(av, packet, first, stream))
    except (av.FFmpegError, OSError, ValueError) as cause:
        raise StorageError(f"clip {str(path)!r}: cannot be written: {cause}") from cause


def _for_muxer(av: Any, packet: VideoPacket, first: int, stream: Any) -> Any:
    made = av.Packet(packet.data)
    made.stream, made.time_base = stream, packet.stream.time_base
    made.pts, made.dts = packet.pts - first, packet.dts - first
    made.is_keyframe = packet.is_keyframe
    return made
