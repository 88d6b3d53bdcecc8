"""The requests that wait for a lane: their order, their bounds, and which of them run at once.

First come, first served, but fairly among clients: a client's next request is due one typical run after its
previous one, so somebody who sends one request does not wait for the thousand of somebody else. A step of
``priority`` is worth one second of waiting: so the higher goes first, and nothing waits for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from edgekit.base.entry import Bounds, Entry, Pace
from edgekit.base.joint import Joint
from edgekit.base.stream import Stream

STEP_S = 1.0
_CLIENTS = 256


class Requests:
    """What waits in ``stream``; used with the lane's lock held."""

    def __init__(self, stream: Stream[Entry], bounds: Bounds, pace: Callable[[str], Pace]) -> None:
        self.stream = stream
        self.rows = self.size_bytes = self.left = 0
        self._bounds, self._pace = bounds, pace
        self._kinds: Counter[tuple[str, Joint | None]] = Counter()
        self._clients: Counter[str] = Counter()
        self._due_s: dict[str, float] = {}

    def place(self, entry: Entry) -> int:
        """Rank a new request, and return how many of those that wait go before it."""
        due_s = max(entry.queued_s, self._due_s.get(entry.client, 0.0))
        entry.rank_s = due_s - STEP_S * entry.priority
        items, at = self.stream.items, len(self.stream.items)
        while at and items[at - 1].rank_s > entry.rank_s:
            at -= 1
        return at

    def refusal(self, entry: Entry) -> str:
        """Return why a request cannot wait too; empty if it can. A lone one always can.

        Requests without a client's name are in no share.
        """
        bounds = self._bounds
        if not self.stream.items:
            return ""
        if self.rows + entry.rows > bounds.waiting:
            return f"{self.rows} requests wait for this model already"
        if self.size_bytes + entry.size_bytes > bounds.waiting_bytes:
            return f"requests of {bounds.waiting_bytes} bytes wait for this model already"
        most = max(1, round(bounds.waiting * bounds.client_share))
        if entry.client and (own := self._clients[entry.client]) and own + entry.rows > most:
            return f"{own} requests of this client wait for this model already"
        return ""

    def add(self, entry: Entry, at: int, *, wake: bool = True) -> None:
        """Have a request wait at its place."""
        if not self.stream.items or len(self._due_s) > _CLIENTS:
            self._due_s = {client: due for client, due in self._due_s.items() if due > entry.queued_s}
        due_s = entry.rank_s + STEP_S * entry.priority
        self._due_s[entry.client] = due_s + self._share_s(entry.kind, entry.joint) * entry.rows
        self.stream.add(entry, at, wake=wake)
        self._count(entry, 1)

    def add_last(self, entry: Entry) -> None:
        """Have work wait for everything that waits now."""
        if self.stream.items:
            entry.rank_s = max(entry.rank_s, self.stream.items[-1].rank_s)
        self.stream.add(entry, len(self.stream.items))
        self._count(entry, 1)

    def taken(self, entry: Entry) -> None:
        """Note that a request has begun."""
        self._count(entry, -1)

    def remove(self, entry: Entry) -> None:
        """Remove a request, if it waits."""
        try:
            self.stream.items.remove(entry)
        except ValueError:
            return
        self._count(entry, -1)

    def join(self, first: Entry, now_s: float) -> list[Entry]:
        """Take what is to run at once with a request that was taken; it alone where a batch does not pay.

        A batch ends at its bound, and where one of its requests would be late. Empty where the first should
        not run: with others it is late, and in the time that it takes alone several of those are answered.
        """
        joint = first.joint
        if joint is None:
            return [first]
        if self._is_in_the_way(first, joint, now_s):
            return []
        chosen, rows, until_s = [first], first.rows, first.deadline_s
        for entry in self.stream.items:
            if entry.joint is joint and not entry.done.is_set():
                until_s = min(until_s, entry.deadline_s)
                rows += entry.rows
                if rows > joint.most_rows or now_s + joint.fit.cost_s(rows) > until_s:
                    break
                chosen.append(entry)
        rows = sum(entry.rows for entry in chosen)
        if len(chosen) == 1 or not joint.pays(rows, self._pace(first.kind).typical_s):
            return [first]
        for entry in chosen[1:]:
            self.remove(entry)
        return chosen

    def _is_in_the_way(self, first: Entry, joint: Joint, now_s: float) -> bool:
        if self._kinds[first.kind, joint] < joint.most_rows or self.stream.items[0].priority < first.priority:
            return False
        is_late = now_s + joint.fit.cost_s(first.rows + 1) > first.deadline_s
        alone_s = self._pace(first.kind).typical_s
        return is_late and joint.share_s(alone_s) < alone_s

    def wait_s(self, at: int) -> float:
        """Return the expected seconds that the first ``at`` requests take."""
        waiting = len(self.stream.items)
        whole_s = sum(self._share_s(*key) * rows for key, rows in self._kinds.items())
        return whole_s * at / waiting if waiting else 0.0

    def run_s(self, entry: Entry, at: int) -> float:
        """Return the expected seconds that the run takes which a request will be in."""
        alone_s, joint = self._pace(entry.kind).typical_s, entry.joint
        if joint is None or not at or joint.share_s(alone_s) == alone_s:
            return alone_s
        return max(alone_s, joint.fit.cost_s(min(at + 1, joint.most_rows)))

    def _share_s(self, kind: str, joint: Joint | None) -> float:
        alone_s = self._pace(kind).typical_s
        return joint.share_s(alone_s) if joint else alone_s

    def _count(self, entry: Entry, sign: int) -> None:
        self.left += sign < 0
        self.rows += sign * entry.rows
        self.size_bytes += sign * entry.size_bytes
        self._kinds[entry.kind, entry.joint] += sign * entry.rows
        self._clients[entry.client] += sign * entry.rows
        if not self._clients[entry.client]:
            del self._clients[entry.client]
