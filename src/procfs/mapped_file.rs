//! The file behind a mapping, which may have been deleted, or lie in another mount namespace or under another root.

use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::event::Vma;
use crate::units::Tid;

/// Larger files are not read: libc is 2 MB, a program with debug information some hundred.
pub const LARGEST: u64 = 4 << 30;

/// Opens the file behind `vma`, a line of the maps of `tid`: a regular file of the inode that the line shows, or none.
///
/// The path in a line of maps is relative to the root of whoever reads it, and may name another file by now. So what is
/// tried is /proc/PID/map_files (which needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE), the path under the target's
/// root, and the path as it is.
pub fn open(tid: Tid, vma: &Vma) -> Option<File> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&vma.name));
    let candidates = [
        PathBuf::from(format!("/proc/{tid}/map_files/{:x}-{:x}", vma.range.start().0, vma.range.end().0)),
        in_root_of(tid, path),
        path.to_owned(),
    ];
    candidates.iter().find_map(|candidate| {
        open_regular(candidate).filter(|file| file.metadata().is_ok_and(|of| of.ino() == vma.inode))
    })
}

/// Opens a regular file of acceptable size. What a target names must not make us wait for a FIFO, or touch a device.
pub fn open_regular(path: &Path) -> Option<File> {
    regular(OpenOptions::new().read(true).custom_flags(nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY).open(path).ok()?)
}

/// Opens a regular file by its path as the task sees it, symbolic links included: openat2(2).
pub fn open_in_root(tid: Tid, path: &Path) -> Option<File> {
    use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
    let root = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(format!("/proc/{tid}/root")).ok()?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, path, how) {
        Ok(file) => regular(file.into()),
        // Before Linux 5.6, or a container's seccomp filter: absolute links lead into our own root then.
        Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) => open_regular(&in_root_of(tid, path)),
        Err(_) => None,
    }
}

fn regular(file: File) -> Option<File> {
    let metadata = file.metadata().ok()?;
    (metadata.is_file() && metadata.len() <= LARGEST).then_some(file)
}

/// An absolute path as the task sees it.
pub fn in_root_of(tid: Tid, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{tid}/root")).join(path.strip_prefix("/").unwrap_or(path))
}
