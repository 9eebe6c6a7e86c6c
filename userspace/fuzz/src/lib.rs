//! The common parts of the fuzz targets: a device without a link, packets with correct checksums, and simple checks.

pub mod frames;
pub mod host;
pub mod messages;
pub mod packets;
