//! What the fuzz targets share: a device without a link, packets with right checksums, and the laws said plainly.

pub mod frames;
pub mod host;
pub mod messages;
pub mod packets;
