//! Files that may never answer: those of file systems that a program serves (FUSE).
//!
//! That program may have been stopped, by us for one: it can be a child of the program that is followed. Whoever opens or
//! reads such a file then waits for it, and cannot be interrupted. So a thread of its own does that, and copies it, and is
//! waited for during a bounded time. All other files are read at once; but what is looked up by a name in the target's root
//! may pass through anything that is mounted there.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::sys::statfs::{FUSE_SUPER_MAGIC, fstatfs};

use crate::sys;
use crate::units::Tid;

/// How long a file system is waited for; the target may stand still meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// Stands for all that is looked up by a name in the target's root, where anything may be mounted.
pub const NAMES: u32 = u32::MAX;

/// Larger files are not copied, in bytes.
const LARGEST: u64 = 256 << 20;

/// File systems, by device, that are still being waited for.
static SILENT: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Who supplies what is missing of the files on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Supplier {
    /// A disk, or another machine: it is waited for.
    Storage,
    /// The kernel: files in memory, and nodes of devices.
    Kernel,
    /// A program, or nobody knows.
    Program,
}

/// The supplier of a device's files, the device as maps have it, by tables of mounts: /proc/PID/mountinfo, in which the one
/// of the task comes first. Where they know nothing of a device that has no hardware, it may be a program.
///
/// Not asked by statfs(2): the file system itself would have to answer.
pub(super) fn supplier<R: BufRead>(tables: impl IntoIterator<Item = R>, device: u32) -> Supplier {
    let no_hardware = device >> 20 == 0;
    let unknown = if no_hardware { Supplier::Program } else { Supplier::Storage };
    tables.into_iter().find_map(|table| kind_of(table, device)).map_or(unknown, |kind| supplier_of(&kind))
}

/// The mounts that a task sees, and those that we see.
pub(super) fn mounts_of(tid: Tid) -> impl Iterator<Item = BufReader<File>> {
    let names = [format!("/proc/{tid}/mountinfo"), "/proc/self/mountinfo".to_owned()];
    names.into_iter().filter_map(|name| File::open(name).ok()).map(BufReader::new)
}

fn supplier_of(kind: &str) -> Supplier {
    match kind {
        "fuse" | "fuseblk" => Supplier::Program,
        "tmpfs" | "devtmpfs" | "hugetlbfs" | "sysfs" | "proc" => Supplier::Kernel,
        kind if kind.starts_with("fuse.") => Supplier::Program,
        _ => Supplier::Storage,
    }
}

/// The type of a device's file system: proc_pid_mountinfo(5). Read no further than needed: there can be thousands.
fn kind_of(table: impl BufRead, device: u32) -> Option<String> {
    let number = format!("{}:{}", device >> 20, device & 0xf_ffff);
    let lines = table.split(b'\n').map_while(Result::ok);
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let is_it = mount.split(' ').nth(2) == Some(&number);
        is_it.then(|| kind.split(' ').next().unwrap_or_default().to_owned())
    })
}

/// Does what may never end, on a thread of its own; none when it takes too long, or somebody waits for that device already.
///
/// Where the user may have no more threads, which is what a target's leak can come to, names are looked up all the same.
pub fn patiently<T: Send + 'static>(device: u32, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    if locked(&SILENT).contains(&device) {
        return None;
    }
    let (done, result) = channel();
    let (finished, work) = (Arc::new(Mutex::new(false)), Arc::new(Mutex::new(Some(work))));
    let of_thread = (Arc::clone(&finished), Arc::clone(&work));
    let started = std::thread::Builder::new().name("patience".to_owned()).spawn(move || {
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), None);
        let (finished, work) = of_thread;
        let work = locked(&work).take();
        if let Some(work) = work {
            let _ = done.send(work());
        }
        let mut silent = locked(&SILENT);
        *locked(&finished) = true;
        silent.remove(&device);
    });
    if started.is_err() {
        let work = locked(&work).take().filter(|_| device == NAMES)?;
        return Some(work());
    }
    let result = result.recv_timeout(PATIENCE).ok();
    if result.is_none() {
        let mut silent = locked(&SILENT);
        if !*locked(&finished) {
            silent.insert(device);
        }
    }
    result
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The file, or a copy of it where a program serves it. To be called where that may take its time.
pub fn answering(file: File) -> Option<File> {
    // One that gives no answer may be a program's, too.
    let is_ours = fstatfs(&file).is_ok_and(|of| of.filesystem_type() != FUSE_SUPER_MAGIC);
    if is_ours { Some(file) } else { copy(&file).ok() }
}

/// A copy of a file, in memory, with its length and time of change.
fn copy(file: &File) -> io::Result<File> {
    let metadata = file.metadata()?;
    if metadata.len() > LARGEST {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let copy = sys::memory_file("vmtrace-file")?;
    io::copy(&mut io::Read::take(file, LARGEST), &mut &copy)?;
    if let Ok(modified) = metadata.modified() {
        copy.set_modified(modified)?;
    }
    Ok(copy)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The type stands behind a dash, after any number of optional fields; a device has one type wherever it is mounted.
    #[test]
    fn types_of_file_systems() {
        let table = "\
26 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
48 26 0:44 / /tmp/.mount_app ro,nosuid,nodev,relatime shared:2 master:3 - fuse.app app ro,user_id=0\n\
49 26 0:45 / /media/disk rw - fuseblk /dev/sdb1 rw\n\
50 26 0:4 / /proc rw\n";
        let kind = |device| kind_of(table.as_bytes(), device);
        assert_eq!(kind(254 << 20 | 1).as_deref(), Some("ext4"));
        assert_eq!(kind(44).as_deref(), Some("fuse.app"));
        assert_eq!(kind(45).as_deref(), Some("fuseblk"));
        assert_eq!([kind(4), kind(5)], [None, None]);
    }

    /// Who is not known to be another waits for nobody; a device with hardware is a disk, unless a table says otherwise.
    #[test]
    fn suppliers_of_files() {
        let tables = [
            "26 1 254:1 / / rw - ext4 /dev/vda1 rw\n27 1 0:30 / /m rw - fuse.app app rw\n",
            "28 1 0:31 / /tmp rw - tmpfs tmpfs rw\n29 1 0:32 / /net rw - nfs4 host:/ rw\n30 1 8:1 / /d rw - fuseblk d rw\n",
        ];
        let by_tables = |device| supplier(tables.map(str::as_bytes), device);
        assert_eq!([254 << 20 | 1, 254 << 20 | 2, 32].map(by_tables), [Supplier::Storage; 3]);
        assert_eq!([30, 33, 8 << 20 | 1].map(by_tables), [Supplier::Program; 3]);
        assert_eq!(by_tables(31), Supplier::Kernel);
        assert_eq!(supplier(mounts_of(Tid(std::process::id() as i32)), 0xf_fffd), Supplier::Program);
    }

    /// What never ends is given up, and not tried again until it has ended after all.
    #[test]
    fn patience_is_bounded() {
        const DEVICE: u32 = 0xf_fffe;
        let (go_on, waits) = channel::<()>();
        assert_eq!(patiently(DEVICE, move || waits.recv().is_ok()), None);
        assert_eq!(patiently(DEVICE, || 1), None, "somebody waits already");
        assert_eq!(patiently(DEVICE - 1, || 1), Some(1));
        go_on.send(()).unwrap();
        while patiently(DEVICE, || 1).is_none() {
            std::thread::yield_now();
        }
    }

    /// A copy passes for its original.
    #[test]
    fn a_copy_is_as_long_and_as_old() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "contents").unwrap();
        let copy = copy(file.as_file()).unwrap();
        let [ours, its] = [&copy, file.as_file()].map(|file| file.metadata().unwrap());
        assert_eq!((ours.len(), ours.modified().unwrap()), (8, its.modified().unwrap()));
        let mut bytes = [0; 8];
        std::os::unix::fs::FileExt::read_exact_at(&copy, &mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"contents");
    }
}
