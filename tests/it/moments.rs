//! What position of a log a moment comes after.

use theazo::log::read;
use theazo_domain::time::Timestamp;

use crate::support::logs::World;

/// When the events of a log happened, in milliseconds, in many shapes: evenly, by bursts, with pauses, all at once.
fn shapes() -> Vec<Vec<i64>> {
    const BEGIN: i64 = 1_700_000_000_000;
    let log = |number: i64, at: fn(i64) -> i64| (0..number).map(|event| BEGIN + at(event)).collect();
    vec![
        log(0, |_| 0),
        log(1, |_| 0),
        log(2, |event| event),
        log(500, |_| 7),
        log(3_000, |event| 1_000 * event),
        log(3_000, |event| event / 100 * 86_400_000),
        log(3_000, |event| event * event * event),
        log(3_000, |event| if event < 2_990 { event } else { event * 1_000_000 }),
        log(3_000, |event| if event < 10 { event } else { 9_000_000_000 + event / 7 }),
        log(3_000, |event| event % 64 + event / 64 * 50_000_000),
    ]
}

#[tokio::test]
async fn a_position_before_a_moment_is_that_of_the_last_event_before_it() {
    let world = World::new().await;
    let (tenant, client, log) = (world.tenant.id, world.superuser().await, world.server());
    for (shape, times) in shapes().iter().enumerate() {
        client.execute("delete from events where tenant_id = $1", &[&tenant.0]).await.unwrap();
        let sql = "insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
            select $1, position, position::text, 'x', 1, '{}', '{}', '{}', to_timestamp(ms / 1000.0::float8), ''
            from unnest($2::float8[]) with ordinality as t(ms, position)";
        let millis: Vec<f64> = times.iter().map(|at| *at as f64).collect();
        client.execute(sql, &[&tenant.0, &millis]).await.unwrap();
        let head = "update heads set position = $2 where tenant_id = $1";
        client.execute(head, &[&tenant.0, &i64::try_from(times.len()).unwrap()]).await.unwrap();
        let moments = times.iter().step_by(times.len() / 60 + 1).flat_map(|at| [at - 1, *at, at + 1]);
        for moment in moments.chain([0, i64::from(i32::MAX) * 1_000, 4_102_444_800_000]) {
            let found =
                read::position_before(log.scope(tenant), Timestamp::from_millis(moment)).await.unwrap();
            let before = times.iter().filter(|at| **at < moment).count();
            assert_eq!(found, i64::try_from(before).unwrap(), "before {moment} of log {shape}");
        }
    }
}
