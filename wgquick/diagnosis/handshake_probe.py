"""doctor's own handshake: it sends an initiation as the device would, and verifies the response.

A valid response proves that both directions work, that the other end has the expected key, and that it knows this
end's key. A response that cannot be decrypted proves that the preshared keys differ. The other end keeps using the
existing session, as no data arrives in the new one (whitepaper, section 5.4; Noise_IKpsk2).
"""

from __future__ import annotations

import os
import struct

from wgquick.datagram import INITIATION
from wgquick.diagnosis.noise import CONSTRUCTION, IDENTIFIER, MAC, TAI_BASE, expanded, hashed, mac, mac1_key
from wgquick.lean import TYPE_CHECKING
from wgquick.net import NO_KEY

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from wgquick.net import PublicKey, SecretKey

_WHITENED = 1 << 24  # nanoseconds; the kernel rounds its timestamps down to this


class HandshakeProbe:
    """One initiation to a peer. Send `message` from the device's port; answers to it contain `index`."""

    def __init__(self, private: SecretKey, peer: PublicKey, psk: SecretKey | None, now: float) -> None:
        from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

        from wgquick.diagnosis.keys import public_key_of

        self.index = os.urandom(4)
        self._psk = (psk or NO_KEY).raw
        self._private = X25519PrivateKey.from_private_bytes(private.raw)
        self._ephemeral = X25519PrivateKey.generate()
        self._chaining = hashed(CONSTRUCTION)
        self._transcript = hashed(hashed(self._chaining, IDENTIFIER), peer.raw)
        self.message = self._initiation(public_key_of(private).raw, peer.raw, now)

    def _initiation(self, static: bytes, peer: bytes, now: float) -> bytes:
        ephemeral = self._ephemeral.public_key().public_bytes_raw()
        self._chaining = expanded(self._chaining, ephemeral, 1)[0]
        self._absorb(ephemeral)
        self._chaining, key = expanded(self._chaining, _shared(self._ephemeral, peer), 2)
        sealed_static = self._sealed(key, static)
        self._chaining, key = expanded(self._chaining, _shared(self._private, peer), 2)
        sealed_stamp = self._sealed(key, _stamp(now))
        body = struct.pack("<I", INITIATION) + self.index + ephemeral + sealed_static + sealed_stamp
        return body + mac(mac1_key(peer), body) + bytes(MAC)

    def accepts(self, response: bytes) -> bool:
        """Whether the response is authentic under the preshared key."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        ephemeral, nothing = response[12:44], response[44:60]
        chaining = expanded(self._chaining, ephemeral, 1)[0]
        transcript = hashed(self._transcript, ephemeral)
        try:
            for own in (self._ephemeral, self._private):
                chaining = expanded(chaining, _shared(own, ephemeral), 1)[0]
            _, mixed, key = expanded(chaining, self._psk, 3)
            ChaCha20Poly1305(key).decrypt(bytes(12), nothing, hashed(transcript, mixed))
        except (InvalidTag, ValueError):  # X25519 raises ValueError for a point of low order
            return False
        return True

    def _absorb(self, text: bytes) -> None:
        self._transcript = hashed(self._transcript, text)

    def _sealed(self, key: bytes, text: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

        sealed = ChaCha20Poly1305(key).encrypt(bytes(12), text, self._transcript)
        self._absorb(sealed)
        return sealed


def _shared(own: X25519PrivateKey, public: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey

    return own.exchange(X25519PublicKey.from_public_bytes(public))


def _stamp(now: float) -> bytes:
    """A TAI64N timestamp that is not later than the device's own next one."""
    seconds, fraction = divmod(int(now * 1e9), 10**9)
    return struct.pack(">QI", TAI_BASE + seconds, fraction // _WHITENED * _WHITENED)
