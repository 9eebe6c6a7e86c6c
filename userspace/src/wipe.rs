//! An allocator that wipes what is given back: keys live on the heap in many types, our own and other crates', and none
//! of them is to be found there afterwards. Nothing is allocated for each packet, so this costs next to nothing.

use std::alloc::{GlobalAlloc, Layout, System};

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
        // SAFETY: the block is ours for this length until it is given back; the call cannot be left out by the
        // optimiser, as it could were it a plain write to memory that is about to end. Miri knows no such call.
        unsafe {
            if cfg!(miri) {
                block.write_bytes(0, layout.size());
            } else {
                libc::explicit_bzero(block.cast(), layout.size());
            }
            System.dealloc(block, layout);
        }
    }
}
