"""`python -m wgquick`, and the `wgq` executable."""

from __future__ import annotations

import gc
import os
import sys


def main() -> None:
    """Run the command line and exit with its status.

    A run is short: collecting garbage, and taking the interpreter down object by object, would cost it a sixth of
    its time.
    """
    gc.disable()
    from wgquick.cli.main import run

    status = run(sys.argv[1:])
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except OSError:  # the interpreter complains, as of any program's output that cannot be written
        sys.exit(status)
    os._exit(status)


if __name__ == "__main__":
    main()
