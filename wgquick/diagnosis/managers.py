"""Other programs that are configured to manage an interface: wg-quick@, systemd-networkd, NetworkManager."""

from __future__ import annotations

from configparser import ConfigParser, Error
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_UNITS = ("etc/systemd/system", "run/systemd/system")
_NETWORKD = ("etc/systemd/network", "run/systemd/network", "usr/lib/systemd/network")
_NETWORK_MANAGER = ("etc/NetworkManager/system-connections", "run/NetworkManager/system-connections")


class Manager(NamedTuple):
    """A program that manages an interface, the file that says so, and how to stop it."""

    name: str
    path: str
    remedy: str
    is_wg_quick: bool = False


def managers(interface: str, root: Path) -> tuple[Manager, ...]:
    """The programs that have a configuration for the interface below `root`."""
    return (*_wg_quick(interface, root), *_networkd(interface, root), *_network_manager(interface, root))


def _wg_quick(interface: str, root: Path) -> Iterator[Manager]:
    unit = f"wg-quick@{interface}.service"
    for directory in _UNITS:
        for path in sorted((root / directory).glob(f"*.wants/{unit}")):
            yield Manager(f"wg-quick@{interface}", str(path), f"systemctl disable {unit}", is_wg_quick=True)
            return


def _networkd(interface: str, root: Path) -> Iterator[Manager]:
    for directory in _NETWORKD:
        for path in sorted((root / directory).glob("*.netdev")):
            read = _read(path)
            if read.get("NetDev", "Kind", fallback="") == "wireguard" and (
                read.get("NetDev", "Name", fallback="") == interface
            ):
                yield Manager("systemd-networkd", str(path), f"remove {path}, and run `networkctl reload'")


def _network_manager(interface: str, root: Path) -> Iterator[Manager]:
    for directory in _NETWORK_MANAGER:
        for path in sorted((root / directory).glob("*")):
            read = _read(path)
            if read.get("connection", "type", fallback="") == "wireguard" and (
                read.get("connection", "interface-name", fallback="") == interface
            ):
                name = read.get("connection", "id", fallback=path.stem)
                yield Manager("NetworkManager", str(path), f"nmcli connection delete {name!r}")


def _read(path: Path) -> ConfigParser:
    """The file, as far as it can be read."""
    parser = ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        parser.read(path, encoding="utf-8")
    except (Error, OSError, UnicodeDecodeError):
        return ConfigParser()
    return parser
