"""The counters of a daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interop.pairs import LINK, End
from wgquick import api
from wgquick.net import PublicKey

if TYPE_CHECKING:
    from wgquick.counters import Diagnostics


def counters(end: End) -> Diagnostics:
    """The counters of the end's daemon."""
    with end.machine.entered():
        found = api.diagnostics(LINK)
    assert found is not None
    return found


def key(end: End) -> PublicKey:
    return PublicKey.parse(end.public)
