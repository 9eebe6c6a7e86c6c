"""The command that starts this program again, wherever it is installed."""

from __future__ import annotations

import os
import sys

# Root's Python may not search the place of the user's package: a home directory, PYTHONPATH.
_START = "import sys; sys.path.append(sys.argv[1]); del sys.argv[:2]; from wgquick.__main__ import main; main()"


def command(arguments: list[str]) -> list[str]:
    """The argument list that runs this program with the same interpreter; `arguments` begins with its name."""
    # -P: without it the interpreter would run any wgquick in the current directory.
    place = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [sys.executable, "-P", "-c", _START, place, *arguments]
