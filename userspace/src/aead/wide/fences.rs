//! Tests each cipher with every packet placed between two inaccessible pages.

use std::ptr::null_mut;

use super::unlimited;
use crate::aead::exercised::exercised;
use crate::aead::{Cipher, Key, MANY, Message, MessageSet, TAG_LEN};

const PAGE: usize = 4096;
/// One accessible page between two inaccessible ones, per packet.
const STRIDE: usize = 2 * PAGE;

/// The position of a packet in its page.
#[derive(Clone, Copy, Debug)]
enum Side {
    /// At the start of the page, after an inaccessible page.
    Start,
    /// At the end of the page: an inaccessible page follows the tag.
    End,
}

/// The memory for one packet per lane.
struct Fenced(*mut u8);

impl Fenced {
    const LEN: usize = MANY * STRIDE + PAGE;

    fn new() -> Self {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: new memory at a place of the kernel's choice.
        let start = unsafe { libc::mmap(null_mut(), Self::LEN, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        for slot in 0..MANY {
            // SAFETY: the page is in the middle of what has just been mapped.
            let page = unsafe { start.byte_add(PAGE + slot * STRIDE) };
            // SAFETY: as above.
            assert_eq!(unsafe { libc::mprotect(page, PAGE, libc::PROT_READ | libc::PROT_WRITE) }, 0);
        }
        Self(start.cast())
    }

    /// All of the memory, including the fences; the messages define the accessible parts.
    fn buffer(&mut self) -> &mut [u8] {
        // SAFETY: the memory is mapped and borrowed once. The fences are part of the slice so that there is one buffer;
        // the tests show that they are never accessed.
        unsafe { std::slice::from_raw_parts_mut(self.0, Self::LEN) }
    }

    fn place(side: Side, slot: usize, len: usize) -> usize {
        let page = PAGE + slot * STRIDE;
        match side {
            Side::Start => page,
            Side::End => page + PAGE - len - TAG_LEN,
        }
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // SAFETY: this memory was mapped by `new`.
        unsafe { libc::munmap(self.0.cast(), Self::LEN) };
    }
}

fn bytes(message: &Message) -> std::ops::Range<usize> {
    message.at..message.at + message.len + TAG_LEN
}

/// Encrypts and decrypts packets of these lengths between fences, and compares the results with ring.
fn check(key: &Key, ring: &Key, memory: &mut Fenced, side: Side, lens: &[usize]) {
    let message = |(slot, &len)| Message { at: Fenced::place(side, slot, len), len, counter: slot as u64 };
    let messages: Vec<_> = lens.iter().enumerate().map(message).collect();
    let buffer = memory.buffer();
    messages.iter().for_each(|message| buffer[bytes(message)].fill(message.len as u8));
    key.seal(buffer, &messages);
    for message in &messages {
        let mut alone = vec![message.len as u8; message.len + TAG_LEN];
        ring.seal(&mut alone, &[Message { at: 0, ..*message }]);
        assert_eq!(buffer[bytes(message)], alone, "{side:?}, {lens:?}");
    }
    assert_eq!(key.open(buffer, &messages), MessageSet::first(messages.len()), "{side:?}, {lens:?}");
}

#[test]
fn no_cipher_touches_a_byte_outside_its_packets() {
    let (ring, mut memory) = (Key::new(&[7; 32], Cipher::Ring), Fenced::new());
    // All lengths up to slightly more than eight blocks, some of full packets, and the longest that fit a page.
    let lens: Vec<_> =
        (0..=150).chain([255, 256, 257, 511, 512, 513, 1420, 1424, 1440, 4079, 4080]).collect();
    for cipher in exercised() {
        let key = unlimited(&[7; 32], cipher);
        for side in [Side::Start, Side::End] {
            for (first, width) in (0..lens.len()).zip([MANY, 1, 9, 8, 2, 15].into_iter().cycle()) {
                let some: Vec<_> = (0..width).map(|slot| lens[(first + 3 * slot) % lens.len()]).collect();
                check(&key, &ring, &mut memory, side, &some);
            }
        }
    }
}

/// Whether the kernel kills a process that accesses the byte.
fn is_fatal(byte: *const u8) -> bool {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let number = |text| usize::from_str_radix(text, 16).expect("an address");
    let permissions = maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        (number(start)..number(end)).contains(&byte.addr()).then_some(&rest[..4])
    });
    permissions.expect("the byte is mapped") == "---p"
}

#[test]
fn accessing_a_byte_outside_a_fenced_packet_is_fatal() {
    let mut memory = Fenced::new();
    let start = memory.buffer().as_mut_ptr();
    for slot in 0..MANY {
        let (first, behind) = (Fenced::place(Side::Start, slot, 10), Fenced::place(Side::End, slot, 10) + 26);
        assert!(is_fatal(start.wrapping_add(first - 1)) && is_fatal(start.wrapping_add(behind)));
        assert!(!is_fatal(start.wrapping_add(first)) && !is_fatal(start.wrapping_add(behind - 1)));
    }
}
