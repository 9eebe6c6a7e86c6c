//! Counts the events that WireGuard does not report, per device and per peer, with the last occurrence of each kind. A
//! separate request on the control socket returns them.
//!
//! An event is recorded when something is dropped or a handshake proceeds, and never when a packet passes. A table holds one
//! record per kind, and at most [`MAX_VARIANTS`] of a kind with variants (keys, errors), so that forged messages cannot make
//! it grow. It contains no secret keys.
//!
//! The answer has lines of `key=value`, like the UAPI. The device's section comes first, then a section for each peer with
//! an event, which starts with its `public_key`. A section has `counting_ms`, the time since counting started, and then
//! the records of the events. Readers must skip unknown lines. A record has these lines:
//!
//! | line | meaning |
//! |---|---|
//! | `event` | the name; it starts the record |
//! | `count` | the number of occurrences since the device or peer was created |
//! | `age_ms` | milliseconds since the last occurrence, of `CLOCK_BOOTTIME`, so setting the clock does not change it |
//! | `from`, `to` | `ADDRESS:PORT` of the last outer packet; for `roamed` the old and the new endpoint |
//! | `static_key` | the public key that an initiation claimed and proved, in hexadecimal |
//! | `clock_sec`, `newest_sec` | seconds since 1970: the initiation's time stamp, and the newest one accepted before |
//! | `source`, `destination` | an address of the inner packet |
//! | `send_errno` | the errno of a send |
//! | `icmp`, `router`, `mtu` | the kind of an ICMP error, its sender, and the MTU in it |
//! | `reason` | why staged packets were dropped |
//!
//! If variants were replaced by newer ones, a record of the same name counts them, without details.

use std::fmt;
use std::io::{self, Write};
use std::mem::discriminant;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use crate::keys::{PublicKey, push_hex};
use crate::locks::lock;
use crate::noise::handshake::{Timestamp, unix_seconds};
use crate::packet::Address;
use crate::sys;

/// The most records of one kind of event.
pub(crate) const MAX_VARIANTS: usize = 8;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    // Events of the device.
    /// A datagram on the port is not a WireGuard message, by its type or length.
    Malformed,
    /// A handshake message arrived, and the device has no private key.
    NoPrivateKey,
    /// A handshake message is for another public key than ours.
    Mac1Invalid,
    /// The first MAC of an initiation is valid, the rest is not.
    InitiationUndecryptable,
    /// An initiation came from a key that no peer has.
    UnknownKey(PublicKey),
    /// A response matches no pending handshake.
    ResponseUnexpected,
    /// A cookie reply matches no handshake or session.
    CookieUnexpected,
    /// A data message has an index without a session: the session was removed or never existed.
    UnknownIndex,
    /// The device came under load: more handshake messages than can be answered.
    UnderLoad,
    /// Under load, a handshake message had no cookie.
    CookieMissing,
    CookieSent,
    /// Under load, a source exceeded its limit of handshake messages.
    RateLimited,
    /// The queue of handshake messages was full.
    QueueFull,
    /// A packet into the tunnel has a unicast destination that no peer has.
    NoPeer,
    // Events of a peer.
    InitiationSent,
    InitiationReceived,
    ResponseSent,
    /// The response that completes a handshake.
    ResponseReceived,
    /// The time stamp of an initiation is older than an accepted one.
    StaleTimestamp,
    /// The time stamp of an initiation equals the last accepted one.
    InitiationReplayed,
    /// More than fifty initiations arrived per second.
    InitiationFlood,
    /// The first MAC and the index of a response are valid, the rest is not: usually the preshared keys differ.
    ResponseUndecryptable,
    CookieReceived,
    CookieUndecryptable,
    HandshakeGivenUp,
    /// A data message belongs to an expired session.
    SessionExpired,
    Undecryptable,
    Replayed,
    /// The inner packet is not an IP packet.
    InnerMalformed,
    /// The source of the inner packet is not in the peer's allowed IPs.
    SourceNotAllowed,
    /// A packet is for a peer without an endpoint.
    NoEndpoint,
    StagedDropped(Reason),
    Roamed,
    /// The new endpoint is inside the tunnel.
    RoamRefused,
    // Events of a peer, or of the device if the peer is unknown.
    /// A system call refused to send packets.
    SendError(i32),
    Icmp(Icmp),
    /// Older variants of an event, which newer ones replaced.
    Others(&'static str),
}

/// Why packets that waited for a session were dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The queue was full.
    Overflow,
    /// No handshake succeeded within 90 seconds.
    HandshakeGivenUp,
    /// The link went down.
    LinkDown,
}

/// The kind of an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Icmp {
    NetUnreachable,
    HostUnreachable,
    PortUnreachable,
    Prohibited,
    TooBig,
    TimeExceeded,
    Other,
}

/// The details of the last occurrence of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About {
    Nothing,
    From(SocketAddr),
    To(SocketAddr),
    Moved { from: SocketAddr, to: SocketAddr },
    Clock { from: SocketAddr, stamp: Timestamp, newest: Timestamp },
    Source { from: SocketAddr, source: Option<Address> },
    Destination(Address),
    Icmp { router: IpAddr, to: SocketAddr, mtu: Option<u32> },
}

impl Event {
    pub(crate) fn send_error(error: &io::Error) -> Self {
        Self::SendError(error.raw_os_error().unwrap_or(libc::EIO))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::NoPrivateKey => "no_private_key",
            Self::Mac1Invalid => "mac1_invalid",
            Self::InitiationUndecryptable => "initiation_undecryptable",
            Self::UnknownKey(_) => "unknown_key",
            Self::ResponseUnexpected => "response_unexpected",
            Self::CookieUnexpected => "cookie_unexpected",
            Self::UnknownIndex => "unknown_index",
            Self::UnderLoad => "under_load",
            Self::CookieMissing => "cookie_missing",
            Self::CookieSent => "cookie_sent",
            Self::RateLimited => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::NoPeer => "no_peer",
            Self::InitiationSent => "initiation_sent",
            Self::InitiationReceived => "initiation_received",
            Self::ResponseSent => "response_sent",
            Self::ResponseReceived => "response_received",
            Self::StaleTimestamp => "stale_timestamp",
            Self::InitiationReplayed => "initiation_replayed",
            Self::InitiationFlood => "initiation_flood",
            Self::ResponseUndecryptable => "response_undecryptable",
            Self::CookieReceived => "cookie_received",
            Self::CookieUndecryptable => "cookie_undecryptable",
            Self::HandshakeGivenUp => "handshake_given_up",
            Self::SessionExpired => "session_expired",
            Self::Undecryptable => "undecryptable",
            Self::Replayed => "replayed",
            Self::InnerMalformed => "inner_malformed",
            Self::SourceNotAllowed => "source_not_allowed",
            Self::NoEndpoint => "no_endpoint",
            Self::StagedDropped(_) => "staged_dropped",
            Self::Roamed => "roamed",
            Self::RoamRefused => "roam_refused",
            Self::SendError(_) => "send_error",
            Self::Icmp(_) => "icmp",
            Self::Others(name) => name,
        }
    }

    /// Writes the line that distinguishes the variants of an event.
    fn push_variant(self, out: &mut Vec<u8>) {
        match self {
            Self::UnknownKey(key) => push_key(out, "static_key", &key),
            Self::SendError(errno) => push(out, "send_errno", errno),
            Self::Icmp(kind) => push(out, "icmp", kind.name()),
            Self::StagedDropped(reason) => push(out, "reason", reason.name()),
            _ => (),
        }
    }
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::HandshakeGivenUp => "handshake_given_up",
            Self::LinkDown => "link_down",
        }
    }
}

impl Icmp {
    fn name(self) -> &'static str {
        match self {
            Self::NetUnreachable => "net-unreachable",
            Self::HostUnreachable => "host-unreachable",
            Self::PortUnreachable => "port-unreachable",
            Self::Prohibited => "prohibited",
            Self::TooBig => "too-big",
            Self::TimeExceeded => "time-exceeded",
            Self::Other => "other",
        }
    }
}

fn push(out: &mut Vec<u8>, name: &str, value: impl fmt::Display) {
    let _ = writeln!(out, "{name}={value}");
}

/// Appends a line with a key in hexadecimal.
pub(crate) fn push_key(out: &mut Vec<u8>, name: &str, key: &PublicKey) {
    let _ = write!(out, "{name}=");
    push_hex(out, &key.0);
    out.push(b'\n');
}

impl About {
    fn push(&self, out: &mut Vec<u8>) {
        match self {
            Self::Nothing => (),
            Self::From(from) => push(out, "from", from),
            Self::To(to) => push(out, "to", to),
            Self::Moved { from, to } => {
                push(out, "from", from);
                push(out, "to", to);
            }
            Self::Clock { from, stamp, newest } => {
                push(out, "from", from);
                push(out, "clock_sec", unix_seconds(stamp));
                push(out, "newest_sec", unix_seconds(newest));
            }
            Self::Source { from, source } => {
                push(out, "from", from);
                if let Some(source) = source {
                    push(out, "source", source.ip());
                }
            }
            Self::Destination(address) => push(out, "destination", address.ip()),
            Self::Icmp { router, to, mtu } => {
                push(out, "router", router);
                push(out, "to", to);
                if let Some(mtu) = mtu {
                    push(out, "mtu", mtu);
                }
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Record {
    event: Event,
    count: u64,
    /// The time of the last occurrence, in milliseconds of `now_ms`.
    at: u64,
    about: About,
}

/// The events of a device or of a peer. It allocates nothing before the first event.
pub(crate) struct Events {
    since: u64,
    records: Mutex<Vec<Record>>,
}

impl Default for Events {
    fn default() -> Self {
        Self { since: sys::now_ms(), records: Mutex::default() }
    }
}

impl Events {
    #[cold]
    pub(crate) fn note(&self, event: Event, about: About) {
        self.note_many(event, 1, about);
    }

    /// Records `count` occurrences of an event. Does nothing if `count` is zero.
    #[inline]
    pub(crate) fn note_many(&self, event: Event, count: usize, about: About) {
        if count != 0 {
            self.add(event, count as u64, about);
        }
    }

    #[cold]
    fn add(&self, event: Event, count: u64, about: About) {
        let record = Record { event, count, at: sys::now_ms(), about };
        add(&mut lock(&self.records), record);
    }

    /// Appends a section for a time of `now_ms`.
    pub(crate) fn write(&self, out: &mut Vec<u8>, now: u64) {
        push(out, "counting_ms", now.saturating_sub(self.since));
        // The records are copied, so that no data thread waits while the text is written.
        let records = lock(&self.records).clone();
        for Record { event, count, at, about } in records {
            push(out, "event", event.name());
            push(out, "count", count);
            push(out, "age_ms", now.saturating_sub(at));
            event.push_variant(out);
            about.push(out);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.records).is_empty()
    }
}

fn add(records: &mut Vec<Record>, new: Record) {
    if let Some(known) = records.iter_mut().find(|known| known.event == new.event) {
        *known = Record { count: known.count + new.count, ..new };
        return;
    }
    let variants =
        || records.iter().enumerate().filter(|(_, r)| discriminant(&r.event) == discriminant(&new.event));
    let has_name = matches!(new.event, Event::Others(_));
    if has_name || variants().count() < MAX_VARIANTS {
        return records.push(new);
    }
    if let Some((oldest, _)) = variants().min_by_key(|(_, record)| record.at) {
        let old = records.remove(oldest);
        records.push(new);
        add(records, Record { event: Event::Others(old.event.name()), about: About::Nothing, ..old });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(events: &Events) -> String {
        let mut out = Vec::new();
        events.write(&mut out, sys::now_ms());
        let text = String::from_utf8(out).unwrap();
        let timeless = |line: &&str| !line.starts_with("age_ms=") && !line.starts_with("counting_ms=");
        text.lines().filter(timeless).map(|line| line.to_owned() + "\n").collect()
    }

    fn sender(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 51820))
    }

    #[test]
    fn events_are_counted_with_their_last_occurrence() {
        let events = Events::default();
        assert!(events.is_empty() && written(&events).is_empty());
        events.note(Event::Mac1Invalid, About::From(sender(1)));
        events.note(Event::Mac1Invalid, About::From(sender(2)));
        events.note_many(Event::QueueFull, 0, About::Nothing);
        events.note_many(Event::QueueFull, 7, About::Nothing);
        assert_eq!(
            written(&events),
            "event=mac1_invalid\ncount=2\nfrom=192.0.2.2:51820\nevent=queue_full\ncount=7\n"
        );
    }

    #[test]
    fn each_detail_is_written_with_its_name() {
        let events = Events::default();
        let mut stamp = [0; 12];
        stamp[..8].copy_from_slice(&((1_u64 << 62) + 10 + 86_400).to_be_bytes());
        let clock =
            About::Clock { from: sender(1), stamp: [0x40, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0], newest: stamp };
        events.note(Event::StaleTimestamp, clock);
        events.note(Event::SendError(libc::EPERM), About::To("[2001:db8::1]:9".parse().unwrap()));
        let source = Some(Address::V4([10, 0, 0, 1]));
        events.note(Event::SourceNotAllowed, About::Source { from: sender(1), source });
        events.note(Event::NoPeer, About::Destination(Address::V6([0xfd; 16])));
        let icmp = About::Icmp { router: sender(1).ip(), to: sender(2), mtu: Some(1400) };
        events.note(Event::Icmp(Icmp::TooBig), icmp);
        events.note(Event::StagedDropped(Reason::Overflow), About::Nothing);
        events.note(Event::Roamed, About::Moved { from: sender(1), to: sender(2) });
        let fd = "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd";
        assert_eq!(
            written(&events),
            format!(
                "event=stale_timestamp\ncount=1\nfrom=192.0.2.1:51820\nclock_sec=-1\nnewest_sec=86400\n\
                 event=send_error\ncount=1\nsend_errno=1\nto=[2001:db8::1]:9\n\
                 event=source_not_allowed\ncount=1\nfrom=192.0.2.1:51820\nsource=10.0.0.1\n\
                 event=no_peer\ncount=1\ndestination={fd}\n\
                 event=icmp\ncount=1\nicmp=too-big\nrouter=192.0.2.1\nto=192.0.2.2:51820\nmtu=1400\n\
                 event=staged_dropped\ncount=1\nreason=overflow\n\
                 event=roamed\ncount=1\nfrom=192.0.2.1:51820\nto=192.0.2.2:51820\n"
            )
        );
    }

    #[test]
    fn only_the_last_variants_are_kept_and_all_are_counted() {
        let events = Events::default();
        for number in 0..100_000_u32 {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            events.note(Event::UnknownKey(PublicKey(key)), About::From(sender(1)));
            events.note(Event::SendError(number as i32 % 1000), About::To(sender(1)));
        }
        let records = lock(&events.records).clone();
        assert_eq!(records.len(), 2 * (MAX_VARIANTS + 1));
        assert_eq!(records.iter().map(|record| record.count).sum::<u64>(), 200_000);
        let text = written(&events);
        assert!(
            text.contains("event=unknown_key\ncount=99992\nevent=") && text.contains("static_key=0001869f")
        );
    }
}
