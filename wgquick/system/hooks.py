"""PreUp, PostUp, PreDown and PostDown lines, run as wg-quick(8) runs them.

Each is evaluated by a bash of its own with `set -e -o pipefail`, extglob, LC_ALL=C, the tool's own directory first
on PATH, and $INTERFACE, $CONFIG_FILE and $PROGRAM as shell variables that its children do not see. Input and
output are the caller's.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from wgquick.errors import HookError
from wgquick.net import without_keys
from wgquick.system import programs

if TYPE_CHECKING:
    from collections.abc import Callable

# The line comes through a descriptor, as arguments are everyone's to read (ps) and hooks may hold secrets.
_DESCRIPTOR = 9  # the highest that a POSIX shell has to know
# In a subshell in a function, as in wg-quick, so that `local' and `return' work; bash's errexit needs the two.
_PRELUDE = f'. /dev/fd/{_DESCRIPTOR}; exec {_DESCRIPTOR}<&-; execute_hooks() {{ (eval "$hook"); }}; execute_hooks'
_BASH_PRELUDE = f"set -e -o pipefail; shopt -s extglob; {_PRELUDE}"
_SH_PRELUDE = f"set -e; {_PRELUDE}"
_BASH = "/bin/bash"
_SH = "/bin/sh"
_NOT_FOUND = 127  # the status of a command that is not there, as the shell has it
_PROGRAM = "wgq"


class Hooks:
    """Runs hooks; `say` takes the one remark that there is no bash, `directory` is where the tool itself is."""

    def __init__(self, say: Callable[[str], None], directory: str = "") -> None:
        self._say = say
        self._directory = directory or own_directory()
        self._remarked = False

    def run(self, command: str, *, name: str, path: str) -> None:
        """Run one line, `%i` already replaced; HookError with its status where that is not 0."""
        shell = self._shell()
        if status := self._status(shell, command, name, path):
            raise HookError(f"a hook ended with status {status}: {without_keys(command)}", status)

    def _status(self, shell: list[str], command: str, name: str, path: str) -> int:
        environment = {**os.environ, "LC_ALL": "C", "PATH": f"{self._directory}:{programs.search_path()}"}
        script = os.memfd_create("hook")
        try:
            os.write(script, _script(command, INTERFACE=name, CONFIG_FILE=path, PROGRAM=_PROGRAM))
            _flush()
            return programs.run([*shell, _PROGRAM], environment, {_DESCRIPTOR: script})
        finally:
            os.close(script)

    def _shell(self) -> list[str]:
        """The start of the argument list: wg-quick's own bash, one on PATH, or else sh, which is remarked once."""
        bash = _BASH if os.access(_BASH, os.X_OK) else programs.find("bash")
        if bash is not None:
            return [bash, "-c", _BASH_PRELUDE]
        if not os.access(_SH, os.X_OK):
            raise HookError("there is no shell to run a hook", _NOT_FOUND, remedy="Install bash.")
        if not self._remarked:
            self._say("[!] There is no bash: hooks run in sh, without pipefail, extglob and <(...).")
            self._remarked = True
        return [_SH, "-c", _SH_PRELUDE]


def own_directory() -> str:
    """Where the tool's executables are: beside the running `wgq`, or beside the Python of what imports it."""
    started = os.path.realpath(sys.argv[0]) if sys.argv else ""
    return os.path.dirname(started if os.path.basename(started) == _PROGRAM else sys.executable)


def _script(hook: str, **variables: str) -> bytes:
    """The shell variables; a hook is the bytes that it is in the file, a path those of its name, in any locale."""
    values = {"hook": hook.encode("utf-8", "surrogateescape")}
    values |= {name: os.fsencode(value) for name, value in variables.items()}
    return b"".join(b"%s='%s'\n" % (name.encode(), value.replace(b"'", b"'\\''")) for name, value in values.items())


def _flush() -> None:
    """What was printed before the hook stands before what it prints."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
