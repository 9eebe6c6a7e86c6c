"""`wgq trace` agrees with the kernel: random rules, routes, links and packets, tried on both.

500 packets per run; 10,000 with --hypothesis-profile=explore.
"""

from __future__ import annotations

import json
import random
import subprocess
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.namespaces import namespace
from tests.netns import fibs
from tests.waiting import until
from wgquick.diagnosis.fib import walk
from wgquick.diagnosis.keys import public_key_of
from wgquick.diagnosis.reverse import arrive
from wgquick.diagnosis.trace import agrees, answer_text
from wgquick.system.routes import Routing
from wgquick.system.snapshot import snapshot

if TYPE_CHECKING:
    from wgquick.routing import Snapshot

QUESTIONS = 50
EXAMPLES = 200 if settings.get_current_profile_name() == "explore" else 10


def compare(seed: int, questions: int = QUESTIONS) -> list[str]:
    """The packets on which the kernel disagrees, as text; runs in the calling process's namespace."""
    draw = random.Random(seed)
    fibs.build(draw)
    seen = settled()
    wrong = []
    with Routing() as routing:
        for _ in range(questions):
            query = fibs.query(draw, seen)
            go = arrive if query.input_link else walk
            answer = routing.ask(query)
            found = go(seen, query)
            ways = [found, *(go(seen, query, hop) for hop in found.hops[1:])]
            if not any(agrees(seen, query, each, answer) for each in ways):
                wrong.append(f"{query}: the kernel says {answer_text(answer)}, and the walk {found}")
    return wrong


def settled() -> Snapshot:
    """A snapshot after the last change, also those that the kernel makes in its work queues."""
    until(is_quiet, "linkwatch_event() and addrconf_dad_work() of the kernel have run")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)  # it waits for rtnl_lock(), which they hold
    return snapshot(public_key_of)


def is_quiet() -> bool:
    """Whether the carriers are as the ends of each pair of links, and IPv6 addresses have their local routes."""
    links = {link["ifname"]: link for link in listed("link")}
    up = {name for name, link in links.items() if "UP" in link["flags"]}
    running = {name for name, link in links.items() if link["operstate"] == "UP"}
    if running != {name for name in up if links[name].get("link") in up}:
        return False
    local = {(route["dst"], route["dev"]) for route in listed("-6", "route", "show", "table", "local")}
    return all(
        (address["local"], name) in local
        for link in listed("-6", "address")
        if (name := link["ifname"]) in running
        for address in link["addr_info"]
    )


def listed(*words: str) -> list[dict[str, Any]]:
    """The output of `ip -json`."""
    printed = subprocess.run(["ip", "-json", *words], stdout=subprocess.PIPE, text=True, check=True).stdout
    found: list[dict[str, Any]] = json.loads(printed or "[]")
    return found


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**64))
def test_the_trace_agrees_with_the_kernel(seed: int) -> None:
    with namespace() as made:
        assert made.call(compare, seed) == []
