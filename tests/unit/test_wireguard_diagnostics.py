"""Decoding of wgq-userspace's answer to `diagnostics=1`."""

from __future__ import annotations

import pytest

from wgquick.counters import Diagnostics, Event, Events
from wgquick.net import PublicKey, SocketAddress
from wgquick.system.wireguard import diagnostics

KEY, STRANGER = bytes(range(32)), bytes(range(32, 64))
ANSWER = f"""counting_ms=61000
event=unknown_key
count=3
age_ms=12500
static_key={STRANGER.hex()}
from=[fe80::1%4]:9
event=unknown_key
count=40
age_ms=20000
event=of_a_later_version
count=1
age_ms=1
colour=green
public_key={KEY.hex()}
counting_ms=60000
event=stale_timestamp
count=2
age_ms=0
from=192.0.2.1:5
clock_sec=-3
newest_sec=1700000000
event=send_error
count=7
age_ms=10
send_errno=1
to=192.0.2.2:51820
event=icmp
count=1
age_ms=5
icmp=too-big
router=192.0.2.254
to=192.0.2.2:51820
mtu=1400
event=source_not_allowed
count=1
age_ms=5
from=192.0.2.1:5
source=10.0.0.9
event=staged_dropped
count=128
age_ms=5
reason=overflow
errno=0

""".encode()


def test_an_answer_is_decoded() -> None:
    here, there = SocketAddress("192.0.2.1", 5), SocketAddress("192.0.2.2", 51820)
    found = diagnostics.decode(ANSWER)
    assert found == Diagnostics(
        Events(
            61.0,
            (
                Event("unknown_key", 3, 12.5, SocketAddress("fe80::1", 9, 4), static_key=PublicKey(STRANGER)),
                Event("unknown_key", 40, 20.0),
                Event("of_a_later_version", 1, 0.001),
            ),
        ),
        {
            PublicKey(KEY): Events(
                60.0,
                (
                    Event("stale_timestamp", 2, 0.0, here, clock=-3, newest=1700000000),
                    Event("send_error", 7, 0.01, receiver=there, send_errno=1),
                    Event("icmp", 1, 0.005, receiver=there, icmp="too-big", router="192.0.2.254", mtu=1400),
                    Event("source_not_allowed", 1, 0.005, here, source="10.0.0.9"),
                    Event("staged_dropped", 128, 0.005, reason="overflow"),
                ),
            )
        },
    )
    assert found.device.total("unknown_key", "of_a_later_version") == 44
    assert found.device.last("unknown_key") == found.device.events[0]
    assert found.peer(PublicKey(STRANGER)) == Events()


def test_a_device_without_events_has_none() -> None:
    assert diagnostics.decode(b"counting_ms=0\nerrno=0\n\n") == Diagnostics(Events(), {})


@pytest.mark.parametrize(
    "answer",
    [b"errno=0\n\n", b"counting_ms=x\n", b"\xff", b"counting_ms=0\nevent=x\n", b"counting_ms=0\npublic_key=00x\n"],
)
def test_an_invalid_answer_is_refused_without_its_text(answer: bytes) -> None:
    with pytest.raises(ValueError, match=r"^cannot parse the answer$"):
        diagnostics.decode(answer)
