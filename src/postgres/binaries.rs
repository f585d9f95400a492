//! Finding `initdb` and `postgres` on the machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::account::Account;

/// The oldest major version that the server's SQL works on.
pub(super) const MAJOR_MIN: u32 = 14;

/// How long one `--version` may take.
const PROBE_DEADLINE: Duration = Duration::from_secs(20);

/// Where packages put PostgreSQL: a parent directory, the beginning of the versions' names below it, and where the
/// programs are below those.
const USUAL_PLACES: [(&str, &str, &str); 7] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/usr/local", "pgsql", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/usr/libexec", "postgresql", ""),
    ("/Library/PostgreSQL", "", "bin"),
];

/// A directory with `initdb` and `postgres` of one version that the account can run.
#[derive(Debug, Clone)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) major: u32,
}

/// The directories to try, best first: those of `path` (the environment's `PATH`), then the usual places, newest first.
pub(super) fn candidates(path: &OsStr) -> Vec<PathBuf> {
    let mut dirs: Vec<PathBuf> = Vec::new();
    for entry in std::env::split_paths(path).filter(|entry| entry.join("initdb").is_file()) {
        // `initdb` looks for `postgres` beside itself. Behind a symbolic link that is where the link leads; a wrapper
        // script has its `postgres` wrapped beside it.
        let target = entry.join("initdb").canonicalize().ok();
        dirs.extend(target.as_deref().and_then(Path::parent).map(Path::to_owned));
        dirs.push(entry);
    }
    for (parent, prefix, below) in USUAL_PLACES {
        dirs.extend(versions_below(Path::new(parent), prefix).into_iter().map(|dir| dir.join(below)));
    }
    let mut unique = Vec::new();
    for dir in dirs {
        if !unique.contains(&dir) && dir.join("initdb").is_file() && dir.join("postgres").is_file() {
            unique.push(dir);
        }
    }
    unique
}

/// The directories of `parent` named `prefix` and a version (or nothing), newest first.
pub(super) fn versions_below(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = parent.read_dir() else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let name = entry.file_name();
            let version = name.to_str()?.strip_prefix(prefix)?;
            let numbers = version.split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
            if version.is_empty() { Some((Vec::new(), entry.path())) } else { Some((numbers?, entry.path())) }
        })
        .collect();
    found.sort_by(|left, right| right.cmp(left));
    found.into_iter().map(|(_, path)| path).collect()
}

/// The first of `dirs` that `account` can run and whose version will do: `wanted` exactly, when a cluster exists (only
/// the major version that made one can run it), else any that is new enough. The error says what was wrong with each.
pub(super) async fn choose(
    dirs: &[PathBuf],
    account: &Account,
    wanted: Option<u32>,
) -> Result<Binaries, String> {
    let mut refused = Vec::new();
    for dir in dirs {
        let why = match probe(dir, account).await {
            Ok(major) if wanted.is_some_and(|wanted| wanted != major) => format!("is version {major}"),
            Ok(major) if major < MAJOR_MIN => format!("is version {major}"),
            Ok(major) => return Ok(Binaries { dir: dir.clone(), major }),
            Err(why) => why,
        };
        refused.push(format!("{} {why}", dir.display()));
    }
    if refused.is_empty() {
        refused.push("no `initdb` with a `postgres` beside it, on PATH or in the usual places".to_owned());
    }
    Err(refused.join("; "))
}

/// The major version that both programs of `dir` agree on.
async fn probe(dir: &Path, account: &Account) -> Result<u32, String> {
    let (initdb, postgres) =
        (version(dir, "initdb", account).await?, version(dir, "postgres", account).await?);
    if initdb != postgres {
        return Err(format!("has an initdb of version {initdb} and a postgres of version {postgres}"));
    }
    major(&initdb).ok_or_else(|| format!("answers with the version {initdb:?}"))
}

/// What a program answers to `--version`, without its name.
async fn version(dir: &Path, program: &str, account: &Account) -> Result<String, String> {
    let mut command = account.command(dir.join(program));
    command.arg("--version").stderr(Stdio::null()).kill_on_drop(true);
    let output = match tokio::time::timeout(PROBE_DEADLINE, command.output()).await {
        Ok(Ok(output)) if output.status.success() => output,
        Ok(Ok(output)) => return Err(format!("has a {program} that fails ({})", output.status)),
        Ok(Err(error)) => {
            return Err(format!("has a {program} that user {} cannot run: {error}", account.name));
        }
        Err(_) => return Err(format!("has a {program} that does not answer")),
    };
    let said = String::from_utf8_lossy(&output.stdout);
    Ok(said.split_once("(PostgreSQL)").map_or("", |(_, version)| version).trim().to_owned())
}

/// The major version in `15.18 (Debian 15.18-0+deb12u1)`, `17beta1` or `9.6.24`.
fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_the_first_number() {
        assert_eq!(major("15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(major("17beta1"), Some(17));
        assert_eq!(major("9.6.24"), Some(9));
        assert_eq!(major(""), None);
    }

    #[test]
    fn versions_are_ordered_by_number_and_other_names_left_out() {
        let parent = std::env::temp_dir().join(format!("theazo-versions-{}", std::process::id()));
        for name in ["pgsql-9.6", "pgsql-16", "pgsql-14", "pgsql-", "pgsql-old", "share"] {
            std::fs::create_dir_all(parent.join(name)).unwrap();
        }
        let names: Vec<_> = versions_below(&parent, "pgsql-")
            .into_iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        std::fs::remove_dir_all(&parent).unwrap();
        assert_eq!(names, ["pgsql-16", "pgsql-14", "pgsql-9.6", "pgsql-"]);
    }

    #[test]
    fn a_linked_initdb_leads_to_the_directory_of_its_postgres() {
        let root = std::env::temp_dir().join(format!("theazo-links-{}", std::process::id()));
        let (real, linked) = (root.join("real"), root.join("linked"));
        std::fs::create_dir_all(&real).unwrap();
        std::fs::create_dir_all(&linked).unwrap();
        std::fs::write(real.join("initdb"), "").unwrap();
        std::fs::write(real.join("postgres"), "").unwrap();
        std::os::unix::fs::symlink(real.join("initdb"), linked.join("initdb")).unwrap();
        let first = candidates(linked.as_os_str()).first().cloned();
        let expected = real.canonicalize().unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        assert_eq!(first, Some(expected));
    }
}
