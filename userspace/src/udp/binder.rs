//! Binding. The first time, a thread of its own binds, which alone still has the privilege for ports below 1024; it ends
//! with that, and a port that could not be bound again is held on to while the link is down.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::Sockets;
use crate::peer::lock;
use crate::sandbox::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, keep_capabilities};
use crate::sys;

const FIRST_FREE_PORT: u16 = 1024;

struct Request {
    port: u16,
    fwmark: u32,
    answer: SyncSender<io::Result<Sockets>>,
}

/// The way to the thread, and what is held on to.
pub struct Binder {
    privileged: SyncSender<Request>,
    held: Mutex<Option<Sockets>>,
}

impl Binder {
    /// Starts the thread and waits until it has given up what it does not need.
    pub fn start(stack_bytes: usize) -> io::Result<Self> {
        let (privileged, requests) = mpsc::sync_channel::<Request>(1);
        let (ready, is_ready) = mpsc::sync_channel(1);
        thread::Builder::new().name("binder".to_owned()).stack_size(stack_bytes).spawn(move || {
            let _ = ready.send(keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_BIND_SERVICE]));
            for request in requests {
                let bound = Sockets::bind(request.port, request.fwmark);
                let is_last = bound.is_ok();
                let _ = request.answer.send(bound);
                if is_last {
                    return;
                }
            }
        })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self { privileged, held: Mutex::default() })
    }

    /// Binds to a port; before the first time is over, to any.
    pub fn bind(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        let mut held = lock(&self.held);
        if let Some(sockets) = held.as_ref().filter(|sockets| sockets.port == port) {
            return sockets.again(fwmark);
        }
        let sockets = self.bind_anew(port, fwmark)?;
        *held = if (1..FIRST_FREE_PORT).contains(&port) { Some(sockets.duplicate()?) } else { None };
        Ok(sockets)
    }

    fn bind_anew(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        let (answer, answered) = mpsc::sync_channel(1);
        // Once the thread has ended, nobody takes the request and the channel of the answer has no other end.
        let _ = self.privileged.send(Request { port, fwmark, answer });
        answered.recv().unwrap_or_else(|_| Sockets::bind(port, fwmark))
    }
}

impl Sockets {
    fn duplicate(&self) -> io::Result<Self> {
        let copy = |fd: &Option<OwnedFd>| fd.as_ref().map(OwnedFd::try_clone).transpose();
        let segmentation = AtomicBool::new(self.segments());
        Ok(Self { v4: copy(&self.v4)?, v6: copy(&self.v6)?, port: self.port, segmentation })
    }

    /// The same sockets for another time of use: what has come since the last one is nobody's.
    fn again(&self, fwmark: u32) -> io::Result<Self> {
        self.set_fwmark(fwmark)?;
        self.each().for_each(|fd| while sys::read(fd, &mut [0; 1]).is_ok() {});
        self.duplicate()
    }
}
