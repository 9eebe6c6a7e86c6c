"""Routing tables by name or number, as `ip route ... table` reads them (ip-route(8))."""

from __future__ import annotations

from wgquick.config.grammar import UINT_MAX, GrammarError, shown, strtoul, unquoted
from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping


def own_table(word: str) -> int | None:
    """The number of a table that is written as a number or has a name of the kernel's; None for all other words.

    Table 0 means the main table, as for the kernel.
    """
    number = TABLES.get(word)
    if number is None:
        number = strtoul(word)
    return MAIN_TABLE if number == 0 else number


def is_main(word: str) -> bool:
    """Whether a file's Table means the main table, by name or by number."""
    return own_table(word) == MAIN_TABLE


def is_separate(word: str) -> bool:
    """Whether a file's Table means another table than the kernel's own, so that only further rules use it."""
    return word not in ("", "auto", "off") and own_table(word) not in TABLES.values()


def table_number(word: str, rt_tables: Mapping[str, int]) -> int:
    """The table's number; `rt_tables` has the host's names and may lack the kernel's own three.

    Table 0 means the main table, as for the kernel. GrammarError if the word is neither a name nor a number.
    """
    number = rt_tables.get(word)
    if number is None:
        number = own_table(word)
    if number is None or number > UINT_MAX:
        what = f"Table {shown(word)} is not a routing table"
        remedy = "write off, auto, a number, or a name from /etc/iproute2/rt_tables"
        raise GrammarError("table", what, unquoted(word) or remedy)
    return number or MAIN_TABLE
