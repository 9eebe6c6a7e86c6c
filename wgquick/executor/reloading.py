"""cmd_reload: the keys and peers of an edited file for a live device."""

from __future__ import annotations

from wgquick.device import DeviceConfig
from wgquick.errors import WgqError
from wgquick.executor import udp_port
from wgquick.executor.journal import Journal
from wgquick.lean import TYPE_CHECKING
from wgquick.plan import given, reload

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.config.settings import Settings
    from wgquick.executor.journal import Record
    from wgquick.ports import Host


def cmd_reload(settings: Settings, host: Host, say: Callable[[str], None]) -> None:
    """Change the device to what the file says; addresses, routes, rules, DNS and hooks stay as they are."""
    with host.interface_lock(settings.name):
        _reload(settings, host, say)


def _reload(settings: Settings, host: Host, say: Callable[[str], None]) -> None:
    name = settings.name
    link = host.rtnl.link(name)
    if link is None or name not in host.wireguard.interfaces():  # a renamed link's daemon keeps the old name
        remedy = f"Bring it up first: wgq up {name}" if link is None else ""
        raise WgqError(f"`{name}' is not a WireGuard interface", remedy=remedy)
    journal = Journal(host.journal_directory, name)
    earlier = _earlier(journal.read(), name, host)
    device = host.wireguard.get(name)
    wanted = reload.endpoints(settings, device, earlier)
    config, notes = reload.change(settings, device, earlier, {each: host.resolve(each) for each in wanted})
    # The kernel sets the mark before it refuses a port (drivers/net/wireguard/netlink.c, wg_set_device).
    udp_port.check_change(name, config.listen_port, host)
    if config != DeviceConfig():
        say("\n".join(reload.lines(name, config)))
        host.wireguard.set(name, config)
    for note in notes:
        say(note)
    if earlier is not None:
        journal.describe(given.given(settings))


def _earlier(record: Record | None, name: str, host: Host) -> given.Earlier | None:
    """What the file said when the link came up, or at the last reload; None if the journal is not this link's."""
    link = host.rtnl.link(name)
    if record is None or link is None or record.ifindex != link.ifindex:
        return None
    return record.peers
