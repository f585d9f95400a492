//! Programs that mean harm: each of them leaves the machine, the server and a second agent's sandbox as they were.

mod exhausting;
mod kernel;
mod reaching;

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use theazo::clock::{Clock, SystemClock};
use theazo::providers::compute::{Compute, End, Finished, Handle, Language, Program};

use theazo::random;

use super::{Sandboxes, program, wrote};
use crate::support::cluster::database;
use crate::support::wait::until;

/// What the server keeps to itself. No program may ever write it.
const SECRET: &str = "of-the-server-alone-7d1f";

/// What is expected of a program. Whatever it is, the program never writes `BREACH`, nor what is the server's.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// It tried, was refused, and said `held`.
    Held,
    /// It was ended by this limit.
    Over(&'static str),
    /// It ends, in whatever way; at the timeout at the latest.
    Ended,
}

/// A hostile program: what it does, in what language, how, and what comes of it. In the code, words in braces stand for
/// what the server has.
type Hostile = (&'static str, Language, &'static str, Expected);

/// What Python programs begin with.
const PREAMBLE: &str = "
import ctypes, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def attempt(work):
    try: result = work()
    except BaseException as error: print('held', type(error).__name__); return
    print('BREACH', result)
def refused(result):
    if result == -1: raise OSError(ctypes.get_errno(), '')
    return result
def call(number, *arguments): return attempt(lambda: refused(libc.syscall(number, *arguments)))
";

/// The server that is attacked: what it holds, and what it listens on.
struct Target {
    sandboxes: Sandboxes,
    neighbour: Handle,
    neighbour_file: PathBuf,
    words: Vec<(&'static str, String)>,
    /// Listening while the programs run.
    _sockets: (UnixListener, UnixListener, std::net::TcpListener),
    environment: std::process::Child,
}

impl Target {
    async fn new() -> Self {
        let sandboxes = Sandboxes::with(|options| {
            options.limits.memory_bytes = 256 << 20;
            options.limits.disk_bytes = 64 << 20;
            options.limits.files = 5_000;
        });
        let (new, neighbour) = sandboxes.create().await;
        sandboxes.compute.write_file(&neighbour, "kept", SECRET.as_bytes()).await.unwrap();
        let scratch = &sandboxes.scratch.path;
        std::fs::write(scratch.join("secret"), SECRET).unwrap();
        let name = format!("theazo-test-{}", random::ulid(SystemClock.now()));
        let hidden = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let named = UnixListener::bind(scratch.join("socket")).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // A process with the server's secret in its environment and a descriptor of its secret file.
        let mut environment = std::process::Command::new("sleep");
        environment.arg("600").env("SERVER_SECRET", SECRET);
        let environment =
            environment.stdin(std::fs::File::open(scratch.join("secret")).unwrap()).spawn().unwrap();
        let neighbour_file = sandboxes.file(&new, "kept");
        let words = vec![
            ("{DATA}", scratch.display().to_string()),
            ("{SERVER}", std::process::id().to_string()),
            ("{PROCESS}", environment.id().to_string()),
            ("{POSTGRES}", database().await.endpoint.socket_dir.display().to_string()),
            ("{ABSTRACT}", name),
            ("{PORT}", port.local_addr().unwrap().port().to_string()),
            ("{NEIGHBOUR}", neighbour_file.display().to_string()),
        ];
        Self { sandboxes, neighbour, neighbour_file, words, _sockets: (hidden, named, port), environment }
    }

    async fn attack(&self, hostile: &Hostile) -> Finished {
        let (name, language, code, _) = hostile;
        let (_, handle) = self.sandboxes.create().await;
        let code =
            self.words.iter().fold((*code).to_owned(), |code, (word, value)| code.replace(word, value));
        let code = if *language == Language::Python { format!("{PREAMBLE}{code}") } else { code };
        let timeout = Duration::from_secs(8);
        let asked = Program { timeout, output_limit: 100_000, ..program(*language, &code) };
        let finished = self.sandboxes.compute.run(&handle, &asked).await;
        let finished = finished.unwrap_or_else(|error| panic!("{name}: {error}"));
        self.sandboxes.compute.terminate(&handle).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        finished
    }

    /// Nothing of the target has changed, and the neighbour's programs run as before.
    async fn is_untouched(&mut self) {
        assert_eq!(std::fs::read_to_string(&self.neighbour_file).unwrap(), SECRET);
        let mut secret = String::new();
        let mut file = std::fs::File::open(self.sandboxes.scratch.path.join("secret")).unwrap();
        file.read_to_string(&mut secret).unwrap();
        assert_eq!(secret, SECRET);
        assert!(self.environment.try_wait().unwrap().is_none(), "a process of the server's was ended");
        let names = self.sandboxes.scratch.path.read_dir().unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["sandboxes", "secret", "socket"]);
        let here = "cat kept; ls | wc -l";
        wrote(&self.sandboxes.run(&self.neighbour, Language::Bash, here).await, &format!("{SECRET}1\n"));
        assert_eq!(self.sandboxes.compute.list().await.unwrap().len(), 1, "the others are deleted");
        until("the end of every supervisor but the neighbours'", || supervisors().is_empty().then_some(()))
            .await;
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.environment.kill();
        let _ = self.environment.wait();
    }
}

/// The supervisors that this process has as children.
fn supervisors() -> Vec<u32> {
    let of = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse::<u32>().ok());
        parent == Some(std::process::id())
    };
    super::life::having("sandbox-supervisor").into_iter().filter(of).collect()
}

async fn hold(table: &[Hostile]) {
    let mut target = Target::new().await;
    let attacks = futures_util::stream::iter(table).map(|hostile| {
        let target = &target;
        async move { (hostile, target.attack(hostile).await) }
    });
    let results: Vec<_> = attacks.buffer_unordered(3).collect().await;
    let mut wrong = vec![];
    for ((name, _, _, expected), finished) in results {
        let said = format!("{}{}", finished.stdout, finished.stderr);
        let kept = !said.contains("BREACH") && !said.contains(SECRET) && !said.contains("root:$");
        let as_expected = match expected {
            Expected::Held => finished.end == End::Code(0) && finished.stdout.contains("held"),
            Expected::Over(limit) => finished.stderr.contains("went past") && finished.stderr.contains(limit),
            Expected::Ended => true,
        };
        if !kept || !as_expected {
            let said: String = said.chars().take(600).collect();
            wrong.push(format!("{name}: expected {expected:?}, ended {:?}: {said}", finished.end));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    target.is_untouched().await;
}

#[tokio::test]
async fn what_is_the_hosts_cannot_be_reached() {
    hold(reaching::TABLE).await;
}

#[tokio::test]
async fn what_the_kernel_offers_beyond_programs_is_refused() {
    hold(kernel::TABLE).await;
}

#[tokio::test]
async fn what_would_exhaust_the_machine_ends() {
    hold(exhausting::TABLE).await;
}
