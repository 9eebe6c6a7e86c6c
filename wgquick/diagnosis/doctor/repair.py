"""`wgq doctor --fix`: restores what the journal and the file have and the host lacks. It never guesses.

It does not restore what hooks did, other firewall rules, or anything at the other end.
"""

from __future__ import annotations

from wgquick.config.settings import Address
from wgquick.diagnosis.doctor.comparison import (
    missing_addresses,
    missing_firewalls,
    missing_routes,
    missing_rules,
    promised_mark,
)
from wgquick.errors import WgqError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import MAIN_TABLE, AllowedIP, Route
from wgquick.plan.steps import AddAddress, AddFirewall, AddRoute, AddRule, SetDns, SetFwmark, SetMtuUp, SetSysctl
from wgquick.plan.up import SRC_VALID_MARK, Coverage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence
    from wgquick.plan.steps import Step
    from wgquick.ports import Host


class _Run(NamedTuple):
    """The part of a run that the steps below need: the host."""

    host: Host


def repair(evidence: Evidence, causes: Iterable[Cause], host: Host, report: Callable[[str], None]) -> bool:
    """Apply the automatic remedies for the causes; returns whether there were any. `report` gets each line."""
    codes = {cause.code for cause in causes}
    steps = list(_steps(evidence, codes)) if evidence.is_up else []
    if not steps:
        return False
    with host.interface_lock(evidence.name), host.lock():
        for step in steps:
            for line in step.lines(host):
                report(line)
            try:
                step.do(_Run(host))  # type: ignore[arg-type]
            except WgqError as error:
                report(f"[!] {error.what}")
    return True


def _steps(evidence: Evidence, codes: set[str]) -> Iterator[Step]:
    """The steps in the order of up, as routes need the addresses."""
    name, settings = evidence.name, evidence.settings
    if "mark-differs" in codes and (mark := promised_mark(evidence)):
        yield SetFwmark(name, mark)
    if "address-missing" in codes:
        for prefix in missing_addresses(evidence):
            yield AddAddress(name, Address(prefix.address, prefix.length, str(prefix)))
    if "mtu-differs" in codes and settings is not None and settings.mtu is not None:
        yield SetMtuUp(name, settings.mtu)
    if "dns-replaced" in codes and settings is not None:
        full = any(ip.length == 0 for peer in evidence.peers for ip in peer.allowed_ips)
        yield SetDns(name, evidence.dns_mode, settings.dns, settings.dns_search, full and settings.table != "off")
    if "rule-missing" in codes:
        yield from map(AddRule, missing_rules(evidence))
    if codes & {"route-missing", "address-missing", "rule-missing", "mark-differs"}:
        by_kernel = Coverage(missing_addresses(evidence))  # the kernel adds these routes with an address
        for table, prefix in missing_routes(evidence):
            if table == MAIN_TABLE and by_kernel(AllowedIP(prefix.address, prefix.length)):
                continue
            yield AddRoute(Route(prefix, name, table), "" if table == MAIN_TABLE else str(table))
    if "sysctl-reverted" in codes:
        yield SetSysctl(SRC_VALID_MARK, "1", "0")
    if "firewall-missing" in codes:
        for kind, family in missing_firewalls(evidence):
            for each in (4, 6) if family == 0 else (family,):
                yield from _firewall(evidence, kind, each)


def _firewall(evidence: Evidence, kind: str, family: int) -> Iterator[Step]:
    """The firewall rules of one family, if the tunnel is a full tunnel for it."""
    if any(ip.length == 0 and ip.family == family for peer in evidence.peers for ip in peer.allowed_ips):
        every = (*missing_addresses(evidence), *evidence.addresses)
        own = tuple(prefix.address for prefix in every if prefix.family == family)
        port = evidence.device.listen_port if family == 6 and evidence.device else 0
        yield AddFirewall(evidence.name, kind, family, own, evidence.fwmark, port)
