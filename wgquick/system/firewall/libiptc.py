"""Rules of the legacy variant of iptables(8), in the raw and mangle tables, through python-iptables (libiptc).

The package is the extra `iptables`, as it is built from source. Its import takes longer than all else of `up`, so
it is imported only here and only if it is needed.
"""

from __future__ import annotations

import fcntl
import itertools
import os
from _socket import AF_INET, AF_INET6, inet_ntop
from struct import Struct

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, contextmanager

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any, Self

_TABLES = {"raw": ("PREROUTING",), "mangle": ("PREROUTING", "POSTROUTING")}  # each with the used chains
_LOCK = "/run/xtables.lock"  # the lock that all iptables commands share (iptables(8), -w)
_MATCH = Struct("=H29sB")  # struct xt_entry_match: size, name, revision; then its data
_CONNMARK = {  # by revision: mark, its mask, the packet's mask, (shift,) mode
    1: Struct("=IIIB"),  # struct xt_connmark_tginfo1
    2: Struct("=III2xB"),  # struct xt_connmark_tginfo2
}
_SAVE, _RESTORE = 1, 2  # XT_CONNMARK_*
_MARK = Struct("=II")  # struct xt_mark_tginfo2: mark and mask
_UDP = Struct("=HHHHB")  # struct xt_udp: ranges of source and destination ports, inversion flags
_ADDRESS_TYPES = Struct("=HHI")  # struct xt_addrtype_info_v1: sets of source and destination types, flags
_LOCAL = 1 << 2  # RTN_LOCAL
_ALL = 0xFFFFFFFF
_FOLDER = "IPTABLES_LIBDIR"
_REMEDY = "Run as root, with iptables installed (Debian: iptables), or use `--firewall nft'."


def add(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str) -> None:
    """Add raw's rules, then mangle's; if mangle refuses, raw's are removed."""
    with _Iptables(family, comment) as iptables:
        drops = [("PREROUTING", iptables.drop(name, address)) for address in addresses]
        marks = [("PREROUTING", iptables.restore_mark()), ("POSTROUTING", iptables.save_mark(fwmark))]
        if port:
            arrivals = ("PREROUTING", iptables.mark_arrivals(name, fwmark, port))
            drops.append(arrivals)
            marks = [arrivals, *marks, ("PREROUTING", iptables.mark_errors(fwmark))]
        iptables.insert("raw", drops)
        try:
            iptables.insert("mangle", marks)
        except OperationError:
            iptables.delete("raw")
            raise


def remove(comment: str, family: int, tables: Sequence[str]) -> None:
    """Delete the rules of these tables that have the comment."""
    with _Iptables(family, comment) as iptables:
        for table in tables:
            iptables.delete(table)


def present(comment: str, family: int, tables: Sequence[str]) -> bool:
    """Whether a rule in these tables has the comment."""
    with _Iptables(family, comment) as iptables:
        return any(iptables.holds(table) for table in tables)


class _Iptables:
    """libiptc for one family, under the lock that iptables commands share; every failure is an OperationError."""

    def __init__(self, family: int, comment: str) -> None:
        self._family = family
        self._comment = comment

    def __enter__(self) -> Self:
        self._library = library()
        self._lock = os.open(_LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, _kind: object, fault: BaseException | None, _traceback: object) -> None:
        os.close(self._lock)
        if isinstance(fault, self._faults()):
            raise OperationError(f"iptables cannot be used: {_words(fault)}", remedy=_REMEDY) from None

    def _faults(self) -> tuple[type[Exception], ...]:
        return self._library.IPTCError, self._library.XTablesError, ValueError

    def insert(self, name: str, rules: Sequence[tuple[str, Any]]) -> None:
        """Insert rules at the top of their chains, each above the one before, like `iptables -I`."""
        with self._table(name) as table:
            for chain, rule in rules:
                table.insert_entry(chain, rule.rule, 0)
            table.commit()

    def delete(self, name: str) -> None:
        """Delete the rules with the comment."""
        with self._table(name) as table:
            found = [(chain, at) for chain in _TABLES[name] for at in _positions(table, chain, self._comment)]
            for chain, at in reversed(found):
                table._iptc.iptc_delete_num_entry(chain.encode(), at, table._handle)
            if found:
                table.commit()

    def holds(self, name: str) -> bool:
        """Whether a rule of the table has the comment."""
        with self._table(name) as table:
            return any(_positions(table, chain, self._comment) for chain in _TABLES[name])

    @contextmanager
    def _table(self, name: str) -> Iterator[Any]:
        """The current table. A commit applies all changes at once.

        The library's cached table is not used, as another user of the library in this process may be changing it.
        """
        kind = self._library.Table if self._family == 4 else self._library.Table6
        table = object.__new__(kind)
        try:
            table._init(name, False)
            yield table
        except self._faults() as fault:
            raise OperationError(f"iptables table {name}: {_words(fault)}", remedy=_REMEDY) from None
        finally:
            table.close()

    def drop(self, name: str, address: bytes) -> Any:
        """`! -i NAME -d ADDRESS -m addrtype ! --src-type LOCAL -j DROP`."""
        rule = self._rule()
        rule.in_interface = f"!{name}"
        _take_literally(rule, name)
        rule.dst = inet_ntop(AF_INET if len(address) == 4 else AF_INET6, address)
        rule.create_match("addrtype").set_parameter("src-type", "!LOCAL")
        rule.create_match("comment").set_parameter("comment", self._comment)
        rule.create_target("DROP")
        return rule

    def save_mark(self, fwmark: int) -> Any:
        """`-p udp -m mark --mark FWMARK -j CONNMARK --save-mark`."""
        rule = self._rule()
        rule.protocol = "udp"
        rule.create_match("mark").set_parameter("mark", hex(fwmark))
        rule.create_match("comment").set_parameter("comment", self._comment)
        _fill_connmark(rule.create_target("CONNMARK"), _SAVE)
        return rule

    def restore_mark(self) -> Any:
        """`-p udp -j CONNMARK --restore-mark`."""
        rule = self._rule()
        rule.protocol = "udp"
        rule.create_match("comment").set_parameter("comment", self._comment)
        _fill_connmark(rule.create_target("CONNMARK"), _RESTORE)
        return rule

    def mark_arrivals(self, name: str, fwmark: int, port: int) -> Any:
        """`! -i NAME -p udp --dport PORT -m addrtype --dst-type LOCAL -j MARK --set-mark FWMARK`."""
        rule = self._rule()
        rule.in_interface = f"!{name}"
        _take_literally(rule, name)
        rule.protocol = "udp"
        _fill_match(rule.create_match("udp"), _UDP.pack(0, 0xFFFF, port, port, 0))
        _fill_match(rule.create_match("addrtype"), _ADDRESS_TYPES.pack(0, _LOCAL, 0))
        rule.create_match("comment").set_parameter("comment", self._comment)
        _fill_target(rule.create_target("MARK"), _MARK.pack(fwmark, _ALL))
        return rule

    def mark_errors(self, fwmark: int) -> Any:
        """`-p ipv6-icmp -m connmark --mark FWMARK -j CONNMARK --restore-mark`."""
        rule = self._rule()
        rule.protocol = "icmpv6"
        rule.create_match("connmark").set_parameter("mark", hex(fwmark))
        rule.create_match("comment").set_parameter("comment", self._comment)
        _fill_connmark(rule.create_target("CONNMARK"), _RESTORE)
        return rule

    def _rule(self) -> Any:
        """An empty rule, without the search for a chain named like its target, which would load every table."""
        kind = self._library.Rule if self._family == 4 else self._library.Rule6
        return type("Rule", (kind,), {"tables": ()})()


def _fill_connmark(target: Any, mode: int) -> None:
    """Write a CONNMARK target that saves or restores the whole mark."""
    _fill_target(target, _CONNMARK[target.target.u.user.revision].pack(0, _ALL, _ALL, mode), 1 << mode)


def _fill_target(target: Any, data: bytes, flags: int = 1) -> None:
    """Write the data of a target, and set the option flags that the library's final check expects.

    The library's own method does not work with newer releases of iptables (Debian 13): their struct
    xt_option_entry is larger, and the library reads only the first entry of such a table.
    """
    _write(target.target, data)
    target._module.tflags = flags


def _fill_match(match: Any, data: bytes) -> None:
    """Write the data of a match in the same way."""
    _write(match.match, data)
    match._module.mflags = 1


def _write(head: Any, data: bytes) -> None:
    import ctypes

    ctypes.memmove(ctypes.addressof(head) + ctypes.sizeof(head), data, len(data))


def _take_literally(rule: Any, name: str) -> None:
    """Compare the whole name: iptables treats a `+` at its end as a wildcard."""
    header = rule.get_ip()
    header.iniface = name.encode()
    header.iniface_mask = bytes([0xFF]) * (len(name) + 1)


def _positions(table: Any, chain: str, text: str) -> list[int]:
    """The positions in a chain, from 0, of the rules with a comment.

    They are read from the rules' bytes, as the library parses only rules with extensions that it knows.
    """
    found = []
    entry = table.first_rule(chain)
    for at in itertools.count():
        if not entry:
            break
        if text.encode() in _comments(entry):
            found.append(at)
        entry = table.next_rule(entry)
    return found


def _comments(entry: Any) -> Iterator[bytes]:
    """The texts of the comment matches in a struct ipt_entry or ip6t_entry."""
    import ctypes

    data = ctypes.string_at(ctypes.addressof(entry), entry.next_offset)
    start = ctypes.sizeof(entry)
    while start < entry.target_offset:
        size, name, _ = _MATCH.unpack_from(data, start)
        if name.partition(b"\0")[0] == b"comment":
            yield data[start + _MATCH.size : start + size].partition(b"\0")[0]
        start += size


def library() -> Any:
    """python-iptables, or OperationError with a remedy; without its C libraries it fails in many ways."""
    import warnings

    try:
        with warnings.catch_warnings(), _short_cuts():
            warnings.simplefilter("ignore")  # the library's own warnings under newer Pythons
            import iptc
    except Exception as fault:
        raise OperationError(f"iptables cannot be used: {_words(fault)}", remedy=_REMEDY) from None
    return iptc


@contextmanager
def _short_cuts() -> Iterator[None]:
    """Make the import of iptc five times as fast.

    iptc imports distutils, which setuptools replaces with itself, but works without it (iptc/util.py). It asks gcc
    and ld for its own shared library unless IPTABLES_LIBDIR has the folder.
    """
    import sys
    from sysconfig import get_path

    has_distutils, has_folder = "distutils" in sys.modules, _FOLDER in os.environ
    if not has_distutils:
        sys.modules["distutils"] = None  # type: ignore[assignment]
    if not has_folder:
        os.environ[_FOLDER] = get_path("platlib")
    try:
        yield
    finally:
        if not has_distutils:
            del sys.modules["distutils"]
        if not has_folder:
            del os.environ[_FOLDER]


def _words(fault: Exception) -> str:
    """The message; a bytes message is decoded, as the library shows its quotes."""
    return str(fault).replace("b'", "").rstrip("'") or type(fault).__name__
