"""Imports for processes that fork often: without them, each fork imports the same modules again."""

from __future__ import annotations

import pkgutil
from importlib import import_module

import wgquick
from wgquick.system.firewall import libiptc

# Modules that functions of wgquick or of the standard library import when they are called.
_LATE = ("cryptography.hazmat.primitives.ciphers.aead", "encodings.ascii", "encodings.idna")


def import_wgquick() -> None:
    """Import all modules of wgquick, which takes a second, and pyroute2 and python-iptables with them."""
    for module in (*(each.name for each in pkgutil.walk_packages(wgquick.__path__, "wgquick.")), *_LATE):
        if not module.endswith("__main__"):
            import_module(module)
    libiptc.library()
