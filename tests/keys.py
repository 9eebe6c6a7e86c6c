"""Keys for devices that tests make."""

from __future__ import annotations

import os

from wgquick.net import PublicKey, SecretKey


def public() -> PublicKey:
    """A random public key."""
    return PublicKey(os.urandom(32))


def secret() -> SecretKey:
    """A random private key, clamped, so that a device reports it unchanged."""
    raw = bytearray(os.urandom(32))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw))
