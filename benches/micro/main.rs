//! The cost of the engine, the NAT and the SMB hook, through public interfaces only and without I/O.
//!
//!   cargo bench                       times and allocations, by divan
//!   cargo bench -- engine             the same for some cases
//!   micro count CASE RUNS             one case, for `benches/instructions`
//!   micro list                        the names of all cases
//!
//! Every case checks that it measured the right work: all of the traffic came out, and the hook read
//! the flows that it should read.

mod engine;
mod hook;
mod lookup;
mod packets;

use divan::AllocProfiler;
use divan::counter::{BytesCount, ItemsCount};
use packets::{Side, Stream};
use std::cell::RefCell;
use std::fmt;

/// Shows the allocations of each case; the data path has none.
#[global_allocator]
static ALLOCATIONS: AllocProfiler = AllocProfiler::system();

/// One case, ready to run.
pub trait Work {
    /// Prepares the input of one run; not measured.
    fn input(&mut self) -> Vec<u8>;
    /// Runs the measured work.
    fn run(&mut self, input: &mut [u8]);
    /// Checks the result of all runs.
    ///
    /// # Panics
    ///
    /// If any of `runs` runs did not do the work of the case.
    fn check(&self, runs: usize);
}

/// A case by name.
struct Case {
    name: &'static str,
    /// The payload of one run, in bytes; 0 if the case has no throughput.
    bytes: usize,
    prepare: fn() -> Box<dyn Work>,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($name:literal, $bytes:expr, $prepare:expr;)*) => {
        [$(Case { name: $name, bytes: $bytes, prepare: || Box::new($prepare) }),*]
    };
}

#[rustfmt::skip]
static CASES: [Case; 32] = cases! {
    "engine/up/1",            engine::payload(1),  engine::Up::new(engine::Kind::Plain, 1);
    "engine/up/1/smb1",       engine::payload(1),  engine::Up::new(engine::Kind::Smb1, 1);
    "engine/up/1/smb2",       engine::payload(1),  engine::Up::new(engine::Kind::Smb2, 1);
    "engine/up/super",        engine::payload(45), engine::Up::new(engine::Kind::Plain, 45);
    "engine/up/super/smb1",   engine::payload(45), engine::Up::new(engine::Kind::Smb1, 45);
    "engine/up/super/smb2",   engine::payload(45), engine::Up::new(engine::Kind::Smb2, 45);
    "engine/down/1",          engine::payload(1),  engine::Down::new(engine::Kind::Plain, 1);
    "engine/down/1/smb1",     engine::payload(1),  engine::Down::new(engine::Kind::Smb1, 1);
    "engine/down/1/smb2",     engine::payload(1),  engine::Down::new(engine::Kind::Smb2, 1);
    "engine/down/super",      engine::payload(45), engine::Down::new(engine::Kind::Plain, 45);
    "engine/down/super/smb1", engine::payload(45), engine::Down::new(engine::Kind::Smb1, 45);
    "engine/down/super/smb2", engine::payload(45), engine::Down::new(engine::Kind::Smb2, 45);
    "engine/new-flow/tcp",         0, engine::NewFlow::new(engine::Protocol::Tcp, false);
    "engine/new-flow/tcp/journal", 0, engine::NewFlow::new(engine::Protocol::Tcp, true);
    "engine/new-flow/udp",         0, engine::NewFlow::new(engine::Protocol::Udp, false);
    "engine/new-flow/udp/journal", 0, engine::NewFlow::new(engine::Protocol::Udp, true);
    "nat/out/1",              0, lookup::Out::new(1);
    "nat/out/100",            0, lookup::Out::new(100);
    "nat/out/10000",          0, lookup::Out::new(10_000);
    "nat/out/60000",          0, lookup::Out::new(60_000);
    "nat/in/1",               0, lookup::In::new(1);
    "nat/in/100",             0, lookup::In::new(100);
    "nat/in/10000",           0, lookup::In::new(10_000);
    "nat/in/60000",           0, lookup::In::new(60_000);
    "nat/expire/1024",        0, lookup::Expire::new(1024);
    "nat/expire/60000",       0, lookup::Expire::new(60_000);
    "hook/smb1/client",       hook::CHUNK, hook::Bulk::new(Side::Client, Stream::smb1);
    "hook/smb1/server",       hook::CHUNK, hook::Bulk::new(Side::Server, Stream::smb1);
    "hook/smb2/client",       hook::CHUNK, hook::Bulk::new(Side::Client, Stream::smb2);
    "hook/smb2/server",       hook::CHUNK, hook::Bulk::new(Side::Server, Stream::smb2);
    "hook/session-setup",     0, hook::Setups::new(1);
    "hook/session-setup/1000-others", 0, hook::Setups::new(1000);
};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => CASES.iter().for_each(|case| println!("{case}")),
        ["count", name, runs] => count(name, runs.parse().expect("a number of runs")),
        _ => divan::main(),
    }
}

#[divan::bench(args = &CASES)]
fn case(bencher: divan::Bencher, case: &Case) {
    let work = RefCell::new((case.prepare)());
    let runs = RefCell::new(0);
    let bencher = bencher.with_inputs(|| {
        *runs.borrow_mut() += 1;
        work.borrow_mut().input()
    });
    let run = |input: &mut Vec<u8>| work.borrow_mut().run(input);
    match case.bytes {
        0 => bencher.counter(ItemsCount::new(1u8)).bench_local_refs(run),
        bytes => bencher
            .counter(BytesCount::new(bytes))
            .bench_local_refs(run),
    }
    work.borrow().check(runs.into_inner());
}

/// Runs a case; a profiler counts the instructions in [`counted`].
fn count(name: &str, runs: usize) {
    const WARM_UP: usize = 3;
    let case = CASES.iter().find(|case| case.name == name);
    let mut work = (case.expect("the name of a case").prepare)();
    for _ in 0..WARM_UP {
        let mut input = work.input();
        work.run(&mut input);
    }
    for _ in 0..runs {
        let mut input = work.input();
        counted(&mut *work, &mut input);
    }
    work.check(WARM_UP + runs);
}

#[inline(never)]
fn counted(work: &mut dyn Work, input: &mut [u8]) {
    work.run(input);
}
