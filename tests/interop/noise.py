"""One end of a WireGuard handshake and session in Python, for tests that need every key.

See the whitepaper, section 5.4.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
import time
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.interop.forgery import DATA, INITIATION, LENGTHS, RESPONSE, mac1

KEY = 32
_TAI_BASE = (1 << 62) + 10


def x25519(private: bytes, public: bytes) -> bytes:
    """The shared secret of RFC 7748, section 5."""
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public_of(private: bytes) -> bytes:
    """The public key of a private one."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def seal(key: bytes, counter: int, text: bytes, data: bytes = b"") -> bytes:
    """ChaCha20-Poly1305 with the counter as nonce."""
    return ChaCha20Poly1305(key).encrypt(struct.pack("<IQ", 0, counter), text, data)


def unseal(key: bytes, counter: int, sealed: bytes, data: bytes = b"") -> bytes:
    """The reverse of `seal`. Raises InvalidTag if the message is not authentic."""
    return ChaCha20Poly1305(key).decrypt(struct.pack("<IQ", 0, counter), sealed, data)


def _hash(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.blake2s).digest()


class _Chain:
    """Noise's symmetric state (`Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s`), for one responder."""

    def __init__(self, responder: bytes) -> None:
        self.key = _hash(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
        self.hash = _hash(_hash(self.key, b"WireGuard v1 zx2c4 Jason@zx2c4.com"), responder)
        self._cipher = b""

    def absorb(self, text: bytes) -> bytes:
        self.hash = _hash(self.hash, text)
        return text

    def derive(self, secret: bytes, count: int) -> list[bytes]:
        """Derive `count` keys; the first one becomes the chaining key."""
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
    """The transport keys of one end, the chaining key they come from, and both indexes."""

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
        """The decrypted payload of a data message."""
        return unseal(self.receive, struct.unpack_from("<Q", message, 8)[0], message[16:])


class Static(NamedTuple):
    """The keys that one end knows before a handshake."""

    private: bytes
    other: bytes
    preshared: bytes

    @property
    def public(self) -> bytes:
        return public_of(self.private)

    def initiate(self, index: int, clock: float | None = None) -> Initiated:
        """Begin a handshake; `clock` is the time of this end, in seconds since 1970."""
        chain, ephemeral = _Chain(self.other), os.urandom(KEY)
        now = time.time_ns() if clock is None else int(clock * 10**9)
        stamp = struct.pack(">QI", _TAI_BASE + now // 10**9, now % 10**9)
        body = struct.pack("<II", INITIATION, index) + chain.mix_public(public_of(ephemeral))
        chain.mix(x25519(ephemeral, self.other))
        body += chain.seal(self.public)
        chain.mix(x25519(self.private, self.other))
        body += chain.seal(stamp)
        return Initiated(self, chain, ephemeral, _signed(self.other, body))

    def respond(self, initiation: bytes, index: int) -> tuple[bytes, Session]:
        """Answer an initiation. Returns the response and the session."""
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
    """A handshake without its response yet."""

    static: Static
    chain: _Chain
    ephemeral: bytes
    message: bytes

    def finish(self, response: bytes) -> Session:
        """Read the response. Returns the session."""
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
