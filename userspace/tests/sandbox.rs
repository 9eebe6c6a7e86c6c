//! Tests the sandbox from inside: everything that it must refuse, and everything that the daemon needs.
//!
//! Each probe runs in its own child process, as root with every capability, so that only the sandbox can refuse it. A probe
//! that is refused inside must work outside, or fail there with another error: otherwise the sandbox is not the cause.

use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::mem::{size_of_val, zeroed};
use std::net::TcpListener;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::ptr::null_mut;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use libc::{EACCES, EPERM, c_int, c_long, c_void};
use wgq_userspace::diagnostics::Icmp;
use wgq_userspace::sandbox::{
    self, files, filter,
    sealed_path::{SYS_MSEAL, SealedPath},
};
use wgq_userspace::sys::{self, Waker, check, owned};
use wgq_userspace::udp::{self, Endpoint, Sockets, send};

/// Which part of the sandbox a child is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Inside {
    Nothing,
    Landlock,
    Filter,
    Both,
}

/// The objects that a probe uses, created before it is confined.
struct Place {
    /// In place of /run/wireguard.
    directory: PathBuf,
    socket: SealedPath,
    /// A file of root in another directory.
    file: PathBuf,
    /// A process of root that receives signals.
    victim: i32,
    tcp: OwnedFd,
    tcp_port: u16,
    local: UnixDatagram,
    abstract_name: SocketAddr,
    netlink: OwnedFd,
    icmp: OwnedFd,
    icmp_errors: udp::icmp::Listener,
    waker: Waker,
    page: *mut c_void,
}

type Probe = fn(&Place) -> io::Result<()>;

const PAGE: usize = 4096;
const DATA: c_int = libc::PROT_READ | libc::PROT_WRITE;

fn text(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap()
}

fn call(number: c_long, arguments: [usize; 6]) -> io::Result<()> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the probes pass valid pointers, or ones that the kernel refuses to follow.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn map(protection: c_int, flags: c_int) -> io::Result<*mut c_void> {
    // SAFETY: a new mapping, or the one page that the probe has for this.
    let page = unsafe { libc::mmap(null_mut(), PAGE, protection, flags | libc::MAP_ANONYMOUS, -1, 0) };
    if page == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(page) }
}

fn socket(family: c_int, kind: c_int, protocol: c_int) -> io::Result<OwnedFd> {
    // SAFETY: plain call.
    owned(unsafe { libc::socket(family, kind, protocol) })
}

fn loopback(port: u16) -> libc::sockaddr_in {
    // SAFETY: all zeros are a valid address structure.
    let mut address: libc::sockaddr_in = unsafe { zeroed() };
    address.sin_family = libc::AF_INET as u16;
    address.sin_port = port.to_be();
    address.sin_addr.s_addr = u32::from_ne_bytes([127, 0, 0, 1]);
    address
}

/// Connects a TCP socket that was open before, as `connect` does and as `MSG_FASTOPEN` does without it.
fn fast_open(place: &Place, number: c_long) -> io::Result<()> {
    let address = loopback(place.tcp_port);
    let mut piece = libc::iovec { iov_base: c"x".as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: all zeros are a valid header.
    let mut header: libc::mmsghdr = unsafe { zeroed() };
    header.msg_hdr.msg_name = (&raw const address).cast_mut().cast();
    header.msg_hdr.msg_namelen = size_of_val(&address) as u32;
    header.msg_hdr.msg_iov = &raw mut piece;
    header.msg_hdr.msg_iovlen = 1;
    let (fd, message) = (place.tcp.as_raw_fd() as usize, &raw mut header as usize);
    let flags = libc::MSG_FASTOPEN as usize;
    match number {
        libc::SYS_sendto => {
            let name = [&raw const address as usize, size_of_val(&address)];
            call(number, [fd, piece.iov_base as usize, 1, flags, name[0], name[1]])
        }
        libc::SYS_sendmsg => call(number, [fd, message, flags, 0, 0, 0]),
        _ => call(number, [fd, message, 1, flags, 0, 0]),
    }
}

fn option(level: c_int, name: c_int) -> io::Result<()> {
    let socket = socket(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    sys::setsockopt(&socket, level, name, 0)
}

/// The calls that the filter refuses with EPERM.
const REFUSED_BY_FILTER: &[(&str, Probe)] = &[
    ("unlink any file", |place| {
        let path = text(&place.file);
        call(libc::SYS_unlinkat, [libc::AT_FDCWD as usize, path.as_ptr() as usize, 0, 0, 0, 0])
    }),
    ("remove a directory at the socket's path", |place| {
        call(
            libc::SYS_unlinkat,
            [libc::AT_FDCWD as usize, place.socket.address(), libc::AT_REMOVEDIR as usize, 0, 0, 0],
        )
    }),
    ("read the status of any file", |place| fs::metadata(&place.file).map(drop)),
    ("read a file", |place| fs::File::open(&place.file).map(drop)),
    ("make a file", |place| fs::write(place.directory.join("new"), "")),
    ("make a directory", |place| fs::create_dir(place.directory.join("new"))),
    ("rename a file", |place| fs::rename(&place.file, place.directory.join("new"))),
    ("link a file", |place| fs::hard_link(&place.file, place.directory.join("new"))),
    ("kill another process with tgkill", |place| {
        call(
            libc::SYS_tgkill,
            [place.victim as usize, place.victim as usize, libc::SIGKILL as usize, 0, 0, 0],
        )
    }),
    ("kill another process with tkill", |place| {
        call(libc::SYS_tkill, [place.victim as usize, libc::SIGKILL as usize, 0, 0, 0, 0])
    }),
    ("kill another process", |place| {
        call(libc::SYS_kill, [place.victim as usize, libc::SIGKILL as usize, 0, 0, 0, 0])
    }),
    ("open a descriptor of another process", |place| {
        call(libc::SYS_pidfd_open, [place.victim as usize, 0, 0, 0, 0, 0])
    }),
    ("map executable memory", |_| map(libc::PROT_READ | libc::PROT_EXEC, libc::MAP_PRIVATE).map(drop)),
    ("map shared memory", |_| map(DATA, libc::MAP_SHARED).map(drop)),
    ("map over other memory", |place| {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        call(libc::SYS_mmap, [place.page as usize, PAGE, DATA as usize, flags as usize, usize::MAX, 0])
    }),
    ("make memory executable", |place| {
        // SAFETY: the probe's own page.
        check(unsafe { libc::mprotect(place.page, PAGE, libc::PROT_READ | libc::PROT_EXEC) }).map(drop)
    }),
    ("make memory executable with a key", |place| {
        let protection = libc::PROT_READ | libc::PROT_EXEC;
        call(libc::SYS_pkey_mprotect, [place.page as usize, PAGE, protection as usize, usize::MAX, 0, 0])
    }),
    ("move memory over other memory", |place| {
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let place = place.page as usize;
        call(libc::SYS_mremap, [place, PAGE, PAGE, flags as usize, place + PAGE, 0])
    }),
    ("make a file in memory", |_| call(libc::SYS_memfd_create, [c"x".as_ptr() as usize, 0, 0, 0, 0, 0])),
    ("get System V shared memory", |_| call(libc::SYS_shmget, [0, PAGE, 0o600, 0, 0, 0])),
    ("make a TCP socket", |_| socket(libc::AF_INET, libc::SOCK_STREAM, 0).map(drop)),
    ("make a TCP socket for IPv6", |_| socket(libc::AF_INET6, libc::SOCK_STREAM, 0).map(drop)),
    ("make a raw socket", |_| socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop)),
    ("make a socket for UDP-Lite", |_| socket(libc::AF_INET, libc::SOCK_DGRAM, 136).map(drop)),
    ("make a packet socket", |_| socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0).map(drop)),
    ("make a local socket", |_| socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0).map(drop)),
    ("make a netlink socket", |_| socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE).map(drop)),
    ("connect by sendto and MSG_FASTOPEN", |place| fast_open(place, libc::SYS_sendto)),
    ("connect by sendmsg and MSG_FASTOPEN", |place| fast_open(place, libc::SYS_sendmsg)),
    ("connect by sendmmsg and MSG_FASTOPEN", |place| fast_open(place, libc::SYS_sendmmsg)),
    ("connect", |place| {
        let address = loopback(place.tcp_port);
        let name = [&raw const address as usize, size_of_val(&address)];
        call(libc::SYS_connect, [place.tcp.as_raw_fd() as usize, name[0], name[1], 0, 0, 0])
    }),
    ("listen", |place| call(libc::SYS_listen, [place.tcp.as_raw_fd() as usize, 1, 0, 0, 0, 0])),
    ("bind a local socket to a path", |place| {
        let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as u16, sun_path: [0; 108] };
        let path = text(&place.directory.join("new"));
        for (to, from) in address.sun_path.iter_mut().zip(path.as_bytes()) {
            *to = *from as libc::c_char;
        }
        let name = [&raw const address as usize, size_of_val(&address)];
        call(libc::SYS_bind, [place.local.as_raw_fd() as usize, name[0], name[1], 0, 0, 0])
    }),
    ("set another option of a socket", |_| option(libc::SOL_SOCKET, libc::SO_BROADCAST)),
    ("set an option's number on another level", |_| option(libc::IPPROTO_IP, libc::IP_TTL)),
    ("receive all ICMP messages", |place| sys::setsockopt(&place.icmp, libc::SOL_RAW, 1, 0_u32)),
    ("write IP headers", |place| sys::setsockopt(&place.icmp, libc::IPPROTO_IP, libc::IP_HDRINCL, 1)),
    ("change the MTU of a link", |_| {
        let mut request = sys::interface_request("lo");
        let socket = sys::ioctl_socket()?;
        let fd = socket.as_raw_fd() as usize;
        call(libc::SYS_ioctl, [fd, libc::SIOCGIFMTU as usize, &raw mut request as usize, 0, 0, 0])?;
        call(libc::SYS_ioctl, [fd, libc::SIOCSIFMTU as usize, &raw mut request as usize, 0, 0, 0])
    }),
    ("send the signals of a descriptor to another process", |place| {
        let fd = place.tcp.as_raw_fd() as usize;
        call(libc::SYS_fcntl, [fd, libc::F_SETOWN as usize, place.victim as usize, 0, 0, 0])
    }),
    ("run a program", |_| call(libc::SYS_execve, [c"/nowhere".as_ptr() as usize, 0, 0, 0, 0, 0])),
    ("read the processors of another process", |place| {
        let mut set = [0u8; 128];
        call(libc::SYS_sched_getaffinity, [place.victim as usize, 128, set.as_mut_ptr() as usize, 0, 0, 0])
    }),
    ("trace another process", |place| {
        call(libc::SYS_ptrace, [libc::PTRACE_SEIZE as usize, place.victim as usize, 0, 0, 0, 0])
    }),
    ("read the memory of another process", |place| {
        call(libc::SYS_process_vm_readv, [place.victim as usize, 0, 0, 0, 0, 0])
    }),
    ("write the memory of another process", |place| {
        call(libc::SYS_process_vm_writev, [place.victim as usize, 0, 0, 0, 0, 0])
    }),
    ("change the limits of another process", |place| {
        call(libc::SYS_prlimit64, [place.victim as usize, 0, 0, 0, 0, 0])
    }),
    ("start a process", |_| {
        // No stack: without the filter, the kernel refuses the flags, which contradict each other.
        call(libc::SYS_clone, [(libc::CLONE_SIGHAND | libc::CLONE_THREAD) as usize, 0, 0, 0, 0, 0])
    }),
    ("start a process with clone3", |_| call(libc::SYS_clone3, [0; 6])),
    ("leave a namespace", |_| call(libc::SYS_unshare, [0; 6])),
    ("enter a namespace", |_| call(libc::SYS_setns, [usize::MAX, 0, 0, 0, 0, 0])),
    ("mount", |_| call(libc::SYS_mount, [0, c"/nowhere".as_ptr() as usize, 0, 0, 0, 0])),
    ("change the root", |_| call(libc::SYS_chroot, [c"/nowhere".as_ptr() as usize, 0, 0, 0, 0, 0])),
    ("become another user", |_| call(libc::SYS_setuid, [0; 6])),
    ("change its capabilities", |_| call(libc::SYS_capset, [0; 6])),
    ("change itself", |_| call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE as usize, 1, 0, 0, 0, 0])),
    ("use io_uring", |_| call(libc::SYS_io_uring_enter, [usize::MAX, 0, 0, 0, 0, 0])),
    ("load a program into the kernel", |_| call(libc::SYS_bpf, [usize::MAX, 0, 0, 0, 0, 0])),
    ("load a module", |_| call(libc::SYS_finit_module, [usize::MAX, c"".as_ptr() as usize, 0, 0, 0, 0])),
    ("use the keys of the kernel", |_| call(libc::SYS_keyctl, [usize::MAX, 0, 0, 0, 0, 0])),
    ("send a descriptor's content elsewhere", |_| {
        call(libc::SYS_splice, [usize::MAX, 0, usize::MAX, 0, 1, 0])
    }),
];

/// The actions that Landlock refuses without the filter, with its first version that refuses each, and the error.
const REFUSED_BY_LANDLOCK: &[(&str, u32, i32, Probe)] = &[
    ("read a file", 1, EACCES, |place| fs::File::open(&place.file).map(drop)),
    ("write a file", 1, EACCES, |place| fs::File::options().append(true).open(&place.file).map(drop)),
    ("list a directory", 1, EACCES, |place| fs::read_dir(&place.directory).map(drop)),
    ("unlink a file elsewhere", 1, EACCES, |place| fs::remove_file(&place.file)),
    ("make a file beside the socket", 1, EACCES, |place| fs::write(place.directory.join("new"), "")),
    ("make a directory beside the socket", 1, EACCES, |place| fs::create_dir(place.directory.join("new"))),
    ("make a socket beside the socket", 1, EACCES, |place| {
        UnixDatagram::bind(place.directory.join("new")).map(drop)
    }),
    ("run a program", 1, EACCES, |_| {
        let mut command = std::process::Command::new("/bin/true");
        command.status().map(drop)
    }),
    ("truncate a file", 3, EACCES, |place| {
        call(libc::SYS_truncate, [text(&place.file).as_ptr() as usize, 0, 0, 0, 0, 0])
    }),
    ("connect a TCP socket", 4, EACCES, |place| {
        std::net::TcpStream::connect(("127.0.0.1", place.tcp_port)).map(drop)
    }),
    ("bind a TCP socket", 4, EACCES, |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("kill another process", 6, EPERM, |place| {
        call(libc::SYS_kill, [place.victim as usize, libc::SIGKILL as usize, 0, 0, 0, 0])
    }),
    ("connect to the abstract socket of another process", 6, EPERM, |place| {
        UnixStream::connect_addr(&place.abstract_name).map(drop)
    }),
];

fn send_and_receive() -> io::Result<()> {
    let (left, right) = (Sockets::bind(0, 0)?, Sockets::bind(0, 7)?);
    let endpoint = Endpoint::new(([127, 0, 0, 1], right.port).into());
    send::send_one(&left, b"packet", &endpoint, 0x88)?;
    let mut receiver = udp::receive::Receiver::default();
    let socket = right.v4.as_ref().unwrap();
    sys::poll(&mut [sys::pollfd(socket, libc::POLLIN)], None)?;
    let count = receiver.receive(socket)?;
    assert!(count == 1 && receiver.arrival(0).is_some_and(|arrival| arrival.len == 6));
    right.set_fwmark(9)
}

/// Receives the kernel's ICMP errors about ports that no program uses.
fn receive_errors(place: &Place) -> io::Result<()> {
    let sockets = Sockets::bind(0, 0)?;
    for closed in ["127.0.0.1:7", "[::1]:7"].map(|text| text.parse().unwrap()) {
        send::send_one(&sockets, b"packet", &Endpoint::new(closed), 0)?;
        let mut waiting = place.icmp_errors.pollfds();
        sys::poll(&mut waiting, Some(Duration::from_secs(60)))?;
        let errors = place.icmp_errors.read();
        let about = errors.iter().map(|error| (error.kind, error.port, error.destination));
        assert!(about.eq([(Icmp::PortUnreachable, sockets.port, closed)]), "{errors:?}");
    }
    Ok(())
}

fn query_links(place: &Place) -> io::Result<()> {
    // RTM_GETLINK for the link of index 1.
    let mut request = [0u8; 32];
    request[0] = 32;
    request[4] = libc::RTM_GETLINK as u8;
    request[6] = libc::NLM_F_REQUEST as u8;
    request[20] = 1;
    let fd = place.netlink.as_raw_fd();
    // SAFETY: the bytes are valid for their length.
    sys::check_len(unsafe { libc::send(fd, request.as_ptr().cast(), request.len(), 0) })?;
    sys::read(&place.netlink, &mut [0; 8192]).map(drop)
}

/// The calls that the daemon needs in the full sandbox.
const WORKS: &[(&str, Probe)] = &[
    ("bind, send and receive UDP", |_| send_and_receive()),
    ("receive ICMP errors", receive_errors),
    ("read the status of the socket's path", |place| place.socket.inode().map(drop)),
    ("remove the socket", |place| place.socket.unlink()),
    ("find a link by its name", |_| {
        if sys::interface_index("lo") == 1 { Ok(()) } else { Err(sys::errno(libc::ENODEV)) }
    }),
    ("probe segmentation by the kernel", |_| udp::can_segment().map(drop)),
    ("query links", query_links),
    ("allocate and free large and small blocks", |_| {
        let mut large = vec![1u8; 64 << 20];
        large.resize(128 << 20, 2);
        let small: Vec<_> = (0..10_000).map(|len| vec![3u8; len % 512]).collect();
        drop((large, small));
        Ok(())
    }),
    ("wait", |_| {
        thread::sleep(Duration::from_millis(1));
        Ok(())
    }),
    ("get random bytes", |_| {
        let _: [u8; 32] = sys::random();
        Ok(())
    }),
    ("duplicate a socket", |place| place.tcp.try_clone().map(drop)),
    ("wake a thread", |place| {
        place.waker.wake();
        sys::poll(&mut [sys::pollfd(&place.waker, libc::POLLIN)], None)
    }),
];

/// The version of the kernel's Landlock, which determines what it refuses.
fn landlock_version() -> u32 {
    const CREATE_RULESET_VERSION: usize = 1;
    // SAFETY: this request for the version takes no structure.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, 0, 0, CREATE_RULESET_VERSION) };
    u32::try_from(version).unwrap_or(0)
}

/// The objects that all probes share, created once in the parent.
struct Stage {
    root: PathBuf,
    tcp: TcpListener,
    /// With an abstract name.
    listener: UnixListener,
}

impl Stage {
    fn new() -> io::Result<Self> {
        let root = std::env::temp_dir().join(format!("wgq-sandbox-{}", std::process::id()));
        fs::create_dir_all(root.join("wireguard"))?;
        let abstract_name = SocketAddr::from_abstract_name(format!("wgq-sandbox-{}", std::process::id()))?;
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        let listener = UnixListener::bind_addr(&abstract_name)?;
        Ok(Self { root, tcp, listener })
    }

    fn place(&self, victim: i32) -> io::Result<Place> {
        let (directory, file) = (self.root.join("wireguard"), self.root.join("file"));
        for entry in fs::read_dir(&directory)?.flatten() {
            let _ = fs::remove_file(entry.path()).or_else(|_| fs::remove_dir(entry.path()));
        }
        let socket = directory.join("wg0.sock");
        fs::write(&socket, "")?;
        fs::write(&file, "of root's")?;
        // SAFETY: two new pages, and nothing else lies in them.
        let page =
            unsafe { libc::mmap(null_mut(), 2 * PAGE, DATA, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
        Ok(Place {
            socket: SealedPath::new(&socket)?,
            directory,
            file,
            victim,
            tcp: self::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?,
            tcp_port: self.tcp.local_addr()?.port(),
            local: UnixDatagram::unbound()?,
            abstract_name: self.listener.local_addr()?,
            netlink: self::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE)?,
            icmp: self::socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP)?,
            icmp_errors: udp::icmp::Listener::open(),
            waker: Waker::new()?,
            page,
        })
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Runs a function in a child. The result is an errno, or zero on success.
fn in_child(body: impl FnOnce() -> io::Result<()>) -> io::Result<Outcome> {
    // SAFETY: this process has one thread.
    match check(unsafe { libc::fork() })? {
        0 => {
            let code = match body() {
                Ok(()) => 0,
                Err(e) => e.raw_os_error().unwrap_or(UNKNOWN),
            };
            // SAFETY: ends the child without the parent's cleanup.
            unsafe { libc::_exit(code) }
        }
        child => wait(child),
    }
}

/// The result for an error without an errno.
const UNKNOWN: i32 = 255;

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Worked,
    Failed(i32),
    Killed(i32),
}

fn wait(child: i32) -> io::Result<Outcome> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the result.
    check(unsafe { libc::waitpid(child, &raw mut status, 0) })?;
    Ok(match () {
        () if libc::WIFSIGNALED(status) => Outcome::Killed(libc::WTERMSIG(status)),
        () if libc::WEXITSTATUS(status) == 0 => Outcome::Worked,
        () => Outcome::Failed(libc::WEXITSTATUS(status)),
    })
}

/// A process that waits to be killed.
fn victim() -> io::Result<i32> {
    // SAFETY: this process has one thread; the child waits and does nothing else.
    match check(unsafe { libc::fork() })? {
        0 => loop {
            // SAFETY: plain calls: the child waits, and ends with its parent.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::pause();
            }
        },
        child => Ok(child),
    }
}

fn confine(inside: Inside, place: &Place) {
    match inside {
        Inside::Nothing => (),
        Inside::Landlock => drop(files::restrict(&place.directory).expect("this kernel has Landlock")),
        Inside::Filter => {
            // SAFETY: takes only numbers.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            filter::apply(Some(&place.socket)).expect("the kernel takes the filter");
        }
        Inside::Both => {
            sandbox::prepare(&place.directory);
            sandbox::confine(Some(&place.socket));
        }
    }
}

fn run(stage: &Stage, inside: Inside, probe: Probe) -> io::Result<Outcome> {
    let victim = victim()?;
    let outcome = stage.place(victim).and_then(|place| {
        in_child(|| {
            confine(inside, &place);
            probe(&place)
        })
    });
    // SAFETY: the child is ours, and is waited for.
    unsafe { libc::kill(victim, libc::SIGKILL) };
    wait(victim)?;
    outcome
}

/// Collects the failed checks.
#[derive(Default)]
struct Report {
    passed: u32,
    failed: u32,
}

impl Report {
    fn note(&mut self, what: &str, outcome: &io::Result<Outcome>, holds: bool) {
        if holds {
            self.passed += 1;
        } else {
            self.failed += 1;
            let _ = writeln!(io::stderr(), "FAILED: {what}: {outcome:?}");
        }
    }

    fn claim(&mut self, what: &str, outcome: &io::Result<Outcome>, claimed: Outcome) {
        let holds = outcome.as_ref().is_ok_and(|&outcome| outcome == claimed);
        self.note(what, outcome, holds);
    }

    /// Checks that a call is refused inside with one of these errors, and not outside.
    fn refused(&mut self, stage: &Stage, inside: Inside, what: &str, errors: &[i32], probe: Probe) {
        let refused = |outcome: &io::Result<Outcome>| {
            errors.iter().any(|&error| matches!(outcome, Ok(Outcome::Failed(code)) if *code == error))
        };
        let outside = run(stage, Inside::Nothing, probe);
        self.note(&format!("not refused outside: {what}"), &outside, outside.is_ok() && !refused(&outside));
        let outcome = run(stage, inside, probe);
        self.note(&format!("refused by {inside:?}: {what}"), &outcome, refused(&outcome));
    }

    fn works(&mut self, stage: &Stage, what: &str, probe: Probe) {
        for inside in [Inside::Nothing, Inside::Landlock, Inside::Filter, Inside::Both] {
            self.claim(
                &format!("works inside {inside:?}: {what}"),
                &run(stage, inside, probe),
                Outcome::Worked,
            );
        }
    }
}

/// Checks that an existing thread is confined too, and can end.
fn threads(place: &Place) -> io::Result<()> {
    let begun = Arc::new(Barrier::new(2));
    let confined = begun.clone();
    let file = place.file.clone();
    let thread = thread::spawn(move || {
        confined.wait();
        confined.wait();
        fs::metadata(&file).err().and_then(|e| e.raw_os_error())
    });
    begun.wait();
    sandbox::confine(Some(&place.socket));
    begun.wait();
    if thread.join().ok().flatten() == Some(EPERM) { Ok(()) } else { Err(sys::errno(libc::EPROTO)) }
}

/// Checks that the removable path cannot be changed, if the kernel can seal memory.
fn rewrite_the_path(place: &Place) -> io::Result<()> {
    let page = place.socket.address() as *mut c_void;
    // SAFETY: nothing writes to this page, even if it becomes writable.
    check(unsafe { libc::mprotect(page, PAGE, DATA) }).map(drop)
}

fn seals_memory() -> bool {
    // SAFETY: seals nothing.
    unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) == 0 }
}

fn check_all(stage: &Stage) -> Report {
    let mut report = Report::default();
    for &(what, probe) in REFUSED_BY_FILTER {
        report.refused(stage, Inside::Filter, what, &[EPERM], probe);
        report.refused(stage, Inside::Both, what, &[EPERM, EACCES], probe);
    }
    let version = landlock_version();
    for &(what, _, error, probe) in REFUSED_BY_LANDLOCK.iter().filter(|&&(_, since, ..)| since <= version) {
        report.refused(stage, Inside::Landlock, what, &[error], probe);
    }
    if seals_memory() {
        report.claim(
            "the path is sealed",
            &run(stage, Inside::Filter, rewrite_the_path),
            Outcome::Failed(EPERM),
        );
    }
    for &(what, probe) in WORKS {
        report.works(stage, what, probe);
    }
    report.claim("confine confines all threads", &run(stage, Inside::Landlock, threads), Outcome::Worked);
    let abort = run(stage, Inside::Both, |_| std::process::abort());
    report.claim("abort ends the process", &abort, Outcome::Killed(libc::SIGABRT));
    report
}

/// Enters a new network namespace with only a loopback link.
fn leave_the_network() -> io::Result<()> {
    // SAFETY: takes only flags.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
    let mut request = sys::interface_request("lo");
    request.ifr_ifru.ifru_flags = libc::IFF_UP as i16;
    let socket = sys::ioctl_socket()?;
    let fd = socket.as_raw_fd() as usize;
    call(libc::SYS_ioctl, [fd, libc::SIOCSIFFLAGS as usize, &raw mut request as usize, 0, 0, 0])
}

fn main() -> ExitCode {
    leave_the_network().expect("root's privilege to leave its network");
    let stage = Stage::new().expect("a folder for the probes");
    let report = check_all(&stage);
    println!("sandbox (Landlock {}): {} passed, {} failed", landlock_version(), report.passed, report.failed);
    if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
