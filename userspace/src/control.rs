//! The control thread: it works through the inbox, serves the control socket, follows the link and ends the daemon.

use std::collections::HashMap;
use std::ffi::CString;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::device::Device;
use crate::diagnostics::{About, Event, Events};
use crate::interruption::Interruptions;
use crate::lifecycle;
use crate::log;
use crate::rtnetlink::message_kinds;
use crate::sandbox;
use crate::sys::{self, check, owned, poll, pollfd};
use crate::uapi::server::Server;
use crate::udp::icmp::{self, IcmpError};
use crate::wipe;
use crate::work::Work;

/// Whether the caller ignores a signal. nohup(1) sets this, and so does a shell for background jobs of a script.
fn is_ignored(signal: libc::c_int) -> bool {
    // SAFETY: the call only reads the action; a zeroed structure is valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0
            && action.sa_sigaction == libc::SIG_IGN
    }
}

/// Blocks the signals that end the process, in all threads created later, and returns a descriptor that reads them.
/// A signal that the caller ignores is left out, because a blocked signal is no longer ignored. SIGTERM is always
/// included, because an orderly end needs it.
pub(crate) fn signals() -> io::Result<OwnedFd> {
    let endings = [libc::SIGINT, libc::SIGHUP].into_iter().filter(|&signal| !is_ignored(signal));
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in endings.chain([libc::SIGTERM]) {
            libc::sigaddset(&raw mut set, signal);
        }
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        owned(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// A netlink socket that reports changes of links, addresses and routes.
pub(crate) fn netlink() -> io::Result<OwnedFd> {
    let groups = libc::RTMGRP_LINK
        | libc::RTMGRP_IPV4_IFADDR
        | libc::RTMGRP_IPV6_IFADDR
        | libc::RTMGRP_IPV4_ROUTE
        | libc::RTMGRP_IPV6_ROUTE;
    // SAFETY: the address is valid for its length.
    unsafe {
        let fd = owned(libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK,
            libc::NETLINK_ROUTE,
        ))?;
        let mut address: libc::sockaddr_nl = std::mem::zeroed();
        address.nl_family = libc::AF_NETLINK as u16;
        address.nl_groups = groups as u32;
        check(libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of::<libc::sockaddr_nl>() as u32,
        ))?;
        Ok(fd)
    }
}

/// An inotify descriptor that reports removals from a directory.
pub(crate) fn watch(directory: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    // SAFETY: a valid C string.
    unsafe {
        let fd = owned(libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK))?;
        let events = libc::IN_DELETE
            | libc::IN_MOVED_FROM
            | libc::IN_MOVED_TO
            | libc::IN_CREATE
            | libc::IN_DELETE_SELF;
        check(libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events))?;
        Ok(fd)
    }
}

/// Why the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Signal,
    LinkGone,
    SocketGone,
}

/// An entry that poll(2) ignores.
const NOTHING: libc::pollfd = libc::pollfd { fd: -1, events: 0, revents: 0 };

pub(crate) struct Control {
    pub(crate) device: Arc<Device>,
    pub(crate) server: Server,
    pub(crate) signals: OwnedFd,
    pub(crate) netlink: OwnedFd,
    /// Without it, the socket is checked every `LOOK_MS`.
    pub(crate) watch: Option<OwnedFd>,
    pub(crate) icmp_errors: icmp::Listener,
    pub(crate) interruptions: Interruptions,
    pub(crate) work: Work,
    /// When to check the link next, if it is in a namespace that sends no notifications here.
    pub(crate) next_look: Option<u64>,
}

/// The number of poll(2) entries before those of the interruptions, and before those of the server.
const OWN: usize = 6;
const FIXED: usize = OWN + Interruptions::FDS;
const LOOK_MS: u64 = 2000;
/// How often a link in another namespace is checked while it is up, and while it is down.
const LOOK_UP_MS: u64 = 1000;
const LOOK_DOWN_MS: u64 = 200;

impl Control {
    /// Runs until there is a reason to end, and returns it.
    pub(crate) fn run(&mut self) -> End {
        let mut buffer = vec![0; 32 << 10];
        loop {
            if let Some(end) = wipe::after(|| self.turn()) {
                return end;
            }
            let mut fds = vec![
                NOTHING,
                pollfd(&self.signals, libc::POLLIN),
                pollfd(&self.netlink, libc::POLLIN),
                self.watch.as_ref().map_or(NOTHING, |watch| pollfd(watch, libc::POLLIN)),
            ];
            fds.extend(self.icmp_errors.pollfds());
            fds.extend(self.interruptions.pollfds());
            self.server.pollfds(&mut fds);
            if self.sleep(&mut fds).is_err() {
                continue;
            }
            if let Some(end) = wipe::after(|| self.act(&fds, &mut buffer)) {
                return end;
            }
        }
    }

    /// Does the pending work. Returns a reason to end, if there is one.
    fn turn(&mut self) -> Option<End> {
        if !self.work.turn() {
            return Some(End::LinkGone);
        }
        sandbox::follow_heap();
        None
    }

    /// Waits for a descriptor or for work in the inbox. The first entry is set to the waker.
    fn sleep(&self, fds: &mut [libc::pollfd]) -> io::Result<()> {
        let now = sys::now_ms();
        let look = self.watch.is_none().then_some(now + LOOK_MS);
        let other = look.into_iter().chain(self.next_look).min();
        self.device.inbox.sleep(now, other, |waker, timeout| {
            fds[0] = pollfd(waker, libc::POLLIN);
            poll(fds, timeout)
        })
    }

    /// Handles the descriptors that are ready. Returns a reason to end, if there is one.
    fn act(&mut self, fds: &[libc::pollfd], buffer: &mut [u8]) -> Option<End> {
        let ready = |at: usize| fds[at].revents != 0;
        if ready(1) {
            return Some(End::Signal);
        }
        for interruption in self.interruptions.seen(&fds[OWN..FIXED], buffer) {
            lifecycle::end_sessions(&self.device, interruption);
        }
        if ready(2) {
            self.netlink_events(buffer);
        }
        if ready(4) || ready(5) {
            note_errors(&self.device, &self.icmp_errors.read());
        }
        self.look_at_link();
        let look = self.watch.as_ref().is_none_or(|watch| ready(3) && drain(watch, buffer));
        if look && !self.server.is_in_place() {
            return Some(End::SocketGone);
        }
        self.server.serve(&self.device, &fds[FIXED..]);
        None
    }

    /// Polls a link in another namespace, which sends no notifications here.
    fn look_at_link(&mut self) {
        let now = sys::now_ms();
        if self.next_look.is_some_and(|at| at <= now) {
            lifecycle::sync_link(&self.device);
            self.next_look = Some(now + if self.device.is_up() { LOOK_UP_MS } else { LOOK_DOWN_MS });
        }
    }

    /// Reads the notifications. After a change of links our link is checked. After a change of addresses or routes the
    /// sources of all peers are checked again.
    fn netlink_events(&mut self, buffer: &mut [u8]) {
        let (mut links, mut routes) = (false, false);
        loop {
            match sys::read(&self.netlink, buffer) {
                Ok(len) => {
                    for kind in message_kinds(&buffer[..len]) {
                        match kind {
                            libc::RTM_NEWLINK | libc::RTM_DELLINK => links = true,
                            _ => routes = true,
                        }
                    }
                }
                // Notifications were lost (ENOBUFS), so anything may have changed.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => (links, routes) = (true, true),
                Err(_) => break,
            }
        }
        if links {
            lifecycle::sync_link(&self.device);
            self.next_look = (!self.device.gets_link_notifications()).then(sys::now_ms);
        }
        if links || routes {
            self.device.route_changes.fetch_add(1, Relaxed);
        }
    }
}

/// The ICMP errors about packets to one address and port.
#[derive(Default)]
struct AtPlace<'a> {
    has_peer: bool,
    errors: Vec<&'a IcmpError>,
}

/// Records ICMP errors with the peers that they are about. One pass is enough, as there may be many peers.
fn note_errors(device: &Device, errors: &[IcmpError]) {
    let port = device.listen_port.load(Relaxed);
    let place = |address: SocketAddr| (address.ip(), address.port());
    let mut by_place: HashMap<_, AtPlace> = HashMap::new();
    for error in errors.iter().filter(|error| u32::from(error.port) == port) {
        by_place.entry(place(error.destination)).or_default().errors.push(error);
    }
    if by_place.is_empty() {
        return;
    }
    for peer in device.state().peers() {
        let address = peer.endpoint().map(|endpoint| endpoint.address);
        if let Some(found) = address.and_then(|address| by_place.get_mut(&place(address))) {
            found.has_peer = true;
            found.errors.iter().for_each(|error| note_error(&peer.events, error));
        }
    }
    let without_peer = by_place.values().filter(|found| !found.has_peer).flat_map(|found| &found.errors);
    without_peer.for_each(|error| note_error(&device.events, error));
}

fn note_error(events: &Events, error: &IcmpError) {
    let IcmpError { kind, router, mtu, destination: to, .. } = *error;
    events.note(Event::Icmp(kind), About::Icmp { router, to, mtu });
}

/// Reads and discards everything. Always returns true, so that it can be part of a condition.
fn drain(fd: &OwnedFd, buffer: &mut [u8]) -> bool {
    while sys::read(fd, buffer).is_ok_and(|len| len > 0) {}
    true
}

impl Drop for Control {
    fn drop(&mut self) {
        log::verbose(format_args!("ending"));
        self.server.remove();
    }
}
