//! `theazo doctor`

use std::collections::BTreeSet;
use std::path::Path;

use serde::Serialize;
use tokio_postgres::Client;

use super::output::Output;
use super::{Error, Outcome, sandbox};
use crate::boot::{self, FIRST_KEYS_FILE, Settings, Site};
use crate::clock::{Clock, SystemClock};
use crate::database::{self, Scope};
use crate::log::find_tenants;
use crate::providers::compute::local;
use crate::vault::{self, Masters};
use crate::{config, read};

/// The oldest PostgreSQL that the server's SQL works on, as the database writes its version.
const OLDEST_VERSION: i32 = 140_000;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

fn check(name: &'static str, looked: Result<String, String>) -> Check {
    let ok = looked.is_ok();
    Check { name, ok, detail: looked.unwrap_or_else(|problem| problem) }
}

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sandbox: sandbox::SandboxArguments,
}

pub(super) async fn run(
    settings: &Settings,
    arguments: &Arguments,
    output: Output,
) -> Result<Outcome, Error> {
    let options = arguments.sandbox.options(&settings.data_dir)?;
    let mut checks = match Site::of_command(settings).await {
        Ok(site) => {
            let checks = look(settings, &site).await;
            site.stop().await;
            checks
        }
        Err(error) => vec![check("database", Err(error.to_string()))],
    };
    checks.extend(isolation(options).await);
    output.list(&checks, ["CHECK", "RESULT", "DETAIL"], |check| {
        [check.name.to_owned(), if check.ok { "ok" } else { "WRONG" }.to_owned(), check.detail.clone()]
    });
    Ok(if checks.iter().all(|check| check.ok) { Outcome::Fine } else { Outcome::Wrong })
}

async fn look(settings: &Settings, site: &Site) -> Vec<Check> {
    let owner = match site.connect_owner().await {
        Ok(owner) => owner,
        Err(error) => return vec![check("database", Err(error.to_string()))],
    };
    let mut checks = vec![
        check("database", version(&owner, site).await),
        check("schema", schema(&owner).await),
        check("durability", durability(&owner).await),
    ];
    // Opening the log needs the schema, the master key and the keys it wraps, and the serving role.
    match boot::tools(settings, site).await {
        Ok(tools) => {
            let master = vault::master_key_id(&tools.owner).await;
            let master = master.map_err(|error| error.to_string());
            checks.push(check(
                "master key",
                master.map(|id| format!("{} opens the keys", id.unwrap_or_default())),
            ));
            checks.push(check("sealed values", sealed(&tools).await));
            checks.push(check("serving role", serving(&tools.database).await));
            let tenants = find_tenants(&tools.database, None).await.map_err(|error| error.to_string());
            checks.push(check("organizations", tenants.map(|tenants| format!("{} logs", tenants.len()))));
            tools.log.close().await;
        }
        Err(error) => checks.push(check("keys", Err(error.to_string()))),
    }
    if settings.data_dir.join(FIRST_KEYS_FILE).exists() {
        let detail = format!(
            "{} holds API keys: move them to a safe place",
            settings.data_dir.join(FIRST_KEYS_FILE).display()
        );
        checks.push(check("first keys", Ok(detail)));
    }
    checks
}

/// What was found of all that is sealed.
#[derive(Default)]
struct Opened {
    all: usize,
    /// What the active master key does not wrap.
    behind: usize,
    /// Where what does not open lies.
    damaged: Vec<String>,
}

/// Whether everything that is sealed opens, as what the read models say it is, and is wrapped by the active master key,
/// so that no other one is needed.
async fn sealed(tools: &boot::Tools) -> Result<String, String> {
    let active = tools.keys.masters.active();
    let tenants = find_tenants(&tools.database, None).await.map_err(|error| error.to_string())?;
    let mut opened = Opened::default();
    for tenant in tenants {
        let scope = tools.log.scope(tenant.id);
        open_all(scope, &tools.keys.masters, &mut opened).await.map_err(|error| error.to_string())?;
    }
    let Opened { all, behind, mut damaged } = opened;
    let mut wrong = vec![];
    if !damaged.is_empty() {
        let count = damaged.len();
        damaged.truncate(config::NAMED_VALUES);
        let more = if count > damaged.len() { ", …" } else { "" };
        wrong
            .push(format!("{count} do not open, set them anew or delete them: {}{more}", damaged.join(", ")));
    }
    if behind > 0 {
        wrong.push(format!(
            "{behind} of {all} are wrapped by a master key before {}: run `theazo secret rotate-master` (again)",
            active.id()
        ));
    }
    if wrong.is_empty() {
        Ok(format!("{all} open, all wrapped by {}", active.id()))
    } else {
        Err(wrong.join("; "))
    }
}

/// Opens all values of a tenant, a few at a time.
async fn open_all(scope: Scope<'_>, masters: &Masters, opened: &mut Opened) -> Result<(), database::Error> {
    let active = masters.active();
    let (mut after, mut damaged) = (String::new(), BTreeSet::new());
    loop {
        let some = read::sealed::some(scope, &after, config::OPENED_ROWS).await?;
        let Some((last, _)) = some.last() else { break };
        after.clone_from(&last.place);
        for (address, value) in &some {
            opened.all += 1;
            opened.behind += usize::from(value.master_key_id != active.id());
            if vault::sealed::open(masters, address, value).is_err() {
                damaged.insert(address.place.clone());
            }
        }
    }
    // What opens is of no use where another version of it is looked for.
    damaged.extend(read::sealed::misplaced(scope).await?);
    let tenant = scope.tenant().0;
    opened.damaged.extend(damaged.into_iter().map(|place| format!("{place} of tenant {tenant}")));
    Ok(())
}

/// What isolates programs of agents on this machine, seen by running one. Its folder is another than that of a server
/// which may be running.
async fn isolation(mut options: local::Options) -> Vec<Check> {
    let name = format!("{}.doctor", config::SANDBOX_FOLDER);
    // Where there is no data directory yet, none is made by looking.
    let data_dir = options.root.parent().filter(|data_dir| data_dir.exists());
    let root = data_dir.map_or_else(std::env::temp_dir, Path::to_path_buf).join(name);
    options.root.clone_from(&root);
    let seen = local::layers(&options, SystemClock.now()).await;
    let _ = std::fs::remove_dir(root);
    match seen {
        Err(error) => vec![check("sandbox", Err(error.to_string()))],
        Ok(layers) => {
            let line = |layer: local::Layer| Check {
                name: layer.name,
                ok: layer.live || !layer.mandatory,
                detail: layer.detail,
            };
            layers.into_iter().map(line).collect()
        }
    }
}

async fn version(owner: &Client, site: &Site) -> Result<String, String> {
    let row = owner
        .query_one(
            "select current_setting('server_version_num')::integer, current_setting('server_version')",
            &[],
        )
        .await
        .map_err(|error| error.to_string())?;
    let (number, name): (i32, String) = (row.get(0), row.get(1));
    let whose = if site.is_own() { "the server's own" } else { "named by its URL" };
    if number < OLDEST_VERSION {
        return Err(format!("PostgreSQL {name}, and 14 or newer is needed"));
    }
    Ok(format!("PostgreSQL {name}, {whose}"))
}

async fn schema(owner: &Client) -> Result<String, String> {
    let schema = database::schema(owner).await.map_err(|error| error.to_string())?;
    if schema.applied == schema.known {
        Ok(format!("version {}", schema.applied))
    } else {
        Err(format!("version {}, and this program is for version {}", schema.applied, schema.known))
    }
}

/// Whether what is committed survives a crash of the machine.
async fn durability(owner: &Client) -> Result<String, String> {
    let row = owner
        .query_one("select current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit')", &[])
        .await
        .map_err(|error| error.to_string())?;
    let settings: [String; 3] = [row.get(0), row.get(1), row.get(2)];
    if settings.iter().any(|setting| setting == "off") {
        return Err(format!(
            "fsync {}, full_page_writes {}, synchronous_commit {}: none may be off",
            settings[0], settings[1], settings[2]
        ));
    }
    Ok("what is committed survives a crash".to_owned())
}

/// Whether the walls between tenants hold for the role that serves.
async fn serving(database: &database::Database) -> Result<String, String> {
    let client = database.reading().await.map_err(|error| error.to_string())?;
    let sql = "select current_user::text, session_user::text, r.rolsuper or r.rolbypassrls, s.rolsuper
               from pg_roles r, pg_roles s where r.rolname = current_user and s.rolname = session_user";
    let row = client.query_one(sql, &[]).await.map_err(|error| error.to_string())?;
    let (role, login, lifts, superuser): (String, String, bool, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    if lifts {
        return Err(format!("the role {role} may pass the walls between tenants"));
    }
    let note = if superuser { ", a superuser: use a login of its own for serving" } else { "" };
    Ok(format!("{role}, by the login {login}{note}"))
}
