"""`wgq trace` agrees with the kernel: random rules, routes, links and packets, tried on both.

500 packets per run; 10,000 with --hypothesis-profile=explore.
"""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.namespaces import namespace
from tests.netns import fibs
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
    """A snapshot after the last change: linkwatch_event() of the kernel updates carriers later."""
    before = snapshot(public_key_of)
    deadline = time.monotonic() + 30
    while True:
        time.sleep(0.05)
        after = snapshot(public_key_of)
        if (after.routes, after.links, after.rules) == (before.routes, before.links, before.rules):
            return after
        assert time.monotonic() < deadline, "the namespace does not settle"
        before = after


@settings(max_examples=EXAMPLES)
@given(st.integers(0, 2**64))
def test_the_trace_agrees_with_the_kernel(seed: int) -> None:
    with namespace() as made:
        assert made.call(compare, seed) == []
