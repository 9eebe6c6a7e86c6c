"""The text of /etc/resolv.conf while tunnels are up; no I/O (resolv.conf(5)).

The file tells its own story in comments: what was there before the first tunnel, and what each tunnel that is up
asked for. So no second place can be out of step with it: one write is one whole change, a kill leaves either the
earlier or the later state, and after a power cut, too, the earlier file can be had again.

What somebody else does to it meanwhile counts. Lines added to it are added to what is put back; a file without
these comments is somebody else's new file.
"""

from __future__ import annotations

from binascii import Error, a2b_base64, b2a_base64

from wgquick.lean import NamedTuple

_MARK = b"# wgq: "
_HEAD = _MARK + b"DNS of the tunnels below; when the last of them goes down, the earlier file comes back"
_WIDTH = 54  # bytes of the earlier file in one line of base64
_KEPT = (b"options", b"sortlist")  # of the earlier file: how to ask, not whom
_NONE = "-"
_BYTES = "surrogateescape"


class Tunnel(NamedTuple):
    """What a tunnel asked for; `place` is its link: namespace, index, and who could see that (`links`)."""

    name: str
    place: str
    servers: tuple[str, ...]
    search: tuple[str, ...]


class Record(NamedTuple):
    """What the file tells.

    `kind` and `before`: a "file" and its content, a "link" and its target, or "absent". `kept`: lines of it that
    hold on. `tunnels`: the newest last. `added`: lines that somebody else has put in since.
    """

    kind: str
    before: bytes
    kept: tuple[bytes, ...] = ()
    tunnels: tuple[Tunnel, ...] = ()
    added: tuple[bytes, ...] = ()


def kept_lines(content: bytes) -> tuple[bytes, ...]:
    """The lines of an earlier file that hold on while a tunnel has the name servers."""
    return tuple(line for line in content.split(b"\n") if line.split()[:1] and line.split()[0] in _KEPT)


def parse(content: bytes) -> Record | None:
    """The record in a file that `text` made, perhaps edited since; None if it is none of ours."""
    lines = content.removesuffix(b"\n").split(b"\n")
    comments = [line.removeprefix(_MARK) for line in lines if line.startswith(_MARK)]
    fields = [(word, rest) for word, _, rest in (comment.partition(b" ") for comment in comments)]
    try:
        record = _record(fields)
    except (Error, ValueError):
        return None
    return record._replace(added=_without([line for line in lines if not line.startswith(_MARK)], _body(record)))


def _record(fields: list[tuple[bytes, bytes]]) -> Record:
    """The record of the comments, by their first words; ValueError if they are damaged or missing."""
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
    """The file for a record with at least one tunnel: its comments, then what the newest tunnel asked for."""
    starts = range(0, len(record.before), _WIDTH)
    comments = [
        b"was " + record.kind.encode(),
        *(b"+ " + b2a_base64(record.before[at : at + _WIDTH], newline=False) for at in starts),
        *(b"keeps " + line for line in record.kept),
        *(b"has " + " ".join(_words(tunnel)).encode(errors=_BYTES) for tunnel in record.tunnels),
    ]
    return _joined([_HEAD, *(_MARK + comment for comment in comments), *_body(record), *record.added])


def _words(tunnel: Tunnel) -> tuple[str, ...]:
    return tunnel.name, tunnel.place, ",".join(tunnel.servers), ",".join(tunnel.search) or _NONE


def _body(record: Record) -> list[bytes]:
    """What the newest tunnel asked for, and the kept lines."""
    if not record.tunnels:
        return list(record.kept)
    newest = record.tunnels[-1]
    servers = [f"nameserver {server}".encode(errors=_BYTES) for server in newest.servers]
    search = [f"search {' '.join(newest.search)}".encode(errors=_BYTES)] if newest.search else []
    return [*servers, *search, *record.kept]


def _without(lines: list[bytes], known: list[bytes]) -> tuple[bytes, ...]:
    """The lines that are not known, each known one taken out once; empty ones are nobody's."""
    left = [line for line in lines if line]
    for line in known:
        if line in left:
            left.remove(line)
    return tuple(left)


def put_back(record: Record) -> bytes:
    """The content for after the last tunnel: what was before, and what was added since."""
    before = record.before if record.kind == "file" else b""
    gap = b"\n" if before and record.added and not before.endswith(b"\n") else b""
    return before + gap + _joined(record.added)


def _joined(lines: list[bytes] | tuple[bytes, ...]) -> bytes:
    return b"".join(line + b"\n" for line in lines)
