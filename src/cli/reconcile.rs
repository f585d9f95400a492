//! `theazo billing reconcile`

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use theazo_domain::agent::Tokens;
use theazo_domain::id::{CallId, OrganizationId};

use super::output::Output;
use super::tenants::tenant;
use super::{Error, ModeArgument, Outcome};
use crate::boot::{self, Tools};
use crate::log::Tenant;
use crate::{config, operator, read};

/// What vendors say of calls: of one here, or of many in a file.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// A line of JSON a call: {"callId", "inputTokens", "outputTokens", "cacheReadTokens"?, "cacheWriteTokens"?} or
    /// {"callId", "notBilled": true}
    #[arg(value_name = "FILE", required_unless_present = "call", conflicts_with = "call")]
    file: Option<PathBuf>,
    /// The call, as `/v1/billing/unconfirmed` names it
    #[arg(long, value_name = "ID")]
    call: Option<CallId>,
    /// Input that was neither read from nor written to a cache
    #[arg(long, value_name = "N", requires = "call", conflicts_with = "not_billed")]
    input_tokens: Option<u64>,
    /// Output
    #[arg(long, value_name = "N", requires = "call", conflicts_with = "not_billed")]
    output_tokens: Option<u64>,
    /// Input read from the vendor's cache
    #[arg(long, value_name = "N", requires = "input_tokens")]
    cache_read: Option<u64>,
    /// Input written to the vendor's cache
    #[arg(long, value_name = "N", requires = "input_tokens")]
    cache_write: Option<u64>,
    /// The vendor has not billed the call
    #[arg(long, requires = "call")]
    not_billed: bool,
    /// The organization
    #[arg(long, value_name = "ID")]
    org: OrganizationId,
    /// Which of its two logs
    #[arg(long, default_value = "live")]
    mode: ModeArgument,
}

/// What a vendor says of a call.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Told {
    call_id: CallId,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    #[serde(default)]
    cache_read_tokens: u64,
    #[serde(default)]
    cache_write_tokens: u64,
    #[serde(default)]
    not_billed: bool,
}

/// What came of it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    call_id: CallId,
    reconciled: bool,
    /// What is charged.
    #[serde(skip_serializing_if = "Option::is_none")]
    cost: Option<String>,
    /// Why it is not reconciled.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Told {
    /// What was used; none where it was not billed.
    fn tokens(&self) -> Result<Option<Tokens>, String> {
        let (cache_read, cache_write) = (self.cache_read_tokens, self.cache_write_tokens);
        match (self.input_tokens, self.output_tokens, self.not_billed) {
            (None, None, true) if cache_read == 0 && cache_write == 0 => Ok(None),
            (Some(input), Some(output), false) => {
                let tokens = Tokens { input, output, cache_read, cache_write };
                if [input, output, cache_read, cache_write].iter().any(|count| *count > config::MOST_TOKENS) {
                    return Err(format!(
                        "{}: no call has more than {} tokens",
                        self.call_id,
                        config::MOST_TOKENS
                    ));
                }
                Ok(Some(tokens))
            }
            _ => Err(format!(
                "{}: the tokens of input and of output are needed, or else that it was not billed",
                self.call_id
            )),
        }
    }
}

pub(super) async fn run(tools: &Tools, arguments: &Arguments, output: Output) -> Result<Outcome, Error> {
    let tenant = tenant(tools, arguments.org, arguments.mode).await?;
    tools.log.open(tenant).await?;
    // All of it is read before anything is changed.
    let mut calls = vec![];
    for told in told(arguments).await? {
        calls.push((told.call_id, told.tokens().map_err(Error::Usage)?));
    }
    let mut rows = vec![];
    for (call_id, tokens) in calls {
        rows.push(reconcile(tools, tenant, call_id, tokens).await?);
    }
    output.list(&rows, ["CALL", "RECONCILED", "COST", "REASON"], |row| {
        let text = |part: &Option<String>| part.clone().unwrap_or_default();
        let reconciled = if row.reconciled { "yes" } else { "no" };
        [row.call_id.to_string(), reconciled.to_owned(), text(&row.cost), text(&row.reason)]
    });
    Ok(if rows.iter().all(|row| row.reconciled) { Outcome::Fine } else { Outcome::Wrong })
}

async fn told(arguments: &Arguments) -> Result<Vec<Told>, Error> {
    if let Some(file) = &arguments.file {
        return from_file(file).await;
    }
    let call_id = arguments.call.ok_or_else(|| Error::Usage("name a call or a file".to_owned()))?;
    Ok(vec![Told {
        call_id,
        input_tokens: arguments.input_tokens,
        output_tokens: arguments.output_tokens,
        cache_read_tokens: arguments.cache_read.unwrap_or_default(),
        cache_write_tokens: arguments.cache_write.unwrap_or_default(),
        not_billed: arguments.not_billed,
    }])
}

async fn from_file(file: &Path) -> Result<Vec<Told>, Error> {
    let text = tokio::fs::read_to_string(file).await;
    let text = text.map_err(|error| Error::Usage(format!("{}: {error}", file.display())))?;
    let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
    let read = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::Usage(format!("{} line {number}: {error}", file.display())))
    };
    lines.map(read).collect()
}

async fn reconcile(
    tools: &Tools,
    tenant: Tenant,
    call_id: CallId,
    tokens: Option<Tokens>,
) -> Result<Row, Error> {
    let refused = |reason: String| Row { call_id, reconciled: false, cost: None, reason: Some(reason) };
    let Some(call) = read::unconfirmed::get(tools.log.scope(tenant.id), call_id).await? else {
        return Ok(refused(format!("{call_id} is not unconfirmed")));
    };
    match operator::reconcile_call(tools, tenant, (call.agent_id, call_id), tokens).await {
        Ok(cost) => {
            let cost = Some(cost.normalize().to_string());
            Ok(Row { call_id, reconciled: true, cost, reason: None })
        }
        Err(boot::Error::Refused(refusal)) => Ok(refused(refusal.to_string())),
        Err(error) => Err(error.into()),
    }
}
