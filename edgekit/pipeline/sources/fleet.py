"""A camera of the fleet's list, while this device does not have the list.

The agent puts the camera's own ``[source]`` in the place of this one as soon as the list names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from edgekit.core.errors import SourceError
from edgekit.pipeline.check import Options

if TYPE_CHECKING:
    from edgekit.core.ports import Frame
    from edgekit.pipeline.sources import SourceContext


class FleetOptions(Options, frozen=True, kw_only=True):
    """``[source]`` of a pipeline whose camera the fleet defines: the camera's name there."""

    camera: str


class FleetSource:
    """Gives no frames: a camera that is not in the list cannot be opened, and is tried again."""

    Options = FleetOptions
    is_live = True
    due_s = None

    def __init__(self, options: FleetOptions, context: SourceContext) -> None:  # noqa: ARG002 - as every source
        self._camera = options.camera

    def open(self) -> NoReturn:
        """Say that the camera is not known here.

        Raises:
            SourceError: Always.
        """
        raise SourceError(
            f"the fleet's list for this device has no camera {self._camera!r}",
            hint="on the fleet: edgekit-fleet cameras set FILE --device ID; only an enrolled agent gets it",
        )

    def read(self) -> Frame | None:
        """Return no frame."""
        return None

    def close(self) -> None:
        """Do nothing."""
