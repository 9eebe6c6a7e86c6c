"""The tests of aged tunnels start their tunnels first and run last."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.interop.aged_tunnels import AgedTunnels

if TYPE_CHECKING:
    from collections.abc import Iterator


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of aged tunnels last, so that their tunnels age while other tests run."""
    items.sort(key=uses_aged_tunnels)


def uses_aged_tunnels(item: pytest.Item) -> bool:
    return "aged_tunnels" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def aged_tunnels() -> Iterator[AgedTunnels]:
    """The tunnels, started before the first test."""
    with AgedTunnels() as made:
        yield made


@pytest.fixture(scope="session", autouse=True)
def _start_early(request: pytest.FixtureRequest) -> None:
    if any(uses_aged_tunnels(item) for item in request.session.items):
        request.getfixturevalue("aged_tunnels")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell's background job ignores SIGINT, and so would the daemons that a test ends with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
