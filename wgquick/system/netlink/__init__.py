"""Netlink without a library: messages encoded with `struct`, raw sockets, batches."""

from __future__ import annotations

from wgquick.system.netlink.rtnl import RtNetlink

__all__ = ["RtNetlink"]
