"""`wgq allowed-ips`: subtracts networks, with the smallest result, for programs that only have AllowedIPs."""

from __future__ import annotations

import re
from ipaddress import ip_network, summarize_address_range
from typing import TYPE_CHECKING

from wgquick.errors import WgqError
from wgquick.lean import suppress

if TYPE_CHECKING:
    from collections.abc import Iterable
    from ipaddress import IPv4Network, IPv6Network

    Network = IPv4Network | IPv6Network
    Span = tuple[int, int]

_TOKEN = re.compile(r"[^\s,]+")
_EXAMPLE = "Write networks, then `-', then the networks to remove: '0.0.0.0/0, ::/0 - 192.168.0.0/16'."


def evaluate(expression: str) -> list[Network]:
    """The smallest list of networks with exactly the addresses of an expression, IPv4 first, in order.

        expression = [sign] network {(blank | ",") [sign] network}
        sign       = "+" | "-"        applies until the next sign; the default is +
        network    = ADDRESS[/LENGTH]

    Later networks take precedence: `A - B + C` has all of C. WgqError has the column of an invalid network.
    """
    spans: dict[int, list[Span]] = {4: [], 6: []}
    adds, is_empty = True, True
    sign: tuple[str, int] | None = None
    for token in _TOKEN.finditer(expression):
        text, column = token[0], token.start() + 1
        if text[0] in "+-":
            if sign:
                break
            adds, sign = text[0] == "+", (text[0], column)
            text, column = text[1:], column + 1
        if not text:
            continue
        sign = None
        network = _network(text, column)
        span = int(network.network_address), int(network.broadcast_address)
        rest = list(_less(spans[network.version], span))
        spans[network.version] = [*rest, span] if adds else rest
        is_empty = False
    if sign:
        raise WgqError(f"no network follows `{sign[0]}'", where=f"column {sign[1]}", remedy=_EXAMPLE)
    if is_empty:
        raise WgqError("the expression has no network", remedy=_EXAMPLE)
    return [network for version in (4, 6) for network in _networks(spans[version], version)]


def _network(text: str, column: int) -> Network:
    with suppress(ValueError):
        return ip_network(text)
    place = f"column {column}"
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise WgqError(f"`{text}' is not a network", where=place, remedy=_EXAMPLE) from None
    remedy = f"Write {network} for the network, or omit the length for the host."
    raise WgqError(f"{text} has bits set after its prefix", where=place, remedy=remedy)


def _less(spans: Iterable[Span], taken: Span) -> Iterable[Span]:
    """The spans without the addresses of `taken`."""
    for first, last in spans:
        if first < taken[0]:
            yield first, min(last, taken[0] - 1)
        if last > taken[1]:
            yield max(first, taken[1] + 1), last


def _networks(spans: list[Span], version: int) -> Iterable[Network]:
    from ipaddress import IPv4Address, IPv6Address

    joined: list[Span] = []
    for first, last in sorted(spans):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    for first, last in joined:
        if version == 4:
            yield from summarize_address_range(IPv4Address(first), IPv4Address(last))
        else:
            yield from summarize_address_range(IPv6Address(first), IPv6Address(last))


def loops(networks: Iterable[Network], addresses: Iterable[str]) -> list[str]:
    """The endpoint addresses that would be reached through the tunnel: in a network, without a /0 of the family.

    For a /0 wg-quick(8) uses a fwmark and a separate table, so packets to the endpoint bypass the tunnel.
    """
    found = list(networks)
    whole = {network.version for network in found if network.prefixlen == 0}
    inside = []
    for text in addresses:
        address = ip_network(text)
        if address.version not in whole and any(
            each.version == address.version and address.network_address in each for each in found
        ):
            inside.append(text)
    return inside
