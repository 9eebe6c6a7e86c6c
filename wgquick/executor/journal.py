"""The journal: what this tunnel has done to the host and how each of it is undone, written before it is done.

One file per network namespace and interface, mode 0600, one JSON value a line, under /run (a reboot undoes
everything itself). A line is appended by one write(2), so that a kill at any moment leaves whole lines. It holds
no secrets: a hook line that contains something like a key is left out.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from wgquick.net import Rule
from wgquick.plan.steps import DeleteLink, DeleteRule, ReleaseSysctl, RemoveFirewall, RunHook, UnsetDns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.plan.steps import Step

_UNDOS: dict[str, Any] = {
    kind.__name__: kind for kind in (DeleteLink, DeleteRule, ReleaseSysctl, RemoveFirewall, UnsetDns)
}
# 32 bytes in base64, or in hexadecimal as the UAPI writes them.
_KEY_LIKE = re.compile(r"[A-Za-z0-9+/]{43}=|[0-9A-Fa-f]{64}")
_SUFFIX = ".journal"


class Record(NamedTuple):
    """A journal as read: `undos` in the order they were written, `ifindex` of the link (0 before there was one).

    `complete` is whether up had finished; `hooks` are the PreDown and PostDown lines of that time.
    """

    name: str
    path: str = ""
    ifindex: int = 0
    complete: bool = False
    undos: tuple[Step, ...] = ()
    hooks: tuple[RunHook, ...] = ()
    hidden_hooks: int = 0


class Journal:
    """The journal of one interface in one namespace; `directory` is the namespace's own."""

    def __init__(self, directory: str, name: str) -> None:
        self._name = name
        self._path = f"{directory}/{name}{_SUFFIX}"

    def start(self, path: str, hooks: tuple[Step, ...]) -> None:
        """Begin a journal anew, with the configuration's path and the hook lines that down will need."""
        os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
        kept = [hook for hook in hooks if isinstance(hook, RunHook) and not _KEY_LIKE.search(hook.command)]
        head = {"version": 1, "name": self._name, "path": path, "hidden_hooks": len(hooks) - len(kept)}
        text = "".join(_line(value) for value in ({"head": head}, *({"hook": hook} for hook in kept)))
        self._write(text, os.O_TRUNC)

    def promise(self, undo: Step) -> None:
        """Write down an undo; the caller takes its step only after this returned."""
        self._write(_line({"undo": [type(undo).__name__, *undo]}))

    def identify(self, ifindex: int) -> None:
        """Write down which link is ours, so that a later one of the same name is not taken for it."""
        self._write(_line({"ifindex": ifindex}))

    def complete(self) -> None:
        """Write down that up has finished."""
        self._write(_line({"complete": True}))

    def _write(self, text: str, flags: int = 0) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
        try:
            os.write(fd, text.encode("utf-8", "surrogateescape"))
        finally:
            os.close(fd)

    def read(self) -> Record | None:
        """The record, or None where there is no journal; a line cut short by a kill is passed over."""
        try:
            with open(self._path, encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        return _record(self._name, text)

    def remove(self) -> None:
        """Forget; nothing happens where there is no journal."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            return


def others(directory: str, name: str) -> Iterator[Record]:
    """The records of the namespace's other interfaces."""
    try:
        entries = sorted(os.listdir(directory))
    except FileNotFoundError:
        return
    for entry in entries:
        other = entry.removesuffix(_SUFFIX)
        if entry.endswith(_SUFFIX) and other != name:
            record = Journal(directory, other).read()
            if record is not None:
                yield record


def _line(value: object) -> str:
    return json.dumps(value) + "\n"


def _record(name: str, text: str) -> Record:
    record = Record(name)
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        record = _extended(record, entry)
    return record


def _extended(record: Record, entry: dict[str, Any]) -> Record:
    match entry:
        case {"head": {"path": path, "hidden_hooks": hidden}}:
            return record._replace(path=path, hidden_hooks=hidden)
        case {"hook": fields}:
            return record._replace(hooks=(*record.hooks, RunHook(*fields)))
        case {"undo": [kind, *fields]}:
            return record._replace(undos=(*record.undos, _undo(kind, fields)))
        case {"ifindex": ifindex}:
            return record._replace(ifindex=ifindex)
        case {"complete": True}:
            return record._replace(complete=True)
    return record


def _undo(kind: str, fields: list[Any]) -> Step:
    if kind == DeleteRule.__name__:
        return DeleteRule(Rule(*fields[0]))
    step: Step = _UNDOS[kind](*fields)
    return step
