"""The choices that the command line, the environment or a Python caller makes."""

from __future__ import annotations

from typing import NamedTuple

from wgquick.errors import WgqError

BACKENDS = ("auto", "kernel", "userspace")
FIREWALLS = ("auto", "nft", "iptables")
DNS_MODES = ("auto", "resolvconf", "resolved", "file", "off")


class Options(NamedTuple):
    """How up and down work; each field takes one of the words above."""

    backend: str = "auto"
    firewall: str = "auto"
    dns: str = "auto"
    strict: bool = False
    force: bool = False

    def checked(self) -> Options:
        """Itself; WgqError where a field holds another word."""
        choices = (("backend", BACKENDS), ("firewall", FIREWALLS), ("dns", DNS_MODES))
        for field, words in choices:
            value = getattr(self, field)
            if value not in words:
                raise WgqError(f"`{value}' is no {field}", remedy=f"Choose one of: {', '.join(words)}.")
        return self
