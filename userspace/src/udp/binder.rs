//! Binding in a thread of its own, the only one that keeps the privilege for ports below 1024.

use std::io;
use std::sync::mpsc::{self, SyncSender};
use std::thread;

use super::Sockets;
use crate::sandbox::{CAP_NET_ADMIN, CAP_NET_BIND_SERVICE, keep_capabilities};

struct Request {
    port: u16,
    fwmark: u32,
    answer: SyncSender<io::Result<Sockets>>,
}

/// The way to the thread.
pub struct Binder(SyncSender<Request>);

impl Binder {
    /// Starts the thread and waits until it has given up what it does not need.
    pub fn start(stack_bytes: usize) -> io::Result<Self> {
        let (sender, requests) = mpsc::sync_channel::<Request>(1);
        let (ready, is_ready) = mpsc::sync_channel(1);
        thread::Builder::new().name("binder".to_owned()).stack_size(stack_bytes).spawn(move || {
            let _ = ready.send(keep_capabilities(&[CAP_NET_ADMIN, CAP_NET_BIND_SERVICE]));
            for request in requests {
                let _ = request.answer.send(Sockets::bind(request.port, request.fwmark));
            }
        })?;
        is_ready.recv().map_err(io::Error::other)??;
        Ok(Self(sender))
    }

    pub fn bind(&self, port: u16, fwmark: u32) -> io::Result<Sockets> {
        let (answer, answered) = mpsc::sync_channel(1);
        // Without its thread the channel has no other end; the second error then says so.
        let _ = self.0.send(Request { port, fwmark, answer });
        answered.recv().map_err(io::Error::other)?
    }
}
