"""The tables of all verbs, options and environment variables.

typer's application, the parser in `cli.main`, the completions and the variables for sudo are generated from these
tables. `wgq up NAME` imports this module, so it imports nothing slow.
"""

from __future__ import annotations

from wgquick.errors import WgqError
from wgquick.lean import NamedTuple


class Option(NamedTuple):
    """An option `--NAME`. It takes one of `values`, or any value described by `metavar`; without both it is a flag.

    `alone` is the value if the option has none; a value then has to follow after `=`. `variable` is the environment
    variable that sets the default; "" if there is none. `own` has verbs with another help and metavar.
    """

    name: str
    help: str
    values: tuple[str, ...] = ()
    metavar: str = ""
    variable: str = ""
    alone: str = ""
    own: tuple[tuple[str, str, str], ...] = ()

    def of(self, verb: str) -> Option:
        """The option as this verb explains it."""
        for name, words, metavar in self.own:
            if name == verb:
                return self._replace(help=words, metavar=metavar)
        return self

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value."""
        return not (self.values or self.metavar)

    def check(self, value: object, setter: str) -> None:
        """WgqError if the value is not one of `values`; `setter` is the option, variable or field that set it."""
        if self.values and value not in self.values:
            what = f"`{value}' is not a valid value for {setter}"
            raise WgqError(what, remedy=f"Choose one of: {', '.join(self.values)}.")


class Verb(NamedTuple):
    """A verb. `completes` is the kind of names that complete its argument: "configurations", "interfaces" or "".

    It takes `least` to `most` arguments; `words` describes them, and `needs` the required ones. `first` are the
    words for the first, if only some are valid there.
    """

    name: str
    summary: str
    help: str
    completes: str
    standard_input: bool
    options: tuple[str, ...]
    least: int = 1
    most: int = 1
    words: str = "CONFIG_FILE|INTERFACE"
    needs: str = "a file or an interface"
    first: tuple[str, ...] = ()


MANY = 1_000_000
BACKENDS = ("auto", "kernel", "userspace")
FIREWALLS = ("auto", "nft", "iptables")
METRICS = ("mdlayher", "mindflavor")
DNS_MODES = ("auto", "resolvconf", "resolved", "file", "off")

OPTIONS = {
    option.name: option
    for option in (
        Option("backend", "Which WireGuard implementation to use.", BACKENDS, variable="WGQ_BACKEND"),
        Option("firewall", "Which firewall a full tunnel uses.", FIREWALLS, variable="WGQ_FIREWALL"),
        Option("dns", "How to set DNS.", DNS_MODES, variable="WGQ_DNS"),
        Option("name", "Name of the interface, in place of the file's.", metavar="INTERFACE"),
        Option("kill-switch", "Block traffic outside the tunnel until it is taken down."),
        Option(
            "exclude",
            "Networks that stay outside the tunnel; `lan' means connected private networks.",
            metavar="NETWORKS",
        ),
        Option("keep-inbound", "Answer inbound connections on the link they arrived on."),
        Option("netns", "Put the interface into a network namespace, which is created if needed.", metavar="NAME"),
        Option("strict", "Fail if IPv6 is disabled or src_valid_mark cannot be set."),
        Option("force", "Continue if a PreDown hook or saving fails; reload despite SaveConfig."),
        Option("ensure", "Apply the file's changes if the interface is up already; do nothing if there are none."),
        Option("dry-run", "Print the changes without making them."),
        Option("or-restart", "Restart the interface if it cannot be changed while it is up."),
        Option("keep-foreign", "Keep peers that are in neither the file nor the journal."),
        Option("json", "Print JSON."),
        Option("offline", "Read only the file: values that depend on the host stay unknown."),
        Option("live", "Also compare the files with this host."),
        Option("bundle", "Print a report to share, with keys, addresses and names replaced."),
        Option("fix", "Fix findings that have exactly one remedy."),
        Option("once", "Restore what is missing now, and exit."),
        Option("check-only", "Print what is missing, and change nothing."),
        Option("exec", "Run a shell command for each event.", metavar="COMMAND"),
        Option("watch", "Update every second, with rates, until interrupted."),
        Option("names", "Which exporter's metric names to use.", METRICS),
        Option("textfile", "Write the metrics to a file, atomically.", metavar="FILE"),
        Option(
            "listen",
            "Listen SECONDS for handshakes.",
            metavar="SECONDS",
            own=(("metrics", "Serve the metrics over HTTP on a loopback address.", "[ADDRESS:]PORT"),),
        ),
        Option("wait", "Wait for a handshake: 15 seconds, or --wait=SECONDS.", metavar="SECONDS", alone="15"),
        Option("wait-for", "The peers to wait for.", metavar="any|all|PEER"),
        Option("no-wait-for-dns", "Do not wait for endpoint names to resolve: `wgq watch' sets these endpoints."),
        Option("or-down", "Take the interface down if there is no handshake in time."),
        Option(
            "timeout",
            "The maximum time.",
            metavar="SECONDS",
            own=(("try", "How long the change is on trial.", "SECONDS"),),
        ),
        Option("confirm-when", "What confirms the change automatically.", metavar="handshake|ping:ADDRESS"),
        Option("extend", "Let the trial end in SECONDS from now.", metavar="SECONDS"),
        Option("reject", "Roll the change back now."),
        Option("for", "The peers to wait for.", metavar="any|all|PEER"),
        Option("exit-code", "Exit 4 if a wanted peer is not up."),
        Option("host", "The hosts' addresses, in place of those in Endpoints.", metavar="FILE=ADDRESS,..."),
        Option("keep", "Keep the hosts for inspection."),
        Option("no-hooks", "Run no hooks."),
        Option("from", "The packet's source address.", metavar="ADDRESS"),
        Option("mark", "The packet's mark.", metavar="MARK"),
        Option("iif", "The link that the packet arrives on.", metavar="LINK"),
        Option("oif", "The link or VRF that the sending socket is bound to.", metavar="LINK"),
        Option("uid", "The user that owns the sending socket.", metavar="USER"),
        Option("port", "The protocol and the destination port.", metavar="PROTOCOL/PORT"),
        Option("peer-config", "The file of the other end.", metavar="CONFIG_FILE"),
        Option("probe", "Send one packet, and name the nftables rule that drops it."),
    )
}

VERBS = {
    verb.name: verb
    for verb in (
        Verb(
            "up",
            "Bring an interface up.",
            "Bring an interface up. A failure undoes all changes. With --ensure it may be up already: then apply"
            " the file's changes. Exit 3 if that needs a restart.",
            completes="configurations",
            standard_input=True,
            options=(
                "backend",
                "firewall",
                "dns",
                "name",
                "strict",
                "kill-switch",
                "exclude",
                "keep-inbound",
                "netns",
                "no-wait-for-dns",
                "wait",
                "wait-for",
                "or-down",
                "ensure",
                "or-restart",
                "keep-foreign",
                "force",
                "json",
            ),
        ),
        Verb(
            "down",
            "Take an interface down.",
            "Take an interface down by the journal of up, even if the file is gone or has faults.",
            completes="interfaces",
            standard_input=True,
            options=("dns", "name", "force"),
        ),
        Verb(
            "reload",
            "Apply a file's changes to a live interface.",
            "Apply only the changes of a file to a live interface. Exit 3 if it needs a restart.",
            completes="interfaces",
            standard_input=True,
            options=(
                "dry-run",
                "json",
                "or-restart",
                "keep-foreign",
                "no-wait-for-dns",
                "wait",
                "wait-for",
                "force",
                "backend",
                "firewall",
                "dns",
                "name",
                "strict",
            ),
        ),
        Verb(
            "try",
            "Make a change, and roll it back unless it is confirmed.",
            "Do what up, reload or down does, and roll it back unless it is confirmed in time, even if the "
            "terminal or this command is gone by then. Exit 0 if confirmed, 4 if rolled back.",
            completes="configurations",
            standard_input=True,
            options=(
                "timeout",
                "confirm-when",
                "json",
                "or-restart",
                "keep-foreign",
                "force",
                "backend",
                "firewall",
                "dns",
                "name",
                "strict",
                "kill-switch",
                "exclude",
                "keep-inbound",
                "netns",
            ),
            least=2,
            most=2,
            words="up|reload|down CONFIG_FILE|INTERFACE",
            needs="up, reload or down, and a file or an interface",
            first=("up", "reload", "down"),
        ),
        Verb(
            "confirm",
            "Keep a change that is on trial.",
            "Keep the change of an interface that `wgq try' has made.",
            completes="interfaces",
            standard_input=False,
            options=("extend", "reject"),
            words="INTERFACE",
            needs="an interface",
        ),
        Verb(
            "plan",
            "Show what up, down or reload would do.",
            "Show what up, down or reload would do: each command, its line in the file, and the peers that lose "
            "their sessions. Exit 0 if there is nothing to do, 2 if there is.",
            completes="configurations",
            standard_input=True,
            options=(
                "json",
                "offline",
                "keep-foreign",
                "force",
                "backend",
                "firewall",
                "dns",
                "name",
                "strict",
                "kill-switch",
                "exclude",
                "keep-inbound",
                "netns",
            ),
            least=2,
            most=2,
            words="up|down|reload CONFIG_FILE|INTERFACE",
            needs="up, down or reload, and a file or an interface",
            first=("up", "down", "reload"),
        ),
        Verb(
            "diff",
            "Show how a live interface differs from its file.",
            "Show how a live interface differs from its file, as the changes that would make it the same. "
            "Exit 0 if there are none, 2 if there are.",
            completes="interfaces",
            standard_input=True,
            options=("json", "keep-foreign", "firewall", "dns", "name"),
        ),
        Verb(
            "save",
            "Write the state of an interface to its file.",
            "Write the state of an interface to its configuration file. Comments and order are kept.",
            completes="interfaces",
            standard_input=False,
            options=("dns",),
        ),
        Verb(
            "strip",
            "Print the part of a file that `wg setconf' reads.",
            "Print a configuration without the keys of wg-quick, for `wg setconf'.",
            completes="configurations",
            standard_input=True,
            options=("name",),
        ),
        Verb(
            "check",
            "Find mistakes in files and between them.",
            "Find mistakes in a file, or in the files of both ends. Exit 1 if there is an error or a warning.",
            completes="configurations",
            standard_input=False,
            options=("live", "json", "fix"),
            most=MANY,
        ),
        Verb(
            "allowed-ips",
            "Subtract networks and print AllowedIPs.",
            "Print the smallest list of networks for an expression: '0.0.0.0/0 - 192.168.0.0/16'. "
            "Warn if a file's Endpoints are inside them.",
            completes="configurations",
            standard_input=False,
            options=("json",),
            most=2,
            words="EXPRESSION [CONFIG_FILE|INTERFACE]",
            needs="an expression",
        ),
        Verb(
            "doctor",
            "Find out why a tunnel does not work.",
            "Find out why a tunnel does not work: the root cause first, with evidence and remedy. It takes at "
            "most ten seconds and changes nothing unless --fix asks for it. Exit 1 if there is an error.",
            completes="interfaces",
            standard_input=False,
            options=("listen", "peer-config", "fix", "bundle", "json"),
            least=0,
        ),
        Verb(
            "rehearse",
            "Test on simulated hosts who reaches whom.",
            "Bring each file up on a simulated host, and show who reaches whom, and why not. Exit 1 if an"
            " intended connection fails.",
            completes="configurations",
            standard_input=False,
            options=("host", "keep", "no-hooks", "json"),
            least=2,
            most=MANY,
            words="CONFIG_FILE CONFIG_FILE...",
            needs="two files",
        ),
        Verb(
            "trace",
            "Show the path of a packet.",
            "Show the path of a packet to an address: rules, routes, peers, and the outer packet. "
            "Without --port it is an ICMP echo request.",
            completes="",
            standard_input=False,
            options=("from", "mark", "iif", "oif", "uid", "port", "peer-config", "probe", "json"),
            words="ADDRESS",
            needs="an address",
        ),
        Verb(
            "show",
            "Print what `wg show' prints.",
            "Print what `wg show' prints: INTERFACE [WORD], all [WORD], or interfaces.",
            completes="interfaces",
            standard_input=False,
            options=(),
            least=0,
            most=2,
            words="INTERFACE|all|interfaces [WORD]",
        ),
        Verb(
            "exec",
            "Run a command in the network namespace of an interface.",
            "Run a command in the network namespace of an interface, with its DNS, as the user who called wgq. The "
            "exit status is the command's.",
            completes="interfaces",
            standard_input=False,
            options=(),
            least=2,
            most=MANY,
            words="INTERFACE [--] COMMAND [ARGUMENT...]",
            needs="an interface and a command",
        ),
        Verb(
            "status",
            "Show the state of interfaces and peers.",
            "Show each interface, its origin and its differences from the file, and each peer by name.",
            completes="interfaces",
            standard_input=False,
            options=("json", "watch", "exit-code"),
            least=0,
            most=MANY,
            words="INTERFACE",
        ),
        Verb(
            "wait",
            "Wait for a handshake.",
            "Start handshakes and wait for a new one. Exit 4 if there is none in time.",
            completes="interfaces",
            standard_input=False,
            options=("timeout", "for"),
            words="INTERFACE",
            needs="an interface",
        ),
        Verb(
            "watch",
            "Restore what other programs remove from tunnels.",
            "Restore what other programs remove from tunnels (rules, routes, addresses, firewall, DNS), resolve "
            "endpoint names again if a session is stale, and report each event, until a signal comes.",
            completes="interfaces",
            standard_input=False,
            options=("json", "once", "check-only", "exec"),
            least=0,
            most=MANY,
            words="INTERFACE",
        ),
        Verb(
            "metrics",
            "Print metrics of interfaces and peers for Prometheus.",
            "Print metrics of interfaces and peers for Prometheus, write them to a file, or serve them.",
            completes="interfaces",
            standard_input=False,
            options=("names", "textfile", "listen"),
            least=0,
            most=MANY,
            words="INTERFACE",
        ),
    )
}


DIRECTORY = "/etc/wireguard"
"""The directory in which NAME means the file NAME.conf."""
SOCKETS = "/var/run/wireguard"
"""The directory of the control sockets of userspace implementations."""

LOG_LEVEL = "LOG_LEVEL"
CIPHER = "WGQ_CIPHER"
RETRIES = "WG_ENDPOINT_RESOLUTION_RETRIES"
PROGRAM = "WG_QUICK_USERSPACE_IMPLEMENTATION"
"""The environment variables that no option sets: the daemon's log and cipher, lookups of names, and the daemon."""

PASSED_TO_ROOT = (
    *(option.variable for option in OPTIONS.values() if option.variable),
    LOG_LEVEL,
    CIPHER,
    RETRIES,
)
"""The environment variables that sudo passes on: only settings.

PROGRAM would let the user choose what root runs. wg-quick's
auto_su does not pass it either.
"""


def option_of(field: str) -> Option:
    """The option of a field of Options."""
    return OPTIONS[field.replace("_", "-")]


class Options(NamedTuple):
    """The options of up, down, reload and save; `backend`, `firewall` and `dns` take the values above.

    With `no_wait_for_dns` up and reload resolve each name only once, and leave a peer without an endpoint if that
    fails.
    """

    backend: str = "auto"
    firewall: str = "auto"
    dns: str = "auto"
    strict: bool = False
    force: bool = False
    no_wait_for_dns: bool = False

    def checked(self) -> Options:
        """Return self; WgqError if a field has an invalid value."""
        for field, value in zip(self._fields, self, strict=True):
            option_of(field).check(value, field)
        return self

    @property
    def mechanisms(self) -> tuple[str, str, str]:
        """The backend, the firewall and the DNS mode, as reload keeps them."""
        return self.backend, self.firewall, self.dns

    def with_mechanisms(self, others: tuple[str, str, str]) -> Options:
        """The options, with these values in place of `auto`."""
        chosen = [own if own != "auto" else other for own, other in zip(self.mechanisms, others, strict=True)]
        return self._replace(backend=chosen[0], firewall=chosen[1], dns=chosen[2])
