use std::sync::Arc;

use axum::body::Body;
use serde_json::{Value, json};
use theazo::read::secret::{self, visible, visible_one};
use theazo::vault;
use theazo_domain::id::SessionId;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use crate::support::api::{Api, Reply};
use crate::support::site::Site;

const UNKNOWN: &str = "ses_01ARZ3NDEKTSV4RRFFQ69G50AV";

async fn set(api: &Api, name: &str, value: &str, session_id: Option<&str>) -> Reply {
    let mut body = json!({ "name": name, "value": value });
    if let Some(session_id) = session_id {
        body["sessionId"] = session_id.into();
    }
    api.post("/v1/secrets", &body).await
}

async fn delete(api: &Api, path: &str) -> Reply {
    api.send(api.request("DELETE", path).body(Body::empty()).unwrap()).await
}

/// The names and scopes that are listed.
async fn listed(api: &Api, query: &str) -> Vec<(String, String)> {
    let page = api.get(&format!("/v1/secrets{query}")).await.expect(200);
    let text = |row: &Value, name: &str| row[name].as_str().unwrap().to_owned();
    page["data"].as_array().unwrap().iter().map(|row| (text(row, "name"), text(row, "scope"))).collect()
}

/// What a session sees, opened.
async fn seen(api: &Api, session_id: &str) -> Result<Vec<(String, String)>, vault::Error> {
    let app = Arc::clone(&api.site.next().app);
    let session_id: SessionId = session_id.parse().unwrap();
    let visible = visible(app.log.scope(api.tenant.id), &app.keys.masters, session_id).await?;
    Ok(visible.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect())
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(first, second)| ((*first).to_owned(), (*second).to_owned())).collect()
}

#[tokio::test]
async fn a_secret_is_set_listed_overwritten_and_deleted_and_never_shown() {
    let api = Site::new().await.admin().await;
    let session = api.session("a").await;
    let made = set(&api, "OPENAI_API_KEY", "sk-first-value", None).await.expect(201);
    assert_eq!(made, json!({ "name": "OPENAI_API_KEY", "scope": "org", "createdAt": made["createdAt"] }));
    let scoped = set(&api, "DB_PASSWORD", "scoped-value", Some(&session)).await.expect(201);
    assert_eq!(scoped["scope"], session.as_str());
    assert_eq!(api.get("/v1/secrets").await.expect(200), json!({ "data": [scoped, made], "hasMore": false }));
    assert_eq!(listed(&api, &format!("?sessionId={session}")).await, pairs(&[("DB_PASSWORD", &session)]));
    assert_eq!(
        set(&api, "OPENAI_API_KEY", "sk-second", None).await.expect(201),
        made,
        "a new value, the same secret"
    );
    let both = [("DB_PASSWORD", "scoped-value"), ("OPENAI_API_KEY", "sk-second")];
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&both));
    delete(&api, "/v1/secrets/DB_PASSWORD").await.error(404, "not_found");
    let path = format!("/v1/secrets/DB_PASSWORD?sessionId={session}");
    assert_eq!(delete(&api, &path).await.expect(200), json!({ "ok": true }));
    delete(&api, &path).await.error(404, "not_found");
    assert_eq!(listed(&api, "").await, pairs(&[("OPENAI_API_KEY", "org")]));
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&both[1..]));
    let events = api.get("/v1/events").await;
    let text = String::from_utf8_lossy(&events.body).into_owned();
    assert!(text.contains("secret.set") && text.contains("secret.deleted"));
    assert!(!text.contains("sk-") && !text.contains("scoped-value"));
    let owner = api.site.database.connect().await;
    let rows = owner.query("select place from sealed_values", &[]).await.unwrap();
    let places: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        places,
        ["secret/org/OPENAI_API_KEY"],
        "no ciphertext of what was overwritten or deleted is left"
    );
}

#[tokio::test]
async fn a_session_sees_its_own_secrets_before_those_of_the_organization() {
    let api = Site::new().await.admin().await;
    let (session, other) = (api.session("a").await, api.session("b").await);
    for (name, value, scope) in [
        ("A", "organization", None),
        ("B", "everybody", None),
        ("A", "own", Some(&session[..])),
        ("C", "another's", Some(&other[..])),
    ] {
        set(&api, name, value, scope).await.expect(201);
    }
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&[("A", "own"), ("B", "everybody")]));
    let others = [("A", "organization"), ("B", "everybody"), ("C", "another's")];
    assert_eq!(seen(&api, &other).await.unwrap(), pairs(&others));
    let app = &api.site.next().app;
    let one = async |name: &str| {
        let (scope, id) = (app.log.scope(api.tenant.id), session.parse().unwrap());
        visible_one(scope, &app.keys.masters, id, &name.parse().unwrap()).await.unwrap()
    };
    assert_eq!(one("A").await.as_deref(), Some("own"));
    assert_eq!(one("C").await, None);
}

#[tokio::test]
async fn names_and_values_have_their_limits() {
    let api = Site::new().await.admin().await;
    let session = api.session("a").await;
    let longest = "é".repeat(32 * 1024);
    for (name, value) in [("a", "x"), (&"N".repeat(128)[..], &longest[..]), ("A-b_9", "\n\"\\\u{1}😀")] {
        set(&api, name, value, None).await.expect(201);
        let seen = seen(&api, &session).await.unwrap();
        assert!(seen.contains(&(name.to_owned(), value.to_owned())), "{name}");
    }
    let before = api.head().await;
    for name in ["", &"N".repeat(129), "a b", "a.b", "é", "a\n", "../x"] {
        let told = set(&api, name, "value", None).await.fields();
        assert_eq!(told, pairs(&[("name", "pattern")]), "{name:?}");
    }
    for (value, rule) in [("", "minLength"), (&format!("{longest}x")[..], "maxBytes"), ("a\0b", "text")] {
        assert_eq!(set(&api, "A", value, None).await.fields(), pairs(&[("value", rule)]));
    }
    let told = api.post("/v1/secrets", &json!({ "value": 5, "sessionId": 7 })).await.fields();
    assert_eq!(told, pairs(&[("name", "required"), ("sessionId", "type"), ("value", "type")]));
    assert_eq!(api.head().await, before);
    let told = api.get("/v1/secrets?limit=0&cursor=x&sessionId=").await.fields();
    assert_eq!(told, pairs(&[("cursor", "cursor"), ("limit", "range"), ("sessionId", "length")]));
    for path in ["a.b", "a%20b", &"N".repeat(129), "%00"] {
        delete(&api, &format!("/v1/secrets/{path}")).await.error(404, "not_found");
    }
}

#[tokio::test]
async fn the_secrets_of_a_scope_fit_into_a_sandbox_together() {
    let api = Site::new().await.admin().await;
    let session = api.session("a").await;
    let value = "v".repeat(65_000);
    let too_much = pairs(&[("value", "maxTotalBytes")]);
    for scope in [None, Some(&session[..])] {
        for number in 0..8 {
            set(&api, &format!("N{number}"), &value, scope).await.expect(201);
        }
        let before = api.head().await;
        assert_eq!(set(&api, "N8", &value, scope).await.fields(), too_much);
        assert_eq!(api.head().await, before);
        // 512 KiB, with the name and two bytes for each.
        let left = 512 * 1024 - 8 * (65_000 + 4) - 4;
        assert_eq!(set(&api, "N8", &"v".repeat(left + 1), scope).await.fields(), too_much);
        set(&api, "N8", &"v".repeat(left), scope).await.expect(201);
        set(&api, "N8", &"w".repeat(left), scope).await.expect(201);
        assert_eq!(set(&api, "N7", &format!("{value}v"), scope).await.fields(), too_much);
    }
    let body = json!({ "name": "N8", "value": "x" });
    let first = api.post_once("/v1/secrets", "k1", &body).await;
    set(&api, "N9", &"v".repeat(3_000), None).await.expect(201);
    let again = api.post_once("/v1/secrets", "k1", &body).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    delete(&api, "/v1/secrets/N0").await.expect(200);
    set(&api, "N10", &value, None).await.expect(201);
}

#[tokio::test]
async fn a_session_must_be_there_and_must_not_have_ended() {
    let api = Site::new().await.admin().await;
    let session = api.session("a").await;
    for unknown in [UNKNOWN, "ses_x", "org"] {
        set(&api, "A", "value", Some(unknown)).await.error(404, "not_found");
        api.get(&format!("/v1/secrets?sessionId={unknown}")).await.error(404, "not_found");
        delete(&api, &format!("/v1/secrets/A?sessionId={unknown}")).await.error(404, "not_found");
    }
    set(&api, "A", "value", Some(&session)).await.expect(201);
    api.act(&format!("/v1/sessions/{session}/pause")).await.expect(200);
    set(&api, "B", "value", Some(&session)).await.expect(201);
    api.act(&format!("/v1/sessions/{session}/terminate")).await.expect(200);
    set(&api, "A", "other", Some(&session)).await.error(409, "conflict");
    assert_eq!(listed(&api, &format!("?sessionId={session}")).await.len(), 2);
    delete(&api, &format!("/v1/secrets/A?sessionId={session}")).await.expect(200);
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&[("B", "value")]));
}

#[tokio::test]
async fn secrets_are_paged_newest_first_and_pages_stay_as_they_are() {
    let api = Site::new().await.admin().await;
    for number in 0..5 {
        set(&api, &format!("N{number}"), "value", None).await.expect(201);
    }
    let first = api.get("/v1/secrets?limit=2").await.expect(200);
    assert_eq!(first["hasMore"], true);
    set(&api, "N2", "another value", None).await.expect(201);
    set(&api, "N5", "value", None).await.expect(201);
    let cursor = first["nextCursor"].as_str().unwrap();
    let rest = listed(&api, &format!("?cursor={cursor}")).await;
    assert_eq!(rest, pairs(&[("N2", "org"), ("N1", "org"), ("N0", "org")]));
    let session = api.session("a").await;
    let told = api.get(&format!("/v1/secrets?sessionId={session}&cursor={cursor}")).await.fields();
    assert_eq!(told, pairs(&[("cursor", "cursor")]), "a cursor is for its own filters");
}

#[tokio::test]
async fn secrets_of_another_organization_and_of_the_other_mode_are_not_there() {
    let site = Site::new().await;
    let (api, stranger) = (site.admin().await, site.admin().await);
    let test = site.organization(Mode::Test, 1_000).await.api(Role::Admin).await;
    let session = api.session("a").await;
    set(&api, "A", "live value", None).await.expect(201);
    set(&api, "A", "session value", Some(&session)).await.expect(201);
    for other in [&stranger, &test] {
        assert_eq!(listed(other, "").await, vec![]);
        other.get(&format!("/v1/secrets?sessionId={session}")).await.error(404, "not_found");
        set(other, "A", "value", Some(&session)).await.error(404, "not_found");
        delete(other, "/v1/secrets/A").await.error(404, "not_found");
        delete(other, &format!("/v1/secrets/A?sessionId={session}")).await.error(404, "not_found");
        assert_eq!(seen(other, &session).await.unwrap(), vec![]);
        set(other, "A", "theirs", None).await.expect(201);
    }
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&[("A", "session value")]));
    assert_eq!(seen(&test, &test.session("a").await).await.unwrap(), pairs(&[("A", "theirs")]));
}

#[tokio::test]
async fn each_role_may_do_with_secrets_what_the_contract_says() {
    let organization = Site::new().await.organization(Mode::Live, 1_000).await;
    for (role, write, read) in [
        (Role::Admin, true, true),
        (Role::Developer, true, true),
        (Role::ReadOnly, false, true),
        (Role::Finance, false, false),
    ] {
        let api = organization.api(role).await;
        let replies = [
            (write, set(&api, "A", "value", None).await),
            (read, api.get("/v1/secrets").await),
            (write, delete(&api, "/v1/secrets/A").await),
        ];
        for (allowed, reply) in replies {
            if allowed {
                assert!(reply.status.is_success(), "{role:?}: {reply:?}");
            } else {
                reply.error(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn a_secret_is_set_and_deleted_once_under_an_idempotency_key() {
    let api = Site::new().await.admin().await;
    let body = json!({ "name": "A", "value": "first value" });
    let first = api.post_once("/v1/secrets", "k1", &body).await;
    set(&api, "A", "second value", None).await.expect(201);
    let again = api.post_once("/v1/secrets", "k1", &body).await;
    assert_eq!((again.header("idempotency-replayed"), &again.body), (Some("true"), &first.body));
    let other = json!({ "name": "A", "value": "other value" });
    api.post_once("/v1/secrets", "k1", &other).await.error(409, "conflict");
    let session = api.session("a").await;
    assert_eq!(seen(&api, &session).await.unwrap(), pairs(&[("A", "second value")]));
    for replayed in [None, Some("true")] {
        let request = api.request("DELETE", "/v1/secrets/A").header("idempotency-key", "k2");
        let reply = api.send(request.body(Body::empty()).unwrap()).await;
        assert_eq!(reply.expect(200), json!({ "ok": true }));
        assert_eq!(reply.header("idempotency-replayed"), replayed);
    }
}

#[tokio::test]
async fn rows_that_were_swapped_moved_or_put_back_are_refused() {
    let site = Site::new().await;
    let (api, other) = (site.admin().await, site.admin().await);
    let session = api.session("a").await;
    for (name, value) in [("A", "first of all"), ("B", "second of all")] {
        set(&api, name, value, None).await.expect(201);
    }
    set(&other, "A", "another organization's", None).await.expect(201);
    let owner = site.database.connect().await;
    let columns = "version, master_key_id, data_key, nonce, ciphertext";
    let spoil = async |what: &str| {
        let sql = format!("create table before as select * from sealed_values; {what}");
        owner.batch_execute(&sql).await.unwrap();
        let refused = seen(&api, &session).await;
        assert!(matches!(refused, Err(vault::Error::Damaged { .. })), "{what}: {refused:?}");
        let mend =
            "delete from sealed_values; insert into sealed_values select * from before; drop table before";
        owner.batch_execute(mend).await.unwrap();
        assert_eq!(seen(&api, &session).await.unwrap().len(), 2);
    };
    let (ours, theirs) = (api.tenant.id.0, other.tenant.id.0);
    let swap = |columns: &str, from: &str| {
        format!(
            "update sealed_values v set ({columns}) = (select {columns} from before b where {from})
             where tenant_id = {ours} and place = 'secret/org/A'"
        )
    };
    let of_b = format!("b.tenant_id = {ours} and b.place = 'secret/org/B'");
    spoil(&swap(columns, &of_b)).await;
    spoil(&swap("data_key, ciphertext", &of_b)).await;
    spoil(&swap("ciphertext, nonce", &of_b)).await;
    spoil(&swap(columns, &format!("b.tenant_id = {theirs}"))).await;
    spoil("update sealed_values set ciphertext = set_byte(ciphertext, 3, get_byte(ciphertext, 3) # 1)").await;
    spoil(&format!("delete from sealed_values where tenant_id = {ours} and place = 'secret/org/A'")).await;
    // What was overwritten does not come back, though it lay at this very place.
    owner.batch_execute("create table old as select * from sealed_values").await.unwrap();
    set(&api, "A", "a newer value", None).await.expect(201);
    spoil("delete from sealed_values; insert into sealed_values select * from old").await;
    let app = &site.next().app;
    let secrets = secret::list(app.log.scope(api.tenant.id), None, None, 10).await.unwrap();
    assert_eq!(secrets.len(), 2);
}
