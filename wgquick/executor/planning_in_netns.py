"""Plans of tunnels in a named network namespace: the steps for the namespace, and the steps inside."""

from __future__ import annotations

from wgquick.config.location import target_of
from wgquick.errors import WgqError, not_up
from wgquick.executor import netns, netns_records, planning
from wgquick.lean import TYPE_CHECKING, cast
from wgquick.plan.planned import Plan, Planned
from wgquick.transcript import note

if TYPE_CHECKING:
    from collections.abc import Callable

    from wgquick.config.settings import Settings
    from wgquick.executor.netns_records import NetnsRecord
    from wgquick.executor.planning import PlanInputs
    from wgquick.executor.reloading import ReloadOptions
    from wgquick.ports import Host


def plan(
    verb: str,
    name: str,
    settings: Settings | None,
    inputs: PlanInputs,
    reload_options: ReloadOptions,
    where: NetnsRecord | None,
    new: Callable[[Host, str], object],
) -> Plan:
    """The plan of a verb; `where` is the tunnel's record. `new` makes a host for a planned namespace."""
    if verb == "down":
        return _down(name, settings, inputs, where)
    if settings is None:
        raise WgqError("there is no configuration", where=name)
    if not netns.is_inside(name, inputs.host) and inputs.host.rtnl.link(name) is None:
        if verb != "up":
            raise not_up(name, target=target_of(name, settings.path))
        return _up(settings, inputs, reload_options, new)
    if reasons := netns.moved(settings, inputs.host):
        gone = _down(name, settings, inputs, where)
        there = Plan("up", name)
        if settings.extras.netns:
            there = _up(settings, inputs, reload_options, new)
        return Plan(verb, name, (*gone.changes, *there.changes), reasons)
    there_name = where.netns if where is not None else ""
    inside = settings._replace(extras=settings.extras._replace(netns=there_name))
    with inputs.host.inside(there_name) as inner:
        make = {"up": planning.plan_up, "reload": planning.plan_reload, "diff": planning.diff}[verb]
        return make(inside, inputs._replace(host=inner, netns=there_name), reload_options)


def _up(
    settings: Settings, inputs: PlanInputs, reload_options: ReloadOptions, new: Callable[[Host, str], object]
) -> Plan:
    """The plan of up: create the namespace if it does not exist, and bring the tunnel up inside."""
    host, wanted = inputs.host, settings.extras.netns
    netns.check_settings(settings, host, inputs.options)
    path = host.netns.path_of(wanted)
    enter = Planned("~", "EnterNamespace", (f"nsenter --net={path}",))
    if host.netns.exists(wanted):
        with host.inside(wanted) as inner:
            found = planning.plan_up(settings, inputs._replace(host=inner, netns=wanted), reload_options)
        return found._replace(changes=(enter, *found.changes))
    made = Planned("+", "AddNamespace", (f"ip netns add {wanted}",), undo=(f"ip netns delete {wanted}",))
    loopback = Planned("~", "SetLink", ("ip link set up dev lo",))
    fresh = cast("Host", new(host, wanted))
    found = planning.plan_up(settings, inputs._replace(host=fresh, netns=wanted), reload_options)
    return found._replace(changes=(made, enter, loopback, *found.changes))


def _down(name: str, settings: Settings | None, inputs: PlanInputs, where: NetnsRecord | None) -> Plan:
    host = inputs.host
    if where is None:
        return planning.plan_down(name, settings, inputs)
    if not netns_records.is_reachable(where, host):
        return Plan("down", name, (), (), (note(f"The network namespace {where.netns} is gone already"),))
    enter = Planned("~", "EnterNamespace", (f"nsenter --net={host.netns.path_of(where.netns)}",))
    with host.inside(where.netns) as inner:
        found = planning.plan_down(name, settings, inputs._replace(host=inner))
    others = [each for each in netns_records.names(host) if each != name]
    is_last = all(
        (other := netns_records.record_of(each, host)) is None or other.netns != where.netns for each in others
    )
    gone = Planned("-", "DeleteNamespace", (f"ip netns delete {where.netns}",))
    last = (gone,) if where.is_ours and is_last else ()
    return found._replace(changes=(enter, *found.changes, *last))
