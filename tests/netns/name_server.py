"""A name server for tests: it answers from a file, over UDP and TCP, and logs its queries.

    python name_server.py ADDRESS RECORDS LOG

A line of RECORDS is NAME WORD...: addresses, or one of nxdomain, servfail, silent, or, before addresses, long (the
answer over UDP is truncated) or alias (the addresses are those of another name).
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from tests.waiting import until

if TYPE_CHECKING:
    from tests.namespaces import Namespace

_A, _AAAA = 1, 28
_TRUNCATED = 0x0200


def start(machine: Namespace, address: str, **records: str) -> None:
    """Start a server with these records; a `_` in a name stands for a dot."""
    set_records(machine, **records)
    machine.run(["sh", "-c", "mkdir -p /run/names; : >/run/names/log"])
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-m", "tests.netns.name_server", address, "/run/names/records", "/run/names/log"]
    machine.popen(["env", f"PYTHONPATH={root}", *command])
    until(lambda: f"{address}:53" in machine.out("ss", "-Hlun"), "the name server")


def set_records(machine: Namespace, **records: str) -> None:
    """Replace the records of the running server."""
    lines = "".join(f"{name.replace('_', '.')} {words}\n" for name, words in records.items())
    machine.run(
        ["sh", "-c", "mkdir -p /run/names; cat >/run/names/new; mv /run/names/new /run/names/records"], input=lines
    )


def queries(machine: Namespace) -> list[str]:
    """The queries so far, each as ADDRESS NAME."""
    return machine.out("cat", "/run/names/log").splitlines()


def _reply(query: bytes, records: str, is_stream: bool) -> tuple[str, bytes | None]:
    (number,) = struct.unpack_from("!H", query)
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode())
        at += 1 + size
    (kind,) = struct.unpack_from("!H", query, at + 1)
    name, question = ".".join(labels).lower(), query[12 : at + 5]
    known = {words[0]: words[1:] for words in map(str.split, records.splitlines()) if words}
    words = known.get(name, ["nxdomain"])
    if words[0] == "silent":
        return name, None
    status = {"nxdomain": 3, "servfail": 2}.get(words[0], 0)
    flags = 0x8180 | status
    if words[0] == "long" and not is_stream:
        return name, struct.pack("!HHHHHH", number, flags | _TRUNCATED, 1, 0, 0, 0) + question
    data = [
        socket.inet_pton(socket.AF_INET6 if ":" in word else socket.AF_INET, word)
        for word in words
        if "." in word or ":" in word
    ]
    wanted = [each for each in data if len(each) == (16 if kind == _AAAA else 4)]
    records_of = [b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 1, len(each)) + each for each in wanted]
    if words[0] == "alias":
        target = b"\x05other\xc0\x0c"
        records_of = [
            b"\xc0\x0c" + struct.pack("!HHIH", 5, 1, 1, len(target)) + target,
            *(b"\x05other\xc0\x0c" + each[2:] for each in records_of),
        ]
    return name, struct.pack("!HHHHHH", number, flags, 1, len(records_of), 0, 0) + question + b"".join(records_of)


def main(address: str, records: str, log: str) -> None:
    """Serve until it is killed."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    datagrams = socket.socket(family, socket.SOCK_DGRAM)
    streams = socket.create_server((address, 53), family=family)
    datagrams.bind((address, 53))

    def note(who: str, name: str) -> None:
        with Path(log).open("a") as file:
            file.write(f"{who} {name}\n")

    def serve_streams() -> None:
        while True:
            made, peer = streams.accept()
            with made, made.makefile("rb") as file:
                query = file.read(int.from_bytes(file.read(2)))
                name, reply = _reply(query, Path(records).read_text(), True)
                note(peer[0], name)
                if reply is not None:
                    made.sendall(len(reply).to_bytes(2) + reply)

    threading.Thread(target=serve_streams, daemon=True).start()
    while True:
        query, peer = datagrams.recvfrom(4096)
        name, reply = _reply(query, Path(records).read_text(), False)
        note(peer[0], name)
        if reply is not None:
            datagrams.sendto(reply, peer)


if __name__ == "__main__":
    main(*sys.argv[1:])
