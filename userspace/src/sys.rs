//! Safe wrappers for the Linux system calls that the standard library lacks.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::time::Duration;

use libc::{c_int, c_void};

/// Turns the -1 of a system call into the error that errno holds.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Turns the -1 of a call that counts bytes into the error that errno holds.
pub fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Takes ownership of a descriptor that a system call has just returned.
pub fn owned(result: c_int) -> io::Result<OwnedFd> {
    let fd = check(result)?;
    // SAFETY: the kernel has just given us this descriptor, and nothing else holds it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// An error carrying this errno.
pub fn errno(code: i32) -> io::Error {
    io::Error::from_raw_os_error(code)
}

/// Connects to a listening socket. Fails with `WouldBlock` if its queue stays full for the whole time.
pub(crate) fn connect_within(timeout: Duration, path: &Path) -> io::Result<UnixStream> {
    let mut address =
        libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
    let name = path.as_os_str().as_bytes();
    if name.len() >= address.sun_path.len() {
        return Err(errno(libc::ENAMETOOLONG));
    }
    for (place, byte) in address.sun_path.iter_mut().zip(name) {
        *place = *byte as libc::c_char;
    }
    // SAFETY: plain call, no pointers.
    let stream = UnixStream::from(owned(unsafe {
        libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
    })?);
    stream.set_write_timeout(Some(timeout))?; // which also bounds connect(2), see unix(7)
    let length = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is valid for its whole length, and its path ends with a zero.
    check(unsafe { libc::connect(stream.as_raw_fd(), (&raw const address).cast(), length) })?;
    Ok(stream)
}

/// The limit of open descriptors of this process.
pub(crate) fn descriptor_limit() -> io::Result<usize> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid place for the result.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    Ok(limit.rlim_cur as usize)
}

/// Milliseconds of `CLOCK_BOOTTIME`, which includes the time asleep, as the kernel's `ktime_get_coarse_boottime` does.
pub fn now_ms() -> u64 {
    let now = clock(libc::CLOCK_BOOTTIME);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Nanoseconds of a clock.
pub(crate) fn clock_ns(which: libc::clockid_t) -> i64 {
    let now = clock(which);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

#[inline]
fn clock(which: libc::clockid_t) -> libc::timespec {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the result.
    unsafe { libc::clock_gettime(which, &raw mut now) };
    now
}

/// Cryptographically random bytes from the kernel.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("getrandom(2) cannot fail once the kernel is seeded");
    bytes
}

/// An eventfd that wakes a thread from `poll`.
#[derive(Debug)]
pub struct Waker(OwnedFd);

impl Waker {
    pub fn new() -> io::Result<Self> {
        // SAFETY: plain call, no pointers.
        owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }).map(Self)
    }

    pub fn wake(&self) {
        let one = 1u64;
        // SAFETY: writes the eight bytes of `one`; a full counter (EAGAIN) has already woken the reader.
        unsafe { libc::write(self.0.as_raw_fd(), (&raw const one).cast(), 8) };
    }

    pub(crate) fn clear(&self) {
        let mut count = 0u64;
        // SAFETY: reads at most the eight bytes of `count`.
        unsafe { libc::read(self.0.as_raw_fd(), (&raw mut count).cast(), 8) };
    }
}

impl AsRawFd for Waker {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

/// An entry for `poll`.
pub fn pollfd(fd: &impl AsRawFd, events: i16) -> libc::pollfd {
    libc::pollfd { fd: fd.as_raw_fd(), events, revents: 0 }
}

/// Waits until a descriptor is ready or the time has passed.
pub fn poll(fds: &mut [libc::pollfd], timeout: Option<Duration>) -> io::Result<()> {
    // The time is rounded up, so that a timer due in half a millisecond does not spin.
    let ms = timeout.map_or(-1, |t| t.as_micros().div_ceil(1000).min(i32::MAX as u128) as c_int);
    // SAFETY: the slice is valid for its length.
    match check(unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, ms) }) {
        Err(e) if e.kind() == io::ErrorKind::Interrupted => {
            fds.iter_mut().for_each(|f| f.revents = 0);
            Ok(())
        }
        result => result.map(drop),
    }
}

pub fn read(fd: &impl AsRawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for its length.
    check_len(unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast::<c_void>(), buffer.len()) })
}

/// Sets a socket option of a plain type.
pub fn setsockopt<T: Copy>(fd: &impl AsRawFd, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: the pointer and the size both describe `value`.
    check(unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// A nonblocking UDP socket.
pub(crate) fn udp_socket(family: c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain call, no pointers.
    owned(unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) })
}

/// A socket for ioctls about links, of a family that the host supports.
pub fn ioctl_socket() -> io::Result<OwnedFd> {
    udp_socket(libc::AF_INET).or_else(|_| udp_socket(libc::AF_INET6))
}

/// Gives a local socket an abstract name that the kernel chooses (unix(7), "Autobind feature").
pub(crate) fn autobind(socket: &UnixDatagram) -> io::Result<()> {
    let family = libc::AF_UNIX as libc::sa_family_t;
    let length = mem::size_of_val(&family) as libc::socklen_t;
    // SAFETY: the address consists of the family only.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const family).cast(), length) }).map(drop)
}

/// A request about an interface, as in `netdevice(7)`.
pub fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` of zeros is a valid one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request
}

/// The index of an interface, or zero if no interface has the name. `if_nametoindex` is not used, because it opens a Unix
/// socket, which the system call filter forbids.
pub fn interface_index(name: &str) -> u32 {
    if name.len() >= libc::IFNAMSIZ {
        return 0;
    }
    let mut request = interface_request(name);
    let asked = ioctl_socket().and_then(|socket| {
        // SAFETY: the structure is the one that this request takes.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut request) })
    });
    // SAFETY: the kernel has filled in the number.
    asked.map_or(0, |_| unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}
