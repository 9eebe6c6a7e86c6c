"""The verdict of iptables and ip6tables on a packet, from the output of iptables-save(8).

If a rule has an extension that is unknown here, the verdict is uncertain.
"""

from __future__ import annotations

import ipaddress
import shlex
from typing import TYPE_CHECKING, NamedTuple

from wgquick.diagnosis.doctor.packet import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.diagnosis.doctor.packet import Packet

# The tables of each hook, in the order of their priorities (linux/netfilter_ipv4.h).
_TABLES = {
    "prerouting": ("raw", "mangle", "nat"),
    "input": ("mangle", "filter", "security", "nat"),
    "forward": ("mangle", "filter", "security"),
    "output": ("raw", "mangle", "nat", "filter", "security"),
    "postrouting": ("mangle", "nat"),
}
_DEPTH = 16
_MODULES = frozenset({"tcp", "udp", "multiport", "conntrack", "state", "mark", "comment"})
_DROPS = frozenset({"DROP", "REJECT"})
_UNKNOWN_TARGETS = frozenset({"QUEUE", "NFQUEUE", "TPROXY", "SYNPROXY"})
_ICMPV6 = frozenset({"icmpv6", "ipv6-icmp", "58"})
_NUMBERS = {"1": "icmp", "6": "tcp", "17": "udp"}


class _Rule(NamedTuple):
    text: str
    conditions: tuple[tuple[str, str, bool], ...]
    """Option, value, and whether it is negated."""
    target: str


class _Table(NamedTuple):
    policies: dict[str, str]
    chains: dict[str, list[_Rule]]


def verdict(text: str, program: str, packet: Packet, hook: str) -> Verdict:
    """The verdict on a packet at a netfilter hook; `program` is the program that prints and changes the rules."""
    tables = _read(text)
    is_certain, suspect = True, ""
    for name in _TABLES.get(hook, ()):
        if name not in tables:
            continue
        run = _Run(tables[name], name, program, packet)
        word, where, known = run.chain(hook.upper(), 0)
        is_certain, suspect = is_certain and known, suspect or run.suspect
        if word == "DROP":
            return Verdict(is_dropped=True, is_certain=is_certain, where=where)
    return Verdict(is_certain=is_certain, suspect=suspect)


def translations(text: str, program: str, packet: Packet) -> list[tuple[bool | None, str]]:
    """The MASQUERADE and SNAT rules: whether each matches the packet (None if unknown), and its description."""
    table = _read(text).get("nat")
    if table is None:
        return []
    run = _Run(table, "nat", program, packet)
    return [
        (run.matches(rule), f"the rule `{rule.text}'")
        for rules in table.chains.values()
        for rule in rules
        if rule.target in ("MASQUERADE", "SNAT", "NETMAP")
    ]


def _read(text: str) -> dict[str, _Table]:
    tables: dict[str, _Table] = {}
    table = _Table({}, {})
    for line in text.splitlines():
        if line.startswith("*"):
            table = tables.setdefault(line[1:].strip(), _Table({}, {}))
        elif line.startswith(":"):
            name, policy, *_ = line[1:].split()
            table.chains[name] = []
            if policy != "-":
                table.policies[name] = policy
        elif line.startswith("-A "):
            chain, rule = _parsed(line)
            table.chains.setdefault(chain, []).append(rule)
    return tables


def _parsed(line: str) -> tuple[str, _Rule]:
    try:
        words = shlex.split(line)
    except ValueError:
        words = line.split()
    conditions: list[tuple[str, str, bool]] = []
    target, negated, at = "", False, 2
    while at < len(words):
        word = words[at]
        value = _value(words[at + 1 : at + 2]) if word != "!" else ""
        at += 1 + bool(value)
        if word in ("-j", "-g"):
            target = value
            break  # the target's own options follow
        if word != "!" and word != "--comment" and not (word == "-m" and value in _MODULES):
            conditions.append((word, value, negated))
        negated = word == "!"
    return words[1], _Rule(line, tuple(conditions), target)


def _value(following: list[str]) -> str:
    """An option's value; "" if it has none."""
    return following[0] if following and following[0] != "!" and not following[0].startswith("-") else ""


class _Run:
    """Evaluates the chains of one table for a packet."""

    def __init__(self, table: _Table, name: str, program: str, packet: Packet) -> None:
        self._table, self._name, self._program, self._packet = table, name, program, packet
        self.suspect = ""

    def chain(self, name: str, depth: int) -> tuple[str, str, bool]:
        """The verdict of a chain ("ACCEPT", "DROP" or ""), by what, and whether that is certain."""
        known = True
        for rule in self._table.chains.get(name, ()):
            matched = self.matches(rule)
            if matched is False or not rule.target:
                continue
            word, where, sure = self._target(rule, name, depth)
            if matched is None or not sure:
                known = known and not word and sure
                if matched is None:
                    self.suspect = self.suspect or (where if word == "DROP" else "")
                    continue
            if word == "RETURN":
                break
            if word:
                return word, where, known
        policy = self._table.policies.get(name, "")
        return policy, f"the policy of {self._named(name)}" if policy else "", known

    def _target(self, rule: _Rule, chain: str, depth: int) -> tuple[str, str, bool]:
        if rule.target in _DROPS:
            return "DROP", f"the rule `{rule.text}' in {self._named(chain)}", True
        if rule.target in ("ACCEPT", "RETURN"):
            return rule.target, "", True
        if rule.target in self._table.chains:
            return self.chain(rule.target, depth + 1) if depth < _DEPTH else ("", "", False)
        return "", "", rule.target not in _UNKNOWN_TARGETS

    def _named(self, chain: str) -> str:
        return f"chain {chain} of table {self._name} ({self._program})"

    def matches(self, rule: _Rule) -> bool | None:
        """Whether a rule matches; None if unknown."""
        found: bool | None = True
        for option, value, negated in rule.conditions:
            test = _TESTS.get(option)
            holds = test(value, self._packet) if test else None
            if holds is not None and holds is negated:
                return False
            found = None if holds is None else found
        return found


def _link(pattern: str, name: str) -> bool:
    return name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern


def _within(network: str, address: str) -> bool | None:
    try:
        return ipaddress.ip_address(address) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return None


def _protocol(value: str, packet: Packet) -> bool | None:
    if not packet.protocol or value == "all":
        return True if value == "all" else None
    return packet.protocol == ("icmpv6" if value in _ICMPV6 else _NUMBERS.get(value, value))


def _ports(value: str, *ports: int) -> bool | None:
    if not any(ports):
        return None
    ranges = [part.partition(":") for part in value.split(",")]
    try:
        pairs = [(int(low or 0), int((high if colon else low) or 65535)) for low, colon, high in ranges]
    except ValueError:
        return None
    return any(low <= port <= high for low, high in pairs for port in ports)


def _mark(value: str, packet: Packet) -> bool | None:
    mark, _, mask = value.partition("/")
    try:
        return packet.mark & int(mask or "0xffffffff", 0) == int(mark, 0)
    except ValueError:
        return None


def _state(value: str, packet: Packet) -> bool | None:
    return packet.state.upper() in value.split(",") if packet.state else None


_TESTS: dict[str, Callable[[str, Packet], bool | None]] = {
    "-i": lambda value, packet: _link(value, packet.input_link),
    "-o": lambda value, packet: _link(value, packet.output_link),
    "-s": lambda value, packet: _within(value, packet.source),
    "-d": lambda value, packet: _within(value, packet.destination),
    "-p": _protocol,
    "--sport": lambda value, packet: _ports(value, packet.source_port),
    "--sports": lambda value, packet: _ports(value, packet.source_port),
    "--dport": lambda value, packet: _ports(value, packet.destination_port),
    "--dports": lambda value, packet: _ports(value, packet.destination_port),
    "--ports": lambda value, packet: _ports(value, packet.source_port, packet.destination_port),
    "--ctstate": _state,
    "--state": _state,
    "--mark": _mark,
}
