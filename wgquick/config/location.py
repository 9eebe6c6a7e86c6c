"""Finds and reads the file for a name or path, by wg-quick's rule (parse_options of wg-quick(8))."""

from __future__ import annotations

import os

from wgquick.config.document import Document
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.options import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO

STANDARD_INPUT = "-"
_SUFFIX = ".conf"
_REFUSED = (".", "..", "all", "default")  # dev_valid_name(), sysctl_dev_name_is_allowed() of the kernel
_LONGEST = 15
_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_=+.-"
_LISTED = 8
_FILE_RULE = "The config file must be a valid interface name, followed by .conf"
_NAME_RULE = "A name has 1 to 15 letters, digits or these characters: _ = + . -"


class Location(NamedTuple):
    """An interface's name and the resolved path of its file; the path is empty for standard input."""

    name: str
    path: str

    @property
    def file(self) -> str:
        """The path if it is a regular file, which can be read again and saved to; else ""."""
        return self.path if os.path.isfile(self.path) else ""


def locate(target: str, name: str | None = None, directory: str = DIRECTORY) -> Location:
    """The file that `target` means: a name in `directory`, a path to NAME.conf, or `-` with `name`.

    `name` replaces the name from the path. As in wg-quick, the interface's name comes from the given path, and the
    file is the target of its symbolic links.
    """
    if target == STANDARD_INPUT:
        return Location(_standard_input_name(name), "")
    path = _given_path(target, directory)
    if not _exists(path):
        path = _by_long_name(target, name, directory)
    if os.path.isdir(path):
        raise _is_directory(path)
    return Location(valid_name(name) if name else _name_of(path), _resolved(path))


def _exists(path: str) -> bool:
    """Whether the file exists; WgqError if its directory does not let this user see that."""
    try:
        os.stat(path)
    except PermissionError as error:
        raise _unreadable(path, error) from None
    except (OSError, ValueError):
        return False
    return True


def _by_long_name(target: str, name: str | None, directory: str) -> str:
    """The file in `directory` for a target that is an invalid interface name, if `name` gives a valid one."""
    path = f"{directory}/{target}{_SUFFIX}"
    if "/" in target or is_valid_name(target) or not os.path.exists(path):
        raise WgqError(
            f"`{_given_path(target, directory)}' does not exist", remedy=_missing_remedy(target, directory)
        )
    if not name:
        raise _invalid(target)
    return path


def _resolved(path: str) -> str:
    """The path without symbolic links. The link of a pipe (`<(...)`) leads to no file, so it stays."""
    found = os.path.realpath(path)
    return found if os.path.exists(found) else path


def target_of(name: str, path: str, directory: str = DIRECTORY) -> str:
    """The words after `wgq up` for an interface and its file, which is empty for standard input."""
    if not path or path == os.path.realpath(f"{directory}/{name}{_SUFFIX}"):
        return name
    return path if path.endswith(f"/{name}{_SUFFIX}") else f"--name {name} {path}"


def interface_name(target: str) -> str:
    """The interface that `target` names; the file does not have to exist."""
    if not ("/" in target or target.endswith(_SUFFIX) or is_valid_name(target)):
        raise _invalid(target)
    return _name_of(_given_path(target, DIRECTORY))


def configured(directory: str = DIRECTORY) -> list[str]:
    """The names of the interfaces that have a file in `directory`, in order."""
    try:
        files = os.listdir(directory)
    except OSError:
        return []
    names = (file[: -len(_SUFFIX)] for file in files if file.endswith(_SUFFIX))
    return sorted(name for name in names if is_valid_name(name))


def is_valid_name(name: str) -> bool:
    """Whether wg-quick's rule and the kernel allow the interface name."""
    return 0 < len(name) <= _LONGEST and not name.strip(_LETTERS) and name not in _REFUSED


def valid_name(name: str) -> str:
    """The name itself, or WgqError if wg-quick's rule does not allow it."""
    if not is_valid_name(name):
        raise WgqError(f"`{name}' is not a valid interface name: {_name_fault(name)}", remedy=_NAME_RULE)
    return name


def _invalid(name: str) -> WgqError:
    """The error for a file name that is not a valid interface name."""
    remedy = f"Rename the file, or give `wgq up' and `wgq down' another name: --name {_shorter(name)}"
    return WgqError(f"{_FILE_RULE}: `{name}' is not: {_name_fault(name)}", remedy=remedy)


def _name_fault(name: str) -> str:
    if not name:
        return "it is empty"
    if odd := next((char for char in name if char not in _LETTERS), ""):
        return f"it contains {_called(odd)}; only ASCII letters, digits and _ = + . - are allowed"
    if name in _REFUSED:
        return "the kernel reserves that name"
    return f"it has {len(name)} characters, the maximum is {_LONGEST}"


def _called(char: str) -> str:
    """A character for a message, by its name if it is invisible or misleading."""
    if char.isascii() and char.isprintable():
        return "a blank" if char == " " else f"`{char}'"
    from wgquick.config.characters import foreign

    odd = foreign(char)
    return odd.name if odd else "a control character"


def _shorter(name: str) -> str:
    """A valid name similar to the given one."""
    kept = "".join(char for char in name if char in _LETTERS)
    name = kept[:_LONGEST].rstrip("-.")
    return name if is_valid_name(name) else "wg0"


def file_here(source: str) -> str:
    """`./NAME.conf` if `source` is `NAME.conf` and a file in the current directory; else `source`."""
    return f"./{source}" if "/" not in source and source.endswith(".conf") and os.path.isfile(source) else source


def read(location: Location, standard_input: BinaryIO | None = None) -> Document:
    """The file's bytes as a document; WgqError if it cannot be read."""
    if not location.path:
        return Document.parse((standard_input or _standard_input()).read())
    try:
        with open(location.path, "rb") as file:
            return Document.parse(file.read(), location.file)
    except OSError as error:
        raise _unreadable(location.path, error) from None


def world_access_warning(path: str) -> str:
    """wg-quick's warning if the file and its directory share a permission for others; else ""."""
    modes = [os.stat(each).st_mode for each in (path, os.path.dirname(path) or "/")]
    return f"Warning: `{path}' is world accessible" if modes[0] & modes[1] & 0o007 else ""


def warn_of_world_access(location: Location, say: Callable[[str], None]) -> None:
    """Print the warning if it applies; standard input never does."""
    if location.path and (warning := world_access_warning(location.path)):
        say(warning)


def _standard_input() -> BinaryIO:
    import sys

    if sys.stdin is None:  # it was closed when this process started (`<&-`)
        raise WgqError("standard input is closed", remedy="Pipe the configuration in, or name a file.")
    return sys.stdin.buffer


def _standard_input_name(name: str | None) -> str:
    if not name:
        raise WgqError("standard input has no name", remedy="Name the interface: --name wg0")
    return valid_name(name)


def _given_path(target: str, directory: str) -> str:
    return f"{directory}/{target}{_SUFFIX}" if is_valid_name(target) else target


def _name_of(path: str) -> str:
    file = path.rpartition("/")[2]
    name = file.removesuffix(_SUFFIX)
    if name == file:
        raise WgqError(_FILE_RULE, remedy=_NAME_RULE)
    if not is_valid_name(name):
        raise _invalid(name)
    return name


def _missing_remedy(target: str, directory: str) -> str:
    path = _given_path(target, directory)
    if os.path.islink(path):
        return f"It is a symbolic link to `{os.readlink(path)}', which does not exist."
    if target.endswith(_SUFFIX) and os.path.exists(target):
        return f"For the file in this directory, write `./{target}'."
    if target.endswith(_SUFFIX) and os.path.exists(f"{directory}/{target}"):
        return f"For the file in {directory}, write `{target.removesuffix(_SUFFIX)}'."
    examples = _examples(directory)
    if path != target and target.endswith(_SUFFIX):
        stem = target.removesuffix(_SUFFIX)
        words = f"Write `./{target}' for a file in this directory, or `{stem}' for {directory}/{target}."
        return f"{words} Configurations are in {directory}{examples}." if examples else words
    return f"Configurations are in {directory}{examples}; a path has to end in NAME.conf."


def _examples(directory: str) -> str:
    """The first names of configurations in the directory, to help with a mistyped one."""
    try:
        entries = sorted(os.listdir(directory))
    except OSError:
        return ""
    names = [entry.removesuffix(_SUFFIX) for entry in entries if entry.endswith(_SUFFIX)]
    found = [name for name in names if is_valid_name(name)]
    more = [f"and {len(found) - _LISTED} more"] if len(found) > _LISTED else []
    return f" ({', '.join([*found[:_LISTED], *more])})" if found else ""


def _is_directory(path: str) -> WgqError:
    return WgqError(f"`{path}' is a directory", remedy=f"Give the file: {path.rstrip('/')}/NAME{_SUFFIX}")


def _unreadable(path: str, error: OSError) -> WgqError:
    if isinstance(error, IsADirectoryError):
        return _is_directory(path)
    if isinstance(error, FileNotFoundError):
        remedy = _missing_remedy(path if "/" in path else f"./{path}", DIRECTORY)
        return WgqError(f"`{path}' does not exist", remedy=remedy)
    remedy = "Run this command as root, or with sudo." if isinstance(error, PermissionError) else ""
    return WgqError(f"cannot read `{path}': {os.strerror(error.errno or 0)}", remedy=remedy)
