//! `theazo rates`

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use serde_json::json;
use theazo_domain::id::OrganizationId;
use theazo_domain::rates::Card;
use theazo_domain::time::Timestamp;

use super::output::Output;
use super::tenants::tenant;
use super::{Error, ModeArgument, Outcome};
use crate::boot::Tools;
use crate::cards::Cards;
use crate::log::{Actor, Tenant};
use crate::read::rates::Imported;
use crate::{operator, read};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Show the rate card in force [default: the one that the program comes with]
    Show {
        /// The organization
        #[arg(long, value_name = "ID")]
        org: Option<OrganizationId>,
        /// Which of its two logs
        #[arg(long, default_value = "live")]
        mode: ModeArgument,
        /// At which moment, such as 2026-01-01T00:00:00Z [default: now]
        #[arg(long, value_name = "TIME", value_parser = Timestamp::parse, requires = "org")]
        at: Option<Timestamp>,
    },
    /// List the rate cards of an organization and from when on each applies, the newest first
    List {
        #[command(flatten)]
        whose: Whose,
    },
    /// Import a rate card, in the form that `rates show --json` gives, and rate what it gives a price
    Import {
        /// The card
        file: PathBuf,
        #[command(flatten)]
        whose: Whose,
    },
    /// Charge usage of models that had no price and have one now
    Rate {
        /// The model [default: all]
        model: Option<String>,
        #[command(flatten)]
        whose: Whose,
    },
}

/// Whose rates they are.
#[derive(Debug, clap::Args)]
pub(super) struct Whose {
    /// The organization
    #[arg(long, value_name = "ID")]
    org: OrganizationId,
    /// Which of its two logs
    #[arg(long)]
    mode: ModeArgument,
}

impl Command {
    /// Whether it is about the program alone, and no database.
    pub(super) const fn is_about_the_program(&self) -> bool {
        matches!(self, Self::Show { org: None, .. })
    }
}

/// Usage of a model that was rated.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Rated {
    model: String,
    agents: u64,
    cost: String,
}

/// Shows the card that the program comes with.
pub(super) fn show_built_in(output: Output) -> Outcome {
    show(Card::built_in(), None, output);
    Outcome::Fine
}

pub(super) async fn run(tools: &Tools, command: &Command, output: Output) -> Result<Outcome, Error> {
    match command {
        Command::Show { org: None, .. } => return Ok(show_built_in(output)),
        Command::Show { org: Some(org), mode, at } => {
            let tenant = opened(tools, *org, *mode).await?;
            let at = at.unwrap_or_else(|| tools.clock.now());
            let imported = read::rates::in_force(tools.log.scope(tenant.id), at).await?;
            let card = Cards::default().of(&tools.log, tenant.id, imported.as_ref()).await?;
            show(&card, imported.as_ref(), output);
        }
        Command::List { whose } => {
            let tenant = opened(tools, whose.org, whose.mode).await?;
            let cards = read::rates::all(tools.log.scope(tenant.id)).await?;
            output.list(&cards, ["VERSION", "APPLIES FROM", "IMPORTED", "POSITION"], |card| {
                let Imported { version, effective_from, imported_at, position, .. } = card;
                [version.clone(), effective_from.to_string(), imported_at.to_string(), position.to_string()]
            });
        }
        Command::Import { file, whose } => {
            let tenant = opened(tools, whose.org, whose.mode).await?;
            import(tools, tenant, file, output).await?;
        }
        Command::Rate { model, whose } => {
            let tenant = opened(tools, whose.org, whose.mode).await?;
            let rated = rate(tools, tenant, model.as_deref()).await?;
            output.list(&rated, ["MODEL", "AGENTS", "COST"], |rated| {
                [rated.model.clone(), rated.agents.to_string(), rated.cost.clone()]
            });
        }
    }
    Ok(Outcome::Fine)
}

async fn opened(tools: &Tools, org: OrganizationId, mode: ModeArgument) -> Result<Tenant, Error> {
    let tenant = tenant(tools, org, mode).await?;
    tools.log.open(tenant).await?;
    Ok(tenant)
}

fn show(card: &Card, imported: Option<&Imported>, output: Output) {
    output.object(card, || {
        let from = imported.map(|imported| imported.effective_from.to_string());
        let mut lines = vec![
            format!("version        {}", card.version),
            format!("applies from   {}", from.as_deref().unwrap_or("the start, where no other does")),
            format!("currency       {}", json!(card.currency).as_str().unwrap_or_default()),
            format!("compute        {} a minute", card.compute_per_minute),
            format!("orchestration  {} a minute", card.orchestration_per_minute),
            format!("storage        {} a GB-month", card.storage_per_gb_month),
            format!("markup         {} % of the prices below, a million tokens each", card.markup_percent),
            format!("{:44} {:>9} {:>9} {:>9} {:>9}", "MODEL", "INPUT", "OUTPUT", "READ", "WRITE"),
        ];
        lines.extend(card.models.iter().map(|listed| {
            let [input, output] = [listed.input, listed.output].map(|price| price.to_string());
            let [read, write] = [listed.cache_read, listed.cache_write].map(|price| price.to_string());
            format!("{:44} {input:>9} {output:>9} {read:>9} {write:>9}", listed.id)
        }));
        lines.join("\n")
    });
}

async fn import(tools: &Tools, tenant: Tenant, file: &Path, output: Output) -> Result<(), Error> {
    let unusable = |error: &dyn std::fmt::Display| Error::Usage(format!("{}: {error}", file.display()));
    let text = tokio::fs::read_to_string(file).await.map_err(|error| unusable(&error))?;
    let card: Card = serde_json::from_str(&text).map_err(|error| unusable(&error))?;
    card.check().map_err(|error| unusable(&error))?;
    let version = card.version.clone();
    let accepted = operator::import_rates(tools, Actor::Operator, tenant, card).await?;
    let now = tools.clock.now();
    let in_force = read::rates::in_force(tools.log.scope(tenant.id), now).await?;
    let in_force = in_force.is_some_and(|imported| imported.version == version);
    let rated = if in_force { rate(tools, tenant, None).await? } else { vec![] };
    let imported = !accepted.events.is_empty();
    let answer = json!({ "version": version, "imported": imported, "inForce": in_force, "rated": rated });
    output.object(&answer, || {
        let mut lines =
            vec![format!("{version} {}", if imported { "is imported" } else { "was imported before" })];
        if !in_force {
            lines.push(
                "It is not in force now: once it is, `theazo rates rate` charges what it rates.".into(),
            );
        }
        lines.extend(rated.iter().map(|rated| format!("{}: {} charged", rated.model, rated.cost)));
        lines.join("\n")
    });
    Ok(())
}

/// Charges what was used of models without a price that have one in the card in force. Interrupted, it is to be run
/// again: what was charged is no longer unrated.
async fn rate(tools: &Tools, tenant: Tenant, only: Option<&str>) -> Result<Vec<Rated>, Error> {
    let scope = || tools.log.scope(tenant.id);
    let card: Arc<Card> = Cards::default().in_force(&tools.log, tenant.id, tools.clock.now()).await?;
    let mut rated = vec![];
    for model in read::rates::unrated_models(scope()).await? {
        let rates = card.model(&model);
        if rates.prices.is_none() || only.is_some_and(|only| only != model) {
            continue;
        }
        let (mut after, mut agents, mut cost) = (String::new(), 0, rust_decimal::Decimal::ZERO);
        loop {
            let page = read::rates::unrated_agents(scope(), &model, &after, crate::config::LOG_PAGE).await?;
            let Some(last) = page.last() else { break };
            after = last.to_string();
            for agent_id in page {
                agents += 1;
                cost += operator::rate_usage(tools, tenant, agent_id, (&model, &rates)).await?;
            }
        }
        rated.push(Rated { model, agents, cost: cost.normalize().to_string() });
    }
    Ok(rated)
}
