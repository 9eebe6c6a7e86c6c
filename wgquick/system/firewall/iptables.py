"""iptables: wg-quick(8)'s rules in the raw and mangle tables, in the variant that the host's own `iptables` is.

Where that is the nft variant, the rules stand in nftables, in tables named raw and mangle. iptables-restore adds
them, so that the user and `wg-quick down` find them by `iptables` (`iptables_nft`). Rules of the legacy variant are
changed by python-iptables (`libiptc`) if it is installed, the extra `iptables`, and else by the host's own
iptables-restore and iptables-save (`iptables_legacy`). `remove` and `present` look in both places, as the host's
variant may have changed since.
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
    """What changes the tables of the legacy variant; its faults are OperationErrors."""

    def add(
        self, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str
    ) -> None: ...

    def remove(self, comment: str, family: int, tables: Sequence[str]) -> None: ...

    def present(self, comment: str, family: int, tables: Sequence[str]) -> bool: ...


def comment(name: str) -> str:
    """The comment of the interface's rules, by which wg-quick finds them too."""
    return f"wg-quick(8) rule for {name}"


def add(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Add one family's rules where the host's own iptables keeps them; `port` as for nft."""
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
    """The families in whose tables a rule with this interface's comment stands."""
    of_nft = iptables_nft.present(comment(name))
    return tuple(each for each in _NAMES if each in of_nft or _stands(name, each))


def _stands(name: str, family: int) -> bool:
    tables = _loaded(family)
    return bool(tables) and _legacy(family).present(comment(name), family, tables)


def _loaded(family: int) -> list[str]:
    """Those of our tables that legacy iptables has in this network namespace."""
    try:
        with open(f"/proc/thread-self/net/{_NAMES[family]}", encoding="ascii") as names:
            return [table for table in names.read().split() if table in _TABLES]
    except OSError:
        return []


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
