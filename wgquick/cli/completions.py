"""Generates the completions of bash, zsh and fish from the tables in `wgquick.options`.

`python -m wgquick.cli.completions DIRECTORY` writes all three; the repository has them in `completions/`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from wgquick.lean import TYPE_CHECKING
from wgquick.options import DIRECTORY, OPTIONS, SOCKETS, VERBS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wgquick.options import Option, Verb

_BASH = r"""# bash completion for wgq(1); it does not need wg(8) or the bash-completion package.
# Made by `python -m wgquick.cli.completions completions`: change wgquick/options.py or wgquick/cli/completions.py.
# shellcheck shell=bash

# Prints the arguments that wg-quick(8) allows as names. compgen might run others as commands.
_wgq_names() {
	local name
	for name; do
		[[ $name =~ ^[a-zA-Z0-9_=+.-]{1,15}$ ]] && printf '%s\n' "$name"
	done
}

# The names of @DIRECTORY@/*.conf, as `wgq up NAME` takes them.
_wgq_configurations() {
	local -a files=(@DIRECTORY@/*.conf)
	files=("${files[@]##*/}")
	_wgq_names "${files[@]%.conf}"
}

# Live interfaces: links of the kernel's type, and the control sockets of userspace implementations.
_wgq_interfaces() {
	local path name
	for path in /sys/class/net/*/uevent @SOCKETS@/*.sock; do
		[[ $path == *.sock ]] || grep -qsx DEVTYPE=wireguard "$path" || continue
		name=${path%/uevent} name=${name##*/} name=${name%.sock}
		_wgq_names "$name"
	done
}

_wgq_from() { mapfile -t COMPREPLY < <(compgen -W "$1" -- "$cur"); }

_wgq_files() {
	mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -X '!*.conf' -- "$cur"; compgen -d -S / -- "$cur")
}

_wgq() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} verb='' word before=''
	local argument=${COMP_LINE:0:COMP_POINT}
	argument=${argument##*[[:space:]]}
	COMPREPLY=()
	[[ $cur == = ]] && cur=''
	[[ $prev == = ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in
		@VERB_PATTERN@) verb=$word && break ;;
		esac
	done
	case $prev in
@VALUE_CASES@
	esac
	# Readline splits a name at `=', and replaces only the last part.
	if [[ $argument == *=* && $argument != -* && $COMP_WORDBREAKS == *=* ]]; then
		cur=$argument before=${argument%"${argument##*=}"}
	fi
	case $verb:$cur in
	:-*) _wgq_from '--help --version' ;;
@OPTION_CASES@
	:*) _wgq_from '@VERBS@' ;;
	*:*/*) compopt -o nospace -o filenames 2>/dev/null; _wgq_files ;;
@TARGET_CASES@
	esac
	COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -F _wgq wgq
"""

_ZSH = r"""#compdef wgq
# zsh completion for wgq(1); it does not need wg(8).
# Made by `python -m wgquick.cli.completions completions`: change wgquick/options.py or wgquick/cli/completions.py.

# What wg-quick(8) allows as a name.
local _wgq_name='[a-zA-Z0-9_=+.-](#c1,15)'

# The names of @DIRECTORY@/*.conf, as `wgq up NAME` takes them, and paths of other configuration files.
_wgq_configurations() {
  local -a names=(@DIRECTORY@/*.conf(N:t:r))
  names=(${(M)names:#$~_wgq_name})
  _alternative 'configurations:configuration:compadd -a names' 'files:configuration file:_files -g "*.conf"'
}

# Live interfaces: links of the kernel's type, and the control sockets of userspace implementations.
_wgq_interfaces() {
  local -a names=(@SOCKETS@/*.sock(N:t:r)) links=(/sys/class/net/*/uevent(N))
  (( $#links )) && links=(${(f)"$(grep -lsx DEVTYPE=wireguard $links)"}) && names+=(${links:h:t})
  names=(${(Mu)names:#$~_wgq_name})
  _alternative 'interfaces:interface:compadd -a names'
}

_wgq() {
  local curcontext=$curcontext state
  local -a line
  local -A opt_args
  local help='(- *)--help[Print the help]'
@OPTIONS@

  _arguments -C $help '(- *)--version[Print the version]' '1:verb:->verb' '*::argument:->argument'
  case $state in
    verb)
      local -a verbs=(
@VERBS@
      )
      _describe verb verbs
      ;;
    argument)
      case $line[1] in
@ARGUMENTS@
      esac
      ;;
  esac
}

_wgq "$@"
"""

_FISH = r"""# fish completion for wgq(1); it does not need wg(8).
# Made by `python -m wgquick.cli.completions completions`: change wgquick/options.py or wgquick/cli/completions.py.

# The names of @DIRECTORY@/*.conf, as `wgq up NAME` takes them, if wg-quick(8) allows them.
function __wgq_configurations
    for file in @DIRECTORY@/*.conf
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})\.conf$' '$1' -- $file
    end
    __fish_complete_suffix .conf
end

# Live interfaces: links of the kernel's type, and the control sockets of userspace implementations.
function __wgq_interfaces
    for socket in @SOCKETS@/*.sock
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})\.sock$' '$1' -- $socket
    end
    for link in (grep -lsx DEVTYPE=wireguard /sys/class/net/*/uevent)
        string replace -fr '^.*/([a-zA-Z0-9_=+.-]{1,15})/uevent$' '$1' -- $link
    end
end

set -l verbs @VERBS@
complete -c wgq -f
@VERB_LINES@
complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -l version -d 'Print the version'
complete -c wgq -l help -d 'Print the help'
@TARGET_LINES@
@OPTION_LINES@
"""


def bash() -> str:
    """The completion for bash."""
    values = [f"\t--{each.name}) {_bash_values(each)}return ;;" for each in _with_value()]
    options = [f"\t{each.name}:-*) _wgq_from '{_long(each)} --help' ;;" for each in VERBS.values()]
    targets = [f"\t{each.name}:*) {_bash_target(each)} ;;" for each in VERBS.values()]
    return _filled(
        _BASH,
        VERB_PATTERN=" | ".join(VERBS),
        VALUE_CASES="\n".join(values),
        OPTION_CASES="\n".join(options),
        VERBS=" ".join(VERBS),
        TARGET_CASES="\n".join(targets),
    )


def _bash_values(option: Option) -> str:
    return f"_wgq_from '{' '.join(option.values)}' && " if option.values else ""


def _bash_target(verb: Verb) -> str:
    if not verb.completes:
        return ":"
    names = f'_wgq_from "$(_wgq_{verb.completes})"'
    if verb.completes == "configurations":
        names += " && _wgq_files"
    if not verb.first:
        return names
    return f"if [[ $prev == {verb.name} ]]; then _wgq_from '{' '.join(verb.first)}'; else {names}; fi"


def zsh() -> str:
    """The completion for zsh."""
    options = [
        f"  local {_zsh_variable(option, verbs[0])}='{_zsh_option(option.of(verbs[0]))}'"
        for option in OPTIONS.values()
        for verbs in _verbs_of(option)
    ]
    verbs = [f"        '{each.name}:{_quoted(_words(each.summary))}'" for each in VERBS.values()]
    arguments = [
        f"        {each.name}) _arguments $help {_zsh_variables(each)}"
        f"{_zsh_first(each)} '{'1' if each.most == 1 else '*'}: :"
        f"{f'_wgq_{each.completes}' if each.completes else ' '}' ;;"
        for each in VERBS.values()
    ]
    return _filled(_ZSH, OPTIONS="\n".join(options), VERBS="\n".join(verbs), ARGUMENTS="\n".join(arguments))


def _zsh_first(verb: Verb) -> str:
    """The words for the first argument, if only some are valid there."""
    return f" '1: :({' '.join(verb.first)})'" if verb.first else ""


def _zsh_variables(verb: Verb) -> str:
    return " ".join(f"${_zsh_variable(OPTIONS[name], verb.name)}" for name in verb.options)


def _zsh_variable(option: Option, verb: str) -> str:
    """A variable for a verb's option. zsh uses some of the plain names, such as watch, and allows no hyphens."""
    name = option.name if option.of(verb) == option else f"{option.name}_{verb}"
    return f"option_{name.replace('-', '_')}"


def _zsh_option(option: Option) -> str:
    """The option for zsh's _arguments, in single quotes: --NAME=[help]:name:(values)."""
    text = _quoted(_words(option.help))
    if option.is_flag:
        return f"--{option.name}[{text}]"
    if option.alone:
        return f"--{option.name}=-[{text}]::{option.name}:{_zsh_values(option)}"
    return f"--{option.name}=[{text}]:{option.name}:{_zsh_values(option)}"


def _zsh_values(option: Option) -> str:
    return f"({' '.join(option.values)})" if option.values else " "


def fish() -> str:
    """The completion for fish."""
    verbs = [
        f'complete -c wgq -n "not __fish_seen_subcommand_from $verbs" -a {each.name} -d {_fish_text(each.summary)}'
        for each in VERBS.values()
    ]
    targets = [
        f"complete -c wgq -n '__fish_seen_subcommand_from {each.name}' -a '(__wgq_{each.completes})'"
        for each in VERBS.values()
        if each.completes
    ]
    targets += [
        f"complete -c wgq -n '__fish_seen_subcommand_from {each.name}; and not __fish_seen_subcommand_from "
        f"{' '.join(each.first)}' -a '{' '.join(each.first)}'"
        for each in VERBS.values()
        if each.first
    ]
    return _filled(
        _FISH,
        VERBS=" ".join(VERBS),
        VERB_LINES="\n".join(verbs),
        TARGET_LINES="\n".join(targets),
        OPTION_LINES="\n".join(_fish_option(each, verbs) for each in OPTIONS.values() for verbs in _verbs_of(each)),
    )


def _fish_option(option: Option, verbs: list[str]) -> str:
    values = f" -a '{' '.join(option.values)}'" if option.values else ""
    takes = "" if option.is_flag or option.alone else f" -x{values}"
    seen = f"-n '__fish_seen_subcommand_from {' '.join(verbs)}'"
    return f"complete -c wgq {seen} -l {option.name}{takes} -d {_fish_text(option.of(verbs[0]).help)}"


def _fish_text(text: str) -> str:
    escaped = _words(text).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _verbs_of(option: Option) -> Iterable[list[str]]:
    """The verbs that have the option, those with the same help together."""
    own = [name for name, _, _ in option.own]
    yield [verb.name for verb in VERBS.values() if option.name in verb.options and verb.name not in own]
    yield from ([name] for name in own)


def _with_value() -> Iterable[Option]:
    return (option for option in OPTIONS.values() if not option.is_flag and not option.alone)


def _long(verb: Verb) -> str:
    return " ".join(f"--{name}" for name in verb.options)


def _words(text: str) -> str:
    """A help text without the full stop, for shells."""
    return text.removesuffix(".")


def _quoted(text: str) -> str:
    """A text escaped for a shell's single quotes."""
    return text.replace("'", "'\\''")


def _filled(template: str, **parts: str) -> str:
    for name, text in {"DIRECTORY": DIRECTORY, "SOCKETS": SOCKETS, **parts}.items():
        template = template.replace(f"@{name}@", text)
    return template


FILES = {"wgq.bash": bash, "_wgq": zsh, "wgq.fish": fish}
"""The file name that each shell looks for."""


def main() -> None:
    """Write the completions into the directory in the first argument."""
    for name, make in FILES.items():
        (Path(sys.argv[1]) / name).write_text(make(), encoding="utf-8")


if __name__ == "__main__":
    main()
