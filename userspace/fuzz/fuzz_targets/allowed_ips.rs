//! Lookups in the trie match a linear search of a list, and a peer's prefixes keep the order of addition.
#![no_main]

use std::net::IpAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use wgq_userspace::allowed_ips::{AllowedIps, NONE, Prefix};

const PEERS: u8 = 4;

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Address {
    V4(u32),
    V6(u128),
    /// Few distinct addresses, so that prefixes nest and collide.
    Near(u8),
    NearV6(u8),
}

#[derive(Arbitrary, Debug)]
enum Step {
    Insert(Address, u8, u8),
    Remove(Address, u8, u8),
    Clear(u8),
    LookUp(Address),
}

fn ip(address: Address) -> IpAddr {
    match address {
        Address::V4(bits) => IpAddr::V4(bits.into()),
        Address::V6(bits) => IpAddr::V6(bits.into()),
        Address::Near(bits) => IpAddr::V4((u32::from(bits & 0xf0) << 24 | u32::from(bits & 15)).into()),
        Address::NearV6(bits) => IpAddr::V6((u128::from(bits & 0xf0) << 120 | u128::from(bits & 15)).into()),
    }
}

/// The bits of an address, the highest one first, and their number.
fn bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()) << 96, 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn is_within(address: IpAddr, prefix: &Prefix) -> bool {
    let ((a, family), (b, other)) = (bits(address), bits(prefix.address));
    family == other && (a ^ b).checked_shr(128 - u32::from(prefix.len)).unwrap_or(0) == 0
}

fn same(a: &Prefix, b: &Prefix) -> bool {
    a.len == b.len && is_within(a.address, b)
}

/// The prefixes of all peers in the order of addition.
type Model = Vec<(Prefix, u32)>;

fn prefix(address: Address, len: u8) -> Prefix {
    let address = ip(address);
    Prefix { address, len: len % (bits(address).1 + 1) }
}

fn check_lookup(table: &AllowedIps, model: &Model, address: IpAddr) {
    let found = match address {
        IpAddr::V4(v4) => table.lookup_v4(v4.octets()),
        IpAddr::V6(v6) => table.lookup_v6(v6.octets()),
    };
    let within = model.iter().filter(|(prefix, _)| is_within(address, prefix));
    let expected = within.max_by_key(|(prefix, _)| prefix.len).map_or(NONE, |&(_, peer)| peer);
    assert_eq!(found, expected, "{address} in {model:?}");
}

fn check_lists(table: &AllowedIps, model: &Model) {
    for peer in 0..u32::from(PEERS) {
        let listed: Vec<_> = table.of_peer(peer).collect();
        let expected: Vec<_> =
            model.iter().filter(|(_, owner)| *owner == peer).map(|(prefix, _)| prefix).collect();
        assert_eq!(listed.len(), expected.len());
        for (listed, expected) in listed.iter().zip(expected) {
            assert!(same(listed, expected), "{listed:?} in the place of {expected:?}");
            assert_eq!(
                bits(listed.address).0.checked_shl(u32::from(listed.len)).unwrap_or(0),
                0,
                "host bits in {listed:?}"
            );
        }
    }
}

fuzz_target!(|steps: Vec<Step>| {
    let (mut table, mut model) = (AllowedIps::default(), Model::new());
    for step in steps {
        match step {
            Step::Insert(address, len, peer) => {
                let (prefix, peer) = (prefix(address, len), u32::from(peer % PEERS));
                table.insert(prefix, peer);
                model.retain(|(other, _)| !same(other, &prefix));
                model.push((prefix, peer));
            }
            Step::Remove(address, len, peer) => {
                let (prefix, peer) = (prefix(address, len), u32::from(peer % PEERS));
                table.remove(prefix, peer);
                model.retain(|(other, owner)| *owner != peer || !same(other, &prefix));
            }
            Step::Clear(peer) => {
                let peer = u32::from(peer % PEERS);
                table.clear(peer);
                model.retain(|(_, owner)| *owner != peer);
            }
            Step::LookUp(address) => check_lookup(&table, &model, ip(address)),
        }
    }
    check_lists(&table, &model);
    for (prefix, _) in &model {
        check_lookup(&table, &model, prefix.address);
    }
});
