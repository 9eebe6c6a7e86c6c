"""`python -m wgquick`, and the `wgq` executable."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its status."""
    from wgquick.cli.main import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
