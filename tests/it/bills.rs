//! What finance has from the command line: exports that say what the API says, and calls that are reconciled by a file.

use std::path::Path;

use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::support::cluster::Scratch;
use crate::support::models::{Answer, Asked, Delivery, End, ModelServer, Said, Turn};
use crate::support::server::{Server, exchange, json as answer, run as program, theazo};
use crate::support::wait;

const EVER: &str = "from=2020-01-01&until=2199-12-31";

/// A model whose first answer to each task that says so breaks off.
fn model(asked: &Asked) -> Answer {
    let breaks =
        asked.conversation.iter().any(|said| matches!(said, Said::User(text) if text == "break off"));
    let end = if breaks && asked.number.is_multiple_of(2) { End::BreakAt(300) } else { End::Whole };
    Turn::says("Something that is worth its price.").delivered(Delivery { end, ..Delivery::default() }).into()
}

/// A server with a model to ask, and its organization.
struct Office {
    _models: ModelServer,
    scratch: Scratch,
    server: Server,
    key: String,
    org: String,
}

impl Office {
    async fn open() -> Self {
        let scratch = Scratch::new();
        let models = ModelServer::new(model).await;
        let dir = scratch.path.join("data");
        let mut serve = theazo(&dir, &["serve", "--listen", "127.0.0.1:0"]);
        serve.env("ANTHROPIC_BASE_URL", models.anthropic_url()).env("ANTHROPIC_API_KEY", "sk-ant-0000");
        let server = Server::start_with(serve).await;
        let keys = std::fs::read(dir.join("first-keys.json")).unwrap();
        let keys: Value = serde_json::from_slice(&keys).unwrap();
        let key = keys["live"].as_str().unwrap().to_owned();
        let org = answer(&dir, &["org", "list"]).await["data"][0]["id"].as_str().unwrap().to_owned();
        Self { _models: models, scratch, server, key, org }
    }

    fn dir(&self) -> std::path::PathBuf {
        self.scratch.path.join("data")
    }

    async fn get(&self, path: &str) -> Value {
        let response = self.server.request("GET", path, &self.key, None).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {response:?}");
        response.body
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let response = self.server.request("POST", path, &self.key, Some(body)).await.unwrap();
        assert!((200..300).contains(&response.status), "{path}: {response:?}");
        response.body
    }

    /// An agent of this user that has done these tasks one after the other, and is gone.
    async fn worked(&self, user: &str, tasks: &[&str]) {
        let session = self.server.create_session(&self.key, user).await;
        let new = json!({ "model": { "id": "claude-sonnet-4-5" } });
        let made = self.post(&format!("/v1/sessions/{session}/agents"), new).await;
        let agent = made["id"].as_str().unwrap().to_owned();
        for task in tasks {
            let ran = self.post(&format!("/v1/agents/{agent}/run"), json!({ "task": task })).await;
            let path = format!("/v1/tasks/{}", ran["taskId"].as_str().unwrap());
            wait::until_async("the task to end", async || {
                (self.get(&path).await["status"] == "completed").then_some(())
            })
            .await;
        }
        self.post(&format!("/v1/agents/{agent}/terminate"), json!({})).await;
        let path = format!("/v1/events?subject={agent}&type=agent.released");
        wait::until_async("the sandbox to go", async || {
            (!self.get(&path).await["data"].as_array().unwrap().is_empty()).then_some(())
        })
        .await;
    }

    /// What the API exports, byte by byte.
    async fn exported(&self, format: &str) -> String {
        // A client of HTTP/1.0 is given the body as it is, without the lengths of its pieces.
        let request = format!(
            "GET /v1/billing/export?format={format}&{EVER} HTTP/1.0\r\nauthorization: Bearer {}\r\n\r\n",
            self.key
        );
        let answer = exchange(&self.server.address, &request).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(" 200 "), "{head}");
        body.to_owned()
    }

    async fn reconciled(&self, file: &Path) -> (Option<i32>, Value, String) {
        let file = file.to_str().unwrap();
        let arguments = ["billing", "reconcile", file, "--org", &self.org, "--json"];
        let done = program(&self.dir(), &arguments).await;
        let shown = serde_json::from_slice(&done.stdout).unwrap_or_default();
        (done.status.code(), shown, String::from_utf8_lossy(&done.stderr).into_owned())
    }

    async fn money(&self) -> (Decimal, Decimal) {
        let summary = self.get(&format!("/v1/usage/summary?{EVER}")).await;
        (exact(&summary["models"]["cost"]), exact(&summary["unconfirmed"]))
    }
}

fn exact(amount: &Value) -> Decimal {
    amount["exact"].as_str().unwrap().parse().unwrap()
}

/// The sum of a column of CSV, whose cells before it are not quoted.
fn column(csv: &str, name: &str) -> Decimal {
    let mut lines = csv.split_terminator("\r\n");
    let place = lines.next().unwrap().split(',').position(|column| column == name).unwrap();
    lines.map(|line| line.split(',').nth(place).unwrap().parse::<Decimal>().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_by_command_is_that_of_the_api_and_adds_up_to_the_total() {
    let office = Office::open().await;
    office.worked("ada", &["one", "two"]).await;
    office.worked("grace", &["three"]).await;
    let charged = office.get("/v1/billing/entries?category=model").await;
    let charge = charged["data"][0]["id"].clone();
    let credit = json!({ "chargeId": charge, "exact": "-0.00001", "reason": "a courtesy" });
    office.post("/v1/billing/adjustments", credit).await;
    let total = exact(&office.get(&format!("/v1/usage/summary?{EVER}")).await["total"]);
    // Three answers of 25 tokens of input and 15 of output, less the credit; and some compute.
    assert!(total > "0.00097".parse().unwrap(), "{total}");
    for (format, cost) in [("csv", "cost"), ("json", ""), ("focus", "BilledCost")] {
        let arguments = ["billing", "export", "--org", &office.org, "--format", format];
        let period = ["--from", "2020-01-01", "--until", "2199-12-31"];
        let done = program(&office.dir(), &[&arguments[..], &period].concat()).await;
        assert!(done.status.success(), "{done:?}");
        let written = String::from_utf8(done.stdout).unwrap();
        assert_eq!(written, office.exported(format).await, "{format}");
        let sum = if format == "json" {
            let written: Value = serde_json::from_str(&written).unwrap();
            written["data"].as_array().unwrap().iter().map(|entry| exact(&entry["cost"])).sum()
        } else {
            column(&written, cost)
        };
        assert_eq!(sum, total, "{format}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_broke_off_are_reconciled_by_a_file_each_once() {
    let office = Office::open().await;
    office.worked("ada", &["break off"]).await;
    office.worked("ada", &["break off"]).await;
    office.worked("grace", &["break off"]).await;
    let lost = office.get("/v1/billing/unconfirmed").await["data"].as_array().unwrap().clone();
    let [last, second, first] = &lost[..] else { panic!("{lost:?}") };
    let id = |call: &Value| call["callId"].as_str().unwrap().to_owned();
    let used = json!({ "callId": id(first), "inputTokens": 1_000, "outputTokens": 100 });
    let unbilled = json!({ "callId": id(second), "notBilled": true });
    let file = office.scratch.path.join("vendor.jsonl");
    let before = office.money().await;
    assert_eq!(before.1, lost.iter().map(|call| exact(&call["cost"])).sum());

    // A line that cannot be read: nothing of the file is carried out.
    for wrong in ["{", &json!({ "callId": id(last) }).to_string(), r#"{"callId":"call_x","notBilled":true}"#]
    {
        std::fs::write(&file, format!("{used}\n\n{wrong}\n")).unwrap();
        let (status, _, said) = office.reconciled(&file).await;
        assert!(status != Some(0) && said.lines().count() == 1, "{status:?} {said}");
        assert_eq!(office.money().await, before);
    }

    std::fs::write(&file, format!("{used}\n{unbilled}\n")).unwrap();
    let (status, shown, said) = office.reconciled(&file).await;
    assert_eq!(status, Some(0), "{said}");
    let expected = json!({ "data": [
        { "callId": id(first), "reconciled": true, "cost": "0.00495" },
        { "callId": id(second), "reconciled": true, "cost": "0" },
    ] });
    assert_eq!(shown, expected);
    let after = (before.0 + "0.00495".parse::<Decimal>().unwrap(), exact(&last["cost"]));
    assert_eq!(office.money().await, after);
    let left = office.get("/v1/billing/unconfirmed").await;
    assert_eq!(left["data"], json!([last]));

    // The same file again charges nothing; the status says that something was refused.
    let (status, shown, _) = office.reconciled(&file).await;
    assert_eq!((status, &shown["data"][0]["reconciled"]), (Some(1), &json!(false)));
    assert!(shown["data"][1]["reason"].as_str().unwrap().ends_with("is not unconfirmed"), "{shown}");
    assert_eq!(office.money().await, after);
    let missing = office.reconciled(Path::new("/nowhere/vendor.jsonl")).await;
    assert!(missing.0 != Some(0) && missing.2.contains("/nowhere/vendor.jsonl"), "{missing:?}");
}
