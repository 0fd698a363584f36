//! What is measured of contestants, one or several that take turns.

use std::fs;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

use crate::contestant::{Contestant, Wire, kill, run, until};

/// How long a socket may be silent before that is a failure.
const SILENCE: Duration = Duration::from_secs(15);

/// The one in the middle; of an even number, the larger of two. Panics where there is none.
pub(crate) fn median(mut sample: Vec<Duration>) -> Duration {
    sample.sort_unstable();
    sample[sample.len() / 2]
}

/// One that is measured, or does what is.
pub(crate) type Task<'a> = Box<dyn FnMut() -> Duration + 'a>;

/// The times of several tasks that took turns, so that whatever else the machine did met all of them.
#[derive(Debug)]
pub(crate) struct Turns {
    /// For each task the time of each round.
    times: Vec<Vec<Duration>>,
}

impl Turns {
    /// Lets each task take its turn in each of so many rounds. Panics later where there is no round.
    pub(crate) fn take(rounds: usize, mut tasks: Vec<Task<'_>>) -> Self {
        let mut times = vec![Vec::with_capacity(rounds); tasks.len()];
        for _ in 0..rounds {
            for (task, times) in tasks.iter_mut().zip(&mut times) {
                times.push(task());
            }
        }
        Self { times }
    }

    /// The median time of a task.
    pub(crate) fn median(&self, task: usize) -> Duration {
        median(self.times[task].clone())
    }

    /// The median times of all tasks, in their order.
    pub(crate) fn medians(&self) -> Vec<Duration> {
        (0..self.times.len()).map(|task| self.median(task)).collect()
    }

    /// How one task's time is to another's: the median of what that was in each round.
    pub(crate) fn ratio(&self, one: usize, other: usize) -> f64 {
        let rounds = self.times[one].iter().zip(&self.times[other]);
        let mut ratios: Vec<f64> = rounds.map(|(one, other)| one.div_duration_f64(*other)).collect();
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    }
}

/// Fresh processes of these clients, each from its start to its end. A round goes before that is not counted.
pub(crate) fn clients(rounds: usize, clients: &[&dyn Fn() -> Command]) -> Turns {
    let tasks = || clients.iter().map(|client| -> Task { Box::new(|| run(client())) });
    Turns::take(1, tasks().collect());
    Turns::take(rounds, tasks().collect())
}

/// From nothing, no daemon and nothing of an earlier one, to the first answer.
pub(crate) fn cold(contestant: &dyn Contestant) -> Duration {
    contestant.end();
    contestant.forget();
    run(contestant.connect())
}

/// From what a killed daemon leaves to the first answer of the next.
pub(crate) fn after_kill(contestant: &dyn Contestant) -> Duration {
    contestant.end();
    run(contestant.connect())
}

/// A connection to a daemon, with nothing between it and the socket.
pub(crate) struct Connection<'a> {
    wire: &'a Wire,
    stream: Box<dyn Stream>,
    answer: Vec<u8>,
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

impl<'a> Connection<'a> {
    pub(crate) fn open(wire: &'a Wire) -> io::Result<Self> {
        Self::open_to(wire, SILENCE)
    }

    /// A connection that fails after so much silence.
    pub(crate) fn open_to(wire: &'a Wire, silence: Duration) -> io::Result<Self> {
        let stream: Box<dyn Stream> = if wire.address.starts_with('/') {
            let stream = UnixStream::connect(&wire.address)?;
            stream.set_read_timeout(Some(silence))?;
            Box::new(stream)
        } else {
            let stream = TcpStream::connect(&wire.address)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(silence))?;
            Box::new(stream)
        };
        let answer = Vec::with_capacity(64 * 1024);
        let mut connection = Self { wire, stream, answer };
        if let Some(hello) = &wire.hello {
            connection.stream.write_all(hello)?;
            connection.read()?;
        }
        Ok(connection)
    }

    /// Sends the request, and returns the whole answer.
    pub(crate) fn ask(&mut self) -> io::Result<&[u8]> {
        self.stream.write_all(&self.wire.request)?;
        self.read()
    }

    fn read(&mut self) -> io::Result<&[u8]> {
        self.answer.clear();
        let mut part = [0; 16 * 1024];
        while !(self.wire.is_whole)(&self.answer) {
            match self.stream.read(&mut part)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.answer.extend_from_slice(&part[..count]),
            }
        }
        Ok(&self.answer)
    }
}

/// The median time of so many requests, one after the other, over one connection.
pub(crate) fn kept_alive(wire: &Wire, requests: usize) -> io::Result<Duration> {
    let mut connection = Connection::open(wire)?;
    connection.ask()?;
    p50(requests, || connection.ask().map(drop))
}

/// The median time of so many requests, one after the other, each over a connection of its own: from connecting to the
/// whole answer.
pub(crate) fn fresh(wire: &Wire, requests: usize) -> io::Result<Duration> {
    p50(requests, || Connection::open(wire)?.ask().map(drop))
}

fn p50(requests: usize, mut request: impl FnMut() -> io::Result<()>) -> io::Result<Duration> {
    let mut sample = Vec::with_capacity(requests);
    for _ in 0..requests {
        let began = Instant::now();
        request()?;
        sample.push(began.elapsed());
    }
    Ok(median(sample))
}

/// How a client ended that had only so much time.
#[derive(Debug)]
pub(crate) struct End {
    /// None where it had to be killed.
    pub(crate) status: Option<ExitStatus>,
    pub(crate) took: Duration,
    /// What it printed.
    pub(crate) answer: Vec<u8>,
}

impl End {
    pub(crate) fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }
}

/// Runs a client that prints little, and kills it when its time is over.
pub(crate) fn run_within(limit: Duration, mut client: Command) -> End {
    let began = Instant::now();
    let mut child = client.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // Not reaped yet, so that the id is still the child's.
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    let timeout = limit.try_into().unwrap();
    let has_ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)).unwrap() > 0;
    let took = began.elapsed();
    if !has_ended {
        child.kill().unwrap();
    }
    let status = child.wait().unwrap();
    End {
        status: has_ended.then_some(status),
        took,
        answer: printed(child.stdout.take().unwrap()),
    }
}

/// What stands in a pipe by now: a daemon that the client has started may hold its other end for long.
fn printed(mut pipe: ChildStdout) -> Vec<u8> {
    rustix::io::ioctl_fionbio(&pipe, true).unwrap();
    let mut printed = Vec::new();
    let _ = pipe.read_to_end(&mut printed);
    printed
}

/// What became of many clients that came at the same moment, when there was no daemon.
#[derive(Debug)]
pub(crate) struct Crowd {
    /// How many ended well.
    pub(crate) served: usize,
    /// What each of them printed.
    pub(crate) answers: Vec<Vec<u8>>,
    /// From when all were let go to the end of the last.
    pub(crate) slowest: Duration,
    /// How many daemons there were then.
    pub(crate) daemons: usize,
    /// How many there are after `settle`.
    pub(crate) settled: usize,
}

/// Lets so many clients connect at once, from nothing or from what a killed daemon leaves: that is the caller's to prepare.
/// A client has a minute.
pub(crate) fn crowd(contestant: &dyn Contestant, clients: usize, settle: Duration) -> Crowd {
    let start = Barrier::new(clients + 1);
    let (ends, slowest) = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..clients)
            .map(|_| (contestant.connect(), &start))
            .map(|(client, start)| {
                scope.spawn(move || {
                    start.wait();
                    run_within(Duration::from_mins(1), client)
                })
            })
            .collect();
        start.wait();
        let began = Instant::now();
        let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        (ends, began.elapsed())
    });
    let daemons = contestant.daemons().len();
    std::thread::sleep(settle);
    Crowd {
        served: ends.iter().filter(|end| end.is_success()).count(),
        answers: ends.into_iter().map(|end| end.answer).collect(),
        slowest,
        daemons,
        settled: contestant.daemons().len(),
    }
}

/// What the next client does where the daemon is stopped.
#[derive(Debug)]
pub(crate) struct Stopped {
    pub(crate) end: End,
    /// Whether another daemon runs then.
    pub(crate) is_replaced: bool,
}

/// Stops the running daemons as a debugger would, lets a client connect that has so much time, and ends all of them. A client
/// that ends well beside the same daemons may have asked none of them: then one that only asks counts, as it does where no
/// client starts a daemon.
pub(crate) fn stopped(contestant: &dyn Contestant, limit: Duration) -> Stopped {
    let stopped = contestant.daemons();
    for &daemon in &stopped {
        kill(daemon, Signal::STOP);
        // Not at once where a thread waits for a disk.
        until("the daemon stops", || threads(daemon).all(|status| is_stopped(&status)));
    }
    let is_new = |daemon| !stopped.contains(daemon);
    let connected = contestant.has_launcher().then(|| run_within(limit, contestant.connect()));
    let is_replaced = contestant.daemons().iter().any(is_new);
    let end = match (connected, contestant.ask()) {
        (Some(end), _) if is_replaced || !end.is_success() => end,
        (_, Some(ask)) => run_within(limit, ask),
        (end, None) => end.expect("a daemon that has a client"),
    };
    contestant.end();
    Stopped { end, is_replaced }
}

/// What a process takes that is asked nothing.
#[derive(Debug)]
pub(crate) struct Idle {
    /// Its share of the memory that it maps, in kB.
    pub(crate) pss_kb: u64,
    /// The memory of no file's that it maps, in kB.
    pub(crate) anonymous_kb: u64,
    pub(crate) threads: usize,
    /// Context switches a second, its own and the kernel's will, of all its threads.
    pub(crate) switches: f64,
}

/// Looks so long at processes that are asked nothing, at all of them at once.
pub(crate) fn idle(processes: &[u32], long: Duration) -> Vec<Idle> {
    let before: Vec<u64> = processes.iter().map(|&process| switches(process)).collect();
    let began = Instant::now();
    std::thread::sleep(long);
    let both = processes.iter().zip(before);
    both.map(|(&process, before)| {
        #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
        let switched = switches(process).saturating_sub(before) as f64;
        Idle {
            pss_kb: memory_kb(process, "Pss"),
            anonymous_kb: memory_kb(process, "Anonymous"),
            threads: threads(process).count(),
            switches: switched / began.elapsed().as_secs_f64(),
        }
    })
    .collect()
}

/// A line of what the kernel tells of all memory of a process (`/proc/PID/smaps_rollup`), in kB.
pub(crate) fn memory_kb(process: u32, field: &str) -> u64 {
    number(&format!("/proc/{process}/smaps_rollup"), field)
}

fn switches(process: u32) -> u64 {
    let fields = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"];
    let of_thread = |status: String| fields.map(|field| number(&status, field)).iter().sum::<u64>();
    threads(process).map(of_thread).sum()
}

fn is_stopped(status: &str) -> bool {
    let status = fs::read_to_string(status).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:\tT"))
}

/// The files `status` of a process's threads.
fn threads(process: u32) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    entries.map(|entry| entry.unwrap().path().join("status").display().to_string())
}

/// The number after a name and a colon in a file of the kernel's.
fn number(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let values = text.lines().filter_map(|line| line.split_once(':'));
    let value = values.into_iter().find(|(found, _)| *found == name);
    let number = value.and_then(|(_, value)| value.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("{file} has no number {name}"))
}
