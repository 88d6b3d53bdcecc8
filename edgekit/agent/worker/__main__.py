"""``python -m edgekit.agent.worker --channel FD``: started by the supervisor, never by hand."""

import sys

from edgekit.base.left_out import import_msgspec

if __name__ == "__main__":
    import_msgspec()
    from edgekit.agent.worker.worker import main

    sys.exit(main())
