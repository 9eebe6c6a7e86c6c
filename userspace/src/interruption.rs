//! Detects interruptions of the machine that end sessions: a restored snapshot, and sleep.
//!
//! Two virtual machines restored from one snapshot would continue with the same keys and counters, and encrypt different
//! packets with the same nonce. The hypervisor gives each restored machine a new generation ID. The kernel reports it by a
//! uevent (`drivers/virt/vmgenid.c` of some kernels), or only by a line in its log (`add_vmfork_randomness` of
//! `drivers/char/random.c`, Linux 5.18).
//!
//! Sleep is detected by the clocks: `CLOCK_BOOTTIME` advances during sleep, `CLOCK_MONOTONIC` does not
//! (`clock_gettime(2)`).

use std::fs::{self, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::log;
use crate::sys::{self, check, check_len, owned, pollfd};

/// The kind of an interruption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    /// The machine was restored from a snapshot.
    Restored,
    /// The machine slept or was hibernated.
    Slept,
}

/// The sysfs directories of the generation ID's driver, which depend on firmware and kernel.
const DRIVERS: [&str; 2] = ["/sys/bus/acpi/drivers/vmgenid", "/sys/bus/platform/drivers/vmgenid"];
/// The state that the kernel enters by itself when nothing keeps it awake, or "off"
/// (Documentation/ABI/testing/sysfs-power).
const AUTOSLEEP: &str = "/sys/power/autosleep";
const KERNEL_LOG: &str = "/dev/kmsg";
/// The line that the kernel logs for a new generation ID.
const FORKED: &[u8] = b"random: crng reseeded due to virtual machine fork";
/// The variable of the uevent.
const NEW_ID: &[u8] = b"NEW_VMGENID=1";
/// The kernel's multicast group of uevents.
const UEVENTS: u32 = 1;
/// Records of /dev/kmsg with a lower priority value are the kernel's own (Documentation/ABI/testing/dev-kmsg).
const USER_FACILITY: u32 = 8;
/// The shortest sleep. The clocks agree to the nanosecond otherwise.
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

    /// The least and greatest lead of the boot clock. They differ because the thread may pause between two readings.
    fn ahead(&self) -> (i64, i64) {
        (self.boot - self.monotonic_after, self.boot - self.monotonic_before)
    }
}

/// Detects sleep by the clocks.
struct Sleep {
    /// The greatest lead of the boot clock so far.
    most: i64,
}

impl Sleep {
    fn new(first: &Reading) -> Self {
        Self { most: first.ahead().1 }
    }

    /// Whether the machine has slept since the last call.
    fn has_passed(&mut self, reading: &Reading) -> bool {
        let (least, most) = reading.ahead();
        let slept = least >= self.most.saturating_add(LEAST_SLEEP_NS);
        self.most = if slept { most } else { self.most.min(most) };
        slept
    }
}

/// Whether a uevent reports a new generation ID. A uevent is a header and then variables, each terminated by a zero.
fn is_new_id(uevent: &[u8]) -> bool {
    uevent.split(|&byte| byte == 0).any(|variable| variable == NEW_ID)
}

/// Whether a record of /dev/kmsg reports a new generation ID: `PRIORITY,NUMBER,MICROSECONDS,FLAGS;TEXT`.
fn reports_fork(record: &[u8]) -> bool {
    let Some(end) = record.iter().position(|&byte| byte == b';') else {
        return false;
    };
    let priority = record.split(|&byte| byte == b',').next().and_then(|digits| str::from_utf8(digits).ok());
    let is_kernels = priority.and_then(|digits| digits.parse().ok()).is_some_and(|p: u32| p < USER_FACILITY);
    is_kernels && &record[end + 1..] == FORKED
}

/// Whether the machine has a generation ID and the kernel has a driver for it.
fn has_generation_id() -> bool {
    let is_device = |entry: fs::DirEntry| entry.file_name() != "module" && entry.path().is_dir();
    DRIVERS.iter().filter_map(|driver| fs::read_dir(driver).ok()).flatten().flatten().any(is_device)
}

/// Whether the machine sleeps frequently by itself, as a phone does. Sleep then ends no session, as with the kernel's
/// WireGuard (`wg_pm_notification` of `device.c`).
fn sleeps_all_the_time(autosleep: &Path) -> bool {
    fs::read_to_string(autosleep).is_ok_and(|state| state.trim_end() != "off")
}

/// A socket that receives uevents. The kernel sends none to a network namespace of an unprivileged user.
fn uevents() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the address is valid for its length; it is all zeros before its fields are set.
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

/// Opens the kernel's log after its last record.
fn kernel_log(path: &Path) -> io::Result<OwnedFd> {
    let mut log = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match log.seek(SeekFrom::End(0)) {
        // Seeking fails if the log is replaced by a pipe, which holds no old records.
        Err(e) if e.kind() != io::ErrorKind::NotSeekable => Err(e),
        _ => Ok(log.into()),
    }
}

/// A timer that becomes readable when the time of day is set, as after sleep (`timerfd_create(2)`).
fn clock_set() -> io::Result<OwnedFd> {
    let never = libc::timespec { tv_sec: libc::time_t::MAX, tv_nsec: 0 };
    let once = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: never };
    let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
    // SAFETY: the structure is valid for the call. With a null pointer the kernel writes nothing.
    unsafe {
        let fd = owned(libc::timerfd_create(libc::CLOCK_REALTIME, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK))?;
        check(libc::timerfd_settime(fd.as_raw_fd(), flags, &raw const once, std::ptr::null_mut()))?;
        Ok(fd)
    }
}

/// Reads one uevent; `None` if it is not from the kernel.
fn read_uevent<'a>(fd: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
    // SAFETY: buffer and address are valid for the given lengths.
    let (len, sender) = unsafe {
        let mut sender: libc::sockaddr_nl = std::mem::zeroed();
        let mut room = size_of::<libc::sockaddr_nl>() as u32;
        let (bytes, address) = (buffer.as_mut_ptr().cast(), (&raw mut sender).cast());
        let len = libc::recvfrom(fd.as_raw_fd(), bytes, buffer.len(), 0, address, &raw mut room);
        (check_len(len)?, sender)
    };
    Ok((sender.nl_pid == 0).then_some(&buffer[..len]))
}

/// The sources that report interruptions. All are opened before the sandbox takes effect.
pub(crate) struct Interruptions {
    uevents: Option<OwnedFd>,
    kernel_log: Option<OwnedFd>,
    clock_set: Option<OwnedFd>,
    /// `None` if sleep does not end sessions.
    sleep: Option<Sleep>,
}

impl Interruptions {
    /// The number of entries of `pollfds`.
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

    /// The entries for poll(2). A missing source has an entry that poll(2) ignores.
    pub(crate) fn pollfds(&self) -> [libc::pollfd; Self::FDS] {
        [&self.uevents, &self.kernel_log, &self.clock_set].map(|fd| {
            fd.as_ref().map_or(libc::pollfd { fd: -1, events: 0, revents: 0 }, |fd| pollfd(fd, libc::POLLIN))
        })
    }

    /// The interruptions since the last call. `ready` is the result of `pollfds` after poll(2).
    pub(crate) fn seen(&mut self, ready: &[libc::pollfd], buffer: &mut [u8]) -> Vec<Interruption> {
        let is_ready = |at: usize| ready[at].revents != 0;
        let of_uevent = self.uevents.as_ref().is_some_and(|fd| is_ready(0) && uevents_report(fd, buffer));
        let of_log = self.kernel_log.as_ref().is_some_and(|fd| is_ready(1) && log_reports(fd, buffer));
        if let Some(clock_set) = self.clock_set.as_ref().filter(|_| is_ready(2)) {
            // The read fails with ECANCELED, once for each change of the clock.
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

/// Reads all uevents. Returns whether one reports a new generation ID, or may have been lost for lack of room.
fn uevents_report(fd: &OwnedFd, buffer: &mut [u8]) -> bool {
    let mut reported = false;
    loop {
        match read_uevent(fd, buffer) {
            Ok(uevent) => reported |= uevent.is_some_and(is_new_id),
            Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => reported = true,
            Err(_) => return reported,
        }
    }
}

/// Reads all records. Returns whether one reports a new generation ID, or may have been overwritten (EPIPE).
fn log_reports(fd: &OwnedFd, buffer: &mut [u8]) -> bool {
    let mut reported = false;
    loop {
        match sys::read(fd, buffer) {
            Ok(0) => return reported,
            Ok(len) => reported |= buffer[..len].split(|&byte| byte == b'\n').any(reports_fork),
            Err(e) if e.raw_os_error() == Some(libc::EPIPE) => reported = true,
            Err(_) => return reported,
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
    fn any_sleep_is_reported_once() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
        assert!(!sleep.has_passed(&reading(9_000_000_000, 0, (30, 30))));
        for slept in [LEAST_SLEEP_NS + 100, 5_000_000_000, 86_400_000_000_000] {
            assert!(sleep.has_passed(&reading(9_000_100_000, slept, (30, 30))), "{slept}");
            assert!(!sleep.has_passed(&reading(9_000_200_000, slept, (30, 30))), "{slept}");
        }
    }

    #[test]
    fn a_pause_between_clock_readings_is_no_sleep() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
        for pauses in [(5_000_000_000, 30), (30, 5_000_000_000), (5_000_000_000, 5_000_000_000), (30, 30)] {
            assert!(!sleep.has_passed(&reading(2_000, 0, pauses)), "{pauses:?}");
        }
    }

    #[test]
    fn a_slow_first_reading_hides_sleep_until_the_next_one_only() {
        let mut sleep = Sleep::new(&reading(1_000, 0, (5_000_000_000, 30)));
        assert!(!sleep.has_passed(&reading(6_000_000_000, 0, (30, 30))));
        assert!(sleep.has_passed(&reading(7_000_000_000, 2_000_000_000, (30, 30))));
    }

    #[test]
    fn sleep_during_a_reading_is_reported_by_the_next_one() {
        let slept = 5_000_000_000;
        for boot in [0, slept] {
            let mut sleep = Sleep::new(&reading(1_000, 0, (30, 30)));
            let seen = sleep.has_passed(&reading(2_000, boot, (30, 30)));
            assert_ne!(seen, sleep.has_passed(&reading(3_000, slept, (30, 30))));
        }
    }

    #[test]
    fn autosleep_is_read_from_sysfs() {
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
    fn only_a_generation_id_uevent_is_recognised() {
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
    fn only_a_record_of_the_kernel_is_recognised() {
        let text = "random: crng reseeded due to virtual machine fork";
        for prefix in ["5,300,1269598,-", "5,300,1269598,-,caller=T1", "0,1,2,c"] {
            assert!(reports_fork(format!("{prefix};{text}").as_bytes()), "{prefix}");
        }
        for prefix in ["13,300,1269598,-", "8,1,2,-", "-5,1,2,-", "", "x,1"] {
            assert!(!reports_fork(format!("{prefix};{text}").as_bytes()), "{prefix}");
        }
        for record in [text, "", ";", "5,1,2,-", "5,1,2,-;random: crng init done", " SUBSYSTEM=acpi"] {
            assert!(!reports_fork(record.as_bytes()), "{record}");
        }
        assert!(!reports_fork(format!("5,1,2,-;{text} or so").as_bytes()));
    }
}
