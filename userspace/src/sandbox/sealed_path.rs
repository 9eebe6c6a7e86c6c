//! The path of the control socket, stored at a fixed address for the system call filter.
//!
//! A filter sees the address of a path and not its text. So the one path that the daemon removes is in a separate page.
//! The page is sealed if the kernel supports it (mseal(2), Linux 6.10): the bytes at that address cannot change.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use crate::sys::check;

/// The number of mseal(2), equal on all architectures (`include/uapi/asm-generic/unistd.h`).
pub const SYS_MSEAL: libc::c_long = 462;

/// A path in read-only memory that is never unmapped.
pub struct SealedPath {
    text: &'static libc::c_char,
    len: usize,
}

impl SealedPath {
    /// Copies a path into a separate page.
    pub fn new(path: &Path) -> io::Result<Self> {
        let text = CString::new(path.as_os_str().as_bytes())?;
        let bytes = text.as_bytes_with_nul();
        // SAFETY: the new mapping has the path's length. No other reference exists while it is written, and it is never
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

    /// Seals the page against any change. On older kernels without the call, the page is only read-only.
    pub(crate) fn seal(&self) {
        // SAFETY: the page is never written to or unmapped.
        unsafe { libc::syscall(SYS_MSEAL, self.text, self.len, 0) };
    }

    /// The address of the path.
    pub fn address(&self) -> usize {
        ptr::from_ref(self.text) as usize
    }

    /// The inode of the file at the path.
    pub fn inode(&self) -> io::Result<u64> {
        // SAFETY: all zeros are a valid structure, and the path ends with a zero.
        unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            check(libc::fstatat(libc::AT_FDCWD, self.text, &raw mut found, libc::AT_SYMLINK_NOFOLLOW))?;
            Ok(found.st_ino)
        }
    }

    /// Removes the file at the path.
    pub fn unlink(&self) -> io::Result<()> {
        // SAFETY: the path ends with a zero.
        check(unsafe { libc::unlinkat(libc::AT_FDCWD, self.text, 0) }).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_at_the_path_is_found_and_removed() {
        let path = std::env::temp_dir().join(format!("wgq-sealed-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let sealed = SealedPath::new(&path).unwrap();
        assert!(sealed.inode().is_ok());
        sealed.unlink().unwrap();
        assert!(!path.exists());
        assert_eq!(sealed.inode().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
