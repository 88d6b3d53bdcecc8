"""Rows of a table as a model's inputs: columns by name, missing values, text and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.base.dtypes import DTYPES, TEXT
from edgekit.core.errors import BundleError, TensorError
from edgekit.core.spec import Column, TensorSpec


class TablePre:
    """Turns rows into a model's inputs.

    Args:
        columns: The manifest's.
        specs: The manifest's inputs that take a row's data.
        what: Names the model in errors.

    Raises:
        BundleError: A column feeds no input, or a value of an input has no column or two.
    """

    def __init__(self, columns: Sequence[Column], specs: Sequence[TensorSpec], what: str) -> None:
        self.columns = tuple(columns)
        self._specs = {spec.name: spec for spec in specs}
        sizes = {spec.name: math.prod(max(length, 1) for length in spec.shape) for spec in specs}
        wanted = sorted((name, index) for name, size in sizes.items() for index in range(size))
        given = sorted((column.input, column.index) for column in columns)
        if wanted != given:
            wrong = sorted(set(wanted) ^ set(given)) or [pair for pair in set(given) if given.count(pair) > 1]
            raise BundleError(
                f"{what}: pre.columns: want one column for each value of each input",
                reasons=tuple(f"input {name!r}, index {index}" for name, index in wrong[:20]),
            )
        names = [column.name for column in columns]
        if len(set(names)) < len(names):
            raise BundleError(f"{what}: pre.columns: a name is there twice: {', '.join(names)}")

    def row(self, data: object) -> dict[str, Any]:
        """Return a row by column name; a sequence or flat array has the columns' order.

        Raises:
            TensorError: It is neither, has another length, or a column that the model does not know.
        """
        names = [column.name for column in self.columns]
        if isinstance(data, Mapping):
            if unknown := [name for name in data if name not in names]:
                raise TensorError(
                    f"row: the model has no column {', '.join(map(repr, unknown))}",
                    hint=f"its columns: {', '.join(names)}",
                )
            return {str(name): value for name, value in data.items()}
        values = data.reshape(-1).tolist() if isinstance(data, np.ndarray) else data
        if not isinstance(values, Sequence) or isinstance(values, str | bytes) or len(values) != len(names):
            raise TensorError(
                f"row: want {len(names)} values or a mapping of column to value, got {data!r:.80}",
                hint=f"its columns: {', '.join(names)}",
            )
        return dict(zip(names, values, strict=True))

    def rows(self, columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
        """Return the rows of a table that is given column by column.

        Raises:
            TensorError: The columns have different lengths.
        """
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise TensorError(f"table: its columns have different lengths: {lengths}")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def tensors(self, data: object) -> dict[str, NDArray[Any]]:
        """Return each input's array, in its shape with 1 for a free dimension.

        Args:
            data: A mapping of column to value, or the values in the columns' order. None, NaN, an empty text
                and an absent column are missing values, for which ``Column.missing`` stands.

        Raises:
            TensorError: A value is missing or of another type; the error names every such column.
        """
        row, problems = self.row(data), list[str]()
        arrays = {
            name: np.empty(math.prod(max(length, 1) for length in spec.shape), _dtype(spec))
            for name, spec in self._specs.items()
        }
        for column in self.columns:
            array = arrays[column.input]
            array[column.index], problem = _value(column, row.get(column.name), array.dtype)
            problems += [f"column {column.name!r}: {problem}"] if problem else []
        if problems:
            raise TensorError(f"row: {problems[0]}", reasons=tuple(problems[1:]))
        return {
            name: array.reshape([max(length, 1) for length in self._specs[name].shape])
            for name, array in arrays.items()
        }


def _dtype(spec: TensorSpec) -> np.dtype[Any]:
    return TEXT if spec.datatype == "BYTES" else DTYPES[spec.datatype]


def _value(column: Column, value: Any, dtype: np.dtype[Any]) -> tuple[Any, str]:
    """Return a cell's value for its input, and what is wrong with it or an empty text."""
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        value = column.missing
        if value is None:
            return 0, "has no value, and the bundle has none for it (columns.missing)"
    if dtype == TEXT:
        is_text = isinstance(value, str | int)
        return str(value), "" if is_text else f"want text, got {value!r:.40}"
    try:
        number = (float(value) - column.mean) / column.std
    except (TypeError, ValueError):
        return 0, f"want a number, got {value!r:.40}"
    if dtype.kind == "f":
        return number, ""
    if not number.is_integer() or not _holds(dtype, int(number)):
        return 0, f"want {dtype.name}, got {value!r:.40}"
    return int(number), ""


def _holds(dtype: np.dtype[Any], number: int) -> bool:
    if dtype.kind == "b":
        return number in (0, 1)
    return int(np.iinfo(dtype).min) <= number <= int(np.iinfo(dtype).max)
