//! The work that other threads queue for the control thread: handshake messages, tasks and timers.

use std::sync::Arc;

use crate::cookie_replies::CookieReplies;
use crate::device::{Device, Task};
use crate::diagnostics::{About, Event};
use crate::exchange;
use crate::lifecycle;
use crate::sys;

/// With more peers than this, all timers are checked together, at most once per `TIMER_STEP_MS`.
const MANY_PEERS: usize = 100;
const TIMER_STEP_MS: u64 = 100;
/// With this many handshake messages waiting, the device is under load for the next `LOAD_MS`.
const LOAD_MESSAGES: usize = 32;
const LOAD_MS: u64 = 1000;
/// The most handshake messages that are handled before other work.
const MESSAGES_PER_TURN: usize = 128;
/// Under load, messages are collected for this time, because a batch costs less per message.
const GATHER_MS: u64 = 2;
const TASKS_PER_TURN: usize = 64;

/// Does the work and tracks whether the device is under load.
pub(crate) struct Work {
    device: Arc<Device>,
    /// The device is under load until this time.
    until: u64,
    cookie_replies: CookieReplies,
}

impl Work {
    pub(crate) fn new(device: Arc<Device>) -> Self {
        Self { device, until: 0, cookie_replies: CookieReplies::default() }
    }

    /// Does the work that is due. Returns false once the link is gone.
    #[must_use]
    pub(crate) fn turn(&mut self) -> bool {
        self.messages();
        let is_there = self.tasks();
        if is_there {
            self.timers();
        }
        is_there
    }

    fn messages(&mut self) {
        let now = sys::now_ms();
        let (mut messages, waiting) = self.device.inbox.take_messages(MESSAGES_PER_TURN, now);
        if messages.is_empty() {
            return;
        }
        if messages.len() + waiting >= LOAD_MESSAGES {
            if now >= self.until {
                self.device.events.note(Event::UnderLoad, About::Nothing);
            }
            self.until = now + LOAD_MS;
        }
        let loaded = now < self.until;
        if loaded {
            self.cookie_replies.require_cookies(&self.device, &mut messages, now);
        }
        for message in &messages {
            exchange::receive_handshake(&self.device, message, loaded);
        }
        if loaded && waiting == 0 {
            self.device.inbox.gather(now + GATHER_MS);
        }
    }

    fn tasks(&self) -> bool {
        for task in self.device.inbox.take_tasks(TASKS_PER_TURN) {
            match task {
                Task::Initiate(peer) => exchange::initiate(&self.device, &peer),
                Task::Forget(indexes) => self.device.state_mut().forget(&indexes),
                Task::CheckLink => lifecycle::sync_link(&self.device),
                Task::End => return false,
            }
        }
        true
    }

    fn timers(&self) {
        let now = sys::now_ms();
        self.device.inbox.alarm.ring(now, || self.run_timers(now));
    }

    /// Runs the timers that are due and returns the time of the next one.
    fn run_timers(&self, now: u64) -> Option<u64> {
        let peers: Vec<_> = self.device.state().peers().cloned().collect();
        for peer in &peers {
            if peer.timers.next().is_some_and(|at| at <= now) {
                exchange::run_timers(&self.device, peer, now);
            }
        }
        let step = if peers.len() > MANY_PEERS { TIMER_STEP_MS } else { 1 };
        peers.iter().filter_map(|peer| peer.timers.next()).min().map(|next| next.max(now + step))
    }
}
