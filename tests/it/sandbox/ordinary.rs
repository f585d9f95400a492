//! All of it again, as a user who is not root.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use nix::unistd::Uid;

use super::INIT;
use crate::support::cluster::Scratch;

/// The user `nobody`, who is on every machine.
const NOBODY: u32 = 65_534;

/// A copy where another user can reach it.
fn copy(program: &Path, to: &Path) {
    if std::fs::hard_link(program, to).is_err() {
        std::fs::copy(program, to).unwrap();
    }
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// For root only: an ordinary user's own run is that already.
#[test]
fn sandboxes_of_an_ordinary_user_hold_as_well() {
    if !Uid::effective().is_root() {
        return;
    }
    let scratch = Scratch::new_in(Path::new("/var/tmp"));
    std::fs::set_permissions(&scratch.path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let (tests, init, own) =
        (scratch.path.join("tests"), scratch.path.join("theazo"), scratch.path.join("own"));
    copy(&std::env::current_exe().unwrap(), &tests);
    copy(&super::init(), &init);
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let mut again = Command::new(tests);
    again.args(["sandbox::", "--test-threads=2"]).uid(NOBODY).gid(NOBODY).current_dir(&own);
    again.env(INIT, init).env("TMPDIR", &own).env("HOME", &own);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("what_the_kernel_offers_beyond_programs_is_refused ... ok"), "{said}");
}
