//! Pages of a listing, and the cursors that lead from one to the next.

use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use sha2::Sha256;
use ulid::Ulid;
use utoipa::ToSchema;

use super::query::Query;
use crate::log::TenantId;
use crate::vault::Key;

/// A page of a listing.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Page<T> {
    /// The rows.
    pub(crate) data: Vec<T>,
    /// Whether there are more.
    pub(crate) has_more: bool,
    /// Leads to the next page; left out on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, examples("cur_01ARZ3NDEKTSV4RRFFQ69G50AV"))]
    pub(crate) next_cursor: Option<String>,
}

/// One listing: whose, which, and with which filters. Its cursors are of no use to another.
pub(crate) struct Listing<'a> {
    key: &'a Key,
    bound: Vec<u8>,
    /// Where the page begins: below this position. `None` at the newest row.
    pub(crate) below: Option<i64>,
    /// Rows of the page.
    pub(crate) limit: i64,
}

impl<'a> Listing<'a> {
    /// Reads `limit` and `cursor`, after the filters were read.
    pub(crate) fn read(key: &'a Key, tenant: TenantId, route: &str, query: &mut Query) -> Self {
        let limit = query.limit();
        Self::of(key, tenant, route, query, limit)
    }

    /// Reads `cursor`, after the filters were read, of a listing whose pages have so many rows.
    pub(crate) fn of(key: &'a Key, tenant: TenantId, route: &str, query: &mut Query, limit: i64) -> Self {
        let mut bound = vec![];
        let mut bind = |part: &str| {
            bound.extend((part.len() as u64).to_be_bytes());
            bound.extend(part.as_bytes());
        };
        bind(&tenant.0.to_string());
        bind(route);
        for (name, value) in query.filters() {
            bind(name);
            bind(value);
        }
        let mut listing = Self { key, bound, below: None, limit };
        if let Some(cursor) = query.plain("cursor") {
            listing.below = listing.open(&cursor);
            if listing.below.is_none() {
                query.wrong("cursor", "cursor", "is not a cursor of this listing with these filters");
            }
        }
        listing
    }

    /// The page made of these rows, of which one more was read than the page has.
    pub(crate) fn page<R, T>(
        &self,
        rows: Vec<R>,
        position: impl Fn(&R) -> i64,
        show: impl Fn(R) -> T,
    ) -> Page<T> {
        let size = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = rows.len() > size;
        let last = rows.get(size.saturating_sub(1)).map(&position);
        let next_cursor = last.filter(|_| has_more).map(|position| self.seal(position));
        Page { data: rows.into_iter().take(size).map(show).collect(), has_more, next_cursor }
    }

    /// How many rows to read: one more than the page has, which tells whether there are more.
    pub(crate) const fn rows(&self) -> i64 {
        self.limit + 1
    }

    /// 64 bits of position, and 64 bits that prove that it was this server who gave them for this listing.
    fn seal(&self, position: i64) -> String {
        let proof = self.proof(position);
        format!("cur_{}", Ulid((u128::from(position.cast_unsigned()) << 64) | u128::from(proof)))
    }

    fn open(&self, cursor: &str) -> Option<i64> {
        let ulid = Ulid::from_string(cursor.strip_prefix("cur_")?).ok()?;
        let position = u64::try_from(ulid.0 >> 64).ok()?.cast_signed();
        // Sealing again and comparing also accepts one spelling only.
        let same = subtle::ConstantTimeEq::ct_eq(self.seal(position).as_bytes(), cursor.as_bytes());
        bool::from(same).then_some(position)
    }

    fn proof(&self, position: i64) -> u64 {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key[..]).expect("HMAC takes keys of any length");
        mac.update(&position.to_be_bytes());
        mac.update(&self.bound);
        let digest = mac.finalize().into_bytes();
        u64::from_be_bytes(digest[..8].try_into().expect("eight of 32 bytes"))
    }
}
