//! Programs that mean harm: each of them leaves the machine, the server and a second agent's sandbox as they were.

mod programs;

use std::io::Read;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use programs::{Expected, Hostile, SECRET, TABLES, came_out, code};
use theazo::clock::{Clock, SystemClock};
use theazo::providers::compute::{Compute, End, Finished, Handle, Language, Program};
use theazo::random;

use super::{Sandboxes, program, wrote};
use crate::support::cluster::database;
use crate::support::wait::until;

/// What one program may leave behind, and have.
const DISK_BYTES: u64 = 64 << 20;

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
            options.limits.disk_bytes = DISK_BYTES;
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
        let postgres = &database().await.endpoint;
        let neighbour_file = sandboxes.file(&new, "kept");
        let words = vec![
            ("{DATA}", scratch.display().to_string()),
            ("{SERVER}", std::process::id().to_string()),
            ("{PROCESS}", environment.id().to_string()),
            ("{POSTGRES}", format!("{}/.s.PGSQL.{}", postgres.socket_dir.display(), postgres.port)),
            ("{FILES}", "20000".to_owned()),
            ("{ABSTRACT}", name),
            ("{PORT}", port.local_addr().unwrap().port().to_string()),
            ("{NEIGHBOUR}", neighbour_file.display().to_string()),
        ];
        Self { sandboxes, neighbour, neighbour_file, words, _sockets: (hidden, named, port), environment }
    }

    async fn attack(&self, hostile: &Hostile) -> Finished {
        let (name, language, _, expected) = hostile;
        let (_, handle) = self.sandboxes.create().await;
        let code = code(hostile, &self.words);
        // One that need not end by itself is ended soon; the others have to come as far as they are let.
        let seconds = if *expected == Expected::Ended { 8 } else { 60 };
        let timeout = Duration::from_secs(seconds);
        let asked = Program { timeout, output_limit: 100_000, ..program(*language, &code) };
        let finished = self.sandboxes.compute.run(&handle, &asked).await;
        let finished = finished.unwrap_or_else(|error| panic!("{name}: {error}"));
        let stored = self.sandboxes.compute.stored_bytes(&handle).await.unwrap();
        assert!(stored <= DISK_BYTES, "{name}: {stored} bytes stay");
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
    for (hostile, finished) in results {
        if !came_out(hostile, &finished.stdout, &finished.stderr, finished.end == End::Code(0)) {
            let said: String = format!("{}{}", finished.stdout, finished.stderr).chars().take(600).collect();
            wrong.push(format!("{}: expected {:?}, ended {:?}: {said}", hostile.0, hostile.3, finished.end));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    target.is_untouched().await;
}

#[tokio::test]
async fn what_is_the_hosts_cannot_be_reached() {
    hold(TABLES[0]).await;
}

#[tokio::test]
async fn what_the_kernel_offers_beyond_programs_is_refused() {
    hold(TABLES[1]).await;
}

#[tokio::test]
async fn what_would_exhaust_the_machine_ends() {
    hold(TABLES[2]).await;
}
