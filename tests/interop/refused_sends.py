"""Runs a daemon, and makes the kernel refuse every Nth of its sends.

    refused_sends.py ERRNO EVERY PROGRAM ARGUMENT...     each EVERY-th send fails with ERRNO and sends nothing

A seccomp filter hands each send to a child process, which ends with the daemon (seccomp_unotify(2)).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import itertools
import os
import platform
import shlex
import signal
import struct
import sys

# The numbers of seccomp, sendmsg and sendmmsg.
CALLS = {"x86_64": (317, 46, 307), "aarch64": (277, 211, 269)}
PR_SET_PDEATHSIG = 1
SET_MODE_FILTER, NEW_LISTENER = 1, 8
ALLOW, USER_NOTIF = 0x7FFF0000, 0x7FC00000
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06
NOTIF_RECV, NOTIF_SEND = 0xC0502100, 0xC0182101
CONTINUE = 1

LIBC = ctypes.CDLL(None, use_errno=True)


def refusing(error: int, every: int, program: str) -> str:
    """The command that starts the daemon in a pair."""
    return f"{shlex.join([sys.executable, '-S', __file__])} {error} {every} {program}"


def listener() -> int:
    """Install the filter. Returns the descriptor that receives a notice for each send of this process."""
    seccomp, *sends = CALLS[platform.machine()]
    instructions = [
        (LOAD, 0, 0, 0),
        (JUMP_EQUAL, 2, 0, sends[0]),
        (JUMP_EQUAL, 1, 0, sends[1]),
        (RETURN, 0, 0, ALLOW),
        (RETURN, 0, 0, USER_NOTIF),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *each) for each in instructions))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(instructions), ctypes.addressof(code)))
    made: int = LIBC.syscall(seccomp, SET_MODE_FILTER, NEW_LISTENER, program)
    if made < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return made


def supervise(notices: int, error: int, every: int) -> None:
    """Let sends pass, except every `every`-th."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in itertools.count(1):
        notice = bytearray(80)
        try:
            fcntl.ioctl(notices, NOTIF_RECV, notice)
            (identity,) = struct.unpack_from("Q", notice)
            verdict = (-error, 0) if number % every == 0 else (0, CONTINUE)
            fcntl.ioctl(notices, NOTIF_SEND, struct.pack("QqiI", identity, 0, *verdict))
        except OSError as gone:
            if gone.errno not in (errno.ENOENT, errno.EINTR):
                raise


def main(error: int, every: int, *command: str) -> None:
    notices = listener()
    if os.fork() == 0:
        supervise(notices, error, every)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
