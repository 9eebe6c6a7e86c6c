//! The packets that wait for a peer's next session. They are sent in the order of arrival, before any other packet.

use std::collections::VecDeque;

use crate::noise::limits::MAX_STAGED_PACKETS;
use crate::sync::{AtomicBool, Mutex, Ordering, lock};

/// The kernel's `staged_packet_queue`.
#[derive(Default)]
pub(crate) struct Staged {
    packets: Mutex<VecDeque<Box<[u8]>>>,
    /// Whether packets are staged; every packet that is sent checks this. It is true until the last one has been sent.
    waits: AtomicBool,
}

impl Staged {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        !self.waits.load(Ordering::Acquire)
    }

    /// Stages a packet. Drops the oldest if the queue is full, and returns whether it did.
    pub(crate) fn push(&self, packet: Box<[u8]>) -> bool {
        let mut packets = lock(&self.packets);
        let is_full = packets.len() >= MAX_STAGED_PACKETS;
        if is_full {
            packets.pop_front();
        }
        packets.push_back(packet);
        self.waits.store(true, Ordering::Release);
        is_full
    }

    /// Stages an empty packet, a keepalive, unless other packets are staged.
    pub(crate) fn push_keepalive(&self) {
        let mut packets = lock(&self.packets);
        if packets.is_empty() {
            packets.push_back(Box::default());
        }
        self.waits.store(true, Ordering::Release);
    }

    /// Drops all packets and returns their number, keepalives excluded.
    pub(crate) fn clear(&self) -> usize {
        let mut packets = lock(&self.packets);
        let dropped = packets.iter().filter(|packet| !packet.is_empty()).count();
        packets.clear();
        self.waits.store(false, Ordering::Release);
        dropped
    }

    /// Sends all packets if there is a session. A second thread waits until the first is done, so that its packets do not
    /// overtake the staged ones.
    pub(crate) fn send_with<S>(
        &self,
        session: impl FnOnce() -> Option<S>,
        mut send: impl FnMut(&S, &[u8]),
    ) -> Option<S> {
        let mut packets = lock(&self.packets);
        let session = session()?;
        packets.drain(..).for_each(|packet| send(&session, &packet));
        self.waits.store(false, Ordering::Release);
        Some(session)
    }
}

#[cfg(all(test, loom))]
mod loom {
    use super::Staged;
    use crate::sync::{Mutex, lock};
    use loom::thread;
    use std::sync::Arc;

    #[test]
    fn a_packet_staged_while_a_session_comes_is_sent_once() {
        loom::model(|| {
            let world = Arc::new((Staged::default(), Mutex::new(None), Mutex::new(0)));
            let send = |(staged, session, sent): &(Staged, Mutex<Option<()>>, Mutex<u32>)| {
                staged.send_with(|| *lock(session), |(), _| *lock(sent) += 1);
            };
            let outbound = world.clone();
            let other = thread::spawn(move || {
                outbound.0.push(Box::new([1]));
                send(&outbound);
            });
            *lock(&world.1) = Some(());
            if !world.0.is_empty() {
                send(&world);
            }
            other.join().unwrap();
            assert_eq!((*lock(&world.2), world.0.is_empty()), (1, true));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sent(staged: &Staged) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        staged.send_with(|| Some(()), |(), packet| sent.push(packet.to_vec()));
        sent
    }

    #[test]
    fn a_full_queue_drops_the_oldest_packet() {
        let staged = Staged::default();
        let gave_way = (0..130u8).filter(|&i| staged.push(Box::new([i]))).count();
        assert_eq!(gave_way, 2);
        let sent = sent(&staged);
        assert_eq!((sent.len(), &sent[0][..], &sent[127][..]), (128, &[2][..], &[129][..]));
        assert!(staged.is_empty());
    }

    #[test]
    fn a_keepalive_is_staged_alone_and_once() {
        let staged = Staged::default();
        staged.push_keepalive();
        staged.push_keepalive();
        assert_eq!(sent(&staged), [[0_u8; 0]]);
        staged.push(Box::new([1]));
        staged.push_keepalive();
        assert_eq!(sent(&staged), [[1]]);
    }

    #[test]
    fn packets_stay_staged_without_a_session() {
        let staged = Staged::default();
        staged.push(Box::new([1]));
        assert!(staged.send_with(|| None::<()>, |(), _| unreachable!()).is_none());
        assert!(!staged.is_empty());
        staged.push_keepalive();
        assert_eq!(staged.clear(), 1);
        assert!(staged.is_empty() && sent(&staged).is_empty());
    }
}
