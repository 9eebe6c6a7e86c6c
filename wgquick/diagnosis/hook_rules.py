"""The mistakes that the text of hook lines shows."""

from __future__ import annotations

import re
from itertools import pairwise

from wgquick.config import keys, location
from wgquick.diagnosis import codes, hooks
from wgquick.diagnosis.finding import Finding
from wgquick.diagnosis.source import Effects, Place
from wgquick.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from wgquick.diagnosis.hooks import Command, HookEffect
    from wgquick.diagnosis.source import Hook, Source

FORWARDING = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
"""The parameter (sysctl(8)) that enables forwarding in each family."""
_BEFORE = keys.HOOKS[:2]
SUBSTITUTION = re.compile(r"(?<!\d)%\s+i\b|%I\b|%\{i\}|\$\{i\}|\$i\b")
_LOOP = re.compile(r"\b(for|read|select|local|declare)\s+i\b|\bi=|\b(date|let|awk|perl)\b|\(\(")
_WIREGUARD_NAME = re.compile(r"wg\d+")
_LINK_OPTIONS = ("-i", "-o", "iifname", "oifname", "iif", "oif", "dev")
_SYSCTL = re.compile(r"\bnet[./]ipv[46][./](?:conf|neigh)[./](\w+)[./]")
_FORWARDS = re.compile(r"\bFORWARD\b|\b[Ff]orward\b|\bMASQUERADE\b|\bmasquerade\b")
_FIREWALLS = re.compile(r"ip6?tables(-legacy|-nft)?|nft")
_SETS_FILE = ("setconf", "addconf", "syncconf")
_NO_LINKS = ("all", "default")  # of sysctl keys
_ENABLES = {4: re.compile(r"\bip_forward\b"), 6: re.compile(r"ipv6[./]conf[./]all[./]forwarding")}
_CLAMP = re.compile(r"TCPMSS|maxseg")


def findings(source: Source) -> Iterator[Finding]:
    """The findings for all hooks of a file."""
    for hook in source.hooks:
        yield from _substitution(source, hook)
        yield from _masquerade(source, hook)
        yield from _key(source, hook)
    yield from _other_interface(source)
    yield from _undo(source)
    yield from _mss(source)


def _note(source: Source, hook: Hook, offset: int, code: str, message: str, remedy: str) -> Finding:
    return _finding(source, Place(hook.place.line, hook.place.column + offset), code, message, remedy)


def _finding(source: Source, place: Place, code: str, message: str, remedy: str) -> Finding:
    return Finding(source.shown, *place, code, codes.CODES[code][0], message, remedy)


def effects(source: Source) -> Effects:
    """What the hooks before and after the start do that settings do otherwise."""
    commands = list(_before(source))
    added = {change.kind for change in _added(source)}
    texts = [hook.text for hook in source.hooks if hook.stage in _BEFORE]
    runs_script = any(map(hooks.runs_script, texts))
    return Effects(
        sets_key=any(map(_is_key, commands)),
        sets_port=any(_sets(command, "listen-port") for command in commands),
        adds_address=runs_script or any(map(hooks.adds_address, commands)),
        adds_rule=runs_script or "rule" in added,
        makes_routes=runs_script or bool(added & {"rule", "route"}) or any(map(hooks.leaves_namespace, texts)),
    )


def _before(source: Source) -> Iterator[Command]:
    """The commands of PreUp and PostUp."""
    for hook in source.hooks:
        if hook.stage in _BEFORE:
            yield from hooks.commands(hook.text)


def _added(source: Source) -> Iterator[HookEffect]:
    for command in _before(source):
        change = hooks.change(command)
        if change is not None and change.adds:
            yield change


def _is_key(command: Command) -> bool:
    """Whether a command sets the private key: by `wg set`, or by a file for wg."""
    program, verb, *_ = (*command.words, "")
    return _sets(command, "private-key") or (program.rpartition("/")[2] == "wg" and verb in _SETS_FILE)


def _sets(command: Command, key: str) -> bool:
    program, *rest = command.words
    return program.rpartition("/")[2] == "wg" and rest[:1] == ["set"] and key in rest


def _key(source: Source, hook: Hook) -> Iterator[Finding]:
    if hook.stage not in _BEFORE:
        return
    for command in hooks.commands(hook.text):
        if _is_key(command):
            what = "the hook sets the private key; `wg syncconf' with this file would remove it"
            remedy = "run the hook's command again after each `wg syncconf'"
            yield _note(source, hook, command.offset, "hook-sets-key", what, remedy)
            return


def _substitution(source: Source, hook: Hook) -> Iterator[Finding]:
    match = SUBSTITUTION.search(hook.text)
    if match and not _LOOP.search(hook.text):
        what = f"`{match[0]}' is not replaced by the interface name"
        yield _note(source, hook, match.start(), "hook-substitution", what, "write %i for the interface name")


def _masquerade(source: Source, hook: Hook) -> Iterator[Finding]:
    if hook.stage not in _BEFORE:
        return
    for command in hooks.commands(hook.text):
        text = " ".join(command.words)
        if _masquerades(command) and not _is_removal(command) and not _has_output(text):
            what = "this also masquerades packets into the tunnel: peers see this host's address as every source"
            remedy = "name the outgoing link: -o LINK (nft: oifname LINK)"
            yield _note(source, hook, command.offset, "masquerade-everywhere", what, remedy)
            return


def _masquerades(command: Command) -> bool:
    """Whether the command is iptables with the target MASQUERADE, or nft with a masquerade statement."""
    program = command.words[0].rpartition("/")[2]
    if program == "nft":
        return "masquerade" in " ".join(command.words).split()
    words = tuple(hooks.plain_options(command.words))
    return bool(_FIREWALLS.fullmatch(program)) and hooks.value_after(words, ("-j",)) == "MASQUERADE"


def _is_removal(command: Command) -> bool:
    change = hooks.change(command)
    return change is not None and not change.adds


def _has_output(text: str) -> bool:
    """Whether a rule is for some outgoing links or, by `! -d NETWORK`, not for all destinations."""
    links = r"-o\S*|--out-interface\S*|oifname|oif|meta oif\w*"
    return re.search(rf"(^|\s)({links}|! (-d|--destination)|daddr !=)(\s|$)", text) is not None


def _other_interface(source: Source) -> Iterator[Finding]:
    """One finding for each wrong name: PostDown repeats the mistake of PostUp."""
    reported: set[str] = set()
    for hook in source.hooks:
        if "%i" in hook.text or not source.interface or re.search(rf"\b{re.escape(source.interface)}\b", hook.text):
            continue
        for name in _links(hook):
            if _WIREGUARD_NAME.fullmatch(name) and name != source.interface and name not in reported:
                reported.add(name)
                what = f"the hook names {name}, but this interface is {source.interface}"
                remedy = "write %i, which stands for this interface"
                yield _note(source, hook, hook.text.index(name), "hook-other-interface", what, remedy)


def _links(hook: Hook) -> Iterator[str]:
    """The links that a hook's commands name."""
    for command in hooks.commands(hook.text):
        words = hooks.plain_options(word for whole in command.words for word in whole.split())
        for option, word in pairwise(words):
            if option in _LINK_OPTIONS or (option == "-I" and words[0] == "ping"):
                yield word.strip('"')
        yield from (match[1] for word in words for match in [_SYSCTL.search(word)] if match)
        if words[0].rpartition("/")[2] == "wg" and words[1:2] == ["set"]:
            yield from words[2:3]


def host_links(source: Source) -> list[str]:
    """The host's links that the hooks name and do not create; links that they masquerade to come first."""
    found: dict[str, None] = {}
    named = [name for hook in source.hooks for name in (*_masqueraded_links(hook), *_links(hook))]
    masqueraded = [name for hook in source.hooks for name in _masqueraded_links(hook)]
    text = " ".join(hook.text for hook in source.hooks)
    for name in (*masqueraded, *named):
        is_made = re.search(rf"\b(link|tuntap)\s+add\b[^;&|]*\s{re.escape(name)}\b", text)
        if location.is_valid_name(name) and name not in ("lo", source.interface) and not is_made:
            found.setdefault(name)
    return list(found)


def _masqueraded_links(hook: Hook) -> Iterator[str]:
    for command in hooks.commands(hook.text):
        if _masquerades(command):
            words = hooks.plain_options(word for whole in command.words for word in whole.split())
            yield from (word.strip('"') for option, word in pairwise(words) if option in ("-o", "oifname", "oif"))


def _named_links(source: Source) -> Iterator[tuple[Place, str]]:
    """The host's links that PreUp and PostUp hooks name, each with the place where it is named first."""
    named: dict[str, Place] = {}
    for hook in source.hooks:
        if hook.stage in _BEFORE and not hooks.leaves_namespace(hook.text) and not hooks.runs_script(hook.text):
            for name in _links(hook):
                column = hook.place.column + max(0, hook.text.find(name))
                named.setdefault(name, Place(hook.place.line, column))
    yield from ((named[name], name) for name in host_links(source) if name in named and name not in _NO_LINKS)


def _forwards(source: Source) -> Iterator[tuple[Hook, tuple[int, ...]]]:
    """The hooks that forward packets, each with the families (4, 6) for which no hook enables forwarding."""
    text = "\n".join(hook.text for hook in source.hooks if hook.stage in _BEFORE)
    for hook in source.hooks:
        if hook.stage not in _BEFORE or not _FORWARDS.search(hook.text) or not _has_firewall(hook):
            continue
        programs = {command.words[0].rpartition("/")[2] for command in hooks.commands(hook.text)}
        families = {6 if program.startswith("ip6") else 4 for program in programs if _FIREWALLS.fullmatch(program)}
        yield hook, tuple(sorted(each for each in families if not _ENABLES[each].search(text)))


def without_link(source: Source, links: set[str]) -> Iterator[Finding]:
    """A finding for each link that a hook names and a host with these links lacks."""
    for place, link in _named_links(source):
        if link not in links and link != source.interface:
            what = f"the hook names the link {link}, which this host does not have"
            there = ", ".join(sorted(links - {source.interface}))
            yield _finding(
                source, place, "hook-no-such-link", what, f"this host has {there}; see `ip route show default'"
            )


def without_forwarding(source: Source, read: Callable[[str], str | None]) -> Iterator[Finding]:
    """A finding for the first hook that forwards packets, if no hook enables forwarding and it is off.

    `read` returns a parameter's value (sysctl(8)); None if the kernel lacks it.
    """
    for hook, families in _forwards(source):
        for key in (FORWARDING[family] for family in families):
            if read(key) == "0":
                name = key.replace("/", ".")
                what = f"the hook forwards packets, but forwarding is off on this host: {name} = 0"
                remedy = f"set {name}=1 in /etc/sysctl.d or in a PostUp hook"
                yield _finding(source, hook.place, "forwarding-off", what, remedy)
        return


def depends_on_host(source: Source) -> bool:
    """Whether `without_link` or `without_forwarding` can find something."""
    return any(True for _ in _named_links(source)) or any(families for _, families in _forwards(source))


def _undo(source: Source) -> Iterator[Finding]:
    """A finding for each line with a command that no later hook reverts."""
    if any(hooks.runs_script(hook.text) for hook in source.hooks if hook.stage not in _BEFORE):
        return  # the script may remove everything
    changes = [
        (hook, command, _with_link(source, change))
        for hook in sorted(source.hooks, key=lambda hook: keys.HOOKS.index(hook.stage))
        for command in hooks.commands(SUBSTITUTION.sub(lambda wrong: "%i".ljust(len(wrong[0])), hook.text))
        if (change := hooks.change(command)) is not None
    ]
    reported: set[Place] = set()
    for at, (hook, command, change) in enumerate(changes):
        if hook.stage not in _BEFORE or not change.adds or hook.place in reported or _goes_with_link(change):
            continue
        if not any(later.undoes(change) for _, _, later in changes[at + 1 :]):
            reported.add(hook.place)
            what = f"no later hook removes what `{_shown(command)}' adds: it stays after the interface goes down"
            remedy = "add a PostDown line that deletes it with the same arguments"
            yield _note(source, hook, command.offset, "hook-without-undo", what, remedy)


def _with_link(source: Source, change: HookEffect) -> HookEffect:
    """The change with %i in place of each spelling of this interface's name."""
    own = (source.interface or "%i", "$INTERFACE", "${INTERFACE}")
    return change._replace(words=tuple("%i" if word in own else word for word in change.words))


def _goes_with_link(change: HookEffect) -> bool:
    """Whether the kernel removes the change with a link of WireGuard: a route through it."""
    link = hooks.value_after(change.words, ("dev",))
    return change.kind == "route" and (link == "%i" or _WIREGUARD_NAME.fullmatch(link) is not None)


def _shown(command: Command) -> str:
    from wgquick.net import without_keys

    return without_keys(" ".join(command.words))


def _mss(source: Source) -> Iterator[Finding]:
    text = "\n".join(hook.text for hook in source.hooks)
    if _CLAMP.search(text):
        return
    for hook in source.hooks:
        match = _FORWARDS.search(hook.text)
        if match and hook.stage in _BEFORE and _has_firewall(hook):
            what = "the hook forwards packets, but no hook clamps the TCP MSS to the tunnel's MTU"
            remedy = "add PostUp = iptables -t mangle -A FORWARD -o %i -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu"
            yield _note(source, hook, match.start(), "mss-not-clamped", what, remedy)
            return


def _has_firewall(hook: Hook) -> bool:
    """Whether a command of the hook is iptables or nft."""
    programs = (command.words[0].rpartition("/")[2] for command in hooks.commands(hook.text))
    return any(_FIREWALLS.fullmatch(program) for program in programs)
