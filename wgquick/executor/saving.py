"""cmd_save: writes the interface's state to its file. What was edited since up is kept in a copy."""

from __future__ import annotations

from itertools import chain, count

from wgquick.config import edit, location
from wgquick.config.atomic import write_atomic
from wgquick.config.parser import parse
from wgquick.errors import WgqError, not_wireguard
from wgquick.executor.journal import Journal, with_source
from wgquick.lean import TYPE_CHECKING
from wgquick.net import Prefix, is_link_local
from wgquick.plan.steps import UnsetDns
from wgquick.transcript import command, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.config.settings import Settings
    from wgquick.device import Device
    from wgquick.net import Endpoint
    from wgquick.options import Options
    from wgquick.ports import Host


def cmd_save(settings: Settings, host: Host, options: Options, say: Callable[[str], None]) -> None:
    """Update the file that `settings` were read from (wg-quick's save_config); unchanged lines stay."""
    name = settings.name
    if name not in host.wireguard.interfaces():
        raise not_wireguard(name, is_missing=host.rtnl.link(name) is None)
    if not settings.path:
        raise WgqError(
            f"the configuration of {name} was not read from a file", remedy="There is no file to save to."
        )
    say(command(f"wg showconf {name}"))
    # A hook may have edited the file since it was read: use its current content.
    document = location.read(location.Location(name, settings.path))
    settings = parse(document, name, settings.path)
    present = _present(settings, host, options)
    data = edit.updated(document, settings, present, host.name_matcher(_named(settings, present.device)))
    if data != bytes(document):
        journal = Journal(host.journal_directory, name)
        _keep_edited(settings.path, bytes(document), journal, say)
        write_atomic(settings.path, data)
        record = journal.read()
        if record is not None and record.applied is not None and record.intended is None:
            journal.apply(with_source(journal, record.applied, settings))


def _keep_edited(path: str, data: bytes, journal: Journal, say: Callable[[str], None]) -> None:
    """Copy a file that was edited since up, reload or save, before it is overwritten."""
    record = journal.read()
    source = record.applied.get("source") if record and record.applied else None
    if source is None or source == journal.digest()(data):
        return
    copy = _copy_of(path, data)
    write_atomic(copy, data)
    say(
        note(f"{path} was edited while the interface was up, and is overwritten: the edited file is kept as {copy}")
    )


def _copy_of(path: str, data: bytes) -> str:
    """The path for the copy: the first of PATH.edited, PATH.edited.2, ... that holds no other text."""
    names = chain((f"{path}.edited",), (f"{path}.edited.{number}" for number in count(2)))
    return next(name for name in names if _is_free(name, data))


def _is_free(path: str, data: bytes) -> bool:
    """Whether the file does not exist, or holds this text."""
    try:
        with open(path, "rb") as file:
            return file.read() == data
    except FileNotFoundError:
        return True


def _named(settings: Settings, device: Device) -> Iterator[Endpoint]:
    """The file's endpoints of the peers for which the device has an address."""
    known = {peer.public_key for peer in device.peers if peer.endpoint}
    return (peer.endpoint for peer in settings.peers if peer.endpoint and peer.public_key in known)


def _present(settings: Settings, host: Host, options: Options) -> edit.Present:
    link = host.rtnl.link(settings.name)
    dns = _dns(settings, host, options)
    return edit.Present(
        host.wireguard.get(settings.name),
        (*(a for a in host.rtnl.addresses(settings.name) if _is_ours(a, settings)), *_left_out(settings, host)),
        link.mtu if link else None,
        dns[0] if dns else None,
        dns[1] if dns else None,
    )


def _left_out(settings: Settings, host: Host) -> tuple[Prefix, ...]:
    """The IPv6 addresses that up left out because the link has no IPv6; the file keeps them."""
    if host.rtnl.takes_ipv6(settings.name):
        return ()
    return tuple(Prefix(a.address, a.length) for a in settings.addresses if len(a.address) == 16)


def _is_ours(address: Prefix, settings: Settings) -> bool:
    """Whether an address is saved. The link-local address that the kernel gives a TUN device is not."""
    return not is_link_local(address.address) or any(a.address == address.address for a in settings.addresses)


def _dns(settings: Settings, host: Host, options: Options) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """The link's DNS, read by the mode that set it if the journal names that mode."""
    record = Journal(host.journal_directory, settings.name).read()
    modes = [undo.mode for undo in record.undos if isinstance(undo, UnsetDns)] if record else []
    mode = modes[0] if modes else host.dns.detect(options.dns) if settings.dns and not record else "off"
    return None if mode == "off" else host.dns.current(mode, settings.name)
