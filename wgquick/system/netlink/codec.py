"""Encodes and decodes netlink headers and attributes (netlink(7), linux/netlink.h); no I/O.

Numbers are in host byte order; every part is padded to four bytes.
"""

from __future__ import annotations

from struct import Struct

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_DUMP = 0x300  # NLM_F_ROOT | NLM_F_MATCH
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100  # in an answer: it quotes only the header of the refused request
NLM_F_ACK_TLVS = 0x200  # in an answer: it has attributes with an explanation

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF
_NLMSGERR_ATTR_MSG = 1

HEADER = Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
ATTRIBUTE = Struct("=HH")  # struct nlattr: length, type
U16 = Struct("=H")
U32 = Struct("=I")
S32 = Struct("=i")


class Message(NamedTuple):
    """A received message; `body` follows the header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


def attribute(kind: int, payload: bytes) -> bytes:
    """One attribute with its padding."""
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, kind) + payload + bytes(-length % 4)


def attribute_u32(kind: int, value: int) -> bytes:
    """An attribute with a 32-bit number."""
    return ATTRIBUTE.pack(8, kind) + U32.pack(value)


def attribute_text(kind: int, text: str) -> bytes:
    """An attribute with a name that ends with a zero byte."""
    return attribute(kind, text.encode() + b"\0")


def message(kind: int, flags: int, body: bytes, sequence: int = 0) -> bytes:
    """A message with its header."""
    return HEADER.pack(HEADER.size + len(body), kind, flags | NLM_F_REQUEST, sequence, 0) + body


def numbered(request: bytes, sequence: int) -> bytes:
    """The same request with another sequence number."""
    return request[:8] + U32.pack(sequence) + request[12:]


def messages(data: bytes) -> Iterator[Message]:
    """The messages of a datagram, in order."""
    offset, end = 0, len(data)
    unpack, size, new = HEADER.unpack_from, HEADER.size, tuple.__new__
    while offset + size <= end:
        length, kind, flags, sequence, _ = unpack(data, offset)
        if not size <= length <= end - offset:
            raise ValueError(f"a netlink message of {length} bytes in {end - offset}")
        yield new(Message, (kind, flags, sequence, data[offset + size : offset + length]))
        offset += length + 3 & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes from an offset on, by type; of a repeated type the last."""
    return dict(each_attribute(data, offset))


def each_attribute(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes from an offset on, in order."""
    end = len(data)
    unpack = ATTRIBUTE.unpack_from
    while offset + 4 <= end:
        length, kind = unpack(data, offset)
        if not 4 <= length <= end - offset:
            raise ValueError(f"a netlink attribute of {length} bytes in {end - offset}")
        yield kind & _NLA_TYPE_MASK, data[offset + 4 : offset + length]
        offset += length + 3 & ~3


def text(payload: bytes) -> str:
    """A name without its final zero byte."""
    return payload.partition(b"\0")[0].decode(errors="surrogateescape")


def number(payload: bytes) -> int:
    """A number; the length of the payload is its size."""
    return int.from_bytes(payload, "little" if _LITTLE else "big")


_LITTLE = U16.pack(1) == b"\1\0"


def errno_of(answer: Message) -> int:
    """The errno of an NLMSG_ERROR or NLMSG_DONE; 0 for success."""
    if len(answer.body) < S32.size:
        return 0
    (code,) = S32.unpack_from(answer.body)
    return max(0, -int(code))


def explanation(answer: Message) -> str:
    """The kernel's message for a refusal (NETLINK_EXT_ACK); "" if there is none."""
    if not answer.flags & NLM_F_ACK_TLVS:
        return ""
    offset = S32.size
    if answer.kind == NLMSG_ERROR:
        (quoted,) = U32.unpack_from(answer.body, offset)
        offset += HEADER.size if answer.flags & NLM_F_CAPPED else quoted + 3 & ~3
    return text(attributes(answer.body, offset).get(_NLMSGERR_ATTR_MSG, b""))
