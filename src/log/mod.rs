//! The log: the only way to change anything, and where every answer comes from.
//!
//! [`Log::execute`] hands a command to the one appender that each active tenant has on this server. The appender
//! takes all that wait, decides them in order in one transaction, appends the events, folds them into the read
//! models and commits once. What it guarantees: positions 1, 2, 3 … in the order of commits, no answer before the
//! commit, and the same order for everyone.

mod append;
mod appender;
mod cache;
/// What a log says of itself at a moment, signed.
pub mod checkpoint;
pub(crate) mod codec;
mod decide;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod definition;
mod execute;
mod feed;
mod hold;
mod kept;
/// The tree over a log: leaf hashes and the compact range that appending needs.
pub mod merkle;
/// Texts that are signed with Ed25519.
pub mod note;
mod open;
mod project;
/// Proofs about the tree over a log.
pub mod proof;
/// Reading the log back.
pub mod read;
/// Building read models anew from the log, comparing and switching them.
pub mod rebuild;
pub(crate) mod sealed;
mod transact;
mod writes;

use std::pin::Pin;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{ContentId, EventId, OrganizationId, RequestId, UserId};
use theazo_domain::organization::Mode;
use theazo_domain::time::Timestamp;
use theazo_domain::{Command, Event, Refusal, Subject};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, private::BytesMut};

use crate::database::{self, Scope};
use crate::random;
use crate::vault::{Address, Sealed};

pub use codec::{Codec, NewerFormat, Upcaster};
pub use execute::Log;
pub use feed::FeedReader;
pub(crate) use feed::WORK_CHANNEL;
pub use hold::Holding;
pub use open::{create_tenant, find_tenants};

/// The number of a tenant in this database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub i64);

impl ToSql for TenantId {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        self.0.to_sql(kind, out)
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as ToSql>::accepts(kind)
    }

    tokio_postgres::types::to_sql_checked!();
}

impl<'a> FromSql<'a> for TenantId {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        i64::from_sql(kind, raw).map(Self)
    }

    fn accepts(kind: &Type) -> bool {
        <i64 as FromSql>::accepts(kind)
    }
}

/// An organization in one mode: whose log it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tenant {
    /// Its number in this database.
    pub id: TenantId,
    /// The organization, the same in both modes.
    pub organization_id: OrganizationId,
    /// Which of its two logs.
    pub mode: Mode,
}

/// An event as it lies in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Dense, in the order of commits.
    pub position: i64,
    /// Its id.
    pub event_id: EventId,
    /// Its type, such as `session.created`.
    pub kind: String,
    /// The format of its data.
    pub version: i16,
    /// The ids that it is about.
    pub subjects: Vec<String>,
    /// One line of JSON: the very bytes that are hashed.
    pub data: String,
    /// One line of JSON: who, in which request, because of what.
    pub metadata: String,
    /// When; never before the event ahead of it.
    pub at: Timestamp,
    /// Its leaf of the tenant's tree.
    pub leaf_hash: [u8; 32],
}

/// An event of the log, read.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// As it lies in the log.
    pub stored: Arc<Stored>,
    /// What it says.
    pub event: Event,
}

/// Who asked for a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Actor {
    /// The holder of an API key.
    Key(theazo_domain::id::KeyId),
    /// Someone at the command line of the server.
    Operator,
    /// The server itself.
    System,
}

/// Where a command comes from: written into the metadata of its events.
#[derive(Debug, Clone, Copy)]
pub struct Provenance {
    /// Who asked.
    pub actor: Actor,
    /// In which request.
    pub request_id: RequestId,
    /// The position of the event that it answers, where it is a reaction.
    pub cause: Option<i64>,
}

/// Personal content that is to lie beside the log; the command holds the reference to it.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its id, as in the reference.
    pub content_id: ContentId,
    /// Random bytes that went into its digest.
    pub salt: [u8; 16],
    /// Text or JSON.
    pub body: String,
}

impl Content {
    /// A text for its row beside the log, as far as it can be kept, and the reference to it that an event holds.
    #[must_use]
    pub fn new(now: Timestamp, body: String) -> (Self, ContentRef) {
        let body = codec::storable_text(body);
        let content_id = ContentId::from_ulid(random::ulid(now));
        let salt = random::bytes();
        let digest = Sha256::new().chain_update(salt).chain_update(&body).finalize();
        let reference = ContentRef { content_id, sha256: hex::encode(digest) };
        (Self { content_id, salt, body }, reference)
    }
}

/// What becomes of a sealed value beside the log.
#[derive(Debug, Clone)]
pub enum SealedChange {
    /// It lies at its address from now on; what lay at the place before is deleted.
    Put(Address, Sealed),
    /// Nothing lies at this place any more.
    Delete(String),
}

/// A command and all that is stored with it.
#[derive(Debug, Clone)]
pub struct Submission {
    /// What is asked.
    pub command: Command,
    /// Where it comes from.
    pub provenance: Provenance,
    /// What lies beside the events if it is accepted.
    pub contents: Vec<Content>,
    /// What becomes of sealed values beside the events if it is accepted.
    pub sealed: Vec<SealedChange>,
}

/// What a command came to: the events that it made (none where it changed nothing), or the rules' refusal.
pub type Verdict = Result<Accepted, Refusal>;

/// A command that the rules allowed.
#[derive(Debug, Clone)]
pub struct Accepted {
    /// What it made happen, in order.
    pub events: Vec<Arc<Recorded>>,
    /// Who decided it: a command for an end user is decided by the one that was found.
    pub subject: Subject,
    /// The end user that was looked up for it.
    pub user: Option<UserId>,
}

/// An answer of the API, as it is sent and as it is kept for an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The JSON body.
    pub body: Vec<u8>,
}

/// Makes the answer to a verdict. It may read in the scope that it is given: inside the transaction of the command
/// where the answer is kept with it, else from what was committed. It is called again when a batch is repeated.
pub type Answering = Box<
    dyn for<'a> Fn(
            Scope<'a>,
            &'a Verdict,
        ) -> Pin<Box<dyn Future<Output = Result<Answer, database::Error>> + Send + 'a>>
        + Send
        + Sync,
>;

/// What makes a request repeatable: the first answer is kept under the key, in the transaction of the work.
#[derive(Debug, Clone)]
pub struct Once {
    /// The caller's own key, for the metadata of the events.
    pub key: String,
    /// Keyed digest of the key and of whose it is.
    pub key_digest: [u8; 32],
    /// Keyed digest of the request.
    pub fingerprint: [u8; 32],
    /// What this request holds the key by, if it does: see [`Log::hold`].
    pub hold: Option<Hold>,
}

/// Whose an idempotency key is while the work of its first request goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold([u8; 16]);

/// An answer, and whether it is the first one given again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answered {
    /// What to send.
    pub answer: Answer,
    /// It was kept from the first request with this idempotency key.
    pub replayed: bool,
}

/// A command could not be carried out, for no fault of its own.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// More commands wait for this tenant than the queue holds.
    #[error("too many commands wait for this organization")]
    QueueFull,
    /// The database did not answer in time, or the command waited too long. It was not carried out, unless
    /// `outcome_unknown`.
    #[error("the database is not available")]
    Unavailable {
        /// It was being carried out and may have been.
        outcome_unknown: bool,
    },
    /// The read models of this tenant are being rebuilt.
    #[error("the read models of this organization are being rebuilt")]
    Rebuilding,
    /// The log holds what only a newer server understands.
    #[error("the log was written by a newer server: {0}")]
    Newer(String),
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The first request with this idempotency key is under way.
    #[error("the first request with the idempotency key is under way")]
    KeyHeld,
    /// The database refuses what was to be written, and would refuse it again.
    #[error("the database refuses it: {0}")]
    Refused(String),
    /// Something that should not happen did.
    #[error("internal: {0}")]
    Internal(String),
}

impl From<database::Error> for Failure {
    fn from(error: database::Error) -> Self {
        if error.is_unavailable() {
            tracing::warn!(%error, "the database is not available");
            Self::Unavailable { outcome_unknown: false }
        } else {
            Self::Internal(error.to_string())
        }
    }
}
