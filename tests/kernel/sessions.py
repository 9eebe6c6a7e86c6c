"""`wgq try` under a real systemd, inside the VM: systemd ends the session or the service around it."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from tests.kernel.verbs import wgq
from tests.namespaces import host
from tests.netns.tunnels import WGQ, config, write
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from subprocess import CompletedProcess

    from tests.namespaces import Namespace

_LONG = 600.0  # seconds, for an emulated processor
_ALONE = "[Unit]\nDefaultDependencies=no\n"
_DONE = f"{_ALONE}[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=true\n"
# A container's systemd with a bus and logind alone: the rest of a boot takes minutes with an emulated processor.
_UNITS = {
    "trial.target": f"{_ALONE}Wants=dbus.socket dbus.service systemd-logind.service\n",
    "dbus.socket": f"{_ALONE}[Socket]\nListenStream=/run/dbus/system_bus_socket\n",
    "dbus.service": f"{_ALONE}Requires=dbus.socket\nAfter=dbus.socket\n[Service]\n"
    "ExecStart=/usr/bin/dbus-daemon --system --address=systemd: --nofork --nopidfile --systemd-activation\n",
    "systemd-logind.service": f"{_ALONE}Requires=dbus.service\nAfter=dbus.service\n[Service]\nType=notify\n"
    "ExecStart=/lib/systemd/systemd-logind\nBusName=org.freedesktop.login1\n",
    "user@.service": _DONE,
    "user-runtime-dir@.service": _DONE,
}
_FILES = {
    "/etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "/etc/systemd/logind.conf": "[Login]\nKillUserProcesses=yes\nKillExcludeUsers=\n",
    "/etc/pam.d/trial": "auth sufficient pam_permit.so\naccount sufficient pam_permit.so\n"
    "session required pam_systemd.so class=user type=tty\n",
    **{f"/run/systemd/system/{name}": text for name, text in _UNITS.items()},
}
_START = """
set -e
mkdir -p /run/dbus
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env -i container=test "PATH=$PATH" /lib/systemd/systemd --system --unit=trial.target --log-target=null \
    --show-status=0
"""


class Systemd:
    """A machine whose first process is systemd."""

    def __init__(self, machine: Namespace, leader: str) -> None:
        self.machine, self._leader = machine, leader

    def run(self, *command: str, check: bool = True) -> CompletedProcess[str]:
        """Run a command beside systemd, in none of its units."""
        enter = ("nsenter", "-t", self._leader, "--mount", "--pid", "--cgroup", "--net", "--")
        return self.machine.run([*enter, *command], check=check, timeout=300)

    def start(self, name: str, *options: str) -> None:
        """Start `wgq try reload NAME` as a service."""
        variables = [f"--setenv={each}={os.environ.get(each, '')}" for each in ("PATH", "PYTHONPATH")]
        log = ("-p", f"StandardError=append:/run/{name}.log")
        unit = ("systemd-run", f"--unit=trial-{name}", *variables, *log, *options)
        self.run(*unit, *WGQ, "try", "reload", name, "--timeout", "600")

    def sessions(self) -> list[str]:
        """The ids of the sessions, the oldest first."""
        lines = self.run("loginctl", "list-sessions", "--no-legend").stdout.splitlines()
        return sorted(line.split()[0] for line in lines)

    def has_ended(self, unit: str) -> bool:
        """Whether a unit has no process any more."""
        shown = self.run("systemctl", "show", "-P", "ActiveState", unit).stdout.strip()
        return shown not in ("active", "deactivating")


@contextmanager
def systemd() -> Iterator[Systemd]:
    """A machine with a real systemd and logind, which ends what a session leaves (KillUserProcesses)."""
    with host() as machine:
        machine.uplink()
        for path, text in _FILES.items():
            machine.run(["sh", "-c", 'mkdir -p "${1%/*}"; cat >"$1"', "sh", path], input=text)
        namespaces = ("--pid", "--mount", "--mount-proc", "--cgroup", "--propagation", "private")
        outer = machine.popen(["unshare", *namespaces, "--fork", "--kill-child", "sh", "-c", _START])
        children = ["pgrep", "-P", str(outer.pid)]
        until(lambda: machine.run(children, check=False).stdout, "the first process")
        made = Systemd(machine, machine.out(*children).strip())
        ready = ("systemctl", "is-active", "systemd-logind.service")
        until(lambda: made.run(*ready, check=False).stdout == "active\n", "logind", _LONG)
        yield made


def a_trial_survives_what_systemd_kills() -> None:
    """A session and a service are killed, and logind ends a session: the watchdogs are in scopes of their own."""
    with systemd() as there:
        machine = there.machine
        before = {}
        for n, name in enumerate(("wg0", "wg1", "wg2")):
            write(machine, config(address=f"10.{n}.0.1/24", peer=f"AllowedIPs = 10.9.{n}.0/24"), name)
            wgq(machine, "up", name)
            before[name] = machine.out("wg", "showconf", name)
            write(machine, config(address=f"10.{n}.0.1/24", peer=f"AllowedIPs = 10.7.{n}.0/24"), name)
        session = ("-p", "PAMName=trial", "-p", "User=root")
        for name, options in (("wg0", session), ("wg1", session), ("wg2", ())):
            there.start(name, *options)
            until(partial(_is_pending, machine, name), f"the change of {name}", _LONG)
        first, second = there.sessions()
        adjusted = machine.out(
            "sh", "-c", "cat $(grep -lx wgq-standby /proc/*/comm | sed 's/comm$/oom_score_adj/')"
        )
        assert adjusted.split() == ["-1000"] * 3  # the out-of-memory killer spares each standby
        there.run("loginctl", "kill-session", "--signal=KILL", first)
        there.run("systemctl", "kill", "--signal=KILL", "trial-wg2.service")
        for unit in (f"session-{first}.scope", "trial-wg2.service"):
            until(partial(there.has_ended, unit), f"the end of {unit}", _LONG)
        assert machine.out("wg", "showconf", "wg0") != before["wg0"]
        assert _phases(machine) == dict.fromkeys(before, "pending")
        there.run("loginctl", "terminate-session", second)
        until(partial(there.has_ended, f"session-{second}.scope"), "the end of the second session", _LONG)
        assert _phases(machine) == dict.fromkeys(before, "pending")
        for name in before:
            wgq(machine, "confirm", name, "--extend", "0.1")
        until(lambda: _phases(machine) == {}, "the rollback", _LONG)
        assert {name: machine.out("wg", "showconf", name) for name in before} == before


def _is_pending(machine: Namespace, name: str) -> bool:
    return _phases(machine).get(name) == "pending"


def _phases(machine: Namespace) -> dict[str, str]:
    trials = json.loads(wgq(machine, "status", "--json")[0])["trials"]
    return {each["interface"]: each["phase"] for each in trials}


CHECKS: Sequence[Callable[[], None]] = (a_trial_survives_what_systemd_kills,)
