"""The text of /etc/resolv.conf while tunnels are up; no I/O (resolv.conf(5)).

Comments in the file record the original content and the DNS of each tunnel that is up. One write is one complete
change, so a kill leaves the earlier or the later state, and the original can be restored even after a power cut.

Changes by others are respected. Lines that others add are kept in the restored file. A file without these comments
is a new file of another program.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

from wgquick.lean import NamedTuple
from wgquick.system.dns import COMMENT

_HEAD = COMMENT + b"DNS of the tunnels below; when the last of them goes down, the earlier file comes back"
_WIDTH = 54  # bytes of the original file in one line of base64
_KEPT = (b"options", b"sortlist")  # lines of the original file that stay: they set how to query, not which server
_NONE = "-"
_BYTES = "surrogateescape"


class Tunnel(NamedTuple):
    """A tunnel's DNS; `place` identifies its link (`links`)."""

    name: str
    place: str
    servers: tuple[str, ...]
    search: tuple[str, ...]


class Record(NamedTuple):
    """The record in the file.

    `kind` and `before`: a "file" and its content, a "link" and its target, or "absent". `kept`: its lines that stay
    in effect. `tunnels`: the newest last. `added`: lines that others have added since.
    """

    kind: str
    before: bytes
    kept: tuple[bytes, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    added: tuple[bytes, ...] = ()


def kept_lines(content: bytes) -> tuple[bytes, ...]:
    """The lines of the original file that stay in effect while a tunnel is up."""
    return tuple(line for line in content.split(b"\n") if line.split()[:1] and line.split()[0] in _KEPT)


def parse(content: bytes) -> Record | None:
    """The record in a file from `text`, perhaps edited since; None if the file has none."""
    lines = content.removesuffix(b"\n").split(b"\n")
    comments = [line.removeprefix(COMMENT) for line in lines if line.startswith(COMMENT)]
    fields = [(word, rest) for word, _, rest in (comment.partition(b" ") for comment in comments)]
    try:
        record = _record(fields)
    except (Error, ValueError):
        return None
    return record._replace(added=_without([line for line in lines if not line.startswith(COMMENT)], _body(record)))


def _record(fields: list[tuple[bytes, bytes]]) -> Record:
    """The record from the comments, by their first words; ValueError if they are damaged or missing."""
    (kind,) = (rest.decode() for word, rest in fields if word == b"was")
    return Record(
        kind,
        b"".join(a2b_base64(rest, strict_mode=True) for word, rest in fields if word == b"+"),
        tuple(rest for word, rest in fields if word == b"keeps"),
        tuple(_tunnel(rest.decode(errors=_BYTES)) for word, rest in fields if word == b"has"),
    )


def _tunnel(words: str) -> Tunnel:
    name, place, servers, search = words.split()
    return Tunnel(name, place, tuple(servers.split(",")), () if search == _NONE else tuple(search.split(",")))


def text(record: Record) -> bytes:
    """The file for a record with at least one tunnel: the comments, then the newest tunnel's DNS."""
    starts = range(0, len(record.before), _WIDTH)
    comments = [
        b"was " + record.kind.encode(),
        *(b"+ " + b2a_base64(record.before[at : at + _WIDTH], newline=False) for at in starts),
        *(b"keeps " + line for line in record.kept),
        *(b"has " + " ".join(_words(tunnel)).encode(errors=_BYTES) for tunnel in record.tunnels),
    ]
    return _joined([_HEAD, *(COMMENT + comment for comment in comments), *_body(record), *record.added])


def _words(tunnel: Tunnel) -> tuple[str, ...]:
    return tunnel.name, tunnel.place, ",".join(tunnel.servers), ",".join(tunnel.search) or _NONE


def _body(record: Record) -> list[bytes]:
    """The newest tunnel's DNS and the kept lines."""
    if not record.tunnels:
        return list(record.kept)
    newest = record.tunnels[-1]
    servers = [f"nameserver {server}".encode(errors=_BYTES) for server in newest.servers]
    search = [f"search {' '.join(newest.search)}".encode(errors=_BYTES)] if newest.search else []
    return [*servers, *search, *record.kept]


def _without(lines: list[bytes], known: list[bytes]) -> tuple[bytes, ...]:
    """The unknown lines: each known line is removed once, and empty lines are ignored."""
    left = [line for line in lines if line]
    for line in known:
        if line in left:
            left.remove(line)
    return tuple(left)


def put_back(record: Record) -> bytes:
    """The content after the last tunnel: the original and the lines added since."""
    before = record.before if record.kind == "file" else b""
    gap = b"\n" if before and record.added and not before.endswith(b"\n") else b""
    return before + gap + _joined(record.added)


def _joined(lines: list[bytes] | tuple[bytes, ...]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
