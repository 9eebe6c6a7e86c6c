//! Starts the daemon: opens everything, enters the sandbox and starts the threads.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use crate::capabilities::{CAP_NET_ADMIN, keep_capabilities};
use crate::control::{self, Control, End};
use crate::device::Device;
use crate::features;
use crate::inbound::Inbound;
use crate::interruption::Interruptions;
use crate::lifecycle;
use crate::log::{self, Level};
use crate::outbound::Outbound;
use crate::sandbox;
use crate::sys::check;
use crate::tun::{DEFAULT_MTU, Link, Tun};
use crate::uapi::server::{DIRECTORY, Server};
use crate::udp::binder::Binder;
use crate::udp::icmp;
use crate::work::Work;

/// The stack size of a data thread. Its buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

fn level(verbose: bool) -> Level {
    let named = std::env::var("LOG_LEVEL").ok().and_then(|text| Level::parse(&text));
    if verbose { Level::Verbose } else { named.unwrap_or(Level::Error) }
}

/// Runs the daemon in the foreground or in the background.
pub fn run(interface: &str, foreground: bool, verbose: bool) -> ExitCode {
    let level = level(verbose);
    let foreground = foreground || std::env::var_os("WG_PROCESS_FOREGROUND").is_some_and(|v| v == "1");
    if foreground {
        return serve(interface, level, None);
    }
    match fork() {
        Ok(Side::Parent(pipe)) => wait(interface, pipe),
        Ok(Side::Child(caller)) => serve(interface, level, Some(caller)),
        Err(e) => fail(interface, &e),
    }
}

const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

enum Side {
    Parent(UnixStream),
    Child(Caller),
}

/// The daemon's connection to its caller until it is in the background.
struct Caller {
    pipe: UnixStream,
    /// Replaces the caller's standard streams. It is opened early, because the sandbox forbids opening files.
    null: File,
}

/// Forks the daemon. It gets its own session, so that it receives no signals sent to the caller's process group, and
/// it closes the caller's open files.
fn fork() -> io::Result<Side> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: the process has one thread so far.
    if check(unsafe { libc::fork() })? > 0 {
        return Ok(Side::Parent(ours));
    }
    // SAFETY: plain call; a newly forked child is not a group leader.
    check(unsafe { libc::setsid() })?;
    std::env::set_current_dir("/")?;
    drop(ours);
    close_all_but(theirs.as_raw_fd());
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok(Side::Child(Caller { pipe: theirs, null }))
}

/// Closes all descriptors except the standard streams and `kept`. Otherwise a lock or a pipe of the caller would be held
/// for the life of the tunnel.
fn close_all_but(kept: RawFd) {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|&fd| fd > libc::STDERR_FILENO && fd != kept) {
        // SAFETY: this new process owns no descriptor except `kept`; the directory's is closed already.
        unsafe { libc::close(fd) };
    }
}

/// Waits for the daemon's message: "ready", or the reason why it failed.
fn wait(interface: &str, mut pipe: UnixStream) -> ExitCode {
    let mut message = String::new();
    match pipe.read_to_string(&mut message) {
        Ok(_) if message == READY => ExitCode::SUCCESS,
        Ok(_) if message.is_empty() => fail(interface, &io::Error::other("the daemon ended unexpectedly")),
        Ok(_) => fail(interface, &io::Error::other(message)),
        Err(e) => fail(interface, &e),
    }
}

const READY: &str = "ready";

fn fail(interface: &str, error: &io::Error) -> ExitCode {
    log::to_stderr(format_args!("cannot create {interface}: {error}"));
    ExitCode::FAILURE
}

fn serve(interface: &str, level: Level, caller: Option<Caller>) -> ExitCode {
    log::start(level, interface, caller.is_none());
    let started = prepare(interface).and_then(|control| start_threads(&control).map(|()| control));
    let control = match (started, caller) {
        (Ok(control), None) => {
            confine(&control);
            control
        }
        (Ok(control), Some(caller)) => {
            if let Err(e) = leave(caller, &control) {
                log::error(format_args!("cannot enter the background: {e}"));
                return ExitCode::FAILURE;
            }
            control
        }
        (Err(e), Some(mut caller)) => {
            let _ = caller.pipe.write_all(explain(&e).as_bytes());
            return ExitCode::FAILURE;
        }
        (Err(e), None) => return fail(interface, &io::Error::other(explain(&e))),
    };
    work(control)
}

/// The error message, with a hint where the cause is known.
fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another process holds this interface".to_owned(),
        Some(libc::EPERM) => format!("{error}: CAP_NET_ADMIN is needed"),
        Some(libc::EINVAL) => {
            format!("{error}: an interface of this name exists and is not a TUN device")
        }
        _ => error.to_string(),
    }
}

/// Confines all threads and logs the features of the kernel.
fn confine(control: &Control) {
    sandbox::confine(Some(&control.server.path));
    match features::at_start(&control.device.tun) {
        Ok(features) => log::notice(format_args!("{features}")),
        Err(e) => log::error(format_args!("cannot read the features of this kernel: {e}")),
    }
}

/// Enters the background and lets the caller continue, once everything is open.
fn leave(mut caller: Caller, control: &Control) -> io::Result<()> {
    detach_streams(&caller.null)?;
    confine(control);
    caller.pipe.write_all(READY.as_bytes())
}

/// Redirects the standard streams to /dev/null, because the caller may be waiting for them to close.
fn detach_streams(null: &File) -> io::Result<()> {
    for stream in 0..3 {
        // SAFETY: plain call.
        check(unsafe { libc::dup2(null.as_raw_fd(), stream) })?;
    }
    Ok(())
}

/// Opens everything. Afterwards the link exists, and the socket answers once the control thread runs.
fn prepare(interface: &str) -> io::Result<Control> {
    let signals = control::signals()?;
    let netlink = control::netlink()?;
    let interruptions = Interruptions::new();
    let icmp_errors = icmp::Listener::open();
    let server = Server::new(interface)?;
    let opened = open_free_device(interface);
    if opened.is_err() {
        server.remove();
    }
    let device = Arc::new(opened?);
    // The user's inotify instances may be used up (the default limit is 128 per user).
    let watch = control::watch(Path::new(DIRECTORY)).ok();
    // The link may have been up before the netlink socket was open.
    lifecycle::sync_link(&device);
    let (work, next_look) = (Work::new(device.clone()), None);
    Ok(Control { device, server, signals, netlink, watch, icmp_errors, interruptions, work, next_look })
}

/// Opens the device. If it is busy, retries for half a second: the device of a killed daemon closes a moment later.
fn open_free_device(interface: &str) -> io::Result<Device> {
    for _ in 0..BUSY_TRIES {
        match open_device(interface) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(BUSY_PAUSE),
            opened => return opened,
        }
    }
    open_device(interface)
}

fn open_device(interface: &str) -> io::Result<Device> {
    let (tun, name) = Tun::open(interface)?;
    let link = Link::new(&name)?;
    link.set_mtu(DEFAULT_MTU)?;
    sandbox::prepare(Path::new(DIRECTORY));
    let binder = Binder::start(STACK_BYTES)?;
    keep_capabilities(&[CAP_NET_ADMIN])?;
    Device::new(name, tun, link, binder)
}

/// Starts both data threads and waits until they run, because the filter forbids the system calls of thread start-up.
fn start_threads(control: &Control) -> io::Result<()> {
    let started = Arc::new(Barrier::new(3));
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        let started = started.clone();
        let run = move || {
            started.wait();
            body();
        };
        thread::Builder::new().name(name.to_owned()).stack_size(STACK_BYTES).spawn(run).map(drop)
    };
    let (outbound, inbound) = (Outbound::new(control.device.clone()), Inbound::new(control.device.clone()));
    spawn("tun-to-udp", Box::new(|| outbound.run()))?;
    spawn("udp-to-tun", Box::new(|| inbound.run()))?;
    started.wait();
    sandbox::lock_memory_within_limit();
    Ok(())
}

fn work(mut control: Control) -> ExitCode {
    let end = control.run();
    log::verbose(format_args!("ending: {end:?}"));
    // The port is free before the control socket disappears: a caller may wait for that and then reuse the port.
    control.device.close_sockets();
    // The drop removes the control socket. The link disappears with the process.
    drop(control);
    match end {
        End::Signal | End::LinkGone | End::SocketGone => ExitCode::SUCCESS,
    }
}
