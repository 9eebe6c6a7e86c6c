//! Giving up what is not needed: privileges, new programs, core dumps, most system calls.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, SeccompCondition, SeccompFilter,
    SeccompRule,
};

use crate::log;
use crate::sys::check;
use crate::tun::elsewhere::{TUNGETDEVNETNS, TUNGETIFF};

/// For fwmarks and large socket buffers.
pub const CAP_NET_ADMIN: u32 = 12;
/// For ports below 1024, until the sockets are bound for the first time.
pub const CAP_NET_BIND_SERVICE: u32 = 10;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

fn prctl(option: i32, argument: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers, no pointers.
    check(unsafe { libc::prctl(option, argument, second, 0, 0) }).map(drop)
}

/// Keeps these capabilities, as far as this thread has them, and no other.
pub fn keep_capabilities(wanted: &[u32]) -> io::Result<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: both structures are laid out as capget(2) and capset(2) have them in version 3.
    unsafe {
        check(libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) as i32)?;
        let mask: u32 = wanted.iter().map(|cap| 1 << cap).sum();
        let kept = data[0].permitted & mask;
        data = [CapData { effective: kept, permitted: kept, inheritable: 0 }, CapData::default()];
        check(libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) as i32)?;
    }
    Ok(())
}

/// Privileges that a thread made later could get back otherwise. Without `CAP_SETPCAP` the bounding set stays, which
/// `no_new_privs` makes harmless.
fn close_ways_back() -> io::Result<()> {
    for capability in (0..64).filter(|&cap| cap != CAP_NET_ADMIN) {
        let _ = prctl(libc::PR_CAPBSET_DROP, capability.into(), 0);
    }
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0);
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// How far the heap is locked, where it has to be followed as it grows; zero elsewhere.
static HEAP_LOCKED_TO: AtomicUsize = AtomicUsize::new(0);

/// Keeps all memory out of swap, that to come included, which takes the privilege to lift the limit: with a limit, an
/// allocation could fail later.
fn lock_all_memory() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is valid for the call; the other takes flags alone.
    unsafe {
        check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited))?;
        check(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)).map(drop)
    }
}

/// Keeps what there is out of swap within the limit, else the heap alone; the heap is followed from then on. Keys are on
/// the heap, and for moments on the stacks.
pub fn lock_memory_within_limit() {
    if HEAP_LOCKED_TO.load(Relaxed) == 0 {
        return;
    }
    // SAFETY: takes flags alone.
    let all = check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) });
    if all.is_ok() {
        HEAP_LOCKED_TO.store(heap_end(), Relaxed);
    }
    follow_heap();
}

fn heap_end() -> usize {
    // SAFETY: asks for the end, which it does not move.
    unsafe { libc::sbrk(0) as usize }
}

const LOCKED_TOGETHER: usize = 128 << 10;

/// Locks what the heap has grown by; where the limit is reached, the rest stays as it is.
pub fn follow_heap() {
    let (locked_to, end) = (HEAP_LOCKED_TO.load(Relaxed), heap_end());
    if locked_to == 0 || locked_to == end {
        return;
    }
    for at in (locked_to..end).step_by(LOCKED_TOGETHER) {
        let len = LOCKED_TOGETHER.min(end - at);
        // SAFETY: the range is mapped, and locking changes nothing that a program sees.
        if unsafe { libc::syscall(libc::SYS_mlock2, at, len, libc::MLOCK_ONFAULT) } != 0 {
            break;
        }
    }
    HEAP_LOCKED_TO.store(end, Relaxed);
}

/// All threads allocate from the one heap then, and no arena takes address space that would count against the limit.
fn use_one_heap() {
    // SAFETY: there is one thread yet, and the allocator takes this number at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let heap = maps.lines().find(|line| line.ends_with("[heap]")).and_then(|line| line.split_once('-'));
    let start = heap.and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
    HEAP_LOCKED_TO.store(start.unwrap_or(0), Relaxed);
}

/// No core file and no reading of this memory by others of the same user.
fn forbid_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Everything that has to be done while there is one thread: those made later inherit it. A part that this machine
/// refuses is named in the log; the tunnel works without.
pub fn prepare() {
    let attempt = |what: &str, result: io::Result<()>| {
        if let Err(e) = result {
            log::verbose(format_args!("cannot {what}: {e}"));
        }
    };
    attempt("forbid core dumps", forbid_dumps());
    if lock_all_memory().is_err() {
        use_one_heap();
    }
    attempt("set no_new_privs", close_ways_back());
}

/// The system calls of all threads once they run, whatever their arguments.
const ALLOWED: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_ppoll,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendto,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_getsockname,
    libc::SYS_setsockopt,
    libc::SYS_futex,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_madvise,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_brk,
    libc::SYS_mlock2,
    libc::SYS_mprotect,
    libc::SYS_unlinkat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Those of older architectures' tables.
#[cfg(target_arch = "x86_64")]
const ALLOWED_HERE: &[c_long] = &[libc::SYS_poll, libc::SYS_unlink, libc::SYS_lstat, libc::SYS_stat];
#[cfg(not(target_arch = "x86_64"))]
const ALLOWED_HERE: &[c_long] = &[];

/// What may be asked of a descriptor by `ioctl`.
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

/// New sockets are for UDP, or local ones to ask for an interface's index with.
const FAMILIES: [i32; 3] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX];

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

fn argument_is(index: u8, value: u64) -> Result<SeccompRule, seccompiler::BackendError> {
    SeccompRule::new(vec![SeccompCondition::new(index, Dword, Eq, value)?])
}

fn rules() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = ALLOWED.iter().chain(ALLOWED_HERE).map(|&call| (call, Vec::new())).collect();
    let ioctls = IOCTLS.iter().map(|&code| argument_is(1, code)).collect::<Result<_, _>>()?;
    let families = FAMILIES.iter().map(|&family| argument_is(0, family as u64)).collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctls);
    rules.insert(libc::SYS_fcntl, vec![argument_is(1, libc::F_DUPFD_CLOEXEC as u64)?]);
    rules.insert(libc::SYS_socket, families);
    Ok(rules)
}

fn program() -> Result<BpfProgram, seccompiler::BackendError> {
    let architecture = std::env::consts::ARCH.try_into()?;
    let refusal = SeccompAction::Errno(libc::EPERM as u32);
    SeccompFilter::new(rules()?, refusal, SeccompAction::Allow, architecture)?.try_into()
}

/// Confines all threads to the system calls that their work takes.
pub fn confine() {
    let result = program().map_err(|e| e.to_string());
    let result = result.and_then(|p| seccompiler::apply_filter_all_threads(&p).map_err(|e| e.to_string()));
    if let Err(e) = result {
        log::error(format_args!("no system call filter: {e}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_is_one_that_the_kernel_can_hold() {
        assert!((1..4096).contains(&program().unwrap().len()));
    }
}
