"""A release of the agent as a bundle: wheels, and the version lock of each variant.

A release is published, rolled out and fetched as a model is, under the reserved name ``AGENT``.
"""

from collections.abc import Callable

import msgspec

from edgekit.core.errors import BundleError
from edgekit.core.select import Candidate, Rejection, Selection, satisfies
from edgekit.core.spec import AGENT, Manifest, Variant


class Lock(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A variant's ``options``: what must be on the device already.

    ``python``: conditions on the interpreter's version. ``needs``: conditions on distributions that the
    release does not carry, by name. ``pairs``: versions of models that move together with it, by name.
    """

    python: str = ""
    needs: dict[str, str] = {}
    pairs: dict[str, str] = {}


def lock_of(variant: Variant) -> Lock:
    """Return the version lock of a release's variant.

    Raises:
        BundleError: It is not a release's, or states what this version does not know.
    """
    if variant.backend != AGENT:
        raise BundleError(f"variant '{variant.id}' is for backend '{variant.backend}', want '{AGENT}'")
    try:
        return msgspec.convert(variant.options, Lock)
    except msgspec.ValidationError as cause:
        raise BundleError(f"the version lock of variant '{variant.id}' is not valid: {cause}") from cause


def select_release(manifest: Manifest, arch: str, python: str, installed: Callable[[str], str]) -> Selection:
    """Return which variants of a release can be installed here, in the manifest's order, and why others not.

    ``installed`` returns a distribution's version, or "" where it is absent.

    Raises:
        BundleError: A variant is not a release's.
    """
    rejected, fitting = [], []
    for variant in manifest.variants:
        reasons = _reasons_against(variant, arch, python, installed)
        if reasons:
            rejected.append(Rejection(variant.id, tuple(reasons)))
        else:
            fitting.append(Candidate(variant, None, ""))
    return Selection(tuple(fitting[:1]), tuple(rejected), "the first whose version lock holds")


def _reasons_against(variant: Variant, arch: str, python: str, installed: Callable[[str], str]) -> list[str]:
    lock, wanted = lock_of(variant), variant.requires.arch
    reasons = [f"needs {' or '.join(wanted)}, this device is {arch}"] if wanted and arch not in wanted else []
    if lock.python and not satisfies(python, lock.python):
        reasons.append(f"needs Python {lock.python}, found {python}")
    for name, condition in lock.needs.items():
        version = installed(name)
        if not satisfies(version, condition):
            reasons.append(f"needs {name} {condition or 'of any version'}, found {version or 'none'}")
    return reasons
