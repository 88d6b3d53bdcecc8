"""The variants that a pipeline has lost, by bundle, in a file that survives a restart of the agent."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.base.kept import keep, read_kept
from edgekit.model.exclusions import Exclusion, Exclusions

MAX_BUNDLES = 8
_Rows = dict[str, dict[str, Exclusion]]
_LOSS = "a restart begins with the variant that was lost"


class Excluded:
    """``Exclusions`` of the latest ``MAX_BUNDLES`` bundles, by the digest of the manifest.

    After a restart every wait begins again, as the monotonic clock may have.
    """

    def __init__(self, path: Path, now_s: float, retry_s: tuple[float, float]) -> None:
        self._path, self._retry_s = path, retry_s
        self._bundles: dict[str, Exclusions] = {}
        for digest, rows in read_kept(path, _Rows, _Rows(), _LOSS).items():
            waiting = {
                name: msgspec.structs.replace(row, due_s=now_s + row.wait_s) for name, row in rows.items()
            }
            self._bundles[digest] = Exclusions(retry_s, waiting)

    @property
    def rows(self) -> _Rows:
        """Every row, by digest and variant."""
        return {digest: dict(exclusions.rows) for digest, exclusions in self._bundles.items()}

    def reasons(self, digest: str) -> dict[str, str]:
        """Return a bundle's variants not to choose now, and why."""
        return self._bundles[digest].reasons() if digest in self._bundles else {}

    def add(self, digest: str, variant: str, reason: str, now_s: float) -> None:
        """Exclude a variant, for twice as long as the last time."""
        self._bundles.setdefault(digest, Exclusions(self._retry_s)).add(variant, reason, now_s)
        while len(self._bundles) > MAX_BUNDLES:
            del self._bundles[next(iter(self._bundles))]
        keep(self._path, self.rows, _LOSS)

    def returned(self, digest: str, variant: str) -> None:
        """Allow a variant again; if it is lost once more, its wait still doubles."""
        if digest in self._bundles:
            self._bundles[digest].returned(variant)
            keep(self._path, self.rows, _LOSS)

    def forget(self) -> None:
        """Clear all, as when no variant is left."""
        if self._bundles:
            self._bundles.clear()
            keep(self._path, self.rows, _LOSS)
