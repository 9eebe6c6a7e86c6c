//! Configuration requests: a rejected one changes nothing, an accepted one has the same effect as on a simple model, and
//! setting the answer to `get` restores the same device.
#![no_main]

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use wgq_userspace::allowed_ips::Prefix;
use wgq_userspace::device::Device;
use wgq_userspace::keys::{PrivateKey, PublicKey};
use wgq_userspace::uapi::parse::{self, SetDevice, SetPeer};
use wgq_userspace::uapi::server::answer;
use wgq_userspace_fuzz::host::device;

#[derive(Debug)]
struct ModelPeer {
    key: PublicKey,
    psk: [u8; 32],
    endpoint: Option<SocketAddr>,
    keepalive: u16,
    allowed: Vec<Prefix>,
}

#[derive(Default)]
struct Model {
    private: Option<PrivateKey>,
    port: u16,
    mark: u32,
    peers: Vec<ModelPeer>,
}

fn masked(prefix: Prefix) -> Prefix {
    let address = match prefix.address {
        IpAddr::V4(v4) => {
            let host = u32::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & !host).into()
        }
        IpAddr::V6(v6) => {
            let host = u128::MAX.checked_shr(prefix.len.into()).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & !host).into()
        }
    };
    Prefix { address, ..prefix }
}

impl Model {
    fn set(&mut self, request: &SetDevice) {
        self.port = request.listen_port.unwrap_or(self.port);
        self.mark = request.fwmark.unwrap_or(self.mark);
        if request.replace_peers {
            self.peers.clear();
        }
        if let Some(private) = &request.private_key {
            self.private = (!private.is_zero()).then(|| PrivateKey::clone(private));
            let own = self.own();
            self.peers.retain(|peer| Some(peer.key) != own);
        }
        request.peers.iter().for_each(|peer| self.set_peer(peer));
    }

    fn own(&self) -> Option<PublicKey> {
        self.private.as_ref().map(PrivateKey::public)
    }

    fn set_peer(&mut self, change: &SetPeer) {
        if change.remove {
            return self.peers.retain(|peer| peer.key != change.key);
        }
        let found = self.peers.iter().position(|peer| peer.key == change.key);
        if found.is_none() && (change.update_only || self.own() == Some(change.key)) {
            return;
        }
        let at = found.unwrap_or_else(|| {
            let new = ModelPeer {
                key: change.key,
                psk: [0; 32],
                endpoint: None,
                keepalive: 0,
                allowed: Vec::new(),
            };
            self.peers.push(new);
            self.peers.len() - 1
        });
        let peer = &mut self.peers[at];
        peer.psk = change.psk.as_ref().map_or(peer.psk, |psk| psk.0);
        peer.endpoint = change.endpoint.or(peer.endpoint);
        peer.keepalive = change.keepalive_seconds.unwrap_or(peer.keepalive);
        if change.replace_allowed_ips {
            peer.allowed.clear();
        }
        for allowed in &change.allowed_ips {
            let prefix = masked(allowed.prefix);
            if allowed.remove {
                self.peers[at].allowed.retain(|other| *other != prefix);
            } else {
                self.peers.iter_mut().for_each(|peer| peer.allowed.retain(|other| *other != prefix));
                self.peers[at].allowed.push(prefix);
            }
        }
    }

    /// The answer to `get`.
    fn listing(&self) -> String {
        let mut out = String::new();
        if let Some(private) = &self.private {
            let _ = writeln!(out, "private_key={}", hex(private.bytes()));
        }
        for (name, number) in [("listen_port", self.port.into()), ("fwmark", self.mark)] {
            if number != 0 {
                let _ = writeln!(out, "{name}={number}");
            }
        }
        self.peers.iter().for_each(|peer| peer.write(&mut out));
        out
    }
}

impl ModelPeer {
    fn write(&self, out: &mut String) {
        let _ = writeln!(out, "public_key={}\npreshared_key={}", hex(&self.key.0), hex(&self.psk));
        out.push_str("protocol_version=1\n");
        if let Some(endpoint) = self.endpoint {
            let _ = writeln!(out, "endpoint={endpoint}");
        }
        for counter in ["last_handshake_time_sec", "last_handshake_time_nsec", "tx_bytes", "rx_bytes"] {
            let _ = writeln!(out, "{counter}=0");
        }
        let _ = writeln!(out, "persistent_keepalive_interval={}", self.keepalive);
        for prefix in &self.allowed {
            let _ = writeln!(out, "allowed_ip={}/{}", prefix.address, prefix.len);
        }
    }
}

fn hex(key: &[u8; 32]) -> String {
    key.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn ask(device: &Device, request: &[u8]) -> String {
    String::from_utf8(answer(device, request)).expect("an answer is text")
}

fn listing(device: &Device) -> String {
    let answer = ask(device, b"get=1\n\n");
    answer.strip_suffix("errno=0\n\n").expect("`get' is answered").to_owned()
}

/// The requests of a connection, each up to its empty line.
fn requests(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let end = bytes.windows(2).position(|pair| pair == b"\n\n")? + 2;
        let (request, rest) = bytes.split_at(end);
        bytes = rest;
        Some(request)
    })
}

fn check(device: &Device, model: &mut Model, request: &[u8]) {
    let answered = ask(device, request);
    let (_, errno) = answered.rsplit_once("errno=").expect("each answer ends with an errno");
    let errno: i32 = errno.strip_suffix("\n\n").and_then(|number| number.parse().ok()).expect("a number");
    assert!(errno <= 0 && (errno == 0 || answered.starts_with("errno=")), "{answered}");
    let text = std::str::from_utf8(request).ok().and_then(|text| text.strip_prefix("set=1\n"));
    match text.map(|text| parse::set(text.strip_suffix('\n').unwrap_or(text))) {
        Some(Ok(wanted)) => {
            assert_eq!(errno, 0, "what was understood is refused");
            model.set(&wanted);
        }
        Some(Err(reason)) => assert_eq!(errno, -reason),
        None => (),
    }
    assert_eq!(listing(device), model.listing());
}

/// Checks that setting the answer to `get` restores the same device.
fn check_round_trip(before: &str) {
    let lines = before
        .lines()
        .filter(|line| !["last_handshake", "tx_", "rx_"].iter().any(|counter| line.starts_with(counter)));
    let request: String = ["set=1"].into_iter().chain(lines).chain(["", ""]).collect::<Vec<_>>().join("\n");
    let device = device();
    assert_eq!(ask(device, request.as_bytes()), "errno=0\n\n");
    assert_eq!(listing(device), before);
}

fuzz_target!(|bytes: &[u8]| {
    let (device, mut model) = (device(), Model::default());
    requests(bytes).for_each(|request| check(device, &mut model, request));
    check_round_trip(&listing(device));
});
