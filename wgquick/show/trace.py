"""A trace as text, a line for each rule, route, peer and endpoint, and as JSON."""

from __future__ import annotations

import json
from errno import errorcode
from typing import TYPE_CHECKING

from wgquick.diagnosis.fib import PROTOCOLS, mark_text, text_of
from wgquick.diagnosis.trace import DELIVERED, EndpointStep, PeerStep, RouteStep, RuleStep
from wgquick.net import address_text
from wgquick.routing import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wgquick.diagnosis.trace import Trace, TraceStep
    from wgquick.routing import PolicyRule, Ports, Query

_OUTER = ("", "outer-")


def json_text(found: Trace) -> str:
    """One JSON document: destination, steps, verdict, peer, endpoint, uplink, source, mtu and reason."""
    return json.dumps(as_json(found), indent=2) + "\n"


def as_json(found: Trace) -> dict[str, object]:
    """The document as a value; a missing field is None."""
    document: dict[str, object] = {
        "destination": address_text(found.query.destination),
        "steps": [_step(step) for step in found.steps],
        "verdict": found.verdict,
        "peer": str(found.peer) if found.peer else None,
        "endpoint": str(found.endpoint) if found.endpoint else None,
        "uplink": found.uplink or None,
        "source": _address(found.source),
        "mtu": found.mtu or None,
        "reason": found.reason,
    }
    if found.probe:
        drops = [each._asdict() for each in found.probe.dropped]
        document["probe"] = {
            "error": errorcode.get(found.probe.error),
            "dropped": drops,
            "unseen": list(found.probe.unseen),
        }
    return document


def _address(address: bytes | None) -> str | None:
    return address_text(address) if address else None


def _step(step: TraceStep) -> dict[str, object]:
    match step:
        case RuleStep(depth, passed):
            rule = passed.rule
            return {
                "kind": f"{_OUTER[bool(depth)]}rule",
                "priority": rule.priority,
                "table": passed.table or rule.table or None,
                "action": rule.action,
                "matched": passed.decides,
                "text": rule_text(rule, {}),
                "why": passed.why,
            }
        case RouteStep():
            return _route(step)
        case PeerStep():
            return {
                "kind": "peer",
                "link": step.link,
                "public_key": str(step.public_key) if step.public_key else None,
                "allowed_ip": str(step.network) if step.network else None,
                "last_handshake": int(step.last_handshake) or None,
            }
        case EndpointStep():
            return {
                "kind": "endpoint",
                "link": step.link,
                "endpoint": str(step.address) if step.address else None,
                "mark": step.mark or None,
            }


def _route(step: RouteStep) -> dict[str, object]:
    walk = step.walk
    return {
        "kind": f"{_OUTER[bool(step.depth)]}route",
        "type": walk.kind or None,
        "destination": text_of(walk.route.destination) if walk.route else None,
        "table": walk.table or None,
        "link": walk.link or None,
        "gateway": _address(walk.gateway),
        "source": _address(walk.source),
        "metric": walk.route.metric if walk.route else None,
        "next_hops": len(walk.hops) or None,
        "mtu": step.mtu or None,
        "mss": step.mss or None,
        "neighbour": step.neighbour.state if step.neighbour else None,
        "error": walk.reason or None,
        "way_back": step.back or None,
        "other_namespace": step.is_elsewhere,
        "kernel": step.kernel,
    }


def text(found: Trace, names: Mapping[int, str], now: float) -> str:
    """The trace for people. `names` are the tables' names; ages are relative to `now` (seconds since 1970)."""
    return "".join(f"{line}\n" for line in _lines(found, names, now))


def _lines(found: Trace, names: Mapping[int, str], now: float) -> Iterator[str]:
    depth = 0
    yield _packet(found.query)
    for step in found.steps:
        if step.depth > depth:
            depth = step.depth
            yield _outer(found, depth)
        match step:
            case RuleStep(_, passed):
                yield f"  rule {passed.rule.priority}: {rule_text(passed.rule, names)}: {passed.why}"
            case RouteStep():
                yield from _route_lines(step, found, names)
            case PeerStep():
                yield from _peer_lines(step, now)
            case EndpointStep():
                yield f"  endpoint {step.address or 'unknown (EDESTADDRREQ)'}"
    yield from _end(found)


def _end(found: Trace) -> Iterator[str]:
    words = found.verdict
    if found.verdict == DELIVERED:
        words += f" through {_via(found)}" if found.uplink != LOOPBACK else " to this host itself"
        if found.mtu:
            words += f", largest packet {found.mtu}, TCP MSS {found.mss}"
        yield words
        if found.reason:
            yield f"but {found.reason}"
        return
    yield f"{words}: {found.reason}"


def _via(found: Trace) -> str:
    links = list(found.links)
    path = ", then ".join(links) if links else "an unknown link"
    hidden = any(step.is_elsewhere for step in found.steps if isinstance(step, RouteStep))
    return f"{path} (in another namespace)" if hidden else path


def _packet(query: Query) -> str:
    words = f"{address_text(query.destination)} from {address_text(query.source) if query.source else 'this host'}"
    if query.input_link:
        words += f", arriving on {query.input_link}"
    if query.output_link:
        words += f", bound to {query.output_link}"
    return f"{words}{_rest(query)}:"


def _rest(query: Query) -> str:
    words = f", {PROTOCOLS.get(query.protocol, query.protocol)}" if query.protocol else ""
    if query.destination_port:
        words += f" port {query.destination_port}"
    if query.mark:
        words += f", mark {query.mark:#x}"
    return f"{words}, user {query.uid}" if query.uid else words


def _outer(found: Trace, depth: int) -> str:
    step = next(step for step in found.steps if isinstance(step, RouteStep) and step.depth == depth)
    where = ", in the namespace of the device's socket" if step.is_elsewhere else ""
    return f"outer packet to {address_text(step.query.destination)}{_rest(step.query)}{where}:"


def _route_lines(step: RouteStep, found: Trace, names: Mapping[int, str]) -> Iterator[str]:
    walk, route = step.walk, step.walk.route
    if walk.error or route is None:
        if not found.reason.endswith(walk.reason):  # the last line has it otherwise
            yield f"  {walk.reason}"
    else:
        yield f"  route {route_text(step, names)}"
        source = f"source {address_text(walk.source)}, " if walk.source else ""
        yield f"    {source}MTU {step.mtu}, TCP MSS {step.mss}"
        if len(walk.hops) > 1:
            yield f"    one of {len(walk.hops)} next hops; the kernel chooses one by a hash"
        if step.neighbour:
            yield f"    {address_text(walk.gateway or step.query.destination)} is {_neighbour(step)}"
        if step.back:
            yield f"    replies are dropped: {step.back}"
    if step.kernel not in ("agrees", "not asked"):
        yield f"    the kernel disagrees: {step.kernel}"


def _neighbour(step: RouteStep) -> str:
    known = step.neighbour
    if known is None:
        return ""
    return f"{known.link_address} ({known.state})" if known.link_address else known.state


def route_text(step: RouteStep, names: Mapping[int, str]) -> str:
    """A route roughly as ip-route(8) prints it."""
    walk, route = step.walk, step.walk.route
    words = [] if walk.kind == "unicast" else [walk.kind]
    if route:
        words.append(text_of(route.destination))
    if walk.gateway:
        words += ["via", address_text(walk.gateway)]
    words += ["dev", walk.link]
    if route and route.table:
        words += ["table", names.get(route.table, str(route.table))]
    if route and route.metric:
        words += ["metric", str(route.metric)]
    return " ".join(words)


def _peer_lines(step: PeerStep, now: float) -> Iterator[str]:
    if step.public_key is None:
        yield f"  no peer of {step.link} has the destination in its AllowedIPs (ENOKEY)"
        return
    yield f"  peer {step.public_key} of {step.link}, AllowedIPs {step.network}"
    if step.last_handshake:
        yield f"    last handshake {max(0, int(now - step.last_handshake))} s ago"
    else:
        yield "    no handshake yet"


def rule_text(rule: PolicyRule, names: Mapping[int, str]) -> str:
    """A rule as ip-rule(8) prints it."""
    words = ["not"] if rule.inverted else []
    words += ["from", text_of(rule.source) if rule.source else "all"]
    if rule.destination:
        words += ["to", text_of(rule.destination)]
    if rule.tos_mask:
        words += ["tos", f"{rule.tos:#04x}"]
    if rule.fwmask:
        words += ["fwmark", mark_text(rule.fwmark, rule.fwmask)]
    for word, link in (("iif", rule.input_link), ("oif", rule.output_link)):
        if link:
            words += [word, link]
    if rule.uids:
        words += ["uidrange", f"{rule.uids[0]}-{rule.uids[1]}"]
    if rule.protocol:
        words += ["ipproto", str(PROTOCOLS.get(rule.protocol, rule.protocol))]
    for word, ports in (("sport", rule.source_ports), ("dport", rule.destination_ports)):
        if ports:
            words += [word, _ports(ports)]
    words += rule.unread
    return " ".join([*words, *_action(rule, names)])


def _ports(ports: Ports) -> str:
    if ports.mask:
        return f"{ports.first:#x}/{ports.mask:#x}"
    return str(ports.first) if ports.first == ports.last else f"{ports.first}-{ports.last}"


def _action(rule: PolicyRule, names: Mapping[int, str]) -> list[str]:
    if rule.action == "goto":
        return ["goto", str(rule.target)]
    if rule.action != "lookup":
        return [rule.action]
    words = ["lookup", "[l3mdev-table]" if rule.l3mdev else names.get(rule.table, str(rule.table))]
    if rule.suppress_prefixlength is not None:
        words += ["suppress_prefixlength", str(rule.suppress_prefixlength)]
    if rule.suppress_group is not None:
        words += ["suppress_ifgroup", str(rule.suppress_group)]
    return words
