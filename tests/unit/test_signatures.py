"""The conclusions from two readings and a capture, for cases that take long on a real tunnel."""

from __future__ import annotations

import time

from tests.keys import public
from wgquick.device import Device, DevicePeer
from wgquick.diagnosis.finding import CERTAIN, LIKELY, POSSIBLE
from wgquick.diagnosis.senders import KNOWN, UNKNOWN_KEY, WRONG_KEY, CaptureSummary, IcmpErrors, Sender, Sent
from wgquick.diagnosis.signatures import Sign, signs
from wgquick.net import SocketAddress

NOW = 1_800_000_000.0
END = SocketAddress("192.0.2.2", 51820)
PEER = DevicePeer(public(), endpoint=END)


def device(*peers: DevicePeer) -> Device:
    return Device("wg0", listen_port=51820, peers=peers or (PEER,))


def heard(
    *senders: Sender, sent: tuple[Sent, ...] = (), icmp_errors: tuple[IcmpErrors, ...] = ()
) -> CaptureSummary:
    return CaptureSummary(51820, 5.0, NOW, senders, sent, icmp_errors)


def sender(kind: str = "initiation", **values: object) -> Sender:
    given = {"times": 1, "admitted": 1, "first": NOW - 4, "last": NOW - 4, **values}
    return Sender(kind, END, "eth0")._replace(**given)  # type: ignore[arg-type]


def sent(kind: str, times: int = 1) -> Sent:
    return Sent(kind, END, "eth0", times, NOW - 4, NOW - 4)


def found(
    *senders: Sender, before: DevicePeer = PEER, after: DevicePeer = PEER, sent: tuple[Sent, ...] = ()
) -> list[Sign]:
    return signs(device(before), device(after), heard(*senders, sent=sent))


def codes(found: list[Sign]) -> list[tuple[str, str]]:
    return [(sign.code, sign.confidence) for sign in found]


def test_clocks_that_all_differ_alike_mean_a_wrong_clock_here() -> None:
    strangers = [
        sender(verdict=UNKNOWN_KEY, key=public(), clock=NOW - 4 + 9e6)._replace(
            source=SocketAddress(f"198.51.100.{number}", 1)
        )
        for number in range(3)
    ]
    wrong = [sign for sign in found(*strangers, sent=(sent("data"),)) if sign.code == "clock-wrong"]
    assert [(sign.key, sign.confidence, sign.seconds) for sign in wrong] == [(None, LIKELY, 9e6)]
    (one,) = [sign for sign in found(strangers[0]) if sign.code == "clock-wrong"]
    assert (one.key, one.confidence) == (strangers[0].key, POSSIBLE)


def test_a_clock_behind_the_last_handshake_is_likely_stale() -> None:
    connected = PEER._replace(last_handshake=NOW - 600)
    late = sender(verdict=KNOWN, key=PEER.public_key, clock=NOW - 1800)
    assert codes(found(late, before=connected, after=connected)) == [("knock-stale-clock", LIKELY)]
    right = late._replace(clock=NOW - 4)
    assert codes(found(right, before=connected, after=connected)) == [("knock-ignored", POSSIBLE)]


def test_an_initiation_of_the_last_moment_gives_no_sign() -> None:
    assert found(sender(verdict=KNOWN, key=PEER.public_key, clock=NOW, first=NOW - 0.2, last=NOW - 0.2)) == []
    assert found(sender("response", solicited=1, first=NOW - 0.2), sent=(sent("initiation"),)) == []


def test_a_completed_handshake_cancels_earlier_signs() -> None:
    connected = PEER._replace(last_handshake=NOW - 1)
    for each in (
        sender(verdict=KNOWN, key=PEER.public_key, clock=NOW, admitted=0),
        sender(verdict=KNOWN, key=PEER.public_key, clock=NOW, answered=2),
        sender("response", solicited=1),
    ):
        assert found(each, after=connected) == []


def test_one_initiation_for_another_key_is_only_possible() -> None:
    stray = sender(verdict=WRONG_KEY)._replace(source=SocketAddress("198.51.100.9", 9))
    assert ("knock-wrong-key", POSSIBLE) in codes(found(stray))
    assert ("knock-wrong-key", LIKELY) in codes(found(stray._replace(times=2)))
    assert ("knock-wrong-key", LIKELY) in codes(found(sender(verdict=WRONG_KEY)))
    assert ("knock-wrong-key", CERTAIN) in codes(found(stray._replace(addressed_to=public())))


def test_cookies_alone_mean_a_busy_peer() -> None:
    assert codes(found(sender("cookie"), sent=(sent("initiation"),))) == [("peer-busy", POSSIBLE)]


def test_a_too_big_error_gives_the_mtu_of_the_path() -> None:
    complaint = IcmpErrors("too-big", END, "192.0.2.254", "eth0", 3, 1400)
    (sign,) = signs(device(), device(PEER._replace(last_handshake=NOW - 1)), heard(icmp_errors=(complaint,)))
    assert (sign.code, sign.mtu, sign.sender, sign.peer) == ("mtu-too-large", 1400, "192.0.2.254", PEER.public_key)


def test_received_data_is_no_sign_of_missing_data() -> None:
    connected = PEER._replace(last_handshake=NOW - 60)
    kept = sender("keepalive", times=2)
    assert codes(found(kept, before=connected, after=connected._replace(rx_bytes=64), sent=(sent("data", 9),))) == [
        ("no-data-back", LIKELY)
    ]
    assert found(kept, before=connected, after=connected._replace(rx_bytes=65), sent=(sent("data", 9),)) == []
    assert found(kept, sender("data"), before=connected, after=connected, sent=(sent("data", 9),)) == []
    assert found(kept, before=connected, after=connected, sent=(sent("keepalive", 9),)) == []


def test_ten_thousand_peers_are_judged_in_a_second() -> None:
    ends = [SocketAddress(f"10.{number >> 8}.{number & 255}.1", 51820) for number in range(10_000)]
    peers = [DevicePeer(public(), endpoint=end) for end in ends]
    came = [
        sender(verdict=KNOWN, key=peer.public_key, clock=NOW, answered=2)._replace(source=end)
        for end, peer in zip(ends[:1000], peers, strict=False)
    ]
    begin = time.process_time()
    result = signs(device(*peers), device(*peers), heard(*came))
    assert time.process_time() - begin < 1
    assert [sign.code for sign in result].count("answer-lost") == 1000
