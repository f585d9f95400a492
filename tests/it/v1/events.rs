//! `/v1/events`.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::Request;
use futures_util::StreamExt;
use serde_json::{Value, json};
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;
use theazo_domain::{Command, key};
use tower::ServiceExt;

use crate::support::api::Api;
use crate::support::site::Site;
use crate::support::wait::until_async;

/// Far longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A stream of events as it is read, frame by frame.
struct Frames {
    body: BodyDataStream,
    text: String,
}

impl Frames {
    async fn open(api: &Api, request: Request<Body>) -> Self {
        let response = api.site.next().router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert!(response.headers().contains_key("x-request-id"));
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The position, the type and the data of the next frame; `None` at the end of the stream.
    async fn next(&mut self) -> Option<(i64, String, Value)> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let (frame, rest) = (frame.to_owned(), rest.to_owned());
                self.text = rest;
                if frame.starts_with(':') {
                    continue;
                }
                let lines: Vec<_> = frame.lines().collect();
                let [id, event, data] = lines[..] else { panic!("{frame}") };
                let position = id.strip_prefix("id: ").unwrap().parse().unwrap();
                let data = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
                return Some((position, event.strip_prefix("event: ").unwrap().to_owned(), data));
            }
            let more = tokio::time::timeout(DEADLINE, self.body.next()).await.expect("a frame comes");
            self.text.push_str(std::str::from_utf8(&more?.unwrap()).unwrap());
        }
    }

    async fn positions(&mut self, count: usize) -> Vec<i64> {
        let mut positions = vec![];
        for _ in 0..count {
            positions.push(self.next().await.expect("the stream goes on").0);
        }
        positions
    }
}

fn stream(api: &Api, query: &str) -> Request<Body> {
    api.request("GET", &format!("/v1/events/stream{query}")).body(Body::empty()).unwrap()
}

#[tokio::test]
async fn events_are_listed_newest_first_and_filtered() {
    let api = Site::new().await.admin().await;
    let (one, other) = (api.session("a").await, api.session("b").await);
    api.act(&format!("/v1/sessions/{one}/pause")).await.expect(200);
    let listed = async |query: &str| -> Vec<i64> {
        let page = api.get(&format!("/v1/events{query}")).await.expect(200);
        page["data"].as_array().unwrap().iter().map(|row| row["position"].as_i64().unwrap()).collect()
    };
    assert_eq!(listed("").await, [5, 4, 3, 2, 1]);
    assert_eq!(listed("?after=2&until=4").await, [4, 3]);
    assert_eq!(listed("?type=session.created").await, [4, 3]);
    assert_eq!(listed(&format!("?subject={one}")).await, [5, 3]);
    assert_eq!(listed(&format!("?subject={one}&type=session.paused")).await, [5]);
    assert_eq!(listed(&format!("?subject={other}&after=4")).await, Vec::<i64>::new());
    assert_eq!(listed("?after=2020-01-01&until=2999-12-31").await.len(), 5);
    assert_eq!(listed("?until=2020-01-01T00:00:00Z").await.len(), 0);
    assert_eq!(listed("?after=2999-01-01T00:00:00Z").await.len(), 0);
    let told = api.get("/v1/events?after=-1&until=x&subject=y&type=").await.fields();
    let paths: Vec<_> = told.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(paths, ["after", "subject", "type", "until"]);
    assert_eq!(api.get("/v1/events?after=5&until=4").await.fields(), [("until".into(), "order".into())]);
}

#[tokio::test]
async fn an_event_shows_its_parts_and_its_content_until_that_is_erased() {
    let api = Site::new().await.admin().await;
    let body = json!({ "userId": "a", "metadata": { "plan": "pro" } });
    let reply = api.post("/v1/sessions", &body).await;
    let session = reply.expect(201);
    let event = api.get("/v1/events/3").await.expect(200);
    assert_eq!(event["position"], 3);
    assert_eq!(event["type"], "session.created");
    assert_eq!(event["version"], 1);
    assert_eq!(event["subjects"][0], session["id"]);
    assert_eq!(event["at"], session["createdAt"]);
    assert_eq!(event["leafHash"].as_str().unwrap().len(), 64);
    let content_id = event["data"]["metadata"]["contentId"].as_str().unwrap();
    assert_eq!(event["content"], json!({ content_id: { "plan": "pro" } }));
    let owner = api.site.database.connect().await;
    owner.execute("delete from content where content_id = $1", &[&content_id]).await.unwrap();
    let erased = api.get("/v1/events/3").await.expect(200);
    assert_eq!(erased["content"], json!({ content_id: null }));
    assert_eq!(erased["leafHash"], event["leafHash"]);
    let listed = api.get("/v1/sessions").await.expect(200);
    assert!(listed["data"][0].get("metadata").is_none());
}

#[tokio::test]
async fn a_position_that_holds_no_event_is_404() {
    let api = Site::new().await.admin().await;
    for position in ["0", "99", "-1", "x", "99999999999999999999", "+1"] {
        api.get(&format!("/v1/events/{position}")).await.error(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_replays_and_then_follows_both_servers_without_gap_or_repeat() {
    let api = Site::new().await.admin().await;
    api.session("before").await;
    let mut frames = Frames::open(&api, stream(&api, "?after=0")).await;
    let writing = async {
        for user in 0..20 {
            api.session(&user.to_string()).await;
        }
    };
    let (positions, ()) = tokio::join!(frames.positions(23), writing);
    assert_eq!(positions, (1..=23).collect::<Vec<_>>());
    let resumed = api.request("GET", "/v1/events/stream?after=0").header("last-event-id", "21");
    let mut frames = Frames::open(&api, resumed.body(Body::empty()).unwrap()).await;
    assert_eq!(frames.positions(2).await, [22, 23]);
}

#[tokio::test]
async fn a_stream_without_a_position_begins_now_and_can_be_filtered() {
    let api = Site::new().await.admin().await;
    let id = api.session("a").await;
    let query = format!("?subject={id}&type=session.paused");
    let mut frames = Frames::open(&api, stream(&api, &query)).await;
    api.session("b").await;
    api.act(&format!("/v1/sessions/{id}/pause")).await.expect(200);
    let (position, event, data) = frames.next().await.unwrap();
    assert_eq!((position, event.as_str()), (5, "session.paused"));
    assert_eq!(data, api.get("/v1/events?limit=1").await.expect(200)["data"][0]);
}

#[tokio::test]
async fn a_position_that_is_none_is_refused_and_a_stopping_server_ends_its_streams() {
    let api = Site::new().await.admin().await;
    for query in ["?after=x", "?after=-1", "?after=1.5", "?after=99999999999999999999"] {
        let reply = api.send(stream(&api, query)).await;
        assert_eq!(reply.fields(), [("after".into(), "position".into())]);
    }
    let path = "/v1/events/stream?after=9223372036854775808";
    let reply =
        api.send(api.request("GET", path).header("last-event-id", "1").body(Body::empty()).unwrap()).await;
    assert_eq!(reply.fields(), [("after".into(), "position".into())]);
    let request = api.request("GET", "/v1/events/stream").header("last-event-id", "x");
    let reply = api.send(request.body(Body::empty()).unwrap()).await;
    assert_eq!(reply.fields(), [("Last-Event-ID".into(), "position".into())]);
    let mut frames = Frames::open(&api, stream(&api, "?after=0")).await;
    assert_eq!(frames.positions(2).await, [1, 2]);
    for server in &api.site.servers {
        server.app.stopping.send_replace(true);
    }
    assert_eq!(frames.next().await, None);
}

#[tokio::test]
async fn a_stream_ends_on_every_server_when_its_key_is_revoked() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000_000).await;
    let (id, secret) = organization.key(Role::Admin).await;
    let (api, other) = (Api::new(&site, organization.tenant, &secret), organization.api(Role::Admin).await);
    let mut streams = vec![];
    for _ in 0..4 {
        streams.push(Frames::open(&api, stream(&api, "?type=session.created")).await);
    }
    let mut others = Frames::open(&other, stream(&other, "?type=session.created")).await;
    site.execute(organization.tenant, Command::Key(id, key::Command::Revoke)).await;
    for mut frames in streams {
        assert_eq!(frames.next().await, None);
    }
    other.session("a").await;
    assert_eq!(others.next().await.unwrap().1, "session.created");
}

#[tokio::test]
async fn a_key_that_was_just_revoked_opens_no_stream_where_it_is_still_remembered() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000_000).await;
    let (id, secret) = organization.key(Role::Admin).await;
    let api = Api::new(&site, organization.tenant, &secret);
    for _ in 0..2 {
        api.get("/v1/sessions").await.expect(200);
    }
    site.execute(organization.tenant, Command::Key(id, key::Command::Revoke)).await;
    for server in &site.servers {
        // Its body is not read: a stream would have no end.
        let response = server.router.clone().oneshot(stream(&api, "")).await.unwrap();
        assert_eq!(response.status(), 401);
    }
}

#[tokio::test]
async fn a_stream_that_is_far_behind_gives_nothing_more_once_its_key_is_revoked() {
    let site = Site::new().await;
    let organization = site.organization(Mode::Live, 1_000_000).await;
    let (id, secret) = organization.key(Role::Admin).await;
    let (api, writer) = (Api::new(&site, organization.tenant, &secret), organization.api(Role::Admin).await);
    let page = usize::try_from(theazo::config::STREAM_PAGE).unwrap();
    let writing = (0..2 * page).map(|number| {
        let writer = writer.clone();
        async move { writer.session(&number.to_string()).await }
    });
    futures_util::future::join_all(writing).await;
    let mut frames = Frames::open(&api, stream(&api, "?after=0")).await;
    frames.positions(page).await;
    site.execute(organization.tenant, Command::Key(id, key::Command::Revoke)).await;
    // The position of the revocation is still far ahead of this reader.
    let mut refusals = 0;
    until_async("both servers to refuse the key", async || {
        refusals = if api.get("/v1/sessions").await.status == 401 { refusals + 1 } else { 0 };
        (refusals == 4).then_some(())
    })
    .await;
    assert_eq!(frames.next().await, None);
}

#[tokio::test]
async fn a_quiet_stream_says_something_every_ten_seconds() {
    let api = Site::new().await.admin().await;
    let mut frames = Frames::open(&api, stream(&api, "")).await;
    // Where everybody waits, time passes at once.
    tokio::time::pause();
    for _ in 0..3 {
        let began = tokio::time::Instant::now();
        assert_eq!(frames.body.next().await.unwrap().unwrap(), ":\n\n");
        assert_eq!(began.elapsed().as_secs(), 10);
    }
    tokio::time::resume();
    api.session("a").await;
    assert_eq!(frames.next().await.unwrap().1, "session.created");
}
