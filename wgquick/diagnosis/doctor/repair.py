"""`wgq doctor --fix`: restores state that the journal or the file has and the host lacks. It never guesses.

The journal's state is restored as in `wgq watch` (`executor.lost_state`). The file adds the rest: addresses, routes
and DNS of a tunnel of wg-quick, the fwmark and the MTU. The effects of hooks, other firewall rules, and the other
end are left alone.
"""

from __future__ import annotations

from wgquick.diagnosis.doctor.comparison import missing_addresses, missing_routes, recorded_mark
from wgquick.errors import WgqError
from wgquick.executor import lost_state
from wgquick.executor.journal import Record
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import MAIN_TABLE, AllowedIP
from wgquick.plan.applied import Applied
from wgquick.plan.current import LinkDns
from wgquick.plan.lost import Lost
from wgquick.plan.steps import SetDns, SetFwmark, SetMtuUp, UnsetDns
from wgquick.plan.up import Coverage
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.plan.steps import Step
    from wgquick.ports import Host

_KINDS = {
    "rule-missing": ("rule", "route"),
    "address-missing": ("address", "route"),
    "route-missing": ("route",),
    "mark-differs": ("route",),
    "firewall-missing": ("firewall",),
    "sysctl-reverted": ("sysctl",),
    "dns-replaced": ("dns",),
}
"""The kinds of state (`plan.lost.KINDS`) that may be lost, by the code of the cause."""


class _Run(NamedTuple):
    """The part of a run that the steps below need: the host."""

    host: Host


def repair(evidence: Evidence, causes: Iterable[Cause], host: Host, report: Callable[[str], None]) -> None:
    """Apply the automatic remedies for the causes. `report` gets each line."""
    codes = {cause.code for cause in causes}
    if evidence.is_unread or not evidence.is_up or evidence.link is None:
        return
    with host.interface_lock(evidence.name):
        kinds = {kind for code in codes for kind in _KINDS.get(code, ())}
        found = lost_state.missing(_recorded(evidence, codes, host), host) if kinds else ()
        wanted = [each for each in found if each.kind in kinds]
        if "dns-replaced" in codes and not any(each.kind == "dns" for each in wanted):
            wanted += _dns(evidence)  # another program's server comes before the tunnel's
        others = list(_of_file(evidence, codes))
        for step in others:
            _take(step, host, report)
        if reason := lost_state.restore(wanted, host, report):
            report(note(reason))


def _take(step: Step, host: Host, report: Callable[[str], None]) -> None:
    for line in step.lines(host):
        report(line)
    try:
        step.do(_Run(host))  # type: ignore[arg-type]
    except WgqError as error:
        report(note(error.what))


def _recorded(evidence: Evidence, codes: set[str], host: Host) -> lost_state.Recorded:
    """The journal's state, with addresses, routes and DNS from the file; without a journal, the file alone."""
    name = evidence.name
    given = lost_state.recorded(name, host)
    if given is None:
        mode = evidence.dns_mode
        undos = (UnsetDns(name, mode),) if mode not in ("", "off") else ()
        ifindex = evidence.link.ifindex if evidence.link else 0
        given = lost_state.Recorded(Record(name, undos=undos), None, ifindex)
    applied = given.applied or Applied({}, dns=_link_dns(evidence))
    missing = missing_addresses(evidence)
    by_kernel = Coverage(missing)  # the kernel adds these routes with the addresses
    routes = {
        (prefix, table)
        for table, prefix in missing_routes(evidence)
        if table != MAIN_TABLE or not by_kernel(AllowedIP(prefix.address, prefix.length))
    }
    addresses = missing if "address-missing" in codes else ()
    return given._replace(
        applied=applied._replace(addresses=applied.addresses.union(addresses), routes=applied.routes | routes)
    )


def _link_dns(evidence: Evidence) -> LinkDns:
    """The DNS that the file asks for."""
    settings = evidence.settings
    if settings is None or not settings.dns:
        return LinkDns("off")
    full = any(ip.length == 0 for peer in evidence.peers for ip in peer.allowed_ips) and settings.table != "off"
    return LinkDns(evidence.dns_mode, settings.dns, settings.dns_search, full)


def _dns(evidence: Evidence) -> Iterator[Lost]:
    dns = _link_dns(evidence)
    if dns.servers:
        step = SetDns(evidence.name, dns.mode, dns.servers, dns.search, bool(dns.full_tunnel))
        yield Lost("dns", ", ".join(dns.servers), step)


def _of_file(evidence: Evidence, codes: set[str]) -> Iterator[Step]:
    """The device's mark, and the link's MTU if the file gives one."""
    if "mark-differs" in codes and (mark := recorded_mark(evidence)):
        yield SetFwmark(evidence.name, mark)
    if "mtu-differs" in codes and evidence.settings is not None and evidence.settings.mtu is not None:
        yield SetMtuUp(evidence.name, evidence.settings.mtu)
