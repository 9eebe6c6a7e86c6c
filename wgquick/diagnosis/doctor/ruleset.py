"""The verdict of the host's nftables on a packet, from the JSON of `nft -j list ruleset` (libnftables-json(5)).

If a rule depends on something unknown here (a limit, a set that packets change, an iptables extension), the verdict
is uncertain.
Module `xtables` handles iptables rules with extensions.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any

from wgquick.diagnosis.doctor.packet import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.diagnosis.doctor.packet import Packet

_BRIDGE = ("bridge",)
_FAMILIES: dict[int, tuple[str, ...]] = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_DEPTH = 16
_TRANSLATES = frozenset({"masquerade", "snat"})
_IGNORED = frozenset({"counter", "log", "comment", "notrack", "mangle"}) | _TRANSLATES
_VERDICTS = frozenset({"accept", "drop", "reject", "return", "jump", "goto"})


def verdict(text: str, packet: Packet, hook: str, *, without_compat: bool = False) -> Verdict:
    """The verdict on a packet after all chains of a netfilter hook.

    `without_compat` skips the tables of iptables-nft that have extensions.
    """
    try:
        objects = json.loads(text)["nftables"] if text else []
    except (ValueError, KeyError, TypeError):
        return Verdict(is_certain=False)
    rules = _Rules(objects, without_compat=without_compat)
    is_certain = True
    for chain in rules.at(packet, hook):
        result, known = rules.run(chain, packet, 0)
        is_certain = is_certain and known
        if result[0] == "drop":
            return Verdict(is_dropped=True, is_certain=is_certain, where=result[1])
    return Verdict(is_certain=is_certain, suspect=rules.suspect)


def translations(text: str, packet: Packet) -> list[tuple[bool | None, str]]:
    """The masquerade and snat rules: whether each matches the packet (None if unknown), and its description."""
    try:
        objects = json.loads(text)["nftables"] if text else []
    except (ValueError, KeyError, TypeError):
        return [(None, "")]
    return _Rules(objects, without_compat=True).translations(packet)


_Chain = dict[str, Any]
_Result = tuple[str, str]


class _Rules:
    def __init__(self, objects: list[dict[str, Any]], *, without_compat: bool) -> None:
        rules = [each["rule"] for each in objects if "rule" in each]
        compat = {_table(rule) for rule in rules if any("xt" in each for each in rule.get("expr", ()))}
        left_out = compat if without_compat else set()
        chains = (each["chain"] for each in objects if "chain" in each)
        self._chains = [each for each in chains if _table(each) not in left_out]
        self._rules: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
        for rule in rules:
            self._rules.setdefault((*_table(rule), rule["chain"]), []).append(rule)
        self._sets = {
            (*_table(each), each["name"]): _members(each)
            for wrapped in objects
            for kind in ("set", "map")
            if (each := wrapped.get(kind))
        }
        self.suspect = ""

    def translations(self, packet: Packet) -> list[tuple[bool | None, str]]:
        """The rules that change a packet's source as it leaves: whether each matches, and the rule."""
        chains = {(*_table(each), each["name"]): each for each in self._chains}
        found: list[tuple[bool | None, str]] = []
        for place, rules in self._rules.items():
            for rule in rules:
                kinds = {next(iter(each)) for each in rule.get("expr", ())}
                if place in chains and kinds & _TRANSLATES:
                    matched, _, _ = self._rule(rule, chains[place], packet, 0)
                    found.append((matched, f"`{_text(rule)}' in {_named(chains[place])}"))
        return found

    def at(self, packet: Packet, hook: str) -> list[_Chain]:
        """The base chains of a hook, by priority."""
        families = ("netdev", "inet") if hook in ("ingress", "egress") else _FAMILIES[packet.family]
        if hook.startswith("bridge "):
            families, hook = _BRIDGE, hook.removeprefix("bridge ")
        found = (
            chain
            for chain in self._chains
            if chain.get("hook") == hook
            and chain.get("type") in ("filter", "route")
            and chain["family"] in families
            and _is_for(chain, packet.output_link if hook == "egress" else packet.input_link)
        )
        return sorted(found, key=lambda chain: chain.get("prio", 0))

    def run(self, chain: _Chain, packet: Packet, depth: int) -> tuple[_Result, bool]:
        """The verdict of a chain ("" if there is none), and whether it is certain."""
        known = True
        for rule in self._rules.get((*_table(chain), chain["name"]), ()):
            matched, result, sure = self._rule(rule, chain, packet, depth)
            if matched is None or not sure:
                known = False
            if matched is None and result[0] == "drop":
                self.suspect = self.suspect or result[1]
            if matched and result[0]:
                if result[0] == "return":
                    break
                return result, known
        policy = chain.get("policy", "")
        return (policy, f"the policy of {_named(chain)}") if policy else ("", ""), known

    def _rule(
        self, rule: dict[str, Any], chain: _Chain, packet: Packet, depth: int
    ) -> tuple[bool | None, _Result, bool]:
        """Whether a rule matches (None if unknown), its verdict, and whether that is certain."""
        matched: bool | None = True
        for expression in rule.get("expr", ()):
            kind, value = next(iter(expression.items()))
            if kind == "match":
                found = self._matches(value, packet, _table(rule))
                if found is False:
                    return False, ("", ""), True
                matched = None if found is None else matched
            elif kind == "vmap":
                chosen = self._chosen(value, packet, _table(rule))
                if chosen is None:
                    return None, ("", ""), False
                if not chosen:
                    return False, ("", ""), True
                return self._end(chosen, rule, chain, packet, depth, matched)
            elif kind in _VERDICTS:
                return self._end(expression, rule, chain, packet, depth, matched)
            elif kind not in _IGNORED:
                matched = None
        return matched, ("", ""), matched is not None

    def _end(
        self,
        expression: dict[str, Any],
        rule: dict[str, Any],
        chain: _Chain,
        packet: Packet,
        depth: int,
        matched: bool | None,
    ) -> tuple[bool | None, _Result, bool]:
        """The result of a rule that ends with this verdict."""
        kind, value = next(iter(expression.items()))
        if kind not in ("jump", "goto"):
            word = "drop" if kind == "reject" else kind
            return matched, (word, f"`{_text(rule)}' in {_named(chain)}"), True
        if depth > _DEPTH:
            return None, ("", ""), False
        result, sure = self.run({**chain, "name": value["target"], "policy": ""}, packet, depth + 1)
        return matched, result, sure

    def _chosen(self, vmap: dict[str, Any], packet: Packet, table: tuple[str, str]) -> dict[str, Any] | None:
        """The verdict that a verdict map has for the packet; empty if it has none, None if that is unknown."""
        value, data = _value(vmap.get("key"), packet), vmap.get("data")
        pairs = data.get("set") if isinstance(data, dict) else self._sets.get((*table, str(data).lstrip("@")))
        if value is None or pairs is None:
            return None
        for key, chosen in pairs:
            found = _is_in(value, key)
            if found is not False:
                return chosen if found else None
        return {}

    def _matches(self, match: dict[str, Any], packet: Packet, table: tuple[str, str]) -> bool | None:
        """Whether a comparison holds; None if unknown."""
        right = match.get("right")
        if isinstance(right, str) and right.startswith("@"):
            members = self._sets.get((*table, right[1:]))
            match = {**match, "right": None if members is None else {"set": members}}
        return _matches(match, packet)


def _members(each: dict[str, Any]) -> list[Any] | None:
    """The elements of a named set or map; None if packets add and remove them."""
    if {"dynamic", "timeout"} & {*each.get("flags", ())}:
        return None
    return [
        element.get("elem", element) if isinstance(element, dict) else element for element in each.get("elem", ())
    ]


def _table(each: dict[str, Any]) -> tuple[str, str]:
    return each["family"], each["table"]


def _is_for(chain: _Chain, link: str) -> bool:
    """Whether a chain applies to the packet's link. Only chains at ingress and egress are bound to links."""
    devices = chain.get("dev")
    return devices is None or link in (devices if isinstance(devices, list) else [devices])


def _named(chain: _Chain) -> str:
    return f"chain {chain['name']} of table {chain['family']} {chain['table']}"


def _text(rule: dict[str, Any]) -> str:
    return " ".join(_words(rule)) or "a rule"


def _words(rule: dict[str, Any]) -> Iterator[str]:
    """A rule roughly as nft prints it: its matches and its verdict."""
    for expression in rule.get("expr", ()):
        kind, value = next(iter(expression.items()))
        if kind == "match":
            operator = "" if value["op"] in ("==", "in") else f"{value['op']} "
            yield f"{_left(value['left'])} {operator}{_shown(value['right'])}"
        elif kind == "vmap":
            yield f"{_left(value['key'])} vmap"
        elif kind in ("accept", "drop", "reject", "masquerade", "snat"):
            yield kind


def _left(left: Any) -> str:
    """The part of a packet that a match or map is about."""
    name = next(iter(left.values())) if isinstance(left, dict) else left
    if isinstance(name, list):
        return " . ".join(map(_left, name))
    if isinstance(name, dict):
        return f"{name['protocol']} {name['field']}" if "field" in name else str(name.get("key", ""))
    return str(name)


def _shown(value: Any) -> str:
    match value:
        case {"prefix": {"addr": address, "len": length}}:
            return f"{address}/{length}"
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case {"set": [*words]} | [*words]:
            return "{ " + ", ".join(map(_shown, words)) + " }"
        case _:
            return str(value)


def _matches(match: dict[str, Any], packet: Packet) -> bool | None:
    """Whether a comparison holds; None if unknown."""
    value = _value(match.get("left"), packet)
    if value is None:
        return None
    found = _is_in(value, match.get("right"))
    if found is None or match.get("op") in ("==", "in"):
        return found
    return not found if match.get("op") == "!=" else None


_Value = str | int | tuple[Any, ...]


def _value(left: Any, packet: Packet) -> _Value | None:
    match left:
        case {"concat": [*parts]}:
            values = tuple(_value(part, packet) for part in parts)
            return None if None in values else values
        case {"ct": {"key": "status"}}:
            return ""  # neither redirected nor translated
        case {"meta": {"key": "iifname" | "iif"}}:
            return packet.input_link
        case {"meta": {"key": "oifname" | "oif"}}:
            return packet.output_link
        case {"meta": {"key": "l4proto"}} | {"payload": {"field": "protocol" | "nexthdr"}}:
            return "ipv6-icmp" if packet.protocol == "icmpv6" else packet.protocol or None
        case {"meta": {"key": "mark"}}:
            return packet.mark
        case {"meta": {"key": "protocol"}} | {"payload": {"protocol": "ether", "field": "type"}}:
            return {4: "ip", 6: "ip6"}[packet.family]
        case {"meta": {"key": "nfproto"}}:
            return {4: "ipv4", 6: "ipv6"}[packet.family]
        case {"ct": {"key": "state"}}:
            return packet.state or None
        case {"payload": {"protocol": "ip" | "ip6", "field": "saddr"}}:
            return packet.source or None
        case {"payload": {"protocol": "ip" | "ip6", "field": "daddr"}}:
            return packet.destination or None
        case {"payload": {"protocol": "icmp" | "icmpv6" as protocol, "field": "type"}}:
            return (packet.icmp or None) if protocol == packet.protocol else "" if packet.protocol else None
        case {"payload": {"protocol": "udp" | "tcp" | "th" as protocol, "field": "dport" | "sport" as field}}:
            if protocol not in ("th", packet.protocol):
                return "" if packet.protocol else None  # the packet has no such header
            return (packet.destination_port if field == "dport" else packet.source_port) or None
        case _:
            return None


def _is_in(value: _Value, right: Any) -> bool | None:
    match right:
        case {"concat": [*parts]}:
            if not isinstance(value, tuple) or len(value) != len(parts):
                return None
            found = [_is_in(one, part) for one, part in zip(value, parts, strict=True)]
            return False if False in found else None if None in found else True
        case {"set": [*words]} | [*words]:
            found = [_is_in(value, word) for word in words]
            return True if True in found else None if None in found else False
        case {"range": [low, high]}:
            return _within(value, low, high)
        case {"prefix": {"addr": address, "len": length}}:
            return _in_network(value, f"{address}/{length}")
        case str() if right.endswith("*"):
            return str(value).startswith(right[:-1])
        case str() | int():
            return str(value) == ("ipv6-icmp" if right == "icmpv6" else str(right))
        case _:
            return None


def _within(value: _Value, low: Any, high: Any) -> bool | None:
    if isinstance(value, int) and isinstance(low, int) and isinstance(high, int):
        return low <= value <= high
    try:
        address = ipaddress.ip_address(value)  # type: ignore[arg-type]
        return bool(ipaddress.ip_address(low) <= address <= ipaddress.ip_address(high))  # type: ignore[operator]
    except (ValueError, TypeError):
        return None


def _in_network(value: _Value, network: str) -> bool | None:
    try:
        return ipaddress.ip_address(value) in ipaddress.ip_network(network, strict=False)  # type: ignore[arg-type]
    except ValueError:
        return None
