//! Threads in Rust. `joined`: those of the standard library, joined, in a pool too: nothing must be found. `pools`: pools
//! come and go until the input ends; nothing must be found. `leaked`: by pthread_create, and joined by nobody. Must be
//! found: one orphaned-stack, unjoined, 3 regions, with the names of Rust.

use std::ffi::{c_int, c_long, c_void};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

mod jobs {
    use super::*;

    unsafe extern "C" {
        fn pthread_create(
            thread: *mut usize,
            attributes: *const c_void,
            routine: extern "C" fn(*mut c_void) -> *mut c_void,
            argument: *mut c_void,
        ) -> c_int;
        fn gettid() -> c_int;
        fn getpid() -> c_int;
        fn syscall(number: c_long, ...) -> c_long;
    }

    const TGKILL: c_long = 234;

    pub struct Runner;

    impl Runner {
        #[inline(never)]
        pub fn start(&self) {
            let tid = AtomicI32::new(0);
            let mut thread = 0;
            let created = unsafe { pthread_create(&mut thread, std::ptr::null(), run, (&raw const tid).cast_mut().cast()) };
            assert_eq!(created, 0);
            while tid.load(Ordering::SeqCst) == 0 || is_alive(tid.load(Ordering::SeqCst)) {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn is_alive(tid: c_int) -> bool {
        unsafe { syscall(TGKILL, c_long::from(getpid()), c_long::from(tid), 0_i64) == 0 }
    }

    extern "C" fn run(tid: *mut c_void) -> *mut c_void {
        let tid = unsafe { &*tid.cast::<AtomicI32>() };
        tid.store(unsafe { gettid() }, Ordering::SeqCst);
        std::ptr::null_mut()
    }
}

/// A pool of four threads that adds up numbers.
fn sum_by_pool(numbers: u64) -> u64 {
    let (sender, receiver) = mpsc::channel::<u64>();
    let receiver = Arc::new(Mutex::new(receiver));
    let worker = |_| {
        let receiver = Arc::clone(&receiver);
        thread::spawn(move || {
            let mut sum = 0;
            loop {
                let next = receiver.lock().unwrap().recv();
                match next {
                    Ok(number) => sum += number,
                    Err(_) => return sum,
                }
            }
        })
    };
    let workers: Vec<_> = (0..4).map(worker).collect();
    (1..=numbers).for_each(|number| sender.send(number).unwrap());
    drop(sender);
    workers.into_iter().map(|worker| worker.join().unwrap()).sum()
}

fn main() {
    match std::env::args().nth(1).as_deref() {
        Some("joined") => {
            assert_eq!(sum_by_pool(100), 5050);
            let squares: Vec<_> = (0..4).map(|number| thread::spawn(move || number * number)).collect();
            assert_eq!(squares.into_iter().map(|thread| thread.join().unwrap()).sum::<i32>(), 14);
        }
        Some("pools") => {
            thread::spawn(|| {
                std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
                std::process::exit(0);
            });
            println!("ready");
            for round in 1.. {
                println!("finished {round} {}", sum_by_pool(1000));
                thread::sleep(Duration::from_millis(20));
            }
        }
        Some("leaked") => (0..3).for_each(|_| jobs::Runner.start()),
        _ => {
            eprintln!("usage: rust_threads joined|pools|leaked");
            std::process::exit(2);
        }
    }
}
