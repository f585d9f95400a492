//! Compute at vendors, each against a strict server of its published API.

mod docker;
mod e2b;
mod fly;
mod pauses;
mod runs;
mod webhook;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use theazo::providers::client::{Client, Clients};
use theazo::providers::compute::{Compute, End, Error, FileEntry, Language, New, Program};
use theazo::providers::guard::Guard;
use theazo_domain::id::{AgentId, SessionId};
use zeroize::Zeroizing;

/// A client that may call this machine.
pub(crate) fn client() -> Client {
    Clients::new(Guard::new(vec![])).operator
}

pub(crate) fn agent(number: u128) -> AgentId {
    AgentId::from_ulid(ulid::Ulid::from_parts(1_700_000_000_000, number))
}

pub(crate) fn wanted(number: u128) -> New {
    let session_id = SessionId::from_ulid(ulid::Ulid::from_parts(1_700_000_000_000, number));
    New { agent_id: agent(number), session_id, browser: false, lifetime: Duration::from_secs(3_600) }
}

pub(crate) fn program(language: Language, code: &str) -> Program {
    Program {
        language,
        code: code.to_owned(),
        environment: vec![("TOKEN".to_owned(), Zeroizing::new("s3cret".to_owned()))],
        timeout: Duration::from_secs(20),
        output_limit: 1024 * 1024,
    }
}

/// A life of a sandbox at a vendor whose sandboxes run our supervisor, which here really runs.
pub(crate) async fn lives(compute: &dyn Compute) {
    let handle = compute.create(&wanted(1)).await.unwrap();
    for (language, code) in [
        (Language::Python, "import os; print(os.environ['TOKEN'], os.path.basename(os.getcwd()))"),
        (Language::TypeScript, "console.log(process.env.TOKEN, process.cwd().split('/').pop())"),
        (Language::Bash, "echo $TOKEN $(basename $PWD)"),
    ] {
        let ran = compute.run(&handle, &program(language, code)).await.unwrap();
        assert_eq!((ran.stdout.as_str(), ran.end), ("s3cret workspace\n", End::Code(0)), "{}", ran.stderr);
    }
    let ran = compute.run(&handle, &program(Language::Bash, "echo é >&2; exit 3")).await.unwrap();
    assert_eq!((ran.stderr.as_str(), ran.end, ran.truncated), ("é\n", End::Code(3), false));
    ends_are_told_apart(compute, &handle).await;
    files_stay_in_the_workspace(compute, &handle).await;

    let paused = compute.pause(&handle).await.unwrap();
    let handle = compute.resume(&paused.handle, &wanted(1)).await.unwrap();
    let read = compute.read_file(&handle, "a/b.txt", 100).await.unwrap();
    assert_eq!((read.bytes, read.truncated), (vec![0, 255, 1], false));
    assert!(compute.stored_bytes(&handle).await.unwrap() > 0);
    let found = compute.list().await.unwrap();
    assert_eq!(found, [(agent(1), handle.clone())]);
    compute.terminate(&handle).await.unwrap();
    compute.terminate(&handle).await.unwrap();
    assert_eq!(compute.list().await, Ok(vec![]));
}

async fn ends_are_told_apart(compute: &dyn Compute, handle: &theazo::providers::compute::Handle) {
    let ran = compute.run(handle, &program(Language::Bash, "kill -SEGV $$")).await.unwrap();
    assert_eq!(ran.end, End::Signal(11));
    // Neither a new session nor a lost parent saves a process from the end of its run, nor does an open pipe hold it.
    static NUMBER: AtomicU32 = AtomicU32::new(987_000_000);
    let marker = format!("{}.{}", NUMBER.fetch_add(1, Ordering::Relaxed), std::process::id());
    let code = format!("setsid sleep {marker} & (setsid sleep {marker} &); echo out");
    for (rest, end) in [("", End::Code(0)), ("; sleep 60", End::TimedOut)] {
        let mut program = program(Language::Bash, &format!("{code}{rest}"));
        program.timeout = if rest.is_empty() { program.timeout } else { Duration::from_millis(500) };
        let ran = compute.run(handle, &program).await.unwrap();
        assert_eq!((ran.stdout.as_str(), ran.end), ("out\n", end));
        assert!(!is_running(&marker));
    }
    let mut much = program(Language::Python, "print('x' * 3_000_000)");
    much.output_limit = 1_000;
    let ran = compute.run(handle, &much).await.unwrap();
    assert_eq!((ran.stdout.len(), ran.truncated, ran.end), (1_000, true, End::Code(0)));
}

/// Whether a process of this machine has this among its arguments.
fn is_running(marker: &str) -> bool {
    std::fs::read_dir("/proc").unwrap().filter_map(Result::ok).any(|entry| {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        arguments.split(|&byte| byte == 0).any(|argument| argument == marker.as_bytes())
    })
}

async fn files_stay_in_the_workspace(compute: &dyn Compute, handle: &theazo::providers::compute::Handle) {
    compute.write_file(handle, "a/b.txt", &[0, 255, 1]).await.unwrap();
    let read = compute.read_file(handle, "a/b.txt", 2).await.unwrap();
    assert_eq!((read.bytes, read.truncated), (vec![0, 255], true));
    let links = "ln -s /etc out; ln -s a in; ln -s /etc/passwd file; ln -s ../../../../etc up; mkfifo pipe; ln -s loop loop";
    compute.run(handle, &program(Language::Bash, links)).await.unwrap();
    for path in
        ["out/passwd", "file", "up/passwd", "pipe", "loop", "a", "nothing", "/etc/passwd", "a/../../x"]
    {
        let read = compute.read_file(handle, path, 10).await;
        assert!(matches!(read, Err(Error::Path(_))), "{path}: {read:?}");
    }
    for path in ["out/x", "file", "up/x", "pipe", "loop", "a", "", "/tmp/x", "../x", "a/b.txt/c"] {
        let written = compute.write_file(handle, path, b"x").await;
        assert!(matches!(written, Err(Error::Path(_))), "{path}: {written:?}");
    }
    assert!(compute.read_file(handle, "in/b.txt", 10).await.is_ok());
    let entries = compute.list_files(handle, "", 2).await.unwrap();
    let file = |name: &str, size| FileEntry { name: name.to_owned(), size };
    assert_eq!(entries, [file("a/", 0), file("file", 11)]);
    assert_eq!(compute.list_files(handle, "a", 9).await.unwrap(), [file("b.txt", 3)]);
    assert!(matches!(compute.list_files(handle, "out", 9).await, Err(Error::Path(_))));
}
