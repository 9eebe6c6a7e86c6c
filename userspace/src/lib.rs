//! The modules of `wgq-userspace`, a userspace WireGuard daemon for Linux. They form a library for the fuzz targets,
//! benchmarks and integration tests.

pub mod aead;
pub mod allowed_ips;
pub(crate) mod capabilities;
pub(crate) mod checksum;
pub(crate) mod control;
pub(crate) mod cookie_replies;
pub mod device;
pub mod diagnostics;
pub mod exchange;
pub(crate) mod features;
pub(crate) mod headers;
pub mod icmp;
pub(crate) mod inbound;
pub(crate) mod interruption;
pub mod keys;
pub(crate) mod lifecycle;
pub mod locks;
pub mod log;
pub mod noise;
pub(crate) mod outbound;
pub mod packet;
pub mod peer;
pub mod query;
pub(crate) mod rtnetlink;
pub mod sandbox;
pub(crate) mod staged;
pub mod start;
pub(crate) mod sync;
pub mod sys;
pub(crate) mod timers;
pub mod tun;
#[cfg(test)]
mod two_devices;
pub mod uapi;
pub mod udp;
pub(crate) mod wake;
pub(crate) mod wipe;
pub(crate) mod work;
