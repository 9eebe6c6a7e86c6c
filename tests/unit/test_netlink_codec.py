"""The bytes of netlink messages in both directions, truncated answers, and extended errors."""

from __future__ import annotations

import errno
import struct

import pytest

from wgquick.system.netlink import codec


def answer(code: int, flags: int, rest: bytes) -> codec.Message:
    return codec.Message(codec.NLMSG_ERROR, flags, 1, struct.pack("=i", -code) + rest)


def test_attributes_are_padded_and_read_back() -> None:
    data = codec.attribute(3, b"abcde") + codec.attribute_u32(7, 0x01020304) + codec.attribute_text(9, "wg0")
    assert len(data) % 4 == 0
    found = codec.attributes(data)
    assert found[3] == b"abcde"
    assert codec.number(found[7]) == 0x01020304
    assert codec.text(found[9]) == "wg0"


def test_the_nested_flag_is_not_part_of_a_type() -> None:
    assert codec.attributes(codec.attribute(5 | codec.NLA_F_NESTED, b"")) == {5: b""}


def test_messages_of_one_datagram_come_in_order() -> None:
    data = b"".join(codec.message(16 + n, 0, bytes(n), sequence=n) for n in range(5))
    padded = b""
    for n in range(5):
        one = codec.message(16 + n, 0, bytes(n), sequence=n)
        padded += one + bytes(-len(one) % 4)
    assert [(m.kind, m.sequence, len(m.body)) for m in codec.messages(padded)] == [(16 + n, n, n) for n in range(5)]
    assert len(data) < len(padded)


@pytest.mark.parametrize("length", [0, 15, 64])
def test_a_message_with_an_impossible_length_is_refused(length: int) -> None:
    data = struct.pack("=IHHII", length, 16, 0, 1, 0)
    with pytest.raises(ValueError, match="netlink message"):
        list(codec.messages(data))


@pytest.mark.parametrize("length", [0, 3, 9])
def test_an_attribute_with_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="netlink attribute"):
        codec.attributes(struct.pack("=HHI", length, 1, 0))


def test_numbering_changes_only_the_sequence() -> None:
    request = codec.message(24, codec.NLM_F_CREATE, b"body")
    (found,) = codec.messages(codec.numbered(request, 77))
    assert found == codec.Message(24, codec.NLM_F_CREATE | codec.NLM_F_REQUEST, 77, b"body")


def test_an_error_has_the_kernels_explanation() -> None:
    quoted = struct.pack("=IHHII", 44, 24, 0, 1, 0)
    text = codec.attribute_text(1, "Invalid prefix for given prefix length.")
    capped = answer(errno.EINVAL, codec.NLM_F_CAPPED | codec.NLM_F_ACK_TLVS, quoted + text)
    whole = answer(errno.EINVAL, codec.NLM_F_ACK_TLVS, quoted + bytes(28) + text)
    for refusal in (capped, whole):
        assert codec.errno_of(refusal) == errno.EINVAL
        assert codec.explanation(refusal) == "Invalid prefix for given prefix length."


def test_an_error_of_an_old_kernel_has_no_explanation() -> None:
    refusal = answer(errno.EEXIST, 0, struct.pack("=IHHII", 44, 24, 0, 1, 0) + bytes(28))
    assert codec.explanation(refusal) == ""


def test_an_acknowledgement_has_no_errno() -> None:
    assert codec.errno_of(answer(0, 0, bytes(16))) == 0
    assert codec.errno_of(codec.Message(codec.NLMSG_DONE, 0, 1, b"")) == 0
