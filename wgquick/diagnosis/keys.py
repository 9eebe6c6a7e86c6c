"""Public keys from private keys, and known example keys."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, sha256

if TYPE_CHECKING:
    from wgquick.net import PublicKey, SecretKey

# The SHA-256 of private and preshared keys (raw bytes) that documents print as examples, and the document.
_EXAMPLES = {
    "230d3c13ce8bf1414cdc51173341bb79fba8def0b538285ce8bc627b787a7ffa": "wg(8)",
    "0a0d87b1f8ee6c1d9d02fc754d14a0919f8f5a541ec5f8b90ccf4d489b1333a6": "wg-quick(8)",
    "cec8b82b2f4aa742555a4743a33c1f0c14146684495293d15448feedcbb1c408": "wg-quick(8)",
    "697f1a2d245152b3b5a6827b0518e7e6a6e3ce19fee41c2339f7ca7c9f57d7db": "systemd.netdev(5)",
    "e913451466430c2683a1a55af59f13f6ebb1ee0d46cc688b61432124abdcd420": "the tests of systemd-networkd",
    "1c650c5ef6046276ca7030ea4e048fe71049e08b7f2dd801335bfe26960100ef": "the documentation of netplan",
    "2e92eb8384fdf500a6d0ffc9ecb83627035e151f4e699f39f1cd2be6126292f6": "the documentation of netplan",
    "55dc85b765acdfb70b60eeb38d099c06b67a821a4d1695f55640f71ea687ae1f": "the documentation of netplan",
    "37576f71100f583dc3acc33e4eec00145317d2b8100f7fc97ae65b4c77bf1099": "the documentation of netjsonconfig",
    "904a3e0647f4d163d4c55c30768bf3b8c3d48ab21f6d4f8fca8acd11435175da": "the documentation of netjsonconfig",
}


def public_key_of(secret: SecretKey) -> PublicKey:
    """The public key of a private key, as `wg pubkey` prints it."""
    return secret.public_key()


def is_generated(secret: SecretKey) -> bool:
    """Whether the key has the form of `wg genkey`: five bits are fixed. One public key in 32 has it too."""
    return secret.raw[0] & 7 == 0 and secret.raw[31] & 0xC0 == 0x40


def printed_in(secret: SecretKey) -> str:
    """The document that prints this key as an example; "" if none is known."""
    return _EXAMPLES.get(sha256(secret.raw).hexdigest(), "")
