"""The Python interface, and the one place that joins the executor to the system.

Nothing here prints, exits, changes os.environ or keeps state: the transcript goes to the caller's function line
by line, failures are raised (`WgqError` and its kinds: `ConfigError` for a file's faults, `HookError` for a hook's
status, `OperationError` for what the kernel or a program refused), and each call works in the calling thread's
namespaces. Several threads may work on several interfaces. Hooks write to the process's own output.
"""

from __future__ import annotations

from errno import ENODEV
from os import fspath, strerror

from wgquick.config.location import valid_name
from wgquick.config.settings import Settings
from wgquick.errors import OperationError, WgqError
from wgquick.lean import TYPE_CHECKING, cast, contextmanager
from wgquick.options import Options

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
    from os import PathLike
    from typing import TypeVar

    from wgquick.config.models import WgQuickConfig
    from wgquick.counters import Diagnostics
    from wgquick.device import Device
    from wgquick.diagnosis.doctor.examination import Examined
    from wgquick.diagnosis.finding import Finding
    from wgquick.diagnosis.knocks import Heard
    from wgquick.diagnosis.live import Live
    from wgquick.diagnosis.source import Source
    from wgquick.diagnosis.trace import Traced
    from wgquick.executor.commands import FileForDown
    from wgquick.executor.reloading import Outcome, Wishes
    from wgquick.net import Prefix, PublicKey
    from wgquick.plan.difference import Move
    from wgquick.ports import Host, WireGuard
    from wgquick.rehearsal import Report
    from wgquick.routing import Query
    from wgquick.status.observe import Observer
    from wgquick.status.values import Status
    from wgquick.upkeep.events import Event

    Transcript = Callable[[str], None]
    Config = WgQuickConfig | Settings
    Either = TypeVar("Either", WgQuickConfig, Settings)


def parse(text: str | bytes, name: str = "wg0") -> WgQuickConfig:
    """The configuration in `text`, for the interface `name`.

    ConfigError with every fault of it; another WgqError if wg-quick does not allow such a name.
    """
    from wgquick.config.models import WgQuickConfig  # pydantic: not on the path of `wgq up`

    return WgQuickConfig.from_text(text, name=name)


def read(source: str | PathLike[str]) -> WgQuickConfig:
    """The configuration of an interface name (/etc/wireguard/NAME.conf) or of a path to NAME.conf.

    ConfigError with every fault of it; another WgqError if there is no such file.
    """
    from wgquick.config.models import WgQuickConfig

    return WgQuickConfig.from_settings(load(fspath(source)))


def load(source: str, transcript: Transcript | None = None, *, name: str | None = None) -> Settings:
    """As `read`, but the plain settings; `transcript` takes the warnings, `name` overrides the interface's name.

    The source `-` is standard input, and needs a name.
    """
    from wgquick.config.location import locate
    from wgquick.config.reading import read_settings

    return read_settings(locate(source, name), _said(transcript))


def strip(source: str, transcript: Transcript | None = None, *, name: str | None = None) -> bytes:
    """What `wg setconf` understands of the configuration, as `wg-quick strip` prints it; `-` needs no name here."""
    from wgquick.config.location import STANDARD_INPUT, Location, locate
    from wgquick.config.reading import read_stripped

    found = Location(name or "", "") if source == STANDARD_INPUT else locate(source, name)
    return read_stripped(found, _said(transcript))


def up(config: Config, options: Options | None = None, transcript: Transcript | None = None) -> None:
    """Bring the interface up as `wgq up` does (wg-quick(8)).

    Whatever fails or interrupts half way is undone completely, and raised.
    """
    from wgquick.executor.commands import cmd_up

    said = _said(transcript)
    settings = _settings(config)
    valid_name(settings.name)
    cmd_up(settings, _host(said), _checked(options), said)


def down(
    name: str,
    config: Config | str | PathLike[str] | None = None,
    options: Options | None = None,
    transcript: Transcript | None = None,
) -> None:
    """Take the interface down as `wgq down` does; WgqError if there is none of that name.

    `config`, whatever its own name, has the PreDown and PostDown hooks and SaveConfig. It may be a source, as for
    `read`: if that file is gone or has faults, the hooks are those of the journal. None takes those of the journal.
    A failing PreDown hook leaves the interface up (Options has `force`), a failing PostDown hook is raised with
    everything gone.
    """
    from wgquick.executor.commands import cmd_down

    said = _said(transcript)
    chosen = _checked(options)
    valid_name(name)
    read = _for_down(name, config, said)
    cmd_down(name, read, _host(said), chosen, say=said, save=lambda s: _save(s, chosen, said))


def _for_down(name: str, config: Config | str | PathLike[str] | None, said: Transcript) -> FileForDown:
    """What reads the configuration once the interface is locked."""
    if config is None:
        return lambda: (None, None)
    try:
        source = fspath(cast("str", config))
    except TypeError:
        settings = _settings(cast("Config", config))._replace(name=name)
        return lambda: (settings, None)
    from wgquick.config.location import locate
    from wgquick.config.reading import read_for_down

    return lambda: read_for_down(locate(source, name), said)


def reload(
    config: Config,
    options: Options | None = None,
    transcript: Transcript | None = None,
    wishes: Wishes | None = None,
) -> Outcome:
    """Change the live interface to what the configuration says as `wgq reload` does, by the difference alone.

    RestartNeededError (status 3) with nothing changed where that cannot be. Whatever fails or interrupts half
    way is undone completely, and raised.
    """
    from wgquick.executor.reloading import Wishes, cmd_reload

    said = _said(transcript)
    settings = _settings(config)
    valid_name(settings.name)
    return cmd_reload(settings, _host(said), _checked(options), wishes or Wishes(), said)


def move_lines(move: Move) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the transcript says of a reload's move, and of its way back."""
    host = _host(_unheard)
    return move.step.lines(host), tuple(line for step in move.back for line in step.lines(host))


def save(source: str | PathLike[str], options: Options | None = None, transcript: Transcript | None = None) -> None:
    """Write the interface's present state to its configuration file as `wgq save` does.

    `source` is the interface's name or its file's path, as for `read`.
    """
    said = _said(transcript)
    _save(load(fspath(source), said), _checked(options), said)


def _save(settings: Settings, options: Options, said: Transcript) -> None:
    from wgquick.executor.saving import cmd_save

    cmd_save(settings, _host(said), options, said)


def interfaces() -> list[str]:
    """The names of the WireGuard interfaces, as `wg show interfaces` prints them."""
    return _host(_unheard).wireguard.interfaces()


def devices(names: Iterable[str] | None = None) -> list[Device]:
    """The state of the interfaces that are named, or of all; OperationError if one is no WireGuard interface."""
    wireguard = _host(_unheard).wireguard
    if names is not None:
        return [_device(wireguard, name) for name in names]
    found = []
    for name in wireguard.interfaces():
        try:
            found.append(wireguard.get(name))
        except OperationError as error:
            if error.errno != ENODEV:  # it went meanwhile
                raise
    return found


def _device(wireguard: WireGuard, name: str) -> Device:
    try:
        return wireguard.get(name)
    except OperationError as error:
        what = f"Unable to access interface: {strerror(error.errno)}" if error.errno else error.what
        raise OperationError(what, errno=error.errno, where=name) from None


def listen(device: Device, seconds: float, candidates: Iterable[PublicKey] = ()) -> Heard:
    """Who knocks at a device's port in that many seconds, what leaves it, and which ICMP errors come back.

    The device needs not be there: its name, private key, port and peers' keys are what counts. `candidates` are
    keys that a message may be made for by mistake. It changes nothing and needs CAP_NET_RAW (OperationError). Every
    thread may listen; what is heard is of the calling thread's network namespace.
    """
    from wgquick.diagnosis.knocks import Ledger
    from wgquick.system.capture import Capture

    ledger = Ledger(device.private_key, [peer.public_key for peer in device.peers], candidates)
    with Capture(device.listen_port, device.name) as capture:
        for event in capture.read(seconds):
            ledger.take(event)
        return ledger.result(device.listen_port, seconds, capture.loss.dropped)


def status(names: Iterable[str] = ()) -> Status:
    """The interfaces that are named, or all, and their peers, as `wgq status --json` has them; no rates.

    OperationError if one that is named is no WireGuard interface.
    """
    return observer().read(tuple(names))


def observer(*, look_up: bool = True) -> Observer:
    """What reads the status again and again: from the second reading on there are rates.

    Without `look_up` no name of an endpoint is looked up.
    """
    from wgquick.status.observe import Observer

    return Observer(_host(_unheard), look_up=look_up)


def diagnostics(name: str) -> Diagnostics | None:
    """What the daemon of an interface counts (wgquick.counters); None of the kernel's and of other daemons'.

    OperationError (ENODEV) if it is no WireGuard interface. wireguard-go logs an error for a request that it does
    not know: do not ask it again and again.
    """
    return _host(_unheard).wireguard.diagnostics(name)


def wait(name: str, timeout: float = 15.0, peers: str = "any") -> tuple[PublicKey, ...]:
    """Wait for handshakes that are newer than the call, as `wgq wait` does; returns whose there were.

    `peers` is "any" or "all" of those with an endpoint, or public keys or names of peers, separated by commas.
    Handshakes are begun without a packet inside the tunnel. NoHandshakeError if there is none in `timeout` seconds.
    """
    from wgquick.executor import waiting

    host = _host(_unheard)
    link = host.rtnl.link(name)
    device = _device(host.wireguard, name)
    if link is not None and not link.up:
        raise WgqError("the link is down", where=name, remedy=f"Set it up: ip link set up dev {name}")
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
    """Put back what other programs take from interfaces, as `wgq watch` does, and yield what happens.

    `names` are those to watch, whether they are up or not; none stands for all that wgq brought up. It goes on
    until the iterator is closed; with `once` it ends after one look, and WgqError says which of `names` is not up.
    `check_only` changes nothing. `ready` is called once the first look is over. The work is done between the
    events, in the loop's thread, and in the network namespace in which that is when the iteration begins.
    """
    from wgquick.system.monitor import Monitor
    from wgquick.upkeep.watcher import Asked, Watcher, check_up

    host, chosen = _host(_unheard), frozenset(map(valid_name, names))
    if once:
        check_up(sorted(chosen), host)
    async for event in Watcher(host, Monitor(), Asked(chosen, once, check_only), ready).events():
        yield event


def first_handshakes(settings: Settings, timeout: float, peers: str) -> Callable[[], tuple[PublicKey, ...]]:
    """A function that waits as `wait` does, for an interface that `up` has made since this was called.

    WgqError if the file has no such peer.
    """
    from wgquick.executor import waiting

    wanted = {peer.public_key: peer.endpoint is not None for peer in settings.peers}
    awaited = waiting.chosen(settings.name, wanted, peers, _file_names(settings.path))
    wireguard = _host(_unheard).wireguard
    return lambda: waiting.handshakes(settings.name, wireguard, awaited, None, timeout=timeout)


def _names(name: str, host: Host) -> Mapping[str, str]:
    """The names of an interface's peers, by the file that the journal names."""
    from wgquick.config.location import DIRECTORY
    from wgquick.executor.journal import Journal

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
    """The destinations of the main table, of an address's family."""
    from wgquick.net import MAIN_TABLE, family_of

    return _host(_unheard).rtnl.routes(family=family_of(address), table=MAIN_TABLE)


def public_key(device: Device) -> PublicKey | None:
    """A device's own public key; None if it has no private key."""
    from wgquick.diagnosis.keys import public_key_of

    return public_key_of(device.private_key) if device.private_key else None


def check(
    sources: Iterable[str | PathLike[str]],
    *,
    fix: bool = False,
    live: bool = False,
    transcript: Transcript | None = None,
) -> list[Finding]:
    """What is wrong in configuration files, by themselves and against each other, as `wgq check` says it.

    A source is a path, or the name of an interface. `fix` mends what has one remedy alone and tells `transcript` of
    it; the findings are then those that are left. `live` takes the files for this host's, and looks at it.
    """
    from wgquick.diagnosis.check import check as examine
    from wgquick.diagnosis.fix import mend
    from wgquick.diagnosis.source import read as read_source

    paths = [fspath(source) for source in sources]
    look = _look if live else None
    found = examine([read_source(path) for path in paths], look)
    if fix and mend([read_source(path) for path in paths], found, _said(transcript)):
        found = examine([read_source(path) for path in paths], look)
    return found


def _look(source: Source) -> Live:
    """What this host shows of a file."""
    from wgquick.diagnosis.live import gather
    from wgquick.status.drift import differences
    from wgquick.system import senses

    host, name = _host(_unheard), source.interface
    seen = gather(source, host, senses)
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
) -> dict[str, Examined]:
    """What is wrong with a live tunnel, as `wgq doctor` says it: by interface, the root cause first.

    `source` is an interface's name or the path of its file; None stands for every interface that is up.
    `peer_config` is the file of the other end, to be compared. At most ten seconds an interface, or as many as it
    is to `listen`. Nothing on the host is changed, unless `fix` puts back what was lost, and tells `transcript`.
    """
    from wgquick.config.location import interface_name
    from wgquick.diagnosis.doctor.examination import Asked, examine
    from wgquick.system import senses

    said = _said(transcript)
    host = _host(said)
    asked = Asked(peer_config, listen, fix)
    names = {interface_name(source): source} if source is not None else {}
    if source is None:
        names = {each: each for each in host.wireguard.interfaces() if host.rtnl.link(each) is not None}
    if not names:
        raise WgqError("no WireGuard interface is up", remedy="Name one: wgq doctor wg0")
    return {name: examine(name, given, host, senses, asked, said) for name, given in names.items()}


def rehearse(
    sources: Iterable[str | PathLike[str]],
    *,
    hosts: str = "",
    hooks: bool = True,
    keep: bool = False,
    transcript: Transcript | None = None,
) -> Report:
    """Bring every configuration up on a host of its own, and try who reaches whom, as `wgq rehearse` does.

    `hosts` is FILE=ADDRESS,... as `--host` takes it. ConfigError with the faults of a file; another WgqError if the
    hosts cannot be made. It forks: call it in the main thread, and while there is no other.
    """
    from wgquick.diagnosis.rehearse import rehearse as run
    from wgquick.diagnosis.source import read as read_source
    from wgquick.system.lab import started

    read = [read_source(fspath(source)) for source in sources]
    return run(read, started, _said(transcript), hosts=hosts, hooks=hooks, keep=keep)


def trace(query: Query, *, peer_config: str | PathLike[str] | None = None, probe: bool = False) -> Traced:
    """The way of a packet (`wgquick.routing.Query`) from here, as `wgq trace` says it.

    `peer_config` is the other end's file. `probe` sends one such packet, and follows it through nftables.
    WgqError if a link of the query is not there.
    """
    from wgquick.diagnosis.keys import public_key_of
    from wgquick.diagnosis.trace import FarEnd, Traced, flows_of, probed
    from wgquick.diagnosis.trace import trace as follow
    from wgquick.system.routes import Routing
    from wgquick.system.snapshot import snapshot

    far_end = None
    if peer_config is not None:
        settings = load(fspath(peer_config))
        far_end = FarEnd(settings, public_key_of(settings.private_key) if settings.private_key else None)
    with Routing() as routing:
        for _ in range(3):  # what changes between the snapshot and the question is no disagreement
            seen = snapshot(public_key_of)
            for name in filter(None, (query.input_link, query.output_link)):
                if name not in seen.links:
                    raise WgqError(f"there is no link {name}", remedy="`ip link' lists them.")
            found = follow(seen, query, routing.ask, far_end)
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
    """The interface is up inside the `with` block and down after it, however the block ends.

    The block gets the configuration. A PreDown hook or a saving that fails is raised, with the interface gone.
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
    from wgquick.executor.commands import can_go_down

    return can_go_down(name, _host(_unheard), without_file=True)


def _settings(config: Config) -> Settings:
    if isinstance(config, Settings):
        return config
    try:
        return config.settings
    except AttributeError:
        kind = type(config).__name__
        raise TypeError(f"a configuration is wanted, as wgquick.read(...) gives it, not {kind}") from None


def _checked(options: Options | None) -> Options:
    return (options or Options()).checked()


def _said(transcript: Transcript | None) -> Transcript:
    """The caller's function, given each line by itself: the executor says those of a batch together."""
    if transcript is None:
        return _unheard

    def line_by_line(text: str) -> None:
        for line in text.split("\n"):
            transcript(line)

    return line_by_line


def _unheard(_text: str) -> None:
    """A library says nothing unless it is asked to."""


def _host(said: Transcript) -> Host:
    from wgquick.system.host import LocalHost

    return LocalHost(said)
