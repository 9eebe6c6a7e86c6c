//! Parses the text of a `set` request. Nothing is applied before the whole request is valid.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use crate::allowed_ips::Prefix;
use crate::keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey, parse_hex};
use crate::{sys, wipe};

/// The errno that answers a request.
pub(crate) type Errno = i32;

/// The changes that a `set` request makes. A setting without a line is unchanged.
#[derive(Debug, Default)]
pub struct SetDevice {
    pub private_key: Option<Box<PrivateKey>>,
    pub listen_port: Option<u16>,
    pub fwmark: Option<u32>,
    pub replace_peers: bool,
    pub peers: Vec<SetPeer>,
}

#[derive(Debug)]
pub struct SetPeer {
    pub key: PublicKey,
    pub remove: bool,
    pub update_only: bool,
    pub psk: Option<Box<PresharedKey>>,
    pub endpoint: Option<SocketAddr>,
    pub keepalive_seconds: Option<u16>,
    pub replace_allowed_ips: bool,
    pub allowed_ips: Vec<SetAllowedIp>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct SetAllowedIp {
    pub prefix: Prefix,
    /// Whether the prefix is removed: it is written with a leading `-`.
    pub remove: bool,
}

impl SetPeer {
    fn new(key: PublicKey) -> Self {
        Self {
            key,
            remove: false,
            update_only: false,
            psk: None,
            endpoint: None,
            keepalive_seconds: None,
            replace_allowed_ips: false,
            allowed_ips: Vec::new(),
        }
    }
}

/// Parses the lines of a request after its first one.
pub fn set(lines: &str) -> Result<SetDevice, Errno> {
    let mut device = SetDevice::default();
    for line in lines.lines() {
        let (key, value) = line.split_once('=').ok_or(libc::EPROTO)?;
        if key == "public_key" {
            device.peers.push(SetPeer::new(PublicKey(parse_hex(value).ok_or(libc::EINVAL)?)));
        } else if let Some(peer) = device.peers.last_mut() {
            peer_line(peer, key, value)?;
        } else {
            device_line(&mut device, key, value)?;
        }
    }
    Ok(device)
}

/// Parses the lines of `handshake=1` after its first one: the peers' public keys.
pub(crate) fn public_keys(lines: &str) -> Result<Vec<PublicKey>, Errno> {
    lines
        .lines()
        .map(|line| match line.split_once('=') {
            Some(("public_key", value)) => parse_hex(value).map(PublicKey).ok_or(libc::EINVAL),
            _ => Err(libc::EINVAL),
        })
        .collect()
}

fn device_line(device: &mut SetDevice, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "private_key" => device.private_key = Some(secret(value, PrivateKey::new)?),
        "listen_port" => device.listen_port = Some(number(value)?),
        "fwmark" => device.fwmark = Some(if value.is_empty() { 0 } else { number(value)? }),
        "replace_peers" => device.replace_peers = yes(value)?,
        _ => return Err(libc::EINVAL),
    }
    Ok(())
}

fn peer_line(peer: &mut SetPeer, key: &str, value: &str) -> Result<(), Errno> {
    match key {
        "remove" => peer.remove = yes(value)?,
        "update_only" => peer.update_only = yes(value)?,
        "preshared_key" => peer.psk = Some(secret(value, PresharedKey)?),
        "endpoint" => peer.endpoint = Some(endpoint(value).ok_or(libc::EINVAL)?),
        "persistent_keepalive_interval" => peer.keepalive_seconds = Some(number(value)?),
        "replace_allowed_ips" => peer.replace_allowed_ips = yes(value)?,
        "allowed_ip" => peer.allowed_ips.push(allowed_ip(value).ok_or(libc::EINVAL)?),
        "protocol_version" if value == "1" => (),
        _ => return Err(libc::EINVAL),
    }
    Ok(())
}

/// Parses a secret key onto the heap and wipes the stack.
fn secret<K>(value: &str, key: fn([u8; KEY_LEN]) -> K) -> Result<Box<K>, Errno> {
    wipe::after(|| parse_hex(value).map(|bytes| Box::new(key(bytes)))).ok_or(libc::EINVAL)
}

fn yes(value: &str) -> Result<bool, Errno> {
    if value == "true" { Ok(true) } else { Err(libc::EINVAL) }
}

/// Parses an unsigned number. Unlike `FromStr`, it rejects a leading `+`.
fn number<T: std::str::FromStr>(value: &str) -> Result<T, Errno> {
    if value.bytes().all(|b| b.is_ascii_digit()) {
        value.parse().map_err(|_| libc::EINVAL)
    } else {
        Err(libc::EINVAL)
    }
}

/// `192.0.2.1:51820`, `[2001:db8::1]:51820` or `[fe80::1%eth0]:51820`.
fn endpoint(value: &str) -> Option<SocketAddr> {
    let Some((host, zone)) = value.strip_prefix('[').and_then(|rest| rest.split_once('%')) else {
        return value.parse().ok();
    };
    let (zone, port) = zone.split_once("]:")?;
    // The name comes first, as for getaddrinfo(3), because a link's name may be a number. wg(8) sends names.
    let scope = match sys::interface_index(zone) {
        0 => number(zone).ok()?,
        index => index,
    };
    Some(SocketAddrV6::new(host.parse().ok()?, number(port).ok()?, 0, scope).into())
}

fn allowed_ip(value: &str) -> Option<SetAllowedIp> {
    let (remove, value) = match value.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, value.strip_prefix('+').unwrap_or(value)),
    };
    let (address, len) = value.split_once('/')?;
    let address: IpAddr = address.parse().ok()?;
    let len: u8 = number(len).ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    (len <= longest).then_some(SetAllowedIp { prefix: Prefix { address, len }, remove })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: &str = "0101010101010101010101010101010101010101010101010101010101010101";

    #[test]
    fn a_request_with_every_key_is_parsed() {
        let text = format!(
            "private_key={KEY}\nlisten_port=51820\nfwmark=51820\nreplace_peers=true\npublic_key={KEY}\n\
             preshared_key={KEY}\nendpoint=[2001:db8::1]:1\npersistent_keepalive_interval=25\nreplace_allowed_ips=true\n\
             allowed_ip=10.0.0.0/8\nallowed_ip=-fd00::/64\nprotocol_version=1\npublic_key={KEY}\nremove=true\n"
        );
        let device = set(&text).unwrap();
        assert_eq!(
            (device.listen_port, device.fwmark, device.replace_peers),
            (Some(51820), Some(51820), true)
        );
        let [first, second] = &device.peers[..] else { panic!("two peers") };
        assert_eq!(first.endpoint, Some("[2001:db8::1]:1".parse().unwrap()));
        assert_eq!((first.keepalive_seconds, first.replace_allowed_ips), (Some(25), true));
        assert_eq!(first.allowed_ips.iter().map(|a| a.remove).collect::<Vec<_>>(), [false, true]);
        assert!(second.remove && !first.remove);
    }

    #[test]
    fn an_invalid_line_is_rejected_with_its_errno() {
        let peer = |line: &str| set(&format!("public_key={KEY}\n{line}\n")).err();
        for line in [
            "allowed_ip=10.0.0.0",
            "allowed_ip=10.0.0.0/33",
            "allowed_ip=10.0.0.0/+8",
            "allowed_ip=fd00::/129",
            "endpoint=example.com:1",
            "endpoint=10.0.0.1",
            "endpoint=10.0.0.1:65536",
            "endpoint=[fe80::1%no-such-link]:1",
            "persistent_keepalive_interval=65536",
            "persistent_keepalive_interval=off",
            "preshared_key=00",
            "remove=false",
            "protocol_version=2",
            "listen_port=1",
            "unknown=1",
        ] {
            assert_eq!(peer(line), Some(libc::EINVAL), "{line}");
        }
        assert_eq!(set("listen_port=70000").err(), Some(libc::EINVAL));
        assert_eq!(set("fwmark=-1").err(), Some(libc::EINVAL));
        assert_eq!(set("no equals sign").err(), Some(libc::EPROTO));
    }

    #[test]
    fn a_scope_is_looked_up_by_interface_name() {
        let address = endpoint("[fe80::1%lo]:9").unwrap();
        assert_eq!(address, "[fe80::1%1]:9".parse().unwrap());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(private_key|public_key|allowed_ip|endpoint|remove|\\PC|[0-9a-f=:/.\\[\\]%\n-]){0,60}") {
            let _ = set(&text);
        }

        #[test]
        fn an_endpoint_reads_back_as_printed(ip: IpAddr, port: u16) {
            let address = SocketAddr::new(ip, port);
            prop_assert_eq!(endpoint(&address.to_string()), Some(address));
        }

        #[test]
        fn an_allowed_ip_reads_back_as_printed(address: IpAddr, len in 0u8..=32, remove: bool) {
            let text = format!("{}{address}/{len}", if remove { "-" } else { "" });
            prop_assert_eq!(allowed_ip(&text), Some(SetAllowedIp { prefix: Prefix { address, len }, remove }));
        }
    }
}
