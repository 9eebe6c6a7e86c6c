"""Reads handshake initiations as their receiver does (whitepaper, sections 5.4.2 and 5.4.4).

An initiation carries its sender's static public key, encrypted to the receiver's: whoever has the private key can
tell who knocks, whether the device knows the sender or not.
"""

from __future__ import annotations

import hmac
from hashlib import blake2s

from wgquick.datagram import INITIATION, LENGTHS, RESPONSE
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import PublicKey

if TYPE_CHECKING:
    from wgquick.net import SecretKey

_CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
_IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
_MAC = 16
_TAI_BASE = (1 << 62) + 10  # the TAI64 label of 1970, as every implementation has it
_EPHEMERAL, _STATIC, _TIMESTAMP = slice(8, 40), slice(40, 88), slice(88, 116)


class Initiation(NamedTuple):
    """What an initiation says: who sends it, and what the sender's clock says (seconds since 1970)."""

    sender: PublicKey
    clock: float


class Addressee:
    """Tells whether a handshake message is for the owner of a public key."""

    def __init__(self, public: PublicKey) -> None:
        self._key = blake2s(b"mac1----" + public.raw).digest()

    def fits(self, message: bytes) -> bool:
        """Whether the message's first MAC is made for this key; False for what is no initiation or response."""
        kind = message[0] if message else 0
        if kind not in (INITIATION, RESPONSE) or len(message) != LENGTHS[kind]:
            return False
        body, told = message[: -2 * _MAC], message[-2 * _MAC : -_MAC]
        return hmac.compare_digest(blake2s(body, key=self._key, digest_size=_MAC).digest(), told)


class Reader:
    """Decrypts initiations with the receiver's private key; keeps neither them nor what they are encrypted with."""

    def __init__(self, private: SecretKey) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        from wgquick.diagnosis.keys import public_key_of

        self.public = public_key_of(private)
        self._private = X25519PrivateKey.from_private_bytes(private.raw)
        self._chaining = _hash(_CONSTRUCTION)
        self._start = _hash(_hash(self._chaining, _IDENTIFIER), self.public.raw)

    def read(self, message: bytes) -> Initiation | None:
        """What an initiation says; None if it is not encrypted to this key, or says nothing that is authentic."""
        from cryptography.exceptions import InvalidTag

        if len(message) != LENGTHS[INITIATION]:
            return None
        try:
            return self._read(message)
        except (InvalidTag, ValueError):  # the latter of X25519, for a point of low order
            return None

    def _read(self, message: bytes) -> Initiation:
        ephemeral = message[_EPHEMERAL]
        chaining = _expand(self._chaining, ephemeral, 1)[0]
        transcript = _hash(self._start, ephemeral)
        chaining, key = _expand(chaining, self._shared(ephemeral), 2)
        static = _open(key, message[_STATIC], transcript)
        transcript = _hash(transcript, message[_STATIC])
        _, key = _expand(chaining, self._shared(static), 2)
        stamp = _open(key, message[_TIMESTAMP], transcript)
        return Initiation(PublicKey(static), _seconds(stamp))

    def _shared(self, public: bytes) -> bytes:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

        return self._private.exchange(X25519PublicKey.from_public_bytes(public))


def _hash(*parts: bytes) -> bytes:
    return blake2s(b"".join(parts)).digest()


def _expand(key: bytes, secret: bytes, count: int) -> list[bytes]:
    """KDF of the whitepaper: HKDF over HMAC-BLAKE2s, `count` keys of 32 bytes."""
    prk = hmac.digest(key, secret, "blake2s")
    keys: list[bytes] = []
    for number in range(1, count + 1):
        keys.append(hmac.digest(prk, (keys[-1] if keys else b"") + bytes([number]), "blake2s"))
    return keys


def _open(key: bytes, sealed: bytes, data: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    return ChaCha20Poly1305(key).decrypt(bytes(12), sealed, data)


def _seconds(stamp: bytes) -> float:
    """A TAI64N timestamp in seconds since 1970."""
    return int.from_bytes(stamp[:8], "big") - _TAI_BASE + int.from_bytes(stamp[8:], "big") / 1e9
