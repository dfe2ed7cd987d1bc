//! Which frames of a call stack are the program's own: the C library's part around them is of no use to its author.

use crate::diagnose::finding::Frame;

/// What C++'s and Rust's libraries put around a program's threads and its main.
const RUNTIME: [&str; 7] = [
    "std::thread::",
    "std::sys::",
    "std::rt::",
    "std::panic::",
    "std::panicking::",
    "core::ops::function::",
    "dyn core::ops::function::",
];

/// The frames without the libraries' part at both ends, unless nothing else would be left.
pub fn own_frames(site: &[Frame]) -> &[Frame] {
    let (mut first, mut last) = (0, site.len());
    // Two functions of the C library have names that a program might use: only their neighbours tell.
    while first < last && (is_library(&site[first]) || called_by_library(site, first, "create_thread")) {
        first += 1;
    }
    while first < last
        && (is_library(&site[last - 1])
            || called_by_library(site, last - 1, "start_thread")
            || is_rusts_own_main(site, last - 1))
    {
        last -= 1;
    }
    if first < last { &site[first..last] } else { site }
}

/// Whether the frame has this name and was called by one of the libraries' functions.
fn called_by_library(site: &[Frame], place: usize, name: &str) -> bool {
    site[place].symbol.as_deref() == Some(name) && site.get(place + 1).is_some_and(is_library)
}

/// Whether it is the `main` that Rust's compiler makes, which calls the runtime, which calls the program's.
fn is_rusts_own_main(site: &[Frame], place: usize) -> bool {
    let calls = place.checked_sub(1).and_then(|inner| site[inner].symbol.as_deref());
    site[place].symbol.as_deref() == Some("main") && calls.is_some_and(|inner| inner.starts_with("std::rt::lang_start"))
}

/// Whether it is one of the functions around threads, mappings and main of the C library, be it a file of its own or
/// linked in, or of what C++ and Rust put on top of it.
fn is_library(frame: &Frame) -> bool {
    let modules = ["libc.so", "libc-2.", "libpthread", "ld-linux", "ld-musl", "libc.musl", "libstdc++", "libc++."];
    let file = frame.module.rsplit('/').next().unwrap_or(&frame.module);
    let symbol = frame.symbol.as_deref().unwrap_or("");
    let bare = symbol.split('@').next().unwrap_or(symbol).trim_start_matches('_');
    modules.iter().any(|module| file.starts_with(module))
        || frame.module == "[vdso]"
        || symbol == "_start"
        || ["clone", "clone3", "clone_internal", "mmap", "mmap64"].contains(&bare)
        || ["pthread_create", "libc_start_"].iter().any(|name| bare.starts_with(name))
        || RUNTIME.iter().any(|path| bare.trim_start_matches(['<', '&']).starts_with(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(site: &[&str]) -> Vec<String> {
        let frame = |symbol: &&str| Frame {
            module: "/app".to_owned(),
            offset: 0,
            symbol: Some((*symbol).to_owned()),
            file: None,
            line: None,
        };
        let site: Vec<Frame> = site.iter().map(frame).collect();
        own_frames(&site).iter().filter_map(|frame| frame.symbol.clone()).collect()
    }

    /// A static executable has the C library's functions in its own file; the program's stay, whatever their names.
    #[test]
    fn the_c_library_is_left_out() {
        let made = ["__clone3", "create_thread", "pthread_create@@GLIBC_2.34"];
        let of_main = [&made[..], &["create_thread", "main", "__libc_start_call_main", "_start"]].concat();
        assert_eq!(own(&of_main), ["create_thread", "main"]);
        let of_thread = [&made[..], &["start_thread", "worker", "start_thread", "clone3"]].concat();
        assert_eq!(own(&of_thread), ["start_thread", "worker"]);
        assert_eq!(own(&["clone", "_start"]), ["clone", "_start"]);
    }

    /// What C++ and Rust put around pthread_create is left out at the ends alone: in between it shows the way.
    #[test]
    fn thread_classes_are_left_out() {
        let cpp =
            ["pthread_create", "std::thread::_M_start_thread(…)", "std::thread::thread<…>(…)", "pool::grow()", "main"];
        assert_eq!(own(&cpp), ["pool::grow()", "main"]);
        let rust =
            ["std::sys::thread::Thread::new", "std::thread::Builder::spawn::<…>", "app::run", "std::rt::lang_start"];
        assert_eq!(own(&rust), ["app::run"]);
        let rusts_main = [
            "app::main",
            "core::ops::function::FnOnce::call_once",
            "std::sys::backtrace::__rust_begin_short_backtrace",
            "std::rt::lang_start::{{closure}}",
            "<&dyn core::ops::function::Fn<(), Output = i32> as core::ops::function::FnOnce<()>>::call_once",
            "std::panicking::catch_unwind",
            "std::rt::lang_start_internal",
            "main",
            "__libc_start_call_main",
            "_start",
        ];
        assert_eq!(own(&rusts_main), ["app::main"]);
        assert_eq!(
            own(&["mmap", "app::run", "std::thread::scope", "main"]),
            ["app::run", "std::thread::scope", "main"]
        );
    }
}
