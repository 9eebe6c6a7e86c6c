"""Routing tables by name or number, as `ip route ... table` reads them (ip-route(8))."""

from __future__ import annotations

from wgquick.config.grammar import UINT_MAX, GrammarError, shown, strtoul, unquoted
from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping


def table_number(word: str, rt_tables: Mapping[str, int]) -> int:
    """The table's number; `rt_tables` has the host's names and may lack the kernel's own three.

    Table 0 means the main table, as for the kernel. GrammarError if the word is neither a name nor a number.
    """
    number = rt_tables.get(word, TABLES.get(word))
    if number is None:
        number = strtoul(word)
    if number is None or number > UINT_MAX:
        what = f"Table {shown(word)} is not a routing table"
        remedy = "write off, auto, a number, or a name from /etc/iproute2/rt_tables"
        raise GrammarError("table", what, unquoted(word) or remedy)
    return number or MAIN_TABLE
