//! Limits the handshakes of a source under load: twenty per second with a burst of five, per IPv4 address and per IPv6 /64
//! network (the kernel's `ratelimiter.c`).

use std::collections::HashMap;
use std::net::IpAddr;

const PER_SECOND: u64 = 20;
const BURST: u64 = 5;
const COST_MS: u64 = 1000 / PER_SECOND;
const MAX_SAVED_MS: u64 = COST_MS * BURST;
/// The size of the table. More sources are rejected until it is cleared.
const MAX_SOURCES: usize = 16_384;
/// A source that was silent for this long is removed.
const FORGET_MS: u64 = 1000;

#[derive(Clone, Copy)]
struct Bucket {
    saved_ms: u64,
    last: u64,
}

#[derive(Default)]
pub struct RateLimiter {
    sources: HashMap<u128, Bucket>,
    cleaned: u64,
}

fn network(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

impl RateLimiter {
    /// Whether a source may start another handshake. If so, the handshake is counted.
    pub(crate) fn allows(&mut self, source: IpAddr, now: u64) -> bool {
        self.clean(now);
        let key = network(source);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key) {
            return false;
        }
        let bucket = self.sources.entry(key).or_insert(Bucket { saved_ms: MAX_SAVED_MS, last: now });
        bucket.saved_ms = (bucket.saved_ms + now.saturating_sub(bucket.last)).min(MAX_SAVED_MS);
        bucket.last = now;
        let allowed = bucket.saved_ms >= COST_MS;
        if allowed {
            bucket.saved_ms -= COST_MS;
        }
        allowed
    }

    fn clean(&mut self, now: u64) {
        if now.saturating_sub(self.cleaned) >= FORGET_MS {
            self.sources.retain(|_, bucket| now.saturating_sub(bucket.last) < FORGET_MS);
            self.cleaned = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_has_a_burst_of_five_and_twenty_per_second() {
        let mut limiter = RateLimiter::default();
        let allowed = |limiter: &mut RateLimiter, now| {
            (0..100).filter(|_| limiter.allows(ip("192.0.2.1"), now)).count()
        };
        assert_eq!(allowed(&mut limiter, 1000), 5);
        assert_eq!(allowed(&mut limiter, 1049), 0);
        assert_eq!(allowed(&mut limiter, 1050), 1);
        assert_eq!((1051..=2050).map(|now| allowed(&mut limiter, now)).sum::<usize>(), 20);
        assert!(limiter.allows(ip("192.0.2.2"), 2050));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_a_limit() {
        let mut limiter = RateLimiter::default();
        let allowed = (0..100).filter(|i| limiter.allows(ip(&format!("2001:db8::{i:x}")), 1000)).count();
        assert_eq!(allowed, 5);
        assert!(limiter.allows(ip("2001:db8:0:1::1"), 1000));
    }

    #[test]
    fn a_flood_does_not_grow_the_table_without_limit() {
        let mut limiter = RateLimiter::default();
        for i in 0..100_000u32 {
            limiter.allows(IpAddr::V4(i.into()), 1000);
        }
        assert_eq!(limiter.sources.len(), MAX_SOURCES);
        limiter.allows(ip("192.0.2.1"), 2000);
        assert_eq!(limiter.sources.len(), 1);
    }
}
