"""The kill switch, and answers to inbound connections on the link they arrived on, through nft(8).

Each has its own table, which one transaction sets or changes, so that the rules always exist. It runs `nft`, as
these rules have sets and expressions that the codec in `nft` does not support.

The kill switch rejects packets that leave or are forwarded, except:

1. on the loopback or the tunnel's link,
2. UDP to an endpoint, with the tunnel's fwmark if it is known,
3. a reply from the tunnel's port to a peer that sent first, as peers may roam,
4. DNS queries of `wgq watch` to the given servers, with the tunnel's fwmark or QUERY_MARK,
5. DHCP and neighbour discovery, which the uplink needs,
6. to an excluded network, and replies of connections that `keep_inbound` keeps.

It stays until it is removed, even without the link, the daemon and wgq.

Each kill switch allows what the others allow; otherwise each would block the other tunnels. So a table has its own
rules in separate chains, and a copy of all others' in the chains `others-output` and `others-forward`. One run at a
time reads and changes them.
"""

from __future__ import annotations

import os

from wgquick.errors import OperationError
from wgquick.lean import TYPE_CHECKING, NamedTuple
from wgquick.net import QUERY_MARK, address_text
from wgquick.system import programs, runtime

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wgquick.net import Guard

_INBOUND_BIT = 0x40000000
_REMEDY = "The kill switch and keep-inbound need nftables (apt install nftables)."


def guard(name: str, wanted: Guard) -> None:
    """Set the kill switch of an interface, or change what it allows.

    A change replaces the rules alone, which the kernel does at one moment. A table that is deleted and made again
    drops all packets for some microseconds: the old chains stay hooked without rules after the new ones are active
    (net/netfilter/nf_tables_api.c, nf_tables_commit).
    """
    table = _table("guard", name)
    own = _own_rules(name, wanted)
    with runtime.locked_guards():
        others = _other_guards(table)
        change = (
            _changed(table, own) if _is_whole(_listed("table", "inet", table)) else _replaced(table, _chains(own))
        )
        _run(change + _shared({**others, table: own}))


def remove_guard(name: str) -> None:
    """Remove the kill switch; does nothing if there is none."""
    table = _table("guard", name)
    with runtime.locked_guards():
        _run(_removed(table) + _shared(_other_guards(table)))


class _Own(NamedTuple):
    """The rules of one kill switch, as lines; a rule may have several."""

    output: tuple[str, ...]
    forward: tuple[str, ...]


def _other_guards(table: str) -> dict[str, _Own]:
    """The rules of the other existing kill switches, by their tables."""
    names = (line.partition("table inet ")[2] for line in _listed("tables").splitlines())
    tables = [each for each in names if each.startswith("wgq-guard-") and each != table]
    listed = {each: _listed("table", "inet", each) for each in tables}
    return {
        each: _Own(*(_chain(text, f"own-{hook}") for hook in _Own._fields))
        for each, text in listed.items()
        if "chain others-output {" in text
    }


def _listed(*what: str) -> str:
    program = _program()
    return programs.output([program, "list", *what], _environment(), b"")[1] if program else ""


def _chain(text: str, name: str) -> tuple[str, ...]:
    """The rules of a chain in the output of `nft list table`."""
    rules = text.partition(f"\tchain {name} {{\n")[2].partition("\n\t}")[0]
    return tuple(line.strip() for line in rules.splitlines())


def _shared(guards: Mapping[str, _Own]) -> str:
    """The commands that give each kill switch the rules of the others."""
    script = ""
    for table in guards:
        for hook in _Own._fields:
            rules = [line for other, own in guards.items() if other != table for line in getattr(own, hook)]
            chain = f"others-{hook}"
            script += f"flush chain inet {table} {chain}\n"
            script += f"table inet {table} {{\n    chain {chain} {{\n        {_joined(rules)}\n    }}\n}}\n"
    return script


def is_guarded(name: str) -> bool:
    """Whether the interface has a kill switch."""
    return _exists(_table("guard", name))


def keeps_inbound(name: str) -> bool:
    """Whether the rules of `keep_inbound` exist."""
    return _exists(_table("inbound", name))


def _exists(table: str) -> bool:
    program = _program()
    if program is None:
        return False
    return programs.output([program, "list", "table", "inet", table], _environment(), b"")[0] == 0


def keep_inbound(name: str, mark: int) -> None:
    """Answer connections from other links on these links: their replies get the tunnel's fwmark.

    An incoming packet marks its connection, with another value than the tunnel's fwmark: the first one, or the next
    one of a connection that is older than the rules. Incoming packets get the tunnel's fwmark too, for a strict
    reverse path filter. The connection's mark may become the tunnel's fwmark, as wg-quick's rules save it for UDP.
    """
    marks = f"{{ {mark:#x}, {_inbound_mark(mark):#x} }}"
    of_connection, is_inbound = f"ct mark {marks}", "ct direction original fib daddr type local"
    beside = f'iifname != {{ "lo", "{name}" }}'
    rules = f"""
    chain prerouting {{
        type filter hook prerouting priority mangle + 1; policy accept;
        {beside} {is_inbound} ct mark != {marks} ct mark set {_inbound_mark(mark):#x}
        {beside} {of_connection} {is_inbound} meta mark set {mark:#x}
        {beside} {of_connection} ct direction reply meta mark set {mark:#x}
    }}
    chain output {{
        type route hook output priority mangle + 1; policy accept;
        {of_connection} ct direction reply meta mark set {mark:#x}
    }}"""
    _run(_replaced(_table("inbound", name), rules))


def _inbound_mark(mark: int) -> int:
    """The mark of inbound connections: neither the tunnel's fwmark nor 0, the mark of all others."""
    return mark ^ _INBOUND_BIT or mark ^ _INBOUND_BIT >> 1


def forget_inbound(name: str) -> None:
    """Remove the rules of `keep_inbound`; does nothing if there are none."""
    _run(_removed(_table("inbound", name)))


def _own_rules(name: str, wanted: Guard) -> _Own:
    each = [_rules_of(name, guard) for guard in (wanted, *wanted.also)]
    return _Own(*(tuple(dict.fromkeys(rule for own in each for rule in own[hook])) for hook in range(2)))


def _rules_of(name: str, wanted: Guard) -> _Own:
    marked = f"meta mark {wanted.mark:#x} " if wanted.mark else ""
    passed = []
    for family, kind in ((4, "ip"), (6, "ip6")):
        sockets = [
            f"{address_text(prefix.address)} . {port}"
            for prefix, port in wanted.endpoints
            if prefix.family == family
        ]
        if sockets:
            passed.append(f"{marked}{kind} daddr . udp dport {{ {', '.join(sockets)} }} accept")
    answers = [f"{marked}udp sport {wanted.port} ct direction reply accept"] if wanted.port else []
    if wanted.inbound:
        mark = f"{{ {wanted.mark:#x}, {_inbound_mark(wanted.mark):#x} }}" if wanted.mark else "0"
        answers.append(f"ct mark {mark} ct direction reply accept")
    lans = [
        f"{kind} daddr {{ {', '.join(map(str, networks))} }} accept"
        for family, kind in ((4, "ip"), (6, "ip6"))
        if (networks := [each for each in wanted.networks if each.family == family])
    ]
    host = [
        *passed,
        *_queries(wanted),
        "udp sport 68 udp dport 67 accept",
        "ip6 daddr { fe80::/10, ff02::/16 } udp sport 546 udp dport 547 accept",
        "icmpv6 type { nd-router-solicit, nd-router-advert, nd-neighbor-solicit, nd-neighbor-advert } accept",
        *(_lookups(wanted) if wanted.dns else ()),
    ]
    return _Own(
        (f'oifname {{ "lo", "{name}" }} accept', *host, *answers, *lans),
        (f'iifname "{name}" accept', f'oifname "{name}" accept', *answers, *lans),
    )


def _lookups(wanted: Guard) -> Iterator[str]:
    """The queries of all programs while names are looked up: the host's resolver may be another process."""
    queries = "meta l4proto { tcp, udp } th dport { 53, 853 } accept"
    if not wanted.resolvers:
        yield queries
    for family, kind in ((4, "ip"), (6, "ip6")):
        servers = ", ".join(address_text(each.address) for each in wanted.resolvers if each.family == family)
        if servers:
            yield f"{kind} daddr {{ {servers} }} {queries}"


def _queries(wanted: Guard) -> Iterator[str]:
    for family, kind in ((4, "ip"), (6, "ip6")):
        servers = ", ".join(address_text(each.address) for each in wanted.servers if each.family == family)
        if servers:
            mark = f"meta mark {wanted.mark or QUERY_MARK:#x}"
            yield f"{mark} {kind} daddr {{ {servers} }} meta l4proto {{ tcp, udp }} th dport 53 accept"


_VERDICT = ("jump own-{0}", "jump others-{0}", "reject with icmpx admin-prohibited")


def _is_whole(text: str) -> bool:
    """Whether a table, as `nft list table` shows it, has all chains of a kill switch."""

    def is_set(hook: str) -> bool:
        policy, *rules = _chain(text, hook) or ("",)
        has_chains = all(f"chain {kind}-{hook} {{" in text for kind in ("own", "others"))
        return has_chains and policy.endswith("policy drop;") and rules == [each.format(hook) for each in _VERDICT]

    return "flags dormant" not in text and all(is_set(hook) for hook in _Own._fields)


def _changed(table: str, own: _Own) -> str:
    """The commands that replace the own rules of a kill switch."""
    script = ""
    for hook in _Own._fields:
        script += f"flush chain inet {table} own-{hook}\n"
        script += (
            f"table inet {table} {{\n    chain own-{hook} {{\n        {_joined(getattr(own, hook))}\n    }}\n}}\n"
        )
    return script


def _chains(own: _Own) -> str:
    chains = ""
    for hook in _Own._fields:
        chains += f"""
    chain own-{hook} {{
        {_joined(getattr(own, hook))}
    }}
    chain others-{hook} {{
    }}
    chain {hook} {{
        type filter hook {hook} priority filter + 5; policy drop;
        {_joined(each.format(hook) for each in _VERDICT)}
    }}"""
    return chains


def _joined(rules: Iterable[str]) -> str:
    return "\n        ".join(rules)


def _table(what: str, name: str) -> str:
    """The table's name. Characters that nft does not accept become /NUMBER/."""
    characters = (each if each.isalnum() or each in "_-." else f"/{ord(each):x}/" for each in name)
    return f"wgq-{what}-{''.join(characters)}"


def _replaced(table: str, rules: str) -> str:
    return f"{_removed(table)}table inet {table} {{{rules}\n}}\n"


def _removed(table: str) -> str:
    """Deletes the table if it exists: adding it first makes the deletion always succeed."""
    return f"table inet {table}\ndelete table inet {table}\n"


def _program() -> str | None:
    """The nft on PATH or in the usual places."""
    return programs.find("nft") or programs.find("nft", programs.DEFAULT_PATH)


def _run(script: str) -> None:
    program = _program()
    if program is None:
        raise OperationError("cannot find nft", remedy=_REMEDY)
    status, _, errors = programs.output([program, "-f", "-"], _environment(), script.encode())
    if status:
        first = next(iter(errors.strip().splitlines()), "")
        raise OperationError(f"`nft' failed with status {status}: {first}", remedy=_REMEDY, status=status)


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
