"""Keys for devices that are made by hand."""

from __future__ import annotations

import os

from wgquick.net import PublicKey, SecretKey


def public() -> PublicKey:
    """Any peer's."""
    return PublicKey(os.urandom(32))


def secret() -> SecretKey:
    """A key that reads back as it was set: devices clamp private keys."""
    raw = bytearray(os.urandom(32))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw))
