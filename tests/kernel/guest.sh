#!/bin/sh
# Runs first inside the VM, in a mount namespace of its own. Over 9p every start of a program takes a tenth of a
# second, and the tests start hundreds: the programs of the archive $1 are unpacked into memory and laid over the
# host's root file system, which becomes the root (a chroot would not outlive setns), and there $2... runs.
set -e
modprobe -a wireguard nf_tables ip_tables ip6_tables iptable_raw ip6table_raw iptable_mangle ip6table_mangle veth overlay tun
mkdir /run/programs /run/root
tar -C /run/programs -xf "$1"
shift
mount -t overlay -o lowerdir=/run/programs:/ overlay /run/root
for folder in proc sys dev; do mount --rbind "/$folder" "/run/root/$folder"; done
mount -t tmpfs tmpfs /run/root/run
cd /run/root
pivot_root . .
umount -l .
export TMPDIR=/dev/shm
exec "$@"
