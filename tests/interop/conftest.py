"""The tests of aged tunnels start their tunnels first and run last; several workers give them one of their own."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.interop.aged_tunnels import AgedTunnels
from tests.namespaces import before_other_work

if TYPE_CHECKING:
    from collections.abc import Iterator


SIDE_BY_SIDE = "PYTEST_XDIST_WORKER" in os.environ


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of aged tunnels last, so that their tunnels age while other tests run.

    With several workers, the order is that of `tests/conftest.py`: one worker waits while the others work.
    """
    if not SIDE_BY_SIDE:
        items.sort(key=uses_aged_tunnels)


def uses_aged_tunnels(item: pytest.Item) -> bool:
    return "aged_tunnels" in getattr(item, "fixturenames", ())


@pytest.fixture(scope="session")
def aged_tunnels() -> Iterator[AgedTunnels]:
    """The tunnels. They take little of the machine's time, but need it at once: a late answer is a lost one."""
    with contextlib.ExitStack() as opened:
        with before_other_work():
            made = opened.enter_context(AgedTunnels())
        yield made


@pytest.fixture(scope="session", autouse=True)
def _start_early(request: pytest.FixtureRequest) -> None:
    if not SIDE_BY_SIDE and any(uses_aged_tunnels(item) for item in request.session.items):
        request.getfixturevalue("aged_tunnels")


@pytest.fixture(scope="session", autouse=True)
def _interruptible() -> None:
    """A shell's background job ignores SIGINT, and so would the daemons that a test ends with it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
