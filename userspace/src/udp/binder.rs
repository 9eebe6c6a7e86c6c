//! Binds the sockets. Until the link is up for the first time, a separate thread binds them. Only this thread keeps the
//! privilege for ports below 1024. A port that is set while the link is down is bound at once and held until the link is
//! up. A port below 1024 is held as long as it is set, because it could not be bound again.

use std::io;
use std::sync::Mutex;
use std::sync::mpsc::{self, SyncSender};
use std::thread;
use std::time::Duration;

use super::{RECEIVE_BYTES, Sockets};
use crate::capabilities::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, keep_capabilities};
use crate::locks::lock;
use crate::sys;

const FIRST_FREE_PORT: u16 = 1024;
/// How often and after which pause a port in use is tried again. A daemon holds its port for some milliseconds after its
/// link is gone, unlike the kernel's WireGuard.
const RESERVE_TRIES: u32 = 20;
const RESERVE_PAUSE: Duration = Duration::from_millis(10);
/// The most packets that can wait: the kernel doubles the size of the buffer and counts at least 256 bytes per packet.
const MAX_WAITING: usize = 2 * RECEIVE_BYTES as usize / 256;

struct Request {
    port: u16,
    fwmark: u32,
    answer: SyncSender<io::Result<Sockets>>,
}

/// The channel to the binding thread, and the held sockets.
pub struct Binder(Mutex<Ports>);

struct Ports {
    /// `None` once the link has been up: the thread ends when its channel closes.
    privileged: Option<SyncSender<Request>>,
    held: Option<Sockets>,
}

fn is_privileged(port: u16) -> bool {
    (1..FIRST_FREE_PORT).contains(&port)
}

impl Binder {
    /// Starts the thread and waits until it has dropped its other privileges.
    pub fn start(stack_bytes: usize) -> io::Result<Self> {
        let (privileged, requests) = mpsc::sync_channel::<Request>(1);
        let (ready, is_ready) = mpsc::sync_channel(1);
        thread::Builder::new().name("binder".to_owned()).stack_size(stack_bytes).spawn(move || {
            let _ = ready.send(keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_BIND_SERVICE]));
            for request in requests {
                let _ = request.answer.send(Sockets::bind(request.port, request.fwmark));
            }
        })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self(Mutex::new(Ports { privileged: Some(privileged), held: None })))
    }

    /// Binds to a port for a link that is up.
    pub(crate) fn bind(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        let mut ports = lock(&self.0);
        let sockets = match ports.held.take_if(|held| held.port == port) {
            Some(held) => prepare(&held, fwmark).map(|()| held)?,
            None => ports.bind_once(port, fwmark)?,
        };
        ports.held = if is_privileged(port) { Some(sockets.duplicate()?) } else { None };
        ports.privileged = None;
        Ok(sockets)
    }

    /// Binds to a port for a link that is down, and holds it. On failure the previous port is still held.
    pub(crate) fn reserve(&self, port: u16, fwmark: u32) -> io::Result<()> {
        let mut ports = lock(&self.0);
        ports.held = match port {
            0 => None,
            _ => Some(ports.bind_with_retries(port, fwmark)?),
        };
        Ok(())
    }

    /// Closes the held sockets.
    pub fn release(&self) {
        lock(&self.0).held = None;
    }
}

impl Ports {
    fn bind_with_retries(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        for _ in 0..RESERVE_TRIES {
            match self.bind_once(port, fwmark) {
                Err(e) if e.kind() == io::ErrorKind::AddrInUse => thread::sleep(RESERVE_PAUSE),
                other => return other,
            }
        }
        self.bind_once(port, fwmark)
    }

    fn bind_once(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        let Some(privileged) = &self.privileged else {
            return Sockets::bind(port, fwmark);
        };
        let (answer, answered) = mpsc::sync_channel(1);
        let _ = privileged.send(Request { port, fwmark, answer });
        answered.recv().map_err(io::Error::other)?
    }
}

/// Prepares held sockets for a link that goes up. Packets that arrived before are discarded.
fn prepare(held: &Sockets, fwmark: u32) -> io::Result<()> {
    held.set_fwmark(fwmark)?;
    held.each().for_each(|fd| discard(|| sys::read(fd, &mut [0; 1])));
    Ok(())
}

/// Reads until nothing is left, but at most as many packets as can wait, because a flood may continue meanwhile.
fn discard(mut read: impl FnMut() -> io::Result<usize>) {
    for _ in 0..MAX_WAITING {
        if read().is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_does_not_keep_the_link_from_going_up() {
        discard(|| Ok(1));
    }

    #[test]
    fn all_waiting_packets_are_discarded() {
        let (to, from) = (Sockets::bind(0, 0).unwrap(), std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        // The kernel drops packets beyond the buffer.
        for _ in 0..3 * MAX_WAITING {
            from.send_to(&[], ("127.0.0.1", to.port)).unwrap();
        }
        prepare(&to, 0).unwrap();
        to.each().for_each(|fd| assert!(sys::read(fd, &mut [0; 1]).is_err()));
    }
}
