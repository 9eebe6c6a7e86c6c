//! The path of the control socket, at an address that the system call filter knows.
//!
//! A filter sees addresses and not the text behind them. So the one path that the daemon removes is in a page of its
//! own, which is sealed where the kernel can do that (mseal(2), Linux 6.10): the bytes at that address stay what they are.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::sys::check;

/// The same in the tables of all architectures (`include/uapi/asm-generic/unistd.h`).
pub const SYS_MSEAL: libc::c_long = 462;

/// A path in memory that is never given back and cannot be written to.
pub struct PinnedPath {
    text: &'static libc::c_char,
    len: usize,
}

impl PinnedPath {
    /// Copies a path into a page of its own; at most a page long.
    pub fn new(path: &Path) -> io::Result<Self> {
        let text = CString::new(path.as_os_str().as_bytes())?;
        let bytes = text.as_bytes_with_nul();
        // SAFETY: a new mapping of the path's length is written to before anyone else knows of it, and it is never
        // unmapped.
        unsafe {
            let page = libc::mmap(
                ptr::null_mut(),
                bytes.len(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            );
            if page == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), page.cast(), bytes.len());
            check(libc::mprotect(page, bytes.len(), libc::PROT_READ))?;
            Ok(Self { text: &*page.cast(), len: bytes.len() })
        }
    }

    /// Has the page stay as it is for good. Older kernels lack the call: the page is only read-only there.
    pub(crate) fn seal(&self) {
        // SAFETY: nobody writes to the page or gives it back.
        unsafe { libc::syscall(SYS_MSEAL, self.text, self.len, 0) };
    }

    /// Where the path is.
    pub fn address(&self) -> usize {
        ptr::from_ref(self.text) as usize
    }

    /// The inode of what the path leads to.
    pub fn inode(&self) -> io::Result<u64> {
        // SAFETY: all zeros are a valid structure, and the path ends with a zero.
        unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            check(libc::fstatat(libc::AT_FDCWD, self.text, &raw mut found, libc::AT_SYMLINK_NOFOLLOW))?;
            Ok(found.st_ino)
        }
    }

    /// Removes what is there.
    pub fn unlink(&self) -> io::Result<()> {
        // SAFETY: the path ends with a zero.
        check(unsafe { libc::unlinkat(libc::AT_FDCWD, self.text, 0) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_and_removes_what_is_at_its_path() {
        let path = std::env::temp_dir().join(format!("wgq-pinned-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let pinned = PinnedPath::new(&path).unwrap();
        assert!(pinned.inode().is_ok());
        pinned.unlink().unwrap();
        assert!(!path.exists());
        assert_eq!(pinned.inode().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
