"""Names of routing tables, read as by iproute2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.namespaces import host
from wgquick.system.rt_tables import table_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.namespaces import Namespace

LINES = ["100 plain", "010 zero", "0x20 hex", "0X21 no1", "1_0 no2", "-1 no3", "+5 plus", "099 nines", "\t201 tab"]
LINES += [
    "202 note # x",
    "203 tail#x",
    "#204 no4",
    "205",
    "206 first second",
    "4294967295 no5",
    "213 crlf\r",
    "x no6",
]
NAMES = [
    "plain",
    "zero",
    "hex",
    "plus",
    "nines",
    "tab",
    "note",
    "tail#x",
    "tail",
    "first",
    "second",
    "crlf",
    "hidden",
]
NAMES += ["no1", "no2", "no3", "no4", "no5", "X21", "_0", "after"]


@pytest.fixture(scope="module")
def machine() -> Iterator[Namespace]:
    with host() as made:
        made.run(["ip", "tuntap", "add", "dev", "tun0", "mode", "tun"])
        made.run(["ip", "link", "set", "dev", "tun0", "up"])
        lines = "\n".join(LINES)
        made.run(["sh", "-c", "mkdir -p /etc/iproute2/rt_tables.d"])
        made.run(["sh", "-c", "cat > /etc/iproute2/rt_tables.d/names.conf"], input=lines)
        made.run(["sh", "-c", "cat > /etc/iproute2/rt_tables.d/.hidden.conf"], input="9 hidden")
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_a_name_means_the_same_table_as_to_ip(machine: Namespace, name: str) -> None:
    number = machine.call(table_names).get(name)
    route = ["198.51.100.0/24", "dev", "tun0", "table"]
    accepted = machine.run(["ip", "route", "add", *route, name], check=False).returncode == 0
    assert accepted == (number is not None)
    if number is not None:
        machine.run(["ip", "route", "delete", *route, str(number)])
