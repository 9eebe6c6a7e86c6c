"""Rules of the nft variant of iptables(8), added by its iptables-restore(8) as in wg-quick(8).

wgq finds the rules in nf_tables by their comment and deletes them by handle, without a program. The variant keeps
the tables raw, mangle, ... as nftables tables of those names. A comment is a match of that name (struct
xt_comment_info) or, in newer releases, in the rule's user data (libnftnl's udata.h).
"""

from __future__ import annotations

import errno

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system.firewall import iptables_programs
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


def program(family: int) -> str | None:
    """The host's iptables-restore if it is the nft variant and the kernel supports it."""
    found = iptables_programs.own_restore(family)
    return found if found and available() and iptables_programs.is_nft(found) else None


def add(
    program: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str
) -> None:
    """Add one family's rules with the program; if it fails between two tables, all are removed."""
    try:
        text = iptables_programs.script(name, family, addresses, fwmark, port, comment)
        iptables_programs.restore([program, "-n"], text)
    except OperationError:
        remove(comment, family)
        raise


def present(comment: str) -> set[int]:
    """The families (4, 6) in which a rule of raw or mangle has the comment."""
    tables = set(all_tables("cannot list the nftables tables"))
    held = {family for family, protocol in _PROTOCOLS.items() for name in _TABLES if (protocol, name) in tables}
    return {family for family in held if _rules(comment, family)}


def remove(comment: str, family: int) -> None:
    """Delete the rules of raw and mangle that have the comment, in one transaction."""
    if doomed := _rules(comment, family):
        with Nfnetlink() as kernel:
            kernel.transaction(doomed, "cannot remove iptables rules from nftables")


def _rules(comment: str, family: int) -> list[bytes]:
    """The requests that delete each rule with the comment; empty if the kernel has no nf_tables."""
    text = comment.encode()
    with_comment = [rule for table in _TABLES for rule in _listed(table, family) if text in _comments(rule)]
    return [_deletion(rule, family) for rule in with_comment]


def _listed(table: str, family: int) -> list[dict[int, bytes]]:
    """The attributes of each rule of a table; empty if there is no such table."""
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
    """The comments in a rule's user data, which consists of (type, length, value) entries."""
    start = 0
    while start + 2 <= len(data):
        kind, length = data[start : start + 2]
        if kind == _UDATA_COMMENT:
            yield data[start + 2 : start + 2 + length].partition(b"\0")[0]
        start += 2 + length
