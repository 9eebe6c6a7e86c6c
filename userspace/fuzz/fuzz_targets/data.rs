//! Data messages between two sessions: each one is accepted once, unless it was changed or is too old, and no other message
//! is accepted. Then the inner packet: its fields are read within its bounds, and ICMP answers to it are correct.
#![no_main]

use std::collections::HashSet;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::aead::MANY;
use wgq_userspace::noise::message::{self, DATA, DATA_HEADER_LEN, TAG_LEN};
use wgq_userspace::noise::replay::WINDOW;
use wgq_userspace::noise::session::{Indexes, Keys, Role, Session};
use wgq_userspace::{icmp, packet};
use wgq_userspace_fuzz::frames::{open, open_together, seal};
use wgq_userspace_fuzz::host::edit;
use wgq_userspace_fuzz::messages::u32_at;
use wgq_userspace_fuzz::packets::{is_v4, sum, transport_sum};

const INDEX: u32 = 0x0403_0201;
const NOW: u64 = 1000;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    /// A packet is encrypted and is in transit.
    Seal(&'a [u8]),
    /// A number of counters is used for packets that never arrive.
    Skip(u16),
    /// A number of counters that puts the last message near the end of the window.
    SkipWindow(u8),
    /// Some packets in transit arrive together, possibly again.
    Arrive(Vec<u8>),
    /// A packet arrives changed or truncated.
    ArriveChanged { which: u8, edits: Vec<(u8, u8)>, cut: u8 },
    /// Other bytes arrive.
    Bytes(&'a [u8]),
}

struct Sent {
    counter: u64,
    packet: Vec<u8>,
    message: Vec<u8>,
}

struct Wire {
    sender: Session,
    receiver: Session,
    sent: Vec<Sent>,
    seen: HashSet<u64>,
    highest: u64,
}

impl Wire {
    fn new() -> Self {
        let (a, b) = ([1; 32], [2; 32]);
        let (near, far) = (Indexes { local: 9, remote: INDEX }, Indexes { local: INDEX, remote: 9 });
        Self {
            sender: Session::new(&Keys { send: a, receive: b }, near, Role::Initiator, NOW),
            receiver: Session::new(&Keys { send: b, receive: a }, far, Role::Responder, NOW),
            sent: Vec::new(),
            seen: HashSet::new(),
            highest: 0,
        }
    }

    fn seal(&mut self, packet: &[u8]) {
        let counter = self.sender.reserve(1).expect("a new session has counters");
        let message = seal(&self.sender, counter, packet);
        assert_eq!(message::kind(&message), Some(DATA));
        assert_eq!(u32_at(&message, 4), INDEX);
        self.sent.push(Sent { counter, packet: packet.to_vec(), message });
    }

    /// Whether a counter is acceptable, according to a set of all received counters and the window's size.
    fn takes(&mut self, counter: u64) -> bool {
        let in_window = self.seen.is_empty() || counter + WINDOW > self.highest;
        self.highest = self.highest.max(counter);
        in_window && self.seen.insert(counter)
    }

    fn arrive(&mut self, which: &[u8]) {
        let some = which.iter().filter_map(|&which| usize::from(which).checked_rem(self.sent.len()));
        let some: Vec<_> = some.take(MANY).collect();
        let are_taken: Vec<_> = some.iter().map(|&at| self.takes(self.sent[at].counter)).collect();
        let messages: Vec<_> = some.iter().map(|&at| &self.sent[at].message[..]).collect();
        let opened = open_together(&self.receiver, &messages);
        for ((opened, is_taken), at) in opened.iter().zip(are_taken).zip(some) {
            let Sent { counter, packet, .. } = &self.sent[at];
            let expected = is_taken.then_some(packet);
            assert!(
                opened.as_ref() == expected,
                "counter {counter} with highest {}: {opened:?}",
                self.highest
            );
        }
    }

    /// The index and the type are not authenticated. They are checked before decryption.
    fn arrive_changed(&mut self, which: u8, edits: &[(u8, u8)], cut: u8) {
        let Some(at) = usize::from(which).checked_rem(self.sent.len()) else { return };
        let whole = &self.sent[at].message;
        let mut message = whole[..whole.len() - usize::from(cut).min(whole.len())].to_vec();
        if !message.is_empty() {
            edit(&mut message, edits);
        }
        if message.get(8..) != Some(&whole[8..]) {
            self.arrive_bytes(&message);
        }
    }

    /// The fuzzer may learn messages from other runs with these keys. An accepted message must be one of those.
    fn arrive_bytes(&mut self, message: &[u8]) {
        if message.len() < DATA_HEADER_LEN + TAG_LEN {
            return;
        }
        let Some(packet) = open(&self.receiver, message) else { return };
        let counter = u64::from_le_bytes(message[8..16].try_into().expect("eight bytes"));
        assert!(self.takes(counter), "a replay was opened");
        assert!(seal(&self.sender, counter, &packet)[8..] == message[8..], "a forgery was opened");
    }
}

fn check_packet(bytes: &[u8]) {
    let (from, to) = (packet::source(bytes), packet::destination(bytes));
    assert_eq!(from.is_some(), to.is_some());
    if let Some(len) = packet::claimed_len(bytes) {
        assert!(from.is_some() && (20..=bytes.len()).contains(&len));
        check_mark(&bytes[..len]);
    }
    if let Some(answer) = icmp::unreachable(bytes) {
        check_answer(bytes, &answer);
    }
}

/// Checks that only the ECN bits and the checksum change, and that a correct header stays correct.
fn check_mark(before: &[u8]) {
    let mut after = before.to_vec();
    packet::mark_congestion(&mut after);
    assert_eq!(packet::ecn(&after), if packet::ecn(before) == 0 { 0 } else { 3 });
    if is_v4(before) {
        let header = usize::from(before[0] & 15) * 4;
        if let (Some(old), Some(new)) = (before.get(..header), after.get(..header)) {
            assert!(header < 20 || sum(&[old]) != 0xffff || sum(&[new]) == 0xffff);
        }
        after[10..12].copy_from_slice(&before[10..12]);
        after[1] = after[1] & !3 | before[1] & 3;
    } else {
        after[1] = after[1] & !0x30 | before[1] & 0x30;
    }
    assert!(after == before, "more than the ECN bits changed");
}

/// Checks that an answer goes to the sender, quotes the packet and has correct checksums.
fn check_answer(packet: &[u8], answer: &[u8]) {
    assert_eq!(packet::claimed_len(answer), Some(answer.len()));
    assert_eq!(packet::destination(answer), packet::source(packet));
    assert_eq!(packet::source(answer), packet::destination(packet));
    let header = if is_v4(answer) { 20 } else { 40 };
    assert!(answer.len() <= if is_v4(answer) { 576 } else { 1280 });
    assert!(packet.starts_with(&answer[header + 8..]));
    if is_v4(answer) {
        assert_eq!((sum(&[&answer[..20]]), sum(&[&answer[20..]])), (0xffff, 0xffff));
    } else {
        assert_eq!(transport_sum(answer, 40, 58), 0xffff);
    }
    assert!(icmp::unreachable(answer).is_none(), "an error is answered by an error");
}

fuzz_target!(|steps: Vec<Step>| {
    let mut wire = Wire::new();
    for step in steps {
        match step {
            Step::Seal(packet) => {
                check_packet(packet);
                wire.seal(packet);
            }
            Step::Skip(count) => _ = wire.sender.reserve(u64::from(count)),
            Step::SkipWindow(more) => _ = wire.sender.reserve(WINDOW - 4 + u64::from(more % 8)),
            Step::Arrive(which) => wire.arrive(&which),
            Step::ArriveChanged { which, edits, cut } => wire.arrive_changed(which, &edits, cut),
            Step::Bytes(bytes) => {
                assert!(message::kind(bytes) != Some(DATA) || bytes.len() >= DATA_HEADER_LEN + TAG_LEN);
                wire.arrive_bytes(bytes);
            }
        }
    }
});
