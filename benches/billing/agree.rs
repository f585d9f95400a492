//! That all views agree with the ledger and with each other: else what was written in bulk is not what would have been
//! folded, and no figure would mean anything.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use rust_decimal::Decimal;
use serde_json::Value;

use crate::answer;
use crate::served::{Connection, Served};

/// Hours before the end of a period whose entries are read one by one.
const HOURS: i64 = 3;

struct Check<'a> {
    served: &'a Served,
    connection: &'a mut Connection,
    client: &'a tokio_postgres::Client,
}

/// A sum of exact amounts, and of their cents.
type Sum = (Decimal, i64);

pub(crate) async fn check(
    served: &Served,
    connection: &mut Connection,
    client: &tokio_postgres::Client,
    periods: &[(&'static str, String)],
) -> anyhow::Result<()> {
    let mut check = Check { served, connection, client };
    let mut most = Decimal::ZERO;
    for (name, query) in periods {
        let total = check.period(query).await.with_context(|| format!("the views of {name} do not agree"))?;
        most = most.max(total);
    }
    // One of them may have begun just now.
    ensure!(most > Decimal::ONE, "the dearest period cost {most}: nothing was loaded");
    Ok(())
}

impl Check<'_> {
    async fn get(&mut self, path: &str) -> anyhow::Result<Value> {
        self.connection.send(&self.served.request("GET", path, "")).await?;
        answer(self.connection).await
    }

    async fn period(&mut self, query: &str) -> anyhow::Result<Decimal> {
        let summary = self.get(&format!("/v1/usage/summary?{query}")).await?;
        let bound = |name: &str| summary["period"][name].as_str().map(str::to_owned).context("a bound");
        let (from, until) = (bound("from")?, bound("until")?);
        let period = format!("from={from}&until={until}");
        let total = money(&summary["total"])?;
        let usage = self.get(&format!("/v1/billing/usage?{period}")).await?;
        ensure!(
            money(&usage["totalCost"])? == total,
            "usage says {} and summary {total:?}",
            usage["totalCost"]
        );
        let day = "to_char(l.at at time zone 'UTC', 'YYYY-MM-DD')";
        for (view, key, column, whole) in [
            ("daily", "date", day, total),
            ("models", "model", "l.model", money(&summary["models"]["cost"])?),
            ("users", "userId", "u.external_id", total),
            ("sessions", "sessionId", "l.session_id", total),
            ("agents", "agentId", "l.agent_id", total),
        ] {
            let largest = if view == "users" { 1_000 } else { 100 };
            let rows = self.rows(&format!("/v1/billing/usage/{view}?{period}"), view, largest).await?;
            let mut sum: Sum = (Decimal::ZERO, 0);
            let mut shown = BTreeMap::new();
            for row in &rows {
                let cost = money(&row["cost"])?;
                sum = (sum.0 + cost.0, sum.1 + cost.1);
                shown.insert(row[key].as_str().unwrap_or_default().to_owned(), cost.0);
            }
            ensure!(sum == whole, "{view} adds up to {sum:?}, and the total is {whole:?}");
            ensure!(shown.len() == rows.len(), "{view} shows one of them twice");
            let of_ledger = self.ledger(column, (&from, &until)).await?;
            for (key, cost) in &of_ledger {
                let seen = shown.get(key).copied().unwrap_or_default();
                // What has no model is no row of models.
                ensure!(
                    seen == *cost || key.is_empty(),
                    "{view} says {seen} of {key}, and the ledger {cost}"
                );
            }
            // Only of a period that has just begun there is so little.
            let is_short = total.0 <= Decimal::ONE;
            ensure!(of_ledger.len() > 1 || view == "daily" || is_short, "{view} has one row");
        }
        let sessions = self.rows(&format!("/v1/billing/usage/users?{period}"), "users", 1_000).await?;
        let sessions: i64 = sessions.iter().filter_map(|row| row["sessions"].as_i64()).sum();
        ensure!(
            usage["sessions"] == sessions,
            "usage says {} sessions, and users {sessions}",
            usage["sessions"]
        );
        self.entries(&until).await?;
        Ok(total.0)
    }

    /// All rows of a view that is paged or not.
    async fn rows(&mut self, path: &str, view: &str, limit: usize) -> anyhow::Result<Vec<Value>> {
        let is_paged = !matches!(view, "daily" | "models");
        let limit = if is_paged { format!("&limit={limit}") } else { String::new() };
        let (mut rows, mut cursor) = (vec![], String::new());
        loop {
            let mut page = self.get(&format!("{path}{limit}{cursor}")).await?;
            rows.append(page["data"].as_array_mut().context("a list")?);
            let Some(next) = page["nextCursor"].as_str() else { return Ok(rows) };
            cursor = format!("&cursor={next}");
        }
    }

    /// What the ledger adds up to in a period, by one of its columns.
    async fn ledger(
        &self,
        column: &str,
        (from, until): (&str, &str),
    ) -> anyhow::Result<BTreeMap<String, Decimal>> {
        let sql = format!(
            "select coalesce({column}, ''), sum(l.cost) from ledger l
               join end_users u on u.tenant_id = l.tenant_id and u.user_id = l.user_id
             where l.at >= $1::text::timestamptz and l.at < $2::text::timestamptz and l.category is not null
             group by 1"
        );
        let rows = self.client.query(&sql, &[&from, &until]).await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// The entries of the last hours add up to what the summary says of them.
    async fn entries(&mut self, until: &str) -> anyhow::Result<()> {
        let until = theazo_domain::time::Timestamp::parse(until).ok().context("a time")?;
        let from = theazo_domain::time::Timestamp::from_millis(until.millis() - HOURS * 3_600_000 - 1_000);
        let period = format!("from={from}&until={until}");
        let entries = self.rows(&format!("/v1/billing/entries?{period}"), "entries", 100).await?;
        let mut sum = Decimal::ZERO;
        for entry in &entries {
            sum += money(&entry["cost"])?.0;
        }
        let total = money(&self.get(&format!("/v1/usage/summary?{period}")).await?["total"])?.0;
        ensure!(sum == total && !entries.is_empty(), "entries add up to {sum}, and the total is {total}");
        Ok(())
    }
}

fn money(amount: &Value) -> anyhow::Result<Sum> {
    let exact = amount["exact"].as_str().context("an exact amount")?.parse()?;
    Ok((exact, amount["amount"].as_i64().context("cents")?))
}
