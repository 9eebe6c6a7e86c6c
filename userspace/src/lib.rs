//! The parts of `wgq-userspace`, a userspace WireGuard daemon for Linux: a library so that its fuzz targets reach them.

pub mod aead;
pub mod allowed_ips;
pub mod control;
pub mod crowd;
pub mod device;
pub mod exchange;
pub mod features;
pub mod icmp;
pub mod inbound;
pub mod keys;
pub mod log;
pub mod noise;
pub mod outbound;
pub mod packet;
pub mod peer;
pub mod rtnetlink;
pub mod sandbox;
pub mod staged;
pub mod start;
pub mod sys;
pub mod timers;
pub mod tun;
pub mod uapi;
pub mod udp;
pub mod wipe;
