"""Identifies the link of an entry in /etc/resolv.conf, as the file survives reboots and containers."""

from __future__ import annotations

from _socket import if_indextoname, if_nametoindex

from wgquick.system import namespaces

_HOST, _CONTAINER = "host", "container"
_NO_INDEX = 0


def place(name: str) -> str:
    """The identifier of a link in the calling thread's namespace: NAMESPACE/INDEX/WHERE."""
    try:
        index = if_nametoindex(name)
    except OSError:
        index = _NO_INDEX
    return f"{namespaces.current()}/{index}/{_CONTAINER if namespaces.is_contained() else _HOST}"


def is_gone(word: str) -> bool:
    """Whether the link of an identifier no longer exists; False if this is unknown from here."""
    try:
        namespace, digits, where = word.split("/")
        index = int(digits)
    except ValueError:
        return True
    if namespace == namespaces.current():
        return index != _NO_INDEX and not _exists(index)
    return namespaces.is_gone(namespace, contained=where == _CONTAINER)


def _exists(index: int) -> bool:
    try:
        if_indextoname(index)
    except OSError:
        return False
    return True
