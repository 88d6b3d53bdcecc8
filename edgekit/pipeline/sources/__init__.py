"""Where frames come from: one file for each kind in ``SOURCES``.

A source is a class with an ``Options`` structure (the keys of its ``[source]`` table) and the
constructor ``Class(options, context)``; it satisfies ``edgekit.core.ports.Source``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekit.base import plugins
from edgekit.core.errors import ConfigError
from edgekit.core.ports import Source
from edgekit.core.spec import Manifest

SOURCES: dict[str, str] = {
    "camera": "edgekit.pipeline.sources.camera:CameraSource",
    "picamera2": "edgekit.pipeline.sources.picamera2:Picamera2Source",
    "video": "edgekit.pipeline.sources.video:VideoSource",
    "images": "edgekit.pipeline.sources.images:ImagesSource",
    "folder": "edgekit.pipeline.sources.folder:FolderSource",
    "audio": "edgekit.pipeline.sources.audio:AudioSource",
    "table": "edgekit.pipeline.sources.table:TableSource",
    "serial": "edgekit.pipeline.sources.serial:SerialSource",
    "synthetic": "edgekit.pipeline.sources.synthetic:SyntheticSource",
    "rtsp": "edgekit.pipeline.sources.rtsp:RtspSource",
    "command": "edgekit.pipeline.sources.command:CommandSource",
    "mqtt": "edgekit.pipeline.sources.mqtt:MqttSource",
    "modbus": "edgekit.pipeline.sources.modbus:ModbusSource",
    "iio": "edgekit.pipeline.sources.iio:IioSource",
    "i2c": "edgekit.pipeline.sources.i2c:I2cSource",
    "http": "edgekit.pipeline.sources.http:HttpSource",
    "fleet": "edgekit.pipeline.sources.fleet:FleetSource",
}
SOURCE_ROWS = plugins.Rows(SOURCES, plugins.SOURCES)
PICTURES_ONLY = frozenset(
    {"camera", "picamera2", "video", "images", "folder", "rtsp", "command", "http", "fleet"}
)
"""The sources that never give samples of a sensor, sound, or rows of a table."""


@dataclass(frozen=True)
class SourceContext:
    """What a source knows about its pipeline.

    ``window`` and ``hop`` are samples, ``channels`` values in a sample, of a sensor model; all 0 for
    an image model. ``rate_hz`` is the rate the model was trained at, 0 if unknown. ``columns``: the names of
    a model of tables. ``state``: a folder of this pipeline's own, which need not exist yet.
    """

    folder: Path = Path()
    window: int = 0
    hop: int = 0
    channels: int = 0
    rate_hz: float = 0.0
    columns: tuple[str, ...] = ()
    state: Path = Path()

    def path(self, uri: str) -> Path:
        """Return a path of the configuration, by default relative to the pipeline's file."""
        return self.folder / Path(uri).expanduser()


def source_context(manifest: Manifest, folder: Path, state: Path = Path()) -> SourceContext:
    """Return a source's context for a model."""
    pre = manifest.pre
    if not pre.window:
        columns = tuple(column.name for column in pre.columns)
        return SourceContext(folder=folder, columns=columns, state=state)
    shape = manifest.data_inputs()[0].shape
    size = math.prod(max(length, 1) for length in shape[1:])
    channels = max(1, size // (pre.window + pre.context))
    return SourceContext(folder, pre.window, pre.hop or pre.window, channels, pre.rate_hz, state=state)


def make_source(kind: str, options: Any, context: SourceContext) -> Source:
    """Return the source of a checked configuration, not yet open.

    Raises:
        ConfigError: It gives pictures and the model takes none, or the other way.
    """
    if kind in PICTURES_ONLY and (context.window or context.columns):
        wanted = "rows of a table" if context.columns else "windows of samples"
        raise ConfigError(
            f"source {kind!r}: gives pictures, and the model takes {wanted}",
            hint="use a source of numbers or of sound: table, serial, mqtt, modbus, iio, i2c, audio",
        )
    source: Source = SOURCE_ROWS.load(kind)(options, context)
    return source
