"""iptables: wg-quick(8)'s rules in the raw and mangle tables, in the variant of the host's `iptables`.

The nft variant keeps the rules in nftables tables named raw and mangle. iptables-restore adds them, so that
`iptables` shows them and `wg-quick down` finds them (`iptables_nft`). Rules of the legacy variant are changed
through python-iptables (`libiptc`, the extra `iptables`) if it is installed, else through the host's
iptables-restore and iptables-save (`iptables_legacy`). `remove` and `present` check both variants, as the host's
variant may have changed.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, Protocol
from wgquick.system.firewall import iptables_nft, iptables_programs

if TYPE_CHECKING:
    from collections.abc import Sequence

_TABLES = ("raw", "mangle")
_NAMES = {4: "ip_tables_names", 6: "ip6_tables_names"}  # files with the tables of this network namespace


class _Legacy(Protocol):
    """A module that changes the legacy variant's tables; its failures are OperationErrors."""

    def add(
        self, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str
    ) -> None: ...

    def remove(self, comment: str, family: int, tables: Sequence[str]) -> None: ...

    def present(self, comment: str, family: int, tables: Sequence[str]) -> bool: ...


def comment(name: str) -> str:
    """The comment of the interface's rules, which wg-quick also uses to find them."""
    return f"wg-quick(8) rule for {name}"


def add(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Add one family's rules in the variant of the host's iptables; `port` as for nft."""
    if program := iptables_nft.program(family):
        iptables_nft.add(program, name, family, addresses, fwmark, port, comment(name))
    else:
        _legacy(family).add(name, family, addresses, fwmark, port, comment(name))


def remove(name: str, family: int = 0) -> None:
    """Remove the rules with this interface's comment, of one family or, with 0, of both."""
    for each in (family,) if family else _NAMES:
        iptables_nft.remove(comment(name), each)
        if tables := _loaded(each):
            _legacy(each).remove(comment(name), each, tables)


def present(name: str) -> tuple[int, ...]:
    """The families with a rule that has this interface's comment."""
    of_nft = iptables_nft.present(comment(name))
    return tuple(each for each in _NAMES if each in of_nft or _exists(name, each))


def _exists(name: str, family: int) -> bool:
    tables = _loaded(family)
    return bool(tables) and _reader(family).present(comment(name), family, tables)


def _loaded(family: int) -> list[str]:
    """Which of wgq's tables the legacy variant has in this network namespace."""
    try:
        with open(f"/proc/thread-self/net/{_NAMES[family]}", encoding="ascii") as names:
            return [table for table in names.read().split() if table in _TABLES]
    except OSError:
        return []


def _reader(family: int) -> _Legacy:
    """The host's program, as python-iptables takes much longer to import than the program takes to list rules."""
    from wgquick.system.firewall import iptables_legacy

    return iptables_legacy if iptables_programs.legacy(family, "save") else _legacy(family)


def _legacy(family: int) -> _Legacy:
    """python-iptables, or the host's programs if it is not installed or finds none of its C libraries."""
    from wgquick.system.firewall import iptables_legacy, libiptc

    try:
        libiptc.library()
    except OperationError:
        if iptables_programs.legacy(family, "restore") is None:
            raise
        return iptables_legacy
    return libiptc
