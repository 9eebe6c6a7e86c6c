"""Rules of the legacy variant of iptables(8), through the host's iptables-restore(8) and iptables-save(8).

It replaces `libiptc` on hosts without python-iptables, which needs a compiler to be installed.
"""

from __future__ import annotations

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING
from wgquick.system.firewall import iptables_programs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_REMEDY = "Install iptables (Debian: iptables), or use `--firewall nft'."
_OPTIONS = ("-n", "-w")  # keep other rules; wait for the lock that all iptables commands share


def add(name: str, family: int, addresses: Sequence[bytes], fwmark: int, port: int, comment: str) -> None:
    """Add one family's rules; if the second table refuses, the rules of the first are removed."""
    text = iptables_programs.script(name, family, addresses, fwmark, port, comment)
    try:
        _restore(family, text)
    except OperationError:
        remove(comment, family, ("raw",))
        raise


def remove(comment: str, family: int, tables: Sequence[str]) -> None:
    """Delete the rules of these tables that have the comment."""
    text = "".join(_deletions(comment, family, table) for table in tables)
    if text:
        _restore(family, text)


def present(comment: str, family: int, tables: Sequence[str]) -> bool:
    """Whether a rule in these tables has the comment."""
    return any(True for table in tables for _ in _rules(comment, family, table))


def _deletions(comment: str, family: int, table: str) -> str:
    rules = [f"-D{rule.removeprefix('-A')}" for rule in _rules(comment, family, table)]
    return "\n".join([f"*{table}", *rules, "COMMIT", ""]) if rules else ""


def _rules(comment: str, family: int, table: str) -> Iterator[str]:
    """The rules with the comment, as iptables-save prints them (`-A CHAIN ...`)."""
    marker = f' --comment "{comment}" '
    for line in _saved(family, table).splitlines():
        if line.startswith("-A ") and marker in f"{line} ":
            yield line


def _saved(family: int, table: str) -> str:
    status, text, errors = iptables_programs.run([_program(family, "save"), "-t", table])
    if status:
        raise OperationError(f"cannot list the iptables table {table}: {errors.strip()}", status=status)
    return text


def _restore(family: int, text: str) -> None:
    iptables_programs.restore([_program(family, "restore"), *_OPTIONS], text)


def _program(family: int, part: str) -> str:
    found = iptables_programs.legacy(family, part)
    if found is None:
        raise OperationError(f"iptables cannot be used: there is no iptables-{part}", remedy=_REMEDY)
    return found
