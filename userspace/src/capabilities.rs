//! The capabilities that a thread keeps (capabilities(7)).

use std::io;

use crate::sys::check;

/// For fwmarks and large socket buffers.
pub(crate) const CAP_NET_ADMIN: u32 = 12;
/// For ports below 1024, until the sockets are bound for the first time.
pub(crate) const CAP_NET_BIND_SERVICE: u32 = 10;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Drops all capabilities of this thread except these.
pub(crate) fn keep_capabilities(wanted: &[u32]) -> io::Result<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: both structures are laid out as capget(2) and capset(2) have them in version 3.
    unsafe {
        check(libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) as i32)?;
        let mask: u32 = wanted.iter().map(|cap| 1 << cap).sum();
        let kept = data[0].permitted & mask;
        data = [CapData { effective: kept, permitted: kept, inheritable: 0 }, CapData::default()];
        check(libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) as i32)?;
    }
    Ok(())
}
