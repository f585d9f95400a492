//! The walls between tenants in the database, and what the serving role may not do.

use theazo::database::DEFINER_FUNCTIONS;
use theazo::log;
use theazo::random;
use theazo_domain::id::OrganizationId;
use theazo_domain::organization::Mode;
use tokio_postgres::error::SqlState;

use crate::support::cluster::connect;
use crate::support::logs::{World, create_with, new_session_id, now};

/// A connection as the serving role, as the server makes it.
async fn serving(world: &World) -> tokio_postgres::Client {
    let mut config = world.database.config();
    config.options("-c role=theazo_serve");
    connect(&config).await
}

const TENANT_TABLES: &str = "
    select c.relname::text, c.relrowsecurity and c.relforcerowsecurity from pg_class c
    where c.relkind = 'r' and c.relnamespace = 'public'::regnamespace
      and exists (select 1 from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id')
    order by 1";

#[tokio::test]
async fn every_table_of_a_tenant_is_walled_and_begins_its_keys_with_the_tenant() {
    let world = World::new().await;
    let superuser = world.superuser().await;
    let tables = superuser.query(TENANT_TABLES, &[]).await.unwrap();
    assert!(tables.len() >= 16, "{} tables", tables.len());
    for row in &tables {
        let (name, walled): (String, bool) = (row.get(0), row.get(1));
        assert!(walled, "{name} has no forced row-level security");
    }
    // Indexes that find the tenant of a credential, of work that is due or of a server's leases are the exceptions.
    let strays = superuser
        .query(
            "select i.indexrelid::regclass::text from pg_index i
             join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
             join pg_class c on c.oid = i.indrelid
             where c.relnamespace = 'public'::regnamespace and a.attname <> 'tenant_id'
               and exists (select 1 from pg_attribute t where t.attrelid = c.oid and t.attname = 'tenant_id')
             order by 1",
            &[],
        )
        .await
        .unwrap();
    let strays: Vec<String> = strays.iter().map(|row| row.get(0)).collect();
    let expected = ["api_keys_by_digest", "leases_by_worker", "tenants_organization_id_mode_key", "work_due"];
    assert_eq!(strays, expected);
}

#[tokio::test]
async fn without_a_tenant_nothing_is_seen_and_with_one_only_its_own() {
    let world = World::new().await;
    let log = world.server();
    log.execute(world.tenant, create_with(new_session_id(), "user", "{}")).await.unwrap().unwrap();
    let mut owner = world.superuser().await;
    let other = OrganizationId::from_ulid(random::ulid(now()));
    let other = log::create_tenant(&mut owner, other, Mode::Test).await.unwrap();
    let mut serving = serving(&world).await;
    for row in owner.query(TENANT_TABLES, &[]).await.unwrap() {
        let table: String = row.get(0);
        let count = format!("select count(*) from {table}");
        let all: i64 = owner.query_one(&count, &[]).await.unwrap().get(0);
        let unnamed: i64 = serving.query_one(&count, &[]).await.unwrap().get(0);
        assert_eq!(unnamed, 0, "{table}");
        let transaction = serving.transaction().await.unwrap();
        let name = format!("select set_config('theazo.tenant', '{}', true)", other.id.0);
        transaction.execute(&name, &[]).await.unwrap();
        let theirs: i64 = transaction
            .query_one(&format!("{count} where tenant_id <> $1"), &[&other.id])
            .await
            .unwrap()
            .get(0);
        assert_eq!(theirs, 0, "{table} shows rows of another tenant, of {all}");
        transaction.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_row_cannot_be_written_for_another_tenant() {
    let world = World::new().await;
    let mut serving = serving(&world).await;
    let transaction = serving.transaction().await.unwrap();
    let elsewhere = world.tenant.id.0 + 1;
    transaction
        .execute(&format!("select set_config('theazo.tenant', '{elsewhere}', true)"), &[])
        .await
        .unwrap();
    let sql = "insert into end_users values ($1, 'usr_x', 'x')";
    let refused = transaction.execute(sql, &[&world.tenant.id]).await.unwrap_err();
    assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE));
}

#[tokio::test]
async fn what_has_happened_cannot_be_changed_by_the_role_that_serves() {
    let world = World::new().await;
    for sql in [
        "update events set type = 'x'",
        "delete from events",
        "truncate events",
        "delete from event_subjects",
        "update event_subjects set position = 1",
        "delete from heads",
        "insert into tenants (organization_id, mode) values ('org_x', 'live')",
        "update server_keys set wrapped = ''",
        "alter table events disable row level security",
        "drop policy tenant_wall on events",
        "create table public.mine ()",
    ] {
        let refused = serving(&world).await.batch_execute(sql).await.expect_err(sql);
        assert_eq!(refused.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {refused}");
    }
}

#[tokio::test]
async fn only_the_listed_functions_look_over_the_wall_and_they_tell_no_more_than_a_tenant_and_an_id() {
    let world = World::new().await;
    let rows = world
        .superuser()
        .await
        .query(
            "select p.proname::text, pg_get_function_result(p.oid), r.rolname::text, r.rolcanlogin, r.rolsuper
             from pg_proc p join pg_roles r on r.oid = p.proowner
             where p.prosecdef and p.pronamespace = 'public'::regnamespace order by 1",
            &[],
        )
        .await
        .unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(names, DEFINER_FUNCTIONS);
    let results: Vec<String> = rows.iter().map(|row| row.get(1)).collect();
    assert_eq!(
        results,
        [
            "TABLE(tenant_id bigint, kind text, subject text)",
            "TABLE(tenant_id bigint, kind text, subject text)",
            "TABLE(tenant_id bigint, key_id text)",
            "TABLE(tenant_id bigint, organization_id text, mode text)",
            "boolean",
            "void",
            "void",
            "integer",
            "integer",
        ]
    );
    for row in &rows {
        let owner: (String, bool, bool) = (row.get(2), row.get(3), row.get(4));
        assert_eq!(owner, ("theazo_lookup".to_owned(), false, false));
    }
}
