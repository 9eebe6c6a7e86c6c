"""After a reload the machine is as after `up` of the new file, whatever was up before."""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, Phase, event, example, given, settings
from hypothesis import strategies as st

from tests.namespaces import host
from tests.parity import state as parity
from tests.property.settling import settle

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

pytestmark = pytest.mark.machine

KEYS = (
    "YAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
    "AAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=",
)
PEERS = (
    "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
    "TrMvSoP4jYQlY6RIzBgbssQqY3vxI2Pi+y71lOWWXX0=",
    "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw=",
)
NETWORKS = (
    "0.0.0.0/0",
    "::/0",
    "10.9.0.0/16",
    "10.9.1.0/24",
    "10.0.0.0/24",
    "10.1.0.0/16",
    "10.9.1.7/32",
    "fd00::/64",
    "fd01::/48",
    "fd00:9::7/128",
)
ADDRESSES = ("10.0.0.1/24", "10.0.0.2/24", "10.1.0.1/16", "10.2.0.1/32", "fd00::1/64", "fd00::2/64", "fd01::1/128")


EXCLUDED = ("198.51.100.0/24", "lan, fd77::/64", "198.51.0.0/16, lan")


def optional(*values: str) -> st.SearchStrategy[str]:
    return st.sampled_from(("", *values))


@st.composite
def peers(draw: st.DrawFn) -> str:
    """[Peer] sections; each peer has its own endpoint, because a device cannot forget one."""
    chosen = draw(st.lists(st.sampled_from(PEERS), unique=True, max_size=3))
    free = list(draw(st.permutations(NETWORKS)))
    lines: list[str] = []
    for key in chosen:
        count = draw(st.integers(0, 4))
        networks, free = free[:count], free[count:]
        lines += [
            "[Peer]",
            f"PublicKey = {key}",
            f"Endpoint = 192.0.2.{9 + PEERS.index(key)}:{draw(st.integers(1, 2))}",
        ]
        if networks:
            lines.append(f"AllowedIPs = {', '.join(networks)}")
        lines.append(draw(optional("PersistentKeepalive = 25", "PersistentKeepalive = 7")))
        lines.append(draw(optional(*(f"PresharedKey = {psk}" for psk in KEYS))))
    return "\n".join(lines)


@st.composite
def files(draw: st.DrawFn) -> str:
    addresses = draw(st.lists(st.sampled_from(ADDRESSES), unique=True, max_size=4))
    lines = [
        "[Interface]",
        f"PrivateKey = {draw(st.sampled_from(KEYS))}",
        f"ListenPort = {draw(st.sampled_from((40001, 40002)))}",
        # A mark stays on the device if the file has none, so both files have one, or neither has.
        f"Address = {', '.join(addresses)}" if addresses else "",
        draw(optional("MTU = 1200", "MTU = 1300", "MTU = 1420", "MTU = 9000")),
        draw(optional("Table = off", "Table = 1234", "Table = auto")),
        draw(optional("DNS = 10.0.0.53", "DNS = 10.0.0.53, corp.example", "DNS = fd00::53, 10.0.0.54")),
        draw(optional("# wgq: kill-switch = on")),
        draw(optional(*(f"# wgq: exclude = {each}" for each in EXCLUDED))),
        draw(optional("# wgq: keep-inbound = on")),
    ]
    return "\n".join([*lines, draw(peers())])


MARKS = st.sampled_from(
    (("", ""), ("", ""), ("FwMark = 7", "FwMark = 8"), ("FwMark = 7", "FwMark = 7"), ("", "FwMark = 9"))
)


# The first new address would be a secondary one of an address that goes, and so come last.
WITH_TWO_ADDRESSES = f"""[Interface]
PrivateKey = {KEYS[0]}
ListenPort = 40001
Address = 10.0.0.2/24, 10.1.0.1/16, fe80::5/64
[Peer]
PublicKey = {PEERS[0]}
Endpoint = 192.0.2.9:1
AllowedIPs = ::/0, 10.9.0.0/16
"""
WITH_A_NEIGHBOUR_FIRST = WITH_TWO_ADDRESSES.replace(
    "10.0.0.2/24, 10.1.0.1/16, fe80::5", "10.0.0.1/24, 10.2.0.1/32, fe80::6"
)

# Too small for IPv6: with the next MTU the kernel draws an address, which is in the rules of a full tunnel.
SMALL = (
    WITH_TWO_ADDRESSES.replace(", fe80::5/64", "")
    .replace("::/0", "0.0.0.0/0")
    .replace("[Peer]", "MTU = 1200\n[Peer]")
)
# Another mark and port under a kill switch, and other excluded networks in another table.
GUARDED = WITH_TWO_ADDRESSES.replace("::/0", "::/0, 0.0.0.0/0").replace(
    "[Peer]", "# wgq: kill-switch = on\n# wgq: exclude = 198.51.0.0/16, lan\n# wgq: keep-inbound = on\n[Peer]"
)
GUARDED_ELSEWHERE = GUARDED.replace("40001", "40002").replace("198.51.0.0/16, lan", "lan, 198.51.100.0/24")


@pytest.fixture(scope="module")
def twins() -> Iterator[tuple[Namespace, Namespace]]:
    with host() as one, host() as other:
        for machine in (one, other):
            machine.run(["sysctl", "-q", "net.ipv6.conf.default.accept_dad=0", "net.ipv6.conf.all.accept_dad=0"])
            machine.uplink(ipv6=True)
            machine.run(["sysctl", "-q", "net.ipv4.conf.all.src_valid_mark=0"])
        yield one, other


ENVIRONMENT = {"WGQ_DNS": "file", "WGQ_FIREWALL": "nft"}


def wgq(machine: Namespace, *arguments: str, **options: Any) -> tuple[int, str]:
    environment = {**os.environ, **ENVIRONMENT}
    done = machine.run([sys.executable, "-m", "wgquick", *arguments], check=False, env=environment, **options)
    assert not any(key in done.stderr + done.stdout for key in KEYS)
    return done.returncode, done.stderr + done.stdout


def write(machine: Namespace, text: str) -> None:
    machine.run(["sh", "-c", "umask 077; cat > /etc/wireguard/wg0.conf"], input=text)


def state(machine: Namespace) -> parity.State:
    """The state without what depends only on the order of additions: IPv6 addresses sorted, rules by order."""
    settle(machine)
    found = parity.read(machine.run(["bash", "-c", parity.SCRIPT, "bash", "wg0", "/etc/wireguard/wg0.conf"]).stdout)
    for section in ("rules4", "rules6"):
        found[section] = [re.sub(r'"?priority"?[=:] ?"?\d+"?', "priority", line) for line in found[section]]
    found["addresses"] = _addresses(found["addresses"])
    found["resolv.conf"] = [line for line in found["resolv.conf"] if not line.startswith("# wgq: has")]
    return found


def _addresses(lines: list[str]) -> list[str]:
    """Sorted, without attributes that vary: the order of most addresses does not matter."""
    return sorted(re.sub(r' ?"?(cacheinfo|protocol)"?=\S+', "", line) for line in lines)


def compared(wanted: parity.State, found: parity.State) -> list[str]:
    from tests.parity.comparison import states

    return states(wanted, found)


@settings(
    max_examples=int(os.environ.get("WGQ_TEST_PAIRS", "10")),
    deadline=None,
    phases=(Phase.explicit, Phase.generate),  # without shrinking, as each example takes a second
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@example(first=WITH_TWO_ADDRESSES, second=WITH_A_NEIGHBOUR_FIRST, marks=("", ""))
@example(first=SMALL, second=WITH_TWO_ADDRESSES, marks=("", ""))
@example(first=GUARDED, second=GUARDED_ELSEWHERE, marks=("FwMark = 7", "FwMark = 8"))
@example(first=WITH_TWO_ADDRESSES, second=GUARDED, marks=("", ""))
@example(first=GUARDED, second=WITH_TWO_ADDRESSES, marks=("", ""))
@given(first=files(), second=files(), marks=MARKS)
def test_the_state_after_a_reload_equals_that_after_up(
    twins: tuple[Namespace, Namespace], first: str, second: str, marks: tuple[str, str]
) -> None:
    reloaded, fresh = twins
    first, second = (
        text.replace("[Interface]", f"[Interface]\n{mark}")
        for text, mark in zip((first, second), marks, strict=True)
    )
    try:
        write(reloaded, first)
        if wgq(reloaded, "up", "wg0")[0]:
            event("the first file does not come up")
            return
        write(fresh, second)
        status, _ = wgq(fresh, "up", "wg0")
        write(reloaded, second)
        before = state(reloaded)
        got, output = wgq(reloaded, "reload", "wg0")
        event("refused" if status else {0: "reloaded", 3: "needs a restart"}.get(got, "failed"))
        if status:
            assert got == 1, output
            assert compared(before, state(reloaded)) == []
            return
        if got == 3:
            assert "order of the IPv" in output
            assert compared(before, state(reloaded)) == []
            return
        assert got == 0, output
        assert compared(state(fresh), state(reloaded)) == [], output
        assert wgq(reloaded, "reload", "wg0") == (0, ""), "a second reload has nothing to do"
    finally:
        pristine = []
        for machine in twins:
            wgq(machine, "down", "wg0")
            pristine.append(state(machine))
    assert compared(*pristine) == []
    assert not any("wg0" in line for section, lines in pristine[0].items() if section != "file" for line in lines)
