"""The Python interface, and the only module that connects the executor with the system.

Nothing here prints, exits, changes os.environ or keeps state. The caller's function gets the transcript line by
line. Failures are raised: `WgqError` and its subclasses `ConfigError` (a file's faults), `HookError` (a hook's
status) and `OperationError` (the kernel or a program refused). Each call works in the calling thread's namespaces.
Several threads may work on several interfaces. Hooks write to the process's standard output and error.
"""

from __future__ import annotations

from errno import ENODEV
from os import fspath, strerror, write

from wgquick.config.location import valid_name
from wgquick.config.settings import Settings
from wgquick.errors import OperationError, WgqError, not_up, not_wireguard
from wgquick.lean import TYPE_CHECKING, cast, contextmanager
from wgquick.options import Options
from wgquick.transcript import lines_of, note

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
    from os import PathLike
    from typing import NoReturn, TypeVar

    from wgquick.config.document import Document
    from wgquick.config.models import WgQuickConfig
    from wgquick.counters import Diagnostics
    from wgquick.device import Device
    from wgquick.diagnosis.doctor.examination import Examined
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.live import Live
    from wgquick.diagnosis.senders import CaptureSummary
    from wgquick.diagnosis.source import Source
    from wgquick.diagnosis.trace import Traced
    from wgquick.executor.down import FileForDown
    from wgquick.executor.ensuring import Ensured
    from wgquick.executor.netns_records import NetnsRecord
    from wgquick.executor.planning import PlanInputs
    from wgquick.executor.reloading import Outcome, ReloadOptions
    from wgquick.executor.trial import Seen
    from wgquick.executor.trying import OnTrial, TrialRequest
    from wgquick.net import Prefix, PublicKey
    from wgquick.plan.difference import Move
    from wgquick.plan.file_lines import FileLines
    from wgquick.plan.planned import Plan
    from wgquick.ports import Host, Watchdog, WireGuard
    from wgquick.rehearsal import Report
    from wgquick.routing import Query
    from wgquick.status.observe import Observer
    from wgquick.status.values import Status
    from wgquick.transcript import Line
    from wgquick.upkeep.events import Event

    Transcript = Callable[[str], None]
    Config = WgQuickConfig | Settings
    Either = TypeVar("Either", WgQuickConfig, Settings)

PLANNED = ("up", "down", "reload")
"""The verbs that `plan` knows, besides "diff"."""


_AT_ONCE = 256
"""The most interfaces that doctor examines at the same time."""


def parse(text: str | bytes, name: str = "wg0") -> WgQuickConfig:
    """The configuration in `text`, for the interface `name`.

    ConfigError has all faults of the text. WgqError if wg-quick does not allow the name.
    """
    from wgquick.config.models import WgQuickConfig  # pydantic: not on the path of `wgq up`

    return WgQuickConfig.from_text(text, name=name)


def read(source: str | PathLike[str]) -> WgQuickConfig:
    """The configuration of an interface name (/etc/wireguard/NAME.conf) or of a path to NAME.conf.

    ConfigError has all faults of the file. WgqError if there is no such file.
    """
    from wgquick.config.models import WgQuickConfig

    return WgQuickConfig.from_settings(load(fspath(source)))


def load(source: str, transcript: Transcript | None = None, *, name: str | None = None) -> Settings:
    """Like `read`, but returns plain settings. `transcript` takes warnings; `name` replaces the interface's name.

    The source `-` is standard input and needs a name.
    """
    from wgquick.config.location import locate
    from wgquick.config.reading import read_settings

    return read_settings(locate(source, name), _line_by_line(transcript))


def strip(source: str, transcript: Transcript | None = None, *, name: str | None = None) -> bytes:
    """The part of the configuration that `wg setconf` reads, as `wg-quick strip` prints it; `-` needs no name.

    ConfigError if SaveConfig is neither true nor false; WgqError if there is no such file.
    """
    from wgquick.config.location import STANDARD_INPUT, Location, locate
    from wgquick.config.reading import read_stripped

    found = Location(name or "", "") if source == STANDARD_INPUT else locate(source, name)
    return read_stripped(found, _line_by_line(transcript))


def up(config: Config, options: Options | None = None, transcript: Transcript | None = None) -> None:
    """Bring the interface up as `wgq up` does (wg-quick(8)).

    After a failure or an interruption all changes are undone and the error is raised.
    """
    from wgquick.executor.up import cmd_up

    say = _line_by_line(transcript)
    settings = _settings(config)
    valid_name(settings.name)
    host = _host(say)
    if settings.extras.netns or _netns_record(settings.name, host):
        from wgquick.executor.netns import up as up_elsewhere

        return up_elsewhere(settings, host, _checked(options), say)
    return cmd_up(settings, host, _checked(options), say)


def down(
    name: str,
    config: Config | str | PathLike[str] | None = None,
    options: Options | None = None,
    transcript: Transcript | None = None,
) -> None:
    """Take the interface down as `wgq down` does; WgqError if there is no such interface.

    `config` provides the PreDown and PostDown hooks and SaveConfig; its own name is ignored. It may be a source, as
    for `read`. If the file is gone or has faults, or if `config` is None, the journal's hooks run. A failing
    PreDown hook leaves the interface up, unless `options` has `force`. The error of a failing PostDown hook is
    raised after everything is removed.
    """
    from wgquick.executor.down import cmd_down

    say = _line_by_line(transcript)
    chosen = _checked(options)
    valid_name(name)
    read = for_down(name, config, say)
    host = _host(say)
    if _netns_record(name, host):
        from wgquick.executor.netns import down as down_elsewhere

        def save_inside(settings: Settings, inner: Host) -> None:
            _save(settings, chosen, say, inner)

        if down_elsewhere(name, read, host, chosen, say=say, save=save_inside):
            return
    cmd_down(name, read, host, chosen, say=say, save=lambda s: _save(s, chosen, say, host))


def for_down(name: str, config: Config | str | PathLike[str] | None, say: Transcript) -> FileForDown:
    """A function that reads the configuration, to be called while the interface is locked."""
    if config is None:
        return lambda: (None, None)
    try:
        source = fspath(cast("str", config))
    except TypeError:
        settings = _settings(cast("Config", config))._replace(name=name)
        return lambda: (settings, None)
    from wgquick.config.location import locate
    from wgquick.config.reading import read_for_down

    return lambda: read_for_down(locate(source, name), say)


def reload(
    config: Config,
    options: Options | None = None,
    transcript: Transcript | None = None,
    reload_options: ReloadOptions | None = None,
) -> Outcome:
    """Apply the difference between the configuration and the live interface, as `wgq reload` does.

    RestartNeededError (status 3), before any change, if the interface has to be restarted. After a failure or an
    interruption all changes are undone and the error is raised.
    """
    from wgquick.executor.reloading import ReloadOptions, cmd_reload

    say = _line_by_line(transcript)
    settings = _settings(config)
    valid_name(settings.name)
    host, reload_options = _host(say), reload_options or ReloadOptions()
    if settings.extras.netns or _netns_record(settings.name, host):
        from wgquick.executor.netns import reload as reload_elsewhere

        return reload_elsewhere(settings, host, _checked(options), reload_options, say)
    return cmd_reload(settings, host, _checked(options), reload_options, say)


def ensure(
    config: Config | str | PathLike[str] | Callable[[], Config],
    options: Options | None = None,
    transcript: Transcript | None = None,
    reload_options: ReloadOptions | None = None,
    *,
    name: str | None = None,
    before_up: Callable[[Settings], None] = lambda _: None,
) -> Ensured:
    """Bring the interface to the state in the configuration, as `wgq up --ensure` does; `action` is what was done.

    `config` is a configuration, a source as for `read`, or a function that returns one and needs `name`.
    A source or function is read while the interface is locked. `before_up` is called before an interface that does
    not exist is brought up. RestartNeededError (status 3), before any change, if the interface has to be restarted
    and `reload_options` lack `or_restart`.
    """
    from wgquick.config.location import interface_name
    from wgquick.executor.ensuring import cmd_ensure
    from wgquick.executor.reloading import ReloadOptions

    say = _line_by_line(transcript)
    read: Callable[[], Config]
    if callable(config):
        read, found = config, name or ""
    elif isinstance(config, str) or hasattr(config, "__fspath__"):
        source = fspath(cast("str", config))
        read, found = (lambda: load(source, say, name=name)), name or interface_name(source)
    else:
        settings = _settings(config)
        read, found = (lambda: settings), settings.name
    return cmd_ensure(
        valid_name(found),
        lambda: _settings(read()),
        _host(say),
        _checked(options),
        reload_options or ReloadOptions(),
        say,
        before_up=before_up,
    )


def begin_trial(asked: TrialRequest) -> Watchdog:
    """Start a trial in separate processes, as `wgq try` does (`wgquick.executor.trying`).

    They make the change, and roll it back unless it is confirmed within `asked.seconds`, even if this process ends.
    It forks: call it in the main thread while no other thread runs.
    """
    from wgquick.executor.trying import Attempt
    from wgquick.system import watchdogs
    from wgquick.system.echo import Echo

    valid_name(asked.name)
    if asked.ping:
        Echo(asked.ping)  # an invalid address fails before any change

    def work(own: watchdogs.Watchdogs) -> None:
        Attempt(asked, lambda: _host(_print_error), _print_error, own, Echo).run()

    return watchdogs.begin(work, f"{asked.name}: {asked.verb} on trial")


def try_(
    verb: str,
    config: Config | str | PathLike[str],
    options: Options | None = None,
    transcript: Transcript | None = None,
    *,
    timeout: float = 120.0,
    confirm_when: str = "",
    reload_options: ReloadOptions | None = None,
) -> OnTrial:
    """Make a change as `wgq try` does; returns once it is made, and it is rolled back `timeout` seconds later.

    `verb` is "up", "reload" or "down"; `config` may be a source, as for `read`. `confirm` keeps the change, also
    from another process; so does `confirm_when`, "handshake" or "ping:ADDRESS". WgqError if the change is refused,
    or fails and is undone. It forks: call it in the main thread while no other thread runs.
    """
    from wgquick.config.location import interface_name
    from wgquick.executor.reloading import ReloadOptions
    from wgquick.executor.trying import OnTrial, TrialRequest, criterion

    say = _line_by_line(transcript)
    peers, ping = criterion(verb, confirm_when)
    chosen, wanted = _checked(options), reload_options or ReloadOptions()
    if isinstance(config, str) or hasattr(config, "__fspath__"):
        source = fspath(cast("str", config))
        name = interface_name(source)
        if verb == "down":
            read = for_down(name, source, _print_error)
            asked = TrialRequest(verb, name, timeout, chosen, wanted, read=read, peers=peers, ping=ping)
            return OnTrial(name, begin_trial(asked), say)
        config = load(source, say)
    settings = _settings(config)
    asked = TrialRequest(verb, settings.name, timeout, chosen, wanted, settings, peers=peers, ping=ping)
    if verb == "down":
        asked = asked._replace(settings=None, read=lambda: (settings, None))
    return OnTrial(settings.name, begin_trial(asked), say)


def confirm(name: str, extend: float | None = None) -> None:
    """Keep the change of an interface that is on trial, as `wgq confirm` does.

    `extend` instead lets the trial end that many seconds from now. WgqError if no trial is pending, or its time is
    up.
    """
    from wgquick.executor import trial

    phase = trial.CONFIRMED if extend is None else trial.PENDING
    trial.decide(valid_name(name), _host(_say_nothing), phase, by="confirm", seconds=extend)


def reject(name: str) -> None:
    """Roll back the change of an interface that is on trial at once. WgqError as for `confirm`."""
    from wgquick.executor import trial

    trial.decide(valid_name(name), _host(_say_nothing), trial.REJECTED)


def trials() -> list[Seen]:
    """The trials that are pending, and those with a failed rollback."""
    from wgquick.executor import trial

    return list(trial.all_seen(_host(_say_nothing).journal_directory))


def plan(
    verb: str,
    config: Config | str | PathLike[str],
    options: Options | None = None,
    transcript: Transcript | None = None,
    reload_options: ReloadOptions | None = None,
    *,
    name: str | None = None,
    changed: Callable[[Settings], Settings] = lambda settings: settings,
    offline: bool = False,
    ssh_connection: str = "",
) -> Plan:
    """What `up`, `down` or `reload` would do to the interface, or with "diff" how it differs from the file.

    `config` is a configuration or a source, as for `read`; only a source has lines for the changes. Nothing is
    changed. `changed` is applied to the settings. With `offline` nothing is read from this host; then a plan of
    `reload` or a diff makes no sense. `ssh_connection` is SSH_CONNECTION of the session that a change may cut off.
    An error is raised where the verb would raise it.
    """
    from wgquick.diagnosis.keys import public_key_of
    from wgquick.executor import planning
    from wgquick.executor.reloading import ReloadOptions
    from wgquick.plan.file_lines import FileLines
    from wgquick.system.empty_host import EmptyHost

    if verb not in (*PLANNED, "diff"):
        raise ValueError(f"no plan of {verb}")
    say = _line_by_line(transcript)
    found, settings, file_lines = _for_plan(verb, config, say, name)
    settings = settings and changed(settings)
    host = cast("Host", EmptyHost()) if offline else _host(say)
    where = None if offline else _netns_record(found, host)
    inputs = planning.PlanInputs(host, _checked(options), file_lines or FileLines(""), public_key_of, offline)
    if where is not None or (settings is not None and settings.extras.netns and not offline):
        from wgquick.executor import planning_in_netns

        return planning_in_netns.plan(
            verb, found, settings, inputs, reload_options or ReloadOptions(), where, EmptyHost
        )
    if verb == "down":
        made = planning.plan_down(found, settings, inputs)
    elif settings is None:
        raise WgqError("there is no configuration", where=found)
    elif verb == "up":
        made = planning.plan_up(settings, inputs, reload_options or ReloadOptions())
    elif verb == "reload":
        made = planning.plan_reload(settings, inputs, reload_options or ReloadOptions())
    else:
        made = planning.diff(settings, inputs, reload_options or ReloadOptions())
    if offline or not made.changes or verb == "diff":
        return made
    if ssh_connection or (verb != "down" and settings is not None and _may_loop(found, settings, host)):
        made = made._replace(notes=(*made.notes, *_traced(verb, found, settings, inputs, ssh_connection)))
    return made


def _for_plan(
    verb: str, config: Config | str | PathLike[str], say: Transcript, name: str | None
) -> tuple[str, Settings | None, FileLines | None]:
    """The interface, its settings and their lines. `down` needs no file if there is something to take down."""
    try:
        source = fspath(cast("str", config))
    except TypeError:
        settings = _settings(cast("Config", config))
        return valid_name(settings.name), settings, None
    from wgquick.config.location import interface_name, locate
    from wgquick.config.location import read as read_document
    from wgquick.config.reading import STANDARD_INPUT_PATH, read_for_down, read_settings
    from wgquick.plan.file_lines import FileLines

    if verb == "down":
        found = valid_name(name) if name else interface_name(source)
        try:
            place = locate(source, name)
        except WgqError:
            if not _is_left(found):
                raise
            return found, None, None
        settings, faults = read_for_down(place, say)
        document = read_document(place) if place.file else None
        return found, None if faults else settings, FileLines(place.path, document)
    place = locate(source, name)
    documents: list[Document] = []
    settings = read_settings(place, say, when_valid=lambda _, document: documents.append(document))
    return place.name, settings, FileLines(place.path or STANDARD_INPUT_PATH, documents[0])


def _may_loop(name: str, settings: Settings, host: Host) -> bool:
    from wgquick.diagnosis.looped import may_loop

    return may_loop(name, settings, host.wireguard.interfaces)


def _traced(verb: str, name: str, settings: Settings | None, inputs: PlanInputs, connection: str) -> Iterator[Line]:
    """Notes on the planned state: if the SSH session is cut off, or if an endpoint is routed into the tunnel."""
    from wgquick.diagnosis import cut_off
    from wgquick.diagnosis.keys import public_key_of
    from wgquick.diagnosis.looped import known_endpoints, looped
    from wgquick.executor import snapshot as executor_snapshot
    from wgquick.plan import up
    from wgquick.plan.desired import desired
    from wgquick.system.snapshot import snapshot

    seen = snapshot(public_key_of)
    after = cut_off.without(seen, name)
    if verb != "down" and settings is not None:
        now = executor_snapshot.current(name, inputs.host, inputs.options)
        facts = executor_snapshot.facts(settings, now, inputs.host, inputs.options)
        wanted = desired(settings, facts)
        after = cut_off.planned(after, wanted)
        mark = facts.device_fwmark if wanted.fwmark is None else wanted.fwmark
        for each in up.looped(name, looped(after, name, mark, known_endpoints(settings))):
            yield each.line
    found = cut_off.cut_off(seen, after, connection)
    if found:
        yield note(f"{found}: `wgq try {verb} {name}' rolls that back by itself")


def move_lines(move: Move) -> tuple[tuple[Line, ...], tuple[Line, ...]]:
    """The transcript lines of a reload's move, and of the steps that revert it."""
    host = _host(_say_nothing)
    return move.step.lines(host), tuple(line for step in move.back for line in step.lines(host))


def save(source: str | PathLike[str], options: Options | None = None, transcript: Transcript | None = None) -> None:
    """Write the interface's current state to its configuration file, as `wgq save` does.

    `source` is the interface's name or its file's path, as for `read`.
    """
    say = _line_by_line(transcript)
    settings = load(fspath(source), say)
    with _located(settings.name, say) as host:
        _save(settings, _checked(options), say, host)


def _save(settings: Settings, options: Options, say: Transcript, host: Host) -> None:
    from wgquick.executor.saving import cmd_save

    cmd_save(settings, host, options, say)


def execute(name: str, command: Sequence[str]) -> NoReturn:
    """Replace this process by a command in the network namespace of an interface, as `wgq exec` does.

    The command runs as the user who called sudo(8) or doas(1), if one of them did. WgqError if the interface is in
    no other namespace.
    """
    from os import environ

    from wgquick.executor.netns_records import check_reachable
    from wgquick.system.execute import caller
    from wgquick.system.execute import execute as run

    host = _host(_say_nothing)
    where = _netns_record(valid_name(name), host)
    if where is None:
        how = f"`# wgq: netns = NAME' in its file, or wgq up --netns NAME {name}"
        remedy = f"Bring it up in a network namespace: {how}"
        if host.rtnl.link(name) is None:
            raise not_up(name, remedy=remedy)
        raise WgqError(f"`{name}' is not in a network namespace of its own", remedy=remedy)
    check_reachable(name, where, host)
    run(where.netns, command, caller(environ))


def interfaces() -> list[str]:
    """The names of the WireGuard interfaces, as `wg show interfaces` prints them."""
    return _host(_say_nothing).wireguard.interfaces()


def devices(names: Iterable[str] | None = None) -> list[Device]:
    """The state of the named interfaces, or of all; OperationError if a name is not a WireGuard interface."""
    if names is not None:
        return [_located_device(name) for name in names]
    wireguard = _host(_say_nothing).wireguard
    found = []
    for name in wireguard.interfaces():
        try:
            found.append(wireguard.get(name))
        except OperationError as error:
            if error.errno != ENODEV:  # not removed since the list was read
                raise
    return found


def _located_device(name: str) -> Device:
    with _located(name, _say_nothing) as host:
        return _device(host.wireguard, name)


def _device(wireguard: WireGuard, name: str) -> Device:
    try:
        return wireguard.get(name)
    except OperationError as error:
        what = f"Unable to access interface: {strerror(error.errno)}" if error.errno else error.what
        raise OperationError(what, errno=error.errno, where=name) from None


def listen(device: Device, seconds: float, candidates: Iterable[PublicKey] = ()) -> CaptureSummary:
    """Capture for `seconds` the messages to and from a device's port, and the ICMP errors that come back.

    The device need not exist: its name, private key, port and peers' keys are used. `candidates` are other public
    keys that a message may be for by mistake. Nothing is changed. OperationError without CAP_NET_RAW. Any thread
    may call it; the capture is in the calling thread's network namespace.
    """
    from wgquick.diagnosis.senders import SenderCounter
    from wgquick.system.capture import Capture

    counter = SenderCounter(device.private_key, [peer.public_key for peer in device.peers], candidates)
    with Capture(device.listen_port, device.name) as capture:
        for event in capture.read(seconds):
            counter.take(event)
        return counter.result(device.listen_port, seconds, capture.loss.dropped)


def status(names: Iterable[str] = ()) -> Status:
    """The named interfaces, or all, and their peers, as in `wgq status --json`, without rates.

    OperationError if a name is not a WireGuard interface.
    """
    return observer().read(tuple(names))


def observer(*, look_up: bool = True) -> Observer:
    """An object that reads the status repeatedly. From the second reading on there are rates.

    Without `look_up` the host names of endpoints are not resolved.
    """
    from wgquick.status.observe import Observer

    return Observer(_host(_say_nothing), look_up=look_up)


def diagnostics(name: str) -> Diagnostics | None:
    """The counters of an interface's daemon (wgquick.counters); None for the kernel and for other daemons.

    OperationError (ENODEV) if it is not a WireGuard interface. wireguard-go logs an error for every unknown
    request, so do not call this repeatedly.
    """
    with _located(name, _say_nothing) as host:
        return host.wireguard.diagnostics(name)


def wait(name: str, timeout: float = 15.0, peers: str = "any") -> tuple[PublicKey, ...]:
    """Wait for handshakes newer than the call, as `wgq wait` does; returns the peers that had one.

    `peers` is "any" or "all" (of the peers with an endpoint), or public keys or names separated by commas. The
    device starts the handshakes without a packet inside the tunnel. NoHandshakeError after `timeout` seconds.
    """
    from wgquick.executor import waiting

    with _located(name, _say_nothing) as host:
        link = host.rtnl.link(name)
        if name not in host.wireguard.interfaces():
            raise not_wireguard(name) if link else not_up(name)
        device = _device(host.wireguard, name)
        if link is not None and not link.up:
            raise WgqError("the link is down", where=name, remedy=f"Bring it up: ip link set up dev {name}")
        there = {peer.public_key: peer.endpoint is not None for peer in device.peers}
        awaited = waiting.chosen(name, there, peers, _names(name, host))
        return waiting.handshakes(name, host.wireguard, awaited, device, timeout=timeout)


async def watch(
    names: Iterable[str] = (),
    *,
    once: bool = False,
    check_only: bool = False,
    ready: Callable[[], object] = lambda: None,
) -> AsyncGenerator[Event, None]:
    """Restore what other programs remove from interfaces, as `wgq watch` does, and yield events.

    `names` are the interfaces to watch, whether up or not; without names it watches all that wgq brought up. It
    runs until the iterator is closed. With `once` it ends after one check; WgqError names those of `names` that are
    not up. `check_only` changes nothing. `ready` is called after the first check. The work is done between events,
    in the event loop's thread, in the network namespace of the start of the iteration.
    """
    from wgquick.system.monitor import Monitor
    from wgquick.system.watched_netns import WatchedNamespace
    from wgquick.upkeep.watch import Watch
    from wgquick.upkeep.watcher import WatchOptions, check_up

    def enter(netns: str) -> WatchedNamespace:
        return WatchedNamespace(netns, _say_nothing)

    host, chosen = _host(_say_nothing), frozenset(map(valid_name, names))
    for name in sorted(chosen) if once else ():
        with _located(name, _say_nothing) as there:
            check_up([name], there)
    async for event in Watch(host, Monitor(), WatchOptions(chosen, once, check_only), ready, enter).events():
        yield event


def first_handshakes(settings: Settings, timeout: float, peers: str) -> Callable[[], tuple[PublicKey, ...]]:
    """A function that waits like `wait`, for an interface that `up` creates after this call.

    WgqError if the file has no such peer.
    """
    from wgquick.executor import waiting

    wanted = {peer.public_key: peer.endpoint is not None for peer in settings.peers}
    awaited = waiting.chosen(settings.name, wanted, peers, _file_names(settings.path))

    def wait_for_them() -> tuple[PublicKey, ...]:
        with _located(settings.name, _say_nothing) as host:
            return waiting.handshakes(settings.name, host.wireguard, awaited, None, timeout=timeout)

    return wait_for_them


def _names(name: str, host: Host) -> Mapping[str, str]:
    """The names of an interface's peers, from the file that the journal names."""
    from wgquick.executor.journal import Journal
    from wgquick.options import DIRECTORY

    record = Journal(host.journal_directory, name).read()
    return _file_names(record.path if record else f"{DIRECTORY}/{name}.conf")


def _file_names(path: str) -> Mapping[str, str]:
    from wgquick.config.location import Location, read
    from wgquick.status.names import names

    try:
        return names(read(Location("", path))).of if path else {}
    except WgqError:
        return {}


def main_routes(address: bytes) -> list[Prefix]:
    """The destinations of the main table's routes, of the address's family."""
    from wgquick.net import MAIN_TABLE, family_of

    return _host(_say_nothing).rtnl.routes(family=family_of(address), table=MAIN_TABLE)


def link_towards(address: bytes) -> str:
    """The link that packets to an address leave by; "" if there is no route."""
    from wgquick.net import address_text

    path = _host(_say_nothing).rtnl.path(address_text(address))
    return path.link if path else ""


def public_key(device: Device) -> PublicKey | None:
    """A device's public key; None if it has no private key."""
    from wgquick.diagnosis.keys import public_key_of

    return public_key_of(device.private_key) if device.private_key else None


def check(
    sources: Iterable[str | PathLike[str]],
    *,
    fix: bool = False,
    live: bool = False,
    transcript: Transcript | None = None,
) -> list[Finding]:
    """The findings for configuration files, each alone and all together, as in `wgq check`.

    A source is a path, the name of an interface, or `-` for standard input; a file given twice counts once. `fix`
    corrects the findings that have exactly one remedy and reports them to `transcript`; the remaining findings are
    returned. `live` also compares the files with this host.
    """
    from wgquick.diagnosis.check import check as examine
    from wgquick.diagnosis.fix import apply_fixes
    from wgquick.diagnosis.source import read_all

    paths = [fspath(source) for source in sources]
    if fix and "-" in paths:
        raise WgqError("standard input cannot be fixed", remedy="Name a file.")
    look = _look if live else None
    given = read_all(paths)
    found = examine(given, look)
    if fix and apply_fixes(given, found, _line_by_line(transcript)):
        found = examine(read_all(paths), look)
    return found


def _look(source: Source) -> Live:
    """The state of this host that concerns a file."""
    from wgquick.diagnosis.live import gather
    from wgquick.status.drift import differences
    from wgquick.system import inspection

    host, name = _host(_say_nothing), source.interface
    seen = gather(source, host, inspection)
    if seen.device is None:
        return seen
    addresses = host.rtnl.addresses(name)
    found = differences(source.settings, seen.device, host.rtnl.link(name), addresses)
    return seen._replace(drift=tuple(each.message for each in found))


def doctor(
    source: str | None = None,
    *,
    peer_config: str = "",
    listen: float = 0.0,
    fix: bool = False,
    transcript: Transcript | None = None,
    limit: float = 0.0,
) -> dict[str, Examined]:
    """The causes of a live tunnel's problems by interface, the root cause first, as in `wgq doctor`.

    `source` is an interface's name or the path of its file; None means every interface that is up. `peer_config` is
    the file of the other end, for comparison. It takes at most ten seconds (or `limit`), and more only if `listen`
    asks for it; what was not examined in this time is a cause too. Only `fix` changes the host: it restores what
    was lost and reports it to `transcript`.
    """
    from time import monotonic

    began = monotonic()
    from wgquick.config.location import configured, file_here, interface_name
    from wgquick.diagnosis.doctor.examination import DoctorOptions, examine
    from wgquick.diagnosis.doctor.gather import LIMIT
    from wgquick.executor.netns_records import names as names_elsewhere
    from wgquick.system import inspection

    say = _line_by_line(transcript)
    host = _host(say)
    asked = DoctorOptions(file_here(peer_config), listen, fix, began + (limit or LIMIT) + listen)
    names = {}
    if source is not None:
        given = file_here(source)
        names = {interface_name(given): given}
    else:
        here = (each for each in host.wireguard.interfaces() if host.rtnl.link(each) is not None)
        names = {each: each for each in (*here, *names_elsewhere(host))}
    if not names:
        files = configured()
        if len(files) != 1:
            remedy = f"Name one, such as: wgq doctor {files[0] if files else 'wg0'}"
            raise WgqError("no WireGuard interface is up", remedy=remedy)
        names = {files[0]: files[0]}

    def examined(name: str) -> Examined:
        with _located(name, say) as there:
            return examine(name, names[name], there, inspection, asked, say)

    if len(names) == 1:
        return {name: examined(name) for name in names}
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(len(names), _AT_ONCE)) as pool:  # doctor mostly waits for answers
        return dict(zip(names, pool.map(examined, names), strict=True))


def rehearse(
    sources: Iterable[str | PathLike[str]],
    *,
    hosts: str = "",
    hooks: bool = True,
    keep: bool = False,
    transcript: Transcript | None = None,
) -> Report:
    """Bring every configuration up on its own simulated host and test who reaches whom, as `wgq rehearse` does.

    `hosts` is FILE=ADDRESS,... as for `--host`. ConfigError has the faults of a file; WgqError if the hosts cannot
    be created. It forks: call it in the main thread while no other thread runs.
    """
    from wgquick.diagnosis.rehearse import rehearse as run
    from wgquick.diagnosis.source import read as read_source
    from wgquick.system.lab import started

    read = [read_source(fspath(source)) for source in sources]
    return run(read, started, _line_by_line(transcript), hosts=hosts, hooks=hooks, keep=keep)


def trace(query: Query, *, peer_config: str | PathLike[str] | None = None, probe: bool = False) -> Traced:
    """The path of a packet (`wgquick.routing.Query`) from this host, as in `wgq trace`.

    `peer_config` is the other end's file. `probe` sends one such packet and follows it through nftables. WgqError
    if a link of the query does not exist.
    """
    from wgquick.config.location import file_here
    from wgquick.diagnosis.keys import public_key_of
    from wgquick.diagnosis.trace import OtherEnd, Traced, flows_of, probed
    from wgquick.diagnosis.trace import trace as follow
    from wgquick.system.routes import Routing
    from wgquick.system.snapshot import snapshot

    other_end = None
    if peer_config is not None:
        settings = load(file_here(fspath(peer_config)))
        other_end = OtherEnd(settings, public_key_of(settings.private_key) if settings.private_key else None)
    with Routing() as routing:
        for _ in range(3):  # retry, as the host may change between the snapshot and the kernel's answer
            seen = snapshot(public_key_of)
            for name in filter(None, (query.input_link, query.output_link)):
                if name not in seen.links:
                    raise WgqError(f"there is no link {name}", remedy="`ip link' lists them.")
            found = follow(seen, query, routing.ask, other_end)
            if found.is_agreed:
                break
    if probe:
        from wgquick.system import probe as probing

        found = probed(found, probing.send(query, flows_of(found)))
    return Traced(found, seen.table_names, seen.time)


@contextmanager
def tunnel(
    config: Either, options: Options | None = None, transcript: Transcript | None = None
) -> Iterator[Either]:
    """A context manager: the interface is up inside the `with` block and down after it.

    The block gets the configuration. A failing PreDown hook or save is raised after the interface is removed.
    """
    settings = _settings(config)
    up(settings, options, transcript)
    try:
        yield config
    finally:
        _end(settings, options, transcript)


def _end(settings: Settings, options: Options | None, transcript: Transcript | None) -> None:
    try:
        down(settings.name, settings, options, transcript)
    except WgqError:
        if _is_left(settings.name):
            down(settings.name, settings._replace(pre_down=(), save_config=False), options, transcript)
        raise


def _is_left(name: str) -> bool:
    from wgquick.executor.down import can_go_down

    return can_go_down(name, _host(_say_nothing), without_file=True)


def _settings(config: Config) -> Settings:
    if isinstance(config, Settings):
        return config
    try:
        return config.settings
    except AttributeError:
        kind = type(config).__name__
        raise TypeError(f"expected a configuration such as wgquick.read(...) returns, not {kind}") from None


def _checked(options: Options | None) -> Options:
    return (options or Options()).checked()


def _line_by_line(transcript: Transcript | None) -> Transcript:
    """A `say` that calls `transcript` for each line, as the executor prints the lines of a batch together."""
    if transcript is None:
        return _say_nothing

    def say(text: str) -> None:
        for line in lines_of(text):
            transcript(line)

    return say


def _print_error(text: str) -> None:
    """The `say` of a trial's watchdog; its standard error is a file in memory."""
    write(2, f"{text}\n".encode("utf-8", "surrogateescape"))


def _say_nothing(_text: str) -> None:
    """The `say` of callers that want no transcript."""


def _host(say: Transcript) -> Host:
    from wgquick.system.host import LocalHost

    return LocalHost(say)


def _netns_record(name: str, host: Host) -> NetnsRecord | None:
    """The network namespace into which `up` has put an interface from the current one."""
    from wgquick.executor.netns_records import record_of

    return record_of(name, host)


@contextmanager
def _located(name: str, say: Transcript) -> Iterator[Host]:
    """The host for an interface, with the calling thread in the interface's network namespace."""
    host = _host(say)
    where = _netns_record(name, host)
    if where is None:
        yield host
        return
    from wgquick.executor.netns_records import check_reachable

    check_reachable(name, where, host)
    with host.inside(where.netns) as inner:
        yield inner
