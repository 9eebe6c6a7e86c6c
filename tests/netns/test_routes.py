"""Routes, rules and lookups through pyroute2: what `ip -j` says of the same machine."""

from __future__ import annotations

import errno
import json
from typing import TYPE_CHECKING, Any

import pytest

from wgquick.errors import OperationError
from wgquick.system import routes

if TYPE_CHECKING:
    from tests.namespaces import Namespace

TABLES = {"main": 254, "local": 255, "default": 253}
SETUP = """
route add 198.51.100.0/24 via 192.0.2.7 dev up0 src 192.0.2.2 metric 40 mtu 1300
route add blackhole 203.0.113.0/24
route add prohibit 203.0.113.7
route add 198.51.100.9 dev up0 table 51820
rule add fwmark 0xca6c table 51820
rule add not fwmark 0xca6c from 192.0.2.0/24 iif up0 table 52
rule add table main suppress_prefixlength 0
-6 route add 2001:db8:1::/64 via 2001:db8::7 dev up0 metric 50
-6 rule add not fwmark 0xca6c table 51820
-6 rule add table main suppress_prefixlength 0
"""


@pytest.fixture
def furnished(machine: Namespace) -> Namespace:
    machine.run(["sh", "-ec", "\n".join(f"ip {line}" for line in SETUP.strip().splitlines())])
    return machine


def said(machine: Namespace, family: int, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(machine.out("ip", f"-{family}", "-j", "-d", "-N", *words))
    return found


def table(entry: dict[str, Any]) -> int:
    return TABLES.get(entry.get("table", "main")) or int(entry["table"])


def as_found(entry: dict[str, Any]) -> routes.Found:
    """An entry of `ip -j -d -N route` as our value."""
    kind = routes._KINDS[int(entry["type"])] if entry.get("type", "unicast").isdigit() else entry["type"]
    return routes.Found(
        kind,
        entry["dst"],
        table(entry),
        entry.get("dev", ""),
        entry.get("gateway", ""),
        entry.get("prefsrc", ""),
        entry.get("metric"),
        entry.get("metrics", [{}])[0].get("mtu"),
    )


@pytest.mark.parametrize("family", [4, 6])
def test_all_routes_are_those_of_ip(furnished: Namespace, family: int) -> None:
    listed = [as_found(entry) for entry in said(furnished, family, "route", "show", "table", "all")]
    assert len(listed) > 5
    assert sorted(furnished.call(routes.routes, family), key=str) == sorted(listed, key=str)


@pytest.mark.parametrize("family", [4, 6])
def test_all_rules_are_those_of_ip(furnished: Namespace, family: int) -> None:
    listed = [
        routes.PolicyRule(
            entry["priority"],
            table(entry),
            int(entry["fwmark"], 16) if "fwmark" in entry else None,
            "not" in entry,
            entry.get("suppress_prefixlen"),
            f"{entry['src']}/{entry['srclen']}" if "srclen" in entry else "",
            entry.get("iif", ""),
        )
        for entry in said(furnished, family, "rule")
    ]
    assert furnished.call(routes.rules, family) == sorted(listed)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("198.51.100.9", []),
        ("198.51.100.9", ["mark", "51820"]),
        ("198.51.100.9", ["from", "192.0.2.2"]),
        ("192.0.2.2", []),
        ("8.8.8.8", []),
        ("2001:db8:1::9", []),
    ],
)
def test_a_lookup_is_that_of_ip(furnished: Namespace, address: str, words: list[str]) -> None:
    family = 6 if ":" in address else 4
    options: dict[str, Any] = {}
    if words:
        options = {"mark": 51820} if words[0] == "mark" else {"source": words[1]}
    found = furnished.call(routes.lookup, address, **options)
    (entry,) = said(furnished, family, "route", "get", address, *words)
    assert found == as_found(entry)


@pytest.mark.parametrize(("address", "code"), [("203.0.113.1", errno.EINVAL), ("203.0.113.7", errno.EACCES)])
def test_a_lookup_without_a_route_gives_the_kernels_error(furnished: Namespace, address: str, code: int) -> None:
    with pytest.raises(OperationError, match=f"no route to {address}: ") as refusal:
        furnished.call(routes.lookup, address)
    assert refusal.value.errno == code
