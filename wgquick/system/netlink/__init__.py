"""Netlink without a library: messages through `struct`, raw sockets, and batches with all answers read."""

from __future__ import annotations

from wgquick.system.netlink.rtnl import RtNetlink

__all__ = ["RtNetlink"]
