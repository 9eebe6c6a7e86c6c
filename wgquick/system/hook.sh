# shellcheck shell=dash disable=SC2154
# What a hook may call besides the host's programs: the functions of wg-quick(8)'s script that hooks in the field use.
# In POSIX's language (and `local`), as a host without bash runs hooks in sh. The variables are the caller's to set.

# Run one line, $hook. In a subshell in a function, so that `local' and `return' work; bash's errexit needs the two.
execute_hooks() { (eval "$hook"); }

# Say a command as the transcript does, and run it.
cmd() {
	echo "[#] $*" >&2
	"$@"
}

# End the hook with a message.
die() {
	echo "$PROGRAM: $*" >&2
	exit 1
}

# Set the variable that $1 names to the device's mark in decimal; fail if it has none.
get_fwmark() {
	local found
	found=$(wg show "$INTERFACE" fwmark) || return 1
	case $found in
	'' | off) return 1 ;;
	*) eval "$1=$((found))" ;;
	esac
}

# -4 or -6, by the address $1.
_family() {
	case $1 in
	*:*) echo -6 ;;
	*) echo -4 ;;
	esac
}

# Give the interface the address $1.
add_addr() { cmd ip "$(_family "$1")" address add "$1" dev "$INTERFACE"; }

# Route the network $1 into the tunnel, in the table that Table names.
add_route() {
	case $TABLE in
	off) return 0 ;;
	'' | auto) ;;
	*)
		cmd ip "$(_family "$1")" route add "$1" dev "$INTERFACE" table "$TABLE"
		return
		;;
	esac
	case $1 in
	*/0) die "add_route: a hook adds no default route. Write $1 into AllowedIPs." ;;
	esac
	[ -n "$(ip "$(_family "$1")" route show dev "$INTERFACE" match "$1" 2>/dev/null)" ] ||
		cmd ip "$(_family "$1")" route add "$1" dev "$INTERFACE"
}

# What Debian's resolvconf wants before the interface's name: the first `PREFIX*' of its interface-order.
resolvconf_iface_prefix() {
	local line
	[ -f /etc/resolvconf/interface-order ] && [ ! -L "$(command -v resolvconf)" ] || return 0
	while read -r line; do
		case ${line%\*} in
		'' | "$line" | *[!A-Za-z0-9-]*) ;;
		*)
			echo "${line%\*}."
			return 0
			;;
		esac
	done </etc/resolvconf/interface-order
}
