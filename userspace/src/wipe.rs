//! No copy of a key stays in memory after the key is gone, neither on the heap nor on the stacks.
//!
//! The heap: an allocator wipes what is given back. Keys live there in many types, our own and other crates'. Nothing is
//! allocated for each packet, so this costs next to nothing.
//!
//! The stacks: handshakes, ciphers and configuration requests copy keys into their frames. What handles a key outside the
//! bulk path runs in [`after`] and hands keys on by the heap alone: a value that is built later on the same stack, with
//! room that it does not fill, would take what lies there along to the heap. The control thread also wipes below its loop
//! after each turn, before it waits again. The data threads wipe below their loops when a session is forgotten
//! ([`crate::device::Device::state_mut`] wakes them), so this costs nothing for each packet.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::mem::MaybeUninit;

/// How far below a caller's frame keys may be copied: tests hold the handshake and the ciphers to it. They take 18 KiB, and
/// five times as much where the compiler does not optimise.
pub(crate) const STACK_BYTES: usize = if cfg!(debug_assertions) { 128 << 10 } else { 64 << 10 };

/// Overwrites the stack below the caller's frame, where the functions that it called before had their frames.
#[inline(never)]
pub(crate) fn stack() {
    let mut below = MaybeUninit::<[u8; STACK_BYTES]>::uninit();
    // SAFETY: the array is ours for its whole length.
    unsafe { wipe(below.as_mut_ptr().cast(), STACK_BYTES) };
    black_box(&raw mut below);
}

/// Runs a function in frames of its own, then overwrites them. What it returns must hold no key.
pub(crate) fn after<T>(work: impl FnOnce() -> T) -> T {
    let done = apart(work);
    stack();
    done
}

#[inline(never)]
fn apart<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Overwrites memory that is about to be given up. The optimiser cannot leave this out, as it could a plain write.
///
/// # Safety
/// The block is the caller's for this length.
unsafe fn wipe(block: *mut u8, len: usize) {
    // SAFETY: the caller's promise. Miri knows no such call.
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

// SAFETY: every call is the system allocator's own. `realloc` is the trait's, which allocates, copies and gives back.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the trait's promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block is ours for this length until it is given back.
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

    /// What the memory of this process holds at an address; no reference to it is needed.
    fn memory(at: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        File::open("/proc/self/mem").unwrap().read_exact_at(&mut bytes, at as u64).unwrap();
        bytes
    }

    /// Writes to the stack below the caller's frame; the address of what is written.
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
    fn the_depth_is_that_of_the_frames() {
        assert!((8192..12_288).contains(&depth(|| assert_ne!(paint::<8192>(), 0))));
    }

    #[test]
    fn what_a_function_leaves_on_the_stack_is_overwritten() {
        // The deepest part: the reading of it does not reach so far.
        let left = apart(paint::<{ STACK_BYTES / 2 }>);
        assert_eq!(memory(left, 1024), [PAINT; 1024], "nothing to be wiped");
        let wiped = after(paint::<{ STACK_BYTES / 2 }>);
        assert_eq!(memory(wiped, 1024), [0; 1024]);
    }
}
