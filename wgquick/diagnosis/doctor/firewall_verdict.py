"""The verdict of all firewalls of this host on a packet: nftables, and both variants of iptables."""

from __future__ import annotations

from wgquick.diagnosis.doctor import ruleset, xtables
from wgquick.diagnosis.doctor.packet import Verdict
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wgquick.diagnosis.doctor.packet import Packet
    from wgquick.observations import Rulesets


def firewall_verdict(rulesets: Rulesets | None, packet: Packet, course: Sequence[str]) -> Verdict:
    """The first verdict that drops the packet at the hooks in `course`; else a verdict that does not drop it."""
    is_certain, suspect = True, ""
    for hook in course:
        for found in _verdicts(rulesets, packet, hook) if rulesets else ():
            is_certain, suspect = is_certain and found.is_certain, suspect or found.suspect
            if found.is_dropped:
                return found._replace(is_certain=is_certain)
    return Verdict(is_certain=is_certain, suspect=suspect)


def by(rulesets: Rulesets | None, packet: Packet, course: Sequence[str]) -> str:
    """The rule or policy that drops a packet, as `, by ...`; "" if the rulesets do not show it."""
    found = firewall_verdict(rulesets, packet, course)
    if found.is_dropped:
        return f", by {found.where}"
    return f", probably by {found.suspect}" if found.suspect else ""


def translations(rulesets: Rulesets, packet: Packet) -> list[tuple[bool | None, str]]:
    """The rules that change the source of leaving packets: whether each matches this one (None if unknown)."""
    six = "6" if packet.family == 6 else ""
    return [
        *ruleset.translations(rulesets.nft, packet),
        *xtables.translations(rulesets.compat6 if six else rulesets.compat4, f"ip{six}tables", packet),
        *xtables.translations(rulesets.legacy6 if six else rulesets.legacy4, f"ip{six}tables-legacy", packet),
    ]


def _verdicts(rulesets: Rulesets, packet: Packet, hook: str) -> list[Verdict]:
    six = "6" if packet.family == 6 else ""
    legacy = rulesets.legacy6 if six else rulesets.legacy4
    compat = rulesets.compat6 if six else rulesets.compat4
    return [
        ruleset.verdict(rulesets.nft, packet, hook, without_compat=bool(compat)),
        xtables.verdict(compat, f"ip{six}tables", packet, hook),
        xtables.verdict(legacy, f"ip{six}tables-legacy", packet, hook),
    ]
