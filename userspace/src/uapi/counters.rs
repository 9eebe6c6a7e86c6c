//! Answers the request for the events of the device and its peers (`diagnostics`).

use crate::device::Device;
use crate::diagnostics::push_key;
use crate::sys;

/// The request that a running daemon answers with these lines.
pub(crate) const REQUEST: &str = "diagnostics=1";

/// The answer to the request, without its errno.
pub(crate) fn of_device(device: &Device) -> Vec<u8> {
    let (state, now) = (device.state(), sys::now_ms());
    let mut out = Vec::new();
    device.events.write(&mut out, now);
    for peer in state.peers_in_order().into_iter().filter(|peer| !peer.events.is_empty()) {
        push_key(&mut out, "public_key", &peer.key);
        peer.events.write(&mut out, now);
    }
    out
}
