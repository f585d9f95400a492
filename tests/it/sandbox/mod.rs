//! The local sandbox: what programs can do in it, and what they cannot.

mod behaviour;
mod disk;
mod files;
mod hostile;
mod life;
mod ordinary;

use std::path::PathBuf;
use std::time::Duration;

use theazo::clock::{Clock, SystemClock};
use theazo::providers::compute::local::{LocalCompute, Options};
use theazo::providers::compute::{Compute, End, Finished, Handle, Language, New, Program};
use theazo::random;
use theazo_domain::id::{AgentId, SessionId};

use crate::support::cluster::Scratch;

/// Names the program of sandboxes for the tests of an ordinary user.
const INIT: &str = "THEAZO_TEST_INIT";

/// Sandboxes in a folder that is thrown away.
pub(crate) struct Sandboxes {
    pub(crate) compute: LocalCompute,
    pub(crate) scratch: Scratch,
}

pub(crate) fn options(scratch: &Scratch) -> Options {
    Options { init: init(), ..Options::new(scratch.path.join("sandboxes")) }
}

/// The program whose copy an ordinary user can reach, or the one that was built.
pub(crate) fn init() -> PathBuf {
    std::env::var_os(INIT).map_or_else(|| env!("CARGO_BIN_EXE_theazo").into(), PathBuf::from)
}

impl Sandboxes {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Options)) -> Self {
        let scratch = Scratch::new();
        let mut options = options(&scratch);
        change(&mut options);
        Self { compute: LocalCompute::new(options).unwrap(), scratch }
    }

    pub(crate) async fn create(&self) -> (New, Handle) {
        let new = new();
        let handle = self.compute.create(&new).await.unwrap();
        (new, handle)
    }

    /// Where a file of a workspace is.
    pub(crate) fn file(&self, new: &New, path: &str) -> PathBuf {
        self.scratch.path.join("sandboxes").join(new.agent_id.to_string()).join("workspace").join(path)
    }

    pub(crate) async fn run(&self, handle: &Handle, language: Language, code: &str) -> Finished {
        self.compute.run(handle, &program(language, code)).await.unwrap()
    }
}

pub(crate) fn new() -> New {
    let ulid = || random::ulid(SystemClock.now());
    New {
        agent_id: AgentId::from_ulid(ulid()),
        session_id: SessionId::from_ulid(ulid()),
        browser: false,
        lifetime: Duration::from_secs(60),
    }
}

pub(crate) fn program(language: Language, code: &str) -> Program {
    Program {
        language,
        code: code.to_owned(),
        environment: vec![],
        timeout: Duration::from_secs(30),
        output_limit: 1024 * 1024,
    }
}

/// That a program ended with 0 and wrote this.
#[track_caller]
pub(crate) fn wrote(finished: &Finished, stdout: &str) {
    assert_eq!((finished.end, &*finished.stdout), (End::Code(0), stdout), "{}", finished.stderr);
}
