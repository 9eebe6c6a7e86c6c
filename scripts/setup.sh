# Functions that prepare the machine for the other scripts, which source this file.
# shellcheck shell=bash
# Each function installs only what is missing, so running a script again takes seconds.

unset CDPATH
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
CACHE=$PROJECT/.cache
RUST_NEEDED=1.89 # as in userspace/Cargo.toml
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USE_PEP517=1
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d : -f 6)}
export HOME # Go does not look for it by itself
[[ -O $HOME ]] || export PIP_CACHE_DIR=~root/.cache/pip # pip warns of another user's cache
umask 022 # hooks and tests run as other users too
# Unset settings of the user's own tunnels and programs.
unset "${!WG_@}" "${!WGQ_@}" LOG_LEVEL PYTHONPATH PYTHONHOME VIRTUAL_ENV PIP_USER PIP_TARGET PIP_PREFIX

heading() { printf '\n== %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# explain ARGUMENT...: for --help, print the comment at the top of the script.
explain() {
	case ${1-} in
	-h | --help) sed -n '2,/^[^#]/s/^#\( \|$\)//p' "$0" && exit ;;
	esac
}

# become_root ARGUMENT...: run this script again as root. The tests and the demonstration create network namespaces, and
# packages are installed.
become_root() {
	[[ $(id -u) == 0 ]] && return
	command -v sudo >/dev/null || die "needs root: run it as root, or install sudo"
	# By name, as sudo-rs of newer Ubuntus supports nothing else; it never passes these two on.
	exec sudo "--preserve-env=$(compgen -e | paste -s -d ,)" -- \
		env "PATH=$PATH" "HOME=$HOME" bash "$PROJECT/scripts/${0##*/}" "$@"
}

# Give files that root created in a user's directories to the user, who could not change or delete them otherwise.
give_back() {
	local place places=()
	[[ -n ${SUDO_UID-} ]] || return 0
	[[ -O $PROJECT ]] || places+=("$PROJECT")
	[[ -O $HOME ]] || places+=("$HOME"/.{cargo,rustup,cache,config} "$HOME/go")
	for place in "${places[@]}"; do
		[[ ! -e $place ]] || chown -hR --from=root "$SUDO_UID:${SUDO_GID-}" "$place"
	done
}

need_folder() {
	mkdir -p "$1" || true
	[[ -w $1 ]] || die "cannot write to this folder: copy it to a writable place"
}

at_least() { [[ $(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1) == "$2" ]]; }

missing_packages() {
	local package
	for package in "$@"; do
		[[ $(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
	done
}

# need_packages PACKAGE...: Debian or Ubuntu packages, only those that are not installed yet.
need_packages() {
	local missing
	mapfile -t missing < <(missing_packages "$@")
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null || {
		heading "neither Debian nor Ubuntu: the content of these packages must be installed already: ${missing[*]}"
		return 0
	}
	heading "installing ${missing[*]}"
	update_package_lists
	# A machine that has just started often runs its own updates.
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -q -y --no-install-recommends \
		"${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
		{ tail -n 20 "$CACHE/apt.log" >&2 && die "apt-get could not install ${missing[*]}"; }
}

update_package_lists() {
	local tries=60
	[[ -n ${PACKAGE_LISTS_FRESH-} ]] && return
	until LC_ALL=C apt-get update -q >"$CACHE/apt.log" 2>&1; do
		# Unlike the installation, this does not wait by itself for another apt to end.
		if grep -q '^E: Could not get lock' "$CACHE/apt.log" && ((--tries)); then sleep 10; else
			printf 'apt-get update failed, using the existing package lists\n' >&2
			break
		fi
	done
	PACKAGE_LISTS_FRESH=1
}

# works_in FOLDER PROGRAM: whether a virtual environment's program runs and belongs to this folder. In a copied or moved
# folder the programs use the old one.
works_in() { grep -qsF "$1/bin/python" "$1/bin/$2" && "$1/bin/$2" --version >/dev/null 2>&1; }

# need_venv FOLDER: create a virtual environment with a recent Python; again if its creation was interrupted or the
# machine's Python has changed.
need_venv() {
	works_in "$1" pip && return
	need_packages python3 python3-venv
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "needs Python 3.11 or later; python3 is $(python3 --version)"
	python3 -m venv --clear "$1"
}

# The packages that build python-iptables, the extra `iptables`.
need_iptables_extra() { need_packages python3-dev gcc libc6-dev; }

rust_is_recent() {
	command -v cargo >/dev/null && at_least "$(cargo --version | cut -d ' ' -f 2)" "$RUST_NEEDED"
}

# The names of Debian's and Ubuntu's packages of a recent Rust: cargo, cargo-web (Debian 12 and 13), cargo-1.85.
recent_rust_package() {
	local package
	for package in $(apt-cache search --names-only '^cargo(-web|-1\.[0-9]+)?$' | cut -d ' ' -f 1 | sort -rV); do
		at_least "$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')" "$RUST_NEEDED" &&
			printf '%s\n' "$package" && return
	done
	return 1
}

# Install a Rust that builds userspace/: the existing one, else the distribution's, else one from the distribution's rustup.
need_rust() {
	local package
	rust_is_recent && return
	command -v apt-cache >/dev/null || die "needs cargo $RUST_NEEDED or later: see https://rustup.rs"
	update_package_lists
	if package=$(recent_rust_package); then
		need_packages "$package" gcc libc6-dev
		[[ $package == cargo-1.* ]] && PATH=/usr/lib/rust${package#cargo}/bin:$PATH
	else
		need_rustup
	fi
	rust_is_recent || die "cargo is still older than $RUST_NEEDED: see https://rustup.rs"
}

need_rustup() {
	command -v rustup >/dev/null || [[ $(apt-cache policy rustup) == *Candidate:\ [0-9]* ]] ||
		die "needs cargo $RUST_NEEDED or later and no package has it: see https://rustup.rs"
	command -v rustup >/dev/null || need_packages rustup
	need_packages gcc libc6-dev
	heading "installing Rust by rustup"
	rustup toolchain install stable --profile minimal --component rustfmt --component clippy
	export RUSTUP_TOOLCHAIN=stable
}

# shorten_entry FOLDER: replace the `wgq` there by one without pip's imports, which take a fifth of a whole `wgq up`. A
# file with another first line (for a long path, or a path with blanks) stays.
shorten_entry() {
	[[ $(head -n 1 "$1/wgq") == "#!$1/python"* ]] || return 0
	printf '%s\nfrom wgquick.__main__ import main\n\nmain()\n' "$(head -n 1 "$1/wgq")" >"$1/.wgq"
	chmod 755 "$1/.wgq"
	mv "$1/.wgq" "$1/wgq"
}

# install_wgq FOLDER: install wgq and its backend into the virtual environment there, unless this version is installed.
install_wgq() {
	local sources=(pyproject.toml README.md LICENSE wgquick completions contrib userspace/Cargo.* userspace/src)
	[[ -x $1/bin/wgq-userspace && -z $(find "${sources[@]}" -newer "$1/wgq-is-installed" -print -quit 2>&1) ]] &&
		works_in "$1" wgq && return
	need_packages ca-certificates
	need_venv "$1"
	need_iptables_extra
	need_rust
	heading "building and installing wgq into $1 (the first time takes a minute or two)"
	rm -rf build
	"$1/bin/pip" install --quiet ".[iptables]"
	rm -rf build wgq.egg-info
	shorten_entry "$1/bin"
	[[ -x $1/bin/wgq-userspace ]] || die "wgq-userspace was not built: run (cd userspace && cargo build --release) for the reason"
	touch "$1/wgq-is-installed"
}
