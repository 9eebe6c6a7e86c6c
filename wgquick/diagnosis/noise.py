"""Hashes, key derivation and labels of the handshake (whitepaper, section 5.4)."""

from __future__ import annotations

import hmac
from hashlib import blake2s

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
MAC = 16
"""The length of a message's MACs."""
TAI_BASE = (1 << 62) + 10
"""The TAI64 label of 1970-01-01, which every implementation uses."""


def hashed(*parts: bytes) -> bytes:
    """BLAKE2s of the parts, joined."""
    return blake2s(b"".join(parts)).digest()


def expanded(key: bytes, secret: bytes, count: int) -> list[bytes]:
    """The KDF of the whitepaper: HKDF with HMAC-BLAKE2s; returns `count` keys of 32 bytes."""
    prk = hmac.digest(key, secret, "blake2s")
    keys: list[bytes] = []
    for number in range(1, count + 1):
        keys.append(hmac.digest(prk, (keys[-1] if keys else b"") + bytes([number]), "blake2s"))
    return keys


def mac1_key(public: bytes) -> bytes:
    """The key of a message's first MAC, for the owner of a public key."""
    return hashed(b"mac1----", public)


def mac(key: bytes, text: bytes) -> bytes:
    """A message's MAC."""
    return blake2s(text, key=key, digest_size=MAC).digest()
