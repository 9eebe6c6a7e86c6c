"""The journal: the changes that wgq made to the host for an interface. Each undo is written before its step.

There is one file for each network namespace and interface, mode 0600, with one JSON value a line. It is below /run,
as a reboot undoes everything anyway. Each line is appended with one write(2), so that a kill leaves whole lines. It
has no secrets: hook lines that may contain a key are left out, and keys are recorded as keyed hashes. The key of
the hashes is in a separate file, which is deleted with the journal.
"""

from __future__ import annotations

import os
import time
from errno import ENOSPC

from wgquick.directory import opened
from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple, dumps, loads, suppress
from wgquick.net import without_keys
from wgquick.plan.file_peers import read_peers
from wgquick.plan.steps import RunHook, from_record, recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from wgquick.config.settings import Settings
    from wgquick.plan.file_peers import FilePeers
    from wgquick.plan.steps import Step, Undo

_SUFFIX = ".journal"
_COARSE = 100_000_000  # nanoseconds; the clock of time stamps ticks every few milliseconds
_VERSION = 3
_HASH_KEY = 32  # bytes
_HASH = 16


class Record(NamedTuple):
    """A journal's content: `undos` in the order in which they were written, `ifindex` of the link (0: not created).

    `peers` is what the file set for its peers. `applied` is the state that was set up from the file, `intended` the
    state that an unfinished reload was about to set (`plan.applied`); None if unknown (versions 1 and 2).
    `complete` is whether up has finished and no down has removed the link since; `hooks` are the PreDown and
    PostDown lines of that up. `unread` counts the lines that cannot be parsed: cut short by a kill, damaged, or
    written by another version. `contained` is whether it was written in a container. `since` is the start of up in
    seconds since 1970; 0 if unknown.
    """

    name: str
    path: str = ""
    ifindex: int = 0
    complete: bool = False
    undos: tuple[Undo, ...] = ()
    hooks: tuple[RunHook, ...] = ()
    hidden_hooks: int = 0
    unread: int = 0
    peers: FilePeers | None = None
    contained: bool = False
    since: int = 0
    applied: dict[str, Any] | None = None
    intended: dict[str, Any] | None = None


class Journal:
    """The journal of one interface; `directory` is that of the network namespace."""

    def __init__(self, directory: str, name: str) -> None:
        self.name = name
        self._directory = directory
        self._file = f"{name}{_SUFFIX}"
        self._next = f"{name}{_SUFFIX}.next"
        self._hash_key = f"{name}.key"
        self._path = f"{directory}/{self._file}"
        self._applied: tuple[dict[str, Any] | None, str] = None, "null"

    def start(self, path: str, hooks: tuple[Step, ...], *, contained: bool = False) -> None:
        """Start a new journal, with the path of the configuration and the hooks for down."""
        kept = [hook for hook in hooks if isinstance(hook, RunHook) and without_keys(hook.command) == hook.command]
        record = Record(
            self.name,
            path,
            hooks=tuple(kept),
            hidden_hooks=len(hooks) - len(kept),
            contained=contained,
            since=int(time.time()),
        )
        self._write("".join(_head(record)), os.O_TRUNC)

    def rewrite(self, record: Record) -> None:
        """Replace the journal by this record, so that it does not grow. A kill leaves the old or the new one."""
        lines = [
            *_head(record),
            *(_line({"undo": recorded(undo)}) for undo in record.undos),
            _line({"ifindex": record.ifindex}),
            self._applied_line("applied", record.applied),
            _line({"complete": record.complete}),
        ]
        self._write("".join(lines), os.O_TRUNC, self._next)
        try:
            with opened(self._directory) as directory:
                os.rename(self._next, self._file, src_dir_fd=directory, dst_dir_fd=directory)
        except OSError as error:
            raise self._failed("written", error) from None

    def restore(self, record: Record, hash_key: bytes) -> None:
        """Replace the journal by an earlier one, with the key that its hashes were made with."""
        if hash_key:
            self._write_bytes(hash_key, os.O_TRUNC, self._hash_key)
        self.rewrite(record)

    def record_undo(self, undo: Undo) -> None:
        """Write an undo; the caller applies its step only after this."""
        self._write(_line({"undo": recorded(undo)}))

    def retract(self, undo: Undo) -> None:
        """Write that an undo is void, as its step was refused."""
        self._write(_line({"retract": recorded(undo)}))

    def identify(self, ifindex: int) -> None:
        """Write the link's ifindex, so that a later link with the same name is not confused with it."""
        self._write(_line({"ifindex": ifindex}))

    def apply(self, applied: dict[str, Any] | None) -> None:
        """Write the state that is now set up from the file (`plan.applied.recorded`)."""
        self._write(self._applied_line("applied", applied))

    def intend(self, intended: dict[str, Any]) -> None:
        """Write the state that a reload is about to set."""
        self._write(self._applied_line("intended", intended))

    def _applied_line(self, word: str, applied: dict[str, Any] | None) -> str:
        """The line of `apply` or `intend`, encoded once, as a reload writes the same state with both."""
        if self._applied[0] is not applied:
            self._applied = applied, dumps(applied)
        return f'{{"{word}": {self._applied[1]}}}\n'

    def digest(self) -> Callable[[bytes], str]:
        """A function that hashes a secret with the journal's own key, which is created if necessary."""
        from _blake2 import blake2s  # hashlib costs more to import

        key = self.hash_key()
        if len(key) != _HASH_KEY:
            key = os.urandom(_HASH_KEY)
            self._write_bytes(key, os.O_TRUNC, self._hash_key)
        return lambda secret: str(blake2s(secret, key=key, digest_size=_HASH).hexdigest())

    def hash_key(self) -> bytes:
        """The key that secrets are hashed with; empty if there is none."""
        try:
            with open(self._open(os.O_RDONLY, self._hash_key), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise self._failed("read", error) from None

    def complete(self, is_complete: bool) -> None:
        """Write that up has finished, so that down runs its hooks. With False, a later down does not run them."""
        self._write(_line({"complete": is_complete}))

    def _write(self, text: str, flags: int = 0, file: str = "") -> None:
        self._write_bytes(text.encode("utf-8", "surrogateescape"), flags, file or self._file)

    def _write_bytes(self, data: bytes, flags: int, file: str) -> None:
        try:
            if self._append(data, flags, file) < len(data):
                raise OSError(ENOSPC, os.strerror(ENOSPC))
        except OSError as error:
            raise self._failed("written", error) from None

    def _append(self, data: bytes, flags: int, file: str) -> int:
        fd = self._open(os.O_WRONLY | os.O_APPEND | os.O_CREAT | flags, file, make=True)
        try:
            return os.write(fd, data)
        finally:
            os.close(fd)

    def _open(self, flags: int, file: str, *, make: bool = False) -> int:
        with opened(self._directory, make=make) as directory:
            return os.open(file, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=directory)

    def _failed(self, done: str, error: OSError) -> OperationError:
        what = f"the journal {self._path} cannot be {done}: {error.strerror}"
        return OperationError(what, errno=error.errno or 0, remedy="Without it wgq could not undo its changes.")

    def read(self) -> Record | None:
        """The journal's content; None if there is no journal."""
        try:
            with open(self._open(os.O_RDONLY, self._file), encoding="utf-8", errors="surrogateescape") as file:
                text = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed("read", error) from None
        return _record(self.name, text)

    def remove(self) -> None:
        """Remove the journal; does nothing if there is none."""
        for file in (self._hash_key, self._next, self._file):
            try:
                with opened(self._directory) as directory:
                    os.unlink(file, dir_fd=directory)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._failed("removed", error) from None


class NoJournal(Journal):
    """The journal of an interface that wg-quick brought up: empty, so that down uses the host's state."""

    def __init__(self, name: str) -> None:
        super().__init__("", name)

    def read(self) -> Record | None:
        """None."""
        return None

    def remove(self) -> None:
        """Does nothing."""

    def _write_bytes(self, data: bytes, flags: int, file: str) -> None:
        """Does nothing."""


def with_source(journal: Journal, applied: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The applied state in the journal's form, with `source_of` as "source", by which `save` sees edits."""
    source = source_of(journal, settings)
    return applied if source is None else {**applied, "source": source}


def source_of(journal: Journal, settings: Settings) -> str | None:
    """The hash of the settings' file; None if they are not from a file, or it cannot be read."""
    if settings.path:
        with suppress(OSError), open(settings.path, "rb") as file:
            return journal.digest()(file.read())
    return None


def stamps(directory: str, suffix: str = _SUFFIX) -> dict[str, tuple[int, ...]]:
    """The interfaces with a journal, or another suffix's file, each with a value that changes with the file."""
    found: dict[str, tuple[int, ...]] = {}
    try:
        with opened(directory) as descriptor:
            for entry in os.listdir(descriptor):
                if entry.endswith(suffix) and not entry.startswith(":"):
                    with suppress(FileNotFoundError):
                        seen = os.stat(entry, dir_fd=descriptor, follow_symlinks=False)
                        found[entry.removesuffix(suffix)] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    except FileNotFoundError:
        return {}
    return found


def stamp(directory: str) -> tuple[int, ...]:
    """A value that changes when a file of the directory is made or removed.

    Each run of wgq makes its lock there and removes it at the end, so the value also changes with the journals.
    """
    try:
        seen = os.stat(directory, follow_symlinks=False)
    except OSError:
        return ()
    now = time.time_ns()
    is_fresh = abs(now - seen.st_mtime_ns) < _COARSE  # another change may follow in the same tick of its clock
    return (seen.st_ino, seen.st_mtime_ns, now if is_fresh else 0)


def others(directory: str, name: str) -> Iterator[Record]:
    """The records of the other interfaces of the network namespace."""
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


def _head(record: Record) -> Iterator[str]:
    """The first lines: the head and the hooks."""
    head = {
        "version": _VERSION,
        "name": record.name,
        "path": record.path,
        "hidden_hooks": record.hidden_hooks,
        "contained": record.contained,
        "since": record.since,
    }
    yield _line({"head": head})
    for hook in record.hooks:
        yield _line({"hook": hook})


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
    """The record with one more line; ValueError or TypeError if the line cannot be parsed."""
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
        case {"applied": None}:
            return record._replace(applied=None, intended=None)
        case {"applied": {"peers": peers} as applied}:
            return record._replace(applied=applied, intended=None, peers=read_peers(peers))
        case {"intended": dict(intended)}:
            return record._replace(intended=intended)
        case {"peers": peers}:
            return record._replace(peers=read_peers(peers))
        case _:
            raise ValueError


def _without_last(undos: tuple[Undo, ...], retracted: Undo) -> tuple[Undo, ...]:
    """The undos without the last one that equals `retracted`; ValueError if there is none."""
    at = max(at for at, undo in enumerate(undos) if (type(undo), undo) == (type(retracted), retracted))
    return (*undos[:at], *undos[at + 1 :])
