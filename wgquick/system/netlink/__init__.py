"""Netlink without a library: messages by `struct`, raw sockets, batches whose every answer is read."""

from __future__ import annotations

from wgquick.system.netlink.rtnl import RtNetlink

__all__ = ["RtNetlink"]
