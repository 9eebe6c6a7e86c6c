"""The journal: what this tunnel has done to the host and how each of it is undone, written before it is done.

One file per network namespace and interface, mode 0600, one JSON value a line, under /run (a reboot undoes
everything itself). A line is appended by one write(2), so that a kill at any moment leaves whole lines. It holds
no secrets: a hook line that contains something like a key is left out.
"""

from __future__ import annotations

import os
import time
from errno import ENOSPC

from wgquick.directory import opened
from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, dumps, loads
from wgquick.net import without_keys
from wgquick.plan.given import Given
from wgquick.plan.steps import RunHook, from_record, recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.plan.given import Earlier
    from wgquick.plan.steps import Step, Undo

_SUFFIX = ".journal"


class Record(NamedTuple):
    """A journal as read: `undos` in the order they were written, `ifindex` of the link (0 before there was one).

    `peers` is what the file gave for its peers, None if that is not known.
    `complete` is whether up had finished, and no down has taken the link away since; `hooks` are the PreDown and
    PostDown lines of that time. `unread` counts the lines that mean nothing here: cut short by a kill, damaged, or
    written by another version. `contained` is whether it was written in a container. `since` is when up began, in
    seconds since the epoch; 0 if that is not known.
    """

    name: str
    path: str = ""
    ifindex: int = 0
    complete: bool = False
    undos: tuple[Undo, ...] = ()
    hooks: tuple[RunHook, ...] = ()
    hidden_hooks: int = 0
    unread: int = 0
    peers: Earlier | None = None
    contained: bool = False
    since: int = 0


class Journal:
    """The journal of one interface in one namespace; `directory` is the namespace's own."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self._directory = directory
        self._file = f"{name}{_SUFFIX}"
        self._path = f"{directory}/{self._file}"

    def start(
        self, path: str, hooks: tuple[Step, ...], peers: Earlier | None = None, *, contained: bool = False
    ) -> None:
        """Begin a journal anew, with the configuration's path, the hooks for down and the peers for reload."""
        kept = [hook for hook in hooks if isinstance(hook, RunHook) and without_keys(hook.command) == hook.command]
        head = {"version": 2, "name": self.name, "path": path, "hidden_hooks": len(hooks) - len(kept)}
        head["contained"] = contained
        head["since"] = int(time.time())
        described = [_described(peers)] if peers else [{"peers": {}}]
        text = "".join(map(_line, ({"head": head}, *({"hook": hook} for hook in kept), *described)))
        self._write(text, os.O_TRUNC)

    def promise(self, undo: Undo) -> None:
        """Write down an undo; the caller takes its step only after this returned."""
        self._write(_line({"undo": recorded(undo)}))

    def retract(self, undo: Undo) -> None:
        """Write down that an undo is not to be taken after all, as its step was refused."""
        self._write(_line({"retract": recorded(undo)}))

    def identify(self, ifindex: int) -> None:
        """Write down which link is ours, so that a later one of the same name is not taken for it."""
        self._write(_line({"ifindex": ifindex}))

    def describe(self, peers: Earlier) -> None:
        """Write down what the file gives for its peers now."""
        self._write(_line(_described(peers)))

    def complete(self, is_complete: bool) -> None:
        """Write down that up has finished, so that down runs its hooks; or that these are not due any more."""
        self._write(_line({"complete": is_complete}))

    def _write(self, text: str, flags: int = 0) -> None:
        data = text.encode("utf-8", "surrogateescape")
        try:
            if self._append(data, flags) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            raise self._failed("written", error) from None

    def _append(self, data: bytes, flags: int) -> int:
        fd = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, make=True)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def _open(self, flags: int, *, make: bool = False) -> int:
        with opened(self._directory, make=make) as directory:
            return os.open(self._file, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)

    def _failed(self, done: str, error: OSError) -> OperationError:
        what = f"the journal {self._path} cannot be {done}: {error.strerror}"
        return OperationError(what, errno=error.errno or 0, remedy="Without it nothing could be undone safely.")

    def read(self) -> Record | None:
        """The record, or None where there is no journal."""
        try:
            with open(self._open(os.O_RDONLY), encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", error) from None
        return _record(self.name, text)

    def remove(self) -> None:
        """Forget; nothing happens where there is no journal."""
        try:
            with opened(self._directory) as directory:
                os.unlink(self._file, dir_fd=directory)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._failed("removed", error) from None


def others(directory: str, name: str) -> Iterator[Record]:
    """The records of the namespace's other interfaces."""
    try:
        with opened(directory) as descriptor:
            entries = sorted(os.listdir(descriptor))
    except FileNotFoundError:
        return
    for entry in entries:
        other = entry.removesuffix(_SUFFIX)
        if entry.endswith(_SUFFIX) and other != name:
            record = Journal(directory, other).read()
            if record is not None:
                yield record


def _described(peers: Earlier) -> dict[str, dict[str, Given]]:
    return {"peers": {key.hex(): given for key, given in peers.items()}}


def _line(value: object) -> str:
    return dumps(value) + "\n"


def _record(name: str, text: str) -> Record:
    record = Record(name)
    for line in text.splitlines():
        try:
            record = _extended(record, loads(line))
        except (ValueError, TypeError, RecursionError):
            record = record._replace(unread=record.unread + 1)
    return record


def _extended(record: Record, entry: object) -> Record:
    """With one more line; ValueError or TypeError where that is not understood."""
    match entry:
        case {"head": {"path": str(path), "hidden_hooks": int(hidden), **more}}:
            since = more.get("since")
            return record._replace(
                path=path,
                hidden_hooks=hidden,
                contained=more.get("contained") is True,
                since=since if isinstance(since, int) else 0,
            )
        case {"hook": [str(name), str(stage), str(command)]}:
            return record._replace(hooks=(*record.hooks, RunHook(name, stage, command)))
        case {"undo": [str(kind), *fields]}:
            return record._replace(undos=(*record.undos, from_record(kind, fields)))
        case {"retract": [str(kind), *fields]}:
            return record._replace(undos=_without_last(record.undos, from_record(kind, fields)))
        case {"ifindex": int(ifindex)}:
            return record._replace(ifindex=ifindex)
        case {"complete": bool(is_complete)}:
            return record._replace(complete=is_complete)
        case {"peers": dict(peers)}:
            return record._replace(peers={bytes.fromhex(key): Given(*fields) for key, fields in peers.items()})
    raise ValueError


def _without_last(undos: tuple[Undo, ...], retracted: Undo) -> tuple[Undo, ...]:
    """The undos without the last one that equals `retracted`; ValueError if there is none."""
    at = max(at for at, undo in enumerate(undos) if (type(undo), undo) == (type(retracted), retracted))
    return (*undos[:at], *undos[at + 1 :])
