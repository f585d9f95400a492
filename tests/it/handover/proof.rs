//! What has to hold of runs, whatever was killed meanwhile: read from the log, the workspaces and the API.

use rust_decimal::Decimal;
use serde_json::json;
use tokio_postgres::Client;

use super::World;
use super::account::{Booked, Event, Seen, amount, booked, labels, one_run};
use crate::support::wait::until_async;

/// The events about something, in order.
async fn events(client: &Client, subject: &str) -> Vec<Event> {
    let sql = "select e.type, e.data::text from event_subjects s join events e using (tenant_id, position)
               where s.subject = $1 order by position";
    let rows = client.query(sql, &[&subject]).await.unwrap();
    let event = |row: &tokio_postgres::Row| {
        (row.get(0), serde_json::from_str(row.get::<_, &str>(1)).expect("data is JSON"))
    };
    rows.iter().map(event).collect()
}

/// The labels of the tools that an agent has begun, in order.
pub(super) async fn begun(client: &Client, agent: &str) -> Vec<String> {
    labels(&events(client, agent).await)
}

/// Every run comes to one answer; nothing that was recorded has happened twice; what was open is closed; and the money
/// adds up.
pub(super) async fn all_is_whole(world: &World) -> Seen {
    let mut seen = Seen::default();
    for (agent, task) in &world.tasks {
        let path = format!("/v1/tasks/{task}");
        let ended = until_async("the run to end", async || {
            let shown = world.get(&path).await;
            (shown["status"] != "running").then_some(shown)
        })
        .await;
        assert_eq!((&ended["status"], &ended["output"]), (&json!("completed"), &json!("All done.")));
        let run = one_run(&events(&world.client, agent).await, &world.effects(agent));
        let run = run.unwrap_or_else(|wrong| panic!("{agent}: {wrong}"));
        seen.lost += run.lost;
        seen.interrupted += run.interrupted;
        world.post(0, &format!("/v1/agents/{agent}/terminate"), json!({})).await;
        until_async("the sandbox to go", async || {
            let events = events(&world.client, agent).await;
            events.iter().any(|(kind, _)| kind == "agent.released").then_some(())
        })
        .await;
    }
    the_money_adds_up(world, &seen).await;
    for sound in [&["log", "verify"][..], &["projection", "compare"]] {
        world.place.command(sound).await;
    }
    seen
}

/// What the session shows is the sum of what its events book, and nothing is held any more.
async fn the_money_adds_up(world: &World, seen: &Seen) {
    let Booked { reserved, cost, unconfirmed } =
        booked(&events(&world.client, &world.session).await).unwrap_or_else(|wrong| panic!("{wrong}"));
    assert_eq!(reserved, Decimal::ZERO, "no reservation stays open");
    assert!(cost > Decimal::ZERO && (unconfirmed > Decimal::ZERO) == (seen.lost > 0));
    let usage = world.get(&format!("/v1/sessions/{}/usage", world.session)).await;
    let exact = |name: &str| amount(&usage[name]["exact"]);
    assert_eq!((exact("reserved"), exact("cost")), (Decimal::ZERO, cost), "{usage}");
    assert_eq!(exact("unconfirmed"), unconfirmed, "{usage}");
}
