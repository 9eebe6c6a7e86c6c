"""The host's iptables-restore(8), in either variant, and its input, as in wg-quick(8)."""

from __future__ import annotations

import os
from _socket import AF_INET, AF_INET6, inet_ntop

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system import programs

if TYPE_CHECKING:
    from collections.abc import Sequence

_PREFIXES = {4: "iptables", 6: "ip6tables"}
_REMEDY = "`iptables -V' shows the variant in use; `--firewall nft' does not need iptables."


def own_restore(family: int) -> str | None:
    """The path of the host's iptables-restore; None if there is none."""
    return _find(f"{_PREFIXES[family]}-restore")


def legacy(family: int, part: str) -> str | None:
    """The path of the legacy variant's iptables-PART (`restore`, `save`); None if there is none.

    If the host's `iptables` is the nft variant, the legacy variant has its own name.
    """
    prefix = _PREFIXES[family]
    names = (f"{prefix}-legacy-{part}", f"{prefix}-{part}")
    return next((found for name in names if (found := _find(name)) and not is_nft(found)), None)


def is_nft(program: str) -> bool:
    """Whether the program is of the nft variant."""
    return "nf_tables" in run([program, "-V"])[1]


def restore(argv: Sequence[str], text: str) -> None:
    """Run an iptables-restore with this input; OperationError with its message and status if it fails."""
    status, _, errors = run(argv, text)
    if status:
        what = f"`{' '.join(argv).rpartition('/')[2]}' failed with status {status}"
        message = f"{what}: {errors.strip()}" if errors.strip() else what
        raise OperationError(message, remedy=_REMEDY, status=status)


def run(argv: Sequence[str], text: str = "") -> tuple[int, str, str]:
    """The status, output and errors of a program, in English."""
    return programs.output(argv, {**os.environ, "LC_ALL": "C"}, text.encode())


def _find(name: str) -> str | None:
    """A program on PATH or in the usual places, as wg-quick with a longer PATH must use the same variant."""
    return programs.find(name) or programs.find(name, programs.DEFAULT_PATH)


def script(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str) -> str:
    """The input of iptables-restore(8), in which a `+` at the end of a name matches any suffix."""
    marked = f'-m comment --comment "{comment}"'
    kind = AF_INET if family == 4 else AF_INET6
    lines = ["*raw"]
    lines += [
        f"-I PREROUTING ! -i {name} -d {inet_ntop(kind, address)} -m addrtype ! --src-type LOCAL -j DROP {marked}"
        for address in addresses
    ]
    arrived = f"! -i {name} -p udp --dport {port} -m addrtype --dst-type LOCAL"
    arrivals = [f"-I PREROUTING {arrived} -j MARK --set-mark {fwmark} {marked}"] if port else []
    lines += [*arrivals, "COMMIT", "*mangle", *arrivals]
    lines += [f"-I POSTROUTING -p udp -m mark --mark {fwmark} -j CONNMARK --save-mark {marked}"]
    lines += [f"-I PREROUTING -p udp -j CONNMARK --restore-mark {marked}"]
    if port:
        errors = f"-p ipv6-icmp -m connmark --mark {fwmark}"
        lines += [f"-I PREROUTING {errors} -j CONNMARK --restore-mark {marked}"]
    return "\n".join([*lines, "COMMIT", ""])
