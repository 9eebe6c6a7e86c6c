"""doctor's report for others: the findings and their evidence, without keys, addresses and names."""

from __future__ import annotations

import os
import socket

import wgquick
from wgquick.diagnosis.doctor.redaction import Redaction, hosts_in
from wgquick.lean import TYPE_CHECKING
from wgquick.net import without_keys
from wgquick.show import doctor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from wgquick.diagnosis.doctor.cause import Cause
    from wgquick.diagnosis.doctor.evidence import Evidence


_PRINTED_SEPARATELY = frozenset({"peers", "private_key", "path", "addresses"})


def text(causes: Iterable[Cause], evidence: Evidence) -> str:
    """The whole report of one interface."""
    sections = "\n".join(f"== {title}\n{body.rstrip()}\n" for title, body in _sections(list(causes), evidence))
    return Redaction(_names(evidence)).text(sections)


def _names(evidence: Evidence) -> set[str]:
    """The host names that may occur: of endpoints, of this host, search domains, and those in hooks."""
    settings = evidence.settings
    found = {peer.endpoint.host for peer in settings.peers if peer.endpoint} if settings else set()
    if settings:
        hooks = (*settings.pre_up, *settings.post_up, *settings.pre_down, *settings.post_down)
        found |= {*settings.dns_search, *hosts_in("\n".join(hooks))}
    own = socket.gethostname()
    found |= {own, own.partition(".")[0]} if own != "localhost" else set()
    parents = {each.partition(".")[2] for each in found if each.count(".") > 1}
    return {each for each in found | parents if not each.replace(".", "").isdecimal() and ":" not in each}


def _sections(causes: list[Cause], evidence: Evidence) -> Iterator[tuple[str, str]]:
    kernel = os.uname()
    yield "versions", f"wgq {wgquick.__version__}, Linux {kernel.release} {kernel.machine}"
    yield "findings", doctor.text(evidence.name, causes)
    yield "file", "\n".join(_file(evidence))
    yield "journal", _lines(evidence.record.undos if evidence.record else ())
    yield "device", "\n".join(_device(evidence))
    yield "link", _lines((evidence.link, evidence.link_after))
    yield "addresses", _lines(map(str, evidence.addresses))
    yield (
        "routes through it",
        _lines(
            f"table {table}: {', '.join(sorted(map(str, routes)))}" for table, routes in evidence.routes.items()
        ),
    )
    yield "routes of other links", _lines(evidence.foreign)
    yield "rules", _lines(evidence.rules)
    yield "routes to addresses", _lines(f"{address}: {way}" for address, way in evidence.ways.items())
    yield "routes to endpoints", _lines(f"{key}: {each}" for key, each in evidence.outside.items())
    yield "probes", "\n".join(_probes(evidence))
    yield "signs", _lines(evidence.signs)
    yield "counters", _counters(evidence)
    yield "parameters", _lines(f"{key} = {value}" for key, value in evidence.parameters.items())
    yield "DNS", _lines((evidence.dns_mode, evidence.dns_now, evidence.name_servers))
    yield "UDP port", str(evidence.port)
    yield "firewall (nft)", evidence.rulesets.nft if evidence.rulesets else ""
    yield (
        "firewall (legacy)",
        f"{evidence.rulesets.legacy4}{evidence.rulesets.legacy6}" if evidence.rulesets else "",
    )


def _lines(values: Iterable[object]) -> str:
    return "\n".join(str(value) for value in values if value not in (None, ""))


def _file(evidence: Evidence) -> Iterator[str]:
    """The file's settings, without comments and secrets."""
    settings = evidence.settings
    yield f"{os.path.basename(evidence.file.path) or 'none'}"
    yield from (f"{fault.line}:{fault.column}: {fault.code}" for fault in evidence.file.faults)
    if settings is None:
        return
    for name, value in settings._asdict().items():
        if name in _PRINTED_SEPARATELY or value in (None, "", (), False):
            continue
        lines = value if isinstance(value, tuple) else (value,)
        yield from (f"{name} = {without_keys(str(line))}" for line in lines)
    yield f"addresses = {', '.join(address.text for address in settings.addresses)}"
    yield f"private_key = {'set' if settings.private_key else 'none'}, of {evidence.file_key}"
    for peer in settings.peers:
        yield f"peer {peer.public_key}, preshared key {'set' if peer.preshared_key else 'none'}"
        yield f"  allowed_ips = {', '.join(map(str, peer.allowed_ips))}"
        yield f"  endpoint = {peer.endpoint}, persistent_keepalive = {peer.persistent_keepalive}"


def _device(evidence: Evidence) -> Iterator[str]:
    device = evidence.device
    if device is None:
        yield evidence.device_error or "none"
        return
    yield f"public key {evidence.own_key}, port {device.listen_port}, mark {device.fwmark:#x}"
    for peer in device.peers:
        age = f"{evidence.now - peer.last_handshake:.0f} s ago" if peer.last_handshake else "never"
        psk = "set" if peer.preshared_key else "none"
        yield f"peer {peer.public_key}, preshared key {psk}, endpoint {peer.endpoint}"
        yield f"  allowed_ips = {', '.join(map(str, peer.allowed_ips))}"
        yield f"  handshake {age}, received {peer.rx_bytes}, sent {peer.tx_bytes}"


def _probes(evidence: Evidence) -> Iterator[str]:
    for key, watched in evidence.watched.items():
        result, fitting = watched.handshake_result, watched.fitting
        yield f"{key}: received {watched.received}, sent {watched.sent}, {result}, fitting {fitting}"
        yield from (f"  {echo}" for echo in watched.echoes)
        yield f"  endpoints {', '.join(watched.endpoints)}"


def _counters(evidence: Evidence) -> str:
    counters = evidence.counters
    if counters is None:
        return ""
    peers = (f"{key}: {event}" for key, events in counters.peers.items() for event in events.events)
    age = f"counted for {counters.device.counting:.0f} s"
    return _lines((age, *counters.device.events, *peers))
