"""Which channels to give up: a pure decision from what they matter and what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

BLOCK: Final = 8
"""Channels stay multiples of this: integer kernels work on as many at once."""
_LEAST_SHARE: Final = 0.125


class Slack(msgspec.Struct, frozen=True, kw_only=True):
    """A set of layers whose channels can only go together.

    ``importances`` are those of its channels now, in any unit that all sets share. ``cost`` is the
    share of the model's multiply-adds that one channel takes, ``storage`` its share of the weights.
    ``initial`` is how many channels the set began with.
    """

    name: str
    importances: tuple[float, ...]
    cost: float
    storage: float = 0.0
    initial: int

    @property
    def step(self) -> int:
        """How many channels go next; 0 when no more may."""
        count = len(self.importances)
        step = count % BLOCK or BLOCK
        least = max(BLOCK, self.initial * _LEAST_SHARE)
        return step if count - step >= least else 0

    def loss(self) -> float:
        """What the next channels matter for what they take; work and storage weigh the same."""
        price = max(self.cost + self.storage, 1e-12)
        return sum(sorted(self.importances)[: self.step]) / (price * self.step)

    def without(self, count: int) -> Slack:
        """Return it after its ``count`` least important channels are gone."""
        return msgspec.structs.replace(self, importances=tuple(sorted(self.importances)[count:]))


def choose(slacks: Sequence[Slack], wanted: float) -> dict[str, int]:
    """Return how many channels of each set to give up.

    The next channels always come from the set where they matter least for what they take. No
    set goes below 8 channels nor below an eighth of what it began with.

    Args:
        slacks: The sets.
        wanted: Share of the multiply-adds to save, by the sets' own estimates.

    Returns:
        Channels to remove by set, least important first; empty where nothing more may go.

    >>> a = Slack(name="a", importances=(1.0,) * 8 + (9.0,) * 8, cost=0.01, initial=16)
    >>> b = Slack(name="b", importances=(2.0,) * 24, cost=0.01, initial=24)
    >>> choose([a, b], wanted=0.1)
    {'a': 8, 'b': 8}
    """
    left = {slack.name: slack for slack in slacks}
    removed: dict[str, int] = {}
    saved = 0.0
    while saved < wanted:
        open_sets = [slack for slack in left.values() if slack.step]
        if not open_sets:
            break
        worst = min(open_sets, key=lambda slack: (slack.loss(), slack.name))
        step = worst.step
        removed[worst.name] = removed.get(worst.name, 0) + step
        saved += step * worst.cost
        left[worst.name] = worst.without(step)
    return removed
