"""The trials with the kernel's WireGuard: parity cases, and killed runs."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tests.parity.case import CASES, Case
from tests.parity.trial import FIREWALLS, IN_PROCESS, WG_QUICK

# These cases have every kind of step, in both families; both tools run each of them. Cases in which
# the device has no part are in `tests/parity` alone.
COMPARED = (
    "full-tunnel-and-more-routes",
    "full-tunnel-both",
    "full-tunnel-table-taken",
    "hooks-post-up-fails",
    "hooks-see-the-settings",
    "interface-fwmark-of-full-tunnel",
    "interface-listen-port",
    "mtu-from-endpoint",
    "peers-endpoint-ipv6",
    "peers-preshared-and-keepalive",
    "peers-repeated-with-the-same-key",
    "routes-many-lengths",
    "routes-move-to-the-next-peer",
    "save-on-down",
    "save-on-request",
    "table-number",
)
WITH_EACH_FIREWALL = ("full-tunnel-both",)
CROSSED = ("full-tunnel-both", "save-on-down")
KILLED = ("killed-in-pre-up", "killed-in-post-up")


class Job(NamedTuple):
    """One trial: a case, the firewall, the tool for up and the tool for down."""

    case: Case
    firewall: str
    up: str
    down: str

    @property
    def how(self) -> tuple[str, str, str]:
        """The arguments of `trial` after the case."""
        return self.firewall, self.up, self.down

    @property
    def key(self) -> str:
        """The job's name in the results."""
        return "|".join((self.case.name, *self.how))


def compared() -> list[tuple[Case, str]]:
    """Each compared case with its firewalls: both if it has firewall rules, else only nft."""
    return [
        (parity_case(name), firewall)
        for name in COMPARED
        for firewall in (FIREWALLS if name in WITH_EACH_FIREWALL else FIREWALLS[:1])
    ]


def parity_case(name: str) -> Case:
    """A file of tests/parity/cases."""
    return Case.load(CASES / f"{name}.conf")


def killed_case(name: str) -> Case:
    """A file of this folder."""
    return Case.load(Path(__file__).with_name(f"{name}.conf"))


def wanted() -> list[Job]:
    """All trials of one boot."""
    tools = [(WG_QUICK, WG_QUICK), (IN_PROCESS, IN_PROCESS)]
    crossed = [(WG_QUICK, IN_PROCESS), (IN_PROCESS, WG_QUICK)]
    return [
        *(Job(case, firewall, *pair) for pair in tools for case, firewall in compared()),
        *(Job(parity_case(name), "nft", *pair) for pair in crossed for name in CROSSED),
        *(Job(killed_case(name), firewall, *tools[1]) for name in KILLED for firewall in FIREWALLS),
    ]
