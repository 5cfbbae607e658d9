//! Runs the programs that list and change firewall rules, and reads resolv.conf. The endpoint itself may
//! execute nothing and read few files, so it starts a helper process before it gives up these rights,
//! and the helper does both. Commands do them directly.
//!
//! The helper reads one request a line from stdin and writes one answer a line to stdout. It runs no
//! other programs and reads no other file, and ends when its stdin is closed: also when the endpoint is
//! killed.

use super::HostError;
use crate::confine;
use serde::{Deserialize, Serialize};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::OnceLock;
use std::{fs, io};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

/// The file with this machine's resolvers.
pub const RESOLV_CONF: &str = "/etc/resolv.conf";
/// The command of the helper process.
pub const HELPER_COMMAND: &str = "run-programs";

/// The programs that may be run.
const PROGRAMS: [&str; 5] = [
    "nft",
    "iptables-nft-save",
    "ip6tables-nft-save",
    "iptables-legacy-save",
    "ip6tables-legacy-save",
];

/// The queue to the helper, in a process that has one.
static HELPER: OnceLock<mpsc::UnboundedSender<Call>> = OnceLock::new();

/// A request and the receiver of its answer.
type Call = (Request, oneshot::Sender<Answer>);

/// A request to the helper.
#[derive(Debug, Serialize, Deserialize)]
enum Request {
    /// Run a program.
    Program {
        program: String,
        arguments: Vec<String>,
        input: String,
    },
    /// Read [`RESOLV_CONF`], which may be replaced by another file at any time.
    ResolvConf,
}

/// The result of a request.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    /// The program's stdout, or the text of the file.
    Done(String),
    /// The program's error message, or the reason why the file cannot be read.
    Failed(String),
    /// The program is not installed.
    Missing,
}

/// Starts the helper of this process, whose executable must know [`HELPER_COMMAND`]. From then on,
/// it runs all programs. Needs a tokio runtime.
///
/// # Errors
/// If no process can be started.
pub fn start_helper() -> io::Result<()> {
    let mut helper = Command::new("/proc/self/exe")
        .arg0("vcgate")
        .arg(HELPER_COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let (calls, queue) = mpsc::unbounded_channel();
    let ends = helper.stdin.take().zip(helper.stdout.take());
    let (requests, answers) = ends.ok_or(io::ErrorKind::BrokenPipe)?;
    tokio::spawn(async move {
        // Later calls see a closed queue.
        if let Err(error) = pass_on(queue, requests, answers).await {
            tracing::warn!("the helper process for nft has ended: {error}; restart vcgate");
        }
    });
    // A second helper would be one too many, but harm nothing.
    let _ = HELPER.set(calls);
    Ok(())
}

/// Passes requests on, one at a time, until all senders are gone. A caller that has gone away does
/// not need its answer.
async fn pass_on(
    mut queue: mpsc::UnboundedReceiver<Call>,
    mut requests: impl AsyncWriteExt + Unpin,
    answers: impl tokio::io::AsyncRead + Unpin,
) -> io::Result<()> {
    let mut answers = BufReader::new(answers).lines();
    while let Some((request, caller)) = queue.recv().await {
        let mut line = serde_json::to_vec(&request)?;
        line.push(b'\n');
        requests.write_all(&line).await?;
        let answer = answers.next_line().await?;
        let answer = answer.ok_or(io::ErrorKind::UnexpectedEof)?;
        let _ = caller.send(serde_json::from_str(&answer)?);
    }
    Ok(())
}

/// Runs the helper: answers requests until stdin is closed. Ctrl-C and the stop of a service reach
/// all processes, but the endpoint still needs the helper to undo its set-up, so signals do not end
/// it.
///
/// # Errors
/// If stdin or stdout is not a pipe, or fails.
pub async fn run_helper() -> io::Result<()> {
    // Otherwise process lists show the name "exe".
    rustix::thread::set_name(c"vcgate-helper")?;
    let _ignored = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let requests = io::stdin().as_fd().try_clone_to_owned()?;
    let answers = io::stdout().as_fd().try_clone_to_owned()?;
    let requests = pipe::Receiver::from_owned_fd(requests)?;
    let mut answers = pipe::Sender::from_owned_fd(answers)?;
    confine::helper();
    let mut requests = BufReader::new(requests).lines();
    while let Some(request) = requests.next_line().await? {
        let answer = match serde_json::from_str(&request) {
            Ok(request) => answer(request).await,
            Err(error) => Answer::Failed(error.to_string()),
        };
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        answers.write_all(&line).await?;
    }
    Ok(())
}

/// Runs a program with this input, and returns its stdout.
pub(super) async fn run(
    program: &str,
    arguments: &[&str],
    input: &str,
) -> Result<String, HostError> {
    let request = Request::Program {
        program: program.to_owned(),
        arguments: arguments
            .iter()
            .map(|&argument| argument.to_owned())
            .collect(),
        input: input.to_owned(),
    };
    match perform(request).await {
        Answer::Done(output) => Ok(output),
        Answer::Failed(message) => Err(HostError::Nft(message)),
        Answer::Missing => Err(HostError::NoNft),
    }
}

/// Returns the text of the machine's resolv.conf.
pub(super) async fn read_resolv_conf() -> io::Result<String> {
    match perform(Request::ResolvConf).await {
        Answer::Done(text) => Ok(text),
        Answer::Failed(message) => Err(io::Error::other(message)),
        Answer::Missing => Err(io::ErrorKind::NotFound.into()),
    }
}

async fn perform(request: Request) -> Answer {
    match HELPER.get() {
        Some(helper) => ask(helper, request).await,
        None => answer(request).await,
    }
}

async fn ask(helper: &mpsc::UnboundedSender<Call>, request: Request) -> Answer {
    let gone = || Answer::Failed("the helper process has ended; restart vcgate".into());
    let (answer, answered) = oneshot::channel();
    match helper.send((request, answer)) {
        Ok(()) => answered.await.unwrap_or_else(|_| gone()),
        Err(_) => gone(),
    }
}

async fn answer(request: Request) -> Answer {
    let (program, arguments, input) = match request {
        Request::Program {
            program,
            arguments,
            input,
        } => (program, arguments, input),
        Request::ResolvConf => {
            return match fs::read(RESOLV_CONF) {
                Ok(bytes) => Answer::Done(String::from_utf8_lossy(&bytes).into_owned()),
                Err(error) => Answer::Failed(error.to_string()),
            };
        }
    };
    if !PROGRAMS.contains(&&*program) {
        return Answer::Failed(format!("{program:?} is not a program that vcgate runs"));
    }
    // The PATH of ordinary users often lacks /usr/sbin.
    for path in [program.clone(), format!("/usr/sbin/{program}")] {
        let output = match execute(&path, &arguments, &input).await {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Answer::Failed(error.to_string()),
            Ok(output) => output,
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        return match output.status.success() {
            true => Answer::Done(text(&output.stdout)),
            false => Answer::Failed(text(&output.stderr).trim().to_owned()),
        };
    }
    Answer::Missing
}

async fn execute(
    path: &str,
    arguments: &[String],
    input: &str,
) -> io::Result<std::process::Output> {
    let mut child: Child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A program that is still running when the endpoint stops must not create a table
        // afterwards.
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).await?;
    }
    child.wait_with_output().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn other_programs_are_refused() {
        for program in ["sh", "/bin/sh", "../nft", "nft "] {
            let error = run(program, &[], "").await.unwrap_err().to_string();
            assert!(
                error.contains("is not a program that vcgate runs"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn an_answer_goes_to_its_caller_also_after_another_caller_has_gone() {
        let (calls, queue) = mpsc::unbounded_channel();
        let (ours, theirs) = tokio::io::duplex(1024);
        let (answers, requests) = tokio::io::split(ours);
        let passed = tokio::spawn(pass_on(queue, requests, answers));
        let helper = tokio::spawn(async move {
            let (requests, mut answers) = tokio::io::split(theirs);
            let mut requests = BufReader::new(requests).lines();
            while let Some(line) = requests.next_line().await.unwrap() {
                let request: Request = serde_json::from_str(&line).unwrap();
                let Request::Program { input, .. } = request else {
                    panic!("{request:?}");
                };
                let answer = serde_json::to_string(&Answer::Done(input)).unwrap();
                answers.write_all(answer.as_bytes()).await.unwrap();
                answers.write_all(b"\n").await.unwrap();
            }
        });
        let request = |input: &str| Request::Program {
            program: "nft".into(),
            arguments: Vec::new(),
            input: input.into(),
        };
        let (gone, _) = oneshot::channel();
        calls.send((request("first"), gone)).unwrap();
        let answer = ask(&calls, request("second\nline")).await;
        assert!(matches!(answer, Answer::Done(text) if text == "second\nline"));
        drop(calls);
        passed.await.unwrap().unwrap();
        helper.await.unwrap();
    }

    #[tokio::test]
    async fn without_its_helper_a_process_runs_nothing() {
        let (calls, queue) = mpsc::unbounded_channel();
        drop(queue);
        let request = Request::Program {
            program: "nft".into(),
            arguments: vec!["--version".into()],
            input: String::new(),
        };
        let answer = ask(&calls, request).await;
        assert!(matches!(answer, Answer::Failed(text) if text.contains("has ended")));
    }
}
