"""Files for rehearsals, and runs of `wgq rehearse` on this machine, which it leaves unchanged."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from wgquick.diagnosis.keys import public_key_of
from wgquick.net import SecretKey

if TYPE_CHECKING:
    from pathlib import Path

WGQ = [sys.executable, "-m", "wgquick"]
HUB = "203.0.113.7"
FORWARDING = (
    "PostUp = sysctl -qw net.ipv4.ip_forward=1; iptables -A FORWARD -i %i -j ACCEPT\n"
    "PostDown = iptables -D FORWARD -i %i -j ACCEPT\n"
)


def keys() -> tuple[str, str]:
    """A private key and its public key, as text."""
    secret = SecretKey(X25519PrivateKey.generate().private_bytes_raw())
    return secret.reveal(), str(public_key_of(secret))


def peer(public: str, allowed: str, endpoint: str = "", more: str = "") -> str:
    """A [Peer] section."""
    at = f"Endpoint = {endpoint}\n" if endpoint else ""
    return f"[Peer]\nPublicKey = {public}\nAllowedIPs = {allowed}\n{at}{more}"


def interface(private: str, address: str, more: str = "") -> str:
    """An [Interface] section."""
    return f"[Interface]\nPrivateKey = {private}\nAddress = {address}\n{more}"


def pair(*, net: str = "10.9.0", endpoint: str = f"{HUB}:51820") -> dict[str, str]:
    """The texts of a server's and a client's file, by name."""
    one, two = keys(), keys()
    return {
        "server": interface(one[0], f"{net}.1/24", "ListenPort = 51820\n") + peer(two[1], f"{net}.2/32"),
        "client": interface(two[0], f"{net}.2/24") + peer(one[1], f"{net}.1/32", endpoint),
    }


def written(folder: Path, texts: dict[str, str]) -> list[str]:
    """Write NAME.conf for each text. Returns the paths."""
    paths = []
    for name, text in texts.items():
        path = folder / f"{name}.conf"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o600)
        paths.append(str(path))
    return paths


def rehearse(
    folder: Path, texts: dict[str, str], *options: str, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run `wgq rehearse` on the files; assert its exit status."""
    done = subprocess.run(
        [*WGQ, "rehearse", *options, *written(folder, texts)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def pairs(folder: Path, texts: dict[str, str], *options: str, status: int = 0) -> dict[tuple[str, str, str], Any]:
    """The pairs in the JSON output, by from, to and address."""
    done = rehearse(folder, texts, "--json", *options, status=status)
    found = json.loads(done.stdout)
    assert list(found) == ["hosts", "pairs"]
    assert found["hosts"] == list(texts)
    return {(each["from"], each["to"], each["address"]): each for each in found["pairs"]}


def causes(found: dict[tuple[str, str, str], Any]) -> set[str | None]:
    """The causes of all pairs, as a set."""
    return {each["cause"] for each in found.values()}
