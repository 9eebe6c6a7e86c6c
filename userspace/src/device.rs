//! The device that all threads share: peers, keys, link and sockets.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::io;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::Duration;

use crate::allowed_ips::AllowedIps;
use crate::diagnostics::{About, Event, Events};
use crate::keys::{PrivateKey, PublicKey};
use crate::locks::{lock, read, write};
use crate::noise::cookie::Checker;
use crate::noise::handshake::Stamps;
use crate::noise::message::INITIATION_LEN;
use crate::noise::ratelimit::RateLimiter;
use crate::noise::session::Session;
use crate::peer::{Forgotten, Peer};
use crate::sys::{self, Waker};
use crate::tun::{Link, Tun};
use crate::udp::binder::Binder;
use crate::udp::route::Routes;
use crate::udp::{Endpoint, Sockets};
use crate::wake::Inbox;

/// Hashes session indexes, which are random already, by their own value.
#[derive(Default)]
pub(crate) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&b| self.0 = (self.0 << 8) | u64::from(b));
    }

    fn write_u32(&mut self, index: u32) {
        // The hash table takes the bucket from the low bits and the tag from the high bits.
        self.0 = u64::from(index) | u64::from(index) << 32;
    }
}

/// The meaning of a local index.
#[derive(Clone)]
pub enum Indexed {
    /// A handshake that we initiated.
    Handshake(Arc<Peer>),
    Session(Arc<Peer>, Arc<Session>),
}

/// The keys of this device.
pub struct Identity {
    pub private: PrivateKey,
    pub public: PublicKey,
    pub checker: Mutex<Checker>,
}

/// The state that configuration and handshakes change and that every packet reads.
#[derive(Default)]
pub struct State {
    pub identity: Option<Arc<Identity>>,
    pub(crate) allowed_ips: AllowedIps,
    slots: Vec<Option<Arc<Peer>>>,
    free: Vec<u32>,
    by_key: HashMap<PublicKey, Arc<Peer>>,
    by_index: HashMap<u32, Indexed, BuildHasherDefault<IndexHasher>>,
    next_sequence: u64,
    /// Whether a session was removed since the data threads were last woken.
    session_gone: bool,
}

impl State {
    pub(crate) fn peer(&self, slot: u32) -> Option<&Arc<Peer>> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Arc<Peer>> {
        self.slots.iter().flatten()
    }

    /// The peers in the order in which they were added.
    pub(crate) fn peers_in_order(&self) -> Vec<&Arc<Peer>> {
        let mut peers: Vec<_> = self.peers().collect();
        peers.sort_unstable_by_key(|p| p.sequence);
        peers
    }

    pub(crate) fn find(&self, key: PublicKey) -> Option<&Arc<Peer>> {
        self.by_key.get(&key)
    }

    #[inline]
    pub(crate) fn indexed(&self, index: u32) -> Option<&Indexed> {
        self.by_index.get(&index)
    }

    /// Adds a peer that does not exist yet, in a free slot.
    pub fn add_peer(&mut self, key: PublicKey) -> Arc<Peer> {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        let peer = Arc::new(Peer::new(key, slot, self.next_sequence));
        self.next_sequence += 1;
        self.slots[slot as usize] = Some(peer.clone());
        self.by_key.insert(key, peer.clone());
        peer
    }

    pub(crate) fn remove_peer(&mut self, key: PublicKey) {
        let Some(peer) = self.by_key.remove(&key) else {
            return;
        };
        self.forget_keys(&peer);
        peer.timers.stop();
        self.allowed_ips.clear(peer.slot);
        self.slots[peer.slot as usize] = None;
        self.free.push(peer.slot);
    }

    pub(crate) fn remove_all_peers(&mut self) {
        let keys: Vec<_> = self.by_key.keys().copied().collect();
        keys.into_iter().for_each(|key| self.remove_peer(key));
    }

    /// A random index that is not in use.
    pub(crate) fn new_index(&self) -> u32 {
        loop {
            let index = u32::from_ne_bytes(sys::random());
            if !self.by_index.contains_key(&index) {
                return index;
            }
        }
    }

    pub fn set_index(&mut self, index: u32, meaning: Indexed) {
        self.by_index.insert(index, meaning);
    }

    pub(crate) fn forget(&mut self, indexes: &Forgotten) {
        for index in indexes {
            self.session_gone |= matches!(self.by_index.remove(index), Some(Indexed::Session(..)));
        }
    }

    /// Ends a handshake that we initiated.
    pub(crate) fn forget_handshake(&mut self, peer: &Peer) {
        if let Some(pending) = lock(&peer.handshake).pending.take() {
            self.by_index.remove(&pending.local_index);
        }
    }

    /// Expires all sessions for sending, so that every peer's next packet starts a handshake
    /// (`wg_noise_expire_current_peer_keypairs` of `noise.c`).
    pub(crate) fn expire_sending(&mut self) {
        let peers: Vec<_> = self.peers().cloned().collect();
        for peer in peers {
            self.forget_handshake(&peer);
            peer.last_sent.store(0, Relaxed);
            read(&peer.keypairs).expire();
        }
    }

    /// Wipes the session keys of all peers (`wg_pm_notification` of `device.c`). The next packet starts a handshake at once,
    /// regardless of when the last one was.
    pub(crate) fn forget_all_keys(&mut self) {
        let peers: Vec<_> = self.peers().cloned().collect();
        for peer in peers {
            peer.timers.keys_wiped();
            peer.last_sent.store(0, Relaxed);
            self.forget_keys(&peer);
        }
    }

    /// Wipes the session keys of a peer.
    pub(crate) fn forget_keys(&mut self, peer: &Peer) {
        self.forget_handshake(peer);
        let forgotten = write(&peer.keypairs).clear();
        self.forget(&forgotten);
    }
}

/// Write access to the state.
///
/// Data threads use a session only while they hold the read lock. So no thread uses a session after it was removed here,
/// and a thread that wipes its stack after being woken does not write the key there again.
pub struct StateMut<'a> {
    state: RwLockWriteGuard<'a, State>,
    device: &'a Device,
}

impl Deref for StateMut<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for StateMut<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

impl Drop for StateMut<'_> {
    fn drop(&mut self) {
        if mem::take(&mut self.state.session_gone) {
            self.device.inbound.wake();
            self.device.outbound.wake();
        }
    }
}

/// A received handshake message.
#[derive(Clone, Copy)]
pub struct Incoming {
    pub bytes: [u8; INITIATION_LEN],
    pub len: usize,
    pub from: Endpoint,
}

/// A task for the control thread.
pub enum Task {
    /// Start a handshake, because there is no session to send with.
    Initiate(Arc<Peer>),
    /// Remove sessions that are no longer in use.
    Forget(Forgotten),
    /// Check the state of the link.
    CheckLink,
    /// End the process, because the link is gone.
    End,
}

/// The most handshake messages that may wait. The device is under load long before.
const MAX_QUEUED_MESSAGES: usize = 1024;

/// The pause between checks whether old sockets are still in use.
const USERS_PAUSE: Duration = Duration::from_micros(200);

pub struct Device {
    pub(crate) name: String,
    pub(crate) tun: Tun,
    pub(crate) mtu: AtomicU32,
    /// The work for the control thread.
    pub inbox: Inbox<Task, Incoming>,
    pub binder: Binder,
    pub handshake_sources: Mutex<RateLimiter>,
    /// Wakes the receiving thread after the sockets have changed or a session was removed.
    pub(crate) inbound: Waker,
    /// Wakes the sending thread after a session was removed.
    pub(crate) outbound: Waker,
    /// Counts changes of the host's routes and addresses.
    pub(crate) route_changes: AtomicU32,
    pub(crate) routes: Routes,
    /// The link's index in the namespace of the sockets; zero while the link is in another namespace.
    pub(crate) link_index: AtomicU32,
    pub fwmark: AtomicU32,
    pub listen_port: AtomicU32,
    state: RwLock<State>,
    sockets: RwLock<Option<Arc<Sockets>>>,
    link: Mutex<Link>,
    pub(crate) stamps: Mutex<Stamps>,
    pub(crate) events: Events,
}

impl Device {
    pub fn new(name: String, tun: Tun, link: Link, binder: Binder) -> io::Result<Self> {
        let mtu = link.mtu()?;
        Ok(Self {
            name,
            tun,
            mtu: AtomicU32::new(mtu),
            inbox: Inbox::new()?,
            binder,
            handshake_sources: Mutex::default(),
            inbound: Waker::new()?,
            outbound: Waker::new()?,
            route_changes: AtomicU32::new(0),
            routes: Routes::new()?,
            link_index: AtomicU32::new(link.index_here()),
            fwmark: AtomicU32::new(0),
            listen_port: AtomicU32::new(0),
            state: RwLock::default(),
            sockets: RwLock::default(),
            link: Mutex::new(link),
            stamps: Mutex::default(),
            events: Events::default(),
        })
    }

    #[inline]
    pub fn state(&self) -> RwLockReadGuard<'_, State> {
        read(&self.state)
    }

    /// Write access to the state. If a session was removed, the data threads are woken afterwards and wipe their stacks.
    pub fn state_mut(&self) -> StateMut<'_> {
        StateMut { state: write(&self.state), device: self }
    }

    #[inline]
    pub(crate) fn sockets(&self) -> Option<Arc<Sockets>> {
        read(&self.sockets).clone()
    }

    pub(crate) fn is_up(&self) -> bool {
        read(&self.sockets).is_some()
    }

    /// Replaces the sockets and wakes the receiving thread. The old sockets hold their port until no thread uses them. This
    /// function waits for that, because the same port may be bound next.
    pub(crate) fn set_sockets(&self, sockets: Option<Sockets>) {
        let new = sockets.map(Arc::new);
        let old = mem::replace(&mut *write(&self.sockets), new);
        self.inbound.wake();
        while old.as_ref().is_some_and(|old| Arc::strong_count(old) > 1) {
            thread::sleep(USERS_PAUSE);
        }
    }

    /// Locks the link.
    pub(crate) fn link(&self) -> MutexGuard<'_, Link> {
        lock(&self.link)
    }

    /// Closes all sockets and releases the port.
    pub(crate) fn close_sockets(&self) {
        self.binder.release();
        self.set_sockets(None);
    }

    /// Queues handshake messages for the control thread, up to a limit.
    pub(crate) fn push_messages(&self, messages: &mut Vec<Incoming>) {
        let dropped = self.inbox.push_messages(messages, MAX_QUEUED_MESSAGES);
        self.events.note_many(Event::QueueFull, dropped, About::Nothing);
    }

    /// Whether the link is in the namespace of the netlink socket, so that its notifications arrive.
    pub(crate) fn gets_link_notifications(&self) -> bool {
        lock(&self.link).is_here()
    }

    /// Starts to use new sockets and records their port.
    pub(crate) fn use_sockets(&self, sockets: Sockets) {
        self.listen_port.store(sockets.port.into(), Relaxed);
        self.set_sockets(Some(sockets));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::Offloads;
    use std::os::unix::net::UnixDatagram;

    #[test]
    fn replacing_sockets_waits_until_their_port_is_free() {
        let (tun, _) = UnixDatagram::pair().unwrap();
        let tun = Tun::new(tun.into(), Offloads { tcp: false, udp: false });
        let binder = Binder::start(256 << 10).unwrap();
        let device = Device::new("test".to_owned(), tun, Link::new("lo").unwrap(), binder).unwrap();
        device.set_sockets(Some(Sockets::bind(0, 0).unwrap()));
        let in_use = device.sockets().unwrap();
        let port = in_use.port;
        let user = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            drop(in_use);
        });
        device.set_sockets(None);
        assert_eq!(Sockets::bind(port, 0).map(|sockets| sockets.port).ok(), Some(port));
        user.join().unwrap();
    }

    #[test]
    fn an_interruption_lets_the_next_handshake_start_at_once() {
        for end in [State::expire_sending, State::forget_all_keys] {
            let mut state = State::default();
            let peer = state.add_peer(PublicKey([1; 32]));
            peer.last_sent.store(sys::now_ms(), Relaxed);
            end(&mut state);
            assert_eq!(peer.last_sent.load(Relaxed), 0);
        }
    }

    #[test]
    fn a_free_slot_is_reused_and_peers_keep_the_order_of_addition() {
        let mut state = State::default();
        let keys = [1u8, 2, 3].map(|k| PublicKey([k; 32]));
        keys.iter().for_each(|&key| drop(state.add_peer(key)));
        state.remove_peer(keys[0]);
        let again = state.add_peer(keys[0]);
        assert_eq!(again.slot, 0);
        let order: Vec<_> = state.peers_in_order().iter().map(|p| p.key).collect();
        assert_eq!(order, [keys[1], keys[2], keys[0]]);
    }
}
