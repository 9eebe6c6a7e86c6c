"""wgq: a wg-quick-compatible WireGuard configuration tool."""

__version__ = "0.1.0"
