//! `/v1/providers`.

use futures_util::future::join_all;
use serde_json::{Value, json};
use theazo::providers::{Settings, Vendors};
use theazo_domain::agent::{self, NewAgent};
use theazo_domain::agent_config::ProviderName;
use theazo_domain::id::{AgentId, SessionId};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::{Command, session};

use crate::support::api::{Api, Reply};
use crate::support::logs::new_agent;
use crate::support::observer::{ELSEWHERE, Observer, THIS_MACHINE};
use crate::support::site::Site;
use crate::support::vendors::verify::{E2B_KEY, Vendor, WEBHOOK_SECRET};

const NAMES: [&str; 5] = ["local", "e2b", "fly", "docker", "webhook"];
/// More than any test asks for that is not about rates.
const PLENTY: u32 = 1_000_000;

async fn test_mode(settings: Settings) -> Api {
    Site::with_outside(settings).await.organization(Mode::Test, PLENTY).await.api(Role::Admin).await
}

async fn configure(api: &Api, provider: &str, credentials: &Value, is_default: Option<bool>) -> Reply {
    let body = json!({ "provider": provider, "credentials": credentials, "isDefault": is_default });
    api.post("/v1/providers", &body).await
}

async fn delete(api: &Api, provider: &str) -> Reply {
    let request = api.request("DELETE", &format!("/v1/providers/{provider}"));
    api.send(request.body(axum::body::Body::empty()).unwrap()).await
}

async fn listed(api: &Api) -> Vec<Value> {
    let page = api.get("/v1/providers").await.expect(200);
    assert_eq!(page["hasMore"], false);
    page["data"].as_array().unwrap().clone()
}

/// The default of a list, if there is exactly one.
#[track_caller]
fn default_of(providers: &[Value]) -> String {
    let defaults: Vec<_> = providers.iter().filter(|provider| provider["isDefault"] == true).collect();
    let [default] = defaults[..] else { panic!("{} defaults: {providers:?}", defaults.len()) };
    default["provider"].as_str().unwrap().to_owned()
}

fn names(providers: &[Value]) -> Vec<&str> {
    providers.iter().map(|provider| provider["provider"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn local_is_there_from_the_start_and_the_default() {
    let site = Site::new().await;
    for mode in [Mode::Live, Mode::Test] {
        let api = site.organization(mode, PLENTY).await.api(Role::Admin).await;
        let providers = listed(&api).await;
        assert_eq!(names(&providers), ["local"]);
        assert_eq!(default_of(&providers), "local");
        assert_eq!(providers[0]["status"], "active");
        let created = providers[0]["createdAt"].as_str().unwrap();
        assert!(created.ends_with('Z') && created.len() == 24, "{created}");
    }
}

#[tokio::test]
async fn the_example_of_the_reference_configures_a_provider() {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    let provider = configure(&api, "e2b", &json!({ "apiKey": E2B_KEY }), Some(true)).await.expect(201);
    assert_eq!((&provider["provider"], &provider["isDefault"]), (&json!("e2b"), &json!(true)));
    assert_eq!(provider["status"], "active");
    assert!(provider.get("statusReason").is_none() && provider.get("credentials").is_none());
    let fly = configure(&api, "fly", &vendor.credentials("fly"), None).await.expect(201);
    let providers = listed(&api).await;
    assert_eq!(names(&providers), ["fly", "e2b", "local"]);
    assert_eq!(providers[..2], [fly, provider]);
    assert_eq!(default_of(&providers), "e2b");
    let page = api.get("/v1/providers?limit=2").await.expect(200);
    assert_eq!((page["data"].as_array().unwrap().len(), &page["hasMore"]), (2, &json!(true)));
    let next = format!("/v1/providers?limit=2&cursor={}", page["nextCursor"].as_str().unwrap());
    assert_eq!(names(api.get(&next).await.expect(200)["data"].as_array().unwrap()), ["local"]);
    let events = api.get("/v1/events?subject=providers").await.expect(200);
    let types: Vec<_> =
        events["data"].as_array().unwrap().iter().map(|event| event["type"].clone()).collect();
    let each = ["provider.verified", "provider.configured"];
    assert_eq!(types, [&each[..], &["provider.default_changed"], &each].concat());
}

#[tokio::test]
async fn a_vendor_says_whether_it_takes_the_credentials() {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    for provider in NAMES {
        let told = configure(&api, provider, &vendor.credentials(provider), None).await.expect(201);
        assert_eq!(told["status"], "active", "{told}");
    }
    let host = json!({ "host": format!("tcp://{}", vendor.address) });
    assert_eq!(configure(&api, "docker", &host, None).await.expect(201)["status"], "active");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let secret = "another secret of 16 characters".replace(' ', "-");
    let webhook = |path: &str| json!({ "url": vendor.url(path), "secret": WEBHOOK_SECRET });
    let refused = [
        ("e2b", json!({ "apiKey": "e2b_wrong" }), "it refused the credentials (status 401)"),
        ("e2b", json!({ "apiKey": "e2b_broken" }), "it answered otherwise than expected (status 500)"),
        (
            "fly",
            json!({ "apiToken": "wrong", "appName": "sandboxes" }),
            "it refused the credentials (status 401)",
        ),
        (
            "fly",
            json!({ "apiToken": crate::support::vendors::verify::FLY_TOKEN, "appName": "other" }),
            "it has no app of this name (status 404)",
        ),
        (
            "webhook",
            json!({ "url": vendor.url("/hook"), "secret": secret }),
            "it refused the credentials (status 401)",
        ),
        ("webhook", webhook("/nothing"), "it answered otherwise than expected (status 418)"),
        // A redirect is not followed, wherever it leads.
        ("webhook", webhook("/away"), "it answered otherwise than expected (status 307)"),
        (
            "webhook",
            json!({ "url": format!("http://{free}/"), "secret": WEBHOOK_SECRET }),
            "it cannot be connected to: Connection refused (os error 111)",
        ),
    ];
    for (provider, credentials, reason) in refused {
        let told = configure(&api, provider, &credentials, None).await.expect(201);
        assert_eq!((&told["status"], &told["statusReason"]), (&json!("error"), &json!(reason)));
    }
    let told = configure(&api, "webhook", &webhook("/silent"), None).await.expect(201);
    let expected = (&json!("unverified"), &json!("it did not answer in time"));
    assert_eq!((&told["status"], &told["statusReason"]), expected);
}

#[tokio::test]
async fn every_wrong_field_is_named_and_changes_nothing() {
    let api = test_mode(Settings::default()).await;
    let before = api.head().await;
    let url = json!("https://compute.example.com/");
    let long = "a".repeat(4_097);
    let cases = [
        (json!({}), "credentials required, provider required"),
        (json!({ "provider": "aws", "credentials": {} }), "provider enum"),
        (json!({ "provider": "e2b", "credentials": "e2b_x" }), "credentials type"),
        (
            json!({ "provider": "e2b", "credentials": null, "isDefault": 1 }),
            "credentials type, isDefault type",
        ),
        (json!({ "provider": "e2b", "credentials": {} }), "credentials.apiKey required"),
        (json!({ "provider": "e2b", "credentials": { "apiKey": 5 } }), "credentials.apiKey type"),
        (json!({ "provider": "e2b", "credentials": { "apiKey": "" } }), "credentials.apiKey pattern"),
        (
            json!({ "provider": "e2b", "credentials": { "apiKey": "a\r\nx-b: c" } }),
            "credentials.apiKey pattern",
        ),
        (json!({ "provider": "e2b", "credentials": { "apiKey": long } }), "credentials.apiKey maxLength"),
        (
            json!({ "provider": "e2b", "credentials": { "api_key": "a" } }),
            "credentials.apiKey required, credentials.api_key additionalProperties",
        ),
        (
            json!({ "provider": "fly", "credentials": { "apiToken": true, "appName": "../x" } }),
            "credentials.apiToken type, credentials.appName pattern",
        ),
        (json!({ "provider": "docker", "credentials": { "host": 5 } }), "credentials.host type"),
        (json!({ "provider": "docker", "credentials": { "host": "ssh://a" } }), "credentials.host address"),
        (
            json!({ "provider": "docker", "credentials": { "host": "unix:///run/other" } }),
            "credentials.host address",
        ),
        (
            json!({ "provider": "docker", "credentials": { "host": "tcp://127.0.0.1:2375" } }),
            "credentials.host address",
        ),
        (
            json!({ "provider": "webhook", "credentials": {} }),
            "credentials.secret required, credentials.url required",
        ),
        (
            json!({ "provider": "webhook", "credentials": { "url": url, "secret": "short" } }),
            "credentials.secret minLength",
        ),
        (
            json!({ "provider": "webhook", "credentials": { "url": url, "secret": "whsec_not base64!".replace(' ', "-") } }),
            "credentials.secret format",
        ),
        (
            json!({ "provider": "webhook", "credentials": { "url": "compute.example.com", "secret": WEBHOOK_SECRET } }),
            "credentials.url address",
        ),
        (
            json!({ "provider": "webhook", "credentials": { "url": "http://10.1/", "secret": "short" }, "isDefault": 1 }),
            "credentials.secret minLength, credentials.url address, isDefault type",
        ),
        (
            json!({ "provider": "webhook", "credentials": { "url": "http://10.1/", "secret": "whsec_not-base64!!" } }),
            "credentials.secret format, credentials.url address",
        ),
        // What is confided to nobody is a mistake, wherever it was meant to go.
        (json!({ "provider": "local", "credentials": { "x": 1 } }), "credentials.x additionalProperties"),
    ];
    for (body, expected) in cases {
        let told = api.post("/v1/providers", &body).await.fields();
        let told: Vec<_> = told.iter().map(|(path, rule)| format!("{path} {rule}")).collect();
        assert_eq!(told.join(", "), expected, "{body}");
    }
    assert_eq!(api.head().await, before);
}

#[tokio::test]
async fn a_webhook_at_an_address_that_is_not_public_is_refused_and_no_packet_goes_there() {
    let observer = Observer::new();
    let live = Site::new().await.admin().await;
    let test = test_mode(Settings::default()).await;
    let before = (live.head().await, test.head().await);
    for template in THIS_MACHINE.iter().chain(&ELSEWHERE) {
        let url = template.replace("PORT", &observer.port.to_string());
        let credentials = json!({ "url": url, "secret": WEBHOOK_SECRET });
        for api in [&live, &test] {
            let told = configure(api, "webhook", &credentials, None).await.fields();
            assert_eq!(told, [("credentials.url".to_owned(), "address".to_owned())], "{url}");
        }
    }
    assert_eq!((live.head().await, test.head().await), before);
    assert!(!observer.saw(), "a packet came");
}

#[tokio::test]
async fn in_test_mode_nobody_is_asked() {
    let observer = Observer::new();
    let here = format!("http://127.0.0.1:{}", observer.port);
    let url: url::Url = here.parse().unwrap();
    let docker = here.parse().unwrap();
    let vendors = Vendors { e2b: url.clone(), fly: url, docker, ..Vendors::default() };
    let api = test_mode(Settings {
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        vendors,
        ..Settings::default()
    })
    .await;
    let credentials = |provider: &str| match provider {
        "e2b" => json!({ "apiKey": "a" }),
        "fly" => json!({ "apiToken": "a", "appName": "a" }),
        "webhook" => json!({ "url": here, "secret": WEBHOOK_SECRET }),
        _ => json!({}),
    };
    for provider in NAMES {
        let told = configure(&api, provider, &credentials(provider), Some(true)).await.expect(201);
        assert_eq!((&told["status"], &told["isDefault"]), (&json!("active"), &json!(true)));
    }
    assert!(!observer.saw(), "a packet came");
}

#[tokio::test]
async fn there_is_one_default_whatever_comes_and_goes() {
    let api = test_mode(Settings::default()).await;
    let key = json!({ "apiKey": "a" });
    let expect_default = async |name: &str| assert_eq!(default_of(&listed(&api).await), name);
    let created = configure(&api, "e2b", &key, None).await.expect(201)["createdAt"].clone();
    expect_default("local").await;
    configure(&api, "e2b", &key, Some(true)).await.expect(201);
    expect_default("e2b").await;
    let again = configure(&api, "e2b", &key, None).await.expect(201);
    assert_eq!(
        (&again["isDefault"], &again["createdAt"]),
        (&json!(true), &created),
        "new credentials, same default"
    );
    configure(&api, "docker", &json!({}), Some(true)).await.expect(201);
    expect_default("docker").await;
    delete(&api, "e2b").await.expect(200);
    expect_default("docker").await;
    configure(&api, "docker", &json!({}), Some(false)).await.expect(201);
    expect_default("local").await;
    configure(&api, "docker", &json!({}), Some(true)).await.expect(201);
    configure(&api, "local", &json!({}), Some(true)).await.expect(201);
    expect_default("local").await;
    configure(&api, "docker", &json!({}), Some(true)).await.expect(201);
    assert_eq!(delete(&api, "docker").await.expect(200), json!({ "ok": true }));
    expect_default("local").await;
    assert_eq!(names(&listed(&api).await), ["local"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_default_at_every_moment_of_a_crowd() {
    let api = test_mode(Settings::default()).await;
    let webhook = json!({ "url": "https://compute.example.com/", "secret": WEBHOOK_SECRET });
    let bodies = [
        ("e2b", json!({ "apiKey": "a" })),
        ("docker", json!({})),
        ("webhook", webhook),
        ("local", json!({})),
    ];
    let (api, bodies) = (&api, &bodies);
    let crowd = (0..60).map(|number| async move {
        let (provider, credentials) = &bodies[number % 4];
        match number % 3 {
            0 | 1 => {
                configure(api, provider, credentials, Some(number % 5 != 0)).await.expect(201);
            }
            _ => assert!(matches!(delete(api, provider).await.status.as_u16(), 200 | 404 | 409)),
        }
        default_of(&listed(api).await);
    });
    join_all(crowd).await;
}

#[tokio::test]
async fn a_provider_is_removed_with_its_credentials() {
    let api = test_mode(Settings::default()).await;
    configure(&api, "e2b", &json!({ "apiKey": "a" }), None).await.expect(201);
    let superuser = api.site.database.connect().await;
    let sealed = "select count(*) from sealed_values where place = 'provider/e2b'";
    assert_eq!(superuser.query_one(sealed, &[]).await.unwrap().get::<_, i64>(0), 1);
    assert_eq!(delete(&api, "e2b").await.expect(200), json!({ "ok": true }));
    assert_eq!(superuser.query_one(sealed, &[]).await.unwrap().get::<_, i64>(0), 0);
    let before = api.head().await;
    let error = delete(&api, "e2b").await.error(404, "not_found");
    assert_eq!(error["message"], "the provider e2b is not configured.");
    for unknown in ["aws", "E2B", "provider_e2b", "%00"] {
        delete(&api, unknown).await.error(404, "not_found");
    }
    delete(&api, "local").await.error(409, "conflict");
    assert_eq!(api.head().await, before);
}

#[tokio::test]
async fn a_provider_with_active_agents_stays_and_they_are_named() {
    let api = test_mode(Settings::default()).await;
    configure(&api, "e2b", &json!({ "apiKey": "a" }), Some(true)).await.expect(201);
    let session: SessionId = api.session("user").await.parse().unwrap();
    let agents: Vec<_> =
        (1..=3).map(|number| AgentId::from_ulid(ulid::Ulid::from_parts(1, number))).collect();
    for agent_id in &agents {
        let provider = Some(ProviderName::E2b);
        let agent = NewAgent { provider, mocked: true, ..new_agent(*agent_id) };
        let command = session::Command::AddAgent(Box::new(agent));
        api.site.execute(api.tenant, Command::Session(session, command)).await;
    }
    let terminate = async |agent_id: AgentId| {
        api.site.execute(api.tenant, Command::Agent(agent_id, agent::Command::Terminate)).await;
    };
    terminate(agents[1]).await;
    let error = delete(&api, "e2b").await.error(409, "conflict");
    assert_eq!(error["message"], "the provider e2b has active agents: 2.");
    assert_eq!(error["details"], json!({ "agents": [agents[0].to_string(), agents[2].to_string()] }));
    assert_eq!(default_of(&listed(&api).await), "e2b");
    for agent_id in [agents[0], agents[2]] {
        terminate(agent_id).await;
    }
    delete(&api, "e2b").await.expect(200);
}

#[tokio::test]
async fn a_provider_is_asked_again() {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    let verify = async |provider: &str| api.act(&format!("/v1/providers/{provider}/verify")).await;
    verify("e2b").await.error(404, "not_found");
    verify("local").await.error(409, "conflict");
    verify("aws").await.error(404, "not_found");
    let first = configure(&api, "e2b", &json!({ "apiKey": E2B_KEY }), None).await.expect(201);
    let again = verify("e2b").await.expect(200);
    assert_eq!((&again["status"], &again["createdAt"]), (&json!("active"), &first["createdAt"]));
    assert_eq!(vendor.asked("/v2/sandboxes"), 2);
    // What lies where the credentials should does not open, and nobody is asked with it.
    configure(&api, "fly", &vendor.credentials("fly"), None).await.expect(201);
    let superuser = api.site.database.connect().await;
    let swap = "update sealed_values a set version = b.version, data_key = b.data_key, nonce = b.nonce,
        ciphertext = b.ciphertext from sealed_values b where a.place <> b.place";
    assert_eq!(superuser.execute(swap, &[]).await.unwrap(), 2);
    verify("e2b").await.error(500, "internal_error");
    let swap = "update sealed_values s set version = p.credentials from providers p where s.place = 'provider/' || p.provider";
    assert_eq!(superuser.execute(swap, &[]).await.unwrap(), 2);
    verify("e2b").await.error(500, "internal_error");
    assert_eq!(vendor.asked("/v2/sandboxes"), 2);
}

#[tokio::test]
async fn a_repeated_request_gets_its_first_answer_and_asks_nobody_again() {
    let vendor = Vendor::start().await;
    let api = Site::with_outside(vendor.settings()).await.admin().await;
    let body = json!({ "provider": "e2b", "credentials": { "apiKey": E2B_KEY }, "isDefault": true });
    let first = api.post_once("/v1/providers", "key", &body).await;
    first.expect(201);
    delete(&api, "e2b").await.expect(200);
    let before = api.head().await;
    let again = api.post_once("/v1/providers", "key", &body).await;
    assert_eq!((again.status, &again.body), (first.status, &first.body));
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    let other = json!({ "provider": "e2b", "credentials": { "apiKey": "other" } });
    api.post_once("/v1/providers", "key", &other).await.error(409, "conflict");
    assert_eq!((api.head().await, vendor.asked("/v2/sandboxes")), (before, 1));
}

#[tokio::test]
async fn credentials_are_nowhere_to_be_read() {
    const CANARY: &str = "canary0123456789canary";
    let vendor = Vendor::start().await;
    let site = Site::with_outside(vendor.settings()).await;
    let api = site.admin().await;
    let url = vendor.url(&format!("/nothing/{CANARY}"));
    let mut said = String::new();
    for (provider, credentials) in [
        ("e2b", json!({ "apiKey": CANARY })),
        ("e2b", json!({ "apiKey": format!("{CANARY} {CANARY}") })),
        ("e2b", json!({ "apiKey": [CANARY] })),
        ("fly", json!({ "apiToken": CANARY, "appName": "sandboxes" })),
        ("docker", json!({ "host": format!("http://docker.invalid/{CANARY}") })),
        ("webhook", json!({ "url": url, "secret": CANARY })),
        ("webhook", json!({ "url": format!("http://127.0.0.2/{CANARY}"), "secret": CANARY })),
    ] {
        let body = json!({ "provider": provider, "credentials": credentials });
        let reply = api.post_once("/v1/providers", &body.to_string().len().to_string(), &body).await;
        said.push_str(&String::from_utf8_lossy(&reply.body));
    }
    for path in ["/v1/providers", "/v1/events?limit=100"] {
        said.push_str(&String::from_utf8_lossy(&api.get(path).await.body));
    }
    assert!(said.contains("\"error\"") && said.contains("provider.configured"));
    assert!(!said.contains(CANARY), "{said}");
    let superuser = site.database.connect().await;
    let tables = "select quote_ident(relname) from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace";
    let hex = hex::encode(CANARY);
    for table in superuser.query(tables, &[]).await.unwrap() {
        let table: String = table.get(0);
        let rows = superuser.query(&format!("select t::text from {table} t"), &[]).await.unwrap();
        for row in rows {
            let row: String = row.get(0);
            assert!(!row.contains(CANARY) && !row.contains(&hex), "{table}: {row}");
        }
    }
}

#[tokio::test]
async fn only_admins_change_providers() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Test, PLENTY).await;
    let body = json!({ "provider": "e2b", "credentials": { "apiKey": "a" } });
    for (role, writes, reads) in [
        (Role::Developer, false, true),
        (Role::ReadOnly, false, true),
        (Role::Finance, false, false),
        (Role::Admin, true, true),
    ] {
        let api = organization.api(role).await;
        let replies = [
            (writes, api.post("/v1/providers", &body).await),
            (writes, api.act("/v1/providers/e2b/verify").await),
            (writes, delete(&api, "e2b").await),
            (reads, api.get("/v1/providers").await),
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
async fn providers_are_one_organizations_in_one_mode() {
    let site = Site::new().await;
    let (api, stranger) =
        (site.organization(Mode::Test, PLENTY).await, site.organization(Mode::Test, PLENTY).await);
    let (api, stranger) = (api.api(Role::Admin).await, stranger.api(Role::Admin).await);
    configure(&api, "e2b", &json!({ "apiKey": "a" }), Some(true)).await.expect(201);
    assert_eq!(names(&listed(&stranger).await), ["local"]);
    delete(&stranger, "e2b").await.error(404, "not_found");
    assert_eq!(default_of(&listed(&api).await), "e2b");
}
