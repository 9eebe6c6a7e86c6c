# bash completion for wgq(1); it does not need wg(8) or the bash-completion package.
# Made by `python -m wgquick.cli.completions completions`: change wgquick/options.py or wgquick/cli/completions.py.
# shellcheck shell=bash

# Prints the arguments that wg-quick(8) allows as names. compgen might run others as commands.
_wgq_names() {
	local name
	for name; do
		[[ $name =~ ^[a-zA-Z0-9_=+.-]{1,15}$ ]] && printf '%s\n' "$name"
	done
}

# The names of /etc/wireguard/*.conf, as `wgq up NAME` takes them.
_wgq_configurations() {
	local -a files=(/etc/wireguard/*.conf)
	files=("${files[@]##*/}")
	_wgq_names "${files[@]%.conf}"
}

# Live interfaces: links of the kernel's type, and the control sockets of userspace implementations.
_wgq_interfaces() {
	local path name
	for path in /sys/class/net/*/uevent /var/run/wireguard/*.sock; do
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
		up | down | reload | try | confirm | plan | diff | save | strip | check | allowed-ips | doctor | rehearse | trace | show | exec | status | wait | watch | metrics) verb=$word && break ;;
		esac
	done
	case $prev in
	--backend) _wgq_from 'auto kernel userspace' && return ;;
	--firewall) _wgq_from 'auto nft iptables' && return ;;
	--dns) _wgq_from 'auto resolvconf resolved file off' && return ;;
	--name) return ;;
	--exclude) return ;;
	--netns) return ;;
	--exec) return ;;
	--names) _wgq_from 'mdlayher mindflavor' && return ;;
	--textfile) return ;;
	--listen) return ;;
	--wait-for) return ;;
	--timeout) return ;;
	--confirm-when) return ;;
	--extend) return ;;
	--for) return ;;
	--host) return ;;
	--from) return ;;
	--mark) return ;;
	--iif) return ;;
	--oif) return ;;
	--uid) return ;;
	--port) return ;;
	--peer-config) return ;;
	esac
	# Readline splits a name at `=', and replaces only the last part.
	if [[ $argument == *=* && $argument != -* && $COMP_WORDBREAKS == *=* ]]; then
		cur=$argument before=${argument%"${argument##*=}"}
	fi
	case $verb:$cur in
	:-*) _wgq_from '--help --version' ;;
	up:-*) _wgq_from '--backend --firewall --dns --name --strict --kill-switch --exclude --keep-inbound --netns --no-wait-for-dns --wait --wait-for --or-down --ensure --or-restart --keep-foreign --force --json --help' ;;
	down:-*) _wgq_from '--dns --name --force --help' ;;
	reload:-*) _wgq_from '--dry-run --json --or-restart --keep-foreign --no-wait-for-dns --wait --wait-for --force --backend --firewall --dns --name --strict --help' ;;
	try:-*) _wgq_from '--timeout --confirm-when --json --or-restart --keep-foreign --force --backend --firewall --dns --name --strict --kill-switch --exclude --keep-inbound --netns --help' ;;
	confirm:-*) _wgq_from '--extend --reject --help' ;;
	plan:-*) _wgq_from '--json --offline --keep-foreign --force --backend --firewall --dns --name --strict --kill-switch --exclude --keep-inbound --netns --help' ;;
	diff:-*) _wgq_from '--json --keep-foreign --firewall --dns --name --help' ;;
	save:-*) _wgq_from '--dns --help' ;;
	strip:-*) _wgq_from '--name --help' ;;
	check:-*) _wgq_from '--live --json --fix --help' ;;
	allowed-ips:-*) _wgq_from '--json --help' ;;
	doctor:-*) _wgq_from '--listen --peer-config --fix --bundle --json --help' ;;
	rehearse:-*) _wgq_from '--host --keep --no-hooks --json --help' ;;
	trace:-*) _wgq_from '--from --mark --iif --oif --uid --port --peer-config --probe --json --help' ;;
	show:-*) _wgq_from ' --help' ;;
	exec:-*) _wgq_from ' --help' ;;
	status:-*) _wgq_from '--json --watch --exit-code --help' ;;
	wait:-*) _wgq_from '--timeout --for --help' ;;
	watch:-*) _wgq_from '--json --once --check-only --exec --help' ;;
	metrics:-*) _wgq_from '--names --textfile --listen --help' ;;
	:*) _wgq_from 'up down reload try confirm plan diff save strip check allowed-ips doctor rehearse trace show exec status wait watch metrics' ;;
	*:*/*) compopt -o nospace -o filenames 2>/dev/null; _wgq_files ;;
	up:*) _wgq_from "$(_wgq_configurations)" && _wgq_files ;;
	down:*) _wgq_from "$(_wgq_interfaces)" ;;
	reload:*) _wgq_from "$(_wgq_interfaces)" ;;
	try:*) if [[ $prev == try ]]; then _wgq_from 'up reload down'; else _wgq_from "$(_wgq_configurations)" && _wgq_files; fi ;;
	confirm:*) _wgq_from "$(_wgq_interfaces)" ;;
	plan:*) if [[ $prev == plan ]]; then _wgq_from 'up down reload'; else _wgq_from "$(_wgq_configurations)" && _wgq_files; fi ;;
	diff:*) _wgq_from "$(_wgq_interfaces)" ;;
	save:*) _wgq_from "$(_wgq_interfaces)" ;;
	strip:*) _wgq_from "$(_wgq_configurations)" && _wgq_files ;;
	check:*) _wgq_from "$(_wgq_configurations)" && _wgq_files ;;
	allowed-ips:*) _wgq_from "$(_wgq_configurations)" && _wgq_files ;;
	doctor:*) _wgq_from "$(_wgq_interfaces)" ;;
	rehearse:*) _wgq_from "$(_wgq_configurations)" && _wgq_files ;;
	trace:*) : ;;
	show:*) _wgq_from "$(_wgq_interfaces)" ;;
	exec:*) _wgq_from "$(_wgq_interfaces)" ;;
	status:*) _wgq_from "$(_wgq_interfaces)" ;;
	wait:*) _wgq_from "$(_wgq_interfaces)" ;;
	watch:*) _wgq_from "$(_wgq_interfaces)" ;;
	metrics:*) _wgq_from "$(_wgq_interfaces)" ;;
	esac
	COMPREPLY=("${COMPREPLY[@]#"$before"}")
}
complete -F _wgq wgq
