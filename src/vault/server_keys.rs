//! The server's own keys, random and wrapped by the master key.

use std::collections::HashMap;
use std::fmt;

use tokio_postgres::{Client, GenericClient};
use zeroize::Zeroizing;

use super::{Error, Key, Masters};
use crate::random;

/// The random keys that every server over one database shares (table `server_keys`), unwrapped.
pub struct ServerKeys {
    /// The pepper of API keys: their secrets are stored as HMAC-SHA-256 under it.
    pub pepper: Key,
    /// Encrypts the answers that are kept for idempotency keys, and digests those keys and their requests.
    pub answers: Key,
    /// Authenticates page cursors.
    pub cursors: Key,
    /// What wraps these keys, and those of what is sealed.
    pub masters: Masters,
}

/// The name of each key in the table, in the order of the fields above.
const NAMES: [&str; 3] = ["pepper", "answers", "cursors"];

impl ServerKeys {
    /// Reads the keys, and makes those that are missing: once, however many servers start at the same moment.
    ///
    /// A login that may only read will do where all of them exist.
    ///
    /// # Errors
    /// [`Error::WrongMaster`] when none of the master keys wraps them, [`Error::Damaged`] when one does not open, and
    /// [`Error::Database`].
    pub async fn load(client: &mut Client, masters: Masters) -> Result<Self, Error> {
        let mut keys = read(client, &masters).await?;
        if NAMES.iter().any(|name| !keys.contains_key(*name)) {
            let transaction = client.transaction().await?;
            // Readers go on; another server that wants to make keys waits here, and then finds ours.
            transaction.batch_execute("lock table server_keys in exclusive mode").await?;
            keys = read(&transaction, &masters).await?;
            let master = masters.active();
            for name in NAMES.into_iter().filter(|name| !keys.contains_key(*name)).collect::<Vec<_>>() {
                let key = Zeroizing::new(random::bytes::<32>());
                let insert = "insert into server_keys (name, master_key_id, wrapped) values ($1, $2, $3)";
                transaction.execute(insert, &[&name, &master.id(), &master.wrap(name, &*key)]).await?;
                keys.insert(name.to_owned(), key);
            }
            transaction.commit().await?;
        }
        let mut take = |name| keys.remove(name).expect("a missing key was made above");
        Ok(Self { pepper: take(NAMES[0]), answers: take(NAMES[1]), cursors: take(NAMES[2]), masters })
    }
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ServerKeys").finish_non_exhaustive()
    }
}

/// The fingerprint of the master key that wraps this database's keys; `None` where it has none yet.
///
/// # Errors
/// [`crate::database::Error`] when the database is away or the table is not there.
pub async fn master_key_id(client: &impl GenericClient) -> Result<Option<String>, crate::database::Error> {
    let rows = client.query("select master_key_id from server_keys order by name limit 1", &[]).await?;
    Ok(rows.first().map(|row| row.get(0)))
}

async fn read(client: &impl GenericClient, masters: &Masters) -> Result<HashMap<String, Key>, Error> {
    let select = "select name, master_key_id, wrapped from server_keys";
    let mut keys = HashMap::new();
    for row in client.query(select, &[]).await? {
        let (name, wrapped_by): (String, String) = (row.get(0), row.get(1));
        let master = masters.activate(&wrapped_by)?;
        if !NAMES.contains(&name.as_str()) {
            continue; // a newer server's
        }
        let opened = master.unwrap(&name, row.get(2))?;
        let mut key = Key::default();
        if opened.len() != key.len() {
            return Err(Error::Damaged { name, master_key_id: wrapped_by });
        }
        key.copy_from_slice(&opened);
        keys.insert(name, key);
    }
    Ok(keys)
}
