//! The configuration protocol of userspace implementations, <https://www.wireguard.com/xplatform/#configuration-protocol>.

pub mod apply;
pub mod counters;
pub mod parse;
pub mod server;
