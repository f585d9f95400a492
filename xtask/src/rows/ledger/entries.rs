//! The entries themselves, read page by page: of whole periods, and of what is asked for by whose they are.

use std::collections::BTreeMap;

use anyhow::Context;
use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::time::Timestamp;

use super::books::{Books, Entry};
use super::money::amount;
use super::text;
use crate::load::Customer;
use crate::prove::Findings;

/// Rows that are read page by page at most.
pub(super) const READ_ONE_BY_ONE: usize = 3_000;

/// What can be asked for: how it is named, and where it stands.
type Filter = (&'static str, fn(&Entry) -> &str);

const FILTERS: [Filter; 6] = [
    ("userId", |entry| &entry.user),
    ("sessionId", |entry| &entry.session),
    ("agentId", |entry| &entry.agent),
    ("taskId", |entry| &entry.task),
    ("model", |entry| &entry.model),
    ("category", |entry| &entry.category),
];

/// A period, as it is asked for, and from when until when that is.
pub(super) struct Period<'a> {
    pub(super) query: &'a str,
    pub(super) bounds: (i64, i64),
}

impl Period<'_> {
    fn has(&self, entry: &Entry) -> bool {
        (self.bounds.0..self.bounds.1).contains(&entry.at.millis())
    }
}

/// All entries of a period, where they are not too many.
pub(super) async fn whole(
    customer: &mut Customer<'_>,
    books: &Books,
    period: &Period<'_>,
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let expected: Vec<&Entry> = books.entries.iter().filter(|entry| period.has(entry)).collect();
    if expected.len() <= READ_ONE_BY_ONE {
        same(customer, period.query, &expected, findings).await?;
        findings.did("periods whose entries were read", 1);
        findings.did("periods with some, whose entries were read", u64::from(!expected.is_empty()));
    }
    Ok(())
}

/// The entries of a period that one of its entries is among, asked for by this one of what they have in common; and by
/// more, for as long as those are too many.
pub(super) async fn filtered(
    customer: &mut Customer<'_>,
    books: &Books,
    (period, kind): (&Period<'_>, usize),
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let (first, rest) = (FILTERS[kind % FILTERS.len()], &FILTERS[1..4]);
    // Without a task or a model there is nothing to ask for.
    let mut inside = books.entries.iter().filter(|entry| period.has(entry) && !first.1(entry).is_empty());
    let many = inside.clone().count();
    let Some(one) = inside.nth(customer.random.usize(..many.max(1))) else { return Ok(()) };
    let mut query = format!("{}&{}={}", period.query, first.0, first.1(one));
    let mut expected: Vec<&Entry> = inside_of(books, period, first, one);
    for filter in rest.iter().filter(|filter| !filter.1(one).is_empty()) {
        if expected.len() > READ_ONE_BY_ONE {
            query.push_str(&format!("&{}={}", filter.0, filter.1(one)));
            expected.retain(|entry| filter.1(entry) == filter.1(one));
        }
    }
    same(customer, &query, &expected, findings).await?;
    findings.did("lists of entries that were asked for by whose they are", 1);
    Ok(())
}

fn inside_of<'a>(books: &'a Books, period: &Period<'_>, filter: Filter, one: &Entry) -> Vec<&'a Entry> {
    let like = |entry: &&Entry| period.has(entry) && filter.1(entry) == filter.1(one);
    books.entries.iter().filter(like).collect()
}

/// A list shows these, each as it stands in the books, the newest first.
async fn same(
    customer: &mut Customer<'_>,
    query: &str,
    expected: &[&Entry],
    findings: &mut Findings,
) -> anyhow::Result<()> {
    let shown = customer.all(&format!("/v1/billing/entries?{query}"), 100).await?;
    let mut expected: BTreeMap<&str, &Entry> =
        expected.iter().map(|entry| (entry.id.as_str(), *entry)).collect();
    findings.claim(shown.len() == expected.len(), || {
        format!("{query}: {} entries are shown, and {} are there", shown.len(), expected.len())
    });
    let mut before = (u64::MAX, u64::MAX);
    for shown in &shown {
        let shown = entry(shown)?;
        let known = expected.remove(&*shown.id);
        findings.claim(known == Some(&shown), || format!("{query}: {shown:?} is {known:?} in the books"));
        let (position, index) = shown.id.split_once('.').context("the id of an entry")?;
        let place = (position.parse()?, index.parse()?);
        findings.claim(place < before, || format!("{query}: {place:?} comes behind {before:?}"));
        before = place;
    }
    findings.did("entries read one by one", shown.len() as u64);
    Ok(())
}

/// An entry as it is shown.
fn entry(shown: &Value) -> anyhow::Result<Entry> {
    let optional = |name: &str| shown[name].as_str().unwrap_or_default().to_owned();
    let quantity = shown["quantity"].to_string();
    let quantity = quantity.parse().or_else(|_| Decimal::from_scientific(&quantity))?;
    Ok(Entry {
        id: text(shown, "id")?,
        at: Timestamp::parse(&text(shown, "at")?)?,
        line: text(shown, "line")?,
        category: text(shown, "category")?,
        user: optional("userId"),
        session: text(shown, "sessionId")?,
        agent: optional("agentId"),
        task: optional("taskId"),
        model: optional("model"),
        quantity,
        unit: text(shown, "unit")?,
        card: text(shown, "rateCardVersion")?,
        cost: amount(&shown["cost"])?.0,
        corrects: optional("corrects"),
    })
}
