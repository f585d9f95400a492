//! Sandboxes from their making to their end, and what a crash leaves.

use std::path::Path;
use std::time::Duration;

use theazo::clock::{Clock, SystemClock};
use theazo::providers::compute::local::{LocalCompute, layers};
use theazo::providers::compute::{Compute, End, Error, Handle, Language, Program};

use super::{Sandboxes, new, options, program, wrote};
use crate::support::cluster::Scratch;
use crate::support::wait::until;

/// Set for the process that [`a_server_of_sandboxes_to_be_killed`] is.
const OWNED_DIR: &str = "THEAZO_TEST_SANDBOX_DIR";

/// Set beside it: how long its programs sleep, which is what they are found by.
const OWNED_MARKER: &str = "THEAZO_TEST_SANDBOX_MARKER";

/// A number of seconds that no other process sleeps.
fn marker(number: u32) -> String {
    format!("9{:07}{number}", std::process::id())
}

/// The processes of the machine whose command line has this word in it.
pub(super) fn having(word: &str) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let says = |pid: &u32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(word.len()).any(|part| part == word.as_bytes())
    };
    pids.filter(|pid| *pid != std::process::id()).filter(says).collect()
}

#[tokio::test]
async fn a_pause_ends_what_runs_and_keeps_the_workspace() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    sandboxes.compute.write_file(&handle, "kept", &[7; 10_000]).await.unwrap();
    let sleeper = program(Language::Bash, &format!("touch began /tmp/thrown; sleep {}", marker(1)));
    let pause = async {
        until("the program's start", || sandboxes.file(&new, "began").exists().then_some(())).await;
        sandboxes.compute.pause(&handle).await.unwrap()
    };
    let (finished, paused) = tokio::join!(sandboxes.compute.run(&handle, &sleeper), pause);
    assert_eq!(finished.unwrap().end, End::Signal(9));
    assert!(having(&marker(1)).is_empty());
    assert!((10_000..100_000).contains(&paused.stored_bytes), "{}", paused.stored_bytes);
    let resumed = sandboxes.compute.resume(&paused.handle, &new).await.unwrap();
    wrote(&sandboxes.run(&resumed, Language::Bash, "wc -c < kept; ls /tmp").await, "10000\n");
    assert_eq!(sandboxes.compute.stored_bytes(&resumed).await.unwrap(), paused.stored_bytes);
}

#[tokio::test]
async fn a_termination_deletes_whatever_an_agent_made() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    let odd = "
import os
os.mkdir('shut'); open('shut/in', 'w'); os.chmod('shut', 0)
os.mkdir('fixed'); os.mkdir('fixed/in'); open('fixed/in/x', 'w'); os.chmod('fixed/in', 0o500); os.chmod('fixed', 0o500)
os.mkfifo('pipe'); os.symlink('/etc', 'link'); open(b'bad\\xff\\n', 'w'); os.mkdir('.0')
os.chmod('/tmp', 0)
";
    wrote(&sandboxes.run(&handle, Language::Python, odd).await, "");
    // Whether it is stopped before its end is a matter of luck, since the depth is looked at from time to time.
    let deep = "
import os
for n in range(1500):
    os.mkdir('d'); os.chdir('d')
open('deep', 'w')
";
    sandboxes.run(&handle, Language::Python, deep).await;
    sandboxes.compute.terminate(&handle).await.unwrap();
    assert!(!sandboxes.file(&new, "").exists());
    assert!(sandboxes.compute.list().await.unwrap().is_empty());
    sandboxes.compute.terminate(&handle).await.unwrap();
    let gone = sandboxes.compute.run(&handle, &program(Language::Bash, "true")).await;
    assert_eq!(gone, Err(Error::Gone));
    assert_eq!(sandboxes.compute.pause(&handle).await, Err(Error::Gone));
    assert_eq!(sandboxes.compute.read_file(&handle, "x", 1).await, Err(Error::Gone));
}

#[tokio::test]
async fn a_termination_ends_what_runs() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    let busy = program(
        Language::Bash,
        "touch began; while :; do echo x > /tmp/$RANDOM; sleep 0.00$((RANDOM % 9)); done",
    );
    let end = async {
        until("the program's start", || sandboxes.file(&new, "began").exists().then_some(())).await;
        sandboxes.compute.terminate(&handle).await.unwrap();
    };
    let (finished, ()) = tokio::join!(sandboxes.compute.run(&handle, &busy), end);
    assert_eq!(finished.unwrap().end, End::Signal(9));
    assert!(!sandboxes.file(&new, "").exists());
}

#[tokio::test]
async fn what_runs_ends_when_nobody_waits_for_it() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    let sleeper = program(Language::Bash, &format!("touch began; sleep {}", marker(3)));
    {
        let mut run = std::pin::pin!(sandboxes.compute.run(&handle, &sleeper));
        let began = until("the program's start", || sandboxes.file(&new, "began").exists().then_some(()));
        tokio::select! { _ = &mut run => panic!("it sleeps"), () = began => {} }
    }
    until("the program's end", || having(&marker(3)).is_empty().then_some(())).await;
}

#[tokio::test]
async fn another_server_finds_what_is_there() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    sandboxes.compute.write_file(&handle, "kept", b"here").await.unwrap();
    let other = LocalCompute::new(options(&sandboxes.scratch)).unwrap();
    assert_eq!(other.list().await.unwrap(), [(new.agent_id, handle.clone())]);
    assert_eq!(other.read_file(&handle, "kept", 10).await.unwrap().bytes, b"here");
    let foreign = Handle("{}".to_owned());
    assert!(matches!(other.terminate(&foreign).await, Err(Error::Refused(_))));
    let escape = Handle(r#"{"directory":"../../x"}"#.to_owned());
    assert!(matches!(other.terminate(&escape).await, Err(Error::Refused(_))));
}

#[tokio::test]
async fn a_termination_by_another_server_ends_what_runs_here() {
    let sandboxes = Sandboxes::new();
    let (new, handle) = sandboxes.create().await;
    let other = LocalCompute::new(options(&sandboxes.scratch)).unwrap();
    let sleeper = program(Language::Bash, &format!("touch began; sleep {}", marker(9)));
    let ending = async {
        until("the program's start", || sandboxes.file(&new, "began").exists().then_some(())).await;
        other.terminate(&handle).await.unwrap();
    };
    let (ran, ()) = tokio::join!(sandboxes.compute.run(&handle, &sleeper), ending);
    assert_eq!(ran.unwrap().end, End::Signal(9));
    assert!(having(&marker(9)).is_empty());
    assert_eq!(sandboxes.compute.run(&handle, &sleeper).await, Err(Error::Gone));
}

#[tokio::test]
async fn a_server_on_another_machine_says_that_the_files_are_elsewhere() {
    let (here, there) = (Sandboxes::new(), Sandboxes::new());
    let (_, handle) = there.create().await;
    let ran = here.compute.run(&handle, &program(Language::Bash, "true")).await;
    assert!(matches!(&ran, Err(Error::Unavailable(why)) if why.contains("another server")), "{ran:?}");
    // It does not take the sandbox for gone, so nobody believes that it was deleted.
    assert!(matches!(here.compute.terminate(&handle).await, Err(Error::Unavailable(_))));
    there.compute.terminate(&handle).await.unwrap();
}

/// Not a test of its own: the process that the next one starts and kills.
#[tokio::test]
async fn a_server_of_sandboxes_to_be_killed() {
    let Some(dir) = std::env::var_os(OWNED_DIR) else { return };
    let mut options = theazo::providers::compute::local::Options::new(Path::new(&dir).join("sandboxes"));
    options.init = super::init();
    let compute = LocalCompute::new(options).unwrap();
    let handle = compute.create(&new()).await.unwrap();
    let seconds = std::env::var(OWNED_MARKER).unwrap();
    let code =
        format!("setsid sleep {seconds} & disown; (trap '' TERM HUP; sleep {seconds}) & sleep {seconds}");
    let program = Program { timeout: Duration::from_secs(600), ..program(Language::Bash, &code) };
    compute.run(&handle, &program).await.unwrap();
}

#[tokio::test]
async fn a_killed_server_takes_its_sandboxes_along_and_the_next_one_finds_them() {
    let scratch = Scratch::new();
    let mut server = std::process::Command::new(std::env::current_exe().unwrap());
    server
        .args(["--exact", "sandbox::life::a_server_of_sandboxes_to_be_killed"])
        .env(OWNED_DIR, &scratch.path);
    server.env(OWNED_MARKER, marker(4));
    let mut server = server.stdout(std::process::Stdio::null()).spawn().unwrap();
    until("three sleepers", || (having(&marker(4)).len() >= 3).then_some(())).await;
    server.kill().unwrap();
    server.wait().unwrap();
    until("their end", || having(&marker(4)).is_empty().then_some(())).await;
    let next = LocalCompute::new(options(&scratch)).unwrap();
    let left = next.list().await.unwrap();
    assert_eq!(left.len(), 1);
    next.terminate(&left[0].1).await.unwrap();
    assert!(next.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn every_layer_is_seen_from_inside() {
    let scratch = Scratch::new();
    let layers = layers(&options(&scratch), SystemClock.now()).await.unwrap();
    let missing: Vec<_> = layers.iter().filter(|layer| layer.mandatory && !layer.live).collect();
    assert!(missing.is_empty() && layers.len() > 8, "{layers:?}");
}

#[tokio::test]
async fn what_is_no_init_is_not_run_for_one() {
    let sandboxes = Sandboxes::with(|options| options.init = "/bin/true".into());
    let (_, handle) = sandboxes.create().await;
    let refused = sandboxes.compute.run(&handle, &program(Language::Bash, "true")).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
}

/// Where the machine lets this user make cgroups of version 1, as root does on some; the layout of version 2 is held by
/// the tests beside the code.
#[tokio::test]
async fn a_named_cgroup_holds_what_runs_and_goes_with_the_sandbox() {
    let parent = Path::new("/sys/fs/cgroup/pids").join(format!("theazo-test-{}", std::process::id()));
    if std::fs::create_dir(&parent).is_err() {
        return;
    }
    let sandboxes = Sandboxes::with(|options| options.cgroups = vec![parent.clone()]);
    let (new, handle) = sandboxes.create().await;
    let group = parent.join(new.agent_id.to_string());
    let code = "touch began; until [ -e seen ]; do sleep 0.02; done; echo seen";
    let asked = program(Language::Bash, code);
    let look = async {
        until("the program's start", || sandboxes.file(&new, "began").exists().then_some(())).await;
        let processes = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert!(processes.lines().count() >= 3, "the supervisor, the init and the program: {processes}");
        assert_eq!(std::fs::read_to_string(group.join("pids.max")).unwrap(), "72\n");
        sandboxes.compute.write_file(&handle, "seen", b"").await.unwrap();
    };
    let (finished, ()) = tokio::join!(sandboxes.compute.run(&handle, &asked), look);
    wrote(&finished.unwrap(), "seen\n");
    sandboxes.compute.terminate(&handle).await.unwrap();
    assert!(!group.exists());
    std::fs::remove_dir(parent).unwrap();
}
