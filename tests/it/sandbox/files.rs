//! The files of a workspace, from outside.

use theazo::providers::compute::{Compute, Error, FileEntry, Handle, Language};

use super::{Sandboxes, wrote};

async fn names(sandboxes: &Sandboxes, handle: &Handle, path: &str) -> Vec<String> {
    let entries = sandboxes.compute.list_files(handle, path, 100).await.unwrap();
    entries.into_iter().map(|entry| entry.name).collect()
}

#[tokio::test]
async fn files_go_in_and_out() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let compute = &sandboxes.compute;
    compute.write_file(&handle, "a/b/c.txt", b"from outside").await.unwrap();
    compute.write_file(&handle, "/workspace/d.bin", &[0, 255]).await.unwrap();
    wrote(
        &sandboxes.run(&handle, Language::Bash, "cat a/b/c.txt; echo more >> a/b/c.txt; touch a/b/e").await,
        "from outside",
    );
    let read = compute.read_file(&handle, "a/b/c.txt", 100).await.unwrap();
    assert_eq!((&read.bytes[..], read.truncated), (&b"from outsidemore\n"[..], false));
    let cut = compute.read_file(&handle, "./a/b/c.txt", 4).await.unwrap();
    assert_eq!((&cut.bytes[..], cut.truncated), (&b"from"[..], true));
    compute.write_file(&handle, "a/b/c.txt", b"new").await.unwrap();
    assert_eq!(compute.read_file(&handle, "a/b/c.txt", 100).await.unwrap().bytes, b"new");
    let entries = compute.list_files(&handle, "", 100).await.unwrap();
    let entry = |name: &str, size| FileEntry { name: name.to_owned(), size };
    assert_eq!(entries, [entry("a/", 0), entry("d.bin", 2)]);
    assert_eq!(names(&sandboxes, &handle, "a/b").await, ["c.txt", "e"]);
    assert_eq!(compute.list_files(&handle, "a/b", 1).await.unwrap(), [entry("c.txt", 3)]);
}

#[tokio::test]
async fn no_path_leads_out_of_the_workspace() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let compute = &sandboxes.compute;
    std::fs::write(sandboxes.scratch.path.join("secret"), "of the server").unwrap();
    let up = sandboxes.scratch.path.display();
    let code = format!(
        "ln -s {up}/secret file; ln -s {up} folder; ln -s ../../../secret up; ln -s / root; ln -s /proc/self/cwd cwd
         ln -s loop loop; mkdir real; ln -s real alias; echo fine > real/x; mkfifo pipe; ln -s ../sandbox.json json"
    );
    wrote(&sandboxes.run(&handle, Language::Bash, &code).await, "");
    let paths = [
        "../x",
        "a/../../x",
        "/etc/passwd",
        "/workspace/../x",
        "file",
        "folder/secret",
        "folder",
        "up",
        "root/etc/passwd",
        "cwd/x",
        "loop",
        "pipe",
        "json",
        "real",
        "\0",
        "..",
        "/",
    ];
    for path in paths {
        let read = compute.read_file(&handle, path, 10).await;
        assert!(matches!(read, Err(Error::Path(_))), "reading {path:?}: {read:?}");
        let written = compute.write_file(&handle, path, b"x").await;
        assert!(matches!(written, Err(Error::Path(_))), "writing {path:?}: {written:?}");
    }
    for path in ["..", "folder", "root", "cwd", "/etc", "missing", "real/x"] {
        let listed = compute.list_files(&handle, path, 10).await;
        assert!(matches!(listed, Err(Error::Path(_))), "listing {path:?}: {listed:?}");
    }
    for path in ["folder/new", "root/tmp/new", "up/new", "real/x/new"] {
        let written = compute.write_file(&handle, path, b"x").await;
        assert!(matches!(written, Err(Error::Path(_))), "writing {path:?}: {written:?}");
    }
    assert!(!sandboxes.scratch.path.join("new").exists());
    assert_eq!(compute.read_file(&handle, "alias/x", 10).await.unwrap().bytes, b"fine\n");
}

#[tokio::test]
async fn links_that_change_while_files_are_written_lead_nowhere() {
    let sandboxes = Sandboxes::new();
    let (_, handle) = sandboxes.create().await;
    let outside = sandboxes.scratch.path.join("outside");
    std::fs::create_dir(&outside).unwrap();
    let racer = format!(
        "import os\nfor _ in range(3000):\n  os.mkdir('d')\n  try: os.rename('d', 'e')\n  except OSError: pass\n  \
         try: os.symlink('{}', 'd'); os.unlink('d')\n  except OSError: pass\n  os.system('true') if _ % 500 == 0 else None\n  \
         __import__('shutil').rmtree('e', ignore_errors=True)\n  __import__('shutil').rmtree('d', ignore_errors=True)",
        outside.display()
    );
    let racing = sandboxes.run(&handle, Language::Python, &racer);
    let writing = async {
        for _ in 0..300 {
            let _ = sandboxes.compute.write_file(&handle, "d/file", b"x").await;
        }
    };
    tokio::join!(racing, writing);
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
}
