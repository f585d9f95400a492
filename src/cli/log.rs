//! `theazo log`

use serde::Serialize;

use super::output::Output;
use super::tenants::{Of, Selection};
use super::{Error, Outcome};
use crate::boot::Tools;
use crate::config;
use crate::log::Tenant;
use crate::log::merkle::{Frontier, leaf_hash};
use crate::log::read::{self, Filter};

/// Problems of one log that are told; more are only counted.
const PROBLEMS_TOLD: usize = 20;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Compute every hash anew from the rows, and compare with what is stored
    Verify(Selection),
}

/// What verifying one log came to.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Verified {
    /// Of the last event.
    position: i64,
    /// The root of the tree over the log, in hex.
    root: String,
    /// How many things are wrong.
    wrong: usize,
    /// What is wrong, the first of it.
    problems: Vec<String>,
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    let Command::Verify(selection) = command;
    let mut rows = Vec::new();
    for tenant in selection.tenants(tools).await? {
        rows.push(Of::new(tenant, verify(tools, tenant).await?));
    }
    output.list(&rows, ["ORGANIZATION", "MODE", "EVENTS", "ROOT", "RESULT"], |of| {
        let row = &of.what;
        let result = if row.wrong == 0 {
            "verified".to_owned()
        } else {
            format!("{} WRONG: {}", row.wrong, row.problems.join("; "))
        };
        let [organization, mode] = of.whose();
        [organization, mode, row.position.to_string(), row.root.clone(), result]
    });
    Ok(if rows.iter().all(|of| of.what.wrong == 0) { Outcome::Fine } else { Outcome::Wrong })
}

async fn verify(tools: &Tools, tenant: Tenant) -> Result<Verified, Error> {
    let scope = tools.log.scope(tenant.id);
    let head =
        scope.query_optional("select position, frontier, root from heads where tenant_id = $1", &[]).await?;
    let (position, frontier, root): (i64, Vec<u8>, Vec<u8>) = head
        .map_or((0, Vec::new(), Frontier::default().root().to_vec()), |row| {
            (row.get(0), row.get(1), row.get(2))
        });
    let mut verified = Verified { position, root: hex::encode(&root), wrong: 0, problems: Vec::new() };
    let (mut tree, mut last) = (Frontier::default(), 0);
    while last < position {
        let filter = Filter { after: last, until: position, ..Filter::default() };
        let events = read::oldest(scope, &filter, config::LOG_PAGE).await?;
        for event in &events {
            if event.position != last + 1 {
                verified.problem(format!("positions {} to {} are missing", last + 1, event.position - 1));
            }
            last = event.position;
            let leaf = leaf_hash(&tenant, event);
            if leaf != event.leaf_hash {
                verified.problem(format!("the event at position {last} is not what was hashed"));
            }
            tree.push(leaf);
        }
        if events.is_empty() {
            verified.problem(format!("positions {} to {position} are missing", last + 1));
            break;
        }
    }
    if tree.root().as_slice() != root {
        verified.problem(format!("the root of the events is {}", hex::encode(tree.root())));
    }
    if tree.to_bytes() != frontier {
        verified.problem("the stored frontier is not that of the events".to_owned());
    }
    let beyond = read::newest(scope, &Filter { after: position, ..Filter::default() }, None, 1).await?;
    // An append that was committed since has moved the head too.
    if !beyond.is_empty() && read::head(scope).await? == position {
        verified.problem(format!("there are events after the head, at position {position}"));
    }
    Ok(verified)
}

impl Verified {
    fn problem(&mut self, text: String) {
        self.wrong += 1;
        if self.problems.len() < PROBLEMS_TOLD {
            self.problems.push(text);
        }
    }
}
