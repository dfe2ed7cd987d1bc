//! Writes a long log as `strace -f -tt` would, to measure `vmtrace replay` with: four in ten calls change mappings, one in
//! ten calls is broken off. `cargo run --release --example big_strace_log -- MEBIBYTES > LOG`

use std::io::{self, BufWriter, Write};

const TASKS: usize = 8;
/// Buffers of a task at the same time, at most.
const BUFFERS: usize = 200;
const STACK: u64 = 8_392_704;

fn main() -> io::Result<()> {
    let mebibytes: u64 = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1024);
    let mut log = Log { out: BufWriter::with_capacity(1 << 20, io::stdout().lock()), written: 0, now: 0, random: 1 };
    let mut buffers: Vec<Vec<(u64, u64)>> = vec![Vec::new(); TASKS];
    let mut next: u64 = 0x7f00_0000_0000;
    let mut round = 0_usize;
    while log.written < mebibytes << 20 {
        round += 1;
        let task = log.random(TASKS as u64) as usize;
        match log.random(10) {
            0 | 1 if buffers[task].len() < BUFFERS => {
                let bytes = (1 + log.random(64)) * 4096;
                let text = format!("mmap(NULL, {bytes}, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0");
                log.call(task, &text, &format!("{next:#x}"))?;
                buffers[task].push((next, bytes));
                next += bytes;
            }
            0..=3 => match buffers[task].pop() {
                // As many are mapped as are unmapped in the long run.
                Some((at, bytes)) if round.is_multiple_of(3) && buffers[task].len() < BUFFERS => {
                    log.call(task, &format!("mprotect({at:#x}, 4096, PROT_NONE"), "0")?;
                    buffers[task].push((at, bytes));
                }
                Some((at, bytes)) => log.call(task, &format!("munmap({at:#x}, {bytes}"), "0")?,
                None => log.call(task, &format!("brk({:#x}", 0x5555_5555_0000_u64 + log.now), "0x555555560000")?,
            },
            4 => log.call(task, "futex(0x7fab3c0000d8, FUTEX_WAKE_PRIVATE, 1", "1")?,
            5 => log.call(task, "epoll_wait(7, [{events=EPOLLIN, data={u32=12, u64=12}}], 512, 1000", "1")?,
            6 => log.call(
                task,
                "recvfrom(19, \"\\1\\0\\0\\0mmap(NULL, 10489856, ...) = 0\\n\", 4096, 0, NULL, NULL",
                "31",
            )?,
            7 => log.call(
                task,
                "sendto(19, \"HTTP/1.1 200 OK\\r\\nContent-Length: 1\"..., 310, MSG_NOSIGNAL, NULL, 0",
                "310",
            )?,
            8 => log.call(task, "read(12, 0x7fab28001000, 4096", "-1 EAGAIN (Resource temporarily unavailable)")?,
            _ => log.call(task, "clock_gettime(CLOCK_MONOTONIC, {tv_sec=113, tv_nsec=1}", "0")?,
        }
        if round.is_multiple_of(10_000) {
            log.thread(task, next, 50_000 + round as u64 / 10_000)?;
            next += STACK;
        }
    }
    log.out.flush()
}

struct Log<W: Write> {
    out: W,
    written: u64,
    /// Microseconds since midnight.
    now: u64,
    random: u64,
}

impl<W: Write> Log<W> {
    fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn line(&mut self, tid: u64, text: &str) -> io::Result<()> {
        self.now += 7;
        let seconds = self.now / 1_000_000;
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let line = format!("{tid} {hour:02}:{minute:02}:{second:02}.{:06} {text}\n", self.now % 1_000_000);
        self.written += line.len() as u64;
        self.out.write_all(line.as_bytes())
    }

    fn call(&mut self, task: usize, text: &str, result: &str) -> io::Result<()> {
        let tid = 31_000 + task as u64;
        if self.random(10) > 0 {
            return self.line(tid, &format!("{text}) = {result}"));
        }
        let name = text.split('(').next().unwrap_or_default().to_owned();
        self.line(tid, &format!("{text} <unfinished ...>"))?;
        self.line(31_000 + (task as u64 + 1) % TASKS as u64, "getpid()                                = 31000")?;
        self.line(tid, &format!("<... {name} resumed>) = {result}"))
    }

    /// A thread that is created, ends, and leaves its stack.
    fn thread(&mut self, task: usize, at: u64, child: u64) -> io::Result<()> {
        let tls = at + STACK - 0x940;
        self.call(
            task,
            &format!("mmap(NULL, {STACK}, PROT_NONE, MAP_PRIVATE|MAP_ANONYMOUS|MAP_STACK, -1, 0"),
            &format!("{at:#x}"),
        )?;
        self.call(task, &format!("mprotect({:#x}, {}, PROT_READ|PROT_WRITE", at + 4096, STACK - 4096), "0")?;
        let flags = "CLONE_VM|CLONE_FS|CLONE_FILES|CLONE_SIGHAND|CLONE_THREAD|CLONE_SYSVSEM|CLONE_SETTLS|\
                     CLONE_PARENT_SETTID|CLONE_CHILD_CLEARTID";
        self.line(
            31_000 + task as u64,
            &format!(
                "clone3({{flags={flags}, child_tid={tls:#x}, parent_tid={tls:#x}, exit_signal=0, stack={at:#x}, \
                 stack_size={:#x}, tls={tls:#x}}} => {{parent_tid=[{child}]}}, 88) = {child}",
                STACK - 0x1000
            ),
        )?;
        self.line(child, &format!("madvise({at:#x}, {}, MADV_DONTNEED) = 0", STACK - 24_576))?;
        self.line(child, "exit(0)                                 = ?")?;
        self.line(child, "+++ exited with 0 +++")
    }
}
