"""Allowed differences from Debian 12's wg-quick (1.0.20210914), each with a name; no others are allowed.

The first group is what wg-quick itself changed up to 1.0.20260223, the second is what wgq does better on purpose.
An allowance turns the outcome of Debian's copy into the wanted one. It applies to a trial only if its condition
holds, so the same difference anywhere else is a failure.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.parity.case import Case
    from tests.parity.trial import Ran, Trial

HOOKS = ("preup", "postup", "predown", "postdown")


def _rans(trial: Trial, change: Callable[[Ran], Ran]) -> Trial:
    return replace(
        trial, up=change(trial.up), between=[change(ran) for ran in trial.between], down=change(trial.down)
    )


def _transcripts(trial: Trial, change: Callable[[list[str]], list[str]]) -> Trial:
    return _rans(trial, lambda ran: replace(ran, transcript=change(ran.transcript)))


def _words(pattern: str, replacement: str) -> Callable[[list[str]], list[str]]:
    return lambda lines: [re.sub(pattern, replacement, line) for line in lines]


def link_add_says_dev(_case: Case, trial: Trial) -> Trial:
    """`ip link add dev NAME type wireguard` was `ip link add NAME ...`."""
    return _transcripts(trial, _words(r"^\[#\] ip link add (\S+) (type wireguard)$", r"[#] ip link add dev \1 \2"))


def configuration_is_added(_case: Case, trial: Trial) -> Trial:
    """`wg addconf` was `wg setconf`: what a PreUp hook set survives."""
    return _transcripts(trial, _words(r"^\[#\] wg setconf ", "[#] wg addconf "))


def hooks_keep_their_hash(case: Case, trial: Trial) -> Trial:
    """A hook gets the rest of its line; the `#` used to begin a comment. The case gives the new output."""
    whole = {value.partition("#")[0].strip(): value for value in case.settings(*HOOKS) if "#" in value}
    kept = {f"[#] {_with_name(cut, case)}": f"[#] {_with_name(value, case)}" for cut, value in whole.items()}
    trial = _transcripts(trial, lambda lines: [kept.get(line, line) for line in lines])
    printed = case.now("hooks")
    if printed is None:
        return trial
    return _rans(trial, lambda ran: replace(ran, after=ran.after | {"hooks": [printed]}))


def pre_up_follows_the_link(case: Case, trial: Trial) -> Trial:
    """The link is added before the PreUp hooks, not after them: a failing hook is then the only failure."""
    hooks = _hook_lines(case, "preup")
    name = case.interface
    adding = [f"[#] ip link add dev {name} type wireguard", f"[#] wireguard-go {name}"]

    def change(ran: Ran) -> Ran:
        first = [line for line in ran.transcript if line in hooks]
        rest = [line for line in ran.transcript if line not in (*hooks, *adding)]
        # After a failed hook, wg-quick added no link; wgq tries wireguard-go only if the kernel has no WireGuard.
        added = [line for line in adding if line in ran.transcript] or adding
        return replace(ran, transcript=[*added, *first, *rest]) if first else ran

    up = change(trial.up)
    status = int(case.now("up-status") or up.status)
    return replace(trial, up=replace(up, status=status), between=[change(ran) for ran in trial.between])


def _hook_lines(case: Case, *keys: str) -> list[str]:
    """The lines of the case's hooks in the transcript."""
    return [f"[#] {_with_name(value, case)}" for value in case.settings(*keys)]


def _with_name(hook: str, case: Case) -> str:
    return hook.replace("%i", case.interface)


def rules_come_before_the_default_route(_case: Case, trial: Trial) -> Trial:
    """add_default adds the two rules before the route, not after it."""

    def change(lines: list[str]) -> list[str]:
        lines = list(lines)
        for index, line in enumerate(lines[:-2]):
            if re.match(r"\[#\] ip -[46] route add \S+/0 dev ", line) and " rule add " in lines[index + 1]:
                lines[index : index + 3] = [*lines[index + 1 : index + 3], line]
        return lines

    return _transcripts(trial, change)


def mark_is_written_only_when_needed(_case: Case, trial: Trial) -> Trial:
    """src_valid_mark is not written if it is 1 already."""
    if not any(line.endswith("= 1") for line in trial.before["sysctl"]):
        return trial
    return _transcripts(trial, lambda lines: [line for line in lines if "src_valid_mark" not in line])


def mtu_is_from_the_smallest_path(case: Case, trial: Trial) -> Trial:
    """The smallest path MTU of the endpoints counts, not the largest. The case gives the new MTU."""
    mtu = case.now("mtu")
    if mtu is None:
        return trial

    def change(ran: Ran) -> Ran:
        links = _words(rf"^({re.escape(case.interface)}) mtu \d+", rf"\1 mtu {mtu}")(ran.after["links"])
        lines = _words(r"^\[#\] ip link set mtu \d+", f"[#] ip link set mtu {mtu}")(ran.transcript)
        return replace(ran, transcript=lines, after=ran.after | {"links": links})

    return _rans(trial, change)


def a_linked_resolvconf_has_no_interface_order(case: Case, trial: Trial) -> Trial:
    """/etc/resolvconf/interface-order does not apply to a resolvconf that is a symbolic link (systemd's)."""
    if case.one("resolvconf", "") != "link":
        return trial
    change = _words(r"(resolvconf -[ad]) tun\.", r"\1 ")
    trial = _transcripts(trial, change)
    return _rans(trial, lambda ran: replace(ran, after=ran.after | {"resolvconf": change(ran.after["resolvconf"])}))


def the_mark_goes_back(case: Case, trial: Trial) -> Trial:
    """wg-quick leaves src_valid_mark at 1; wgq restores the earlier value, also after a failed up."""

    def change(ran: Ran) -> Ran:
        if any(link.startswith(f"{case.interface} ") for link in ran.after["links"]):
            return ran
        return replace(ran, after=ran.after | {"sysctl": trial.before["sysctl"]})

    return _rans(trial, change)


def faults_are_found_first(case: Case, trial: Trial) -> Trial:
    """wg-quick finds a fault of the file half way and rolls back; wgq reads the whole file first."""
    rolled_back = trial.up.after | {"sysctl": trial.before["sysctl"]} == trial.before
    if case.now("refused") is None or trial.up.status == 0 or not rolled_back:
        return trial
    return replace(trial, up=replace(trial.up, status=1, transcript=[], after=trial.before))


def a_failed_resolvconf_is_rolled_back(case: Case, trial: Trial) -> Trial:
    """wg-quick leaves what a failing resolvconf has done; wgq calls `resolvconf -d`."""
    if case.one("resolvconf", "") != "failing":
        return trial
    undo = f"resolvconf -d {case.interface} -f"
    if undo in trial.up.after["resolvconf"]:
        return trial
    calls = [*trial.up.after["resolvconf"], undo]
    trial = _rans(trial, lambda ran: replace(ran, after=ran.after | {"resolvconf": calls}))
    added = [[line, f"[#] {undo}"] if " -a " in line else [line] for line in trial.up.transcript]
    return replace(trial, up=replace(trial.up, transcript=[line for lines in added for line in lines]))


def the_journal_outlives_the_link(case: Case, trial: Trial) -> Trial:
    """Without the link, wg-quick's down fails; wgq's uses the journal and succeeds."""
    status = case.now("down-status")
    if status is None or (trial.down.status, trial.down.transcript) != (1, []):
        return trial
    return replace(trial, down=replace(trial.down, status=int(status)))


def saving_changes_only_what_changed(case: Case, trial: Trial) -> Trial:
    """wg-quick writes a new file; wgq edits the old one. Only the settings are compared."""
    if not (("run", "save") in case.directives or case.settings("saveconfig") == ["true"]):
        return trial
    return _rans(trial, lambda ran: replace(ran, after=ran.after | {"file": saved_settings(ran.after["file"])}))


def saved_settings(lines: list[str]) -> list[str]:
    """The settings in a configuration file: hooks in order, and one line for each value of the other keys, sorted.

    Comments and spacing are left out. So is the link-local address that the kernel gave the link, which wg-quick
    saves too.
    """
    hooks, found, section = [], set(), ""
    for line in map(str.strip, lines):
        key, _, value = line.partition("=")
        if key.strip().lower() in HOOKS:
            hooks.append(line)
        elif line.startswith("["):
            section = line
        elif key.strip() == "PublicKey":
            section = f"[Peer {value.strip()}]"
        elif not line.startswith("#"):
            found |= {f"{section} {key.strip()} {item.strip()}" for item in value.partition("#")[0].split(",")}
    return [*hooks, *sorted(found - {"[Interface] Address fe80::?/64"})]


def replies_pass_a_reverse_path_filter(case: Case, trial: Trial) -> Trial:
    """An IPv6 full tunnel of wgq also marks packets to its port, and ICMPv6 errors about its packets."""
    port = (case.settings("listenport") or ["?"])[0]

    def change(ran: Ran) -> Ran:
        nft = _with_nft_marks(ran.after["nft"], case.interface, port)
        iptables = _with_iptables_marks(ran.after["iptables"], case.interface, port)
        return replace(ran, after=ran.after | {"nft": nft, "iptables": iptables})

    return _rans(trial, change)


def _with_nft_marks(lines: list[str], name: str, port: str) -> list[str]:
    """Insert each rule at the end of its chain in the table `ip6 wg-quick-NAME`."""
    place = f'"family": "ip6", "table": "wg-quick-{name}"'
    saving = [line for line in lines if place in line and '{"rule": {"chain": "postmangle"' in line]
    if not saving:
        return lines
    fwmark = re.findall(r'"right": (\d+)', saving[0])[-1]
    mark = '{"meta": {"key": "mark"}}'
    arrivals = (
        _match('{"meta": {"key": "iifname"}}', f'"{name}"', "!="),
        _match('{"payload": {"field": "dport", "protocol": "udp"}}', port),
        _match('{"fib": {"flags": ["daddr"], "result": "type"}}', '"local"'),
        f'{{"mangle": {{"key": {mark}, "value": {fwmark}}}}}',
    )
    errors = (
        _match('{"meta": {"key": "l4proto"}}', "58"),  # the machines have no /etc/protocols
        _match('{"ct": {"key": "mark"}}', fwmark),
        f'{{"mangle": {{"key": {mark}, "value": {{"ct": {{"key": "mark"}}}}}}}}',
    )
    lines = lines.copy()
    in_table = '"family": "ip6"', f'"table": "wg-quick-{name}"'
    for chain, expressions in (("preraw", arrivals), ("premangle", arrivals), ("premangle", errors)):
        of_chain = (*in_table, f'"{chain}"')  # the chain itself and its rules
        last = max(at for at, line in enumerate(lines) if all(part in line for part in of_chain))
        rule = f'{{"rule": {{"chain": "{chain}", "expr": [{", ".join(expressions)}], {place}}}}}'
        if rule not in lines:  # it is there if wgq brought the tunnel up
            lines.insert(last + 1, rule)
    return lines


def _match(left: str, right: str, operation: str = "==") -> str:
    return f'{{"match": {{"left": {left}, "op": "{operation}", "right": {right}}}}}'


def _with_iptables_marks(lines: list[str], name: str, port: str) -> list[str]:
    """Insert each rule at the top of its chain; raw, the last table, may have no rule yet."""
    comment = f'-m comment --comment "wg-quick(8) rule for {name}"'
    saving = [line for line in lines if line.startswith("6 *mangle -A POSTROUTING") and comment in line]
    if not saving:
        return lines
    fwmark = re.findall(r"--mark (\S+)", saving[0])[0]
    restored = "-j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"
    arrivals = f"! -i {name} -p udp -m udp --dport {port} -m addrtype --dst-type LOCAL {comment}"
    added = {
        "6 *raw -A PREROUTING": f"{arrivals} -j MARK --set-xmark {fwmark}/0xffffffff",
        "6 *mangle -A PREROUTING": f"-p ipv6-icmp -m connmark --mark {fwmark} {comment} {restored}",
    }
    lines = lines.copy()
    for chain, rule in added.items():
        first = next((at for at, line in enumerate(lines) if line.startswith(chain)), len(lines))
        if f"{chain} {rule}" not in lines:
            lines.insert(first, f"{chain} {rule}")
    restoring = lines.index(f"6 *mangle -A PREROUTING -p udp {comment} {restored}")
    marking = f"6 *mangle -A PREROUTING {added['6 *raw -A PREROUTING']}"
    if marking not in lines:
        lines.insert(restoring + 1, marking)
    return lines


def rules_are_spared_by_networkd(_case: Case, trial: Trial) -> Trial:
    """A full tunnel's rules have the protocol `kernel`; those of `ip rule add` have none."""
    ours = re.compile(r'^(?=.* suppress_prefixlen=0 table="main"$|fwmark=.* not=null )(.*)protocol="unspec"')

    def change(ran: Ran) -> Ran:
        rules = {
            section: [ours.sub(r'\1protocol="kernel"', line) for line in ran.after[section]]
            for section in ("rules4", "rules6")
        }
        return replace(ran, after=ran.after | rules)

    return _rans(trial, change)


CHANGED_SINCE = (
    link_add_says_dev,
    configuration_is_added,
    hooks_keep_their_hash,
    pre_up_follows_the_link,
    rules_come_before_the_default_route,
    mark_is_written_only_when_needed,
    mtu_is_from_the_smallest_path,
    a_linked_resolvconf_has_no_interface_order,
)
BETTER = (
    the_mark_goes_back,
    faults_are_found_first,
    a_failed_resolvconf_is_rolled_back,
    the_journal_outlives_the_link,
    saving_changes_only_what_changed,
    replies_pass_a_reverse_path_filter,
    rules_are_spared_by_networkd,
)


def expected(case: Case, reference: Trial) -> Trial:
    """The outcome wanted of wgq, made from that of Debian's wg-quick."""
    for allow in (*CHANGED_SINCE, *BETTER):
        reference = allow(case, reference)
    return reference
