"""nftables over netlink: wg-quick(8)'s table `wg-quick-NAME`, added and removed in one transaction each.

Messages and expressions equal those that nft(8) sends for wg-quick's input, so `nft list` prints both alike
(include/uapi/linux/netfilter/nf_tables.h; `nft --debug=mnl` shows them).
"""

from __future__ import annotations

import errno
from struct import pack

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system.firewall.nfnetlink import (
    NFPROTO_IPV4,
    NFPROTO_IPV6,
    NFPROTO_UNSPEC,
    NLM_F_APPEND,
    Nfnetlink,
    attributes_of,
    message,
    nested,
    number,
    protocol_of,
)
from wgquick.system.netlink.codec import NLM_F_CREATE, attribute, attribute_text, text

if TYPE_CHECKING:
    from collections.abc import Sequence

_NEWTABLE, _GETTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _GETGEN = 0, 1, 2, 3, 6, 16
_PREROUTING, _POSTROUTING = 0, 4
_RAW, _MANGLE = -300, -150
REGISTER = 1  # NFT_REG_1, the only one that these rules need
EQUAL, _UNEQUAL = 0, 1
_META_MARK, _META_IIFNAME, META_L4PROTO = 3, 6, 16
_CT_MARK = 3
_FIB_SADDR, _FIB_DADDR = 1, 2
_FIB_ADDRTYPE = 3
_LOCAL = 2  # RTN_LOCAL
_UDP = b"\x11"
_ICMPV6 = b"\x3a"
_IFNAMSIZ = 16
NETWORK_HEADER, TRANSPORT_HEADER = 1, 2  # NFT_PAYLOAD_*
_DESTINATION_PORT = 2  # its offset in the UDP header
DESTINATION_OFFSET = {4: 16, 6: 24}  # of the destination address in the IP header
PROTOCOLS = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}
# The errors of a kernel without nf_tables.
ABSENT = frozenset({errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT})


def available() -> bool:
    """Whether this kernel has nf_tables, tested by reading its generation number.

    Without CAP_NET_ADMIN the kernel refuses every request: then True, as nearly every kernel has it.
    """
    try:
        with Nfnetlink() as kernel:
            kernel.request(message(_GETGEN, NFPROTO_UNSPEC), "cannot query nf_tables")
    except (OSError, OperationError) as refusal:
        return refusal.errno not in ABSENT
    return True


def add(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Add the table of one family (4 or 6); `addresses` are the link's addresses of that family.

    With a `port`, an IPv6 tunnel also gets the rules for reverse path filters.
    """
    requests = table_requests(name, family, addresses, fwmark, port)
    _commit(requests, f"cannot add the nftables rules of {name}")


def replace(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Like `add`, but replaces the family's table in the same transaction, so that every packet meets one."""
    protocol = PROTOCOLS[family]
    doomed = [_table(_DELTABLE, name, protocol)] if protocol in _tables(name) else []
    requests = table_requests(name, family, addresses, fwmark, port)
    _commit([*doomed, *requests], f"cannot replace the nftables rules of {name}")


def table_requests(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int) -> list[bytes]:
    """The requests that add the table."""
    requests = [_table(_NEWTABLE, name, PROTOCOLS[family]), *_chains(name, family)]
    requests += [_drop(name, family, address) for address in addresses]
    requests += [_save_mark(name, family, fwmark), _restore_mark(name, family)]
    if port:
        requests += [_mark_arrivals(name, family, fwmark, port, chain) for chain in ("preraw", "premangle")]
        requests.append(_mark_errors(name, family, fwmark))
    return requests


def remove(name: str, family: int = 0) -> None:
    """Delete the table of one family, or with 0 of all, as wg-quick does; does nothing if there is none."""
    doomed = [found for found in _tables(name) if not family or found == PROTOCOLS[family]]
    if doomed:
        requests = [_table(_DELTABLE, name, protocol) for protocol in doomed]
        _commit(requests, f"cannot remove the nftables rules of {name}")


def present(name: str) -> bool:
    """Whether a table of this name exists, in any family."""
    return bool(_tables(name))


def _title(name: str) -> str:
    return f"wg-quick-{name}"


def _tables(name: str) -> list[int]:
    """The netfilter protocols with a table of this name; empty if the kernel has no nf_tables."""
    found = all_tables(f"cannot list the nftables tables of {name}")
    return [protocol for protocol, title in found if title == _title(name)]


def all_tables(what: str) -> list[tuple[int, str]]:
    """The protocol and name of each table; `what` is the message of an error."""
    try:
        with Nfnetlink() as kernel:
            answers = kernel.dump(message(_GETTABLE, NFPROTO_UNSPEC), what)
    except (OSError, OperationError) as refusal:
        if refusal.errno in ABSENT:
            return []
        raise explained(refusal, what) from None
    return [(protocol_of(answer), text(attributes_of(answer).get(1, b""))) for answer in answers]


def _commit(requests: Sequence[bytes], what: str) -> None:
    try:
        with Nfnetlink() as kernel:
            kernel.transaction(requests, what)
    except (OSError, OperationError) as refusal:
        raise explained(refusal, what) from None


def explained(refusal: OSError | OperationError, what: str) -> OperationError:
    """The kernel's refusal with a remedy."""
    text = refusal.what if isinstance(refusal, OperationError) else f"{what}: {refusal.strerror}"
    return OperationError(text, errno=refusal.errno or 0, remedy=_remedy(refusal.errno or 0))


def _remedy(code: int) -> str:
    if code == errno.EPERM:
        return "Run as root, or give the process CAP_NET_ADMIN."
    if code in ABSENT and not available():
        return "This kernel has no nf_tables; use `--firewall iptables'."
    if code == errno.ENOENT:
        return "The kernel may lack nft_fib or nft_ct; load these modules, or use `--firewall iptables'."
    return "`nft list ruleset' shows the rules; `--firewall iptables' does not need nftables."


def _table(kind: int, name: str, protocol: int) -> bytes:
    return message(kind, protocol, attribute_text(1, _title(name)), NLM_F_CREATE if kind == _NEWTABLE else 0)


def _chains(name: str, family: int) -> list[bytes]:
    return [
        _chain(name, family, "preraw", _PREROUTING, _RAW),
        _chain(name, family, "premangle", _PREROUTING, _MANGLE),
        _chain(name, family, "postmangle", _POSTROUTING, _MANGLE),
    ]


def _chain(name: str, family: int, chain: str, hook: int, priority: int) -> bytes:
    """`chain CHAIN { type filter hook HOOK priority PRIORITY; }`."""
    place = nested(4, number(1, hook), attribute(2, pack(">i", priority)))
    attributes = attribute_text(1, _title(name)) + attribute_text(3, chain) + attribute_text(7, "filter") + place
    return message(_NEWCHAIN, PROTOCOLS[family], attributes, NLM_F_CREATE)


def _rule(name: str, family: int, chain: str, *expressions: bytes) -> bytes:
    attributes = attribute_text(1, _title(name)) + attribute_text(2, chain) + nested(4, *expressions)
    return message(_NEWRULE, PROTOCOLS[family], attributes, NLM_F_CREATE | NLM_F_APPEND)


def _drop(name: str, family: int, address: bytes) -> bytes:
    """`iifname != "NAME" ip daddr ADDRESS fib saddr type != local drop`."""
    return _rule(
        name,
        family,
        "preraw",
        load_meta(_META_IIFNAME),
        compare(_UNEQUAL, name.encode().ljust(_IFNAMSIZ, b"\0")),
        load_payload(DESTINATION_OFFSET[family], len(address)),
        compare(EQUAL, address),
        *_address_type(_FIB_SADDR, _UNEQUAL),
        expression("immediate", number(1, 0), nested(2, nested(2, number(1, 0)))),  # verdict NF_DROP
    )


def _mark_arrivals(name: str, family: int, fwmark: int, port: int, chain: str) -> bytes:
    """`iifname != "NAME" udp dport PORT fib daddr type local meta mark set FWMARK`."""
    return _rule(
        name,
        family,
        chain,
        load_meta(_META_IIFNAME),
        compare(_UNEQUAL, name.encode().ljust(_IFNAMSIZ, b"\0")),
        *_is_protocol(_UDP),
        load_payload(_DESTINATION_PORT, 2, TRANSPORT_HEADER),
        compare(EQUAL, pack(">H", port)),
        *_address_type(_FIB_DADDR, EQUAL),
        expression("immediate", number(1, REGISTER), nested(2, attribute(1, pack("=I", fwmark)))),
        _set_meta_mark(),
    )


def _mark_errors(name: str, family: int, fwmark: int) -> bytes:
    """`meta l4proto ipv6-icmp ct mark FWMARK meta mark set ct mark`; an ICMP error has its cause's connection."""
    return _rule(
        name,
        family,
        "premangle",
        *_is_protocol(_ICMPV6),
        _load_connection_mark(),
        compare(EQUAL, pack("=I", fwmark)),
        _load_connection_mark(),
        _set_meta_mark(),
    )


def _save_mark(name: str, family: int, fwmark: int) -> bytes:
    """`meta l4proto udp mark FWMARK ct mark set mark`."""
    return _rule(
        name,
        family,
        "postmangle",
        *_is_protocol(_UDP),
        load_meta(_META_MARK),
        compare(EQUAL, pack("=I", fwmark)),
        load_meta(_META_MARK),
        expression("ct", number(2, _CT_MARK), number(4, REGISTER)),
    )


def _restore_mark(name: str, family: int) -> bytes:
    """`meta l4proto udp meta mark set ct mark`."""
    return _rule(
        name,
        family,
        "premangle",
        *_is_protocol(_UDP),
        _load_connection_mark(),
        _set_meta_mark(),
    )


def _is_protocol(protocol: bytes) -> tuple[bytes, bytes]:
    return load_meta(META_L4PROTO), compare(EQUAL, protocol)


def _address_type(which: int, operation: int) -> tuple[bytes, bytes]:
    """Match the type of the source or destination address: RTN_LOCAL or not."""
    looked_up = expression("fib", number(3, which), number(2, _FIB_ADDRTYPE), number(1, REGISTER))
    return looked_up, compare(operation, pack("=I", _LOCAL))


def _load_connection_mark() -> bytes:
    return expression("ct", number(2, _CT_MARK), number(1, REGISTER))


def _set_meta_mark() -> bytes:
    return expression("meta", number(2, _META_MARK), number(3, REGISTER))


def expression(kind: str, *attributes: bytes) -> bytes:
    """One element of NFTA_RULE_EXPRESSIONS."""
    return nested(1, attribute_text(1, kind), nested(2, *attributes))


def load_meta(key: int) -> bytes:
    """A property of the packet (NFT_META_*)."""
    return expression("meta", number(2, key), number(1, REGISTER))


def load_payload(offset: int, length: int, base: int = NETWORK_HEADER) -> bytes:
    """`length` bytes of a header."""
    return expression("payload", number(1, REGISTER), number(2, base), number(3, offset), number(4, length))


def compare(operation: int, value: bytes) -> bytes:
    """The end of the rule unless the loaded value is EQUAL to this one, or _UNEQUAL."""
    return expression("cmp", number(1, REGISTER), number(2, operation), nested(3, attribute(1, value)))
