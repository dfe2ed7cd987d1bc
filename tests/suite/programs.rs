//! Programs of all kinds that have threads or children, at work: followed from their start, every process of theirs, they do
//! what they do without vmtrace, the model agrees with the kernel, and no leak is found where there is none.
//!
//! real_programs.rs and servers.rs have those that run for long and are attached to; `./scripts/programs` runs all
//! of them, and every reproducer under every source.

use std::path::Path;

use crate::common::need;
use crate::common::process::{command, run};
use crate::common::vmtrace::{Report, vmtrace};

/// A program's name, and a script of bash that makes it work in an empty folder and checks what it has done.
type Work = (&'static str, &'static str);

/// Data that can be packed, in 8 MiB or so.
const DATA: &str = "seq 1 1200000 > data";

/// Those that are there where the tests can be run.
const COMMON: &[Work] = &[
    ("sort", "shuf data | sort -n --parallel=4 -S 1M | cmp - data"),
    ("xz", "xz -T4 --block-size=1MiB -k -1 data && xz -dc -T4 data.xz | cmp - data"),
    ("make", "printf 'all: a b c d e f\\n%%:\\n\\thead -c 1M data | md5sum > $@\\n' > Makefile && make -j4 && cmp a f"),
    (
        "tar",
        "mkdir many && split -n 50 data many/ && tar czf all.tgz --sort=name many && tar xzf all.tgz -C / --to-stdout | cmp - data",
    ),
    ("xargs", "seq 200 | xargs -P4 -n1 sh -c 'head -c $1 data | md5sum' - | wc -l | grep -qx 200"),
    ("perl", "perl -e 'for (1..40) { my $p = fork // die; $p or exit 3; waitpid $p, 0; $? >> 8 == 3 or die }'"),
    (
        "python3",
        "python3 -c 'import concurrent.futures as f; print(sum(f.ThreadPoolExecutor(8).map(len, [\"x\" * 999] * 2000)))'",
    ),
    ("g++", "echo '#include <regex>' > a.cc && g++ -O1 -pipe -c a.cc && test -s a.o"),
    (
        "rustc",
        "echo 'fn main() { println!(\"{:?}\", [1, 2]) }' > a.rs && rustc -C codegen-units=4 a.rs && ./a | grep -q 1",
    ),
];

/// Those of other packages.
const OTHERS: &[Work] = &[
    ("zstd", "zstd -q -T4 -3 -B1M data && zstd -q -dc data.zst | cmp - data"),
    ("pigz", "pigz -k -p4 data && pigz -dc data.gz | cmp - data"),
    ("lbzip2", "lbzip2 -k -n4 data && lbzip2 -dc -n4 data.bz2 | cmp - data"),
    ("7z", "7z a -mmt4 -mx1 all.7z data > /dev/null && 7z x -so all.7z data | cmp - data"),
    (
        "git",
        "git init -q . && split -n 60 data part && git add part* && git -c user.name=a -c user.email=a commit -qm a && \
             git -c pack.threads=4 repack -qad && git fsck --full",
    ),
    (
        "sqlite3",
        "sqlite3 a.db 'pragma threads=4; create table t as select value v, value % 97 k from generate_series(1, 200000); \
                 create index i on t(k, v); select count(distinct k) from t' | grep -qx 97",
    ),
    ("openssl", "openssl speed -seconds 1 -multi 3 sha256 2> /dev/null | grep -q sha256"),
    (
        "ruby",
        "ruby -e 'puts 20.times.map { |i| Thread.new { (1..2000).map { |n| n.to_s * i }.size } }.sum(&:value)' | grep -qx 40000",
    ),
    ("rsync", "mkdir many && split -n 50 data many/ && rsync -a many/ copy/ && diff -r many copy"),
    (
        "curl",
        "for i in 1 2 3; do echo \"url=file://$PWD/data\"; echo \"output=o$i\"; done > c && curl -s -Z -K c && cmp o3 data",
    ),
    (
        "ffmpeg",
        "ffmpeg -v error -threads 4 -f lavfi -i testsrc2=duration=1:size=320x240 -c:v mpeg4 a.avi && test -s a.avi",
    ),
    ("convert", "convert -size 600x600 plasma: -resize 50% -blur 0x4 a.png && test -s a.png"),
    (
        "memcached",
        concat!(
            "memcached -u root -s m.sock -t 4 & trap \"kill $!\" EXIT; until test -S m.sock; do sleep 0.05; done; python3 ",
            env!("CARGO_MANIFEST_DIR"),
            "/tests/suite/servers/memcached.py"
        ),
    ),
    ("gdb", "gdb -nx -q -batch -ex 'print 6 * 7' \"$(ldd /bin/sh | grep -o '/[^ ]*libc.so.6')\" | grep -q 42"),
    (
        "sbcl",
        "sbcl --noinform --non-interactive --eval '(print (reduce (function +) (mapcar (function sb-thread:join-thread) \
             (loop repeat 20 collect (sb-thread:make-thread (lambda () (length (make-list 50000))))))))' | grep -qx '1000000 '",
    ),
    (
        "tclsh",
        "echo 'package require Thread; for {set i 0} {$i < 8} {incr i} {lappend l [thread::create -joinable {expr 6*7}]}; \
             foreach t $l {thread::join $t}; puts done' | tclsh | grep -qx done",
    ),
    (
        "erl",
        "erl -noshell -eval 'R = [spawn_monitor(fun() -> lists:sum(lists:seq(1, 9999)) end) || _ <- lists:seq(1, 200)], \
             [receive {_, M, _, _, normal} -> ok end || {_, M} <- R], halt(7).' || test $? = 7",
    ),
    (
        "mosquitto",
        "mosquitto -p 18866 > /dev/null 2>&1 & trap \"kill $!\" EXIT; \
             until mosquitto_pub -p 18866 -t a -m a 2> /dev/null; do sleep 0.05; done; \
             (until test -e got; do mosquitto_pub -p 18866 -t a -m b; sleep 0.05; done) & \
             mosquitto_sub -p 18866 -t a -C 3 | grep -c b | grep -qx 3; touch got; wait $!",
    ),
    (
        "bwrap",
        "bwrap --ro-bind / / --bind \"$PWD\" \"$PWD\" --dev /dev --proc /proc --unshare-all sort -T . -n --parallel=4 -S 1M data \
             | cmp - data",
    ),
    (
        "fio",
        "fio --name=a --ioengine=io_uring --rw=randrw --size=4m --numjobs=3 --thread --iodepth=8 --output=o && \
             grep -q 'err= 0' o",
    ),
    (
        "gst-launch-1.0",
        "gst-launch-1.0 -q videotestsrc num-buffers=60 ! queue ! videoscale ! video/x-raw,width=100 ! queue ! \
             filesink location=raw && test -s raw",
    ),
    ("clamscan", "echo 'Test:0:*:61626364' > s.ndb && clamscan -d s.ndb --no-summary data | grep -q OK"),
    ("shellcheck", "shellcheck -f gcc /usr/bin/ldd > found || grep -q warning found"),
    ("screen", "screen -D -m -c /dev/null bash -c 'sort -n data | cmp - data && touch same' && test -e same"),
    (
        "tmux",
        "tmux -S s -f /dev/null new-session -d 'sort -n --parallel=4 -S 1M data | cmp - data && tmux -S s wait-for -S same' && \
             tmux -S s wait-for same",
    ),
    (
        "qemu-x86_64",
        "head -n 30000 data > some && qemu-x86_64 \"$(command -v sort)\" -n --parallel=4 -S 64K some | cmp - some",
    ),
    (
        "php",
        "php -r 'for ($i = 0, $a = []; $i < 99999; $i++) $a[] = str_repeat(\"x\", $i % 500); exit(count($a) === 99999 ? 0 : 1);'",
    ),
    (
        "unbound",
        "printf '%s\\n' 'server:' ' num-threads: 4' ' interface: 127.0.0.1@15399' ' chroot: \"\"' ' username: \"\"' ' use-syslog: no' \
             ' pidfile: \"\"' ' do-daemonize: no' 'remote-control:' ' control-enable: no' > c && \
             { timeout -s INT 2 unbound -d -c c 2> /dev/null || test $? = 124; }",
    ),
];

#[track_caller]
fn expect_nothing((name, script): Work) {
    need(name);
    let folder = tempfile::tempdir().expect("a folder can be made");
    let in_folder = |command: &mut std::process::Command| run(command.current_dir(folder.path()));
    in_folder(&mut command("bash", ["-c", DATA])).expect_code(0);
    let report = folder.path().join("report.json");
    let mut followed = vmtrace(["--format=json", "--verify=100", "--min-confidence=possible", "-o"].map(Path::new));
    followed.arg(&report).args(["--", "bash", "-c", &format!("set -euo pipefail; {script}")]);
    let ended = in_folder(&mut followed);
    let errors = ended.errors();
    assert_eq!(ended.code(), 0, "{name}: {errors}");
    let text = std::fs::read_to_string(&report).expect("the report is a text file");
    let report = Report(serde_json::from_str(&text).expect("a report"));
    report.expect_verified(name, &errors);
    report.expect_clean(name);
}

#[test]
fn of_this_system() {
    COMMON.iter().copied().for_each(expect_nothing);
}

#[test]
#[ignore = "needs packages that ./scripts/programs installs"]
fn of_other_packages() {
    OTHERS.iter().copied().for_each(expect_nothing);
}
