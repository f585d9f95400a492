//! What programs, models and vendors say: it is kept whatever it holds, and without secrets.

use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use theazo::clock::{Clock, SystemClock};
use theazo::providers::Settings;

use super::agents::{agent, ended, kinds, run, stands};
use crate::support::models::{Answer, ModelServer, Turn, anthropic};
use crate::support::site::Site;
use crate::support::vendors::webhook::Webhook;
use crate::support::vendors::{self, Request, Vendor, Wire};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zero_byte_in_what_a_tool_or_a_model_says_is_replaced_and_nothing_is_lost() {
    let code = json!({ "lang": "bash", "code": r#"printf "x\0y" | tee z.bin; echo . >> ran"# }).to_string();
    let server = ModelServer::scripted([
        Answer::from(Turn::says("a\0b").and_calls("toolu_1", "run_code", &code)),
        Answer::from(Turn::says("").and_calls("toolu_2", "read_file", r#"{"path":"z.bin"}"#)),
        Answer::from(Turn::says("").and_calls("toolu_3", "no\0such", r#"{"a\u0000":["\u0000"]}"#)),
        Answer::from(Turn::says("").and_calls("toolu_4", "read_file", r#"{"path":"ran"}"#)),
        Answer::from(Turn::says("It is a\0b.")),
    ])
    .await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({ "tools": ["run_code", "read_file"] })).await;
    let task = run(&api, &id, "Do it.").await;
    let done = ended(&api, &task).await;
    assert_eq!(done["status"], "completed", "{done}");
    let asked = server.asked();
    assert_eq!(asked.len(), 5);
    let results: Vec<&str> = asked[1..].iter().map(|asked| *asked.results().last().unwrap()).collect();
    assert!(results[0].contains("x\u{fffd}y"), "{results:?}");
    assert_eq!(results[1], "x\u{fffd}y");
    assert!(results[2].starts_with("There is no tool named no\u{fffd}such"), "{results:?}");
    assert_eq!(results[3], ".\n");
    let kinds = kinds(&api, &task).await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "tool.finished").count(), 4, "{kinds:?}");
    let events = api.get(&format!("/v1/events?subject={task}&limit=100")).await;
    let events = events.expect(200);
    assert!(!events.to_string().contains("\\u0000") && !done.to_string().contains("\\u0000"), "{events}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zero_byte_in_a_refusal_of_a_vendor_fails_the_task_with_the_rest_of_its_words() {
    let body = anthropic::error_body("invalid_request_error", "no\0way");
    let server = ModelServer::scripted([Answer::Error { status: 400, retry_after: None, body }]).await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let task = run(&api, &id, "Do it.").await;
    let failed = ended(&api, &task).await;
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(failed["error"]["message"].as_str().unwrap().contains("no\u{fffd}way"), "{failed}");
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_whose_outcome_the_database_refuses_for_ever_fails_and_is_not_tried_again() {
    let server = ModelServer::new(|_| Turn::says("unspeakable").into()).await;
    let site = Site::working(Some(&server)).await;
    let owner = site.database.connect().await;
    let rule = "alter table content add constraint spoken check (body not like '%unspeakable%')";
    owner.batch_execute(rule).await.unwrap();
    let api = site.admin().await;
    let id = agent(&api, &json!({})).await;
    let task = run(&api, &id, "Do it.").await;
    let failed = ended(&api, &task).await;
    assert_eq!((&failed["status"], &failed["error"]["code"]), (&json!("failed"), &json!("internal_error")));
    assert!(!failed.to_string().contains("spoken"), "{failed}");
    assert_eq!(server.asked().len(), 1);
    // The agent takes the next task.
    owner.batch_execute("alter table content drop constraint spoken").await.unwrap();
    let task = run(&api, &id, "Do it.").await;
    assert_eq!(ended(&api, &task).await["output"], "unspeakable");
}

/// As long as real ones are, and with what encodings treat differently.
const SECRET: &str =
    "sk/test+0123456789=ABCDEFGHIJ<klm>&\"no\\p\"'qr' s~tuvwxyz_é€_0123456789abcdefghijklmnopqrst";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_common_encoding_of_a_secret_passes_the_mask() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    api.post("/v1/secrets", &json!({ "name": "S", "value": SECRET })).await.expect(201);
    let id = agent(&api, &json!({})).await;
    let code = r##"
import base64, html, json, os, textwrap, urllib.parse
s = os.environ['S']; b = s.encode(); h = b.hex()
wrap = lambda text, width: '\n'.join(textwrap.wrap(text, width))
groups = lambda text, size: [text[i:i + size] for i in range(0, len(text), size)]
for name, text in {
    'plain': s,
    'base64 76': base64.encodebytes(b).decode(),
    'base64 64': wrap(base64.b64encode(b'x' + b).decode(), 64),
    'base64 crlf': wrap(base64.urlsafe_b64encode(b'xy' + b).decode(), 60).replace('\n', '\r\n'),
    'base64 repr': repr(base64.encodebytes(b)),
    'hex 60': wrap(h, 60),
    'hex colons': ':'.join(groups(h.upper(), 2)),
    'hex spaces': wrap(' '.join(groups(h, 2)), 47),
    'hex pairs': ' '.join(groups(h, 4)),
    'hex commas': ', '.join('0x' + x for x in groups(h, 2)),
    'hex escapes': ''.join('\\x' + x for x in groups(h, 2)),
    'quote': urllib.parse.quote(s),
    'quote all': urllib.parse.quote(s, safe=''),
    'quote plus': urllib.parse.quote_plus(s),
    'component': urllib.parse.quote(s, safe="!'()*"),
    'html': html.escape(s),
    'html decimal': html.escape(s).replace('&#x27;', '&#39;'),
    'html all': ''.join(f'&#{ord(c)};' for c in s),
    'repr': repr(s),
    'repr bytes': repr(b),
    'ascii': ascii(s),
    'json': json.dumps(s),
    'json upper': ''.join(f'\\u{ord(c):04X}' for c in s),
    'xxd': '\n' + ''.join(f'{at:08x}: {b[at:at + 16].hex(" ", 2):39}  {"".join(chr(c) if 32 <= c < 127 else "." for c in b[at:at + 16])}\n'
        for at in range(0, len(b), 16)),
    'json twice': json.dumps(json.dumps(s)),
    'json slashes': json.dumps(s, ensure_ascii=False).replace('/', '\\/'),
}.items():
    print(f'[{name}] {text}')
"##;
    let ran = api.post(&format!("/v1/agents/{id}/exec"), &json!({ "lang": "python", "code": code })).await;
    let ran = ran.expect(200);
    assert_eq!((&ran["exitCode"], &ran["stderr"]), (&json!(0), &json!("")));
    let stdout = ran["stdout"].as_str().unwrap();
    let shown: Vec<&str> = stdout.split('[').skip(1).collect();
    assert_eq!(shown.len(), 26, "{stdout}");
    for shown in shown {
        let (name, text) = shown.split_once(']').unwrap();
        // At most the quotes around it, and what base64 shares with its neighbours.
        let left = text.replace("***", "");
        let left = left.replace("00000000: ", "");
        assert!(text.contains("***") && left.trim().len() <= 9, "{name}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_part_of_a_secret_before_a_cut_is_masked_as_well() {
    let length = 64 * 1024 - SECRET.len() + 1;
    let code = format!("open('long', 'w').write('x' * {length} + open('/dev/stdin').read())");
    let code = code.replace("open('/dev/stdin').read()", "__import__('os').environ['S']");
    let write = json!({ "lang": "python", "code": code }).to_string();
    let server = ModelServer::scripted([
        Answer::from(Turn::says("").and_calls("toolu_1", "run_code", &write)),
        Answer::from(Turn::says("").and_calls("toolu_2", "read_file", r#"{"path":"long"}"#)),
        Answer::from(Turn::says("Done.")),
    ])
    .await;
    let site = Site::working(Some(&server)).await;
    let api = site.admin().await;
    api.post("/v1/secrets", &json!({ "name": "S", "value": SECRET })).await.expect(201);
    let id = agent(&api, &json!({ "tools": ["run_code", "read_file"] })).await;
    let task = run(&api, &id, "Read it.").await;
    assert_eq!(ended(&api, &task).await["status"], "completed");
    let asked = server.asked();
    let read = *asked[2].results().last().unwrap();
    assert!(read.ends_with("xxx***\n[cut: the file is longer]"), "{}", &read[read.len() - 200..]);
    for encoded in ["s", "__import__('base64').b64encode(s.encode()).decode()", "s.encode().hex()"] {
        for missing in [1, 32, 40] {
            let code = format!(
                "import os; s = os.environ['S']; s = {encoded}; \
                 print('x' * (1024 * 1024 - len(s.encode()) + {missing}) + s, end='')"
            );
            let body = json!({ "lang": "python", "code": code });
            let ran = api.post(&format!("/v1/agents/{id}/exec"), &body).await.expect(200);
            let stdout = ran["stdout"].as_str().unwrap();
            assert_eq!(ran["truncated"], true);
            let (before, left) = stdout.rsplit_once("***").expect(encoded);
            // Of base64 the last digit says a few bits of its last byte at most.
            assert!(before.ends_with("xxx") && left.len() <= 1, "{encoded}: {left}");
        }
    }
}

/// A receiver that tells what it was given, whatever it is asked for.
struct Indiscreet {
    inner: Webhook,
    given: Mutex<String>,
}

#[async_trait::async_trait]
impl Vendor for Indiscreet {
    async fn answer(&self, request: Request) -> vendors::Answer {
        let asked: Value = serde_json::from_slice(&request.body).unwrap();
        match asked["type"].as_str().unwrap() {
            "sandbox.run" => *self.given.lock().unwrap() = asked["data"]["environment"].to_string(),
            "sandbox.pause" => {}
            _ => return self.inner.answer(request).await,
        }
        let message = format!("no\0way: {}", self.given.lock().unwrap());
        let error = json!({ "error": { "code": "gone-wrong", "message": message } });
        vendors::Answer::json(422, &error)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_provider_repeats_of_a_secret_in_its_errors_is_masked() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let key = STANDARD.decode(&secret[6..]).unwrap();
    let now_s = SystemClock.now().millis() / 1_000;
    let inner = Webhook { key, now_s, state: Arc::default() };
    let wire = Wire::serve(Indiscreet { inner, given: Mutex::default() }).await;
    let settings = Settings { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Settings::default() };
    let site = Site::working_with(None, settings).await;
    let api = site.admin().await;
    api.post("/v1/secrets", &json!({ "name": "S", "value": "hunter2-hunter2" })).await.expect(201);
    let credentials = json!({ "url": format!("{}/compute", wire.url()), "secret": secret });
    let provider = json!({ "provider": "webhook", "credentials": credentials, "isDefault": true });
    api.post("/v1/providers", &provider).await.expect(201);
    let id = agent(&api, &json!({})).await;
    stands(&api, &id, "idle").await;
    let refused = api.post(&format!("/v1/agents/{id}/exec"), &json!({ "lang": "bash", "code": "1" })).await;
    let message = refused.error(502, "provider_error")["message"].as_str().unwrap().to_owned();
    assert!(message.contains("way: ") && message.contains(r#""S":"***""#), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_code_of_a_program_is_run_as_it_was_sent_and_recorded_without_secrets() {
    let site = Site::working(None).await;
    let api = site.admin().await;
    api.post("/v1/secrets", &json!({ "name": "S", "value": "hunter2-hunter2" })).await.expect(201);
    let id = agent(&api, &json!({})).await;
    let body = json!({ "lang": "bash", "code": "printf hunter2-hunter2 | wc -c" });
    let ran = api.post(&format!("/v1/agents/{id}/exec"), &body).await.expect(200);
    assert_eq!(ran["stdout"], "15\n");
    let events = api.get(&format!("/v1/events?subject={id}&limit=100")).await.expect(200);
    let started = events["data"].as_array().unwrap().iter().find(|event| event["data"].get("code").is_some());
    let event = api.get(&format!("/v1/events/{}", started.unwrap()["position"])).await.expect(200);
    assert!(event["content"].to_string().contains("printf *** | wc -c"), "{event}");
}
