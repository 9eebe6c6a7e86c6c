//! The configuration protocol of userspace implementations, <https://www.wireguard.com/xplatform/#configuration-protocol>.

pub(crate) mod apply;
pub(crate) mod counters;
pub mod parse;
pub mod server;
