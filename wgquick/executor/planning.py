"""Plans the changes of up, down and reload, and finds how a live interface differs from its file.

`up` and `down` run on a planned host, and the real host does not change. For `reload` the plan is the difference
that it would apply. So a plan has the verb's own steps, in the same order and with the same lines.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from wgquick.config import keys
from wgquick.device import DeviceConfig, PeerConfig
from wgquick.errors import OperationError
from wgquick.executor import down, ensuring, up
from wgquick.executor.execution import Execution
from wgquick.executor.planned_host import PlannedHost
from wgquick.executor.reloading import Reload, ReloadOptions
from wgquick.lean import TYPE_CHECKING, NamedTuple, cast, contextmanager
from wgquick.net import NO_KEY, AllowedIP, without_keys
from wgquick.plan import reload as device_plan
from wgquick.plan import up as of_up
from wgquick.plan.planned import Plan, Planned, Reason
from wgquick.plan.steps import (
    AddAddress,
    AddFirewall,
    AddLink,
    AddRoute,
    AddRule,
    AddThrow,
    ChangeDevice,
    DeleteAddress,
    DeleteLink,
    DeleteRoute,
    DeleteRule,
    DeleteThrow,
    ForgetInbound,
    KeepInbound,
    Note,
    ReleaseSysctl,
    RemoveFirewall,
    RemoveGuard,
    ReplaceFirewall,
    RunHook,
    SetDevice,
    SetDns,
    SetFwmark,
    SetGuard,
    SetMtu,
    SetMtuUp,
    SetSysctl,
    Undo,
    UndoStep,
    UnsetDns,
    sign,
)
from wgquick.transcript import command, lines_of, note

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from wgquick.config.settings import Settings
    from wgquick.device import Device, DevicePeer
    from wgquick.executor.execution import Batch
    from wgquick.executor.planned_host import PublicKeyOf
    from wgquick.executor.reloading import Comparison
    from wgquick.net import PublicKey
    from wgquick.options import Options
    from wgquick.plan.difference import Move
    from wgquick.plan.file_lines import FileLines
    from wgquick.plan.steps import Step
    from wgquick.ports import Host
    from wgquick.transcript import Line

    Say = Callable[[str], None]


class PlanInputs(NamedTuple):
    """The input of a plan: a host, the options, and the lines of the file's settings.

    `is_offline`: the host is unknown. `netns`: the host is in this named network namespace.
    """

    host: Host
    options: Options
    file_lines: FileLines
    public_key_of: PublicKeyOf
    is_offline: bool = False
    netns: str = ""


class AppliedStep(NamedTuple):
    """A step that was applied to the planned host, with its commands; `hooked` is whether a hook ran before it."""

    step: Step | Undo
    text: tuple[str, ...]
    hooked: bool = False


def plan_up(settings: Settings, inputs: PlanInputs, reload_options: ReloadOptions) -> Plan:
    """The changes of `up`; if the interface is up already, those of `up --ensure`."""
    name, host = settings.name, inputs.host
    link = host.rtnl.link(name)
    if link is not None and name in host.wireguard.interfaces():
        if ensuring.is_unfinished(name, link, host):
            why = note(f"{name} was not brought up completely: `wgq up --ensure {name}' starts over")
            return _restarted("up", settings, inputs, (), (why,))
        return _differing("up", settings, inputs, reload_options)
    with _dry_run(name, inputs) as run:
        up.bring_up(settings, run.host, inputs.options, run.say, execution=run.execution)
        run.notes += (each.line for each in of_up.unknown(run.planned_host.unresolved))
        return Plan("up", name, tuple(run.changes(settings, inputs)), (), tuple(run.notes))


def plan_reload(settings: Settings, inputs: PlanInputs, reload_options: ReloadOptions) -> Plan:
    """The changes of `reload`; WgqError if it would refuse."""
    return _differing("reload", settings, inputs, reload_options)


def diff(settings: Settings, inputs: PlanInputs, reload_options: ReloadOptions) -> Plan:
    """The differences of a live interface from its file, as the changes that remove them."""
    return _differing("diff", settings, inputs, reload_options._replace(force=True))


def plan_down(name: str, settings: Settings | None, inputs: PlanInputs) -> Plan:
    """The changes of `down`; none if there is nothing to take down."""
    with _dry_run(name, inputs) as run:
        if inputs.is_offline and settings is not None:
            up.bring_up(settings, run.host, inputs.options, run.say, execution=run.execution)
            run.taken.clear()
            run.notes.clear()
        elif not down.can_go_down(name, inputs.host, without_file=True):
            return Plan("down", name)
        down.take_down(
            name, settings, run.host, inputs.options, say=run.say, save=run.save, execution=run.execution
        )
        return Plan("down", name, tuple(run.changes(settings, inputs)), (), tuple(run.notes))


def _differing(verb: str, settings: Settings, inputs: PlanInputs, reload_options: ReloadOptions) -> Plan:
    texts: list[str] = []
    reload = Reload(settings, inputs.host, inputs.options, reload_options, texts.append)
    if verb == "reload":
        reload.check_save_config()
    comparison = reload.compare(is_plan=True)
    if verb == "up" and not comparison.is_same:
        reload.check_save_config(f"{ensuring.COMMAND} --force {settings.name}")
    if comparison.difference.restart:
        planned = inputs._replace(options=reload.options)
        return _restarted(verb, reload.settings, planned, comparison.difference.restart, tuple(_printed(texts)))
    changes = (*_of_moves(comparison, settings, inputs), *_of_names(reload, inputs))
    notes = comparison.notes if changes else ()
    return Plan(verb, settings.name, changes, (), (*_printed(texts), *notes))


def _of_names(reload: Reload, inputs: PlanInputs) -> Iterator[Planned]:
    """The changes of endpoints by names that have no address now."""
    for peer in reload.settings.peers:
        if peer.endpoint in reload.unresolved:
            endpoint = without_keys(str(peer.endpoint))
            text = f"wg set {reload.settings.name} peer {peer.public_key} endpoint {endpoint}"
            line = inputs.file_lines.peer(peer.public_key, "Endpoint")
            yield Planned("~", "ChangeDevice", (text,), line, known_after="the lookup")


def _restarted(
    verb: str, settings: Settings, inputs: PlanInputs, reasons: tuple[str, ...], notes: tuple[Line, ...]
) -> Plan:
    name = settings.name
    with _dry_run(name, inputs) as run:
        up.restart(settings, run.host, inputs.options, run.say, {}, execution=run.execution)
        run.notes += (each.line for each in of_up.unknown(run.planned_host.unresolved))
        return Plan(verb, name, tuple(run.changes(settings, inputs)), reasons, (*notes, *run.notes))


def _in_memory() -> str | None:
    """A directory in memory, so that a plan writes nothing to a disk; None if this user has none."""
    directories = ("/run", os.environ.get("XDG_RUNTIME_DIR", ""), "/dev/shm")  # noqa: S108
    return next((each for each in directories if each and os.access(each, os.W_OK)), None)


@contextmanager
def _dry_run(name: str, inputs: PlanInputs) -> Iterator[DryRun]:
    """A run on a planned host with a copy of the journals, which is deleted afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="wgq-plan-", dir=_in_memory()))
    try:
        copy = directory / "journals"
        copy.mkdir(mode=0o700)
        there = Path(inputs.host.journal_directory)
        for each in there.iterdir() if inputs.host.journal_directory and there.is_dir() else ():
            if not each.name.endswith("lock") and each.is_file():
                shutil.copy(each, copy)
        run = DryRun(PlannedHost(inputs.host, name, str(copy), inputs.public_key_of))
        run.planned_host.starts_in(inputs.netns, run.say)
        yield run
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class DryRun:
    """A run on a planned host: the applied steps, and the notes of the transcript."""

    def __init__(self, planned_host: PlannedHost) -> None:
        self.planned_host = planned_host
        self.host = cast("Host", planned_host)
        self.taken: list[AppliedStep] = []
        self.notes: list[Line] = []
        self._commands: list[str] = []

    def say(self, text: str) -> None:
        """Record the transcript: commands for the step that they belong to, other lines as notes."""
        for line in lines_of(text):
            if line.is_command:
                self._commands.append(line.text)
            else:
                self.notes.append(line)

    def take(self, step: Step | Undo) -> None:
        """Record an applied step with the commands that were printed for it."""
        if isinstance(step, Note):  # its command belongs to the step after it
            return
        if self._commands:
            self.taken.append(AppliedStep(step, tuple(self._commands), self.planned_host.state.is_hooked))
            self._commands.clear()

    def take_each(self, steps: Sequence[Step]) -> None:
        """Record the steps of a batch; each has printed one command."""
        hooked = self.planned_host.state.is_hooked
        self.taken += [AppliedStep(step, (line,), hooked) for step, line in zip(steps, self._commands, strict=True)]
        self._commands.clear()

    def save(self, settings: Settings) -> None:
        """Record that SaveConfig would write the file."""
        self.say(command(f"wg showconf {settings.name}"))
        self.taken.append(AppliedStep(Note(""), tuple(self._commands)))
        self._commands.clear()

    def execution(self, host: Host, options: Options, _say: Say, *more: Any, **named: Any) -> Execution:
        """The object that applies the steps to the planned host."""
        return _DryExecution(self, host, options, *more, **named)

    def changes(self, settings: Settings | None, inputs: PlanInputs) -> Iterator[Planned]:
        """The steps as changes."""
        live = _live(self.planned_host.state.name, inputs)
        for taken in self.taken:
            yield _planned(taken, settings, inputs, live, self.host)


class _DryExecution(Execution):
    """Applies the steps to a planned host and records them."""

    def __init__(self, dry_run: DryRun, host: Host, options: Options, *more: Any, **named: Any) -> None:
        super().__init__(host, options, dry_run.say, *more, **named)
        self._dry_run = dry_run

    def _apply_one(self, step: Step) -> None:
        super()._apply_one(step)
        self._dry_run.take(step)

    def _apply_batch(self, steps: Batch) -> None:
        super()._apply_batch(steps)
        self._dry_run.take_each(steps)

    def run_hook(self, step: RunHook) -> None:
        """Run no hook, but record it: later values may depend on it."""
        self._dry_run.planned_host.state.is_hooked = True

    def undo_all(self, undos: Iterable[Undo]) -> list[str]:
        """Record the undos of existing state."""
        for undo in undos:
            before = dict(self._dry_run.planned_host.state.sysctl)
            try:
                undo.do(self)
            except OperationError:
                continue
            self._print_all((undo,))
            written = self._dry_run.planned_host.state.sysctl
            if isinstance(undo, ReleaseSysctl) and written != before:
                self._dry_run.say(command(undo.command))
            self._dry_run.take(undo)
        return []


def _live(name: str, inputs: PlanInputs) -> tuple[PublicKey, ...]:
    """The peers of the real device."""
    if inputs.is_offline or name not in inputs.host.wireguard.interfaces():
        return ()
    return tuple(peer.public_key for peer in inputs.host.wireguard.get(name).peers)


def _planned(
    taken: AppliedStep, settings: Settings | None, inputs: PlanInputs, live: tuple[PublicKey, ...], host: Host
) -> Planned:
    step, text = taken.step, taken.text
    after = _known_after(taken, settings, inputs)
    opened = _left_open(step, after)
    if opened is not step:
        text = tuple(_texts(opened.lines(host)))
    return Planned(
        sign(step),
        "SaveConfig" if isinstance(step, Note) else type(step).__name__,
        text,
        Reason() if isinstance(step, Undo) else reason(step, settings, inputs.file_lines),
        live if isinstance(step, DeleteLink) else (),
        tuple(_undo_lines(opened, host)),
        after,
        opened is not step,
    )


def _undo_lines(step: Step | Undo, host: Host) -> Iterator[str]:
    """The commands of a step's undo. A step without an undo has none."""
    undo = None if isinstance(step, Undo) else step.undo()
    if isinstance(undo, ReleaseSysctl):
        yield undo.command
    elif undo is not None:
        yield from _texts(undo.lines(host))


def _texts(lines: Iterable[Line]) -> Iterator[str]:
    return (line.text for line in lines)


def _printed(texts: Iterable[str]) -> Iterator[Line]:
    return (line for text in texts for line in lines_of(text))


def _known_after(taken: AppliedStep, settings: Settings | None, inputs: PlanInputs) -> str:
    """What decides the values in a step's text: "PreUp" or "the host"; "" if the file does."""
    if settings is None or not (taken.hooked or inputs.is_offline):
        return ""
    step = taken.step
    is_chosen = not settings.fwmark and settings.routes_automatically and not isinstance(step, SetMtuUp)
    is_open = _has_number(step) and (is_chosen or (isinstance(step, SetMtuUp) and settings.mtu is None))
    is_of_host = inputs.is_offline and (
        isinstance(step, (AddLink, SetSysctl, ReleaseSysctl))
        or (isinstance(step, (SetDns, UnsetDns)) and inputs.options.dns == "auto")
        or (isinstance(step, (AddFirewall, RemoveFirewall)) and inputs.options.firewall == "auto")
    )
    if not is_open and not is_of_host:
        return ""
    return "the host" if inputs.is_offline else "PreUp"


def _has_number(step: Step | Undo) -> bool:
    """Whether a step's text has the MTU, the fwmark or the table, which wgq may choose."""
    return _left_open(step, "PreUp") is not step


class _Open(int):
    """A number that is not known yet: its text is `(known after PreUp)` or `(known on the host)`."""

    after: str

    def __str__(self) -> str:
        return f"(known {'on' if self.after == 'the host' else 'after'} {self.after})"

    __format__ = object.__format__


def _left_open(step: Step | Undo, after: str) -> Step | Undo:
    """The step, with the number that is not known yet as an _Open; the step itself if `after` is ""."""
    if not after:
        return step

    def left_open(number: int) -> _Open:
        made = _Open(number)
        made.after = after
        return made

    match step:
        case SetMtuUp(_, mtu):
            return step._replace(mtu=left_open(mtu))
        case SetFwmark(_, fwmark):
            return step._replace(fwmark=left_open(fwmark))
        case AddRule(rule) | DeleteRule(rule) if rule.fwmark is not None:
            number = left_open(rule.fwmark)
            table = number if rule.table == rule.fwmark else rule.table
            return step._replace(rule=rule._replace(fwmark=number, table=table))
        case AddRoute(route, word) if word and route.destination.length == 0:
            return step._replace(table_word=str(left_open(route.table)))
        case AddThrow(_, table):
            return step._replace(table=left_open(table))
        case AddRule() | DeleteRule() | AddRoute() | DeleteThrow() | UndoStep():
            return step
        case AddLink() | AddAddress() | AddFirewall() | KeepInbound() | SetDevice() | SetDns() | SetGuard():
            return step
        case DeleteLink() | DeleteAddress() | DeleteRoute() | RemoveFirewall() | ForgetInbound():
            return step
        case RemoveGuard() | UnsetDns() | SetSysctl() | ReleaseSysctl():
            return step
        case SetMtu() | ChangeDevice() | ReplaceFirewall() | RunHook() | Note():
            return step


def reason(step: Step, settings: Settings | None, file_lines: FileLines) -> Reason:
    """The line of the file that causes a step."""
    match step:
        case RunHook(name, stage, command):
            return file_lines.hook(stage, command, name)
        case AddAddress(_, address):
            return file_lines.address(address.address, address.length)
        case AddRoute(route) | DeleteRoute(route):
            return file_lines.network(*route.destination)
        case SetMtuUp() | SetMtu():
            return file_lines.interface("MTU")
        case SetDns():
            return file_lines.interface("DNS")
        case AddThrow():
            return file_lines.own("exclude")
        case SetGuard():
            return file_lines.own("kill-switch")
        case KeepInbound():
            return file_lines.own("keep-inbound")
        case SetFwmark() | AddRule() | AddFirewall() | ReplaceFirewall() | SetSysctl():
            return _of_full_tunnel(settings, file_lines)
        case AddLink():
            return file_lines.interface()
        case SetDevice():
            return file_lines.interface("PrivateKey")
        case Note():  # SaveConfig writes the file
            return file_lines.key("SaveConfig")
        case DeleteAddress() | UndoStep() | ChangeDevice():
            return file_lines.nowhere()


def _of_full_tunnel(settings: Settings | None, file_lines: FileLines) -> Reason:
    ips = (ip for peer in settings.peers for ip in peer.allowed_ips if not ip.length) if settings else ()
    first = next(iter(ips), None)
    return file_lines.network(first.address, 0) if first is not None else file_lines.nowhere()


def _of_moves(comparison: Comparison, settings: Settings, inputs: PlanInputs) -> Iterator[Planned]:
    for move in comparison.difference.moves:
        if isinstance(move.step, ChangeDevice):
            yield from of_device(move.step, comparison, inputs.file_lines)
        else:
            yield _of_move(move, settings, inputs)


def _of_move(move: Move, settings: Settings, inputs: PlanInputs) -> Planned:
    step, host = move.step, inputs.host
    text = tuple(_texts(step.lines(host)))
    if isinstance(step, UndoStep) and isinstance(step.undone, ReleaseSysctl):
        text = (step.undone.command,)
    elif isinstance(step, SetSysctl):
        text = (step.command,)
    return Planned(
        sign(step),
        type(step.undone if isinstance(step, UndoStep) else step).__name__,
        text,
        reason(step, settings, inputs.file_lines),
        undo=tuple(line for back in move.back for line in _texts(back.lines(host))),
    )


def of_device(step: ChangeDevice, comparison: Comparison, file_lines: FileLines) -> Iterator[Planned]:
    """A change of the device in parts: one for its settings, and one for each peer."""
    device = comparison.now.device
    if device is None:
        return
    change, config = comparison.change, step.config
    live = {peer.public_key: peer for peer in device.peers}
    bare = config._replace(peers=())
    if bare != DeviceConfig():
        yield _of_settings(step.name, bare, device, file_lines)
    owners = {(ip.address, ip.length): peer.public_key for peer in device.peers for ip in peer.allowed_ips}
    if config is change.first:
        for peer in config.peers:
            yield _of_peer(step.name, peer, live.get(peer.public_key), owners, file_lines)
        return
    for key, ips in change.removed.items():
        less = PeerConfig(key, allowed_ips=tuple(AllowedIP(ip.address, ip.length, "-") for ip in ips))
        yield _of_peer(step.name, less, live.get(key), owners, file_lines)
    for peer in config.peers:
        if peer.remove and peer.public_key != device_plan.THROW_AWAY:
            yield _of_peer(step.name, peer, live.get(peer.public_key), owners, file_lines)


def _lines(name: str, config: DeviceConfig) -> tuple[str, ...]:
    return tuple(_texts(device_plan.lines(name, config)))


def _of_settings(name: str, config: DeviceConfig, device: Device, file_lines: FileLines) -> Planned:
    given = [key.name for key in keys.of("Interface", of_wg=True) if getattr(config, key.field) is not None]
    every = tuple(peer.public_key for peer in device.peers)
    return Planned(
        "~",
        "ChangeDevice",
        _lines(name, config),
        file_lines.key(given[0]),
        every if config.private_key is not None else (),
        _lines(name, device_plan.inverse(device, config)),
    )


def _of_peer(
    name: str,
    peer: PeerConfig,
    live: DevicePeer | None,
    owners: dict[tuple[bytes, int], PublicKey],
    file_lines: FileLines,
) -> Planned:
    key = peer.public_key
    sign = "-" if peer.remove else "~" if live is not None else "+"
    return Planned(
        sign,
        "ChangeDevice",
        _lines(name, DeviceConfig(peers=(peer,))),
        file_lines.nowhere() if peer.remove else file_lines.peer(key, *_names(peer)),
        (key,) if peer.remove else (),
        _lines(name, DeviceConfig(peers=tuple(_backwards(peer, live, owners)))),
    )


def _names(peer: PeerConfig) -> Iterator[str]:
    """The keys of the file that a change of a peer sets."""
    for key in keys.of("Peer"):
        value = getattr(peer, key.field)
        if key.name == "AllowedIPs":
            value = any(ip.change != "-" for ip in peer.allowed_ips) or None
        if value is not None and key.name != "PublicKey":
            yield key.name


def _backwards(
    peer: PeerConfig, live: DevicePeer | None, owners: dict[tuple[bytes, int], PublicKey]
) -> Iterator[PeerConfig]:
    """The changes that revert the change of one peer."""
    key = peer.public_key
    if live is None:
        yield PeerConfig(key, remove=True)
    elif peer.remove:
        yield PeerConfig(
            key,
            preshared_key=live.preshared_key,
            endpoint=live.endpoint,
            persistent_keepalive=live.persistent_keepalive or None,
            allowed_ips=live.allowed_ips,
        )
    else:
        back = PeerConfig(
            key,
            preshared_key=None if peer.preshared_key is None else live.preshared_key or NO_KEY,
            endpoint=None if peer.endpoint is None else live.endpoint,
            persistent_keepalive=None if peer.persistent_keepalive is None else live.persistent_keepalive,
            allowed_ips=tuple(
                AllowedIP(ip.address, ip.length, "" if ip.change == "-" else "-") for ip in peer.allowed_ips
            ),
        )
        if back != PeerConfig(key):
            yield back
    for ip in peer.allowed_ips:
        owner = owners.get((ip.address, ip.length), key)
        if owner != key and ip.change != "-":
            yield PeerConfig(owner, allowed_ips=(AllowedIP(ip.address, ip.length),))
