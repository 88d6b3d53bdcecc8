"""Which models a pipeline uses, where each comes from, and how it is opened."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from edgekit.core.spec import MAX_BATCH, NAME

_OPENED = ("variant", "threads", "batch")


class ModelUse(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a pipeline. Exactly one of ``pinned`` (a bundle's path) and ``managed`` (a name) is set.

    ``stage`` is the later ``[[stage]]`` that runs it; empty for the first one, and for a pipeline of one
    model. ``batch``: how many crops or tiles one run takes; 0: as the file is.
    """

    stage: str = ""
    pinned: Path | None = None
    managed: str = ""
    initial: Path | None = None
    variant: str = ""
    threads: int = 0
    batch: int = 0

    @property
    def name(self) -> str:
        """The model's name in messages before it is loaded."""
        return self.managed or str(self.pinned)


class Named(msgspec.Struct, frozen=True):
    """A model as a file names it: at ``where`` in messages, relative to the folder ``home``.

    ``options``: the ``[model]`` or ``[[stage]]`` table, which the worker checks.
    """

    where: str
    model: Any
    home: Path
    options: Mapping[str, Any]
    stage: str = ""

    @property
    def is_path(self) -> bool:
        """Whether it is written as a bundle's path."""
        return "/" in self.model or self.model.endswith((".ekb", ".tflite", ".onnx", ".xml"))


class Initials(msgspec.Struct, frozen=True):
    """``initial`` of a ``[[pipeline]]``, at ``where``: the first model's bundle, or one for each by name.

    ``later``: the models that later stages name, whose bundles only a table gives.
    """

    where: str
    given: str | dict[str, str]
    folder: Path
    later: tuple[str, ...] = ()

    def of(self, named: Named) -> str:
        """Return the bundle that a model starts with, as it is written; empty for none."""
        if isinstance(self.given, dict):
            return self.given.get(named.model, "")
        return "" if named.stage else self.given

    def path(self, named: Named) -> Path | None:
        """Return the bundle that a model starts with, if there is one."""
        given = self.of(named)
        return self.folder / Path(given).expanduser() if given else None


def later_models(tables: Mapping[str, Any], what: str, home: Path) -> Iterator[Named]:
    """Yield the models of the stages after the first; a stage may be a function, or not valid."""
    stages = tables.get("stage")
    for index, table in enumerate(stages if isinstance(stages, list) else ()):
        if index and isinstance(table, dict) and table.get("model") and isinstance(table.get("name"), str):
            yield Named(f"{what}:stage[{index}].model", table["model"], home, table, table["name"])


def use_of(named: Named, initials: Initials, threads: int) -> ModelUse:
    """Return how a valid model is used; ``threads`` where its own table does not say."""
    initial, options = initials.path(named), named.options
    pinned = _pinned(named, is_started=initial is not None)
    return ModelUse(
        stage=named.stage,
        pinned=pinned,
        managed="" if pinned else named.model,
        initial=initial,
        variant=_text(options, "variant"),
        threads=_count(options, "threads", 256) or threads,
        batch=_count(options, "batch", MAX_BATCH),
    )


def model_problems(named: Named, initials: Initials) -> Iterator[str]:
    """Yield what is wrong with where a model comes from."""
    model, initial = named.model, initials.of(named) if isinstance(named.model, str) else ""
    if not isinstance(model, str) or not model:
        yield f"{named.where}: want a bundle's path or a model's name, got {model!r}"
        return
    path = named.home / Path(model).expanduser()
    if named.is_path and not path.exists():
        yield f"{named.where}: there is no {path}"
    if not named.is_path and not NAME.fullmatch(model):
        yield f"{named.where}: want a bundle's path or a model's name, got {model!r}"
    if named.is_path and initial:
        table = f"; for {initials.later[0]!r} write {{ {initials.later[0]} = ... }}" if initials.later else ""
        yield f"{initials.where}: want none, since the model is a pinned path, got {initial!r}{table}"
    elif (bundle := initials.path(named)) is not None and not bundle.exists():
        yield f"{initials.where}: want a bundle, there is no {bundle}"


def use_problems(uses: Sequence[ModelUse], initials: Initials, *, asks: bool) -> Iterator[str]:
    """Yield what does not go together in the models of one pipeline."""
    entry = initials.where.removesuffix(".initial")
    managed: dict[str, ModelUse] = {}
    for use in uses:
        first = managed.setdefault(use.managed, use) if use.managed else use
        differing = [key for key in _OPENED if getattr(first, key) != getattr(use, key)]
        if differing:  # loaded twice, it would be swapped at two moments
            yield f"{entry}: want the same {', '.join(differing)} in every stage that has {use.managed!r}"
    for name in initials.given if isinstance(initials.given, dict) else ():
        if name not in managed:
            yield f"{initials.where}: want names of this pipeline's managed models, got {name!r}"
    if asks and any(use.managed for use in uses[1:]):
        yield (
            f"{entry}.updates: want 'auto', since a sink approves updates of the first model only, and a"
            " later stage's is managed too; or give that one's path"
        )


def _text(options: Mapping[str, Any], key: str) -> str:
    given = options.get(key)
    return given if isinstance(given, str) else ""


def _count(options: Mapping[str, Any], key: str, most: int) -> int:
    given = options.get(key)
    return given if type(given) is int and 0 <= given <= most else 0


def _pinned(named: Named, *, is_started: bool) -> Path | None:
    """Return the path that a model is, or None where it is a name.

    A plain name is a path where a bundle of that name is beside the pipeline's file, as for
    ``edgekit run``, but not where ``initial`` says what a managed model starts with.
    """
    # the same however it is written
    path = Path(os.path.normpath(named.home / Path(named.model).expanduser()))
    if named.is_path:
        return path
    return path if not is_started and (path / "bundle.json").is_file() else None
