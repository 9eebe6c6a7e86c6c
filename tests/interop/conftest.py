"""What takes minutes to see starts first and is looked at last."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.interop.aged_tunnels import AgedTunnels

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The tests of old tunnels come last, so that the tunnels age while other tests run."""
    items.sort(key=uses_elders)


def uses_elders(item: pytest.Item) -> bool:
    return "aged_tunnels" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def aged_tunnels() -> Iterator[AgedTunnels]:
    """Tunnels that have been running since the first of these tests."""
    with AgedTunnels() as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _begun_early(request: pytest.FixtureRequest) -> None:
    if any(uses_elders(item) for item in request.session.items):
        request.getfixturevalue("aged_tunnels")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """What a script runs in the background ignores SIGINT, and the daemons that are to end by it would too."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
