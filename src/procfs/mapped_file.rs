//! The file behind a mapping, which may have been deleted, or lie in another mount namespace or under another root.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use super::patience::{NAMES, Supplier, answering, mounts_of, patiently, supplier};
use crate::event::Vma;
use crate::units::Tid;

/// Larger files are not read: libc is 2 MB, a program with debug information some hundred.
pub const LARGEST: u64 = 4 << 30;

/// Opens the file behind `vma`, a line of the maps of `tid`: a regular file of the inode that the line shows, or none.
///
/// The path in a line of maps is relative to the root of whoever reads it, and may name another file by now. So what is
/// tried is /proc/PID/map_files (which needs CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE), the path under the target's
/// root, and the path as it is.
///
/// Of a file that a program serves it is a copy, if there is an answer in bounded time.
pub fn open(tid: Tid, vma: &Vma) -> Option<File> {
    let of_thread = vma.clone();
    if supplier(mounts_of(tid), vma.device) == Supplier::Program {
        return patiently(vma.device, move || answering(open_anyhow(tid, &of_thread)?)).flatten();
    }
    open_mapped(tid, vma).or_else(|| patiently(NAMES, move || open_named(tid, &of_thread)).flatten())
}

/// Up to `bytes` of the file behind a line of maps, from `offset` on, if there is an answer in bounded time.
pub(super) fn read_at(tid: Tid, vma: &Vma, offset: u64, bytes: usize) -> Option<Vec<u8>> {
    let of_thread = vma.clone();
    let read = move || {
        let mut contents = vec![0; bytes];
        let read = open_anyhow(tid, &of_thread)?.read_at(&mut contents, offset).ok()?;
        contents.truncate(read);
        Some(contents)
    };
    patiently(vma.device, read).flatten()
}

fn open_anyhow(tid: Tid, vma: &Vma) -> Option<File> {
    open_mapped(tid, vma).or_else(|| open_named(tid, vma))
}

fn open_mapped(tid: Tid, vma: &Vma) -> Option<File> {
    let link = format!("/proc/{tid}/map_files/{:x}-{:x}", vma.range.start().0, vma.range.end().0);
    open_regular(Path::new(&link)).filter(|file| is_it(file, vma))
}

fn open_named(tid: Tid, vma: &Vma) -> Option<File> {
    let path = Path::new(std::ffi::OsStr::from_bytes(&vma.name));
    let mut named = [open_in_root(tid, path), open_regular(path)].into_iter().flatten();
    named.find(|file| is_it(file, vma) && may_be_on(file, vma.device))
}

fn is_it(file: &File, vma: &Vma) -> bool {
    file.metadata().is_ok_and(|of| of.ino() == vma.inode)
}

/// Whether a file can lie on the device of a line of maps. Number alone would not do: whoever can mount a file system of
/// his own can give a file any number, and put a link to another one of ours in its place.
///
/// overlayfs and btrfs show other devices in maps than stat(2) does.
fn may_be_on(file: &File, device: u32) -> bool {
    use nix::sys::stat::{major, minor};
    use nix::sys::statfs::{BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC, fstatfs};
    let dev = file.metadata().map(|of| of.dev()).unwrap_or(0);
    let same = u64::from(device) == (major(dev) << 20 | minor(dev));
    let of_own = |kind| [BTRFS_SUPER_MAGIC, OVERLAYFS_SUPER_MAGIC].contains(&kind);
    same || fstatfs(file).is_ok_and(|of| of_own(of.filesystem_type()))
}

/// Opens a regular file of acceptable size. What a target names must not make us wait for a FIFO, wake who waits at its
/// other end, or touch a device: some do something when they are opened. So it is looked at first, and then opened.
pub fn open_regular(path: &Path) -> Option<File> {
    regular(OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(path).ok()?)
}

/// Opens a regular file by its path as the task sees it, symbolic links included: openat2(2).
pub fn open_in_root(tid: Tid, path: &Path) -> Option<File> {
    in_root(tid, path, ResolveFlag::RESOLVE_NO_MAGICLINKS)
}

/// The same for a file that anybody may have put there, contents of which are shown: no link may lead to another one.
pub fn open_unlinked_in_root(tid: Tid, path: &Path) -> Option<File> {
    in_root(tid, path, ResolveFlag::RESOLVE_NO_SYMLINKS).filter(has_one_name)
}

/// The same by its path as we see it.
pub fn open_unlinked(path: &Path) -> Option<File> {
    let flags = nix::libc::O_PATH | nix::libc::O_NOFOLLOW;
    regular(OpenOptions::new().read(true).custom_flags(flags).open(path).ok()?).filter(has_one_name)
}

fn has_one_name(file: &File) -> bool {
    file.metadata().is_ok_and(|of| of.nlink() == 1)
}

fn in_root(tid: Tid, path: &Path, resolve: ResolveFlag) -> Option<File> {
    let root = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(format!("/proc/{tid}/root")).ok()?;
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT | resolve);
    match openat2(&root, path, how) {
        Ok(file) => regular(file.into()),
        // Before Linux 5.6, or a container's seccomp filter: links would lead into our own root.
        Err(Errno::ENOSYS | Errno::EPERM) => open_unlinked(&in_root_of(tid, path)),
        Err(_) => None,
    }
}

/// Opens for reading what was opened as a path, if it is a regular file.
fn regular(path: File) -> Option<File> {
    let metadata = path.metadata().ok()?;
    if !metadata.is_file() || metadata.len() > LARGEST {
        return None;
    }
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let itself = format!("/proc/self/fd/{}", path.as_raw_fd());
    OpenOptions::new().read(true).custom_flags(flags).open(itself).ok()
}

/// An absolute path as the task sees it.
pub fn in_root_of(tid: Tid, path: &Path) -> PathBuf {
    PathBuf::from(format!("/proc/{tid}/root")).join(path.strip_prefix("/").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    fn own() -> Tid {
        Tid(std::process::id() as i32)
    }

    /// A FIFO is not opened: whoever waits at its other end would notice.
    #[test]
    fn no_fifo_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        let writer = || OpenOptions::new().write(true).custom_flags(nix::libc::O_NONBLOCK).open(&fifo);
        // inotify tells of every opening, whoever it is by.
        use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
        let watch = Inotify::init(InitFlags::IN_NONBLOCK).unwrap();
        watch.add_watch(&fifo, AddWatchFlags::IN_OPEN).unwrap();
        assert!(open_regular(&fifo).is_none() && open_in_root(own(), &fifo).is_none());
        assert_eq!(watch.read_events().unwrap_err(), Errno::EAGAIN);
        assert!(writer().is_err(), "nobody reads");
    }

    /// Devices, folders and sockets are no regular files; links to regular ones are followed where they may be.
    #[test]
    fn links_are_followed_where_they_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let [file, link, other, loops] = ["file", "link", "other", "loops"].map(|name| folder.path().join(name));
        std::fs::write(&file, "text").unwrap();
        symlink(&file, &link).unwrap();
        symlink(&loops, &loops).unwrap();
        symlink("/dev/zero", folder.path().join("zero")).unwrap();
        for none in [folder.path(), Path::new("/dev/zero"), &folder.path().join("zero"), &loops] {
            assert!(open_regular(none).is_none() && open_in_root(own(), none).is_none(), "{none:?}");
        }
        assert!(open_regular(&link).is_some() && open_in_root(own(), &link).is_some());
        assert!(open_unlinked(&file).is_some() && open_unlinked_in_root(own(), &file).is_some());
        assert!(open_unlinked(&link).is_none() && open_unlinked_in_root(own(), &link).is_none());
        std::fs::hard_link(&file, &other).unwrap();
        assert!(open_unlinked(&other).is_none() && open_unlinked_in_root(own(), &other).is_none());
    }

    /// A line of maps whose path has come to mean a file of another device is not believed, whatever the number.
    #[test]
    fn another_file_of_the_same_number_is_not_taken() {
        let maps = crate::procfs::maps::read(own()).unwrap();
        let ours = maps.iter().find(|vma| vma.is_file() && vma.name.starts_with(b"/")).unwrap();
        assert!(open(own(), ours).is_some());
        let path = std::fs::canonicalize("/proc/self/cmdline").unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        let name = path.as_os_str().as_bytes().into();
        assert!(open(own(), &Vma { name, inode, ..ours.clone() }).is_none());
    }

    /// A file that is too large is not opened, even where it takes no room on its disk.
    #[test]
    fn files_are_bounded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, opened) in [(LARGEST, true), (LARGEST + 1, false)] {
            file.as_file().set_len(bytes).unwrap();
            let found = [open_regular(file.path()), open_unlinked(file.path()), open_in_root(own(), file.path())];
            assert_eq!(found.map(|file| file.is_some()), [opened; 3], "{bytes}");
        }
    }
}
