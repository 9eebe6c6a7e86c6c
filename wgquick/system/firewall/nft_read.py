"""Reads the nftables tables of an interface from the kernel.

wgq's rules are recognised by their expressions; wg-quick(8)'s tables are read in the same way.
"""

from __future__ import annotations

import errno
from struct import unpack

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, cast
from wgquick.net import FirewallRules
from wgquick.system.firewall import nft
from wgquick.system.firewall.nfnetlink import NFPROTO_IPV4, NFPROTO_IPV6, Nfnetlink, attributes_of, message
from wgquick.system.netlink.codec import attribute_text, attributes, each_attribute, messages, text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from wgquick.system.netlink.codec import Message

_NEWRULE, _GETRULE = 6, 7
_FAMILIES = {NFPROTO_IPV4: 4, NFPROTO_IPV6: 6}
_CHAIN, _EXPRESSIONS = 2, 4  # NFTA_RULE_*
_NAME, _DATA = 1, 2  # NFTA_EXPR_*
_NESTED = {("cmp", 3), ("immediate", 2)}  # the attributes that hold others
Meaning = tuple[str, tuple[tuple[str, object], ...]]
"""A rule: its chain, and each expression's name and attributes."""


def existing(name: str) -> tuple[FirewallRules, ...]:
    """The tables of this interface's name, one per family."""
    found = nft.all_tables(f"cannot list the nftables tables of {name}")
    title = f"wg-quick-{name}"
    ours = (protocol for protocol, called in found if called == title and protocol in _FAMILIES)
    return tuple(_read(name, _FAMILIES[protocol], protocol) for protocol in ours)


def _read(name: str, family: int, protocol: int) -> FirewallRules:
    rules = [_meaning(attributes_of(answer)) for answer in _dump(name, protocol)]
    seen = FirewallRules("nft", family, tuple(_addresses(rules)), _number(rules, "postmangle", "=I"), _port(rules))
    made = nft.table_requests(name, family, seen.addresses, seen.fwmark, seen.port)
    wanted = [_meaning(attributes_of(each)) for each in messages(b"".join(made)) if each.kind & 0xFF == _NEWRULE]
    return seen._replace(whole=_by_chain(rules) == _by_chain(wanted) and bool(seen.fwmark))


def _by_chain(rules: Iterable[Meaning]) -> list[Meaning]:
    """The rules sorted by chain for comparison; each chain's rules keep their order."""
    return sorted(rules, key=lambda rule: rule[0])


def _dump(name: str, protocol: int) -> list[Message]:
    what = f"cannot list the nftables rules of {name}"
    try:
        with Nfnetlink() as kernel:
            return kernel.dump(message(_GETRULE, protocol, attribute_text(1, f"wg-quick-{name}")), what)
    except (OSError, OperationError) as refusal:
        if refusal.errno == errno.ENOENT:  # it was removed in the meantime
            return []
        raise nft.explained(refusal, what) from None


def _meaning(rule: dict[int, bytes]) -> Meaning:
    """A rule's expressions, without its handle and position."""
    expressions = (attributes(each) for _, each in each_attribute(rule.get(_EXPRESSIONS, b"")))
    return text(rule.get(_CHAIN, b"")), tuple(_expression(each) for each in expressions)


def _expression(parts: dict[int, bytes]) -> tuple[str, object]:
    name = text(parts.get(_NAME, b""))
    data = attributes(parts.get(_DATA, b""))
    read = ((kind, _nested(value) if (name, kind) in _NESTED else value) for kind, value in data.items())
    return name, tuple(sorted(read))


def _nested(value: bytes) -> tuple[object, ...]:
    """Nested attributes; those of a verdict are nested once more."""
    return tuple((kind, _nested(each) if kind == 2 else each) for kind, each in each_attribute(value))


def _values(rules: Iterable[Meaning], chain: str, length: int) -> Iterator[bytes]:
    """The values of this length that the rules of a chain compare with."""
    for place, expressions in rules:
        for name, parts in expressions:
            if place == chain and name == "cmp":
                yield from (value for value in _compared(parts) if len(value) == length)


def _compared(parts: object) -> Iterator[bytes]:
    """The value of a `cmp`, which is nested in its attribute 3 (NFTA_CMP_DATA)."""
    for kind, value in cast("tuple[tuple[int, Any], ...]", parts):
        if kind == 3 and value:
            yield value[0][1]


def _addresses(rules: list[Meaning]) -> Iterator[bytes]:
    """The link's addresses, from the rules of preraw with a verdict."""
    for chain, expressions in rules:
        if chain == "preraw" and expressions and expressions[-1][0] == "immediate":
            compared = [value for name, parts in expressions if name == "cmp" for value in _compared(parts)]
            yield from (value for value in compared[1:2] if len(value) in (4, 16))


def _number(rules: list[Meaning], chain: str, form: str) -> int:
    found = list(_values(rules, chain, 4))
    return int(unpack(form, found[0])[0]) if found else 0


def _port(rules: list[Meaning]) -> int:
    """The UDP port at which packets get the fwmark."""
    found = list(_values(rules, "premangle", 2))
    return int.from_bytes(found[0], "big") if found else 0
