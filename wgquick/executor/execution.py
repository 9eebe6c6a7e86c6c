"""Applies steps: writes each one's undo to the journal, says its line, does it; and takes back what was done."""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, ESRCH
from itertools import groupby
from os import strerror

from wgquick.device import DeviceConfig
from wgquick.errors import BatchError, HookError, OperationError, SignalError, WgqError
from wgquick.executor import mark, observe, udp_port
from wgquick.lean import TYPE_CHECKING, cast, suppress
from wgquick.net import Prefix
from wgquick.plan import down as plan_down
from wgquick.plan import render
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddLink,
    AddRoute,
    AddRule,
    DeleteLink,
    DeleteRule,
    ReleaseSysctl,
    RemoveFirewall,
    RunHook,
    SetDevice,
    SetDns,
    SetFwmark,
    SetMtuUp,
    SetSysctl,
    UnsetDns,
    undo,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from wgquick.config.settings import Settings
    from wgquick.executor.journal import Journal
    from wgquick.options import Options
    from wgquick.plan.steps import Step
    from wgquick.ports import Host

# What the kernel answers when the thing to be removed is no longer there.
_GONE = (ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL, ENXIO)
_BATCHES = (AddAddress, AddRoute)
_BY_IP = (SetMtuUp, AddRule)  # and the batches: wg-quick does these by ip(8)
_NO_PREFERENCE = "`ip rule' shows it: another's, as there is no preference left above 0 for one of our own."
_REFUSED = 2  # the status of ip(8) where the kernel refuses, and so of wg-quick


class Execution:
    """One run of up or down on a host; `say` takes the transcript, a line or several joined by newlines."""

    def __init__(
        self,
        host: Host,
        options: Options,
        say: Callable[[str], None],
        journal: Journal,
        path: str = "",
        settings: Settings | None = None,
    ) -> None:
        self._host = host
        self._options = options
        self._say = say
        self._journal = journal
        self._path = path
        self._settings = settings
        self._promised: list[Step] = []
        self._ifindex = 0
        self._awaits_daemon = False

    def apply(self, steps: Iterable[Step]) -> None:
        """Take the steps in order, neighbouring addresses and routes in one batch each."""
        for kind, group in groupby(steps, type):
            if kind in _BATCHES:
                self._apply_batch(list(group))
            else:
                for step in group:
                    self._apply_one(step)

    def _apply_one(self, step: Step) -> None:
        taken_back = undo(step)
        if taken_back is not None:
            self._journal.promise(taken_back)
            self._promised.append(taken_back)
        if isinstance(step, AddLink):
            self._add_link(step.name)
            self._identify(step.name)
        else:
            self._tell(step)
            self._do_as_wg_quick(step)

    def _do_as_wg_quick(self, step: Step) -> None:
        """Do it; a refusal ends with the status that the command had which wg-quick would have run."""
        try:
            self._do(step)
        except OperationError as error:
            if isinstance(step, _BY_IP):
                error.status = _REFUSED
            self._reconsider(step, error)
            raise

    def _reconsider(self, step: Step, error: OperationError) -> None:
        """Drop the undo of a refused step where it would take what is another's, or fail as the step did.

        Raises OperationError in other words where a port was refused.
        """
        match step:
            case AddRule() if error.errno == EEXIST:
                self._promised.pop()
                error.remedy = _NO_PREFERENCE
            case SetDns():  # no later up is to wait for a resolvconf that fails at everything
                self.take_back(self._promised[-1:])
                self._promised.pop()
            case SetMtuUp(name) if error.errno in udp_port.REFUSALS:
                raise udp_port.refused(name, self._host.wireguard.get(name).listen_port, error.errno, self._host)
            case SetDevice(name, config) if config.listen_port and error.errno in udp_port.REFUSALS:
                raise udp_port.refused(name, config.listen_port, error.errno, self._host)

    def _apply_batch(self, steps: Sequence[Step]) -> None:
        """Lines are said up to the first refused item, as if each had been a command of its own."""
        try:
            self._send(steps)
        except BatchError as error:
            index, errno = error.failures[0]
            self._say("\n".join(map(render.line, steps[: index + 1])))
            raise refused(steps[index], errno) from None
        self._say("\n".join(map(render.line, steps)))

    def _send(self, steps: Sequence[Step]) -> None:
        if isinstance(steps[0], AddAddress):
            words = [step.address for step in cast("Sequence[AddAddress]", steps)]
            self._host.rtnl.add_addresses(steps[0].name, [Prefix(w.address, w.length) for w in words])
        else:
            self._host.rtnl.add_routes([step.route for step in cast("Sequence[AddRoute]", steps)])

    def _tell(self, step: Step) -> None:
        text = "\n".join(self._words(step))
        if text:
            self._say(text)

    def _words(self, step: Step) -> tuple[str, ...]:
        """DNS and firewall have the words of whatever carries them out; all else has wg-quick's."""
        match step:
            case SetDns(name, mode, servers, search, full):
                return self._host.dns.set_lines(mode, name, servers, search, full)
            case UnsetDns(name, mode):
                return self._host.dns.unset_lines(mode, name)
            case AddFirewall(_, kind, family):
                return self._host.firewall.add_lines(kind, family)
            case RemoveFirewall(_, kind, family):
                return self._host.firewall.remove_lines(kind, family)
            case _:
                return render.lines(step)

    def _do(self, step: Step) -> None:
        host = self._host
        match step:
            case RunHook():
                self._run_hook(step)
            case SetDevice(name, config):
                host.wireguard.set(name, config)
            case SetFwmark(name, fwmark):
                host.wireguard.set(name, _fwmark(fwmark))
            case SetMtuUp(name, mtu):
                host.rtnl.set_link(name, mtu=mtu)
            case AddRule(rule):
                host.rtnl.add_rule(rule)
            case SetDns(name, mode, servers, search, full):
                host.dns.set(mode, name, servers, search, full)
            case AddFirewall(name, kind, family, addresses, fwmark, port):
                host.firewall.add(kind, name, family, addresses, fwmark, port)
            case SetSysctl(key, value, _, held):
                if not held:
                    host.sysctl.write(mark.parameter(key), value)
            case _:
                self._undo(step)

    def _run_hook(self, step: RunHook) -> None:
        from wgquick.executor import hook

        dns, firewall = (
            any(isinstance(undo, kind) for undo in self._promised) for kind in (UnsetDns, RemoveFirewall)
        )
        seen = hook.variables(step, self._path, self._settings, has_dns=dns, has_firewall=firewall)
        try:
            self._host.hooks.run(step.command, seen)
        except HookError as error:
            raise hook.explained(error, step, self._path) from None

    def _undo(self, step: Step) -> None:
        host = self._host
        match step:
            case DeleteLink(name):
                link = host.rtnl.link(name)
                host.rtnl.delete_link(name)
                self._awaits_daemon |= link is not None and link.kind != "wireguard"
            case DeleteRule(rule):
                host.rtnl.delete_rule(rule)
            case UnsetDns(name, mode):
                host.dns.unset(mode, name)
            case RemoveFirewall(name, kind, family):
                host.firewall.remove(kind, name, family)
            case ReleaseSysctl():
                mark.release(host, step, self._journal.name)

    def _add_link(self, name: str) -> None:
        """The kernel first, then a userspace implementation (wg-quick's add_if), as `backend` allows."""
        if self._options.backend != "userspace" and self._add_kernel_link(name):
            return
        chosen = self._host.userspace.choose()
        if chosen is None:
            raise WgqError(
                "no userspace WireGuard implementation was found",
                remedy="Install wgq with its wgq-userspace, or name one in WG_QUICK_USERSPACE_IMPLEMENTATION.",
            )
        program, why = chosen
        self._refuse_existing(name)
        self._say(f"[!] Using the userspace implementation {program} ({why}).\n[#] {program} {name}")
        self._host.userspace.start(program, name)

    def _identify(self, name: str) -> None:
        """Note which link is ours: another may have its name later, and it another name."""
        if link := self._host.rtnl.link(name):
            self._ifindex = link.ifindex
            self._journal.identify(link.ifindex)

    def _refuse_existing(self, name: str) -> None:
        """A link that somebody else has added meanwhile is not ours to take back."""
        if self._host.rtnl.link(name) is not None:
            self._promised.clear()
            raise WgqError(f"`{name}' already exists")

    def _add_kernel_link(self, name: str) -> bool:
        """Whether the kernel made the link; False where userspace is to be tried instead."""
        self._say(render.line(AddLink(name)))
        try:
            self._host.rtnl.add_wireguard_link(name)
        except OperationError as error:
            # Refused whole: there is nothing to take back, least of all another's link of the same name.
            if (
                self._options.backend == "kernel"
                or error.errno == EEXIST
                or self._host.userspace.kernel_has_wireguard()
            ):
                self._promised.clear()
                if error.errno == EOPNOTSUPP:
                    error.remedy = (
                        "This kernel has no WireGuard (modprobe wireguard?). --backend userspace needs none."
                    )
                raise
            self._say("[!] Missing WireGuard kernel module. Falling back to a userspace implementation.")
            return False
        return True

    def take_back(self, undos: Iterable[Step]) -> list[str]:
        """Apply undos, each even if another fails; what is gone already is fine. Returns what went wrong."""
        faults: list[str] = []
        for step in undos:
            # wg-quick looks which rules there are and deletes those: none that is gone gets a line.
            looked_for = isinstance(step, DeleteRule)
            if not looked_for:
                self._tell_if_heard(step)
            try:
                self._undo(step)
            except SignalError:
                raise
            except Exception as error:
                if getattr(error, "errno", 0) in _GONE:
                    continue
                faults.append(str(error))
            if looked_for:
                self._tell_if_heard(step)
        self._await_daemon()
        return faults

    def _await_daemon(self) -> None:
        """Wait for the daemon of a deleted link, which ends while the rest is taken back."""
        if self._awaits_daemon:
            self._host.userspace.await_exit(self._journal.name)  # by which it was started
            self._awaits_daemon = False

    def _tell_if_heard(self, step: Step) -> None:
        with suppress(Exception):  # a transcript that nobody can take is no reason to leave a thing undone
            self._tell(step)

    def roll_back(self) -> None:
        """Take back all that this run did, whatever its hooks have made of it.

        The journal stays where something could not be taken back.
        """
        now = self._name_now()
        undos = with_moved_rules(tuple(self._promised), (self._journal.name, now), self._host)
        faults = self.take_back(plan_down.in_rollback_order(plan_down.as_renamed(undos, now)))
        self._host.userspace.clear(self._journal.name)
        if not faults:
            self._journal.remove()
        for fault in faults:
            self._say(f"[!] {fault}")

    def _name_now(self) -> str:
        """What the link is called by now; empty where it is gone, or never was."""
        links = self._host.rtnl.links() if self._ifindex else ()
        return next((link.name for link in links if link.ifindex == self._ifindex), "")


def with_moved_rules(undos: tuple[Step, ...], names: Collection[str], host: Host) -> tuple[Step, ...]:
    """The undos, with those for rules that hooks have moved; `names` are the link's.

    Other devices are asked for their marks only where something has moved: a hub's answer is long.
    """
    if not any(isinstance(undo, DeleteRule) for undo in undos):
        return undos
    if plan_down.with_moved_rules(undos, observe.rules(host)) == undos:
        return undos
    return plan_down.with_moved_rules(undos, observe.unclaimed_rules(names, host))


def _fwmark(fwmark: int) -> DeviceConfig:
    return DeviceConfig(fwmark=fwmark)


def refused(step: Step, errno: int) -> OperationError:
    """The kernel's refusal of one address or route, in the words of the command that would have failed."""
    command = render.line(step).removeprefix("[#] ")
    what = f"`{command}' failed: {strerror(errno)}"
    return OperationError(what, errno=errno, remedy=_remedy(step, errno), status=_REFUSED)


def _remedy(step: Step, errno: int) -> str:
    match step:
        case AddRoute() if errno == EEXIST:
            return "The host has this route already: remove it, set Table, or take the network out of AllowedIPs."
        case AddAddress() if errno == EEXIST:
            return "The address is given twice: remove one of the two."
        case _:
            return ""
