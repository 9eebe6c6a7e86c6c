"""Each verb, option and environment variable, once.

typer's application, the short way around typer, the completions and the variables that sudo hands on are made from
these tables. They stand on the path of `wgq up NAME`, so this module imports nothing that is slow.
"""

from __future__ import annotations

from wgquick.errors import WgqError
from wgquick.lean import NamedTuple


class Option(NamedTuple):
    """An option `--NAME`. It takes one of `values`, any word described by `metavar`, or, with neither, nothing.

    `alone` is what it means without a word; if there is such a meaning, a word follows by `=` alone.
    `variable` is the environment variable that is read if the option is not given; "" if there is none.
    """

    name: str
    help: str
    values: tuple[str, ...] = ()
    metavar: str = ""
    variable: str = ""
    alone: str = ""

    @property
    def is_flag(self) -> bool:
        """Whether the option takes no value."""
        return not (self.values or self.metavar)


class Verb(NamedTuple):
    """A verb. `completes` says which names its argument completes to: "configurations", "interfaces" or, "", none.

    It takes at least `least` and at most `most` arguments; `words` says what they are.
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
        Option("kill-switch", "Refuse what would leave beside the tunnel, until it is taken down."),
        Option("exclude", "Networks that stay outside the tunnel; `lan' is those connected.", metavar="NETWORKS"),
        Option("keep-inbound", "Answer on the link where a connection comes in."),
        Option("strict", "Fail where IPv6 is disabled or src_valid_mark cannot be set."),
        Option("force", "Go on where a PreDown hook or saving fails, or reload in spite of SaveConfig."),
        Option("dry-run", "Say what would be done, and do nothing."),
        Option("or-restart", "Restart the interface where it cannot be changed while it is up."),
        Option("keep-foreign", "Keep peers that neither the file nor the journal knows."),
        Option("json", "Print JSON."),
        Option("live", "Look at this host too: does it have what the files need?"),
        Option("bundle", "Print a report for others, in which keys, addresses and names are replaced."),
        Option("fix", "Mend what has one remedy alone, and say so."),
        Option("once", "Look once, and end."),
        Option("check-only", "Say what is missing, and change nothing."),
        Option("exec", "Run a command of the shell for each event.", metavar="COMMAND"),
        Option("watch", "Show it anew each second, with rates, until it is interrupted."),
        Option("names", "Whose names the metrics have.", METRICS),
        Option("textfile", "Write the metrics to a file, in one step.", metavar="FILE"),
        Option(
            "listen",
            "doctor: hear for SECONDS who knocks. metrics: serve them over HTTP to this machine alone.",
            metavar="SECONDS|[ADDRESS:]PORT",
        ),
        Option("wait", "Wait for a handshake, 15 seconds or as many as are given.", metavar="SECONDS", alone="15"),
        Option("wait-for", "Whose handshake --wait is for.", metavar="any|all|PEER"),
        Option("or-down", "Take the interface down if there is none in time."),
        Option("timeout", "How many seconds at most.", metavar="SECONDS"),
        Option("for", "Whose handshake.", metavar="any|all|PEER"),
        Option("exit-code", "Exit 4 where a wanted peer is not up."),
        Option("host", "Where the hosts of files are.", metavar="FILE=ADDRESS,..."),
        Option("keep", "Leave the hosts, to be looked at."),
        Option("no-hooks", "Run no hooks."),
        Option("from", "The packet's source address.", metavar="ADDRESS"),
        Option("mark", "The packet's mark.", metavar="MARK"),
        Option("iif", "The link that the packet comes in by.", metavar="LINK"),
        Option("oif", "The link or VRF that the sending socket is bound to.", metavar="LINK"),
        Option("uid", "The user whose socket sends.", metavar="USER"),
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
            "Bring an interface up. Whatever fails half way is undone completely.",
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
                "wait",
                "wait-for",
                "or-down",
            ),
        ),
        Verb(
            "down",
            "Take an interface down.",
            "Take an interface down, by the journal of what up did, also if the file is gone or has faults.",
            completes="interfaces",
            standard_input=True,
            options=("dns", "name", "force"),
        ),
        Verb(
            "reload",
            "Change a live interface to what its file says.",
            "Change a live interface to what its file says, by the difference alone. Exit 3 if it needs a restart.",
            completes="interfaces",
            standard_input=True,
            options=(
                "dry-run",
                "json",
                "or-restart",
                "keep-foreign",
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
            "save",
            "Write the state of an interface to its file.",
            "Write the state of an interface to its configuration file. Comments and order stay.",
            completes="interfaces",
            standard_input=False,
            options=("dns",),
        ),
        Verb(
            "strip",
            "Print what `wg setconf' understands of a file.",
            "Print a configuration without what only wg-quick understands, for `wg setconf'.",
            completes="configurations",
            standard_input=True,
            options=("name",),
        ),
        Verb(
            "check",
            "Say what is wrong in files, by themselves and against each other.",
            "Say what is wrong in a file, or in the files of both ends. Exit 1 if there is an error or a warning.",
            completes="configurations",
            standard_input=False,
            options=("live", "json", "fix"),
            most=MANY,
        ),
        Verb(
            "allowed-ips",
            "Print networks less others as AllowedIPs.",
            "Print the fewest networks that have an expression's addresses: '0.0.0.0/0 - 192.168.0.0/16'. "
            "An Endpoint of the file that lies inside gets a warning.",
            completes="configurations",
            standard_input=False,
            options=("json",),
            most=2,
            words="EXPRESSION [CONFIG_FILE|INTERFACE]",
        ),
        Verb(
            "doctor",
            "Say why a tunnel does not work.",
            "Say why a tunnel does not work: the root cause first, with its evidence and its remedy. It takes at "
            "most ten seconds and changes nothing unless --fix asks for it. Exit 1 if there is an error.",
            completes="interfaces",
            standard_input=False,
            options=("listen", "peer-config", "fix", "bundle", "json"),
            least=0,
        ),
        Verb(
            "rehearse",
            "Try configurations on hosts made for that: who reaches whom.",
            "Bring each file up on a host made for that, and say who reaches whom, and why not. Exit 1 if somebody"
            " does not who means to.",
            completes="configurations",
            standard_input=False,
            options=("host", "keep", "no-hooks", "json"),
            least=2,
            most=MANY,
            words="CONFIG_FILE CONFIG_FILE...",
        ),
        Verb(
            "trace",
            "Say which way a packet goes, and why.",
            "Say which way a packet to an address goes, and why: rules, routes, peers, and the packet around it. "
            "Without --port it is an ICMP echo request.",
            completes="",
            standard_input=False,
            options=("from", "mark", "iif", "oif", "uid", "port", "peer-config", "probe", "json"),
            words="ADDRESS",
        ),
        Verb(
            "show",
            "Show interfaces as wg(8) does.",
            "Show interfaces as `wg show' does: INTERFACE [WORD], all [WORD], or interfaces.",
            completes="interfaces",
            standard_input=False,
            options=(),
            least=0,
            most=2,
            words="INTERFACE|all|interfaces [WORD]",
        ),
        Verb(
            "status",
            "Show how interfaces and their peers do.",
            "Show each interface, where it comes from and how it differs from its file, and each peer by its name.",
            completes="interfaces",
            standard_input=False,
            options=("json", "watch", "exit-code"),
            least=0,
            most=MANY,
            words="INTERFACE",
        ),
        Verb(
            "wait",
            "Wait until a peer has shaken hands.",
            "Begin handshakes and wait for one that is newer than the call. Exit 4 if there is none in time.",
            completes="interfaces",
            standard_input=False,
            options=("timeout", "for"),
            words="INTERFACE",
        ),
        Verb(
            "watch",
            "Put back what a tunnel loses, and follow endpoints' names.",
            "Put back what other programs take from tunnels that are up (rules, routes, addresses, firewall, DNS), "
            "look endpoints' names up again where a session is stale, and tell of it, until a signal comes.",
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


PASSED_TO_ROOT = (
    *(option.variable for option in OPTIONS.values() if option.variable),
    "LOG_LEVEL",
    "WGQ_CIPHER",
    "WG_ENDPOINT_RESOLUTION_RETRIES",
)
"""The environment variables that sudo hands on: settings alone.

A variable that names a program (WG_QUICK_USERSPACE_IMPLEMENTATION) would let the user choose what root runs; the
auto_su of wg-quick does not pass it either.
"""


class Options(NamedTuple):
    """How up and down work; `backend`, `firewall` and `dns` each take one of the words above."""

    backend: str = "auto"
    firewall: str = "auto"
    dns: str = "auto"
    strict: bool = False
    force: bool = False

    def checked(self) -> Options:
        """Returns itself; raises WgqError if a field holds another word."""
        for field, value in zip(self._fields, self, strict=True):
            words = OPTIONS[field].values
            if words and value not in words:
                raise WgqError(f"`{value}' is no {field}", remedy=f"Choose one of: {', '.join(words)}.")
        return self
