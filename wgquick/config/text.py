"""Settings written as a configuration file, secrets included, so that reading it gives the same settings again."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wgquick.config.settings import PeerSettings, Settings


def settings_text(settings: Settings) -> str:
    """A file in wg-quick(8)'s order and spelling; values that were not given are not written."""
    sections = [["[Interface]", *_interface(settings)], *(["[Peer]", *_peer(peer)] for peer in settings.peers)]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def _interface(settings: Settings) -> Iterator[str]:
    if settings.private_key is not None:
        yield f"PrivateKey = {settings.private_key.reveal()}"
    if settings.listen_port is not None:
        yield f"ListenPort = {settings.listen_port}"
    if settings.fwmark is not None:
        yield f"FwMark = {hex(settings.fwmark) if settings.fwmark else 'off'}"
    yield from (f"Address = {address.text}" for address in settings.addresses)
    if words := settings.dns + settings.dns_search:
        yield f"DNS = {', '.join(words)}"
    if settings.mtu is not None:
        yield f"MTU = {settings.mtu}"
    if settings.table:
        yield f"Table = {settings.table}"
    yield from _hooks(settings)
    if settings.save_config:
        yield "SaveConfig = true"


def _hooks(settings: Settings) -> Iterator[str]:
    yield from (f"PreUp = {hook}" for hook in settings.pre_up)
    yield from (f"PostUp = {hook}" for hook in settings.post_up)
    yield from (f"PreDown = {hook}" for hook in settings.pre_down)
    yield from (f"PostDown = {hook}" for hook in settings.post_down)


def _peer(peer: PeerSettings) -> Iterator[str]:
    yield f"PublicKey = {peer.public_key}"
    if peer.preshared_key is not None:
        yield f"PresharedKey = {peer.preshared_key.reveal()}"
    yield from (f"AllowedIPs = {line}" for line in _allowed_ips(peer))
    if peer.endpoint is not None:
        yield f"Endpoint = {peer.endpoint}"
    if peer.persistent_keepalive is not None:
        yield f"PersistentKeepalive = {peer.persistent_keepalive or 'off'}"


def _allowed_ips(peer: PeerSettings) -> list[str]:
    """One line, or one for each where plain entries follow incremental ones: in wg(8) the last line decides."""
    entries = [str(ip) for ip in peer.allowed_ips]
    if peer.replace_allowed_ips and any(ip.change for ip in peer.allowed_ips):
        return entries
    return [", ".join(entries)] if entries else []
