"""The rules that add_default of wg-quick(8) makes beside a default route: against spoofing, and to keep the mark.

Packets to the tunnel's own addresses that come in on another link are dropped, and the mark of the encrypted
packets is kept with their connection, so that the answers are routed as what they answer.

Beyond wg-quick's rules, IPv6 packets to the tunnel's own UDP port get the mark in raw and in mangle, and ICMPv6
errors about the encrypted packets get it in mangle. A reverse path filter in the firewall (firewalld's
IPv6_rpfilter) looks up the route back to their source, which leads into the tunnel without the mark. wg-quick's
rules restore the mark of a connection that has one: they miss what the peer sends first, errors, and a filter that
looks before mangle.
`nft` writes them into a table of its own, `iptables` into the raw and mangle tables; this module, which
implements the executor's Firewall, imports the one that is needed.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.net import FirewallRules, Guard

_RESTORE = {4: "iptables-restore -n", 6: "ip6tables-restore -n"}


def choose(preference: str) -> str:
    """The kind for `auto`: nft where the kernel has nf_tables, else iptables; any other preference is the kind."""
    if preference != "auto":
        return preference
    from wgquick.system.firewall import nft

    return "nft" if nft.available() else "iptables"


def present(name: str) -> tuple[tuple[str, int], ...]:
    """The kinds in which rules of this interface stand now, each with the family; 0 is both of nft's at once."""
    from wgquick.system.firewall import iptables, nft

    of_nft = (("nft", 0),) if nft.present(name) else ()
    return (*of_nft, *(("iptables", family) for family in iptables.present(name)))


def standing(name: str) -> tuple[FirewallRules, ...]:
    """The rules of this interface that stand now, one for each kind and family, with what they are made of.

    Of iptables' rules only that they stand is read: `fwmark` is 0, and they count as whole.
    """
    from wgquick.net import FirewallRules
    from wgquick.system.firewall import iptables, nft_read

    of_iptables = (FirewallRules("iptables", family) for family in iptables.present(name))
    return (*nft_read.standing(name), *of_iptables)


def replace(kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """As `add`, in place of what stands; those of nft in one transaction."""
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.replace(name, family, addresses, fwmark, port)
    else:
        remove(kind, name, family)
        add(kind, name, family, addresses, fwmark, port)


def add(kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Add one family's rules; all stand afterwards, or none and an OperationError says why.

    `addresses` are the link's own, packed; `port`, the tunnel's UDP port, adds those for reverse path filters.
    """
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.add(name, family, addresses, fwmark, port)
    else:
        from wgquick.system.firewall import iptables

        iptables.add(name, family, addresses, fwmark, port)


def remove(kind: str, name: str, family: int) -> None:
    """Remove one family's rules (0: those of all); nothing happens if there are none."""
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.remove(name, family)
    else:
        from wgquick.system.firewall import iptables

        iptables.remove(name, family)


def add_lines(kind: str, family: int) -> tuple[str, ...]:
    """The transcript of `add`, as wg-quick prints it (bash shows its `<(...)` as /dev/fd/63)."""
    return ("[#] nft -f /dev/fd/63",) if kind == "nft" else (f"[#] {_RESTORE[family]}",)


def remove_lines(kind: str, family: int) -> tuple[str, ...]:
    """The transcript of `remove`."""
    return add_lines(kind, family)


def guard(name: str, wanted: Guard) -> None:
    """Put the kill switch of an interface in place, in one transaction instead of an earlier one."""
    from wgquick.system.firewall import traffic

    traffic.guard(name, wanted)


def remove_guard(name: str) -> None:
    """Take the kill switch away; nothing happens if there is none."""
    from wgquick.system.firewall import traffic

    traffic.remove_guard(name)


def is_guarded(name: str) -> bool:
    """Whether the kill switch of an interface stands."""
    from wgquick.system.firewall import traffic

    return traffic.is_guarded(name)


def keeps_inbound(name: str) -> bool:
    """Whether what `keep_inbound` does stands."""
    from wgquick.system.firewall import traffic

    return traffic.keeps_inbound(name)


def keep_inbound(name: str, mark: int) -> None:
    """Have connections that come in on other links answered on these, by the tunnel's mark."""
    from wgquick.system.firewall import traffic

    traffic.keep_inbound(name, mark)


def forget_inbound(name: str) -> None:
    """Undo `keep_inbound`; nothing happens if it was not done."""
    from wgquick.system.firewall import traffic

    traffic.forget_inbound(name)
