//! From the command line to a running daemon: everything is opened, then the work begins.

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
use crate::work::Work;

/// The stack of a data thread, whose buffers are on the heap.
const STACK_BYTES: usize = 256 << 10;

fn level(verbose: bool) -> Level {
    let named = std::env::var("LOG_LEVEL").ok().and_then(|text| Level::parse(&text));
    if verbose { Level::Verbose } else { named.unwrap_or(Level::Error) }
}

/// Runs the daemon, here or in the background.
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

/// What ties the daemon to its caller until it is in the background.
struct Caller {
    pipe: UnixStream,
    /// What takes the place of the caller's standard streams: opened at once, as the sandbox opens nothing.
    null: File,
}

/// Makes the daemon: a session of its own, so that no signal to the caller's group reaches it, and nothing of what the
/// caller has open.
fn fork() -> io::Result<Side> {
    let (ours, theirs) = UnixStream::pair()?;
    // SAFETY: there is only this thread yet.
    if check(unsafe { libc::fork() })? > 0 {
        return Ok(Side::Parent(ours));
    }
    // SAFETY: plain call; a child that has just been forked leads no group.
    check(unsafe { libc::setsid() })?;
    std::env::set_current_dir("/")?;
    drop(ours);
    close_all_but(theirs.as_raw_fd());
    let null = File::options().read(true).write(true).open("/dev/null")?;
    Ok(Side::Child(Caller { pipe: theirs, null }))
}

/// Closes what is open besides the standard streams: a caller's lock or pipe would else be held for as long as the tunnel
/// is there.
fn close_all_but(kept: RawFd) {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let open: Vec<RawFd> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in open.into_iter().filter(|&fd| fd > libc::STDERR_FILENO && fd != kept) {
        // SAFETY: this process has just begun and holds none but `kept` itself; the directory's is closed already.
        unsafe { libc::close(fd) };
    }
}

/// Waits for the daemon's word: nothing means that all is well.
fn wait(interface: &str, mut pipe: UnixStream) -> ExitCode {
    let mut word = String::new();
    match pipe.read_to_string(&mut word) {
        Ok(_) if word == READY => ExitCode::SUCCESS,
        Ok(_) if word.is_empty() => fail(interface, &io::Error::other("the daemon ended unexpectedly")),
        Ok(_) => fail(interface, &io::Error::other(word)),
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
                log::error(format_args!("cannot go into the background: {e}"));
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

/// The reason in words that lead to the remedy.
fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EBUSY) => "another process holds this interface".to_owned(),
        Some(libc::EPERM) => format!("{error}: CAP_NET_ADMIN is needed"),
        Some(libc::EINVAL) => {
            format!("{error}: an interface of this name exists that is not a TUN device")
        }
        _ => error.to_string(),
    }
}

/// Confines all threads, and logs what the daemon has to work with.
fn confine(control: &Control) {
    sandbox::confine(Some(&control.server.path));
    match features::at_start(&control.device.tun) {
        Ok(features) => log::notice(format_args!("{features}")),
        Err(e) => log::error(format_args!("cannot tell the features of this kernel: {e}")),
    }
}

/// Lets the caller go on, once there is nothing more to be opened.
fn leave(mut caller: Caller, control: &Control) -> io::Result<()> {
    detach_streams(&caller.null)?;
    confine(control);
    caller.pipe.write_all(READY.as_bytes())
}

/// Standard streams to nowhere, as the caller may be waiting for their end.
fn detach_streams(null: &File) -> io::Result<()> {
    for stream in 0..3 {
        // SAFETY: plain call.
        check(unsafe { libc::dup2(null.as_raw_fd(), stream) })?;
    }
    Ok(())
}

/// Opens everything: afterwards the link exists and the socket answers as soon as the work begins.
fn prepare(interface: &str) -> io::Result<Control> {
    let signals = control::signals()?;
    let netlink = control::netlink()?;
    let interruptions = Interruptions::new();
    let server = Server::new(interface)?;
    let opened = open_free_device(interface);
    if opened.is_err() {
        server.remove();
    }
    let device = Arc::new(opened?);
    // A user's inotify instances may be used up (128 for all of root's processes, unless set otherwise).
    let watch = control::watch(Path::new(DIRECTORY)).ok();
    // The link may have been up already, or gone up before anyone listened.
    lifecycle::sync_link(&device);
    let (work, next_look) = (Work::new(device.clone()), None);
    Ok(Control { device, server, signals, netlink, watch, interruptions, work, next_look })
}

/// A killed daemon's device is closed a moment after the daemon is no longer seen: that moment is waited for.
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

/// Returns when both data threads run: what a thread does to begin with, the filter to come does not allow.
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
    // Before the control socket: who has seen that one go may take the port.
    control.device.close_sockets();
    // Dropping it removes the socket; the link goes with the process.
    drop(control);
    match end {
        End::Signal | End::LinkGone | End::SocketGone => ExitCode::SUCCESS,
    }
}
