"""A named network namespace in which `wgq watch` works: the thread enters it for a moment, again and again."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wgquick.system import calls, netns
from wgquick.system.dns import NAMESPACES
from wgquick.system.host import LocalHost
from wgquick.system.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class WatchedNamespace:
    """The namespace, kept open until `close`; OperationError if there is none, or without CAP_SYS_ADMIN."""

    def __init__(self, name: str, say: Callable[[str], None]) -> None:
        self._outer = netns.not_entered(name)
        self._path, self._own = netns.path_of(name), os.fstat(self._outer.inside)
        try:
            with self.entered():
                self.host = LocalHost(say, self._outer)
                self.monitor = Monitor(f"{NAMESPACES}/{name}/resolv.conf")
        except BaseException:
            self.close()
            raise

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread in the namespace."""
        self._outer.enter()
        try:
            yield
        finally:
            calls.enter_network(self._outer.origin)

    def is_current(self) -> bool:
        """Whether the namespace still has its name."""
        try:
            return os.path.samestat(os.stat(self._path), self._own)
        except OSError:
            return False

    def close(self) -> None:
        """Close the descriptors, which keep the namespace alive."""
        os.close(self._outer.origin)
        os.close(self._outer.inside)
