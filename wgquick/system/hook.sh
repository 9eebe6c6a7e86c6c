# shellcheck shell=dash disable=SC2154
# The functions of wg-quick(8)'s script that existing hooks call. They are written for POSIX sh with `local', as a host
# without bash runs hooks in sh. The caller sets the variables.

# Run the line $hook, or, called by a hook itself, the lines that it is given, as wg-quick's function does. The function
# makes `local' and `return' work; the subshell makes bash's errexit work.
execute_hooks() {
	if [ -z "${_in_hook-}" ]; then
		_in_hook=yes
		(eval "$hook")
		return
	fi
	local line
	for line; do
		echo "[#] $line" >&2
		(eval "$line")
	done
}

# Print a command as a line of the transcript, and run it.
cmd() {
	echo "[#] $*" >&2
	"$@"
}

# End the hook with a message.
die() {
	echo "$PROGRAM: $*" >&2
	exit 1
}

# Set the variable named $1 to the device's fwmark in decimal; fail if it has none.
get_fwmark() {
	local found
	found=$(wg show "$INTERFACE" fwmark) || return 1
	case $found in
	'' | off) return 1 ;;
	*) eval "$1=$((found))" ;;
	esac
}

# Print -4 or -6 for the address $1.
_family() {
	case $1 in
	*:*) echo -6 ;;
	*) echo -4 ;;
	esac
}

# Add the address $1 to the interface.
add_addr() { cmd ip "$(_family "$1")" address add "$1" dev "$INTERFACE"; }

# Add a route to the network $1 through the interface, in the file's Table.
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
	*/0) die "add_route: a hook cannot add a default route. Add $1 to AllowedIPs." ;;
	esac
	[ -n "$(ip "$(_family "$1")" route show dev "$INTERFACE" match "$1" 2>/dev/null)" ] ||
		cmd ip "$(_family "$1")" route add "$1" dev "$INTERFACE"
}

# Print the prefix for the interface's name in Debian's resolvconf: the first `PREFIX*' of its interface-order.
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
