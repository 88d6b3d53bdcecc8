"""A recorded table (CSV, NPZ, Parquet), as windows of a sensor model or rows of a model of tables."""

from __future__ import annotations

import csv
import logging
import threading
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, TypeAlias

import msgspec

from edgekit.base.install_hint import install_hint
from edgekit.core.errors import ConfigError, SourceError
from edgekit.core.ports import Frame
from edgekit.pipeline.csv_lines import Line, csv_lines, sample_lines
from edgekit.pipeline.fields import SHOWN_LETTERS, FieldOptions
from edgekit.pipeline.picture_files import readable
from edgekit.pipeline.sources import SourceContext
from edgekit.pipeline.sources.samples import Samples
from edgekit.pipeline.sources.timing import DUE_S, Player, stamp

logger = logging.getLogger(__name__)
MOST_ARRAY_BYTES = 1 << 30
Entry: TypeAlias = "tuple[float | None, Any]"
"""A row's time in seconds or None, and its values; None for a row that does not fit."""


class TableOptions(FieldOptions, frozen=True, kw_only=True):
    """``[source]`` of a CSV, NPZ or Parquet file, with the keys of ``FieldOptions`` but for NPZ.

    ``realtime``: at the pace of its timestamps, or of ``rate_hz`` (by default the model's), ``speed`` times
    as fast; else every row, as fast as possible. ``array``: of an NPZ file, by default its only one.
    """

    uri: str
    header: bool = True
    realtime: bool = False
    speed: Annotated[float, msgspec.Meta(gt=0, le=10_000)] = 1.0
    rate_hz: Annotated[float, msgspec.Meta(ge=0, le=10_000_000)] = 0.0
    loop: bool = False
    array: str = ""


class TableSource:
    """Windows or rows of a file; a row that does not fit is a gap, named once and counted."""

    Options = TableOptions
    slots = 8

    def __init__(self, options: TableOptions, context: SourceContext) -> None:
        self._options, self._context = options, context
        self.path = context.path(options.uri)
        self.is_live = options.realtime
        self._what = f"table {readable(self.path)!r}"
        self._samples = Samples(context, "table")
        self._closing = threading.Event()
        self._player = Player(self._closing) if options.realtime else None
        self._frames: Iterator[Frame] = iter(())
        self._rejected = 0

    @property
    def due_s(self) -> float:
        """Seconds within which a frame is due."""
        return DUE_S if self._player is None else self._player.due_s

    def counts(self) -> dict[str, int]:
        """Return how many rows did not fit."""
        return {"rejected": self._rejected}

    def open(self) -> None:
        """Check that the file is there."""
        if not self.path.is_file():
            raise SourceError(f"{self._what}: there is no such file")
        if self._options.realtime and not (self._options.timestamp != "" or self._rate_hz):
            raise SourceError(f"{self._what}: realtime needs a timestamp column, or rate_hz")
        self._frames = self._made()

    @property
    def _rate_hz(self) -> float:
        return self._options.rate_hz or self._context.rate_hz

    def read(self) -> Frame | None:
        """Return the next frame, when it is due; None at the end or after ``close``."""
        frame = next(self._frames, None)
        return None if self._closing.is_set() else frame

    def close(self) -> None:
        """End a wait."""
        self._closing.set()

    def _made(self) -> Iterator[Frame]:
        while not self._closing.is_set():
            self._samples.restart()
            fitting, frames, first_s = 0, 0, 0.0
            for number, (time_s, values) in enumerate(self._rows()):
                at_s = number / self._rate_hz if time_s is None and self._rate_hz else time_s
                if not fitting and at_s is not None:
                    first_s = at_s
                fitting += values is not None
                media_s = None if at_s is None else at_s - first_s
                for seq, data in self._samples.push([1 if values is None else values]):
                    frames += 1
                    yield self._frame(seq, data, media_s)
            if not fitting:
                raise SourceError(f"{self._what}: not one row fits the model")
            if not frames:
                want = f"want {self._context.window} in a row for a window of the model"
                raise SourceError(f"{self._what}: {want}, got {fitting} rows that fit, and no window")
            if not self._options.loop:
                return

    def _frame(self, seq: int, data: Any, media_s: float | None) -> Frame:
        meta = {} if media_s is None else {"media_s": round(media_s, 6)}
        if self._player is not None and media_s is not None:
            self._player.wait_until(media_s / self._options.speed)
        return Frame(data, seq, *stamp(), meta)

    def _rows(self) -> Iterator[Entry]:
        if self.path.suffix.lower() == ".npz":
            return self._of_arrays()
        return self._of_parquet() if self.path.suffix.lower() == ".parquet" else self._of_lines()

    # -- Parquet

    def _of_parquet(self) -> Iterator[Entry]:
        try:
            with parquet().ParquetFile(self.path) as file:
                batches = (batch.to_pydict().values() for batch in file.iter_batches())
                rows = ([_text(v) for v in row] for columns in batches for row in zip(*columns, strict=True))
                options, takes_text = self._numbered(file.schema_arrow.names), bool(self._context.columns)
                yield from self._of_samples(
                    sample_lines(rows, options, self._samples.values, takes_text=takes_text)
                )
        except (OSError, ValueError) as cause:
            raise SourceError(f"{self._what}: is no Parquet file: {cause}") from cause

    def _numbered(self, names: list[str]) -> TableOptions:
        """Return the options with the numbers of the columns that they name."""
        options = self._options
        columns = options.columns or self._context.columns
        wanted = (column for column in (*columns, options.timestamp) if isinstance(column, str) and column)
        if missing := [name for name in wanted if name not in names]:
            raise SourceError(f"{self._what}: want columns {', '.join(missing)}, got {', '.join(names)}")

        def number(column: int | str) -> int | str:
            return names.index(column) if isinstance(column, str) and column else column

        return msgspec.structs.replace(
            options, header=False, columns=tuple(map(number, columns)), timestamp=number(options.timestamp)
        )

    # -- NPZ

    def _of_arrays(self) -> Iterator[Entry]:
        import numpy as np

        try:
            with zipfile.ZipFile(self.path) as archive:
                if (size := sum(part.file_size for part in archive.infolist())) > MOST_ARRAY_BYTES:
                    raise SourceError(f"{self._what}: has {size} bytes, at most {MOST_ARRAY_BYTES} are read")
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (OSError, ValueError, zipfile.BadZipFile) as cause:
            raise SourceError(f"{self._what}: is no NPZ file: {cause}") from cause
        columns = self._context.columns
        if columns and all(name in arrays for name in columns):
            yield from (
                (None, row) for row in zip(*(arrays[name].tolist() for name in columns), strict=False)
            )
            return
        name = self._options.array or next(iter(arrays), "")
        if name not in arrays or (not self._options.array and len(arrays) > 1):
            raise SourceError(f"{self._what}: want one array, or array = one of {', '.join(arrays)}")
        wanted = self._samples.values
        array = arrays[name].reshape(-1, wanted) if arrays[name].shape[-1:] == (wanted,) else None
        if array is None or array.dtype.kind not in "fiu":
            raise SourceError(
                f"{self._what}: want numbers (rows, {wanted}), got {arrays[name].dtype} {arrays[name].shape}"
            )
        yield from ((None, tuple(row)) for row in array.tolist())

    # -- CSV

    def _of_lines(self) -> Iterator[Entry]:
        options = self._options
        try:
            with self.path.open(encoding="utf-8-sig", errors="backslashreplace", newline="") as file:
                yield from self._of_samples(
                    csv_lines(file, options, self._context.columns, self._samples.values)
                )
        except (OSError, csv.Error) as cause:
            raise SourceError(f"{self._what}: cannot be read: {cause}") from cause

    def _of_samples(self, lines: Iterable[Line]) -> Iterator[Entry]:
        for line in lines:
            if line.row is not None:
                yield line.row.time_s, line.row.values
            else:
                self._reject(line.fields, line.problem)
                yield None, None

    def _reject(self, fields: Sequence[str], why: str) -> None:
        self._rejected += 1
        if self._rejected == 1:
            line = ",".join(fields)[:SHOWN_LETTERS]
            logger.warning(
                "%s: a row does not fit: %s: %r (later ones are only counted)", self._what, why, line
            )


def _text(value: Any) -> str:
    return "" if value is None else value.isoformat() if isinstance(value, datetime) else str(value)


def parquet() -> Any:
    """Return pyarrow's module for Parquet files.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        from pyarrow import parquet as library
    except ImportError as cause:
        raise ConfigError(
            f"source 'table' needs pyarrow for a Parquet file: {cause}", hint=install_hint("parquet")
        ) from cause
    return library
