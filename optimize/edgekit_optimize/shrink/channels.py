"""Choose which channels to remove, from their importance and cost. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

BLOCK: Final = 8
"""Channel counts stay multiples of this, which integer kernels process at once."""
_LEAST_SHARE: Final = 0.125


class Slack(msgspec.Struct, frozen=True, kw_only=True):
    """A set of layers whose channels can only be removed together.

    ``importances`` are those of its remaining channels, in a unit common to all sets. ``cost`` is one
    channel's share of the model's multiply-adds, ``storage`` its share of the weights. ``initial`` is
    the number of channels before pruning.
    """

    name: str
    importances: tuple[float, ...]
    cost: float
    storage: float = 0.0
    initial: int

    @property
    def step(self) -> int:
        """How many channels to remove next; 0 if no more can be removed."""
        count = len(self.importances)
        step = count % BLOCK or BLOCK
        least = max(BLOCK, self.initial * _LEAST_SHARE)
        return step if count - step >= least else 0

    def loss(self) -> float:
        """The next channels' importance relative to their cost; computation and storage count equally."""
        price = max(self.cost + self.storage, 1e-12)
        return sum(sorted(self.importances)[: self.step]) / (price * self.step)

    def without(self, count: int) -> Slack:
        """Return the set without its ``count`` least important channels."""
        return msgspec.structs.replace(self, importances=tuple(sorted(self.importances)[count:]))


def choose(slacks: Sequence[Slack], saving: float) -> dict[str, int]:
    """Return how many channels of each set to remove.

    The next channels always come from the set where they matter least relative to their cost. No set
    goes below 8 channels or an eighth of its initial number.

    Args:
        slacks: The sets.
        saving: Share of the multiply-adds to save, by the sets' estimates.

    Returns:
        Channels to remove by set, least important first; empty if none can be removed.

    >>> a = Slack(name="a", importances=(1.0,) * 8 + (9.0,) * 8, cost=0.01, initial=16)
    >>> b = Slack(name="b", importances=(2.0,) * 24, cost=0.01, initial=24)
    >>> choose([a, b], saving=0.1)
    {'a': 8, 'b': 8}
    """
    left = {slack.name: slack for slack in slacks}
    removed: dict[str, int] = {}
    saved = 0.0
    while saved < saving:
        open_sets = [slack for slack in left.values() if slack.step]
        if not open_sets:
            break
        worst = min(open_sets, key=lambda slack: (slack.loss(), slack.name))
        step = worst.step
        removed[worst.name] = removed.get(worst.name, 0) + step
        saved += step * worst.cost
        left[worst.name] = worst.without(step)
    return removed
