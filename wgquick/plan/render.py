"""Steps as the lines of wg-quick's transcript: `[#] ip ...`, though no `ip` is run."""

from __future__ import annotations

from wgquick.lean import TYPE_CHECKING
from wgquick.net import MAIN_TABLE, without_keys
from wgquick.plan.steps import (
    AddAddress,
    AddLink,
    AddRoute,
    AddRule,
    DeleteLink,
    DeleteRule,
    Note,
    RunHook,
    SetFwmark,
    SetMtuUp,
    SetSysctl,
)

if TYPE_CHECKING:
    from wgquick.net import Rule
    from wgquick.plan.steps import Step


def lines(step: Step) -> tuple[str, ...]:
    """The step's lines; none for what was announced (set_config), or is said by who does it (DNS, firewall)."""
    text = line(step)
    return (text,) if text else ()


def line(step: Step) -> str:
    """The step's line, or ""."""
    match step:
        case AddLink(name):
            return f"[#] ip link add dev {name} type wireguard"
        case DeleteLink(name):
            return f"[#] ip link delete dev {name}"
        case RunHook(_, _, command):
            return f"[#] {without_keys(command)}"
        case SetFwmark(name, fwmark):
            return f"[#] wg set {name} fwmark {fwmark}"
        case AddAddress(name, address):
            return f"[#] ip {_family(address.address)} address add {address.text} dev {name}"
        case SetMtuUp(name, mtu):
            return f"[#] ip link set mtu {mtu} up dev {name}"
        case AddRoute(route, word):
            table = f" table {word}" if word else ""
            to = route.destination
            return f"[#] ip {_family(to.address)} route add {to} dev {route.device}{table}"
        case AddRule(rule):
            return f"[#] ip -{rule.family} rule add {_added(rule)}"
        case DeleteRule(rule):
            return f"[#] ip -{rule.family} rule delete {_deleted(rule)}"
        case SetSysctl(key, value, _, held):
            return "" if held else f"[#] sysctl -q {key}={value}"
        case Note(text):
            return text
        case _:
            return ""


def _family(address: bytes) -> str:
    return "-4" if len(address) == 4 else "-6"


def _table(rule: Rule) -> str:
    return "main" if rule.table == MAIN_TABLE else str(rule.table)


def _added(rule: Rule) -> str:
    if rule.fwmark is not None:
        return f"not fwmark {rule.fwmark} table {rule.table}"
    return f"table {_table(rule)} suppress_prefixlength 0"


def _deleted(rule: Rule) -> str:
    return f"table {rule.table}" if rule.fwmark is not None else f"table {_table(rule)} suppress_prefixlength 0"
