"""The loop of `wgq watch`: it waits for a notification of the kernel or a peer's time, in all network namespaces.

The interfaces of `# wgq: netns = NAME` are in other namespaces. The loop's thread enters such a namespace for a
moment, and never waits there. The descriptors of a namespace keep it alive: they are closed when its name is gone.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol

from wgquick.errors import WgqError
from wgquick.executor import journal, netns_records
from wgquick.lean import suppress
from wgquick.upkeep.watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from wgquick.ports import Host
    from wgquick.upkeep.events import Event
    from wgquick.upkeep.watcher import Monitor, WatchOptions

_TICK = 1.0
_ONCE_PATIENCE = 10.0


class WatchedNamespace(Protocol):
    """A network namespace in which interfaces are watched (`system/watched_netns`)."""

    @property
    def host(self) -> Host: ...
    @property
    def monitor(self) -> Monitor: ...

    def entered(self) -> AbstractContextManager[None]:
        """Have the thread in the namespace."""

    def is_current(self) -> bool:
        """Whether the namespace still has its name."""

    def close(self) -> None:
        """Close its descriptors."""


class _Inside:
    """A namespace and its watcher."""

    def __init__(self, namespace: WatchedNamespace, watcher: Watcher) -> None:
        self.namespace, self.watcher = namespace, watcher
        self.descriptors = watcher.descriptors()
        self.has_news = True


class Watch:
    """Watches the interfaces of this network namespace, and those that `up` has put into others."""

    def __init__(
        self,
        host: Host,
        monitor: Monitor,
        asked: WatchOptions,
        ready: Callable[[], object],
        enter: Callable[[str], WatchedNamespace],
    ) -> None:
        """`ready` is called after the first check. `enter` opens a named namespace."""
        self._host, self._asked, self._ready, self._enter = host, asked, ready, enter
        self._wake = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._home = Watcher(host, monitor, asked, self._wake)
        self._insides: dict[str, _Inside] = {}
        self._records: dict[str, tuple[tuple[int, ...], netns_records.NetnsRecord | None]] = {}
        self._directory: tuple[int, ...] | None = None
        self._next_tick = 0.0

    async def events(self) -> AsyncIterator[Event]:
        """The events, until the caller stops; with `once`, until the first check is done."""
        descriptors = self._home.descriptors()
        for each in descriptors:
            self._loop.add_reader(each, self._wake.set)
        until = time.monotonic() + _ONCE_PATIENCE
        is_ready = False
        try:
            while True:
                self._wake.clear()
                for event in self._home.work():
                    yield event
                for event in self._work_inside():
                    yield event
                if not is_ready:
                    is_ready = True
                    self._ready()
                if self._asked.once and (not self._is_asking or time.monotonic() > until):
                    return
                alarm = self._loop.call_later(self._sleep(), self._wake.set)
                try:
                    await self._wake.wait()  # wait_for() of Python 3.11 may lose a cancellation (gh-86296)
                finally:
                    alarm.cancel()
        finally:
            for each in descriptors:
                self._loop.remove_reader(each)
            self._home.close()
            for name in list(self._insides):
                self._leave(name)

    @property
    def _watchers(self) -> list[Watcher]:
        return [self._home, *(each.watcher for each in self._insides.values())]

    @property
    def _is_asking(self) -> bool:
        return any(each.is_asking for each in self._watchers)

    def _sleep(self) -> float:
        return min(each.sleep() for each in self._watchers)

    def _work_inside(self) -> Iterator[Event]:
        now = time.monotonic()
        if now >= self._next_tick:
            self._next_tick = now - now % _TICK + _TICK
            self._look_around()
        for inside in self._insides.values():
            if self._home.changes:
                inside.watcher.check_paths(self._home.changes)
            if inside.has_news or inside.watcher.is_due():
                inside.has_news = False
                with inside.namespace.entered():
                    found = list(inside.watcher.work())  # the caller gets them outside
                yield from found

    def _look_around(self) -> None:
        """Enter the namespaces that have watched interfaces, and leave those that have none or are gone."""
        wanted: dict[str, set[tuple[str, str]]] = {}
        for name, where in self._elsewhere():
            if where.directory and (not self._asked.names or name in self._asked.names):
                wanted.setdefault(where.netns, set()).add((name, where.directory))
        for there in [name for name, each in self._insides.items() if not each.namespace.is_current()]:
            self._leave(there)
        for there in self._insides.keys() - wanted.keys():
            self._leave(there)
        for there, names in wanted.items():
            self._watch_inside(there, names)

    def _elsewhere(self) -> Iterator[tuple[str, netns_records.NetnsRecord]]:
        """The interfaces in other namespaces, with their records. A record is read again when it has changed."""
        directory = journal.stamp(self._host.journal_directory)
        if directory == self._directory:
            yield from ((name, where) for name, (_, where) in self._records.items() if where is not None)
            return
        self._directory = directory
        stamps = netns_records.stamps(self._host)
        for name in self._records.keys() - stamps.keys():
            del self._records[name]
        for name, stamp in stamps.items():
            if name not in self._records or self._records[name][0] != stamp:
                where = None
                with suppress(WgqError):
                    where = netns_records.record_of(name, self._host)
                self._records[name] = (stamp, where)
            where = self._records[name][1]
            if where is not None:
                yield name, where

    def _watch_inside(self, there: str, names: set[tuple[str, str]]) -> None:
        """Watch these interfaces, each with its journal's directory; a new namespace of the name is another one."""
        inside = self._insides.get(there)
        if inside is None:
            try:
                namespace = self._enter(there)
            except WgqError:
                return
            if not any(directory == namespace.host.journal_directory for _, directory in names):
                namespace.monitor.close()
                namespace.close()
                return
            watcher = Watcher(namespace.host, namespace.monitor, self._asked, self._wake, self._host)
            inside = self._insides[there] = _Inside(namespace, watcher)
            for each in inside.descriptors:
                self._loop.add_reader(each, self._hear, inside)
        own = inside.namespace.host.journal_directory
        chosen = frozenset(name for name, directory in names if directory == own)
        if chosen:
            inside.watcher.limit(chosen)
        else:
            self._leave(there)

    def _hear(self, inside: _Inside) -> None:
        inside.has_news = True
        self._wake.set()

    def _leave(self, there: str) -> None:
        inside = self._insides.pop(there)
        for each in inside.descriptors:
            self._loop.remove_reader(each)
        inside.watcher.close()
        inside.namespace.close()
