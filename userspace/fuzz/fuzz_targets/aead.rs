//! All ciphers encrypt and decrypt equally, for any positions and lengths of the messages, and change nothing else.
#![no_main]

use std::sync::LazyLock;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::aead::{Cipher, Key, MANY, Message, MessageSet, TAG_LEN};
use wgq_userspace_fuzz::host::edit;

#[path = "../../src/aead/exercised.rs"]
mod exercised;

/// The ciphers to test. As in the daemon's tests, a run fails if it cannot exercise a named cipher.
static CIPHERS: LazyLock<Vec<Cipher>> = LazyLock::new(exercised::exercised);

const MOST: usize = 40;

#[derive(Arbitrary, Debug)]
struct Input {
    key: [u8; 32],
    first: u64,
    /// The length of each message, and the number of bytes before it.
    messages: Vec<(u16, u8)>,
    /// The content of the packets, which is repeated.
    bytes: Vec<u8>,
    edits: Vec<(u16, u8)>,
}

fn laid_out(input: &Input) -> (Vec<u8>, Vec<Message>) {
    let (mut messages, mut end) = (Vec::new(), 0);
    for (i, &(len, gap)) in input.messages.iter().take(MOST).enumerate() {
        let (at, len) = (end + usize::from(gap), usize::from(len) % 2100);
        messages.push(Message { at, len, counter: input.first.wrapping_add(i as u64) });
        end = at + len + TAG_LEN;
    }
    let bytes = input.bytes.iter().copied().chain([0]).cycle();
    (bytes.take(end + 3).collect(), messages)
}

fn check_outside(before: &[u8], after: &[u8], messages: &[Message]) {
    let mut end = 0;
    for message in messages {
        assert!(before[end..message.at] == after[end..message.at], "a byte between two messages was changed");
        end = message.at + message.len + TAG_LEN;
    }
    assert!(before[end..] == after[end..], "a byte behind the messages was changed");
}

/// Checks that both keys decrypt the same messages, and to the original content.
fn check_opening(one: &Key, many: &Key, sealed: &[u8], plain: &[u8], messages: &[Message], changed: bool) {
    let (mut ours, mut theirs) = (sealed.to_vec(), sealed.to_vec());
    for messages in messages.chunks(MANY) {
        let opened = many.open(&mut ours, messages);
        assert_eq!(opened, one.open(&mut theirs, messages), "the ciphers judge differently");
        assert!(changed || opened == MessageSet::first(messages.len()), "what was sealed does not open");
        for (index, message) in messages.iter().enumerate().filter(|(index, _)| opened.contains(*index)) {
            let packet = message.at..message.at + message.len;
            assert!(ours[packet.clone()] == plain[packet], "message {index} came out changed");
        }
    }
}

fuzz_target!(|input: Input| {
    let one = Key::new(&input.key, Cipher::Ring);
    let (plain, messages) = laid_out(&input);
    let mut theirs = plain.clone();
    one.seal(&mut theirs, &messages);
    for &cipher in CIPHERS.iter() {
        let many = Key::new(&input.key, cipher);
        let mut sealed = plain.clone();
        many.seal(&mut sealed, &messages);
        assert!(sealed == theirs, "the ciphers seal differently");
        check_outside(&plain, &sealed, &messages);
        check_opening(&one, &many, &sealed, &plain, &messages, false);
        edit(&mut sealed, &input.edits);
        check_opening(&one, &many, &sealed, &plain, &messages, true);
    }
});
