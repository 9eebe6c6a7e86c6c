"""Which orders of IPv6 addresses lead to the same sources."""

from __future__ import annotations

import itertools

import pytest

from wgquick.net import Prefix
from wgquick.plan.source_order import are_alike


def prefixes(text: str) -> list[Prefix]:
    return [Prefix.parse(word) for word in text.split()]


@pytest.mark.parametrize(
    ("order", "other", "alike"),
    [
        ("fd00::1/64 2001:db8::1/64", "2001:db8::1/64 fd00::1/64", True),
        ("fd00::1/64 fd01::1/64", "fd01::1/64 fd00::1/64", False),
        ("2001:db8::1/64 2001:db8::2/64", "2001:db8::2/64 2001:db8::1/64", False),
        ("2001:db8::1/64 2002::1/64", "2002::1/64 2001:db8::1/64", False),
        ("fe80::5/64 2001:db8::1/64", "2001:db8::1/64 fe80::5/64", True),
        ("fd00::1/64 fd01::1/64 2001:db8::1/64", "fd00::1/64 2001:db8::1/64 fd01::1/64", True),
        ("2001:db8::2/128 2001:db8::3/128 fd00::1/64", "2001:db8::3/128 2001:db8::2/128 fd00::1/64", False),
        # 2001:db8:1::1 and :2::1 are never equal without 2001:db8:2::5, which is newer in both orders.
        (
            "fd00:0:0:1::1/64 fd00:0:0:2::1/64 fd00:0:0:3::1/64",
            "fd00:0:0:2::1/64 fd00:0:0:1::1/64 fd00:0:0:3::1/64",
            True,
        ),
        ("fd00::1/64", "fd00::1/64 fd01::1/64", False),
    ],
)
def test_orders_are_alike_if_no_source_changes(order: str, other: str, alike: bool) -> None:
    assert are_alike(prefixes(order), prefixes(other)) is alike
    assert are_alike(prefixes(other), prefixes(order)) is alike


def test_an_order_is_alike_itself() -> None:
    addresses = prefixes("fd00::1/64 fd00::2/64 2001:db8::1/48 fe80::1/64")
    assert all(are_alike(list(each), list(each)) for each in itertools.permutations(addresses))
