"""The firewall rules that add_default of wg-quick(8) adds: against spoofing, and to keep the fwmark.

Packets to the tunnel's addresses that come in by another link are dropped. The fwmark of the encrypted packets is
saved in their connection, so that replies are routed in the same way.

In addition to wg-quick's rules, IPv6 packets to the tunnel's UDP port get the fwmark in raw and in mangle, and
ICMPv6 errors about the encrypted packets get it in mangle. A reverse path filter in the firewall (firewalld's
IPv6_rpfilter) looks up the route to their source, which leads into the tunnel without the fwmark. wg-quick's rules
only restore the fwmark of a connection that has one. They miss a peer's first packets, ICMPv6 errors, and filters
that run before mangle. `nft` writes them into a separate table, `iptables` into the raw and mangle tables. This
module implements the executor's Firewall and imports the needed one.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.transcript import command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.net import FirewallRules, Guard
    from wgquick.transcript import Line

_RESTORE = {4: "iptables-restore -n", 6: "ip6tables-restore -n"}


def choose(preference: str) -> str:
    """The kind for `auto`: nft if the kernel has nf_tables, else iptables; any other preference is the kind."""
    if preference != "auto":
        return preference
    from wgquick.system.firewall import nft

    return "nft" if nft.available() else "iptables"


def present(name: str) -> tuple[tuple[str, int], ...]:
    """The kinds in which this interface has rules now, each with the family; 0 means both families of nft."""
    from wgquick.system.firewall import iptables, nft

    of_nft = (("nft", 0),) if nft.present(name) else ()
    return (*of_nft, *(("iptables", family) for family in iptables.present(name)))


def existing(name: str) -> tuple[FirewallRules, ...]:
    """The current rules of this interface as values, one for each kind and family.

    For iptables only their existence is read: `fwmark` is 0, and they count as whole.
    """
    from wgquick.net import FirewallRules
    from wgquick.system.firewall import iptables, nft_read

    of_iptables = (FirewallRules("iptables", family) for family in iptables.present(name))
    return (*nft_read.existing(name), *of_iptables)


def replace(kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Like `add`, but replaces the current rules; with nft in one transaction."""
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.replace(name, family, addresses, fwmark, port)
    else:
        remove(kind, name, family)
        add(kind, name, family, addresses, fwmark, port)


def add(kind: str, name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int = 0) -> None:
    """Add one family's rules: all of them, or none and OperationError.

    `addresses` are the link's, packed. `port`, the tunnel's UDP port, adds the rules for reverse path filters.
    """
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.add(name, family, addresses, fwmark, port)
    else:
        from wgquick.system.firewall import iptables

        iptables.add(name, family, addresses, fwmark, port)


def remove(kind: str, name: str, family: int) -> None:
    """Remove one family's rules (0: those of all); does nothing if there are none."""
    if kind == "nft":
        from wgquick.system.firewall import nft

        nft.remove(name, family)
    else:
        from wgquick.system.firewall import iptables

        iptables.remove(name, family)


def add_lines(kind: str, family: int) -> tuple[Line, ...]:
    """The transcript lines of `add`, as in wg-quick (bash shows its `<(...)` as /dev/fd/63)."""
    return (command("nft -f /dev/fd/63"),) if kind == "nft" else (command(_RESTORE[family]),)


def remove_lines(kind: str, family: int) -> tuple[Line, ...]:
    """The transcript lines of `remove`."""
    return add_lines(kind, family)


def guard(name: str, wanted: Guard) -> None:
    """Set the kill switch of an interface, in one transaction that replaces an earlier one."""
    from wgquick.system.firewall import traffic

    traffic.guard(name, wanted)


def remove_guard(name: str) -> None:
    """Remove the kill switch; does nothing if there is none."""
    from wgquick.system.firewall import traffic

    traffic.remove_guard(name)


def is_guarded(name: str) -> bool:
    """Whether the interface has a kill switch."""
    from wgquick.system.firewall import traffic

    return traffic.is_guarded(name)


def keeps_inbound(name: str) -> bool:
    """Whether the rules of `keep_inbound` exist."""
    from wgquick.system.firewall import traffic

    return traffic.keeps_inbound(name)


def keep_inbound(name: str, mark: int) -> None:
    """Add rules that answer inbound connections on the link they arrived on; `mark` is the tunnel's fwmark."""
    from wgquick.system.firewall import traffic

    traffic.keep_inbound(name, mark)


def forget_inbound(name: str) -> None:
    """Remove the rules of `keep_inbound`; does nothing if there are none."""
    from wgquick.system.firewall import traffic

    traffic.forget_inbound(name)
