//! Hostile programs run in sandboxes of a real server. What is the server's stays unread and untouched, and limits hold.

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use futures_util::FutureExt;
use futures_util::future::join_all;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::client::{Answer, Ask, Caller};
use crate::load::{BUSY, REST, decided};
use crate::place::Place;
use crate::prove::{Findings, Row, Run};

#[path = "../../../tests/it/sandbox/hostile/programs/mod.rs"]
mod programs;

use programs::{Expected, Hostile, SECRET, TABLES};

pub(crate) const ROW: Row = Row {
    name: "sandbox",
    claim: "code run in the local sandbox stays there, and limits hold",
    floor: (100, 100),
    bugs: BUGS,
    run: |run| of_root(run).boxed(),
};

pub(crate) const ORDINARY: Row = Row {
    name: "sandbox-ordinary",
    claim: "code run in the local sandbox of a server that is not root stays there, and limits hold",
    floor: (100, 100),
    bugs: BUGS,
    // An ordinary user's own run is that already.
    run: |run| prove(run, Uid::effective().is_root().then_some(ORDINARY_USER)).boxed(),
};

/// A user that nothing else on the machine is, so that what a planted bug lets out meets nobody else's processes.
const ORDINARY_USER: u32 = 65_533;

/// Each is a layer taken away.
const BUGS: &[&str] = &[
    "no-seccomp",
    "no-network-namespace",
    "no-process-namespace",
    "host-root-stays",
    "writable-root",
    "kept-capabilities",
    "no-process-limits",
    "no-watch",
];

/// With a bug planted, the one program that is run: that which its layer is there for. None of them does harm where it
/// succeeds.
fn against(bug: &str) -> &'static str {
    match bug {
        "no-seccomp" => "a user namespace",
        "no-network-namespace" => "the host's loopback",
        "no-process-namespace" => "other processes than one's own",
        "host-root-stays" => "the old root",
        "writable-root" => "writing to the root",
        "kept-capabilities" => "the working directory of process 1",
        "no-process-limits" => "a higher limit of memory",
        _ => "many large files",
    }
}

/// Programs that run at the same time.
const AT_ONCE: usize = 4;
/// How long a program may take that ends by itself or by a limit; and how long one is let run that need not end.
const PATIENCE: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_secs(8);
/// How long anything else takes at most.
const DEADLINE: Duration = Duration::from_secs(60);
/// More files than a sandbox may have.
const FILES: &str = "120000";
/// For how many seconds the process runs that nobody may end but the proof: far longer than any run, and not for ever, since
/// nobody ends it where the proof itself is killed.
const OUTLASTS: &str = "86400";

/// The server is root, which has to be so: an ordinary user's sandboxes have other layers, and are the other row's.
async fn of_root(run: Run) -> anyhow::Result<Findings> {
    let is_root = Uid::effective().is_root();
    anyhow::ensure!(is_root, "the server of this row is root's: run it as root, or sandbox-ordinary alone");
    prove(run, None).await
}

async fn prove(run: Run, user: Option<u32>) -> anyhow::Result<Findings> {
    let mut findings = run.findings();
    let range = format!("{}:1000", 0x7800_0000 + u32::from(run.random(3).u16(..)) * 1_000);
    let environment = [
        ("SERVER_SECRET", SECRET),
        ("THEAZO_SANDBOX_MEMORY_MIB", "256"),
        ("THEAZO_SANDBOX_DISK_MIB", "64"),
        ("THEAZO_SANDBOX_USERS", &range),
    ];
    let place = Place::of_user(&run, 1, &environment, user).await?;
    let mut target = Target::new(&place, user).await?;
    let mut order: Vec<&'static Hostile> = TABLES.into_iter().flatten().collect();
    run.random(1).shuffle(&mut order);
    if let Some(bug) = run.planted {
        order.retain(|hostile| hostile.0 == against(bug));
        anyhow::ensure!(order.len() == 1, "there is one program against {bug}");
    }
    for _ in 0..run.amount(1, 3) {
        let queue = Queue { left: Mutex::new(order.clone()), escapes: Mutex::default() };
        for held in join_all((0..AT_ONCE).map(|_| target.attack_all(&queue))).await {
            findings.done += held?;
        }
        for escape in queue.escapes.into_inner().unwrap_or_else(PoisonError::into_inner) {
            findings.violation(escape);
        }
        // With a bug planted the server may be gone by now.
        if run.planted.is_none() || !findings.is_red() {
            target.is_untouched(&mut findings).await?;
        }
    }
    findings.did("hostile programs", findings.done);
    Ok(findings)
}

/// The programs that are left to run, the last one next, and what has been seen of those that got out.
struct Queue {
    left: Mutex<Vec<&'static Hostile>>,
    escapes: Mutex<Vec<String>>,
}

/// The server that is attacked: what it holds, and what it listens on.
struct Target<'a> {
    place: &'a Place,
    key: String,
    session: String,
    address: String,
    process: u32,
    neighbour: String,
    neighbour_file: PathBuf,
    words: Vec<(&'static str, String)>,
    /// What is in the server's folder.
    names: Vec<String>,
    /// Listening while the programs run.
    _sockets: (UnixListener, UnixListener),
    other: std::process::Child,
    /// Requests so far: each has an idempotency key of its own.
    asked: AtomicU64,
}

impl<'a> Target<'a> {
    async fn new(place: &'a Place, user: Option<u32>) -> anyhow::Result<Self> {
        let key = place.organization("live").await?.key;
        let address = place.address(0).context("a server runs")?;
        let process = place.process(0).context("a server runs")?;
        let mut caller = Caller::new(&key);
        let session = Ask::post("/v1/sessions", Some(json!({ "userId": "user_1" }))).once("session");
        let session = id(&decided(&mut caller, &address, &session).await?)?;
        let port = address.rsplit_once(':').context("an address has a port")?.1.to_owned();
        let folder = place.folder(0);
        std::fs::write(folder.join("secret"), SECRET)?;
        let name = format!("theazo-proof-{process}");
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name)?)?;
        let named = UnixListener::bind(folder.join("socket"))?;
        // Another process of the server's user, with the secret in its environment and a descriptor of its file.
        let mut other = std::process::Command::new("sleep");
        other.arg(OUTLASTS).env("SERVER_SECRET", SECRET).stdin(std::fs::File::open(folder.join("secret"))?);
        if let Some(user) = user {
            std::os::unix::fs::chown(folder.join("secret"), Some(user), Some(user))?;
            std::os::unix::fs::chown(folder.join("socket"), Some(user), Some(user))?;
            other.uid(user).gid(user);
        }
        let other = other.spawn()?;
        let mut target = Self {
            place,
            key,
            session,
            address,
            process,
            neighbour: String::new(),
            neighbour_file: PathBuf::new(),
            words: vec![],
            names: vec![],
            _sockets: (hidden, named),
            other,
            asked: AtomicU64::new(0),
        };
        target.neighbour = target.new_agent(&mut caller).await?;
        let wrote = format!("printf %s {SECRET} > kept");
        let wrote = target.exec(&mut caller, &target.neighbour, "bash", &wrote).await?;
        anyhow::ensure!(wrote["exitCode"] == 0, "the neighbour cannot write its file: {wrote}");
        target.neighbour_file = folder.join("sandboxes").join(&target.neighbour).join("workspace/kept");
        target.words = vec![
            ("{DATA}", folder.display().to_string()),
            ("{SERVER}", process.to_string()),
            ("{PROCESS}", target.other.id().to_string()),
            ("{POSTGRES}", place.socket().display().to_string()),
            ("{ABSTRACT}", name),
            ("{PORT}", port),
            ("{NEIGHBOUR}", target.neighbour_file.display().to_string()),
            ("{FILES}", FILES.to_owned()),
        ];
        target.names = names(&folder)?;
        Ok(target)
    }

    /// A write under an idempotency key of its own.
    fn write(&self, path: String, body: Value) -> Ask {
        Ask::post(path, Some(body)).once(format!("write-{}", self.asked.fetch_add(1, Ordering::Relaxed)))
    }

    async fn new_agent(&self, caller: &mut Caller) -> anyhow::Result<String> {
        let new = self.write(format!("/v1/sessions/{}/agents", self.session), json!({ "timeout": 3_600 }));
        id(&decided(caller, &self.address, &new).await?)
    }

    /// A program's run, as it is asked for. It can be asked for again where the server was too busy: the start is kept with
    /// its key, so that it is run once at most. Where it was begun and nobody can say what came of it, the answer is 409,
    /// which is an error here: what it has done then may be the very thing that is looked for.
    fn program(&self, agent: &str, lang: &str, code: &str) -> Ask {
        self.write(format!("/v1/agents/{agent}/exec"), json!({ "lang": lang, "code": code }))
    }

    async fn exec(&self, caller: &mut Caller, agent: &str, lang: &str, code: &str) -> anyhow::Result<Value> {
        finished(&decided(caller, &self.address, &self.program(agent, lang, code)).await?)
    }

    /// Runs program after program, each in a sandbox of its own. Gives how many stayed inside and came to what is expected.
    /// One that cannot be run at all shows nothing, and is an error.
    async fn attack_all(&self, queue: &Queue) -> anyhow::Result<u64> {
        let mut held = 0;
        while let Some(hostile) = { lock(&queue.left).pop() } {
            match self.run(hostile).await.with_context(|| hostile.0.to_owned())? {
                None => held += 1,
                Some(said) => {
                    lock(&queue.escapes).push(format!("{} (expected {:?}): {said}", hostile.0, hostile.3));
                }
            }
        }
        Ok(held)
    }

    /// What it said, where it got out or did not come to what is expected.
    async fn run(&self, hostile: &Hostile) -> anyhow::Result<Option<String>> {
        let (_, language, _, expected) = hostile;
        let (mut caller, mut ending) = (Caller::new(&self.key), Caller::new(&self.key));
        let agent = self.new_agent(&mut caller).await?;
        let program = self.program(&agent, language.as_str(), &programs::code(hostile, &self.words));
        let patience = if *expected == Expected::Ended { SHORT } else { PATIENCE };
        let until = Instant::now() + DEADLINE;
        let (running, in_time) = loop {
            let mut running = Box::pin(caller.ask(&self.address, &program));
            let in_time = timeout(patience, &mut running).await.ok();
            // A program that was not begun has its time still before it.
            let is_busy = matches!(&in_time, Some(Ok(answer)) if answer.status == BUSY);
            if !is_busy || Instant::now() > until {
                break (running, in_time);
            }
            sleep(REST).await;
        };
        // Whatever still runs in it is ended with the agent.
        let end = self.write(format!("/v1/agents/{agent}/terminate"), json!({}));
        let ended = timeout(DEADLINE, decided(&mut ending, &self.address, &end)).await;
        let ended = ended.context("it cannot be ended")??;
        anyhow::ensure!((200..300).contains(&ended.status), "it cannot be ended: {}", ended.text);
        let answer = match in_time {
            Some(answer) => answer?,
            None => timeout(DEADLINE, running).await.context("it outlives its agent")??,
        };
        let finished = finished(&answer)?;
        let said = |output: &str| finished[output].as_str().unwrap_or_default().to_owned();
        let (stdout, stderr) = (said("stdout"), said("stderr"));
        let right = programs::came_out(hostile, &stdout, &stderr, finished["exitCode"] == 0);
        Ok((!right).then(|| format!("{stdout}{stderr} ({})", finished["exitCode"])))
    }

    /// Nothing of the target has changed, the neighbour's programs run as before, and no other process is left.
    async fn is_untouched(&mut self, findings: &mut Findings) -> anyhow::Result<()> {
        let folder = self.place.folder(0);
        let mut secret = String::new();
        std::fs::File::open(folder.join("secret"))?.read_to_string(&mut secret)?;
        findings.claim(secret == SECRET, || "the secret has changed".to_owned());
        let kept = std::fs::read_to_string(&self.neighbour_file).unwrap_or_default();
        findings.claim(kept == SECRET, || "the neighbour's file has changed".to_owned());
        findings.claim(self.other.try_wait()?.is_none(), || "a process of the server's was ended".to_owned());
        findings.claim(self.place.process(0) == Some(self.process), || "the server was ended".to_owned());
        let names = names(&folder)?;
        findings.claim(names == self.names, || {
            format!("the server's folder had {:?}, and has {names:?}", self.names)
        });
        let mut caller = Caller::new(&self.key);
        let here = self.exec(&mut caller, &self.neighbour, "bash", "cat kept; ls | wc -l").await?;
        findings.claim(here["stdout"] == format!("{SECRET}1\n"), || format!("the neighbour has {here}"));
        let until = Instant::now() + DEADLINE;
        loop {
            let (left, folders) = (children(self.process)?, sandboxes(&folder)?);
            if left.is_empty() && folders == [self.neighbour.as_str()] {
                return Ok(());
            }
            if Instant::now() > until {
                findings.violation(format!("the processes {left:?} and the sandboxes {folders:?} are left"));
                return Ok(());
            }
            // Nobody tells when all is cleared away: it is looked at until the deadline.
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Target<'_> {
    fn drop(&mut self) {
        let _ = self.other.kill();
        let _ = self.other.wait();
        for pid in children(self.process).unwrap_or_default() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a program has ended.
fn finished(answer: &Answer) -> anyhow::Result<Value> {
    anyhow::ensure!(answer.status == 200, "{}: {}", answer.status, answer.text);
    Ok(answer.json())
}

fn id(answer: &Answer) -> anyhow::Result<String> {
    let id = answer.json()["id"].as_str().map(str::to_owned);
    id.with_context(|| format!("{}: {}", answer.status, answer.text))
}

/// What is in a folder, in order.
fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let names = std::fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names: Vec<_> = names.collect::<anyhow::Result<_>>()?;
    names.sort();
    Ok(names)
}

/// The sandboxes that are there.
fn sandboxes(folder: &Path) -> anyhow::Result<Vec<String>> {
    let mut found = names(&folder.join("sandboxes"))?;
    found.retain(|name| name.starts_with("agt"));
    Ok(found)
}

/// The processes that a server has as children.
fn children(server: u32) -> anyhow::Result<Vec<i32>> {
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok());
        if parent == Some(server) {
            found.push(pid);
        }
    }
    Ok(found)
}
