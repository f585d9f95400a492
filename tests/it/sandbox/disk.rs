//! What a workspace may take on disk, and what becomes of what is written past that.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use theazo::providers::compute::local::LocalCompute;
use theazo::providers::compute::{Compute, End, Error, Finished, Handle, Language};

use super::{Sandboxes, options, program, wrote};

const MIB: u64 = 1 << 20;
/// Files of 15 MiB by allocation, until 20 are there or no more are to be had.
const ALLOCATE: &str = "import os\nfor n in range(20):\n  os.posix_fallocate(os.open(f'{os.urandom(4).hex()}', os.O_CREAT | os.O_WRONLY), 0, 15 << 20)";

fn limited(disk_bytes: u64, files: u64) -> Sandboxes {
    Sandboxes::with(|options| {
        options.limits.disk_bytes = disk_bytes;
        options.limits.files = files;
    })
}

async fn stored(sandboxes: &Sandboxes, handle: &Handle) -> u64 {
    sandboxes.compute.stored_bytes(handle).await.unwrap()
}

#[track_caller]
fn ended_by(finished: &Finished, limit: &str) {
    assert_eq!(finished.end, End::Signal(9), "{finished:?}");
    assert!(finished.stderr.contains("went past") && finished.stderr.contains(limit), "{finished:?}");
}

#[tokio::test]
async fn what_a_program_writes_past_the_limit_does_not_stay() {
    let sandboxes = limited(16 * MIB, 1_000);
    let (_, handle) = sandboxes.create().await;
    sandboxes.compute.write_file(&handle, "mine", b"of before").await.unwrap();
    // Each is over before anybody may have looked, and none leaves more room to the next.
    let at_once = "import os\nfor n in range(4):\n  f = open(f'{os.urandom(4).hex()}', 'wb'); f.write(bytes(10 << 20)); f.close()";
    for code in [ALLOCATE, ALLOCATE, at_once] {
        let finished = sandboxes.run(&handle, Language::Python, code).await;
        assert!(stored(&sandboxes, &handle).await <= 16 * MIB, "{finished:?}");
        ended_by(&finished, "16 MiB of disk");
        assert!(finished.stderr.contains("removed"), "{finished:?}");
    }
    wrote(
        &sandboxes.run(&handle, Language::Bash, "rm -f ????????; echo new > new; cat mine new").await,
        "of beforenew\n",
    );
}

#[tokio::test]
async fn what_is_written_past_the_limit_goes_before_what_was_there() {
    let sandboxes = limited(16 * MIB, 1_000);
    let (_, handle) = sandboxes.create().await;
    wrote(&sandboxes.run(&handle, Language::Bash, "head -c 12M /dev/zero > old").await, "");
    // The old file is changed too, and larger than what is new.
    let code = "echo more >> old; head -c 1M /dev/zero > small; head -c 7M /dev/zero > new; head -c 7M /dev/zero > /tmp/new";
    ended_by(&sandboxes.run(&handle, Language::Bash, code).await, "16 MiB of disk");
    // How far the program has come by then is the machine's to say; what of it goes is told in the unit's own tests.
    assert!(stored(&sandboxes, &handle).await <= 16 * MIB);
    wrote(&sandboxes.run(&handle, Language::Bash, "stat -c %s old; tail -c 5 old").await, "12582917\nmore\n");
}

#[tokio::test]
async fn a_workspace_that_is_over_its_limit_may_be_made_smaller_and_no_larger() {
    let sandboxes = limited(64 * MIB, 1_000);
    let (_, handle) = sandboxes.create().await;
    wrote(
        &sandboxes.run(&handle, Language::Bash, "for n in 1 2 3; do head -c 10M /dev/zero > $n; done").await,
        "",
    );
    let mut options = options(&sandboxes.scratch);
    options.limits.disk_bytes = 16 * MIB;
    let smaller = Sandboxes { compute: LocalCompute::new(options).unwrap(), scratch: sandboxes.scratch };
    let refused = smaller.compute.write_file(&handle, "x", b"x").await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("16 MiB")), "{refused}");
    let more = "head -c 8M /dev/zero > 4";
    for _ in 0..2 {
        ended_by(&smaller.run(&handle, Language::Bash, more).await, "16 MiB of disk");
        assert!(stored(&smaller, &handle).await < 31 * MIB);
    }
    wrote(&smaller.run(&handle, Language::Bash, "rm 1; ls").await, "2\n3\n");
    smaller.compute.write_file(&handle, "2", b"smaller").await.unwrap();
    wrote(&smaller.run(&handle, Language::Bash, "echo fits > 4; cat 2 4").await, "smallerfits\n");
}

#[tokio::test]
async fn files_and_folders_past_their_number_do_not_stay() {
    let sandboxes = limited(64 * MIB, 100);
    let (new, handle) = sandboxes.create().await;
    sandboxes.compute.write_file(&handle, "mine", b"of before").await.unwrap();
    let files = "for n in range(200): open(f'f{n}', 'w').close()";
    let folders = "import os\nfor n in range(100): os.makedirs(f'd/{n}/e/f')";
    for code in [files, folders] {
        ended_by(&sandboxes.run(&handle, Language::Python, code).await, "100 files");
        let left = sandboxes.run(&handle, Language::Bash, "find . /tmp -mindepth 1 | wc -l").await;
        assert!(left.stdout.trim().parse::<u64>().unwrap() <= 100, "{left:?}");
    }
    assert_eq!(std::fs::read(sandboxes.file(&new, "mine")).unwrap(), b"of before");
}

#[tokio::test]
async fn nothing_is_hidden_in_folders_that_are_shut() {
    let sandboxes = limited(16 * MIB, 1_000);
    let (_, handle) = sandboxes.create().await;
    for mode in ["000", "400", "500"] {
        let code = format!(
            "mkdir d; for n in 1 2 3; do head -c 10M /dev/zero > d/$n; done; chmod {mode} d; chmod {mode} . /tmp"
        );
        let finished = sandboxes.run(&handle, Language::Bash, &code).await;
        assert!(stored(&sandboxes, &handle).await <= 16 * MIB, "{mode}: {finished:?}");
        ended_by(&finished, "16 MiB of disk");
        wrote(
            &sandboxes
                .run(&handle, Language::Bash, "chmod 700 /workspace /tmp /workspace/d; rm -r d; ls")
                .await,
            "",
        );
    }
}

#[tokio::test]
async fn nothing_is_hidden_below_folders_that_are_too_deep() {
    let sandboxes = limited(16 * MIB, 1_000);
    let (new, handle) = sandboxes.create().await;
    let code = "import os\nfor n in range(250): os.mkdir('d'); os.chdir('d')\n\
                for n in range(4):\n  with open(f'x{n}', 'wb') as f: f.write(bytes(10 << 20))";
    ended_by(&sandboxes.run(&handle, Language::Python, code).await, "folders in each other");
    assert!(depth(&sandboxes.file(&new, "")) <= 201);
    wrote(&sandboxes.run(&handle, Language::Bash, "rm -r d; ls").await, "");
    let deep = format!("{}file", "d/".repeat(250));
    let refused = sandboxes.compute.write_file(&handle, &deep, b"x").await.unwrap_err();
    assert!(matches!(&refused, Error::Refused(why) if why.contains("200 folders")), "{refused}");
}

fn depth(top: &Path) -> usize {
    let folders = top.read_dir().unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    folders.map(|path| depth(&path)).max().unwrap_or_default() + 1
}

#[tokio::test]
async fn programs_at_the_same_time_have_one_limit() {
    let sandboxes = limited(16 * MIB, 1_000);
    let (_, handle) = sandboxes.create().await;
    // The second begins when the first is past the limit, and does not take what is there for its own.
    let first = "echo > began; for n in 1 2 3 4 5; do head -c 12M /dev/zero > large$n; done; until [ -e ended ]; do sleep 0.01; done";
    let second = "head -c 8M /dev/zero > more; echo > ended";
    let asked = program(Language::Bash, first);
    let first = sandboxes.compute.run(&handle, &asked);
    let second = async {
        while sandboxes.compute.read_file(&handle, "began", 1).await.is_err() {
            tokio::task::yield_now().await;
        }
        sandboxes.run(&handle, Language::Bash, second).await
    };
    let (first, second) = tokio::join!(first, second);
    let ends = (first.unwrap(), second);
    assert!(stored(&sandboxes, &handle).await <= 16 * MIB, "{ends:?}");
}

#[tokio::test]
async fn files_from_outside_keep_to_the_limit() {
    let sandboxes = limited(MIB, 10);
    let (new, handle) = sandboxes.create().await;
    let compute = &sandboxes.compute;
    let half = vec![1; 600_000];
    compute.write_file(&handle, "half", &half).await.unwrap();
    let refused = compute.write_file(&handle, "other", &half).await.unwrap_err();
    let Error::Refused(why) = refused else { panic!("{refused}") };
    assert!(why.contains("1 MiB"), "{why}");
    // What takes a file's place takes its room.
    compute.write_file(&handle, "half", &half).await.unwrap();
    assert_eq!(std::fs::metadata(sandboxes.file(&new, "half")).unwrap().size(), 600_000);
    let refused = compute.write_file(&handle, "a/b/c/d/e/f/g/h/i/j", b"x").await.unwrap_err();
    let Error::Refused(why) = refused else { panic!("{refused}") };
    assert!(why.contains("10 files"), "{why}");
    assert!(!sandboxes.file(&new, "a").exists());
}
