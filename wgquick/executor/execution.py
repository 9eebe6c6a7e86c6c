"""Applies steps: writes a step's undo to the journal, prints its line, performs it. Rolls back on failure."""

from __future__ import annotations

from errno import EADDRNOTAVAIL, EEXIST, ENODEV, ENOENT, ENXIO, EOPNOTSUPP, ESRCH
from itertools import groupby
from os import strerror

from wgquick.errors import IP_STATUS, BatchError, HookError, OperationError, SignalError, WgqError, reason_of
from wgquick.lean import TYPE_CHECKING, cast, suppress
from wgquick.options import PROGRAM
from wgquick.plan import down as plan_down
from wgquick.plan.steps import (
    AddAddress,
    AddRoute,
    AddRule,
    AddThrow,
    ChangeDevice,
    DeleteAddress,
    DeleteRoute,
    DeleteRule,
    RemoveFirewall,
    RemoveGuard,
    SetDevice,
    SetDns,
    SetGuard,
    SetMtuUp,
    UnsetDns,
    add_addresses,
    add_routes,
    delete_routes,
)
from wgquick.transcript import batch, command, note

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from wgquick.config.settings import Settings
    from wgquick.executor.journal import Journal
    from wgquick.options import Options
    from wgquick.plan.steps import ReleaseSysctl, RunHook, Step, Undo
    from wgquick.ports import Host

    Batch = Sequence[AddAddress] | Sequence[AddRoute] | Sequence[DeleteRoute]

# The kernel's errors for the removal of something that does not exist.
_GONE = (ENODEV, ENOENT, ESRCH, EADDRNOTAVAIL, ENXIO)
_BATCHES = (AddAddress, AddRoute, DeleteRoute)
_BY_IP = (SetMtuUp, AddRule, AddThrow)  # and the batches: the steps for which wg-quick runs ip(8)
_NO_PRIORITY = "See `ip rule': another program added it, and no free priority above 0 is left."


class Execution:
    """One run of up, reload or down on a host. `say` takes one or more lines of the transcript, joined by newlines.

    `undos` holds the undos that are in the journal already.
    """

    def __init__(
        self,
        host: Host,
        options: Options,
        say: Callable[[str], None],
        journal: Journal,
        path: str = "",
        settings: Settings | None = None,
        undos: Iterable[Undo] = (),
    ) -> None:
        self.host = host
        self._options = options
        self._say = say
        self._journal = journal
        self._path = path
        self._settings = settings
        self._undos: list[Undo] = list(undos)
        self._ifindex = 0
        self._awaits_daemon = False
        self.taken: list[Step] = []
        """The steps that were started, whether or not they succeeded."""

    def apply(self, steps: Iterable[Step]) -> None:
        """Apply the steps in order. Adjacent addresses, and adjacent routes, go out as one batch."""
        for kind, group in groupby(steps, _batch_of):
            if kind[0] in _BATCHES:
                batch = list(group)
                self.taken += batch
                self._apply_batch(cast("Batch", batch))
            else:
                for step in group:
                    self.taken.append(step)
                    self._apply_one(step)

    def _apply_one(self, step: Step) -> None:
        is_new = self._record_undo(step)
        self._print(step)
        self._do_as_wg_quick(step, is_new=is_new)

    def _record_undo(self, step: Step) -> bool:
        """Write the step's undo to the journal; returns whether it is new there."""
        undo = step.undo()
        if undo is None or self._is_recorded(undo):
            return False
        self._journal.record_undo(undo)
        self._undos.append(undo)
        return True

    def _is_recorded(self, undo: Undo) -> bool:
        if isinstance(undo, RemoveGuard):  # the latest one has the endpoints that the kill switch allows
            from wgquick.plan.traffic import last_guard

            return last_guard(self._undos) == undo
        return any(_are_same(each, undo) for each in self._undos)

    @property
    def undos(self) -> tuple[Undo, ...]:
        """The undos that a rollback applies."""
        return tuple(self._undos)

    def put_back(self, step: Step) -> str:
        """Apply a step that reverts a reload, without a transcript line; returns the error, or "" on success."""
        self._record_undo(step)
        try:
            step.do(self)
        except SignalError:
            raise
        except Exception as error:
            return "" if getattr(error, "errno", 0) in (*_GONE, EEXIST) else reason_of(error)
        return ""

    def _do_as_wg_quick(self, step: Step, *, is_new: bool) -> None:
        """Perform a step. If the kernel refuses it, the error's status is that of the command wg-quick would run.

        `is_new` is whether the step's undo was new in the journal.
        """
        try:
            step.do(self)
        except OperationError as error:
            if isinstance(step, DeleteAddress) and error.errno in _GONE:
                return  # the kernel deleted it along with its primary address
            if isinstance(step, _BY_IP):
                error.status = IP_STATUS
            self._reconsider(step, error, is_new=is_new)
            raise

    def _reconsider(self, step: Step, error: OperationError, *, is_new: bool) -> None:
        """Drop a refused step's undo if it would remove another program's state, or fail as the step did.

        Raises an OperationError that explains a refused port.
        """
        from wgquick.executor import udp_port

        match step:
            case AddRule() if error.errno == EEXIST and is_new:
                self._retract()
                error.remedy = _NO_PRIORITY
            case SetGuard() if is_new:  # a transaction: all of it or nothing
                self._retract()
            case SetDns() if is_new:  # a later up must not wait for a resolvconf that always fails
                self.undo_all(self._undos[-1:])
                self._retract()
            case SetMtuUp(name) if error.errno in udp_port.REFUSALS:
                raise udp_port.refused(name, self.host.wireguard.get(name).listen_port, error.errno, self.host)
            case SetDevice(name, config) | ChangeDevice(name, config) if (
                config.listen_port and error.errno in udp_port.REFUSALS
            ):
                raise udp_port.refused(name, config.listen_port, error.errno, self.host)
            case _:  # guarded cases: a new step's undo stays, as it reverts at most what the step did
                pass

    def _retract(self) -> None:
        """Remove the last undo from the journal: the state belongs to another program."""
        self._journal.retract(self._undos.pop())

    def _apply_batch(self, steps: Batch) -> None:
        """Apply one batch. Lines are printed up to the first refused item, as if each item were its own command."""
        try:
            match steps[0]:
                case AddAddress():
                    add_addresses(cast("Sequence[AddAddress]", steps), self.host)
                case AddRoute():
                    add_routes(cast("Sequence[AddRoute]", steps), self.host)
                case DeleteRoute():
                    _delete(cast("Sequence[DeleteRoute]", steps), self.host)
        except BatchError as error:
            index, errno = error.failures[0]
            self._print_all(steps[: index + 1])
            raise refused(steps[index], errno) from None
        self._print_all(steps)

    def _print_all(self, steps: Iterable[Step | Undo]) -> None:
        text = batch(line for step in steps for line in step.lines(self.host))
        if text:
            self._say(text)

    def _print(self, step: Step | Undo) -> None:
        self._print_all((step,))

    def run_hook(self, step: RunHook) -> None:
        """Run a hook line with the variables of wg-quick's script; HookError has its place in the file."""
        from wgquick.executor import hook

        dns, firewall = (any(isinstance(undo, kind) for undo in self._undos) for kind in (UnsetDns, RemoveFirewall))
        seen = hook.variables(step, self._path, self._settings, has_dns=dns, has_firewall=firewall)
        try:
            self.host.hooks.run(step.command, seen)
        except HookError as error:
            raise hook.explained(error, step, self._path) from None

    def release(self, undo: ReleaseSysctl) -> None:
        """Restore a kernel parameter unless another tunnel needs its value."""
        from wgquick.executor import src_valid_mark

        src_valid_mark.release(self.host, undo, self._journal.name)

    def undo_live(self, undo: Undo) -> None:
        """Apply an undo while the link stays up and remove it from the journal. The state may be gone already."""
        try:
            undo.do(self)
        except OperationError as error:
            if error.errno not in _GONE:
                raise
        if isinstance(undo, RemoveGuard):  # each change of the kill switch has recorded one
            for each in [each for each in self._undos if isinstance(each, RemoveGuard)]:
                self._undos.remove(each)
                self._journal.retract(each)
        elif self._is_recorded(undo):
            at = max(at for at, each in enumerate(self._undos) if _are_same(each, undo))
            del self._undos[at]
            self._journal.retract(undo)

    def expect_exit(self) -> None:
        """Record that a daemon is about to exit because its link is deleted."""
        self._awaits_daemon = True

    def add_link(self, name: str) -> None:
        """Create the link (wg-quick's add_if) and write its ifindex to the journal."""
        self._make_link(name)
        self._identify(name)

    def _make_link(self, name: str) -> None:
        """Try the kernel first, then a userspace implementation (wg-quick's add_if), as `backend` allows."""
        if self._options.backend != "userspace" and self._add_kernel_link(name):
            return
        chosen = self.host.userspace.choose()
        if chosen is None:
            raise WgqError(
                "no userspace WireGuard implementation was found",
                remedy=f"Install wgq with wgq-userspace, or set {PROGRAM} to a program.",
            )
        program, why = chosen
        self._refuse_existing(name)
        used = note(f"Using the userspace implementation {program} ({why}).")
        self._say(batch((used, command(f"{program} {name}"))))
        self.host.userspace.start(program, name)

    def _identify(self, name: str) -> None:
        """Write the link's ifindex to the journal, as names can change or be reused."""
        if link := self.host.rtnl.link(name):
            self._ifindex = link.ifindex
            self._journal.identify(link.ifindex)

    def _refuse_existing(self, name: str) -> None:
        """Raise WgqError if another program has added the link meanwhile: a rollback must not delete it."""
        if self.host.rtnl.link(name) is not None:
            self._undos.clear()
            raise WgqError(f"`{name}' already exists")

    def _add_kernel_link(self, name: str) -> bool:
        """Returns True if the kernel created the link, False if a userspace implementation has to be tried."""
        self._say(command(f"ip link add dev {name} type wireguard"))
        try:
            self.host.rtnl.add_wireguard_link(name)
        except OperationError as error:
            # The kernel created nothing. An undo could delete another program's link of the same name.
            if (
                self._options.backend == "kernel"
                or error.errno == EEXIST
                or self.host.userspace.kernel_has_wireguard()
            ):
                self._undos.clear()
                if error.errno == EOPNOTSUPP:
                    error.remedy = (
                        "This kernel has no WireGuard."
                        " Load the module (modprobe wireguard), or use --backend userspace."
                    )
                raise
            self._say(note("Missing WireGuard kernel module. Falling back to a userspace implementation."))
            return False
        return True

    def undo_all(self, undos: Iterable[Undo]) -> list[str]:
        """Apply all undos, even if some fail; returns the failures. Missing state is not a failure."""
        faults: list[str] = []
        for step in undos:
            # wg-quick deletes only the rules that exist: a missing rule gets no line.
            looked_for = isinstance(step, DeleteRule)
            if not looked_for:
                self._try_to_print(step)
            try:
                step.do(self)
            except SignalError:
                raise
            except Exception as error:
                if getattr(error, "errno", 0) in _GONE:
                    continue
                faults.append(reason_of(error))
            if looked_for:
                self._try_to_print(step)
        self._await_daemon()
        return faults

    def _await_daemon(self) -> None:
        """Wait until a deleted link's daemon has exited. It exits while the other undos run."""
        if self._awaits_daemon:
            self.host.userspace.await_exit(self._journal.name)  # its name at the start
            self._awaits_daemon = False

    def _try_to_print(self, step: Undo) -> None:
        with suppress(Exception):  # a failing `say` must not stop the undos
            self._print(step)

    def roll_back(self) -> None:
        """Undo all that this run did, even if its hooks have changed it.

        The journal stays if an undo failed.
        """
        now = self._name_now()
        undos = with_moved_rules(plan_down.without_guard(self._undos), (self._journal.name, now), self.host)
        faults = self.undo_all(plan_down.in_rollback_order(plan_down.as_renamed(undos, now)))
        self.host.userspace.clear(self._journal.name)
        if any(isinstance(undo, RemoveGuard) for undo in self._undos):
            self._say(note(f"The kill switch stays: `wgq down {self._journal.name}' removes it"))
        elif not faults:
            self._journal.remove()
        for fault in faults:
            self._say(note(fault))

    def _name_now(self) -> str:
        """The link's current name; "" if there is no link."""
        links = self.host.rtnl.links() if self._ifindex else ()
        return next((link.name for link in links if link.ifindex == self._ifindex), "")


def with_moved_rules(undos: tuple[Undo, ...], names: Collection[str], host: Host) -> tuple[Undo, ...]:
    """The undos, and those for rules that hooks have moved; `names` are the link's names.

    Other devices are asked for their fwmarks only if a rule has moved, as large devices answer slowly.
    """
    if not any(isinstance(undo, DeleteRule) for undo in undos):
        return undos
    from wgquick.executor import observe

    if plan_down.with_moved_rules(undos, observe.rules(host)) == undos:
        return undos
    return plan_down.with_moved_rules(undos, observe.unclaimed_rules(names, host))


def refused(step: AddAddress | AddRoute | DeleteRoute, errno: int) -> OperationError:
    """The error for an address or route that the kernel refused, worded as the failure of the ip(8) command."""
    what = f"`{step.command}' failed: {strerror(errno)}"
    return OperationError(what, errno=errno, remedy=step.remedy(errno), status=IP_STATUS)


def _are_same(one: Undo, other: Undo) -> bool:
    """Whether two steps are equal and of one class: tuples of different classes may be equal."""
    return type(one) is type(other) and one == other


def _batch_of(step: Step) -> tuple[type, bool]:
    """The key of a step's batch: adjacent steps with the same key are applied together."""
    return type(step), isinstance(step, AddRoute) and step.beside


def _delete(steps: Sequence[DeleteRoute], host: Host) -> None:
    """Delete the routes; missing ones are ignored."""
    try:
        delete_routes(steps, host)
    except BatchError as error:
        left = [(index, errno) for index, errno in error.failures if errno not in _GONE]
        if left:
            raise BatchError(error.what, left) from None
