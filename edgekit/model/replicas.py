"""Replicas of a model: which variant each runs on which accelerator, and how it is opened.

A replica is written ``NAME`` or ``NAME:NUMBER``: an accelerator, a variant's id or a backend, and which of
several such devices, from 0. It keeps the variant that was chosen for it at the start: nothing takes over
from it but the other replicas, and it is opened again when its wait is over.

    edgekit serve person-detect.ekb --replicas edgetpu:0,edgetpu:1,cpu
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from edgekit.base.accelerators import accelerator, name_in
from edgekit.core.errors import ConfigError, EdgekitError, NoVariantError
from edgekit.core.select import Selection
from edgekit.core.spec import Facts, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import choose, default_threads
from edgekit.model.exclusions import Exclusions
from edgekit.model.servable import HeldServable
from edgekit.pipeline.fallback import FallbackTable
from edgekit.serve.ports import HeldReplica, Offer, Servable

OnTry = Callable[[str, int], object]
MOST = 16
_CPU = "cpu"


class Pair(msgspec.Struct, frozen=True):
    """What one replica runs: ``name`` as it was written, the variant, and the device's number, if any."""

    name: str
    variant: Variant
    device: int | None = None

    @property
    def where(self) -> tuple[str, int | None]:
        """The accelerator, and which of several."""
        return self.variant.accelerator, self.device


def pairs_of(bundle: Bundle, names: Sequence[str]) -> tuple[tuple[Pair, ...], Facts]:
    """Return what each replica runs: of what its name allows, the variant that selection ranks first here.

    One that cannot run here now keeps the first variant of its name: opening it gives the reason.

    Raises:
        ConfigError: A name is nothing of the bundle's, a device is not there, an exclusive device is named
            twice, or the model has state.
    """
    _check_bundle(bundle, names)
    selection, facts, _ = choose(bundle)
    pairs = tuple(_pair(bundle, selection, name) for name in names)
    for pair in pairs:
        _check_device(pair, facts)
    counts = Counter(pair.where for pair in pairs)
    for pair in pairs:
        kind, number = pair.where
        row = accelerator(kind)
        of_kind = [each for each in pairs if each.where[0] == kind]
        if row is None or not row.is_exclusive or len(of_kind) == 1:
            continue
        if counts[pair.where] > 1 or number is None:
            raise ConfigError(
                f"replicas {', '.join(each.name for each in of_kind)}: one model at a time can have {kind!r}",
                hint=f"number the devices: {kind}:0, {kind}:1",
            )
    return pairs, facts


def _check_bundle(bundle: Bundle, names: Sequence[str]) -> None:
    manifest = bundle.manifest
    if not 2 <= len(names) <= MOST:
        raise ConfigError(f"replicas: want 2 to {MOST}, got {', '.join(names) or 'none'}")
    if manifest.state:
        raise ConfigError(
            f"{manifest.model} {manifest.version} keeps state from request to request, which one replica has"
            " and another has not",
            hint="serve it without replicas",
        )


def _pair(bundle: Bundle, selection: Selection, name: str) -> Pair:
    variants = bundle.manifest.variants
    named, number = _named(variants, name), None
    if not named:
        before, _, digits = name.rpartition(":")
        named, number = _named(variants, before), int(digits) if digits.isdecimal() else None
    if not named or (":" in name and number is None and name not in _names(variants)):
        raise ConfigError(
            f"replicas: {bundle.source} has nothing called {name!r}",
            hint=f"any of: {', '.join(_names(variants))}; with :0, :1 where there are several such devices",
        )
    ids = [variant.id for variant in named]
    ranked = [each.variant for each in selection.candidates if each.variant.id in ids]
    return Pair(name, (ranked or named)[0], number)


def _names(variants: Sequence[Variant]) -> list[str]:
    every = [name for v in variants for name in (v.accelerator, v.backend, v.id)]
    return sorted(dict.fromkeys(every), key=every.index)


def _named(variants: Sequence[Variant], name: str) -> list[Variant]:
    """Return the variant of an id, else those of an accelerator, else those of a backend."""
    for key in ("id", "accelerator", "backend"):
        if found := [variant for variant in variants if getattr(variant, key) == name]:
            return found
    return []


def _check_device(pair: Pair, facts: Facts) -> None:
    kind, number = pair.where
    if number is None:
        return
    if kind == _CPU:
        raise ConfigError(f"replica {pair.name!r}: {_CPU!r} has no numbered devices")
    found = [fact.name or kind for fact in facts.accelerators if fact.kind == kind]
    row = accelerator(kind)
    if row is not None and row.is_exclusive and found and number >= len(found):  # each of these is listed
        raise ConfigError(
            f"replica {pair.name!r}: there is no {kind} number {number} here",
            hint=f"there are {len(found)}, from 0: {', '.join(found)}",
        )


def device_option(variant: Variant, number: int | None) -> str:
    """Return what the backend calls a device of its accelerator; empty for its default.

    >>> device_option(Variant(id="a", backend="litert", accelerator="edgetpu"), 1)
    ':1'
    >>> device_option(Variant(id="b", backend="openvino", accelerator="openvino-gpu"), 1)
    'GPU.1'

    Source: libedgetpu's option "device"; OpenVINO's "device naming convention"; ONNX Runtime's "device_id".
    """
    if number is None:
        return ""
    if variant.backend == "litert":
        return f":{number}"
    if variant.backend == "openvino" or variant.accelerator in ("npu", "openvino-gpu"):
        return f"{name_in('openvino', variant.accelerator)}.{number}"
    return str(number)


class _Tensors:
    """The tensors of a model's replicas, which must be alike: a request can go to any of them."""

    def __init__(self) -> None:
        self._first: tuple[str, dict[str, Any]] | None = None

    def check(self, name: str, servable: Servable) -> None:
        if servable.keeps_state:
            raise ConfigError(
                f"replica {name!r}: the file of {servable.variant} keeps state from request to request",
                hint="serve it without replicas",
            )
        facts = {
            "inputs": [(spec.name, spec.datatype, spec.shape) for spec in servable.inputs],
            "outputs": [(spec.name, spec.datatype, spec.shape) for spec in servable.outputs],
            "optional inputs": sorted(servable.optional_inputs),
        }
        if self._first is None:
            self._first = name, facts
        other, known = self._first
        if different := [what for what in facts if facts[what] != known[what]]:
            what = different[0]
            raise ConfigError(
                f"replicas {other!r} and {name!r} differ: {what} {known[what]} and {facts[what]}",
                hint="name variants with the same tensors",
            )


class ReplicaOpener:
    """How one replica is opened; as the server's ``ReplicaOffer``.

    Args:
        bundle: The model, the same for all.
        pair: What it runs.
        threads: CPU threads of its runtime; None: all cores but one.
        exclusions: Of this replica alone; what is excluded is due after its wait.
        on_try: As of ``Choices``.
        tensors: Of all replicas.
    """

    def __init__(
        self,
        name: str,
        bundle: Bundle,
        pair: Pair,
        threads: int | None,
        exclusions: Exclusions,
        on_try: OnTry,
        tensors: _Tensors,
    ) -> None:
        self.name, self._bundle, self._pair, self._threads = name, bundle, pair, threads
        self._exclusions, self._on_try, self._tensors = exclusions, on_try, tensors

    @property
    def due_s(self) -> float:
        """The monotonic time from which it may be opened again; 0 for at once."""
        due = self._exclusions.first_due()
        return due[1] if due is not None else 0.0

    def open(self) -> HeldReplica:
        """Open it, and check its golden samples.

        Raises:
            EdgekitError: It cannot be opened, or its tensors are not those of the others; it is due later.
        """
        variant = self._pair.variant
        if time.monotonic() >= self.due_s:
            self._exclusions.returned(variant.id)
        try:
            held = HeldServable(
                self._bundle,
                self._threads,
                self._exclusions,
                self._on_try,
                variant=variant.id,
                device=device_option(variant, self._pair.device),
                fallback=FallbackTable(),
                on_settled=self._settled,
            )
        except NoVariantError as error:
            self.lost(error.one_line())
            raise self._unavailable(error) from error
        except EdgekitError as error:
            self.lost(error.one_line())
            raise
        self._settled()
        try:
            self._tensors.check(self.name, held.servable)
        except EdgekitError as error:
            held.close()
            self.lost(error.one_line())
            raise
        return held

    def _settled(self) -> None:
        """Report that nothing is being opened: from now on nobody can say which replica ended the process."""
        self._on_try("", 0)

    def _unavailable(self, error: NoVariantError) -> NoVariantError:
        """Return why its variant cannot run here, and what can."""
        own = next((line for line in error.reasons if line.startswith(f"{self._pair.variant.id}: ")), "")
        selection, _, _ = choose(self._bundle)
        there = [f"{each.variant.accelerator} ({each.variant.id})" for each in selection.candidates]
        return NoVariantError(
            f"it cannot run here: {own or error.one_line()}",
            hint=f"here run: {', '.join(there) or 'none of its variants'}",
        )

    def lost(self, reason: str) -> None:
        """Exclude it for a while."""
        self._exclusions.add(self._pair.variant.id, reason, time.monotonic())

    def forget(self) -> None:
        """Let it be opened at once."""
        self._exclusions.forget()


def replicated(
    path: str, threads: int | None, exclusions: Exclusions, on_try: OnTry, names: Sequence[str]
) -> Offer:
    """Return the model at a path, to be open on several accelerators at once.

    Replicas on the processor share its cores, unless ``threads`` says how many each has.

    Raises:
        BundleError: The bundle is invalid.
        ConfigError: As of ``pairs_of``.
    """
    bundle = open_bundle(path)
    pairs, facts = pairs_of(bundle, names)
    on_cpu = sum(pair.variant.accelerator == _CPU for pair in pairs)
    share, tensors = max(1, default_threads(facts) // max(1, on_cpu)), _Tensors()
    openers = []
    for number, pair in enumerate(pairs):
        prefix = f"{number + 1}-{pair.name}:"
        own = exclusions.part(prefix)
        own_threads = threads or (share if pair.variant.accelerator == _CPU else None)
        tried = _Tried(on_try, prefix, len(pairs) - 1)
        openers.append(ReplicaOpener(_label(names, number), bundle, pair, own_threads, own, tried, tensors))
    manifest = bundle.manifest
    return Offer(manifest.model, manifest.version, openers[0].open, tuple(openers))


def _label(names: Sequence[str], number: int) -> str:
    """Return a replica's name; with a number where the same is written several times."""
    name = names[number]
    return f"{name}#{list(names[: number + 1]).count(name)}" if list(names).count(name) > 1 else name


class _Tried:
    """Reports which replica's variant is being opened, if any, and that the others could run without it."""

    def __init__(self, on_try: OnTry, prefix: str, others: int) -> None:
        self._on_try, self._prefix, self._others = on_try, prefix, others

    def __call__(self, variant: str, _: int) -> None:
        self._on_try(variant and self._prefix + variant, self._others if variant else 0)
