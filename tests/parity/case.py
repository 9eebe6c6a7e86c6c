"""A parity case is a configuration file; its `#:` lines describe the machine.

#: uplink none | ipv6 | ipv6 only | mtu N     by default the uplink has only IPv4 and an MTU of 1500
#: before COMMAND                             sh runs it before up
#: then COMMAND                               sh runs it between up and down
#: run VERB                                   the tool that ran up runs another verb between up and down
#: name NAME                                  the interface; the default is wg0
#: path PATH                                  the file's path, given to the command; by default a name is given
#: mode 0644                                  the file's mode; the default is 0600
#: resolvconf [link | failing]                install a recording resolvconf (as a link; failing with -a)
#: now KEY VALUE                              what the current wg-quick does and Debian's does not (allowances.py)
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True, slots=True)
class Case:
    """One file of the folder `cases`."""

    name: str
    content: bytes
    directives: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, path: Path) -> Case:
        """Read the case from a file."""
        content = path.read_bytes()
        lines = [line[2:].strip() for line in content.decode().splitlines() if line.startswith("#:")]
        return cls(
            path.stem, content, tuple((word, rest) for word, _, rest in (line.partition(" ") for line in lines))
        )

    def all(self, word: str) -> list[str]:
        """The values of all directives with this name, in order."""
        return [value for name, value in self.directives if name == word]

    def one(self, word: str, default: str) -> str:
        """The value of the last directive with this name."""
        return (self.all(word) or [default])[-1]

    def now(self, key: str) -> str | None:
        """What the current wg-quick does, if the case says so."""
        found = [value.partition(" ")[2] for value in self.all("now") if value.startswith(f"{key} ")]
        return found[0] if found else None

    @property
    def interface(self) -> str:
        """The interface of the case."""
        path = self.one("path", "")
        return PurePosixPath(path).stem if path else self.one("name", "wg0")

    @property
    def file(self) -> str:
        """The path of the configuration file."""
        return self.one("path", f"/etc/wireguard/{self.interface}.conf")

    @property
    def argument(self) -> str:
        """The command's argument: the path if the case gives one, else the interface."""
        return self.one("path", self.interface)

    @property
    def has_rules(self) -> bool:
        """Whether it has to do with the firewall: a full tunnel's rules, or those of a hook or a directive."""
        text = self.content.decode()
        return "/0" in text or "iptables" in text or "nft" in text

    def settings(self, *keys: str) -> list[str]:
        """The values of these keys anywhere in the file, with comments."""
        lines = (line.partition("=") for line in self.content.decode().splitlines())
        return [value.strip() for key, _, value in lines if key.strip().lower() in keys]


def all_cases() -> list[Case]:
    """The cases of the folder by name, and a generated one with 300 peers."""
    return [*(Case.load(path) for path in sorted(CASES.glob("*.conf"))), Case("peers-three-hundred", _peers(300))]


def _peers(count: int) -> bytes:
    """A file with `count` peers, each with a network of both families; every tenth has an endpoint."""
    text = f"[Interface]\nPrivateKey = {_key(0)}\nAddress = 10.200.0.1/24, fd00:200::1/64\n"
    for number in range(1, count + 1):
        text += f"[Peer]\nPublicKey = {_key(number)}\nAllowedIPs = 11.{number // 256}.{number % 256}.0/24\n"
        text += f"AllowedIPs = fd00:{number:x}::/{48 + number % 80}\n"
        text += "" if number % 10 else f"Endpoint = 192.0.2.9:{number}\n"
    return text.encode()


def _key(number: int) -> str:
    """A key that devices leave as it is: they clamp private keys (curve25519_clamp_secret)."""
    return base64.b64encode(number.to_bytes(4, "little").ljust(31, b"\0") + b"\x40").decode()
