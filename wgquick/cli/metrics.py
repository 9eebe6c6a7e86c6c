"""`wgq metrics`: writes metrics to standard output or a file, or serves them over HTTP on the loopback."""

from __future__ import annotations

import os
import signal
from ipaddress import ip_address
from typing import TYPE_CHECKING

from prometheus_client import start_http_server, write_to_textfile

from wgquick import api
from wgquick.cli import privilege, signals, status
from wgquick.cli.streams import say
from wgquick.cli.verbs import write
from wgquick.errors import OperationError, SignalError, WgqError
from wgquick.options import METRICS, OPTIONS
from wgquick.show import metrics as show
from wgquick.transcript import command

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from wgquick.cli.verbs import Given

_LOOPBACK = "127.0.0.1"
_LAST_PORT = 65535


def metrics(targets: list[str], given: Given) -> None:
    """Print the metrics, write them to a file, or serve them until a signal arrives."""
    names, textfile, listen = (str(given.get(name) or "") for name in ("names", "textfile", "listen"))
    names = names or METRICS[0]
    OPTIONS["names"].check(names, "--names")
    if textfile and listen:
        raise WgqError("--textfile and --listen exclude each other", remedy="Omit one of them.")
    if textfile and os.path.exists(textfile) and not os.path.isfile(textfile):  # it would be replaced
        raise WgqError(f"{textfile} is not a regular file", remedy="Name a file to be replaced.")
    place = place_of(listen) if listen else None
    privilege.acquire()
    targets = status.names(targets)
    observer = api.observer(look_up=False)
    if place:
        return _serve(*place, show.registry(lambda: observer.read(targets, missing=True), names))
    found = observer.read(targets)
    if textfile:
        try:
            return write_to_textfile(os.path.realpath(textfile), show.registry(lambda: found, names))
        except OSError as error:  # it names a temporary file
            remedy = "Name a file in a directory that this user may write to."
            raise WgqError(f"cannot write {textfile}: {error.strerror}", remedy=remedy) from None
    return write(show.text(found, names))


def place_of(text: str) -> tuple[str, int]:
    """The address and port of `[ADDRESS:]PORT`; WgqError unless it is a loopback address."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (port.isascii() and port.isdecimal() and int(port) <= _LAST_PORT):
        raise WgqError(f"--listen `{text}' has no port", remedy="Write --listen 9586, or --listen [::1]:9586.")
    address = _LOOPBACK if host in ("", "localhost") else host
    try:
        is_loopback = ip_address(address).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise WgqError(
            f"`{host}' is not a loopback address; the metrics reveal peers and their addresses",
            remedy="Serve them on 127.0.0.1 or [::1], behind a reverse proxy with authentication.",
        )
    return address, int(port)


def _serve(address: str, port: int, registry: CollectorRegistry) -> None:
    """Serve until a signal arrives. Each scrape reads the devices again, in its own thread."""
    try:
        server, _ = start_http_server(port, address, registry)
    except OSError as error:
        what = f"cannot listen on {address} port {port}: {os.strerror(error.errno or 0)}"
        raise OperationError(what, errno=error.errno or 0, remedy="Choose another port.") from None
    url = f"http://[{address}]" if ":" in address else f"http://{address}"
    say(command(f"Serving metrics at {url}:{server.server_port}/metrics"))
    try:
        with signals.raised():
            while True:
                signal.pause()
    except SignalError as error:
        if error.number != signal.SIGTERM:  # service managers stop services with TERM
            raise
