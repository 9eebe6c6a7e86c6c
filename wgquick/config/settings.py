"""A configuration as plain values: the parser's result and the planners' input.

The fields are those of the table `keys`; only their types are added here, for type checkers.
`models` has the same as validated pydantic models for Python callers. `wgq up` does not import pydantic, which
takes longer than the whole `wg-quick up`.
"""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from wgquick.net import AllowedIP, Endpoint, Prefix, PublicKey, SecretKey

LAN = "lan"
"""In `exclude`: the private networks that the host is connected to when the interface comes up."""


class Address(NamedTuple):
    """An Address entry: packed address, prefix length, and the word as written (for the transcript)."""

    address: bytes
    length: int
    text: str


class PeerSettings(NamedTuple):
    """One [Peer] section. None: not set. A keepalive of 0 is off."""

    public_key: PublicKey
    preshared_key: SecretKey | None = None
    allowed_ips: tuple[AllowedIP, ...] = ()
    replace_allowed_ips: bool = True
    endpoint: Endpoint | None = None
    persistent_keepalive: int | None = None


class Extras(NamedTuple):
    """wgq's own settings (`config.extras`).

    `exclude` has networks and possibly LAN. `netns` is the name of a network namespace; "" is the current one.
    """

    kill_switch: bool = False
    exclude: tuple[Prefix | str, ...] = ()
    keep_inbound: bool = False
    netns: str = ""


class Settings(NamedTuple):
    """A whole configuration. None: not set. `table` and hooks are as in the file (`%i` not yet replaced).

    `path` is the resolved file (empty for standard input, a pipe or a device), `name` the interface.
    `option_extras` is the part of `extras` that options of the command line set; reload keeps it.
    """

    name: str
    path: str = ""
    private_key: SecretKey | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    addresses: tuple[Address, ...] = ()
    dns: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    mtu: int | None = None
    table: str = ""
    pre_up: tuple[str, ...] = ()
    post_up: tuple[str, ...] = ()
    pre_down: tuple[str, ...] = ()
    post_down: tuple[str, ...] = ()
    save_config: bool = False
    peers: tuple[PeerSettings, ...] = ()
    extras: Extras = Extras()
    option_extras: Extras = Extras()

    @property
    def routes_automatically(self) -> bool:
        """Whether Table is absent or `auto`: only then does /0 mean add_default (wg-quick's add_route)."""
        return self.table in ("", "auto")
