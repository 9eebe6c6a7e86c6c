//! Wipes memory, so that no copy of a key outlives the key, on the heap or on a stack.
//!
//! The heap: the allocator wipes each block that is freed. Keys are there in many types, of this crate and of others.
//! Nothing is allocated per packet, so this costs almost nothing.
//!
//! The stacks: handshakes, ciphers and configuration requests copy keys into their frames. Code that handles a key outside
//! the bulk path runs in [`after`] and passes keys on through the heap only. Otherwise a later value on the same stack
//! could carry remains of a key to the heap in its padding. The control thread also wipes the stack below its loop after
//! each turn. The data threads wipe the stack below their loops when a session is removed
//! ([`crate::device::Device::state_mut`] wakes them), so this costs nothing per packet.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::mem::MaybeUninit;

/// How much stack the code that copies keys may use below a caller's frame. Tests check this for the handshake and the
/// ciphers, which need 18 KiB, and five times as much without optimisation.
pub(crate) const STACK_BYTES: usize = if cfg!(debug_assertions) { 128 << 10 } else { 64 << 10 };

/// Overwrites the stack below the caller's frame, where previously called functions had their frames.
#[inline(never)]
pub(crate) fn stack() {
    let mut below = MaybeUninit::<[u8; STACK_BYTES]>::uninit();
    // SAFETY: the array is ours for its whole length.
    unsafe { wipe(below.as_mut_ptr().cast(), STACK_BYTES) };
    black_box(&raw mut below);
}

/// Runs a function and then overwrites its stack frames. The result must not contain a key.
pub(crate) fn after<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    stack();
    done
}

#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Overwrites memory that is about to be freed. The optimiser cannot remove this, unlike a plain write.
///
/// # Safety
/// The caller owns the block for this length.
unsafe fn wipe(block: *mut u8, len: usize) {
    // SAFETY: as the caller promises. Miri does not support this call.
    unsafe {
        if cfg!(miri) {
            block.write_bytes(0, len);
        } else {
            libc::explicit_bzero(block.cast(), len);
        }
    }
}

struct Wiping;

#[global_allocator]
static ALLOCATOR: Wiping = Wiping;

// SAFETY: every call goes to the system allocator. `realloc` is the trait's default, which allocates, copies and frees.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller fulfils the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is ours for this length until it is freed.
        unsafe {
            wipe(block, layout.size());
            System.dealloc(block, layout);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::thread;

    use super::*;

    const PAINT: u8 = 0xa5;
    const PAINTED: usize = 512 << 10;

    /// Reads this process's memory at an address without a reference to it.
    fn memory(at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, at as u64).unwrap();
        bytes
    }

    /// Writes to the stack below the caller's frame and returns the address.
    #[inline(never)]
    fn paint<const LEN: usize>() -> usize {
        let mut area = [0; LEN];
        area.fill(PAINT);
        black_box(&raw mut area) as usize
    }

    /// How many bytes of stack a function takes.
    pub(crate) fn depth(work: impl FnOnce() + Send) -> usize {
        let measure = || {
            let lowest = apart(paint::<PAINTED>);
            apart(work);
            PAINTED - memory(lowest, PAINTED).iter().take_while(|&&byte| byte == PAINT).count()
        };
        thread::scope(|scope| {
            thread::Builder::new()
                .stack_size(4 * PAINTED)
                .spawn_scoped(scope, measure)
                .unwrap()
                .join()
                .unwrap()
        })
    }

    #[test]
    fn the_depth_of_a_frame_is_measured() {
        assert!((8192..12_288).contains(&depth(|| assert_ne!(paint::<8192>(), 0))));
    }

    #[test]
    fn remains_of_a_function_on_the_stack_are_overwritten() {
        // The deepest part, which reading it does not overwrite.
        let left = apart(paint::<{ STACK_BYTES / 2 }>);
        assert_eq!(memory(left, 1024), [PAINT; 1024], "nothing to be wiped");
        let wiped = after(paint::<{ STACK_BYTES / 2 }>);
        assert_eq!(memory(wiped, 1024), [0; 1024]);
    }
}
