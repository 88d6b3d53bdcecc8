"""How a model's versions share the requests that name none, and which version answers them unseen."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from edgekit.core.errors import UsageError
from edgekit.core.spec import version_key


class Traffic(msgspec.Struct, frozen=True):
    """One model's versions: percent of the requests that name none, and the one that runs in their shadow.

    A shadow is asked what another version was asked; its answers are compared and not sent.
    """

    model: str
    shares: dict[str, int]
    shadow: str = ""

    @property
    def main(self) -> str:
        """The version with the largest share."""
        return max(self.shares, key=lambda version: (self.shares[version], version_key(version)))


PIPELINES = "pipelines"
"""In an agent, in place of a version: the one that pipelines run, whichever that is."""


class Turns:
    """Shares one process's requests evenly over time: at 90 and 10 percent each tenth is the second's.

    Source: the smooth weighted round-robin of nginx's upstream module.
    """

    def __init__(self) -> None:
        self._credit: dict[tuple[str, str], int] = {}

    def next(self, traffic: Traffic, ready: Collection[str]) -> str:
        """Return the version that answers the next request; those that are not ``ready`` have no turn."""
        shares = {version: share for version, share in traffic.shares.items() if version in ready}
        shares = shares or traffic.shares
        for version, share in shares.items():
            self._credit[traffic.model, version] = self._credit.get((traffic.model, version), 0) + share
        chosen = max(shares, key=lambda version: self._credit[traffic.model, version])
        self._credit[traffic.model, chosen] -= sum(shares.values())
        return chosen


def traffic_of(
    splits: Iterable[str], shadows: Iterable[str], served: Collection[tuple[str, str]]
) -> tuple[Traffic, ...]:
    """Read ``--split M=V:PERCENT,V:PERCENT`` and ``--shadow M=V``.

    Without a split the newest version but the shadow has all requests.

    Args:
        splits: One for each model at most.
        shadows: The same.
        served: The names and versions of the models.

    Raises:
        UsageError: One cannot be read, does not make 100 percent, or names a version that is not served.

    >>> traffic_of(["door=1.0:90,2.0:10"], [], {("door", "1.0"), ("door", "2.0")})
    (Traffic(model='door', shares={'1.0': 90, '2.0': 10}, shadow=''),)
    """
    shares = {model: _shares(model, given) for model, given in _pairs("--split", splits).items()}
    hidden = _pairs("--shadow", shadows)
    for model, shadow in hidden.items():
        others = [version for name, version in served if name == model and version != shadow]
        if not others:
            raise UsageError(f"--shadow {model}={shadow}: no other version of {model} is served")
        shares.setdefault(model, {max(others, key=version_key): 100})
    return tuple(
        checked(Traffic(model, each, hidden.get(model, "")), served) for model, each in shares.items()
    )


def checked(traffic: Traffic, served: Collection[tuple[str, str]]) -> Traffic:
    """Return ``traffic``, given the names and versions of the models that are served.

    Raises:
        UsageError: It does not make 100 percent, or names a version that is not served, or one twice.
    """
    model, total = traffic.model, sum(traffic.shares.values())
    if total != 100:
        raise UsageError(f"the shares of {model} make {total} percent, not 100")
    for version in [*traffic.shares, *filter(None, [traffic.shadow])]:
        if (model, version) not in served:
            raise UsageError(f"{model} {version} is not among the versions that are served")
    if traffic.shadow in traffic.shares:
        raise UsageError(f"{model} {traffic.shadow} has a share of the requests: it cannot be the shadow")
    return traffic


def in_effect(wanted: Traffic, running: Mapping[str, str]) -> Traffic:
    """Return the versions that ``PIPELINES`` stands for; ``running`` has those of pipelines, by model.

    >>> in_effect(Traffic("door", {"pipelines": 90, "2.0": 10}), {"door": "1.4"}).shares
    {'1.4': 90, '2.0': 10}
    """
    version, shares = running.get(wanted.model, PIPELINES), dict[str, int]()
    for name, share in wanted.shares.items():
        name = version if name == PIPELINES else name  # noqa: PLW2901 - an alias
        shares[name] = shares.get(name, 0) + share
    shadow = version if wanted.shadow == PIPELINES else wanted.shadow
    return Traffic(wanted.model, shares, "" if shadow in shares else shadow)


def _pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        model, _, value = text.partition("=")
        if not model or not value:
            raise UsageError(f"{option} {text}: want MODEL=...")
        if found.setdefault(model, value) is not value:
            raise UsageError(f"{option} {text}: {model} is named twice")
    return found


def _shares(model: str, given: str) -> dict[str, int]:
    shares: dict[str, int] = {}
    for text in given.split(","):
        version, _, percent = text.rpartition(":")
        if not version or version in shares or not percent.isdecimal() or not 1 <= int(percent) <= 100:
            raise UsageError(
                f"--split {model}={given}: want VERSION:PERCENT, each version once, from 1 to 100"
            )
        shares[version] = int(percent)
    return shares
