"""Finds the nftables rule that drops a packet: sets `nftrace` for a few packets and reads the kernel's reports.

The socket owns the table for that (NFT_TABLE_F_OWNER), so the kernel removes it when the process ends
(include/uapi/linux/netfilter/nf_tables.h, net/netfilter/nf_tables_trace.c, nft(8): nftrace).
"""

from __future__ import annotations

import errno
import os
import subprocess
import time
from contextlib import suppress
from socket import if_nameindex
from struct import pack
from typing import TYPE_CHECKING, NamedTuple

from wgquick.errors import OperationError
from wgquick.net import family_of
from wgquick.routing import Dropped
from wgquick.system.firewall import nft
from wgquick.system.firewall.nfnetlink import (
    NLM_F_APPEND,
    Nfnetlink,
    attributes_of,
    message,
    nested,
    number,
    protocol_of,
)
from wgquick.system.firewall.nft import (
    DESTINATION_OFFSET,
    EQUAL,
    META_L4PROTO,
    PROTOCOLS,
    REGISTER,
    TRANSPORT_HEADER,
    compare,
    expression,
    load_meta,
    load_payload,
)
from wgquick.system.netlink.codec import NLM_F_CREATE, attribute, attribute_text, attributes, messages, text
from wgquick.system.programs import find

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

    from wgquick.routing import Flow

_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _TRACE = 0, 2, 3, 6, 17  # NFT_MSG_*
_KIND_OF_TRACE = 10 << 8 | _TRACE  # of the subsystem NFNL_SUBSYS_NFTABLES
_GROUP = 9  # NFNLGRP_NFTRACE
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_OWNED = 2  # NFT_TABLE_F_OWNER, Linux 5.12
_PREROUTING, _OUTPUT = 0, 3
_FIRST = -350  # after defragmentation, before the table raw
_NETDEV, _INGRESS = 5, 0  # NFPROTO_NETDEV, NF_NETDEV_INGRESS
_BEFORE_ALL = -(1 << 31)
_NFTRACE = 12  # NFT_META_NFTRACE
_SOURCE = {4: 12, 6: 8}  # offsets of the source address in the IP header
_FAMILIES = {1: "inet", 2: "ip", 5: "netdev", 7: "bridge", 10: "ip6"}
_AT_MOST = 10  # reported packets a second for each rule, so that a busy tunnel does not slow down
_MOMENT = 0.1
_OF_POLICY, _OF_RULE = 1, 3  # NFT_TRACETYPE_*
_DROP = 0


class Seen(NamedTuple):
    """A reported drop verdict, with the place of its rule."""

    family: str
    table: str
    chain: str
    handle: int
    is_reply: bool
    flow: Flow | None


class Tracer:
    """Traces packets of some flows in the calling thread's network namespace, during a `with` block."""

    def __init__(self, flows: Iterable[Flow]) -> None:
        self._flows = tuple(flows)
        self._name = f"wgq-trace-{os.getpid()}"
        self._owned = True
        self._protocols: list[int] = []
        self._by_packet: dict[bytes, tuple[Flow, bool]] = {}
        self._control = Nfnetlink()
        self._reports = Nfnetlink()

    @property
    def unseen(self) -> list[Flow]:
        """The flows without any packet so far; replies do not count."""
        passed = {flow for flow, is_reply in self._by_packet.values() if not is_reply}
        return [flow for flow in self._flows if flow not in passed]

    def __enter__(self) -> Self:
        try:
            self._reports._socket.bind((0, 0))  # without a port the socket gets no reports
            self._reports._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)
            self._add()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._close()

    def _close(self) -> None:
        if not self._owned:
            for protocol in self._protocols:
                request = message(_DELTABLE, protocol, attribute_text(1, self._name))
                self._control.transaction([request], "cannot remove the table of the probe")
        self._control._socket.close()
        self._reports._socket.close()

    def _families(self) -> list[int]:
        return sorted({family_of(flow.address) for flow in self._flows})

    def _add(self) -> None:
        what = "cannot trace packets in nftables"
        try:
            try:
                self._control.transaction(self._requests(_OWNED), what)
            except OperationError as refusal:
                if refusal.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                self._control.transaction(self._requests(0), what)
                self._owned = False
        except OperationError as refusal:
            raise OperationError(refusal.what, errno=refusal.errno, remedy=_remedy(refusal.errno)) from None
        self._protocols = [PROTOCOLS[family] for family in self._families()]
        with suppress(OperationError):  # kernels without CONFIG_NETFILTER_INGRESS have no rules there either
            self._control.transaction(self._at_ingress(_OWNED if self._owned else 0), what)
            self._protocols.append(_NETDEV)

    def _at_ingress(self, flags: int) -> list[bytes]:
        """A table of chains that see the replies on each link before all other rules."""
        name = attribute_text(1, self._name)
        made = [message(_NEWTABLE, _NETDEV, name + number(2, flags), NLM_F_CREATE)]
        for index, link in if_nameindex():
            chain = f"ingress-{index}"
            priority = attribute(2, pack(">i", _BEFORE_ALL))
            place = nested(4, number(1, _INGRESS), priority, attribute_text(3, link))
            body = name + attribute_text(3, chain) + attribute_text(7, "filter") + place
            made.append(message(_NEWCHAIN, _NETDEV, body, NLM_F_CREATE))
            made += [_rule(self._name, flow, is_reply=True, chain=chain, protocol=_NETDEV) for flow in self._flows]
        return made

    def _requests(self, flags: int) -> list[bytes]:
        made = []
        for family in self._families():
            protocol, name = PROTOCOLS[family], attribute_text(1, self._name)
            made.append(message(_NEWTABLE, protocol, name + number(2, flags), NLM_F_CREATE))
            for chain, hook in (("output", _OUTPUT), ("prerouting", _PREROUTING)):
                place = nested(4, number(1, hook), attribute(2, pack(">i", _FIRST)))
                body = name + attribute_text(3, chain) + attribute_text(7, "filter") + place
                made.append(message(_NEWCHAIN, protocol, body, NLM_F_CREATE))
            for flow in self._flows:
                if family_of(flow.address) == family:
                    made += [_rule(self._name, flow, is_reply=reply, chain=chain) for chain, reply in _CHAINS]
        return made

    def dropped(self, seconds: float, longest: float) -> list[Dropped]:
        """The packets that are dropped from now on.

        It waits up to `longest` seconds for a packet of each flow, and then `seconds`. After the drop of a packet
        that is not a reply it ends soon.
        """
        start = time.monotonic()
        found: dict[Seen, None] = {}
        end = start + longest
        waits_for_all = True
        while True:
            now = time.monotonic()
            if waits_for_all and not self.unseen:
                waits_for_all, end = False, now + seconds
            if any(not seen.is_reply for seen in found):
                end = min(end, now + _MOMENT)
            if now >= end:
                return [_worded(each) for each in found]
            self._receive(end - now, found)

    def _receive(self, patience: float, found: dict[Seen, None]) -> None:
        """Read the next reports, if some arrive in time."""
        self._reports._socket.settimeout(patience)
        try:
            data = self._reports._socket.recv(1 << 16)
        except TimeoutError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # reports were lost
                raise
            return
        for seen in self._of(data):
            found.setdefault(seen)

    def _of(self, data: bytes) -> Iterator[Seen]:
        for report in messages(data):
            if report.kind != _KIND_OF_TRACE:
                continue
            known = attributes_of(report)
            place = text(known.get(1, b"")), text(known.get(2, b""))
            packet = known.get(6, b"")
            if known_flow := self._flow_of(known.get(8, b""), known.get(9, b"")):
                self._by_packet.setdefault(packet, known_flow)
            if place[0] == self._name or not _is_drop(known):
                continue
            flow, is_reply = self._by_packet.get(packet, (None, False))
            handle = int.from_bytes(known.get(3, b""), "big") if _number(known, 4) == _OF_RULE else 0
            yield Seen(_FAMILIES.get(protocol_of(report), "?"), *place, handle, is_reply, flow)

    def _flow_of(self, header: bytes, transport: bytes) -> tuple[Flow, bool] | None:
        """The flow of a packet, and whether it is a reply; None if the report lacks the headers."""
        for flow in self._flows:
            family = family_of(flow.address)
            if not header or header[0] >> 4 != family:
                continue
            size = len(flow.address)
            if header[DESTINATION_OFFSET[family] :][:size] == flow.address and _has_port(flow, transport[2:4]):
                return flow, False
            if header[_SOURCE[family] :][:size] == flow.address and _has_port(flow, transport[:2]):
                return flow, True
        return None


_CHAINS = (("output", False), ("prerouting", True))


def _remedy(code: int) -> str:
    if code == errno.EPERM:
        return "Run as root, or give the process CAP_NET_ADMIN."
    if code in nft.ABSENT and not nft.available():
        return "This kernel has no nf_tables, so no nftables rule drops packets."
    return "The kernel may lack nft_limit; load this module."


def _has_port(flow: Flow, port: bytes) -> bool:
    return not flow.port or int.from_bytes(port, "big") == flow.port


def _number(known: dict[int, bytes], kind: int) -> int:
    return int.from_bytes(known.get(kind, b""), "big")


def _is_drop(known: dict[int, bytes]) -> bool:
    match _number(known, 4):
        case kind if kind == _OF_RULE:
            verdict = attributes(known.get(5, b"")).get(1)
            return verdict is not None and int.from_bytes(verdict, "big") == _DROP
        case kind if kind == _OF_POLICY:
            return 16 in known and _number(known, 16) == _DROP
        case _:
            return False


def _rule(table: str, flow: Flow, *, is_reply: bool, chain: str, protocol: int = 0) -> bytes:
    """`ip daddr ADDRESS [meta l4proto P th dport PORT] limit rate 10/second meta nftrace set 1`; or saddr."""
    family = family_of(flow.address)
    expressions = [
        load_payload((_SOURCE if is_reply else DESTINATION_OFFSET)[family], len(flow.address)),
        compare(EQUAL, flow.address),
    ]
    if flow.protocol and flow.port:
        expressions += [
            load_meta(META_L4PROTO),
            compare(EQUAL, bytes([flow.protocol])),
        ]
        expressions += [
            load_payload(0 if is_reply else 2, 2, TRANSPORT_HEADER),
            compare(EQUAL, pack(">H", flow.port)),
        ]
    limit = attribute(1, pack(">Q", _AT_MOST)) + attribute(2, pack(">Q", 1)) + number(3, _AT_MOST)
    expressions += [
        expression("limit", limit),
        expression("immediate", number(1, REGISTER), nested(2, attribute(1, b"\x01"))),
        expression("meta", number(2, _NFTRACE), number(3, REGISTER)),
    ]
    body = attribute_text(1, table) + attribute_text(2, chain) + nested(4, *expressions)
    return message(_NEWRULE, protocol or PROTOCOLS[family], body, NLM_F_CREATE | NLM_F_APPEND)


def _worded(seen: Seen) -> Dropped:
    what = seen.flow.what if seen.flow else "a packet"
    words = rule_text(seen.family, seen.table, seen.chain, seen.handle)
    return Dropped(what, seen.is_reply, seen.family, seen.table, seen.chain, seen.handle, words)


def rule_text(family: str, table: str, chain: str, handle: int) -> str:
    """A rule in nft(8)'s syntax, or with handle 0 the chain's first line; "" if nft(8) is missing or fails.

    Only nft can print every expression, including those of iptables.
    """
    program = find("nft")
    if program is None:
        return ""
    command = [program, "-a", "-s", "list", "chain", family, table, chain]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=10, stdin=subprocess.DEVNULL
    )
    for line in done.stdout.splitlines():
        body, separator, place = line.strip().rpartition(" # handle ")
        if handle and separator and place == str(handle) and not body.startswith(("chain ", "table ")):
            return body
        if not handle and line.strip().startswith("type "):
            return line.strip()
    return ""
