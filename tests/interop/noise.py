"""One end of a WireGuard handshake and session in plain Python, for a test that has to know every key.

The whitepaper's section 5.4 says what is computed here. It is slow and takes no care of side channels.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
import time
from typing import NamedTuple

from tests.interop.forgery import DATA, INITIATION, LENGTHS, RESPONSE, mac1

KEY = 32
_TAG = 16
_P = 2**255 - 19
_TAI_BASE = (1 << 62) + 10
_MASK = 0xFFFFFFFF


def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret of RFC 7748, section 5."""
    scalar = int.from_bytes(private, "little") & ~7 & ~(128 << 248) | 64 << 248
    u = int.from_bytes(public, "little") % 2**255
    x2, z2, x3, z3, swapped = 1, 0, u, 1, 0
    for bit in reversed(range(255)):
        swap = scalar >> bit & 1
        if swap ^ swapped:
            x2, z2, x3, z3 = x3, z3, x2, z2
        swapped = swap
        plus, minus = (x2 + z2) ** 2 % _P, (x2 - z2) ** 2 % _P
        crossed, other = (x3 - z3) * (x2 + z2) % _P, (x3 + z3) * (x2 - z2) % _P
        difference = plus - minus
        x3, z3 = (crossed + other) ** 2 % _P, u * (crossed - other) ** 2 % _P
        x2, z2 = plus * minus % _P, difference * (plus + 121665 * difference) % _P
    if swapped:
        x2, z2 = x3, z3
    return (x2 * pow(z2, _P - 2, _P) % _P).to_bytes(KEY, "little")


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return x25519(private, (9).to_bytes(KEY, "little"))


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for first, second, third, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[first] = state[first] + state[second] & _MASK
        mixed = state[third] ^ state[first]
        state[third] = (mixed << turn | mixed >> 32 - turn) & _MASK


def _block(key: bytes, counter: int, nonce: bytes) -> bytes:
    """A block of ChaCha20 (RFC 8439, section 2.3)."""
    words = (*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), counter)
    start = [*words, *struct.unpack("<3I", nonce)]
    state = list(start)
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, column + 4, column + 8, column + 12)
        for column in range(4):
            _quarter(state, column, (column + 1) % 4 + 4, (column + 2) % 4 + 8, (column + 3) % 4 + 12)
    return struct.pack("<16I", *(now + then & _MASK for now, then in zip(state, start, strict=True)))


def _xor(key: bytes, nonce: bytes, text: bytes) -> bytes:
    stream = b"".join(_block(key, 1 + n, nonce) for n in range(-(-len(text) // 64)))
    return bytes(a ^ b for a, b in zip(text, stream, strict=False))


def _tag(key: bytes, nonce: bytes, sealed: bytes, data: bytes) -> bytes:
    """The tag of RFC 8439, section 2.8."""
    one_time = _block(key, 0, nonce)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    s = int.from_bytes(one_time[16:32], "little")
    padded = b"".join(part + bytes(-len(part) % 16) for part in (data, sealed))
    padded += struct.pack("<QQ", len(data), len(sealed))
    total = 0
    for at in range(0, len(padded), 16):
        total = (total + int.from_bytes(padded[at : at + 16] + b"\1", "little")) * r % (2**130 - 5)
    return (total + s & (1 << 128) - 1).to_bytes(_TAG, "little")


def seal(key: bytes, counter: int, text: bytes, data: bytes = b"") -> bytes:
    """ChaCha20-Poly1305 with a counter for the nonce."""
    nonce = struct.pack("<IQ", 0, counter)
    sealed = _xor(key, nonce, text)
    return sealed + _tag(key, nonce, sealed, data)


def unseal(key: bytes, counter: int, sealed: bytes, data: bytes = b"") -> bytes:
    """The reverse of `seal`; an AssertionError if the tag is wrong."""
    nonce, text, tag = struct.pack("<IQ", 0, counter), sealed[:-_TAG], sealed[-_TAG:]
    assert _tag(key, nonce, text, data) == tag, "not authentic"
    return _xor(key, nonce, text)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.blake2s).digest()


class _Chain:
    """Noise's symmetric state of `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`, for one responder."""

    def __init__(self, responder: bytes) -> None:
        self.key = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        self.hash = _hash(_hash(self.key, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), responder)
        self._cipher = b""

    def absorb(self, text: bytes) -> bytes:
        self.hash = _hash(self.hash, text)
        return text

    def derive(self, secret: bytes, count: int) -> list[bytes]:
        """As many keys as asked for; the first is the chain's new one."""
        prk, keys = _hmac(self.key, secret), [b""]
        for number in range(1, count + 1):
            keys.append(_hmac(prk, keys[-1] + bytes([number])))
        self.key = keys[1]
        return keys[1:]

    def mix(self, secret: bytes) -> None:
        _, self._cipher = self.derive(secret, 2)

    def mix_public(self, public: bytes) -> bytes:
        self.derive(public, 1)
        return self.absorb(public)

    def mix_preshared(self, preshared: bytes) -> None:
        _, tau, self._cipher = self.derive(preshared, 3)
        self.absorb(tau)

    def seal(self, text: bytes) -> bytes:
        return self.absorb(seal(self._cipher, 0, text, self.hash))

    def unseal(self, sealed: bytes) -> bytes:
        text = unseal(self._cipher, 0, sealed, self.hash)
        self.absorb(sealed)
        return text


class Session(NamedTuple):
    """The transport keys, as the one who holds this sends and receives; what they come from; the indexes."""

    send: bytes
    receive: bytes
    chaining: bytes
    ours: int
    theirs: int

    def data(self, counter: int, packet: bytes) -> bytes:
        """A data message."""
        padded = packet + bytes(-len(packet) % 16)
        return struct.pack("<IIQ", DATA, self.theirs, counter) + seal(self.send, counter, padded)

    def opened(self, message: bytes) -> bytes:
        """What a data message says."""
        return unseal(self.receive, struct.unpack_from("<Q", message, 8)[0], message[16:])


class Static(NamedTuple):
    """What one end knows before a handshake."""

    private: bytes
    other: bytes
    preshared: bytes

    @property
    def public(self) -> bytes:
        return public_of(self.private)

    def initiate(self, index: int) -> Initiated:
        """Begin a handshake."""
        chain, ephemeral = _Chain(self.other), os.urandom(KEY)
        now = time.time_ns()
        stamp = struct.pack(">QI", _TAI_BASE + now // 10**9, now % 10**9)
        body = struct.pack("<II", INITIATION, index) + chain.mix_public(public_of(ephemeral))
        chain.mix(x25519(ephemeral, self.other))
        body += chain.seal(self.public)
        chain.mix(x25519(self.private, self.other))
        body += chain.seal(stamp)
        return Initiated(self, chain, ephemeral, _signed(self.other, body))

    def respond(self, initiation: bytes, index: int) -> tuple[bytes, Session]:
        """Answer an initiation: the response, and the session."""
        assert len(initiation) == LENGTHS[INITIATION]
        chain, ephemeral = _Chain(self.public), os.urandom(KEY)
        theirs = chain.mix_public(initiation[8:40])
        chain.mix(x25519(self.private, theirs))
        assert chain.unseal(initiation[40:88]) == self.other
        chain.mix(x25519(self.private, self.other))
        chain.unseal(initiation[88:116])
        body = struct.pack("<II", RESPONSE, index) + initiation[4:8] + chain.mix_public(public_of(ephemeral))
        chain.mix(x25519(ephemeral, theirs))
        chain.mix(x25519(ephemeral, self.other))
        chain.mix_preshared(self.preshared)
        body += chain.seal(b"")
        chaining = chain.key
        receive, send = chain.derive(b"", 2)
        (theirs_index,) = struct.unpack_from("<I", initiation, 4)
        return _signed(self.other, body), Session(send, receive, chaining, index, theirs_index)


class Initiated(NamedTuple):
    """A handshake that waits for its response."""

    static: Static
    chain: _Chain
    ephemeral: bytes
    message: bytes

    def finish(self, response: bytes) -> Session:
        """Read the response."""
        assert len(response) == LENGTHS[RESPONSE]
        theirs = self.chain.mix_public(response[12:44])
        self.chain.mix(x25519(self.ephemeral, theirs))
        self.chain.mix(x25519(self.static.private, theirs))
        self.chain.mix_preshared(self.static.preshared)
        assert self.chain.unseal(response[44:60]) == b""
        chaining = self.chain.key
        send, receive = self.chain.derive(b"", 2)
        theirs_index, ours = struct.unpack_from("<II", response, 4)
        return Session(send, receive, chaining, ours, theirs_index)


def _signed(to: bytes, body: bytes) -> bytes:
    return body + mac1(base64.b64encode(to).decode(), body) + bytes(16)
