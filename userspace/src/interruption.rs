//! Interruptions of the machine after which sessions do not go on: a snapshot that is restored, and sleep.
//!
//! A virtual machine that is restored twice from one snapshot would go on twice with the same keys and counters, and seal
//! different packets with the same nonce. The hypervisor gives each restored machine another generation ID, and the kernel
//! tells of it in one of two ways: by a uevent (`drivers/virt/vmgenid.c` of some kernels), or by a line in its log alone
//! (`add_vmfork_randomness` of `drivers/char/random.c`, Linux 5.18).
//!
//! Sleep shows in the clocks: `CLOCK_BOOTTIME` goes on meanwhile, `CLOCK_MONOTONIC` does not (`clock_gettime(2)`).

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::log;
use crate::sys::{self, check, check_len, owned, pollfd};

/// What has interrupted the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// It was restored from a snapshot.
    Restored,
    /// It slept, or was hibernated.
    Slept,
}

/// Where the driver of the generation ID shows its device, by the kind of firmware and kernel.
const DRIVERS: [&str; 2] = ["/sys/bus/acpi/drivers/vmgenid", "/sys/bus/platform/drivers/vmgenid"];
/// What the kernel sleeps to by itself whenever nothing keeps it awake, or "off" (Documentation/ABI/testing/sysfs-power).
const AUTOSLEEP: &str = "/sys/power/autosleep";
const KERNEL_LOG: &str = "/dev/kmsg";
/// What the kernel logs once it has taken another generation ID in.
const FORKED: &[u8] = b"random: crng reseeded due to virtual machine fork";
/// The variable of the uevent.
const NEW_ID: &[u8] = b"NEW_VMGENID=1";
/// The kernel's multicast group of uevents.
const UEVENTS: u32 = 1;
/// Below it, records of /dev/kmsg are the kernel's: userspace cannot use its facility (Documentation/ABI/testing/dev-kmsg).
const USER_FACILITY: u32 = 8;
/// The clocks agree to the nanosecond, and no machine sleeps for less.
const LEAST_SLEEP_NS: i64 = 1_000_000;

/// Both clocks, read one after the other, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Reading {
    monotonic_before: i64,
    boot: i64,
    monotonic_after: i64,
}

impl Reading {
    fn now() -> Self {
        Self {
            monotonic_before: sys::clock_ns(libc::CLOCK_MONOTONIC),
            boot: sys::clock_ns(libc::CLOCK_BOOTTIME),
            monotonic_after: sys::clock_ns(libc::CLOCK_MONOTONIC),
        }
    }

    /// How far ahead the boot clock is at least, and at most: this thread may have stood still between two readings.
    fn ahead(&self) -> (i64, i64) {
        (self.boot - self.monotonic_after, self.boot - self.monotonic_before)
    }
}

/// Finds out by the clocks whether the machine has slept.
struct Sleep {
    /// How far ahead the boot clock was at most.
    most: i64,
}

impl Sleep {
    fn new(first: &Reading) -> Self {
        Self { most: first.ahead().1 }
    }

    /// Whether it has slept since this was asked last.
    fn has_passed(&mut self, reading: &Reading) -> bool {
        let (least, most) = reading.ahead();
        let slept = least >= self.most.saturating_add(LEAST_SLEEP_NS);
        self.most = if slept { most } else { self.most.min(most) };
        slept
    }
}

/// Whether a uevent tells of another generation ID: strings that end in zeros, a header first and variables after.
fn is_new_id(uevent: &[u8]) -> bool {
    uevent.split(|&byte| byte == 0).any(|variable| variable == NEW_ID)
}

/// Whether a record of /dev/kmsg tells of another generation ID: `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`.
fn tells_of_fork(record: &[u8]) -> bool {
    let Some(end) = record.iter().position(|&byte| byte == b';') else {
        return false;
    };
    let priority = record.split(|&byte| byte == b',').next().and_then(|digits| str::from_utf8(digits).ok());
    let is_kernels = priority.and_then(|digits| digits.parse().ok()).is_some_and(|p: u32| p < USER_FACILITY);
    is_kernels && &record[end + 1..] == FORKED
}

/// Whether the machine has a generation ID that the kernel follows.
fn has_generation_id() -> bool {
    let is_device = |entry: fs::DirEntry| entry.file_name() != "module" && entry.path().is_dir();
    DRIVERS.iter().filter_map(|driver| fs::read_dir(driver).ok()).flatten().flatten().any(is_device)
}

/// Whether the machine sleeps all the time, as a phone does. Sleep ends no session there, as with the kernel's WireGuard
/// (`wg_pm_notification` of `device.c`).
fn sleeps_all_the_time(autosleep: &Path) -> bool {
    fs::read_to_string(autosleep).is_ok_and(|state| state.trim_end() != "off")
}

/// Hears of uevents. In a network namespace of an unprivileged user the kernel sends none.
fn uevents() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the address is valid for its length, and as zeros before its fields are set.
    unsafe {
        let fd = owned(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT))?;
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = UEVENTS;
        let len = size_of::<libc::sockaddr_nl>() as u32;
        check(libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len))?;
        Ok(fd)
    }
}

/// Reads what the kernel logs from now on.
fn kernel_log(path: &Path) -> io::Result<OwnedFd> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match log.seek(SeekFrom::End(0)) {
        // A pipe in its place holds nothing old.
        Err(e) if e.kind() != io::ErrorKind::NotSeekable => Err(e),
        _ => Ok(log.into()),
    }
}

/// Becomes readable when the time of day is set, as it is at the end of sleep (`timerfd_create(2)`).
fn clock_set() -> io::Result<OwnedFd> {
    let never = libc::timespec { tv_sec: libc::time_t::MAX, tv_nsec: 0 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    // SAFETY: the structure is valid for the call, which writes nothing where the last pointer is null.
    unsafe {
        let fd = owned(libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?;
        check(libc::timerfd_settime(fd.as_raw_fd(), flags, &raw const once, std::ptr::null_mut()))?;
        Ok(fd)
    }
}

/// Reads one uevent; None for one that is not the kernel's.
fn read_uevent<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    // SAFETY: buffer and address are valid for the lengths that are told.
    let (len, sender) = unsafe {
        let mut sender: libc::sockaddr_nl = std::mem::zeroed();
        let mut room = size_of::<libc::sockaddr_nl>() as u32;
        let (bytes, address) = (buffer.as_mut_ptr().cast(), (&raw mut sender).cast());
        let len = libc::recvfrom(fd.as_raw_fd(), bytes, buffer.len(), 0, address, &raw mut room);
        (check_len(len)?, sender)
    };
    Ok((sender.nl_pid == 0).then_some(&buffer[..len]))
}

/// What tells of interruptions. All of it is opened before the sandbox closes.
pub(crate) struct Interruptions {
    uevents: Option<OwnedFd>,
    kernel_log: Option<OwnedFd>,
    clock_set: Option<OwnedFd>,
    /// None where sleep is no interruption.
    sleep: Option<Sleep>,
}

impl Interruptions {
    /// How many entries `pollfds` has.
    pub(crate) const FDS: usize = 3;

    pub(crate) fn new() -> Self {
        let has_id = has_generation_id();
        let open = |what: &str, opened: io::Result<OwnedFd>| {
            opened.inspect_err(|e| log::verbose(format_args!("cannot follow {what}: {e}"))).ok()
        };
        let (uevents, kernel_log) = (has_id.then(uevents), has_id.then(|| kernel_log(Path::new(KERNEL_LOG))));
        Self {
            uevents: uevents.and_then(|opened| open("uevents", opened)),
            kernel_log: kernel_log.and_then(|opened| open("the kernel's log", opened)),
            clock_set: open("changes of the clock", clock_set()),
            sleep: (!sleeps_all_the_time(Path::new(AUTOSLEEP))).then(|| Sleep::new(&Reading::now())),
        }
    }

    /// Entries for poll(2), which passes over those that are missing.
    pub(crate) fn pollfds(&self) -> [libc::pollfd; Self::FDS] {
        [&self.uevents, &self.kernel_log, &self.clock_set].map(|fd| {
            fd.as_ref().map_or(libc::pollfd { fd: -1, events: 0, revents: 0 }, |fd| pollfd(fd, libc::POLLIN))
        })
    }

    /// What has happened since the last call. `ready` is `pollfds` after poll(2).
    pub(crate) fn seen(&mut self, ready: &[libc::pollfd], buffer: &mut [u8]) -> Vec<Interruption> {
        let is_ready = |at: usize| ready[at].revents != 0;
        let of_uevent = self.uevents.as_ref().is_some_and(|fd| is_ready(0) && uevents_tell(fd, buffer));
        let of_log = self.kernel_log.as_ref().is_some_and(|fd| is_ready(1) && log_tells(fd, buffer));
        if let Some(clock_set) = self.clock_set.as_ref().filter(|_| is_ready(2)) {
            // It answers ECANCELED, once for each time that the clock is set.
            let _ = sys::read(clock_set, buffer);
        }
        let restored = (of_uevent || of_log).then_some(Interruption::Restored);
        let slept = self.sleep.as_mut().is_some_and(|sleep| sleep.has_passed(&Reading::now()));
        restored.into_iter().chain(slept.then_some(Interruption::Slept)).collect()
    }
}

impl Default for Interruptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads all uevents; whether one tells of another generation ID, or may have: the kernel drops those that find no room.
fn uevents_tell(fd: &OwnedFd, buffer: &mut [u8]) -> bool {
    let mut told = false;
    loop {
        match read_uevent(fd, buffer) {
            Ok(uevent) => told |= uevent.is_some_and(is_new_id),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => told = true,
            Err(_) => return told,
        }
    }
}

/// Reads all records; whether one tells of another generation ID, or may have: the kernel overwrites old ones (EPIPE).
fn log_tells(fd: &OwnedFd, buffer: &mut [u8]) -> bool {
    let mut told = false;
    loop {
        match sys::read(fd, buffer) {
            Ok(0) => return told,
            Ok(len) => told |= buffer[..len].split(|&byte| byte == b'\n').any(tells_of_fork),
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => told = true,
            Err(_) => return told,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reading that takes some time, on a machine that has been up and has slept for so long.
    fn reading(up: i64, slept: i64, pauses: (i64, i64)) -> Reading {
        Reading {
            monotonic_before: up,
            boot: up + pauses.0 + slept,
            monotonic_after: up + pauses.0 + pauses.1,
        }
    }

    #[test]
    fn sleep_is_seen_once_and_however_short() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
        assert!(!sleep.has_passed(&reading(9_000_000_000, 0, (30, 30))));
        for slept in [LEAST_SLEEP_NS + 100, 5_000_000_000, 86_400_000_000_000] {
            assert!(sleep.has_passed(&reading(9_000_100_000, slept, (30, 30))), "{slept}");
            assert!(!sleep.has_passed(&reading(9_000_200_000, slept, (30, 30))), "{slept}");
        }
    }

    #[test]
    fn a_thread_that_stands_still_between_the_clocks_is_no_sleep() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
        for pauses in [(5_000_000_000, 30), (30, 5_000_000_000), (5_000_000_000, 5_000_000_000), (30, 30)] {
            assert!(!sleep.has_passed(&reading(2_000, 0, pauses)), "{pauses:?}");
        }
    }

    #[test]
    fn a_first_reading_that_took_long_hides_sleep_only_until_the_next_one() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (5_000_000_000, 30)));
        assert!(!sleep.has_passed(&reading(6_000_000_000, 0, (30, 30))));
        assert!(sleep.has_passed(&reading(7_000_000_000, 2_000_000_000, (30, 30))));
    }

    #[test]
    fn sleep_in_the_middle_of_a_reading_is_seen_by_the_next_one_at_the_latest() {
        let slept = 5_000_000_000;
        for boot in [0, slept] {
            let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
            let seen = sleep.has_passed(&reading(2_000, boot, (30, 30)));
            assert_ne!(seen, sleep.has_passed(&reading(3_000, slept, (30, 30))));
        }
    }

    #[test]
    fn a_machine_sleeps_all_the_time_where_the_kernel_is_told_to() {
        let file = std::env::temp_dir().join(format!("wgq-autosleep-{}", std::process::id()));
        assert!(!sleeps_all_the_time(&file), "a kernel that cannot");
        for (state, expected) in [("off\n", false), ("mem\n", true), ("freeze\n", true)] {
            fs::write(&file, state).unwrap();
            assert_eq!(sleeps_all_the_time(&file), expected, "{state}");
        }
        fs::remove_file(file).unwrap();
    }

    #[test]
    fn this_machine_has_not_slept_between_two_readings() {
        let mut sleep = Sleep::new(&Reading::now());
        assert!((0..1000).all(|_| !sleep.has_passed(&Reading::now())));
    }

    #[test]
    fn only_the_uevent_of_another_generation_id_tells_of_one() {
        let start =
            "change@/devices/platform/VMGENCTR:00\0ACTION=change\0DEVPATH=/devices/platform/VMGENCTR:00\0";
        let uevent = |variable: &str| is_new_id(format!("{start}{variable}\0SEQNUM=7\0").as_bytes());
        assert!(uevent("NEW_VMGENID=1"));
        for variable in
            ["SUBSYSTEM=platform", "NEW_VMGENID=0", "NEW_VMGENID=12", "SYNTH_ARG_NEW_VMGENID=1", ""]
        {
            assert!(!uevent(variable), "{variable}");
        }
        assert!(!is_new_id(b""));
    }

    #[test]
    fn only_the_kernels_own_record_tells_of_a_fork() {
        let text = "random: crng reseeded due to virtual machine fork";
        for prefix in ["5,300,1269598,-", "5,300,1269598,-,caller=T1", "0,1,2,c"] {
            assert!(tells_of_fork(format!("{prefix};{text}").as_bytes()), "{prefix}");
        }
        for prefix in ["13,300,1269598,-", "8,1,2,-", "-5,1,2,-", "", "x,1"] {
            assert!(!tells_of_fork(format!("{prefix};{text}").as_bytes()), "{prefix}");
        }
        for record in [text, "", ";", "5,1,2,-", "5,1,2,-;random: crng init done", " SUBSYSTEM=acpi"] {
            assert!(!tells_of_fork(record.as_bytes()), "{record}");
        }
        assert!(!tells_of_fork(format!("5,1,2,-;{text} or so").as_bytes()));
    }
}
