"""Any packet is understood or ignored, and the counter keeps few rows."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.keys import secret
from wgquick.datagram import ADMITTED, ARRIVED, SENT, Datagram, IcmpError, kind_of
from wgquick.device import Device
from wgquick.diagnosis.senders import SenderCounter
from wgquick.diagnosis.signatures import signs
from wgquick.net import SocketAddress
from wgquick.system.capture import understood

PORT = 51820
LOCAL = frozenset({"192.0.2.1", "2001:db8::1"})
HERE, THERE = bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2])
bounded = settings(max_examples=300, deadline=None)


def ip4(protocol: int, payload: bytes, *, out: bool = False) -> bytes:
    addresses = HERE + THERE if out else THERE + HERE
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0) + addresses + payload


def udp(payload: bytes, *, out: bool = False) -> bytes:
    ports = (PORT, 4000) if out else (4000, PORT)
    return struct.pack("!HHHH", *ports, 8 + len(payload), 0) + payload


messages = st.builds(
    lambda kind, rest: struct.pack("<I", kind) + rest,
    st.integers(0, 5),
    st.binary(max_size=60)
    | st.sampled_from((28, 60, 88, 144)).flatmap(lambda n: st.binary(min_size=n, max_size=n)),
)
datagrams = st.builds(lambda message, out: ip4(17, udp(message, out=out), out=out), messages, st.booleans())
errors = st.builds(
    lambda kind, code, rest, quoted: ip4(1, bytes((kind, code)) + rest + ip4(17, udp(quoted, out=True), out=True)),
    st.sampled_from((3, 11, 8)),
    st.integers(0, 15),
    st.binary(min_size=6, max_size=6),
    st.binary(max_size=8),
)
packets = st.binary(max_size=200) | datagrams | errors


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A packet that is truncated or has changed bytes."""
    packet = bytearray(draw(packets))
    for at in draw(st.lists(st.integers(0, max(0, len(packet) - 1)), max_size=3)):
        if packet:
            packet[at] = draw(st.integers(0, 255))
    return bytes(packet[: draw(st.integers(0, len(packet)))]) if draw(st.booleans()) else bytes(packet)


@bounded
@given(packet=damaged(), out=st.booleans())
def test_any_packet_is_understood_or_ignored(packet: bytes, out: bool) -> None:
    found = understood(1.0, packet, "eth0", PORT, LOCAL, out=out)
    if isinstance(found, Datagram):
        ours = found.source if found.stage == SENT else found.destination
        assert ours.port == PORT
        assert ours.address in LOCAL
        assert len(found.payload) <= 148
        assert found.stage == (SENT if out else ARRIVED)
    elif isinstance(found, IcmpError):
        assert not out


@bounded
@given(data=st.data())
def test_any_captured_message_is_counted_and_judged(data: st.DataObject) -> None:
    key = secret()
    counter, device = SenderCounter(key), Device("wg0", key, PORT)
    stages = st.sampled_from((ARRIVED, ADMITTED, SENT))
    count = 0
    for payload, stage in data.draw(st.lists(st.tuples(messages, stages), max_size=30)):
        source, destination = SocketAddress("192.0.2.2", 4000), SocketAddress("192.0.2.1", PORT)
        counter.take(Datagram(1.0, stage, "eth0", source, destination, len(payload), payload[:148]))
        count += stage != SENT and kind_of(payload, len(payload)) != ""
    heard = counter.result(PORT, 1.0)
    assert sum(sender.times for sender in heard.senders) <= count
    assert all(sender.admitted <= sender.times and sender.answered <= sender.times for sender in heard.senders)
    signs(device, device, heard)
