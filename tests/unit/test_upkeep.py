"""The decisions of a watch: what is lost, how often it is restored, which names are looked up."""

from __future__ import annotations

import json

import pytest

from wgquick.config.settings import LAN, Extras
from wgquick.device import SESSION_AGE, Device, DevicePeer
from wgquick.net import (
    Destination,
    Endpoint,
    FirewallRules,
    Guard,
    Link,
    LinkAddress,
    LinkRoute,
    Prefix,
    PublicKey,
    Rule,
    SocketAddress,
)
from wgquick.plan.applied import Applied
from wgquick.plan.current import Current, LinkDns
from wgquick.plan.lost import KINDS, CurrentExtras, lost
from wgquick.plan.steps import (
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    ReleaseSysctl,
    RemoveGuard,
    SetGuard,
    UnsetDns,
)
from wgquick.plan.up import SRC_VALID_MARK
from wgquick.upkeep.clocks import Clocks
from wgquick.upkeep.events import Event, json_line, text_line
from wgquick.upkeep.pace import BURST, MOST, PAUSE, WITHIN, Mtu, Pace, Pauses
from wgquick.upkeep.peers import STALE, Peers

KEY = PublicKey(bytes(range(32)))
ADDRESS, DEFAULT = Prefix.parse("10.0.0.1/24"), Prefix.parse("0.0.0.0/0")
RULE = Rule(4, 51820, 32765, fwmark=51820)
FIREWALL = FirewallRules("nft", 4, (ADDRESS.address,), 51820)
DNS = LinkDns("file", ("10.0.0.53",), ("example.org",), True)
UNDOS = (DeleteRule(RULE), ReleaseSysctl(SRC_VALID_MARK, "0"), UnsetDns("wg0", "file"))
APPLIED = Applied(
    {}, addresses=frozenset({ADDRESS}), routes=frozenset({(DEFAULT, 51820)}), dns=DNS, firewall=(FIREWALL,)
)
WHOLE = Current(
    "wg0",
    Link(4, "wg0", 1420, True, "wireguard"),
    Device("wg0"),
    (LinkAddress(ADDRESS),),
    (LinkRoute(DEFAULT, 51820, 3, 253, 1),),
    (RULE,),
    (FIREWALL,),
    DNS,
    "1",
)
OLD, NEW = SocketAddress("192.0.2.1", 51820), SocketAddress("192.0.2.2", 51820)
NAMES = {KEY: Endpoint("vpn.example.org", "51820")}
CLOCK = 1_000_000.0


def test_an_unchanged_tunnel_has_lost_nothing() -> None:
    assert lost(UNDOS, APPLIED, WHOLE) == ()


@pytest.mark.parametrize(
    ("now", "kind"),
    [
        (WHOLE._replace(addresses=()), "address"),
        (WHOLE._replace(routes=()), "route"),
        (WHOLE._replace(rules=()), "rule"),
        (WHOLE._replace(firewall=()), "firewall"),
        (WHOLE._replace(firewall=(FIREWALL._replace(whole=False),)), "firewall"),
        (WHOLE._replace(dns=LinkDns("file")), "dns"),
        (WHOLE._replace(dns=LinkDns("file", ("1.1.1.1",))), "dns"),
        (WHOLE._replace(src_valid_mark="0"), "sysctl"),
    ],
)
def test_each_kind_of_loss_is_found(now: Current, kind: str) -> None:
    assert [each.kind for each in lost(UNDOS, APPLIED, now)] == [kind]


def test_losses_are_in_the_order_of_restoring() -> None:
    bare = WHOLE._replace(addresses=(), routes=(), rules=(), firewall=(), dns=LinkDns("file"), src_valid_mark="0")
    assert tuple(each.kind for each in lost(UNDOS, APPLIED, bare)) == KINDS


@pytest.mark.parametrize(
    "now",
    [
        Current("wg0", rules=()),
        WHOLE._replace(link=WHOLE.link and WHOLE.link._replace(up=False), routes=()),
        WHOLE._replace(device=None, routes=()),
    ],
)
def test_a_tunnel_that_is_not_up_has_lost_nothing(now: Current) -> None:
    assert lost(UNDOS, APPLIED, now) == ()


def test_only_recorded_state_can_be_lost() -> None:
    bare = WHOLE._replace(addresses=(), routes=(), rules=(), firewall=(), dns=LinkDns("file"), src_valid_mark="0")
    assert lost((), Applied({}), bare) == ()
    assert [each.kind for each in lost(UNDOS, None, bare)] == ["rule", "sysctl"]


def test_a_rule_that_a_hook_moved_is_not_lost() -> None:
    assert lost(UNDOS, APPLIED, WHOLE._replace(rules=(RULE._replace(priority=100),))) == ()


def test_ipv6_is_not_restored_on_a_link_without_ipv6() -> None:
    more = APPLIED._replace(addresses=APPLIED.addresses | {Prefix.parse("fd00::1/64")})
    assert lost(UNDOS, more, WHOLE._replace(ipv6=False)) == ()
    assert [each.kind for each in lost(UNDOS, more, WHOLE)] == ["address"]


def test_after_a_burst_one_change_per_five_seconds_is_allowed() -> None:
    pace = Pace()
    for _ in range(BURST):
        assert pace.delay(100.0) == 0
        pace.spend(100.0)
    assert pace.delay(100.0) == pytest.approx(PAUSE)
    assert pace.delay(100.0 + PAUSE) == 0


def test_a_fight_is_given_up_but_rare_losses_are_not() -> None:
    fight, rare, now = Pace(), Pace(), 100.0
    for _ in range(MOST):
        assert fight.delay(now) == 0
        fight.spend(now)
        now += PAUSE
    assert fight.delay(now) is None
    for _ in range(5 * MOST):
        assert rare.delay(now) == 0
        rare.spend(now)
        now += WITHIN / MOST


def test_pauses_grow_to_five_minutes_with_jitter() -> None:
    pauses = Pauses()
    assert [pauses.next(0.0) for _ in range(6)] == [15, 30, 60, 120, 240, 300]
    assert pauses.next(1.0) == pytest.approx(360)
    pauses.reset()
    assert pauses.next(0.5) == pytest.approx(16.5)


def device(age: float | None, *, keepalive: int = 25, tx: int = 0, endpoint: SocketAddress | None = OLD) -> Device:
    handshake = 0.0 if age is None else CLOCK - age
    peer = DevicePeer(KEY, endpoint=endpoint, persistent_keepalive=keepalive, last_handshake=handshake, tx_bytes=tx)
    return Device("wg0", peers=(peer,))


def asks(peers: Peers, seen: Device, now: float) -> bool:
    list(peers.changes(seen, CLOCK, now))
    return bool(list(peers.questions(seen, NAMES, CLOCK, now)))


def test_a_stale_peer_with_keepalive_is_looked_up() -> None:
    assert asks(Peers(), device(STALE + 1), 100.0)
    assert not asks(Peers(), device(STALE - 1), 100.0)


def test_an_idle_peer_is_looked_up_once_something_is_sent() -> None:
    peers = Peers()
    assert not asks(peers, device(STALE + 1, keepalive=0), 100.0)
    assert not asks(peers, device(STALE + 1, keepalive=0), 110.0)
    assert asks(peers, device(STALE + 1, keepalive=0, tx=148), 120.0)


def test_a_new_peer_has_five_seconds_before_its_lookup() -> None:
    peers = Peers()
    assert not asks(peers, device(None), 100.0)
    assert asks(peers, device(None), 105.0)


def test_lookups_come_after_growing_pauses() -> None:
    peers = Peers(chance=lambda: 0.0)
    times = [now for now in range(100, 300) if asks(peers, device(STALE + 1), float(now))]
    assert times == [100, 115, 145, 205]


def test_a_peer_with_a_current_address_is_left_alone() -> None:
    peers = Peers()
    assert asks(peers, device(STALE + 1), 100.0)
    assert peers.choice(KEY, OLD, (NEW, OLD), 100.0) is None
    assert peers.choice(KEY, OLD, (), 100.0) is None
    assert peers.choice(KEY, OLD, (NEW,), 100.0) == NEW


def test_the_next_answer_is_tried_if_the_first_does_not_help() -> None:
    peers, other = Peers(), SocketAddress("2001:db8::1", 51820)
    assert asks(peers, device(STALE + 1), 100.0)
    assert peers.choice(KEY, OLD, (NEW, other), 100.0) == NEW
    silent = device(STALE + 1, endpoint=NEW)
    assert list(peers.second(silent, CLOCK, 104.0)) == []
    assert list(peers.second(silent, CLOCK, 105.0)) == [(KEY, other)]
    assert list(peers.second(silent, CLOCK, 111.0)) == []


def test_a_handshake_ends_the_lookups() -> None:
    peers = Peers()
    assert asks(peers, device(STALE + 1), 100.0)
    assert peers.choice(KEY, OLD, (NEW, OLD._replace(port=1)), 100.0) == NEW
    assert not asks(peers, device(0), 102.0)
    assert list(peers.second(device(0), CLOCK, 105.0)) == []


def test_a_peer_that_comes_up_or_goes_down_is_reported_once() -> None:
    peers = Peers()
    ages = [None, None, 1, SESSION_AGE - 1, SESSION_AGE + 1, SESSION_AGE + 2, 0]
    events = [[event for event, _ in peers.changes(device(age), CLOCK, 100.0 + at)] for at, age in enumerate(ages)]
    assert events == [[], [], ["peer-up"], [], ["peer-down"], [], ["peer-up"]]


@pytest.mark.parametrize(
    ("age", "least", "most"), [(0, 29, 30), (STALE - 3, 3, 4), (SESSION_AGE - 2, 2, 3), (900, 30, 30)]
)
def test_the_next_check_is_when_something_can_have_changed(age: float, least: float, most: float) -> None:
    peers, seen = Peers(), device(age, keepalive=0)
    list(peers.changes(seen, CLOCK, 100.0))
    assert least <= peers.next_look(seen, NAMES, CLOCK, 100.0) <= most


def test_a_silent_peer_with_keepalive_is_checked_more_often() -> None:
    peers, seen = Peers(), device(900)
    list(peers.changes(seen, CLOCK, 100.0))
    assert peers.next_look(seen, {}, CLOCK, 100.0) == 10


def test_the_mtu_shrinks_at_once_and_grows_after_ten_seconds() -> None:
    mtu = Mtu(1420)
    assert mtu.change(1420, 1420, 100.0) is None
    assert mtu.change(1320, 1420, 101.0) == 1320
    mtu.note(1320)
    assert [mtu.change(1420, 1320, 100.0 + at) for at in (2, 5, 11, 12)] == [None, None, None, 1420]


def test_a_changing_path_restarts_the_ten_seconds() -> None:
    mtu = Mtu(1320)
    assert mtu.change(1420, 1320, 100.0) is None
    assert mtu.change(1320, 1320, 105.0) is None
    assert mtu.change(1420, 1320, 111.0) is None
    assert mtu.change(1420, 1320, 121.0) == 1420


def test_an_mtu_set_by_another_program_is_left_alone() -> None:
    mtu = Mtu(1420)
    assert mtu.change(1320, 1300, 100.0) is None
    assert mtu.change(1420, 1300, 200.0) is None
    assert mtu.change(1320, 1420, 201.0) == 1320


def test_the_kill_switch_is_restored_from_the_journal() -> None:
    lan, end = Prefix.parse("192.168.0.0/16"), (Prefix.parse("192.0.2.1/32"), 51820)
    known = (Destination(SocketAddress("192.0.2.1", 51820), Endpoint("a.example", "51820")),)
    undos = (RemoveGuard("wg0", known), DeleteThrow(str(lan), 51820), ForgetInbound("wg0"))
    now = WHOLE._replace(device=Device("wg0", listen_port=4000, fwmark=51820))
    gone = CurrentExtras(frozenset(), guarded=False, inbound=False)
    found = lost(undos, APPLIED, now, gone)
    assert [each.text for each in found] == [
        "throw 192.168.0.0/16 table 51820",
        "the kill switch",
        "the rules of keep-inbound",
    ]
    guard = Guard(51820, 4000, (end,), (lan,), inbound=True)
    assert SetGuard("wg0", guard, known) in [each.step for each in found]
    assert lost(undos, APPLIED, now, CurrentExtras(frozenset({(lan, 51820)}))) == ()
    assert lost((), APPLIED, now, gone) == ()
    private, nested = Prefix.parse("10.0.0.0/8"), Prefix.parse("192.168.3.0/24")
    more = APPLIED._replace(extras=Extras(kill_switch=True, exclude=(LAN, nested, private)))
    wider = guard._replace(networks=(private, lan))
    assert SetGuard("wg0", wider, known) in [each.step for each in lost(undos, more, now, gone)]


def test_an_event_is_a_line_of_text_or_of_json() -> None:
    event = Event(1.0, "rule-restored", "wg0", "ip -4 rule", culprit="networkd")
    assert text_line(event) == "wg0: rule-restored: ip -4 rule (by networkd)\n"
    assert json.loads(json_line(event)) == {
        "time": 1.0,
        "event": "rule-restored",
        "interface": "wg0",
        "text": "ip -4 rule",
        "culprit": "networkd",
    }


class _Time:
    """Clocks that a test sets: the system's clock, and the seconds of sleep."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.awake, self.asleep, self.shift = 1000.0, 0.0, CLOCK
        monkeypatch.setattr("time.monotonic", lambda: self.awake)
        monkeypatch.setattr("time.clock_gettime", lambda _: self.awake + self.asleep)
        monkeypatch.setattr("time.time", lambda: self.awake + self.asleep + self.shift)


def test_sleep_and_a_set_clock_are_distinguished(monkeypatch: pytest.MonkeyPatch) -> None:
    time = _Time(monkeypatch)
    clocks = Clocks()
    assert clocks.jumped() is None
    for _ in range(100):  # slewed
        time.awake, time.shift = time.awake + 1, time.shift + 0.0005
        assert clocks.jumped() is None
    time.asleep += 3600
    assert (clocks.jumped(), clocks.jumped()) == (True, None)
    before = clocks.time()
    time.shift -= 86400
    assert (clocks.jumped(), clocks.jumped()) == (False, None)
    assert clocks.time() == before
    assert clocks.ahead() == pytest.approx(-86400 + 0.05)


def test_a_clock_that_is_set_takes_no_peer_down() -> None:
    peers = Peers(chance=lambda: 0.0)
    assert list(peers.changes(device(1.0), CLOCK, 0.0)) == []
    assert list(peers.changes(device(1.0), CLOCK + 10, 10.0, 1e9)) == []
    assert list(peers.questions(device(1.0), NAMES, CLOCK + 10, 10.0)) == []
    later = device(-20.0 - 1e9)  # a handshake by the new clock
    assert list(peers.changes(later, CLOCK + 21, 21.0, 1e9)) == []
    found = peers.changes(later, CLOCK + 20 + SESSION_AGE, 20 + SESSION_AGE, 1e9)
    assert [event for event, _ in found] == ["peer-down"]


def test_after_sleep_names_are_looked_up_at_once() -> None:
    peers = Peers(chance=lambda: 0.0)
    stale = device(STALE + 1)
    list(peers.changes(stale, CLOCK, 0.0))
    assert len(list(peers.questions(stale, NAMES, CLOCK, 1.0))) == 1
    assert list(peers.questions(stale, NAMES, CLOCK, 2.0)) == []
    peers.check_by(3.0)
    assert len(list(peers.questions(stale, NAMES, CLOCK, 3.0))) == 1
    assert peers.wanted(stale) == [KEY]
    assert peers.wanted(device(STALE + 1, keepalive=0)) == []
