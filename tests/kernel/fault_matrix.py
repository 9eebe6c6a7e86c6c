"""Runs inside the VM: the fault matrix with the kernel's WireGuard, several cases at the same time.

A run of the tests tries the cases that depend on the device. On an emulated processor a case takes twenty seconds,
most of it for the start of programs and forks. So everything is imported once, before the first fork, and only what
is needed, because a fork copies its page tables.

It prints one JSON array per case as soon as the case ends: its name and its outcome. An argument such as 3,10:20
tries those cases of the whole matrix.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from importlib import import_module
from typing import TYPE_CHECKING

from tests.faults.matrix import FAULTS, HEALTHY
from tests.faults.trial import attempt
from tests.interop.pairs import KERNEL

if TYPE_CHECKING:
    from tests.faults.matrix import Case

EVERY = (*FAULTS, *HEALTHY)
_IN_EACH_RUN = frozenset({
    "the private key was removed",
    "the listen port was changed by hand",
    "a full tunnel's fwmark was removed",
    "two interfaces have the same private key",
    "the daemon was killed",
    "the device has no endpoint",
    "nftables drops packets to the endpoint",
    "the other end's interface is not up",
    "the other end is under load",
    "only the other end has a preshared key",
    "nftables drops the endpoint's answers",
    "the other end's AllowedIPs lack this address",
    "large packets are lost on the way",
    "nftables drops packets to the server's port",
    "a client has a key that no peer of the server has",
    "a client has an old public key of the server",
    "the server's AllowedIPs lack the client's address",
    "a client's clock was set back an hour",
    "two clients have the same private key",
    "a client and a server",
    "a full tunnel of IPv4 and IPv6",
    "the client runs wgq-userspace and sends multicast",
    "the link is down, and a client sends handshakes",
})  # fmt: skip
IN_EACH_RUN = tuple(case for case in EVERY if case.name in _IN_EACH_RUN)
"""The cases that depend on the device: on what it reports, counts, sends, answers or refuses."""
assert len(IN_EACH_RUN) == len(_IN_EACH_RUN)

WORKERS = 6
SHOWN = 700
"""Characters of a text: a pipe takes a line of at most 4096 bytes at once (pipe(7))."""
WARM = (
    "cryptography.hazmat.primitives.ciphers.aead",
    "encodings.ascii",
    "encodings.idna",
    "wgquick.counters",
    "wgquick.diagnosis.doctor.examination",
    "wgquick.executor.down",
    "wgquick.executor.up",
    "wgquick.show.doctor",
    "wgquick.system.firewall.iptables",
    "wgquick.system.firewall.iptables_nft",
    "wgquick.system.firewall.nft",
    "wgquick.system.firewall.nfnetlink",
    "wgquick.system.host",
    "wgquick.system.inspection",
    "wgquick.system.wireguard.diagnostics",
    "wgquick.system.wireguard.kernel",
)


def part(text: str) -> tuple[Case, ...]:
    """The cases of the matrix at numbers and slices (FIRST:LAST), separated by commas."""
    found: list[Case] = []
    for word in text.split(","):
        first, is_slice, last = word.partition(":")
        start = int(first or 0)
        found += EVERY[start : int(last or len(EVERY)) if is_slice else start + 1]
    return tuple(found)


def main() -> None:
    """Try them; each worker takes the next case until there is none."""
    cases = part(sys.argv[1]) if sys.argv[1:] else IN_EACH_RUN
    for module in WARM:
        import_module(module)
    gc.collect()
    gc.freeze()  # or else each collection in a fork copies what is here
    queue, entrance = os.pipe()
    os.write(entrance, bytes(range(len(cases))))
    os.close(entrance)
    for worker in [_start(cases, queue) for _ in range(WORKERS)]:
        os.waitpid(worker, 0)


def _start(cases: tuple[Case, ...], queue: int) -> int:
    if child := os.fork():
        return child
    try:
        while taken := os.read(queue, 1):
            case = cases[taken[0]]
            outcome = attempt(case, KERNEL)
            shown = outcome._replace(text=outcome.text[:SHOWN], fault=outcome.fault[-SHOWN:])
            line = json.dumps([f"{case.name}, {KERNEL}", shown])
            os.write(sys.stdout.fileno(), f"{line}\n".encode())
    finally:
        os._exit(0)


if __name__ == "__main__":
    main()
