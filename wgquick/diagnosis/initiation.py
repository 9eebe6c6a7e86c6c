"""Reads handshake initiations as their receiver does (whitepaper, sections 5.4.2 and 5.4.4).

An initiation contains its sender's static public key, encrypted for the receiver. With the private key, the sender
can be identified, even if it is not a peer.
"""

from __future__ import annotations

import hmac

from wgquick.datagram import INITIATION, LENGTHS, RESPONSE
from wgquick.diagnosis.noise import CONSTRUCTION, IDENTIFIER, MAC, TAI_BASE, expanded, hashed, mac, mac1_key
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import PublicKey

if TYPE_CHECKING:
    from wgquick.net import SecretKey

_EPHEMERAL, _STATIC, _TIMESTAMP = slice(8, 40), slice(40, 88), slice(88, 116)


class Initiation(NamedTuple):
    """The content of an initiation: the sender's public key, and the sender's clock (seconds since 1970)."""

    sender: PublicKey
    clock: float


class Addressee:
    """Checks whether a handshake message is for the owner of a public key."""

    def __init__(self, public: PublicKey) -> None:
        self._key = mac1_key(public.raw)

    def fits(self, message: bytes) -> bool:
        """Whether the message's MAC1 is for this key; False for anything but an initiation or response."""
        kind = message[0] if message else 0
        if kind not in (INITIATION, RESPONSE) or len(message) != LENGTHS[kind]:
            return False
        body, mac1 = message[: -2 * MAC], message[-2 * MAC : -MAC]
        return hmac.compare_digest(mac(self._key, body), mac1)


class Reader:
    """Decrypts initiations with the receiver's private key. It keeps no message and no derived key."""

    def __init__(self, private: SecretKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        from wgquick.diagnosis.keys import public_key_of

        self.public = public_key_of(private)
        self._private = X25519PrivateKey.from_private_bytes(private.raw)
        self._chaining = hashed(CONSTRUCTION)
        self._start = hashed(hashed(self._chaining, IDENTIFIER), self.public.raw)

    def read(self, message: bytes) -> Initiation | None:
        """The content of an initiation; None if it is not encrypted for this key or not authentic."""
        from cryptography.exceptions import InvalidTag

        if len(message) != LENGTHS[INITIATION]:
            return None
        try:
            return self._read(message)
        except (InvalidTag, ValueError):  # X25519 raises ValueError for a point of low order
            return None

    def _read(self, message: bytes) -> Initiation:
        ephemeral = message[_EPHEMERAL]
        chaining = expanded(self._chaining, ephemeral, 1)[0]
        transcript = hashed(self._start, ephemeral)
        chaining, key = expanded(chaining, self._shared(ephemeral), 2)
        static = _open(key, message[_STATIC], transcript)
        transcript = hashed(transcript, message[_STATIC])
        _, key = expanded(chaining, self._shared(static), 2)
        stamp = _open(key, message[_TIMESTAMP], transcript)
        return Initiation(PublicKey(static), _seconds(stamp))

    def _shared(self, public: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        return self._private.exchange(X25519PublicKey.from_public_bytes(public))


def _open(key: bytes, sealed: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, data)


def _seconds(stamp: bytes) -> float:
    """A TAI64N timestamp in seconds since 1970."""
    return int.from_bytes(stamp[:8], "big") - TAI_BASE + int.from_bytes(stamp[8:], "big") / 1e9
