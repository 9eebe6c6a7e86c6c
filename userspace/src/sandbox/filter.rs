//! The system call filter (seccomp(2)): the allowed calls and arguments. Everything else fails with EPERM.

use std::collections::BTreeMap;

use libc::{c_int, c_long};
use seccompiler::SeccompCmpArgLen::{Dword, Qword};
use seccompiler::SeccompCmpOp::{Eq, MaskedEq};
use seccompiler::{BackendError, BpfProgram, SeccompAction, SeccompCondition, SeccompFilter, SeccompRule};

use super::sealed_path::SealedPath;
use crate::tun::namespace::{TUNGETDEVNETNS, TUNGETIFF};
use crate::udp::OPTIONS;

/// The system calls allowed with any arguments. They affect only open descriptors, this process's memory and its threads.
const ALLOWED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_recvfrom,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mlock2,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_poll,
];

/// The allowed requests of `ioctl`. The only one that changes a link is `SIOCSIFFLAGS`, which sets it down.
const IOCTLS: [libc::c_ulong; 8] = [
    libc::SIOCGIFFLAGS as libc::c_ulong,
    libc::SIOCSIFFLAGS as libc::c_ulong,
    libc::SIOCGIFMTU as libc::c_ulong,
    libc::SIOCGIFNAME as libc::c_ulong,
    libc::SIOCGIFINDEX as libc::c_ulong,
    libc::FIONBIO as libc::c_ulong,
    TUNGETIFF,
    TUNGETDEVNETNS,
];

/// Without `MSG_FASTOPEN`, which connects a socket.
const SEND_FLAGS: c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
/// Without `MAP_SHARED`, and without `MAP_FIXED`, which replaces existing mappings.
const MAP_FLAGS: c_int = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
const SOCKET_FLAGS: c_int = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;

/// A condition on an argument. Only the low 32 bits are compared, except for addresses.
enum Argument {
    Is(u8, u64),
    /// No bits other than these are set.
    Within(u8, c_int),
    /// The argument is this number, ignoring the given bits.
    IsBut(u8, c_int, c_int),
    Address(u8, usize),
}

use Argument::{Address, Is, IsBut, Within};

impl Argument {
    fn condition(&self) -> Result<SeccompCondition, BackendError> {
        let bits = |bits: c_int| u64::from(bits as u32);
        match *self {
            Is(index, value) => SeccompCondition::new(index, Dword, Eq, value),
            Within(index, allowed) => SeccompCondition::new(index, Dword, MaskedEq(bits(!allowed)), 0),
            IsBut(index, value, ignored) => {
                SeccompCondition::new(index, Dword, MaskedEq(bits(!ignored)), bits(value))
            }
            Address(index, address) => SeccompCondition::new(index, Qword, Eq, address as u64),
        }
    }
}

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Allows a call if its arguments meet all conditions. A call may have several such sets of conditions.
fn allow(rules: &mut Rules, call: c_long, arguments: &[Argument]) -> Result<(), BackendError> {
    let conditions = arguments.iter().map(Argument::condition).collect::<Result<_, _>>()?;
    rules.entry(call).or_default().push(SeccompRule::new(conditions)?);
    Ok(())
}

/// Allows UDP sockets, which also serve ioctls about links. They can be bound to IP addresses only.
fn allow_sockets(rules: &mut Rules) -> Result<(), BackendError> {
    for family in [libc::AF_INET, libc::AF_INET6] {
        let kind = IsBut(1, libc::SOCK_DGRAM, SOCKET_FLAGS);
        allow(rules, libc::SYS_socket, &[Is(0, family as u64), kind, Is(2, 0)])?;
    }
    for length in [size_of::<libc::sockaddr_in>(), size_of::<libc::sockaddr_in6>()] {
        allow(rules, libc::SYS_bind, &[Is(2, length as u64)])?;
    }
    for (level, name) in OPTIONS {
        allow(rules, libc::SYS_setsockopt, &[Is(1, level as u64), Is(2, name as u64)])?;
    }
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        allow(rules, call, &[Within(flags, SEND_FLAGS)])?;
    }
    for code in IOCTLS {
        allow(rules, libc::SYS_ioctl, &[Is(1, code)])?;
    }
    allow(rules, libc::SYS_fcntl, &[Is(1, libc::F_DUPFD_CLOEXEC as u64)])
}

/// Allows private memory that is not executable.
fn allow_memory(rules: &mut Rules) -> Result<(), BackendError> {
    let data = libc::PROT_READ | libc::PROT_WRITE;
    allow(rules, libc::SYS_mmap, &[Within(2, data), Within(3, MAP_FLAGS)])?;
    allow(rules, libc::SYS_mprotect, &[Within(2, data)])?;
    allow(rules, libc::SYS_mremap, &[Within(3, libc::MREMAP_MAYMOVE)])
}

/// Allows signals to this process, for `abort`, and reading its processors, for the allocator.
fn allow_process(rules: &mut Rules) -> Result<(), BackendError> {
    allow(rules, libc::SYS_tgkill, &[Is(0, std::process::id().into())])?;
    allow(rules, libc::SYS_sched_getaffinity, &[Is(0, 0)])
}

/// Allows reading the status of one path and removing it.
fn allow_path(rules: &mut Rules, path: &SealedPath) -> Result<(), BackendError> {
    allow(rules, libc::SYS_newfstatat, &[Address(1, path.address())])?;
    allow(rules, libc::SYS_unlinkat, &[Address(1, path.address()), Is(2, 0)])
}

fn rules(path: Option<&SealedPath>) -> Result<Rules, BackendError> {
    let mut rules: Rules = ALLOWED.iter().map(|&call| (call, Vec::new())).collect();
    allow_sockets(&mut rules)?;
    allow_memory(&mut rules)?;
    allow_process(&mut rules)?;
    path.map_or(Ok(()), |path| allow_path(&mut rules, path))?;
    Ok(rules)
}

fn program(path: Option<&SealedPath>) -> Result<BpfProgram, BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules(path)?, refusal, SeccompAction::Allow, architecture)?.try_into()
}

/// Applies the filter to all threads of this process. Returns the reason if that fails.
pub fn apply(path: Option<&SealedPath>) -> Result<(), String> {
    let program = program(path).map_err(|e| e.to_string())?;
    path.into_iter().for_each(SealedPath::seal);
    seccompiler::apply_filter_all_threads(&program).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_within_the_kernels_length_limit() {
        let path = SealedPath::new(std::path::Path::new("/run/a.sock")).unwrap();
        assert!((1..4096).contains(&program(Some(&path)).unwrap().len()));
    }
}
