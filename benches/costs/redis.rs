//! What redis-server still does for its clients while it is followed.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::contenders::{Contender, FOLLOWING_REDIS, Programs, stop};
use super::table::{Table, median};

/// So many rounds are made: the throughput of two runs without a follower differs by a fifth at times.
const ROUNDS: usize = 100;

const PORT: &str = "7391";

/// Of each run, some seconds altogether.
const REQUESTS: u32 = 40_000;

/// A server that ends with the bench.
struct Server(Child);

impl Server {
    /// None where there is no redis.
    fn start() -> Option<Server> {
        let mut command = Command::new("redis-server");
        command.args(["--port", PORT, "--save", "", "--bind", "127.0.0.1"]).stdout(Stdio::null());
        let server = Server(command.spawn().ok()?);
        let begin = Instant::now();
        while TcpStream::connect(format!("127.0.0.1:{PORT}")).is_err() {
            if begin.elapsed() > Duration::from_secs(10) {
                return None;
            }
            sleep(Duration::from_millis(10));
        }
        Some(server)
    }

    /// Nanoseconds that its main thread, which serves, has been on a processor.
    fn busy(&self) -> Option<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.0.id())).ok()?;
        text.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Microseconds for each GET of fifty clients, and those of the server's processor.
struct Run {
    each: f64,
    busy: f64,
}

fn run(programs: &Programs, contender: &Contender, server: &Server) -> Option<Run> {
    let follower = programs.follower(contender).map(|mut command| command.arg(server.0.id().to_string()).spawn());
    // It has attached by then; the same pause is made without one.
    sleep(Duration::from_millis(400));
    let busy_before = server.busy()?;
    let begin = Instant::now();
    let requests = REQUESTS.to_string();
    let mut clients = Command::new("redis-benchmark");
    clients.args(["-p", PORT, "-t", "get", "-c", "50", "-q", "-n", &requests]);
    let succeeded = clients.stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    let (took, busy) = (begin.elapsed(), server.busy()? - busy_before);
    if let Some(follower) = follower {
        stop(follower.ok()?);
    }
    let requests = f64::from(REQUESTS);
    succeeded.then_some(Run { each: took.as_secs_f64() * 1e6 / requests, busy: busy / 1e3 / requests })
}

/// Microseconds for each request, and the median of the ratios to the round's own run without a follower.
pub fn requests(programs: &Programs) -> Table {
    let mut table = Table::new("µs per GET", "native");
    let Some(server) = Server::start() else { return table };
    let mut rounds: Vec<Vec<Run>> = Vec::new();
    for round in 0..ROUNDS {
        // Each is first as often as any other.
        let order = (0..FOLLOWING_REDIS.len()).map(|place| (place + round) % FOLLOWING_REDIS.len());
        let mut runs: Vec<(usize, Option<Run>)> =
            order.map(|index| (index, run(programs, &FOLLOWING_REDIS[index], &server))).collect();
        runs.sort_by_key(|(index, _)| *index);
        rounds.extend(runs.into_iter().map(|(_, run)| run).collect::<Option<Vec<Run>>>());
    }
    for (index, contender) in FOLLOWING_REDIS.iter().enumerate() {
        for (what, amount) in [("", (|run| run.each) as fn(&Run) -> f64), (", the server's processor", |run| run.busy)]
        {
            let amounts = rounds.iter().map(|runs| amount(&runs[index]));
            let ratios = rounds.iter().map(|runs| amount(&runs[index]) / amount(&runs[0]));
            if let (Some(amount), Some(ratio)) =
                (median(&mut amounts.collect::<Vec<_>>()), median(&mut ratios.collect::<Vec<_>>()))
            {
                table.add_ratio(format!("{}{what}", contender.name), amount, ratio);
            }
        }
    }
    table
}
