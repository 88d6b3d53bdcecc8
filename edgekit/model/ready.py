"""The one assembly: opens a variant of a bundle in its runtime, checks it and warms it up.

``run``, the agent, ``serve``, ``bench``, ``verify``, ``optimize`` and ``edgekit.load`` all open models here;
a caller that skips a step says so in its ``Choices``.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from edgekit.backends import open_backend
from edgekit.core.errors import (
    BackendError,
    ConfigError,
    EdgekitError,
    GoldenError,
    HashMismatchError,
    TensorError,
)
from edgekit.core.ports import Backend
from edgekit.core.select import Candidate, Selection, require
from edgekit.core.spec import Manifest, Post, Variant
from edgekit.model.bundle import Bundle, open_bundle
from edgekit.model.choice import backend_options, choose, default_threads
from edgekit.model.golden import require_golden, run_golden
from edgekit.model.proof import prove
from edgekit.model.verified import check_files
from edgekit.pipeline.gallery import Gallery, read_gallery
from edgekit.pipeline.predictor import Predictor

logger = logging.getLogger(__name__)

VARIANT_ERRORS = (BackendError, TensorError, GoldenError, HashMismatchError)
"""What excludes one variant and leaves the others; any other error is the bundle's or the machine's."""


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How a model is opened. Every check is done unless it is turned off here.

    Args:
        variant: The only variant to consider; None: the best that runs here.
        threads: CPU threads for the runtime; None: all cores but one, or what the profile sets.
        batch: How many samples one run takes; None: the variant's own, most often 1.
        device: Which of several devices of the accelerator, as the backend's option; empty: its default.
        exclude: Variants not to choose, each with the reason (an accelerator just lost).
        pairs: The accelerators or variants to choose from, the best first; empty: all, as selection ranks.
        score_threshold: In place of the manifest's, as are ``iou_threshold`` and ``top_k``.
        gallery: A file with the names and vectors that an embedding model knows.
        prove: Try a variant in a child process first, and exclude it if it crashes or hangs.
        hashes: Check file hashes, and exclude a variant with a wrong one.
        golden: Run the golden samples, and exclude a variant that fails one.
        warm: Run once on zeros, so that lazy set-up does not delay the first frame.
        make_predictor: Makes the predictor; a subclass can count what it does.
        on_try: Called with a variant's id before it is opened, and how many more could follow it.
    """

    variant: str | None = None
    threads: int | None = None
    batch: int | None = None
    device: str = ""
    exclude: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    score_threshold: float | None = None
    iou_threshold: float | None = None
    top_k: int | None = None
    gallery: Path | None = None
    prove: bool = False
    hashes: bool = True
    golden: bool = True
    warm: bool = True
    make_predictor: Callable[..., Predictor] = Predictor
    on_try: Callable[[str, int], object] = lambda _variant, _left: None

    def post(self, manifest: Manifest) -> Post:
        """Return the manifest's ``post`` with what is overridden."""
        fields = ("score_threshold", "iou_threshold", "top_k")
        given = {field: value for field in fields if (value := getattr(self, field)) is not None}
        return msgspec.structs.replace(manifest.post, **given)


class ReadyModel:
    """One open variant: its bundle, backend and predictor, and why this variant runs.

    ``selection`` ranks the candidates and has the reason for every rejection; ``excluded`` has, for
    each variant that was chosen before this one and failed while it was opened, what went wrong.
    """

    def __init__(self, bundle: Bundle, variant: Variant, backend: Backend, choices: Choices) -> None:
        self.bundle, self.variant, self.backend = _described(bundle, backend), variant, backend
        self.labels = bundle.labels()
        self.selection = Selection((Candidate(variant, None, ""),), (), "opened by its id")
        self.excluded: dict[str, str] = {}
        self.load_ms = 0.0
        self.fallback = 0, 1
        """Its position among the pairs of a ``Holder``, from 0, and their number."""
        self.choices = choices

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest

    @functools.cached_property
    def predictor(self) -> Predictor:
        """Preprocessing, backend and decoder in one; made when first asked for.

        Raises:
            TensorError: The file's tensors are not what the manifest says.
            BundleError: The decoder is unknown, or its options are wrong.
            ConfigError: OpenCV, which images need, is not installed; or the gallery is another model's.
        """
        post, path = self.choices.post(self.manifest), self.choices.gallery
        gallery = None if path is None else self.gallery(path)
        return self.choices.make_predictor(
            self.manifest, self.variant, self.backend, self.labels, post=post, gallery=gallery
        )

    def gallery(self, path: Path | None = None) -> Gallery:
        """Return the gallery in a file, or an empty one for this bundle.

        Raises:
            ConfigError: The model makes no embeddings, or the file is no gallery of this bundle.
        """
        manifest = self.manifest
        model = f"{manifest.model} {manifest.version}"
        if manifest.task != "embed":
            raise ConfigError(
                f"a gallery needs a model of task 'embed', {model} has task {manifest.task!r}",
                hint="take the gallery out, or use an embedding model",
            )
        if path is None:
            return Gallery(model, self.bundle.digest)
        return read_gallery(path, model, self.bundle.digest)

    @property
    def why(self) -> str:
        """Why this variant was chosen, and why each other was not, one line each."""
        lines = [f"{self.variant.id}: {self.selection.why}"]
        lines += [f"{r.variant}: {'; '.join(r.reasons)}" for r in self.selection.rejected]
        return "\n".join(lines)

    def close(self) -> None:
        """Free the backend; safe to call twice."""
        self.backend.close()


def open_ready(source: Bundle | Path | str, choices: Choices | None = None) -> ReadyModel:
    """Open the variant of a bundle that fits this machine best, and prove that it works.

    A variant that cannot be opened or fails its golden samples is excluded with its error, logged, and
    the next in the ranking is tried.

    Args:
        source: Bundle folder, ``.ekb`` file, bare model file, or an opened bundle.
        choices: How; everything is checked by default.

    Raises:
        BundleError: The bundle is at fault.
        NoVariantError: No variant runs here; ``reasons`` says why, for each.
        GoldenError: No variant that runs here gives the recorded answers.
        HashMismatchError: The labels or golden samples are not those that the manifest lists.
        ConfigError: The machine is not set up for this model.
    """
    began_ns = time.monotonic_ns()
    choices = choices or Choices()
    bundle = source if isinstance(source, Bundle) else open_bundle(source)
    if choices.hashes:
        check_files(bundle.root, bundle.manifest.files, str(bundle.source))
    excluded: dict[str, str] = {}
    failed_golden = False
    while True:
        selection, facts, profile = choose(
            bundle,
            variant=choices.variant,
            threads=choices.threads,
            exclude={**choices.exclude, **excluded},
            pairs=choices.pairs,
        )
        if failed_golden and selection.chosen is None:
            raise _none_is_right(bundle, selection)
        chosen = require(selection, bundle.manifest, os.uname().nodename)
        options = backend_options(chosen, profile, default_threads(facts))
        if choices.threads:
            options["threads"] = choices.threads
        if choices.batch:
            options["batch"] = choices.batch
        if choices.device:
            options["device"] = choices.device
        choices.on_try(chosen.id, len(selection.candidates) - 1)
        try:
            if choices.prove:
                prove(bundle, chosen, options)
            ready = open_variant(bundle, chosen, options, choices)
        except VARIANT_ERRORS as error:
            excluded[chosen.id] = why_excluded(error)
            failed_golden = failed_golden or isinstance(error, GoldenError)
            logger.warning("variant %s is excluded, trying the next: %s", chosen.id, excluded[chosen.id])
            continue
        ready.selection, ready.excluded = selection, excluded
        ready.load_ms = (time.monotonic_ns() - began_ns) / 1e6
        return ready


def open_variant(
    bundle: Bundle, variant: Variant, options: Mapping[str, Any], choices: Choices
) -> ReadyModel:
    """Open one variant without selection, and check that it works.

    Raises:
        BackendError: It cannot be loaded, or its first inference fails.
        TensorError: Its file does not match the manifest.
        GoldenError: It does not reproduce the golden samples.
        HashMismatchError: A file differs from the one that the manifest lists.
        BundleError: The bundle is invalid.
    """
    began_ns = time.monotonic_ns()
    if choices.hashes:
        check_files(bundle.root, variant.files, str(bundle.source))
    backend = open_backend(bundle.path(variant), variant, options)
    ready = ReadyModel(bundle, variant, backend, choices)
    try:
        if choices.golden:
            require_golden(bundle.manifest, run_golden(bundle, ready.predictor, variant.precision))
        if choices.warm:
            ready.predictor.warm()
    except BaseException:
        ready.close()
        raise
    ready.load_ms = (time.monotonic_ns() - began_ns) / 1e6
    return ready


def _described(bundle: Bundle, backend: Backend) -> Bundle:
    """Return a bare file's bundle with the tensors that its runtime reports; any other unchanged."""
    if not bundle.is_bare:
        return bundle
    manifest = msgspec.structs.replace(bundle.manifest, inputs=backend.inputs, outputs=backend.outputs)
    return msgspec.structs.replace(bundle, manifest=manifest)


def why_excluded(error: EdgekitError) -> str:
    """Return an error as a one-line reason not to choose a variant."""
    text = "; ".join((error.message, *error.reasons))
    if isinstance(error, GoldenError):
        return text
    return f"could not be opened: {text}" + (f" ({error.hint})" if error.hint else "")


def _none_is_right(bundle: Bundle, selection: Selection) -> GoldenError:
    return GoldenError(
        f"no variant of '{bundle.manifest.model} {bundle.manifest.version}' that runs on"
        f" '{os.uname().nodename}' reproduces its golden samples",
        reasons=tuple(f"{r.variant}: {'; '.join(r.reasons)}" for r in selection.rejected),
        hint="do not use this bundle; record golden samples again only if the model is known to be right",
    )
