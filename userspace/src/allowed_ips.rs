//! Longest-prefix match from address to peer, as in the kernel's `allowedips.c`: a path-compressed binary trie per family,
//! and a list of each peer's prefixes in the order of addition.

use std::net::IpAddr;

/// Marks the absence of a node or of a peer.
pub const NONE: u32 = u32::MAX;

/// An address as an integer. The highest bit comes first.
trait Bits: Copy + Eq {
    const LEN: u8;
    fn bit(self, at: u8) -> usize;
    fn mask(self, len: u8) -> Self;
    fn common(self, other: Self) -> u8;
}

macro_rules! bits {
    ($int:ty, $len:expr) => {
        impl Bits for $int {
            const LEN: u8 = $len;

            fn bit(self, at: u8) -> usize {
                ((self >> (Self::LEN - 1 - at)) & 1) as usize
            }

            fn mask(self, len: u8) -> Self {
                if len == 0 { 0 } else { self & (Self::MAX << (Self::LEN - len)) }
            }

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8
            }
        }
    };
}

bits!(u32, 32);
bits!(u128, 128);

#[derive(Clone, Copy)]
struct Node<A> {
    bits: A,
    len: u8,
    /// The peer that owns the prefix, or `NONE` if the node is only a branch.
    peer: u32,
    child: [u32; 2],
    /// The neighbours in the peer's list.
    prev: u32,
    next: u32,
}

#[cfg_attr(test, derive(Clone))]
struct Trie<A> {
    nodes: Vec<Node<A>>,
    free: Vec<u32>,
    root: u32,
}

impl<A: Bits> Trie<A> {
    const fn new() -> Self {
        Self { nodes: Vec::new(), free: Vec::new(), root: NONE }
    }

    #[inline]
    fn lookup(&self, address: A) -> u32 {
        let (mut best, mut at) = (NONE, self.root);
        while let Some(node) = self.nodes.get(at as usize) {
            if node.bits != address.mask(node.len) {
                break;
            }
            if node.peer != NONE {
                best = node.peer;
            }
            if node.len == A::LEN {
                break;
            }
            at = node.child[address.bit(node.len)];
        }
        best
    }

    fn allocate(&mut self, bits: A, len: u8) -> u32 {
        let node = Node { bits, len, peer: NONE, child: [NONE; 2], prev: NONE, next: NONE };
        if let Some(id) = self.free.pop() {
            self.nodes[id as usize] = node;
            return id;
        }
        self.nodes.push(node);
        self.nodes.len() as u32 - 1
    }

    /// Finds or creates the node of a prefix.
    fn insert(&mut self, bits: A, len: u8) -> u32 {
        let bits = bits.mask(len);
        let (mut parent, mut side, mut at) = (NONE, 0, self.root);
        while at != NONE {
            let node = self.nodes[at as usize];
            let common = node.bits.common(bits).min(node.len).min(len);
            if common < node.len {
                return self.split(parent, side, at, common, (bits, len));
            }
            if node.len == len {
                return at;
            }
            (parent, side) = (at, bits.bit(node.len));
            at = node.child[side];
        }
        let id = self.allocate(bits, len);
        self.attach(parent, side, id);
        id
    }

    /// Inserts a prefix at a node with a different prefix.
    fn split(&mut self, parent: u32, side: usize, below: u32, common: u8, (bits, len): (A, u8)) -> u32 {
        let id = self.allocate(bits, len);
        let fork = if common == len { id } else { self.allocate(bits.mask(common), common) };
        let lower = self.nodes[below as usize].bits.bit(common);
        self.nodes[fork as usize].child[lower] = below;
        if fork != id {
            self.nodes[fork as usize].child[1 - lower] = id;
        }
        self.attach(parent, side, fork);
        id
    }

    fn attach(&mut self, parent: u32, side: usize, id: u32) {
        match self.nodes.get_mut(parent as usize) {
            Some(node) => node.child[side] = id,
            None => self.root = id,
        }
    }

    fn find(&self, bits: A, len: u8) -> Option<u32> {
        let bits = bits.mask(len);
        let mut at = self.root;
        while let Some(node) = self.nodes.get(at as usize) {
            if node.len == len && node.bits == bits {
                return (node.peer != NONE).then_some(at);
            }
            if node.len >= len || node.bits != bits.mask(node.len) {
                return None;
            }
            at = node.child[bits.bit(node.len)];
        }
        None
    }

    /// Removes the node of a prefix, and the branch above it if that has only one child left.
    fn remove(&mut self, id: u32) {
        self.nodes[id as usize].peer = NONE;
        let path = self.path(id);
        for (depth, &at) in path.iter().enumerate().rev() {
            let node = self.nodes[at as usize];
            if node.peer != NONE || node.child.iter().all(|&c| c != NONE) {
                return;
            }
            let heir = if node.child[0] == NONE { node.child[1] } else { node.child[0] };
            match depth.checked_sub(1).map(|above| path[above]) {
                None => self.root = heir,
                Some(above) => {
                    let side = node.bits.bit(self.nodes[above as usize].len);
                    self.nodes[above as usize].child[side] = heir;
                }
            }
            self.free.push(at);
            if heir != NONE {
                return;
            }
        }
    }

    fn path(&self, id: u32) -> Vec<u32> {
        let target = self.nodes[id as usize];
        let (mut path, mut at) = (Vec::new(), self.root);
        while at != NONE {
            path.push(at);
            if at == id {
                break;
            }
            at = self.nodes[at as usize].child[target.bits.bit(self.nodes[at as usize].len)];
        }
        path
    }
}

/// A node of either trie. The lowest bit selects the trie.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Entry(u32);

impl Entry {
    const NONE: Self = Self(NONE);

    fn index(self) -> usize {
        (self.0 >> 1) as usize
    }

    fn is_v6(self) -> bool {
        self.0 & 1 == 1
    }
}

/// An address with a prefix length, as the user wrote it (host bits are masked on insertion).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    pub address: IpAddr,
    pub len: u8,
}

#[derive(Clone, Copy)]
struct List {
    head: Entry,
    tail: Entry,
}

/// The prefixes of all peers. A peer is identified by its slot.
pub struct AllowedIps {
    v4: Trie<u32>,
    v6: Trie<u128>,
    lists: Vec<List>,
}

impl Default for AllowedIps {
    fn default() -> Self {
        Self { v4: Trie::new(), v6: Trie::new(), lists: Vec::new() }
    }
}

impl AllowedIps {
    /// The slot of the peer with the longest matching prefix, or `NONE`.
    #[inline]
    pub fn lookup_v4(&self, address: [u8; 4]) -> u32 {
        self.v4.lookup(u32::from_be_bytes(address))
    }

    #[inline]
    pub fn lookup_v6(&self, address: [u8; 16]) -> u32 {
        self.v6.lookup(u128::from_be_bytes(address))
    }

    /// Assigns a prefix to a peer, and removes it from its previous owner.
    pub fn insert(&mut self, prefix: Prefix, peer: u32) {
        let entry = match prefix.address {
            IpAddr::V4(a) => Entry(self.v4.insert(u32::from(a), prefix.len) << 1),
            IpAddr::V6(a) => Entry((self.v6.insert(u128::from(a), prefix.len) << 1) | 1),
        };
        let owner = self.owner(entry);
        if owner != NONE {
            self.unlink(entry, owner);
        }
        self.set_owner(entry, peer);
        self.append(entry, peer);
    }

    /// Removes a prefix from a peer. Does nothing if another peer owns it.
    pub fn remove(&mut self, prefix: Prefix, peer: u32) {
        let found = match prefix.address {
            IpAddr::V4(a) => self.v4.find(u32::from(a), prefix.len).map(|id| Entry(id << 1)),
            IpAddr::V6(a) => self.v6.find(u128::from(a), prefix.len).map(|id| Entry((id << 1) | 1)),
        };
        if let Some(entry) = found.filter(|&e| self.owner(e) == peer) {
            self.delete(entry, peer);
        }
    }

    /// Removes all prefixes of a peer.
    pub fn clear(&mut self, peer: u32) {
        while let Some(list) = self.lists.get(peer as usize).filter(|l| l.head != Entry::NONE) {
            self.delete(list.head, peer);
        }
    }

    /// The prefixes of a peer in the order of addition.
    pub fn of_peer(&self, peer: u32) -> impl Iterator<Item = Prefix> + '_ {
        let mut at = self.lists.get(peer as usize).map_or(Entry::NONE, |l| l.head);
        std::iter::from_fn(move || {
            (at != Entry::NONE).then(|| {
                let prefix = self.prefix(at);
                (_, at) = self.links(at);
                prefix
            })
        })
    }

    fn delete(&mut self, entry: Entry, peer: u32) {
        self.unlink(entry, peer);
        if entry.is_v6() {
            self.v6.remove(entry.index() as u32);
        } else {
            self.v4.remove(entry.index() as u32);
        }
    }

    fn prefix(&self, entry: Entry) -> Prefix {
        if entry.is_v6() {
            let node = &self.v6.nodes[entry.index()];
            Prefix { address: IpAddr::V6(node.bits.into()), len: node.len }
        } else {
            let node = &self.v4.nodes[entry.index()];
            Prefix { address: IpAddr::V4(node.bits.into()), len: node.len }
        }
    }

    fn owner(&self, entry: Entry) -> u32 {
        if entry.is_v6() { self.v6.nodes[entry.index()].peer } else { self.v4.nodes[entry.index()].peer }
    }

    fn set_owner(&mut self, entry: Entry, peer: u32) {
        if entry.is_v6() {
            self.v6.nodes[entry.index()].peer = peer;
        } else {
            self.v4.nodes[entry.index()].peer = peer;
        }
    }

    /// The previous and the next entry of the peer's list.
    fn links(&self, entry: Entry) -> (Entry, Entry) {
        let (prev, next) = if entry.is_v6() {
            let node = &self.v6.nodes[entry.index()];
            (node.prev, node.next)
        } else {
            let node = &self.v4.nodes[entry.index()];
            (node.prev, node.next)
        };
        (Entry(prev), Entry(next))
    }

    fn set_prev(&mut self, entry: Entry, prev: Entry) {
        if entry.is_v6() {
            self.v6.nodes[entry.index()].prev = prev.0;
        } else {
            self.v4.nodes[entry.index()].prev = prev.0;
        }
    }

    fn set_next(&mut self, entry: Entry, next: Entry) {
        if entry.is_v6() {
            self.v6.nodes[entry.index()].next = next.0;
        } else {
            self.v4.nodes[entry.index()].next = next.0;
        }
    }

    fn append(&mut self, entry: Entry, peer: u32) {
        let slot = peer as usize;
        if self.lists.len() <= slot {
            self.lists.resize(slot + 1, List { head: Entry::NONE, tail: Entry::NONE });
        }
        let tail = self.lists[slot].tail;
        self.set_prev(entry, tail);
        self.set_next(entry, Entry::NONE);
        if tail == Entry::NONE {
            self.lists[slot].head = entry;
        } else {
            self.set_next(tail, entry);
        }
        self.lists[slot].tail = entry;
    }

    fn unlink(&mut self, entry: Entry, peer: u32) {
        let (prev, next) = self.links(entry);
        if prev == Entry::NONE {
            self.lists[peer as usize].head = next;
        } else {
            self.set_next(prev, next);
        }
        if next == Entry::NONE {
            self.lists[peer as usize].tail = prev;
        } else {
            self.set_prev(next, prev);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        let (address, len) = text.split_once('/').unwrap();
        Prefix { address: address.parse().unwrap(), len: len.parse().unwrap() }
    }

    fn shown(table: &AllowedIps, peer: u32) -> Vec<String> {
        table.of_peer(peer).map(|p| format!("{}/{}", p.address, p.len)).collect()
    }

    #[test]
    fn the_longest_prefix_wins_in_each_family() {
        let mut table = AllowedIps::default();
        for (text, peer) in
            [("0.0.0.0/0", 0), ("10.0.0.0/8", 1), ("10.1.2.3/32", 2), ("::/0", 3), ("fd00::/8", 4)]
        {
            table.insert(prefix(text), peer);
        }
        assert_eq!(table.lookup_v4([192, 0, 2, 1]), 0);
        assert_eq!(table.lookup_v4([10, 1, 2, 4]), 1);
        assert_eq!(table.lookup_v4([10, 1, 2, 3]), 2);
        assert_eq!(table.lookup_v6([0xfd; 16]), 4);
        assert_eq!(table.lookup_v6([0x20; 16]), 3);
    }

    #[test]
    fn a_prefix_belongs_to_the_peer_it_was_assigned_to_last() {
        let mut table = AllowedIps::default();
        table.insert(prefix("10.0.0.0/24"), 0);
        table.insert(prefix("10.0.1.0/24"), 0);
        table.insert(prefix("10.0.0.9/24"), 1);
        assert_eq!(shown(&table, 0), ["10.0.1.0/24"]);
        assert_eq!(shown(&table, 1), ["10.0.0.0/24"]);
        assert_eq!(table.lookup_v4([10, 0, 0, 1]), 1);
    }

    #[test]
    fn a_peer_lists_its_prefixes_in_the_order_of_adding() {
        let mut table = AllowedIps::default();
        let order = ["fd00::/64", "10.0.0.0/8", "192.168.0.0/16", "10.9.0.0/16"];
        order.iter().for_each(|text| table.insert(prefix(text), 7));
        assert_eq!(shown(&table, 7), order);
        table.insert(prefix("fd00::/64"), 7);
        assert_eq!(shown(&table, 7).last().unwrap(), "fd00::/64");
    }

    #[test]
    fn only_its_owner_loses_a_removed_prefix() {
        let mut table = AllowedIps::default();
        table.insert(prefix("10.0.0.0/24"), 0);
        table.remove(prefix("10.0.0.0/24"), 1);
        assert_eq!(table.lookup_v4([10, 0, 0, 1]), 0);
        table.remove(prefix("10.0.0.0/24"), 0);
        assert_eq!(table.lookup_v4([10, 0, 0, 1]), NONE);
        assert_eq!(table.v4.free.len(), table.v4.nodes.len());
    }

    proptest! {
        #[test]
        fn lookups_match_a_linear_search(
            steps in prop::collection::vec((any::<u32>(), 0u8..=32, 0u32..4, any::<bool>()), 1..60),
            probes in prop::collection::vec(any::<u32>(), 20),
        ) {
            // Few distinct high bits make prefixes nest and collide.
            let squeeze = |a: u32| a & 0xc300_00c3;
            let mut table = AllowedIps::default();
            let mut model: Vec<(u32, u8, u32)> = Vec::new();
            for (bits, len, peer, add) in steps {
                let bits = squeeze(bits).mask(len);
                let wanted = Prefix { address: IpAddr::V4(bits.into()), len };
                if add {
                    table.insert(wanted, peer);
                    model.retain(|&(b, l, _)| (b, l) != (bits, len));
                    model.push((bits, len, peer));
                } else {
                    table.remove(wanted, peer);
                    model.retain(|&entry| entry != (bits, len, peer));
                }
            }
            for probe in probes.into_iter().map(squeeze) {
                let expected = model
                    .iter()
                    .filter(|&&(b, l, _)| probe.mask(l) == b)
                    .max_by_key(|&&(_, l, _)| l)
                    .map_or(NONE, |&(_, _, peer)| peer);
                prop_assert_eq!(table.lookup_v4(probe.to_be_bytes()), expected);
            }
            for peer in 0..4 {
                let listed: Vec<Prefix> = table.of_peer(peer).collect();
                let expected: Vec<Prefix> = model
                    .iter()
                    .filter(|&&(_, _, p)| p == peer)
                    .map(|&(b, len, _)| Prefix { address: IpAddr::V4(b.into()), len })
                    .collect();
                prop_assert_eq!(listed, expected);
                table.clear(peer);
            }
            prop_assert_eq!(table.v4.root, NONE);
            prop_assert_eq!(table.v4.free.len(), table.v4.nodes.len());
        }
    }

    /// Every trie of three-bit addresses and every change of it. By induction, any sequence of changes is correct.
    mod exhaustive {
        use super::*;

        impl Bits for u8 {
            const LEN: u8 = 3;

            fn bit(self, at: u8) -> usize {
                usize::from(self >> (2 - at) & 1)
            }

            fn mask(self, len: u8) -> Self {
                self & !(7 >> len)
            }

            fn common(self, other: Self) -> u8 {
                (self ^ other).leading_zeros() as u8 - 5
            }
        }

        /// The fifteen prefixes: bits and length.
        fn prefixes() -> Vec<(u8, u8)> {
            (0..=3).flat_map(|len| (0..1 << len).map(move |bits: u8| (bits << (3 - len), len))).collect()
        }

        /// The prefixes below a node. Checks the shape of the trie: every branch has two children, and each child is longer
        /// than its parent and on the right side.
        fn below(trie: &Trie<u8>, at: u32, found: &mut Vec<(u8, u8)>) {
            let Some(node) = trie.nodes.get(at as usize) else { return };
            assert_eq!(node.bits, node.bits.mask(node.len));
            assert!(node.peer != NONE || node.child.iter().all(|&child| child != NONE), "an idle fork");
            if node.peer != NONE {
                assert_eq!(node.peer, u32::from(node.bits) << 4 | u32::from(node.len));
                found.push((node.bits, node.len));
            }
            for (side, &child) in node.child.iter().enumerate().filter(|(_, child)| **child != NONE) {
                let lower = &trie.nodes[child as usize];
                assert!(lower.len > node.len && lower.bits.mask(node.len) == node.bits);
                assert_eq!(lower.bits.bit(node.len), side);
                below(trie, child, found);
            }
        }

        fn count(trie: &Trie<u8>, at: u32) -> usize {
            trie.nodes
                .get(at as usize)
                .map_or(0, |node| 1 + node.child.iter().map(|&child| count(trie, child)).sum::<usize>())
        }

        /// Checks that the trie holds these prefixes.
        fn check_shape(trie: &Trie<u8>, all: &[(u8, u8)], set: u16) {
            let mut found = Vec::with_capacity(all.len());
            below(trie, trie.root, &mut found);
            let place = |prefix| all.iter().position(|other| other == prefix).expect("one of them");
            assert_eq!(found.len(), set.count_ones() as usize);
            assert_eq!(found.iter().fold(0, |set, prefix| set | 1 << place(prefix)), set);
            assert_eq!(trie.nodes.len() - trie.free.len(), count(trie, trie.root), "a node is lost");
        }

        /// Checks that lookups match a linear search of these prefixes.
        fn check_answers(trie: &Trie<u8>, all: &[(u8, u8)], set: u16) {
            let is_in = |i: &usize| set >> i & 1 == 1;
            for (i, &(bits, len)) in all.iter().enumerate() {
                assert_eq!(trie.find(bits, len).is_some(), is_in(&i));
            }
            for address in 0..8 {
                let longest = (0..all.len()).filter(is_in).map(|i| all[i]);
                let longest =
                    longest.filter(|&(bits, len)| address.mask(len) == bits).max_by_key(|&(_, len)| len);
                let expected = longest.map_or(NONE, |(bits, len)| u32::from(bits) << 4 | u32::from(len));
                assert_eq!(trie.lookup(address), expected, "{address:03b} in {expected:?}");
            }
        }

        fn insert(trie: &mut Trie<u8>, (bits, len): (u8, u8)) {
            let id = trie.insert(bits, len);
            trie.nodes[id as usize].peer = u32::from(bits) << 4 | u32::from(len);
        }

        /// Tests each insertion and removal from each set of prefixes.
        #[test]
        fn every_change_of_every_trie_is_correct() {
            let all = prefixes();
            for set in 0..1_u16 << all.len() {
                let mut trie = Trie::new();
                (0..all.len()).filter(|i| set >> i & 1 == 1).for_each(|i| insert(&mut trie, all[i]));
                check_shape(&trie, &all, set);
                check_answers(&trie, &all, set);
                for (i, &prefix) in all.iter().enumerate() {
                    let mut changed = trie.clone();
                    match changed.find(prefix.0, prefix.1) {
                        Some(id) => changed.remove(id),
                        None => insert(&mut changed, prefix),
                    }
                    check_shape(&changed, &all, set ^ 1 << i);
                }
            }
        }
    }
}
