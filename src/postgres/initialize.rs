//! Making a new cluster.

use std::path::Path;
use std::process::Stdio;

use super::account::Account;
use super::binaries::Binaries;
use super::data_dir;
use super::home::Home;
use super::{Endpoint, Error};

/// The beginning of the names under which clusters are made.
const UNFINISHED: &str = "data.new-";

/// Makes the cluster of `home` if there is none. It is made under another name and renamed when it is whole, so a
/// cluster that exists is complete, and what an interrupted attempt left is thrown away.
pub(super) async fn ensure(
    home: &Home,
    account: &Account,
    binaries: &Binaries,
    endpoint: &Endpoint,
    durable: bool,
) -> Result<(), Error> {
    remove_unfinished(&home.path)?;
    let cluster = home.cluster();
    if cluster.exists() {
        return Ok(());
    }
    let name = format!("{UNFINISHED}{}", data_dir::random_hex::<4>());
    let (unfinished, password) = (home.path.join(&name), home.path.join(format!("{name}.password")));
    data_dir::make_dir(&unfinished, 0o700)?;
    account.own(&unfinished)?;
    data_dir::write_whole(&password, endpoint.password(&endpoint.user).as_bytes())?;
    account.own(&password)?;

    let mut initdb = account.command(binaries.dir.join("initdb"));
    initdb
        .arg("--pgdata")
        .arg(&unfinished)
        .arg("--pwfile")
        .arg(&password)
        .arg("--username")
        .arg(&endpoint.user);
    // The C locale orders text by its bytes, the same on every machine and after every update of the C library.
    initdb.args(["--locale=C", "--encoding=UTF8", "--data-checksums", "--no-instructions"]);
    // A password, and not the identity of the connecting user (`peer`): root's server runs PostgreSQL as another user
    // and still has to log in. Nothing listens on a network; should that ever change, nobody gets in there.
    initdb.args(["--auth-local=scram-sha-256", "--auth-host=reject"]);
    if !durable {
        initdb.arg("--no-sync");
    }
    initdb.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = initdb.output().await.map_err(Error::file("run", &binaries.dir.join("initdb")))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        remove_unfinished(&home.path)?;
        return Err(Error::Initdb { path: cluster, output: said });
    }
    std::fs::remove_file(&password).map_err(Error::file("remove", &password))?;
    std::fs::rename(&unfinished, &cluster).map_err(Error::file("rename the new cluster to", &cluster))?;
    data_dir::sync_parent(&cluster)
}

/// Removes what interrupted attempts left.
fn remove_unfinished(home: &Path) -> Result<(), Error> {
    for entry in home.read_dir().map_err(Error::file("list", home))? {
        let path = entry.map_err(Error::file("list", home))?.path();
        if !path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes())) {
            continue;
        }
        let removed =
            if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
        if let Err(error) = removed {
            // The `initdb` of a server that was killed may still be writing there. The next attempt has a name of its
            // own, so this can wait for the next start.
            tracing::warn!(%error, path = %path.display(), "what an interrupted start left is still in use");
        }
    }
    Ok(())
}
