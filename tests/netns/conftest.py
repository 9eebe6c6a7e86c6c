"""The machine on which the tests run `wgq` as a user does; some modules make their own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.imports import import_wgquick
from tests.namespaces import host

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace


@pytest.fixture(scope="session", autouse=True)
def _imported() -> None:
    """Import wgquick once, as `Namespace.call` forks this process for each call."""
    import_wgquick()


@pytest.fixture
def machine() -> Iterator[Namespace]:
    """A machine with an uplink of both families, and src_valid_mark off as on a new machine."""
    with fresh_machine() as made:
        yield made


@contextmanager
def fresh_machine() -> Iterator[Namespace]:
    """The same for fixtures with another scope."""
    with host() as made:
        made.uplink(ipv6=True)
        made.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
        yield made
