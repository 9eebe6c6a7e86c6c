//! The sandbox: drops privileges and forbids new programs, core dumps, opening files and most system calls.

pub mod files;
pub mod filter;
pub mod sealed_path;

use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::capabilities::CAP_NET_ADMIN;
use crate::locks::lock;
use crate::log;
use crate::sys::check;
use sealed_path::SealedPath;

fn prctl(option: i32, argument: libc::c_ulong, second: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the options used here take numbers, no pointers.
    check(unsafe { libc::prctl(option, argument, second, 0, 0) }).map(drop)
}

/// Prevents regaining privileges. Without `CAP_SETPCAP` the bounding set stays, which `no_new_privs` makes harmless.
fn close_ways_back() -> io::Result<()> {
    for capability in (0..64).filter(|&cap| cap != CAP_NET_ADMIN) {
        let _ = prctl(libc::PR_CAPBSET_DROP, capability.into(), 0);
    }
    let _ = prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as libc::c_ulong, 0);
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0)
}

/// The end of the locked part of the heap if it must be locked as it grows; otherwise zero.
static HEAP_LOCKED_TO: AtomicUsize = AtomicUsize::new(0);

/// Locks all current and future memory, so that none is swapped. This needs the privilege to lift the limit, because with
/// a limit an allocation could fail later.
fn lock_all_memory() -> io::Result<()> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the structure is valid for the call; the other call takes only flags.
    unsafe {
        check(libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited))?;
        check(libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT)).map(drop)
    }
}

/// Locks all current memory if the limit allows it, otherwise only the heap. The heap is then locked as it grows. Keys are
/// on the heap, and briefly on the stacks.
pub(crate) fn lock_memory_within_limit() {
    if HEAP_LOCKED_TO.load(Relaxed) == 0 {
        return;
    }
    // SAFETY: takes only flags.
    let all = check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT) });
    if all.is_ok() {
        HEAP_LOCKED_TO.store(heap_end(), Relaxed);
    }
    follow_heap();
}

fn heap_end() -> usize {
    // SAFETY: the call only reads the end of the heap.
    unsafe { libc::sbrk(0) as usize }
}

const LOCKED_TOGETHER: usize = 128 << 10;

/// Locks the part that the heap has grown by, as far as the limit allows.
pub(crate) fn follow_heap() {
    let (locked_to, end) = (HEAP_LOCKED_TO.load(Relaxed), heap_end());
    if locked_to == 0 || locked_to == end {
        return;
    }
    for at in (locked_to..end).step_by(LOCKED_TOGETHER) {
        let len = LOCKED_TOGETHER.min(end - at);
        // SAFETY: the range is mapped, and locking has no effect that a program can see.
        if unsafe { libc::syscall(libc::SYS_mlock2, at, len, libc::MLOCK_ONFAULT) } != 0 {
            break;
        }
    }
    HEAP_LOCKED_TO.store(end, Relaxed);
}

/// Makes all threads allocate from one heap, because the address space of arenas would count against the limit.
fn use_one_heap() {
    // SAFETY: this process has only one thread so far, and the allocator accepts this option at any time.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let heap = maps.lines().find(|line| line.ends_with("[heap]")).and_then(|line| line.split_once('-'));
    let start = heap.and_then(|(start, _)| usize::from_str_radix(start, 16).ok());
    HEAP_LOCKED_TO.store(start.unwrap_or(0), Relaxed);
}

/// Forbids core files, and reading this process's memory by other processes of the same user.
fn forbid_dumps() -> io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is valid for the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    prctl(libc::PR_SET_DUMPABLE, 0, 0)
}

/// Applies the parts of the sandbox that later threads inherit, so it is called while there is one thread. All files must
/// be open; afterwards files can only be removed from one directory. A part that fails is logged as an error, and the
/// tunnel works without it.
pub fn prepare(directory: &Path) {
    let attempt = |what: &str, result: io::Result<()>| {
        if let Err(e) = result {
            log::error(format_args!("cannot {what}: {e}"));
        }
    };
    attempt("forbid core dumps", forbid_dumps());
    if lock_all_memory().is_err() {
        use_one_heap();
    }
    attempt("set no_new_privs", close_ways_back());
    match files::restrict(directory) {
        Ok(version) => lock(&IN_FORCE).landlock = Some(version),
        Err(e) => log::error(format_args!("running without Landlock: {e}")),
    }
}

/// The parts of the sandbox in force.
struct InForce {
    landlock: Option<u32>,
    filter: bool,
}

static IN_FORCE: Mutex<InForce> = Mutex::new(InForce { landlock: None, filter: false });

/// Confines all threads to the system calls that they need, and to one path if there is one.
pub fn confine(path: Option<&SealedPath>) {
    match filter::apply(path) {
        Ok(()) => lock(&IN_FORCE).filter = true,
        Err(e) => log::error(format_args!("running without a system call filter: {e}")),
    }
}

/// Describes the parts of the sandbox in force.
pub(crate) fn describe() -> String {
    let InForce { landlock, filter } = *lock(&IN_FORCE);
    let filter = if filter { "system call filter" } else { "no system call filter" };
    let landlock = landlock.map_or("no Landlock".to_owned(), |version| format!("Landlock {version}"));
    format!("{filter}, {landlock}")
}
