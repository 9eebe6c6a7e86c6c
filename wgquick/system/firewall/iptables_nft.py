"""Rules of the nft variant of iptables(8): added by its iptables-restore(8), as wg-quick(8) adds them.

They are found in nf_tables by their comment, and deleted by handle, for which no program is needed.
The variant keeps the tables raw, mangle, ... as nftables tables of those names, and a comment as the match of that
name (struct xt_comment_info) or, in newer releases, in the rule's user data (libnftnl's udata.h).
"""

from __future__ import annotations

import errno
import os
from _socket import AF_INET, AF_INET6, inet_ntop

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system import programs
from wgquick.system.firewall.nfnetlink import NFPROTO_IPV4, NFPROTO_IPV6, Nfnetlink, attributes_of, message
from wgquick.system.firewall.nft import ABSENT, all_tables, available, explained
from wgquick.system.netlink.codec import attribute, attribute_text, attributes, each_attribute

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_GETRULE, _DELRULE = 7, 8
_TABLE, _CHAIN, _HANDLE, _EXPRESSIONS, _USERDATA = 1, 2, 3, 4, 7  # NFTA_RULE_*
_MATCH_NAME, _MATCH_INFO = 1, 3  # NFTA_MATCH_*
_EXPR_NAME, _EXPR_DATA = 1, 2  # NFTA_EXPR_*
_TABLES = ("raw", "mangle")
_PROTOCOLS = {4: NFPROTO_IPV4, 6: NFPROTO_IPV6}
_UDATA_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT
_RESTORE = {4: "iptables-restore", 6: "ip6tables-restore"}
_REMEDY = "`iptables -V' shows the variant in use; `--firewall nft' does without iptables."


def program(family: int) -> str | None:
    """The host's iptables-restore where it is the nft variant and the kernel has what that needs.

    It is looked for where it usually is too: wg-quick must find the rules from a longer PATH than this one.
    """
    name = _RESTORE[family]
    found = programs.find(name) or programs.find(name, programs.DEFAULT_PATH)
    return found if found and available() and "nf_tables" in _run(found, "-V", "")[1] else None


def add(
    program: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str
) -> None:
    """Have that program add one family's rules; if it fails between its tables, all are taken back."""
    status, _, errors = _run(program, "-n", _script(name, family, addresses, fwmark, port, comment))
    if status:
        remove(comment, family)
        what = f"`{_RESTORE[family]} -n' failed with status {status}"
        said = f"{what}: {errors.strip()}" if errors.strip() else what
        raise OperationError(said, remedy=_REMEDY, status=status)


def _run(program: str, option: str, text: str) -> tuple[int, str, str]:
    return programs.output([program, option], {**os.environ, "LC_ALL": "C"}, text.encode())


def _script(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str) -> str:
    """The rules for iptables-restore(8), in whose language a `+` that ends a name stands for anything."""
    marked = f'-m comment --comment "{comment}"'
    kind = AF_INET if family == 4 else AF_INET6
    lines = ["*raw"]
    lines += [
        f"-I PREROUTING ! -i {name} -d {inet_ntop(kind, address)} -m addrtype ! --src-type LOCAL -j DROP {marked}"
        for address in addresses
    ]
    arrived = f"! -i {name} -p udp --dport {port} -m addrtype --dst-type LOCAL"
    arrivals = [f"-I PREROUTING {arrived} -j MARK --set-mark {fwmark} {marked}"] if port else []
    lines += [*arrivals, "COMMIT", "*mangle", *arrivals]
    lines += [f"-I POSTROUTING -p udp -m mark --mark {fwmark} -j CONNMARK --save-mark {marked}"]
    lines += [f"-I PREROUTING -p udp -j CONNMARK --restore-mark {marked}"]
    if port:
        errors = f"-p ipv6-icmp -m connmark --mark {fwmark}"
        lines += [f"-I PREROUTING {errors} -j CONNMARK --restore-mark {marked}"]
    return "\n".join([*lines, "COMMIT", ""])


def present(comment: str) -> set[int]:
    """The families (4, 6) in which a rule of raw or mangle has the comment."""
    tables = set(all_tables("cannot list the nftables tables"))
    held = {family for family, protocol in _PROTOCOLS.items() for name in _TABLES if (protocol, name) in tables}
    return {family for family in held if _rules(comment, family)}


def remove(comment: str, family: int) -> None:
    """Delete the rules of raw and mangle that have the comment, in one transaction."""
    if doomed := _rules(comment, family):
        with Nfnetlink() as kernel:
            kernel.transaction(doomed, "cannot remove the rules that iptables has made in nftables")


def _rules(comment: str, family: int) -> list[bytes]:
    """The requests that delete each rule with the comment; none where the kernel has no nf_tables."""
    text = comment.encode()
    with_comment = [rule for table in _TABLES for rule in _listed(table, family) if text in _comments(rule)]
    return [_deletion(rule, family) for rule in with_comment]


def _listed(table: str, family: int) -> list[dict[int, bytes]]:
    """The attributes of each rule of a table; none where there is no such table."""
    what = f"cannot list the rules of the nftables table {table}"
    try:
        with Nfnetlink() as kernel:
            answers = kernel.dump(message(_GETRULE, _PROTOCOLS[family], attribute_text(_TABLE, table)), what)
    except (OSError, OperationError) as refusal:
        if refusal.errno in (*ABSENT, errno.ENOENT):
            return []
        raise explained(refusal, what) from None
    return [attributes_of(answer) for answer in answers]


def _deletion(rule: dict[int, bytes], family: int) -> bytes:
    place = b"".join(attribute(kind, rule[kind]) for kind in (_TABLE, _CHAIN, _HANDLE))
    return message(_DELRULE, _PROTOCOLS[family], place)


def _comments(rule: dict[int, bytes]) -> Iterator[bytes]:
    """The texts of a rule's comment matches, and of the comment in its user data."""
    for _, expression in each_attribute(rule.get(_EXPRESSIONS, b"")):
        parts = attributes(expression)
        if parts.get(_EXPR_NAME) == b"match\0":
            match = attributes(parts.get(_EXPR_DATA, b""))
            if match.get(_MATCH_NAME) == b"comment\0":
                yield match.get(_MATCH_INFO, b"").partition(b"\0")[0]
    yield from _user_comments(rule.get(_USERDATA, b""))


def _user_comments(data: bytes) -> Iterator[bytes]:
    """User data is a row of type, length and value."""
    start = 0
    while start + 2 <= len(data):
        kind, length = data[start : start + 2]
        if kind == _UDATA_COMMENT:
            yield data[start + 2 : start + 2 + length].partition(b"\0")[0]
        start += 2 + length
