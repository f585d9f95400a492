//! Who is calling, and what they may do. A right is a type in a handler's signature: taking it proves the right.

use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use theazo_domain::id::{KeyId, RequestId};
use theazo_domain::key::Role;

use super::Edge;
use super::access::Notes;
use super::error::Error;
use crate::keys;
use crate::log::{Actor, Provenance, Tenant};

/// The holder of a valid API key, within its rate limit.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// What the key opens.
    pub(crate) tenant: Tenant,
    /// The key.
    pub(crate) key_id: KeyId,
    /// This request.
    pub(crate) request_id: RequestId,
    /// What the key is found by, for whoever has to look again: it may be revoked while a stream is open.
    pub(crate) digest: String,
}

impl Caller {
    /// What is written into the metadata of the events that this request makes.
    pub(crate) const fn provenance(&self) -> Provenance {
        Provenance { actor: Actor::Key(self.key_id), request_id: self.request_id, cause: None }
    }
}

/// A right that some roles have.
pub(crate) trait Right: Send {
    /// Who has it.
    fn belongs_to(role: Role) -> bool;
}

/// To ask for anything at all.
pub(crate) struct Enter;
/// To change keys, providers and rate cards.
pub(crate) struct Administer;
/// To change what is no key, provider or rate card.
pub(crate) struct Write;
/// To read everything.
pub(crate) struct Read;
/// To read usage, billing, audit and events.
pub(crate) struct Inspect;

impl Right for Enter {
    fn belongs_to(_role: Role) -> bool {
        true
    }
}

impl Right for Administer {
    fn belongs_to(role: Role) -> bool {
        matches!(role, Role::Admin)
    }
}

impl Right for Write {
    fn belongs_to(role: Role) -> bool {
        matches!(role, Role::Admin | Role::Developer)
    }
}

impl Right for Read {
    fn belongs_to(role: Role) -> bool {
        matches!(role, Role::Admin | Role::Developer | Role::ReadOnly)
    }
}

impl Right for Inspect {
    fn belongs_to(role: Role) -> bool {
        matches!(role, Role::Admin | Role::Developer | Role::ReadOnly | Role::Finance)
    }
}

/// A caller who has a right. It comes first among a handler's arguments, so that nothing is told to strangers.
pub(crate) struct Having<R> {
    caller: Caller,
    right: PhantomData<R>,
}

/// Has a valid key.
pub(crate) type Visitor = Having<Enter>;
/// May change keys, providers and rate cards, and correct charges.
pub(crate) type Administrator = Having<Administer>;
/// May change what is no key, provider, rate card or correction.
pub(crate) type Writer = Having<Write>;
/// May read everything.
pub(crate) type Reader = Having<Read>;
/// May read usage, billing, audit and events.
pub(crate) type Inspector = Having<Inspect>;

impl<R> Having<R> {
    /// The caller, for what outlasts the request.
    pub(crate) fn into_caller(self) -> Caller {
        self.caller
    }
}

impl<R> Deref for Having<R> {
    type Target = Caller;

    fn deref(&self) -> &Caller {
        &self.caller
    }
}

impl<R: Right> FromRequestParts<Edge> for Having<R> {
    type Rejection = Error;

    async fn from_request_parts(parts: &mut Parts, edge: &Edge) -> Result<Self, Error> {
        let notes = parts.extensions.get::<Arc<Notes>>().cloned();
        let notes = notes.ok_or_else(|| Error::internal("a request without notes"))?;
        let secret = bearer(&parts.headers).ok_or(Error::Unauthorized)?;
        // What is not spelled like a key never reaches the database.
        let mode = keys::is_well_formed(secret).ok_or(Error::Unauthorized)?;
        let digest = keys::digest(&edge.app.keys.pepper, secret);
        let credential = edge.credentials.find(&edge.app, &digest).await?.ok_or(Error::Unauthorized)?;
        if credential.tenant.mode != mode {
            return Err(Error::Unauthorized);
        }
        let _ = notes.caller.set((credential.tenant.id, credential.key.id));
        let admission = edge.rates.admit(&edge.app, credential).await?;
        let _ = notes.admission.set(admission);
        if !admission.admitted {
            return Err(Error::RateLimited { retry_after_s: admission.reset_s });
        }
        if !R::belongs_to(credential.key.role) {
            return Err(Error::Forbidden);
        }
        let (tenant, key_id) = (credential.tenant, credential.key.id);
        let caller = Caller { tenant, key_id, request_id: notes.request_id, digest };
        Ok(Self { caller, right: PhantomData })
    }
}

/// The token of the one `Authorization` header, whose scheme is spelled in any case.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}
