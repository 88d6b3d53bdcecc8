"""``python -m edgekit.agent.worker --channel FD``: started by the supervisor, never by hand."""

import sys

from edgekit.agent.worker.worker import main

if __name__ == "__main__":
    sys.exit(main())
