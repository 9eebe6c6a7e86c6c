# What both commands of the README need before they can start; sourced by bash scripts beside it.
# shellcheck shell=bash
# Every step looks first and installs only what is missing, so running a script again costs seconds.

PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
CACHE=$PROJECT/.cache
RUST_NEEDED=1.89 # as userspace/Cargo.toml says
export PIP_DISABLE_PIP_VERSION_CHECK=1

heading() { printf '\n== %s\n' "$*"; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# The tests and the demonstration make network namespaces; packages are installed: both are root's business.
become_root() {
	[[ $(id -u) == 0 ]] && return
	command -v sudo >/dev/null || die "needs root: run it as root, or install sudo"
	exec sudo --preserve-env -- env "PATH=$PATH" "$@"
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
	command -v apt-get >/dev/null || die "needs a Debian or Ubuntu machine, or these installed by hand: ${missing[*]}"
	heading "installing ${missing[*]}"
	update_package_lists
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >"$CACHE/apt.log" 2>&1 ||
		{ tail -n 20 "$CACHE/apt.log" >&2 && die "apt-get could not install ${missing[*]}"; }
}

update_package_lists() {
	[[ -n ${PACKAGE_LISTS_FRESH-} ]] && return
	apt-get update -q >"$CACHE/apt.log" 2>&1 || printf 'apt-get update failed, going on with the lists there are\n' >&2
	PACKAGE_LISTS_FRESH=1
}

# need_venv FOLDER: a virtual environment made by a Python that is new enough.
need_venv() {
	[[ -x $1/bin/python ]] && "$1/bin/python" -c '' 2>/dev/null && return
	need_packages python3 python3-venv python3-dev gcc libc6-dev # python-iptables is built from source
	python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		die "needs Python 3.11 or later, and python3 is $(python3 --version)"
	python3 -m venv --clear "$1"
}

rust_is_recent() {
	command -v cargo >/dev/null && at_least "$(cargo --version | cut -d ' ' -f 2)" "$RUST_NEEDED"
}

# Debian's and Ubuntu's packages of a recent Rust go by several names: cargo, cargo-web (Debian 12), cargo-1.85.
recent_rust_package() {
	local package
	for package in $(apt-cache search --names-only '^cargo(-web|-1\.[0-9]+)?$' | cut -d ' ' -f 1 | sort -rV); do
		at_least "$(apt-cache show --no-all-versions "$package" | sed -n 's/^Version: //p')" "$RUST_NEEDED" &&
			printf '%s\n' "$package" && return
	done
	return 1
}

# A Rust that builds userspace/: what is there, else the distribution's, else what its rustup fetches.
need_rust() {
	local package
	rust_is_recent && return
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
