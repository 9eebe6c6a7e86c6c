"""Keys and AllowedIPs for devices that tests make."""

from __future__ import annotations

import os
import subprocess

from wgquick.net import AllowedIP, PublicKey, SecretKey


def public() -> PublicKey:
    """A random public key."""
    return PublicKey(os.urandom(32))


def secret() -> SecretKey:
    """A random private key, clamped, so that a device reports it unchanged."""
    raw = bytearray(os.urandom(32))
    raw[0] &= 248
    raw[31] = raw[31] & 127 | 64
    return SecretKey(bytes(raw))


def public_key(private: str) -> str:
    """The public key of a private key, from `wg pubkey`."""
    return subprocess.run(
        ["wg", "pubkey"], input=private, capture_output=True, text=True, check=True
    ).stdout.strip()


def networks(count: int) -> tuple[AllowedIP, ...]:
    """So many different /24 networks."""
    return tuple(AllowedIP((0x0B000000 + 256 * n).to_bytes(4, "big"), 24) for n in range(count))
