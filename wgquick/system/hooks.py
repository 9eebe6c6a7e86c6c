"""Runs PreUp, PostUp, PreDown and PostDown lines as wg-quick(8) does.

A separate bash runs each line with `set -e -o pipefail`, extglob, LC_ALL=C and wgq's own directory first on PATH.
It has the shell variables of wg-quick's script ($INTERFACE, ${ADDRESSES[@]}, ...), which child processes do not
inherit, and the functions in hook.sh. Standard input, output and error are the caller's.
"""

from __future__ import annotations

import os
import sys

from wgquick.errors import NOT_FOUND, HookError
from wgquick.lean import TYPE_CHECKING
from wgquick.net import without_keys
from wgquick.system import programs
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.ports import Variables

# The line comes through a descriptor: every user can read arguments (ps), and hooks may hold secrets.
_DESCRIPTOR = 9  # the highest that every POSIX shell supports
_PRELUDE = f". /dev/fd/{_DESCRIPTOR}; exec {_DESCRIPTOR}<&-; execute_hooks"
_BASH_PRELUDE = f"set -e -o pipefail; shopt -s extglob; {_PRELUDE}"
_SH_PRELUDE = f"set -e; {_PRELUDE}"
# The functions are in a file, as bash's messages begin with the file's name.
_FUNCTIONS = f"{os.path.dirname(__file__)}/hook.sh"
_BASH = "/bin/bash"
_SH = "/bin/sh"
_PROGRAM = "wgq"
_COMMANDS = (_PROGRAM, "__main__.py")  # the second is for `python -m wgquick`
_OF_THE_FILE_SYSTEM = ("CONFIG_FILE", "SELF", "ARGS")  # the other variables are text from the file


class Hooks:
    """Runs hooks; `say` takes the note that there is no bash, `directory` is where wgq's executables are."""

    def __init__(self, say: Callable[[str], None], directory: str = "") -> None:
        self._say = say
        self._directory = directory or own_directory()
        self._remarked = False

    def run(self, command: str, variables: Variables) -> None:
        """Run one line, `%i` already replaced; HookError with the status if it is not 0."""
        if status := self._status(self._shell(), command, variables):
            raise HookError(f"the hook failed with status {status} ({without_keys(command)})", status)

    def _status(self, shell: list[str], command: str, variables: Variables) -> int:
        environment = {**os.environ, "LC_ALL": "C", "PATH": f"{self._directory}:{programs.search_path()}"}
        script = os.memfd_create("hook")
        try:
            arrays = shell[0] != _SH
            os.write(script, _script({**variables, **self._own(), "hook": command}, arrays=arrays))
            _flush()
            return programs.run([*shell, _PROGRAM], environment, {_DESCRIPTOR: script})
        finally:
            os.close(script)

    def _own(self) -> Variables:
        """The variables of wg-quick's script about itself; a program that imports wgquick has no arguments."""
        arguments = tuple(sys.argv[1:]) if _started() in _COMMANDS else ()
        return {"PROGRAM": _PROGRAM, "SELF": f"{self._directory}/{_PROGRAM}", "ARGS": arguments}

    def _shell(self) -> list[str]:
        """The start of the argument list: wg-quick's bash, one on PATH, or else sh with a note, once."""
        bash = _BASH if os.access(_BASH, os.X_OK) else programs.find("bash")
        if bash is not None:
            return [bash, "-c", _BASH_PRELUDE]
        if not os.access(_SH, os.X_OK):
            raise HookError("cannot run a hook: there is no shell", NOT_FOUND, remedy="Install bash.")
        if not self._remarked:
            self._say(note("There is no bash: hooks run in sh, without pipefail, extglob and <(...)."))
            self._remarked = True
        return [_SH, "-c", _SH_PRELUDE]


def own_directory() -> str:
    """The directory of wgq's executables: that of the running `wgq`, or of the Python that imports wgquick."""
    return os.path.dirname(os.path.realpath(sys.argv[0]) if _started() == _PROGRAM else sys.executable)


def _started() -> str:
    """The file name of this process's program."""
    return os.path.basename(os.path.realpath(sys.argv[0])) if sys.argv else ""


def _script(variables: Variables, *, arrays: bool) -> bytes:
    """The variables and functions. A shell without arrays gets an array's first element, like `$NAME` in bash.

    They are unset first, as variables from this process's environment would stay exported.
    """
    lines = [_assignment(name, value, arrays=arrays) for name, value in variables.items()]
    names = " ".join(variables).encode()
    return b"".join([b"unset -v ", names, b"\n", *lines, b". ", _quoted(os.fsencode(_FUNCTIONS)), b"\n"])


def _assignment(name: str, value: str | tuple[str, ...], *, arrays: bool) -> bytes:
    """One line. Hooks keep the file's bytes, and paths the bytes of their names, in any locale."""
    encode = os.fsencode if name in _OF_THE_FILE_SYSTEM else _encoded
    words = [_quoted(encode(word)) for word in ([value] if isinstance(value, str) else value)]
    if isinstance(value, str) or not arrays:
        return b"%s=%s\n" % (name.encode(), words[0] if words else b"")
    return b"%s=(%s)\n" % (name.encode(), b" ".join(words))


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _quoted(word: bytes) -> bytes:
    return b"'%s'" % word.replace(b"'", b"'\\''")


def _flush() -> None:
    """Write buffered output, so that it comes before the hook's output."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.flush()
