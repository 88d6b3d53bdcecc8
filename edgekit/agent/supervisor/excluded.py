"""The variants that a pipeline has lost, by bundle, in a file that survives a restart of the agent."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from edgekit.base.files import write_durably
from edgekit.model.exclusions import Exclusion, Exclusions

logger = logging.getLogger(__name__)

MAX_BUNDLES = 8
_Rows = dict[str, dict[str, Exclusion]]


class Excluded:
    """``Exclusions`` of each bundle, by the digest of its manifest; of the latest ``MAX_BUNDLES``.

    After a restart every wait begins again, since the monotonic clock may have begun again too.
    """

    def __init__(self, path: Path, now_s: float) -> None:
        self._path = path
        self._bundles: dict[str, Exclusions] = {}
        for digest, rows in self._load().items():
            waiting = {
                name: msgspec.structs.replace(row, due_s=now_s + row.wait_s) for name, row in rows.items()
            }
            self._bundles[digest] = Exclusions(rows=waiting)

    @property
    def rows(self) -> _Rows:
        """Every row, by digest and variant."""
        return {digest: exclusions.rows for digest, exclusions in self._bundles.items()}

    def reasons(self, digest: str) -> dict[str, str]:
        """Return a bundle's variants not to choose now, and why."""
        exclusions = self._bundles.get(digest)
        return exclusions.reasons() if exclusions is not None else {}

    def add(self, digest: str, variant: str, reason: str, now_s: float) -> None:
        """Exclude a variant, for twice as long as the last time."""
        self._bundles.setdefault(digest, Exclusions()).add(variant, reason, now_s)
        while len(self._bundles) > MAX_BUNDLES:
            del self._bundles[next(iter(self._bundles))]
        self._save()

    def returned(self, digest: str, variant: str) -> None:
        """Allow a variant again; if it is lost once more, its wait still doubles."""
        if digest in self._bundles:
            self._bundles[digest].returned(variant)
            self._save()

    def forget(self) -> None:
        """Clear all, as when no variant is left."""
        if self._bundles:
            self._bundles.clear()
            self._save()

    def _load(self) -> _Rows:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=_Rows)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.DecodeError) as cause:
            logger.warning("%s is not used, every variant may be chosen: %s", self._path, cause)
            return {}

    def _save(self) -> None:
        try:
            write_durably(self._path, msgspec.json.encode(self.rows))
        except OSError as cause:
            logger.warning("%s cannot be written, a restart forgets what is excluded: %s", self._path, cause)
