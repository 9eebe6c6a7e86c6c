"""`python -m wgquick`, and the `wgq` executable."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its status.

    A run is short. Garbage collection and the interpreter's orderly shutdown would take a sixth of its time.
    """
    gc.disable()
    from wgquick.cli.main import run

    status = run(sys.argv[1:])
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # let the interpreter report output that cannot be written
        sys.exit(status)
    os._exit(status)


if __name__ == "__main__":
    main()
