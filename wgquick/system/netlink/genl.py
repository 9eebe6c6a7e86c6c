"""Generic netlink (linux/genetlink.h): family IDs, and the messages' additional header."""

from __future__ import annotations

from struct import Struct

from wgquick.lean import TYPE_CHECKING
from wgquick.system.netlink.codec import attribute_text, attributes, message, number

if TYPE_CHECKING:
    from wgquick.system.netlink.connection import Connection

NETLINK_GENERIC = 16
HEADER = Struct("=BBH")  # struct genlmsghdr: command, version, reserved

_GENL_ID_CTRL = 16
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2


def request(family: int, command: int, version: int, body: bytes) -> bytes:
    """The payload of a request to a family."""
    return message(family, 0, HEADER.pack(command, version, 0) + body)


def family_id(connection: Connection, name: str) -> int:
    """The ID of a family; the kernel loads its module if necessary. RefusedError (ENOENT) if there is none."""
    asked = request(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, 1, attribute_text(_CTRL_ATTR_FAMILY_NAME, name))
    answer = connection.request(asked, f"the kernel has no {name}")[0]
    return number(attributes(answer.body, HEADER.size)[_CTRL_ATTR_FAMILY_ID])
