"""Writes settings as a configuration file, secrets included. Parsing it gives the same settings."""

from __future__ import annotations

from wgquick.config import extras, keys
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from wgquick.config.settings import PeerSettings, Settings


def settings_text(settings: Settings) -> str:
    """The text of a file in wg-quick(8)'s order and spelling, without unset values."""
    own = "\n".join(["", *extras.lines(settings.extras)])
    sections = [_section("Interface", settings) + own, *(_section("Peer", peer) for peer in settings.peers)]
    return "\n\n".join(sections) + "\n"


def _section(name: str, values: Settings | PeerSettings) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {value}" for key, value in keys.lines(name, values))])
