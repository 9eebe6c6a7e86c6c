"""nfnetlink: messages to the nf_tables subsystem, and transactions (linux/netfilter/nfnetlink.h)."""

from __future__ import annotations

from _socket import SOL_SOCKET
from struct import Struct, pack

from wgquick.lean import TYPE_CHECKING
from wgquick.system.netlink import codec
from wgquick.system.netlink.connection import Connection, Refusal, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

NFPROTO_UNSPEC, NFPROTO_IPV4, NFPROTO_IPV6 = 0, 2, 10
NLM_F_APPEND = 0x800

_SO_SNDBUFFORCE = 32
_NETLINK_NETFILTER = 12
_NFNL_SUBSYS_NFTABLES = 10
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 16, 17
_NFGENMSG = Struct(">BBH")  # family, version, resource


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute with nested attributes."""
    return codec.attribute(kind | codec.NLA_F_NESTED, b"".join(attributes))


def number(kind: int, value: int) -> bytes:
    """A 32-bit number in network byte order, as in all of netfilter."""
    return codec.attribute(kind, pack(">I", value))


def message(kind: int, protocol: int, attributes: bytes = b"", flags: int = 0) -> bytes:
    """An nf_tables request: NFT_MSG_* kind and NFPROTO_* protocol."""
    body = _NFGENMSG.pack(protocol, 0, 0) + attributes
    return codec.message(_NFNL_SUBSYS_NFTABLES << 8 | kind, flags, body)


def protocol_of(answer: codec.Message) -> int:
    """The NFPROTO_* of an answer."""
    return answer.body[0]


def attributes_of(answer: codec.Message) -> dict[int, bytes]:
    """The attributes of an answer."""
    return codec.attributes(answer.body, _NFGENMSG.size)


class Nfnetlink(Connection):
    """A netlink socket to netfilter, in the network namespace of the thread that opens it."""

    def __init__(self) -> None:
        super().__init__(_NETLINK_NETFILTER)

    def transaction(self, requests: Sequence[bytes], what: str) -> None:
        """Send the requests as one batch: all take effect, or none and RefusedError with the first reason.

        Only the last request asks for an acknowledgement; kernels before 6.10 do not acknowledge a batch's end.
        """
        first, last = self._next(), self._sequence + len(requests)
        self._sequence = last + 1
        parts = [_edge(_NFNL_MSG_BATCH_BEGIN, first)]
        parts += [codec.numbered(request, first + at) for at, request in enumerate(requests, 1)]
        parts[-1] = _acknowledged(parts[-1])
        batch = b"".join([*parts, _edge(_NFNL_MSG_BATCH_END, last + 1)])
        self._try_option(SOL_SOCKET, _SO_SNDBUFFORCE, len(batch))  # a batch has to be sent at once
        self._socket.send(batch)
        for answer in self._answers(first):
            if code := codec.errno_of(answer):
                raise RefusedError(Refusal(code, codec.explanation(answer)), what)
            if answer.sequence == last:
                return


def _edge(kind: int, sequence: int) -> bytes:
    return codec.message(kind, 0, _NFGENMSG.pack(NFPROTO_UNSPEC, 0, _NFNL_SUBSYS_NFTABLES), sequence)


def _acknowledged(request: bytes) -> bytes:
    (flags,) = codec.U16.unpack_from(request, 6)
    return request[:6] + codec.U16.pack(flags | codec.NLM_F_ACK) + request[8:]
