//! Describes the offloads, the cipher and the sandbox in use.

use crate::aead::Cipher;
use crate::device::Device;
use crate::sandbox;
use crate::tun::{Offloads, Tun};
use crate::udp;

/// The request that a running daemon answers with its features.
pub(crate) const REQUEST: &str = "features=1";

fn lines(offloads: Offloads, segmentation: Option<bool>) -> String {
    let yes = |granted| if granted { "yes" } else { "no" };
    format!(
        "large TCP packets to and from the TUN device: {}\nlarge UDP packets to and from the TUN device: {}\n\
         large UDP sends to peers: {}\ncipher: {}\nsandbox: {}\n",
        yes(offloads.tcp),
        yes(offloads.udp),
        segmentation.map_or("unknown while the link is down", yes),
        Cipher::chosen().name(),
        sandbox::describe(),
    )
}

/// The features that a device uses.
pub(crate) fn of_device(device: &Device) -> String {
    lines(device.tun.offloads, device.sockets().map(|sockets| sockets.segments()))
}

/// The features that this kernel grants a device.
pub(crate) fn granted(tun: &Tun) -> std::io::Result<String> {
    Ok(lines(tun.offloads, Some(udp::can_segment()?)))
}

/// The features of a device that has just started, in one line.
pub(crate) fn at_start(tun: &Tun) -> std::io::Result<String> {
    Ok(granted(tun)?.trim_end().replace('\n', "; "))
}
