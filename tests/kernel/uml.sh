#!/bin/sh
# The first program in user-mode Linux, on the host's root file system, which it cannot write to. It runs the file
# `command` of the folder $WGQ_TEST_FOLDER, which is shared with the host, and writes its output to `output`.
set -e
trap 'busybox poweroff -f' EXIT
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t devtmpfs devtmpfs /dev
mkdir /dev/shm /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t devpts devpts /dev/pts
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
mount -t tmpfs tmpfs /run
mkdir /run/shared
mount -t hostfs -o "$WGQ_TEST_FOLDER" hostfs /run/shared
ip link set lo up
export TMPDIR=/dev/shm
sh /run/shared/command </dev/null >/run/shared/output 2>&1
