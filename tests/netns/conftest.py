"""The machine on which the tests run `wgq` as a user does; some modules make their own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.imports import import_wgquick
from tests.namespaces import host
from tests.netns.tunnels import settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Import wgquick once, as `Namespace.call` forks this process for each call."""
    import_wgquick()


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A machine with an uplink of both families, and src_valid_mark off as on a new machine.

    Without duplicate address detection, none of its addresses or routes changes later.
    """
    with fresh_machine() as made:
        yield made


@contextmanager
def fresh_machine() -> Iterator[Namespace]:
    """The same for fixtures with another scope."""
    with host() as made:
        made.run(["sysctl", "-q", "net.ipv6.conf.default.accept_dad=0", "net.ipv4.conf.all.src_valid_mark=0"])
        made.uplink(ipv6=True)
        settle(made)
        yield made
