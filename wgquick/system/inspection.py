"""Reads what doctor needs beyond the executor's host: link counters, route lookups, firewall rules, and probes.

It does not change the host. Everything is in the calling thread's network namespace.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

from pyroute2 import DiagSocket, IPRoute, NetlinkError

from wgquick import patience
from wgquick.errors import OperationError
from wgquick.lean import contextmanager, suppress
from wgquick.net import family_of, pack_address
from wgquick.observations import Arrivals, Echo, Foreign, LinkState, Neighbour, Rulesets, Way
from wgquick.system import arp, icmp
from wgquick.system.capture import Capture
from wgquick.system.path_mtu import path_mtu
from wgquick.system.programs import find, output
from wgquick.system.routes import KINDS, Routing
from wgquick.system.wireguard import uapi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from wgquick.routing import Query

__all__ = [
    "Capture",
    "Prober",
    "foreign_routes",
    "heard_from",
    "links",
    "neighbours",
    "path_mtu",
    "rulesets",
    "send_outside",
    "silent_neighbours",
    "ways",
]

_FIB_MATCH = 0x2000  # RTM_F_FIB_MATCH: return the matched route instead of the result
_UP, _NO_ARP = 1, 0x80  # IFF_UP, IFF_NOARP
_ETHERNET = 1  # ARPHRD_ETHER
_SILENT, _PERMANENT = 0x31, 0x80  # NUD_INCOMPLETE, NUD_PROBE, NUD_FAILED; NUD_PERMANENT
_ESTABLISHED = {"states": 1 << 1, "extensions": 1 << 1}  # TCP_ESTABLISHED; INET_DIAG_INFO
_BY_KERNEL = 2  # RTPROT_KERNEL
_PMTUDISC_PROBE = 3  # IP_PMTUDISC_PROBE, IPV6_PMTUDISC_PROBE: do not fragment, and ignore the known path MTU
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}
_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_IP_HEADER = {4: 20, 6: 40}
_HOPS = (1, 2, 3, 4, 5, 6, 64)
_HOP_LIMIT = {4: (socket.IPPROTO_IP, socket.IP_TTL), 6: (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)}
_TOS = {4: (socket.IPPROTO_IP, socket.IP_TOS), 6: (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)}
_WHOLE = {False: "0.0.0.0", True: "::"}  # noqa: S104 - of a default route
_UDP_PORT = 33434  # traceroute's, usually closed
_TCP_PORT = 1  # tcpmux, usually closed
_DNS_PORT = 53
_RECURSIVE, _NS, _IN = 0x0100, 2, 1  # the flag RD, the type and the class (RFC 1035)
_PROGRAM_PATIENCE = 6.0  # seconds; a program may take half of what is left
_SETTLED = 0.1
_LOOKING = 0.02
_AGAIN = 0.35  # seconds
_OTHER_FAMILY = 0.2  # seconds for answers of the other family
_EVERY_PROTOCOL = 3  # ETH_P_ALL
_OUTGOING = 4  # of packet(7)
_TAPPED = 400  # packets per read; a busy tunnel is only sampled


def links() -> list[LinkState]:
    """All links with their counters."""
    with IPRoute() as kernel:
        return [_link(link) for link in kernel.get_links()]


def _link(link: Any) -> LinkState:
    info, statistics = link.get("IFLA_LINKINFO"), link.get("IFLA_STATS64") or {}
    kind = (info.get("IFLA_INFO_KIND") if info else "") or ""
    return LinkState(
        link["index"],
        link.get("IFLA_IFNAME"),
        kind,
        link.get("IFLA_MTU") or 0,
        bool(link["flags"] & _UP),
        statistics.get("rx_packets") or 0,
        statistics.get("tx_packets") or 0,
        statistics.get("rx_errors") or 0,
        statistics.get("rx_frame_errors") or 0,
        statistics.get("tx_errors") or 0,
        statistics.get("tx_dropped") or 0,
        _is_moved(link, kind),
        link.get("IFLA_CARRIER") != 0,
        link.get("IFLA_MASTER") or 0,
        (link.get("IFLA_LINK") or 0) if kind == "vlan" and link.get("IFLA_LINK_NETNSID") is None else 0,
        link["ifi_type"] != _ETHERNET or kind == "ipvlan" or not link["flags"] & _NO_ARP,
    )


def _is_moved(link: Any, kind: str) -> bool:
    """Whether a WireGuard link was created in another network namespace, where its socket stays."""
    if kind == "wireguard":
        return link.get("IFLA_LINK_NETNSID") is not None
    daemon = uapi.listener(link.get("IFLA_IFNAME")) if kind == "tun" else 0
    with suppress(OSError):
        return bool(daemon) and not os.path.samefile(f"/proc/{daemon}/ns/net", "/proc/thread-self/ns/net")
    return False


def ways(wanted: Iterable[Query]) -> list[Way]:
    """The kernel's route for each query."""
    with Routing() as routing:
        asked = list(wanted)
        found = {each: _way(routing, each) for each in dict.fromkeys(asked)}
        return [found[each] for each in asked]


def _way(routing: Routing, query: Query) -> Way:
    try:
        found = routing.look_up(query)
    except NetlinkError as refusal:
        return Way(errno=refusal.code)
    matched = found
    with suppress(NetlinkError):  # older kernels lack the flag
        matched = routing.look_up(query, _FIB_MATCH)
    metrics = found.get("RTA_METRICS")
    return Way(
        routing.name(found.get("RTA_OIF")),
        found.get("RTA_GATEWAY") or "",
        found.get("RTA_PREFSRC") or "",
        KINDS.get(found["type"], str(found["type"])),
        f"{matched.get('RTA_DST') or _WHOLE[query.family == 6]}/{matched['dst_len']}",
        found.get("RTA_TABLE") or 0,
        (metrics.get("RTAX_MTU") if metrics else 0) or 0,
    )


def silent_neighbours() -> frozenset[tuple[str, str]]:
    """Link and address of each neighbour that was asked for its link-layer address and has not answered."""
    with IPRoute() as kernel:
        names = {link["index"]: link.get("IFLA_IFNAME") for link in kernel.get_links()}
        return frozenset(
            (names.get(each["ifindex"], ""), each.get("NDA_DST"))
            for each in kernel.get_neighbours()
            if each["state"] & _SILENT and each.get("NDA_DST")
        )


def neighbours(wanted: Iterable[tuple[str, str, str]], seconds: float) -> list[Neighbour]:
    """What the kernel and the network say about each (Ethernet link, IPv4 or IPv6 address, own IPv4 address or "").

    IPv4 addresses are asked by ARP probes (RFC 5227), which no host records.
    """
    asked = list(wanted)
    with IPRoute() as kernel:
        names = {link["index"]: link.get("IFLA_IFNAME") for link in kernel.get_links()}
        table = {
            (names.get(each["ifindex"], ""), each.get("NDA_DST")): (
                each.get("NDA_LLADDR") or "",
                bool(each["state"] & _PERMANENT),
            )
            for each in kernel.get_neighbours()
        }
    answers = arp.probe(
        {(link, each) for link, *both in asked for each in both if each and ":" not in each}, seconds
    )
    return [
        Neighbour(
            *table.get((link, address), ("", False)),
            tuple(sorted(answers.get((link, address), ()))),
            tuple(sorted(answers.get((link, own), ()))),
        )
        for link, address, own in asked
    ]


def heard_from(seconds: float) -> frozenset[str]:
    """The addresses at the other ends of TCP connections from which something came in the last seconds."""
    found = set()
    with suppress(NetlinkError, OSError), DiagSocket() as kernel:
        kernel.bind()
        for family in (socket.AF_INET, socket.AF_INET6):
            for each in kernel.get_sock_stats(family=family, protocol=socket.IPPROTO_TCP, **_ESTABLISHED):
                info = each.get("INET_DIAG_INFO") or {}
                ages = (info.get(f"tcpi_last_{what}_recv", 1e9) for what in ("data", "ack"))
                if min(ages) < seconds * 1000:
                    found.add(str(each["idiag_dst"]))
    return frozenset(found)


def foreign_routes(name: str) -> list[Foreign]:
    """The main table's routes through other links than `name`, with the metric of the tunnel's routes."""
    found = []
    with IPRoute() as kernel:
        names = {link["index"]: link.get("IFLA_IFNAME") for link in kernel.get_links()}
        for family in (socket.AF_INET, socket.AF_INET6):
            with suppress(NetlinkError):
                for route in kernel.get_routes(family=family, table=254):
                    link = names.get(route.get("RTA_OIF"), "")
                    if link not in ("", name, "lo") and route.get("RTA_DST"):
                        connected = route["proto"] == _BY_KERNEL
                        found.append(Foreign(f"{route.get('RTA_DST')}/{route['dst_len']}", link, connected))
    return found


def rulesets() -> Rulesets:
    """The rules of nftables and iptables; "" if a program is missing or fails.

    `unread` has the programs that did not end in time.
    """
    unread: list[str] = []
    nft = _output(unread, "nft", "-j", "list", "ruleset")
    has_extensions = '"xt"' in nft  # the JSON of such rules has only their name
    return Rulesets(
        nft,
        _output(unread, "iptables-legacy-save") if _has_legacy("ip_tables_names") else "",
        _output(unread, "ip6tables-legacy-save") if _has_legacy("ip6_tables_names") else "",
        _output(unread, "iptables-nft-save") if has_extensions else "",
        _output(unread, "ip6tables-nft-save") if has_extensions else "",
        tuple(unread),
    )


def _has_legacy(names: str) -> bool:
    """Whether the legacy variant has a table; running its program would load the kernel modules."""
    try:
        with open(f"/proc/thread-self/net/{names}", encoding="ascii") as file:
            return bool(file.read().strip())
    except OSError:
        return False


def _output(unread: list[str], program: str, *arguments: str) -> str:
    """The output of a program; one that does not end in time is added to `unread`."""
    path = find(program)
    if path is None:
        return ""
    try:
        with patience.until(time.monotonic() + patience.left(_PROGRAM_PATIENCE) / 2):
            status, text, _ = output([path, *arguments], os.environ, b"")
    except OperationError as error:
        unread += [program] if error.errno == errno.ETIMEDOUT else []
        return ""
    except OSError:
        return ""
    return "" if status else text


def send_outside(
    source_port: int, address: str, port: int, mark: int = 0, payload: bytes = b"", scope: int = 0, tos: int = 0
) -> int:
    """Send a datagram from another socket's port through a raw socket; returns the errno, 0 on success.

    It takes the path of the tunnel's own packets: the same ports, mark and type of service.
    """
    family = 6 if ":" in address else 4
    header = struct.pack("!HHHH", source_port, port, 8 + len(payload), 0)
    try:
        with socket.socket(_FAMILY[family], socket.SOCK_RAW, socket.IPPROTO_UDP) as raw:
            if mark:
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            raw.setsockopt(*_TOS[family], tos)
            if family == 6:
                raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 6)
                raw.sendto(header + payload, (address, 0, 0, scope))
            else:
                raw.sendto(header + payload, (address, 0))
    except OSError as refusal:
        return refusal.errno or errno.EIO
    return 0


class Tap:
    """Captures the packets that arrive on a tunnel's link, before this host's firewall (packet(7))."""

    def __init__(self, link: str, own: int) -> None:
        """`own` is the identifier of doctor's own echo requests, which are left out."""
        self._replies: set[str] = set()
        self._destinations: set[tuple[str, str]] = set()
        self._returned: set[tuple[str, str]] = set()
        self._refusals: set[tuple[str, str]] = set()
        self._rejections: set[str] = set()
        self._own = own
        self._has_sent = False
        self._socket: socket.socket | None = None
        with suppress(OSError):
            self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK, 0)
            self._socket.bind((link, _EVERY_PROTOCOL))

    def close(self) -> None:
        """Stop capturing."""
        if self._socket is not None:
            self._socket.close()

    def look(self) -> Arrivals:
        """What was captured so far."""
        for _ in range(_TAPPED if self._socket else 0):
            try:
                packet, address = self._socket.recvfrom(128)  # type: ignore[union-attr]
            except OSError:
                break
            self._has_sent |= address[2] == _OUTGOING
            if len(packet) >= 28 and not (address[2] == _OUTGOING and _is_probe(packet, self._own)):
                self._note(packet, is_out=address[2] == _OUTGOING)
        return Arrivals(
            frozenset(self._replies),
            frozenset(self._destinations),
            frozenset(self._returned),
            frozenset(self._refusals),
            frozenset(self._rejections),
            self._has_sent if self._socket else None,
        )

    def _note(self, packet: bytes, *, is_out: bool) -> None:
        if packet[0] >> 4 == 4:
            source, destination = socket.inet_ntop(socket.AF_INET, packet[12:16]), packet[16:20]
            kind = packet[(packet[0] & 15) * 4] if packet[9] == 1 else -1
            self._add(source, socket.inet_ntop(socket.AF_INET, destination), is_reply=kind == 0, is_out=is_out)
        elif packet[0] >> 4 == 6 and len(packet) > 40:
            source, target = (socket.inet_ntop(socket.AF_INET6, packet[at : at + 16]) for at in (8, 24))
            kind = packet[40] if packet[6] == 58 else -1
            self._add(source, target, is_reply=kind == icmp.REPLY[6], is_out=is_out)
        else:
            return
        version = packet[0] >> 4
        is_unreachable = kind == icmp.UNREACHABLE[version]
        if (is_unreachable or kind == icmp.EXPIRED[version]) and not is_out and len(self._refusals) < _TAPPED:
            code = packet[((packet[0] & 15) * 4 if version == 4 else 40) + 1]
            quoted = _quoted(packet)
            self._refusals.add((quoted, icmp.meaning(version, kind, code)))
            if is_unreachable and quoted == source and _is_about_echo(packet):
                self._rejections.add(quoted)

    def _add(self, source: str, destination: str, *, is_reply: bool, is_out: bool) -> None:
        if is_reply and not is_out:
            self._replies.add(source)
        pairs = self._returned if is_out else self._destinations
        if len(pairs) < _TAPPED:
            pairs.add((source, destination))


def _quoted(packet: bytes) -> str:
    """The destination of the packet that an ICMP error is about; "" if it is cut off."""
    family, start = (socket.AF_INET6, 48) if packet[0] >> 4 == 6 else (socket.AF_INET, (packet[0] & 15) * 4 + 8)
    at, size = (24, 16) if family == socket.AF_INET6 else (16, 4)
    address = packet[start + at : start + at + size]
    return socket.inet_ntop(family, address) if len(address) == size else ""


def _is_about_echo(packet: bytes) -> bool:
    """Whether an ICMP error is about an ICMP packet."""
    at, protocol = (48 + 6, 58) if packet[0] >> 4 == 6 else ((packet[0] & 15) * 4 + 8 + 9, 1)
    return packet[at : at + 1] == bytes([protocol])


def _is_probe(packet: bytes, own: int) -> bool:
    """Whether an IP packet may be one of doctor's own: its echo request, or for one of its ports."""
    is_six = packet[0] >> 4 == 6
    protocol, start = (packet[6], 40) if is_six else (packet[9], (packet[0] & 15) * 4)
    if protocol in (1, 58):
        is_own = int.from_bytes(packet[start + 4 : start + 6], "big") == own
        return packet[start : start + 1] in (b"\x08", b"\x80") and is_own
    return int.from_bytes(packet[start + 2 : start + 4], "big") in (_UDP_PORT, _TCP_PORT)


class Prober:
    """Sends echo requests, datagrams and connections into a tunnel, regardless of routes (SO_BINDTODEVICE)."""

    def __init__(self, link: str) -> None:
        self._link = link
        self._id = os.getpid() & 0xFFFF
        self._sequence = 0
        self._tap = Tap(link, self._id)

    def close(self) -> None:
        """Stop capturing."""
        self._tap.close()

    def seen(self) -> Arrivals:
        """What arrived through the tunnel so far."""
        return self._tap.look()

    def probe(self, addresses: Sequence[str], deadline: float, enough: Callable[[set[str]], bool]) -> list[Echo]:
        """Probe all addresses until `enough` (of the addresses that answered) is true, or the monotonic `deadline`.

        An echo request goes first. Addresses without an answer after half a second get a datagram and a connection.
        """
        answered: dict[str, str] = {}
        refused: dict[str, int] = {}
        sockets: dict[socket.socket, tuple[str, str]] = {}
        echoes = self._echo_sockets({family_of(pack_address(each)) for each in addresses})
        began, asked_others, repeated = time.monotonic(), False, began_again(time.monotonic())
        try:
            for each in addresses:
                refused[each] = self._echo(echoes, each)
            while (now := time.monotonic()) < deadline and not enough(set(answered)):
                silent = [each for each in addresses if each not in answered]
                if not silent:
                    break
                if not asked_others and now > began + 0.4:
                    asked_others = True
                    for each in silent:
                        sockets |= self._others(each)
                if now > repeated:
                    repeated = began_again(now)
                    for each in silent:
                        self._echo(echoes, each)
                self._await(echoes, sockets, answered, min(0.1, deadline - now))
                self._tap.look()
            if {":" in each for each in addresses} != {":" in each for each in answered}:
                self._await(echoes, sockets, answered, _OTHER_FAMILY)
            came = self._tap.look().replies
            if not came <= answered.keys():  # an answer may not have reached the socket yet
                self._await(echoes, sockets, answered, _SETTLED)
        finally:
            for opened in (*echoes.values(), *sockets):
                opened.close()
        return [Echo(each, answered.get(each, ""), refused[each], each in came) for each in addresses]

    def unbound(self, addresses: Sequence[str], seconds: float) -> list[Echo]:
        """Send echo requests by this host's own routes, as other programs do, not bound to the tunnel."""
        echoes = self._echo_sockets({family_of(pack_address(each)) for each in addresses}, is_bound=False)
        answered: dict[str, str] = {}
        refused: dict[str, int] = {}
        deadline, repeated = time.monotonic() + seconds, 0.0
        try:
            while (now := time.monotonic()) < deadline and len(answered) < len(addresses):
                if now > repeated:
                    repeated = now + _AGAIN
                    refused |= {each: self._echo(echoes, each) for each in addresses if each not in answered}
                self._await(echoes, {}, answered, min(0.1, deadline - now))
        finally:
            for opened in echoes.values():
                opened.close()
        return [Echo(each, answered.get(each, ""), refused.get(each, 0)) for each in addresses]

    def beyond(
        self, addresses: Sequence[str], servers: Sequence[str], seconds: float, enough: Callable[[Arrivals], bool]
    ) -> Arrivals:
        """Send echo requests with few hops to addresses beyond the other end, until `enough` accepts what came out.

        Each router on the way reports that their hops are used up, even if nobody answers at the address. DNS
        servers among the addresses get a query and a connection too, as some networks drop all ICMP.
        """
        others = [made for each in servers for made in self._asked(each)]
        echoes = self._echo_sockets({family_of(pack_address(each)) for each in addresses})
        deadline, repeated = time.monotonic() + seconds, time.monotonic()
        try:
            while (now := time.monotonic()) < deadline and not enough(self._tap.look()):
                if now >= repeated:
                    repeated = began_again(now)
                    for hops in _HOPS:
                        for family, echo in echoes.items():
                            echo.setsockopt(*_HOP_LIMIT[family], hops)
                        for each in addresses:
                            self._echo(echoes, each)
                time.sleep(min(_LOOKING, deadline - now))
        finally:
            for opened in (*echoes.values(), *others):
                opened.close()
        return self._tap.look()

    def _asked(self, server: str) -> Iterator[socket.socket]:
        """A query and a connection to a DNS server, through the tunnel; the tap sees what comes back."""
        family = family_of(pack_address(server))
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            made = self._bound(family, kind)
            with suppress(OSError):  # EINPROGRESS
                made.connect((server, _DNS_PORT))
            with suppress(OSError):
                if kind == socket.SOCK_DGRAM:
                    made.send(self._query())
            yield made

    def _query(self) -> bytes:
        """A query for the root's name servers."""
        head = struct.pack("!HHHHHH", self._id, _RECURSIVE, 1, 0, 0, 0)
        return head + struct.pack("!BHH", 0, _NS, _IN)

    def answering_servers(self, servers: Sequence[str], seconds: float) -> set[str]:
        """The DNS servers that answer a query (for the root's name servers), by this host's routes."""
        query = self._query()
        asked: dict[socket.socket, str] = {}
        answered: set[str] = set()
        began, repeated = time.monotonic(), False
        try:
            for each in servers:
                made = socket.socket(
                    _FAMILY[family_of(pack_address(each))], socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
                )
                asked[made] = each
                with suppress(OSError):
                    made.connect((each, _DNS_PORT))
                    made.send(query)
            while (left := began + seconds - time.monotonic()) > 0 and len(answered) < len(asked):
                for ready in select.select(list(asked), [], [], min(0.05, left))[0]:
                    with suppress(OSError):  # refused
                        if len(ready.recv(512)) >= len(query) - 5:
                            answered.add(asked[ready])
                if not repeated and left < seconds / 2:
                    repeated = True
                    for opened, server in asked.items():
                        with suppress(OSError):
                            if server not in answered:
                                opened.send(query)
        finally:
            for opened in asked:
                opened.close()
        return answered

    @contextmanager
    def sizer(self, address: str) -> Iterator[Sizer]:
        """Sends echo requests of given sizes to the address."""
        family = family_of(pack_address(address))
        echoes = self._echo_sockets({family})

        def ask(size: int) -> int:
            self._echo(echoes, address, size)
            return self._sequence

        def answer() -> int:
            found = self._reply(echoes[family], family)
            return found[1] if found else 0

        try:
            yield Sizer(echoes[family], ask, answer)
        finally:
            echoes[family].close()

    def _bound(self, family: int, kind: int, protocol: int = 0, *, is_bound: bool = True) -> socket.socket:
        made = socket.socket(_FAMILY[family], kind, protocol)
        made.setblocking(False)
        if is_bound:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._link.encode())
        return made

    def _echo_sockets(self, families: set[int], *, is_bound: bool = True) -> dict[int, socket.socket]:
        protocols = {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
        made = {}
        for family in families:
            made[family] = self._bound(family, socket.SOCK_RAW, protocols[family], is_bound=is_bound)
            made[family].setsockopt(*_MTU_DISCOVER[family], _PMTUDISC_PROBE)
        return made

    def _echo(self, echoes: dict[int, socket.socket], address: str, size: int = 0) -> int:
        """Send a request with the next sequence number; returns the errno, 0 if it was sent."""
        family = family_of(pack_address(address))
        self._sequence += 1
        data = bytes(max(size - _IP_HEADER[family] - icmp.HEADER.size, 16))
        try:
            echoes[family].sendto(icmp.echo_request(family, self._id, self._sequence, data), (address, 0))
        except OSError as refusal:
            return refusal.errno or errno.EIO
        return 0

    def _reply(self, ready: socket.socket, family: int) -> tuple[str, int] | None:
        """The source and sequence number of the next answer to one of our requests; None if none has arrived."""
        while True:
            try:
                data, source = ready.recvfrom(1 << 16)
            except OSError:
                return None
            start = (data[0] & 15) * 4 if family == 4 else 0
            if len(data) >= start + 8:
                kind, _, _, identifier, sequence = icmp.HEADER.unpack_from(data, start)
                if kind == icmp.REPLY[family] and identifier == self._id:
                    return str(source[0]).partition("%")[0], sequence

    def _others(self, address: str) -> dict[socket.socket, tuple[str, str]]:
        family = family_of(pack_address(address))
        made = {}
        for kind, word, port in ((socket.SOCK_DGRAM, "udp", _UDP_PORT), (socket.SOCK_STREAM, "tcp", _TCP_PORT)):
            probe = self._bound(family, kind)
            made[probe] = (address, word)
            with suppress(OSError):  # EINPROGRESS from connect
                probe.connect((address, port))
            with suppress(OSError):
                if word == "udp":
                    probe.send(b"")
        return made

    def _await(
        self,
        echoes: dict[int, socket.socket],
        sockets: dict[socket.socket, tuple[str, str]],
        answered: dict[str, str],
        patience: float,
    ) -> None:
        writers = [each for each, (_, word) in sockets.items() if word == "tcp"]
        readers = [each for each, (_, word) in sockets.items() if word == "udp"]
        ready, written, _ = select.select([*echoes.values(), *readers], writers, [], patience)
        for family, echo in echoes.items():  # first, as only these show the size of packets
            while echo in ready and (found := self._reply(echo, family)):
                answered.setdefault(found[0], "icmp")
        for each in (*ready, *written):
            if each in sockets:
                address, word = sockets.pop(each)
                if _has_come_back(each):
                    answered.setdefault(address, word)
                each.close()


class Sizer:
    """Sends unfragmented echo requests to one address; sizes are those of IP packets, in bytes."""

    def __init__(self, echo: socket.socket, send: Callable[[int], int], receive: Callable[[], int]) -> None:
        """`send` returns the sequence number of a request of that size, `receive` that of an answer, 0 for none."""
        self._echo, self._send, self._receive = echo, send, receive
        self._asked: dict[int, int] = {}
        self._answered: set[int] = set()

    def ask(self, sizes: Iterable[int]) -> None:
        """Send a request of each size, in this order."""
        for size in sizes:
            self._asked[self._send(size)] = size

    def answered(self, seconds: float) -> frozenset[int]:
        """The sizes that were answered so far; waits up to `seconds` for another one."""
        if select.select([self._echo], [], [], seconds)[0]:
            while number := self._receive():
                self._answered |= {self._asked[number]} if number in self._asked else set()
        return frozenset(self._answered)


def began_again(now: float) -> float:
    """The time at which echo requests are repeated, as one may be lost while the session is set up."""
    return now + 0.7


def _has_come_back(probe: socket.socket) -> bool:
    """Whether the end of a datagram or connection is an answer: refused or accepted, not a timeout."""
    code = probe.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code == 0 and probe.type == socket.SOCK_DGRAM:
        with suppress(OSError):
            probe.recv(1)
        return False
    return code in (0, errno.ECONNREFUSED)
