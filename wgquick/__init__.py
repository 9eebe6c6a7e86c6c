"""wgq: a wg-quick-compatible WireGuard configuration tool.

The names are imported at their first use (PEP 562), so `import wgquick` itself is cheap.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # instead of importing typing, which would take most of this package's import time
if TYPE_CHECKING:
    from wgquick.api import (
        confirm,
        down,
        ensure,
        parse,
        plan,
        read,
        reload,
        save,
        status,
        try_,
        tunnel,
        up,
        wait,
        watch,
    )
    from wgquick.config.models import Interface, Peer, WgQuickConfig
    from wgquick.errors import (
        BatchError,
        ConfigError,
        Diagnostic,
        HookError,
        NoHandshakeError,
        OperationError,
        WgqError,
    )
    from wgquick.options import Options

__version__ = "0.1.0"
__all__ = [
    "BatchError",
    "ConfigError",
    "Diagnostic",
    "HookError",
    "Interface",
    "NoHandshakeError",
    "OperationError",
    "Options",
    "Peer",
    "WgQuickConfig",
    "WgqError",
    "confirm",
    "down",
    "ensure",
    "parse",
    "plan",
    "read",
    "reload",
    "save",
    "status",
    "try_",
    "tunnel",
    "up",
    "wait",
    "watch",
]

_HOMES = {
    "wgquick.api": (
        "confirm",
        "down",
        "ensure",
        "parse",
        "plan",
        "read",
        "reload",
        "save",
        "status",
        "try_",
        "tunnel",
        "up",
        "wait",
        "watch",
    ),
    "wgquick.config.models": ("Interface", "Peer", "WgQuickConfig"),
    "wgquick.errors": (
        "BatchError",
        "ConfigError",
        "Diagnostic",
        "HookError",
        "NoHandshakeError",
        "OperationError",
        "WgqError",
    ),
    "wgquick.options": ("Options",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            from importlib import import_module

            return getattr(import_module(module), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


class _Package(type(sys)):  # type: ignore[misc]  # ModuleType, without importing types
    """Keeps the functions `plan` and `status` when the subpackages of the same names are imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in __all__ and isinstance(value, type(sys))):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
