//! Encrypts and decrypts data messages with a session.

use wgq_userspace::aead::{MANY, Message};
use wgq_userspace::noise::message::{DATA_HEADER_LEN, TAG_LEN};
use wgq_userspace::noise::session::Session;

/// A data message with a packet in it.
pub fn seal(session: &Session, counter: u64, packet: &[u8]) -> Vec<u8> {
    let mut message = [&[0; DATA_HEADER_LEN], packet, &[0; TAG_LEN]].concat();
    session.seal(&mut message, &[Message { at: DATA_HEADER_LEN, len: packet.len(), counter }]);
    message
}

/// The packet in a data message that is long enough to be one.
pub fn open(session: &Session, message: &[u8]) -> Option<Vec<u8>> {
    open_together(session, &[message]).pop().flatten()
}

/// The packets in consecutive data messages, as from one read.
pub fn open_together(session: &Session, messages: &[&[u8]]) -> Vec<Option<Vec<u8>>> {
    let mut buffer = messages.concat();
    let mut end = 0;
    let places = messages.iter().map(|message| {
        let at = end + DATA_HEADER_LEN;
        end += message.len();
        let counter = u64::from_le_bytes(message[8..16].try_into().expect("eight bytes"));
        Message { at, len: message.len() - DATA_HEADER_LEN - TAG_LEN, counter }
    });
    let places: Vec<_> = places.collect();
    let opened = session.open(&mut buffer, &places).accepted;
    assert!((messages.len()..MANY).all(|index| !opened.contains(index)), "more was opened than came");
    let packet = |(index, place): (usize, &Message)| {
        opened.contains(index).then(|| buffer[place.at..place.at + place.len].to_vec())
    };
    places.iter().enumerate().map(packet).collect()
}
