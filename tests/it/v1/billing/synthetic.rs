//! Logs of random bookings, of every kind that there can be, at random times: written as events, and folded into the
//! read models by the program itself.

use rust_decimal::Decimal;
use theazo::log::rebuild;
use theazo_domain::Event;
use theazo_domain::agent::{self, CallLost, CallSettled, ComputeStopped, Stop, Tokens};
use theazo_domain::agent_config::{AgentConfig, ProviderName};
use theazo_domain::charge::{Booking, Category, Charge, ChargeId, Line, Place, Price, Rate, Unit};
use theazo_domain::content::ContentRef;
use theazo_domain::id::{AgentId, CallId, ContentId, EventId, OrganizationId, SessionId, TaskId, UserId};
use theazo_domain::session;
use theazo_domain::time::{DAY_MS, Timestamp};
use ulid::Ulid;

use crate::support::api::Api;

/// Numbers that look random and are the same each time.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number from 0 to below this one.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

pub(super) const START_MS: i64 = 1_746_057_600_000; // 2025-05-01T00:00:00Z
const MODELS: [&str; 3] = ["model-a", "model-b", "model-c"];

fn place(number: u64) -> Place {
    let id = |kind: u128, number: u64| Ulid((kind << 64) | u128::from(number));
    Place {
        // Four agents a user, two of them in each session.
        agent_id: AgentId::from_ulid(id(1, number)),
        session_id: SessionId::from_ulid(id(2, number / 2)),
        user_id: UserId::from_ulid(id(3, number / 4)),
        organization_id: OrganizationId::from_ulid(id(4, 0)),
    }
}

/// What the caller knows a user by.
pub(super) fn external(user_id: UserId) -> String {
    format!("user {}", user_id.ulid().0 & 0xff)
}

fn random_charge(dice: &mut Dice, at: Timestamp, line: Line) -> Charge {
    let (category, unit) = match dice.below(8) {
        0 | 1 => (Category::Model, Unit::InputToken),
        2 => (Category::Model, Unit::OutputToken),
        3 => (Category::Model, Unit::CacheReadToken),
        4 => (Category::Model, Unit::CacheWriteToken),
        5 => (Category::Compute, Unit::Millisecond),
        6 => (Category::Orchestration, Unit::Millisecond),
        _ => (Category::Storage, Unit::GbHour),
    };
    let quantity = match unit {
        Unit::GbHour => Decimal::new(dice.below(10_000) as i64, 6),
        _ => Decimal::from(dice.below(50_000)),
    };
    let amount = Decimal::new(dice.below(2_000) as i64, 2);
    let priced = dice.below(5) > 0;
    let price = priced.then_some(Price { amount, per: 1_000_000 });
    let cost = price.map_or(Decimal::ZERO, |price| price.of(quantity));
    Charge { at, category, quantity, unit, price, rate_card: "card".into(), cost, line }
}

/// A charge of the kind that a model's rating or an adjustment is.
fn random_line(dice: &mut Dice, at: Timestamp) -> Charge {
    match dice.below(10) {
        0 => {
            let back = Timestamp::from_millis(at.millis() - dice.below(40 * DAY_MS as u64) as i64);
            let line = Line::Rating { used_at: back, calls: dice.below(3) as u32 };
            let unit = [Unit::InputToken, Unit::OutputToken][dice.below(2) as usize];
            let price = Price { amount: Decimal::new(310, 2), per: 1_000_000 };
            let quantity = Decimal::from(dice.below(5_000));
            let cost = price.of(quantity);
            let (category, rate_card) = (Category::Model, "later".to_owned());
            Charge { at, category, quantity, unit, price: Some(price), rate_card, cost, line }
        }
        1 => {
            let line = Line::Adjustment { corrects: ChargeId { position: 1, index: 0 } };
            let cost = Decimal::new(dice.below(20_000) as i64 - 15_000, 6);
            let charge = random_charge(dice, at, line);
            Charge { quantity: Decimal::ZERO, price: None, cost, ..charge }
        }
        // Some are late: they count before the time of their event.
        2 => random_charge(dice, Timestamp::from_millis(at.day().start().millis() - 1), Line::Usage),
        _ => random_charge(dice, at, Line::Usage),
    }
}

fn random_event(dice: &mut Dice, at: Timestamp, number: usize) -> Event {
    let place = place(dice.below(40));
    let charges = |dice: &mut Dice, most: u64| -> Vec<Charge> {
        (0..dice.below(most + 1)).map(|_| random_line(dice, at)).collect()
    };
    let task_id = TaskId::from_ulid(Ulid(place.agent_id.ulid().0));
    let call_id = CallId::from_ulid(Ulid(7));
    let model = MODELS[dice.below(3) as usize].to_owned();
    let reply = ContentRef { content_id: ContentId::from_ulid(Ulid(9)), sha256: "00".repeat(32) };
    match dice.below(10) {
        0 => Event::SessionCreated(session::Created {
            // A session is created once.
            session_id: SessionId::from_ulid(Ulid((5 << 64) | number as u128)),
            user_id: place.user_id,
            limits: session::Limits::default(),
            metadata: None,
        }),
        1 => {
            let unconfirmed = charges(dice, 2);
            let booking = Booking { unconfirmed, ..Booking::default() };
            let reason = "lost".to_owned();
            let (vendor_id, told, late) = (None, None, false);
            let lost = CallLost { place, task_id, call_id, model, reason, vendor_id, told, late, booking };
            Event::CallLost(lost)
        }
        2 => Event::AgentCreated(agent::Created {
            place,
            definition: None,
            config: AgentConfig::default(),
            provider: ProviderName::Local,
            browser: false,
            timeout_s: 300,
            compute: Rate { price: None, rate_card: "card".into() },
            storage: None,
            slice_ms: 60_000,
            booking: Booking::default(),
        }),
        3 => {
            let booking = Booking { charges: charges(dice, 2), ..Booking::default() };
            Event::ComputeStopped(ComputeStopped { place, from: at, to: at, unwatched_ms: 0, booking })
        }
        _ => {
            let (settled, withdrawn) =
                (charges(dice, 4), if dice.below(20) == 0 { charges(dice, 1) } else { vec![] });
            let booking = Booking { charges: settled, withdrawn, ..Booking::default() };
            Event::CallSettled(CallSettled {
                place,
                task_id,
                call_id,
                model,
                tokens: Tokens::default(),
                stop: Stop::Complete,
                reply,
                tool_calls: 0,
                vendor_id: None,
                late: false,
                booking,
            })
        }
    }
}

/// Events at times that go on by seconds or by days, over some months.
pub(super) fn random_log(dice: &mut Dice, number: usize) -> Vec<(Timestamp, Event)> {
    let mut at_ms = START_MS + dice.below(DAY_MS as u64) as i64;
    let steps = [0, 900, 40_000, 3_000_000, 50_000_000];
    (0..number)
        .map(|number| {
            let step = steps[dice.below(5) as usize];
            at_ms += dice.below(step + 1) as i64;
            let at = Timestamp::from_millis(at_ms);
            (at, random_event(dice, at, number))
        })
        .collect()
}

/// The read models that usage and billing are read from.
const READ_MODELS: [&str; 5] = ["sessions", "ledger", "usage_totals", "usage_by_user", "usage_by_agent"];

/// Writes events to a log as if they had been appended, and folds them into the read models.
pub(super) async fn write(api: &Api, events: &[(Timestamp, Event)]) {
    // What was appended before happened before.
    let client = api.site.database.connect().await;
    let begun = theazo::database::system_time(Timestamp::from_millis(START_MS));
    client
        .execute("update events set at = $2 where tenant_id = $1", &[&api.tenant.id, &begun])
        .await
        .unwrap();
    insert(api, events).await;
    rebuild(api).await;
}

/// Writes more of them, folded into the builds of the read models that there are, as an append folds them.
pub(super) async fn go_on(api: &Api, events: &[(Timestamp, Event)]) {
    let client = api.site.database.connect().await;
    let tenant = api.tenant.id;
    let live =
        "select build from projection_builds where tenant_id = $1 and projection = $2 and state = 'live'";
    let mut builds: Vec<i32> = vec![];
    for name in READ_MODELS {
        builds.push(client.query_one(live, &[&tenant, &name]).await.unwrap().get(0));
    }
    insert(api, events).await;
    // What is packed would go with the builds that it was made of.
    client.batch_execute("create temporary table packed as table packed_sums").await.unwrap();
    rebuild(api).await;
    for (name, build) in READ_MODELS.iter().zip(builds) {
        let made: i32 = client.query_one(live, &[&tenant, name]).await.unwrap().get(0);
        for table in [*name, "projection_builds"] {
            let of = if table == *name { String::new() } else { format!("and projection = '{name}'") };
            let sql = format!("delete from {table} where tenant_id = $1 and build = $2 {of}");
            client.execute(&sql, &[&tenant, &build]).await.unwrap();
            let sql = format!("update {table} set build = $2 where tenant_id = $1 and build = $3 {of}");
            client.execute(&sql, &[&tenant, &build, &made]).await.unwrap();
        }
    }
    client.batch_execute("insert into packed_sums table packed").await.unwrap();
}

/// Folds the log into new builds of the read models.
pub(super) async fn rebuild(api: &Api) {
    for name in READ_MODELS {
        let projection = theazo_projections::named(name).unwrap();
        rebuild::rebuild(&api.site.servers[0].app.log, api.tenant, projection).await.unwrap();
    }
}

async fn insert(api: &Api, events: &[(Timestamp, Event)]) {
    let client = api.site.database.connect().await;
    let tenant = api.tenant.id;
    let head = api.head().await;
    let sql = "insert into events (tenant_id, position, event_id, type, version, subjects, data, metadata, at, leaf_hash)
               values ($1, $2, $3, $4, 1, $5, $6::text::json, '{}', $7,
                 decode(repeat('00', 32), 'hex'))";
    let user = "insert into end_users values ($1, $2, $3) on conflict do nothing";
    for (position, (at, event)) in (head + 1..).zip(events) {
        let written = event.write();
        let subjects: Vec<String> = event.subjects().iter().map(ToString::to_string).collect();
        let event_id = EventId::from_ulid(Ulid(position as u128)).to_string();
        let at = theazo::database::system_time(*at);
        client
            .execute(sql, &[&tenant, &position, &event_id, &written.kind, &subjects, &written.data, &at])
            .await
            .unwrap();
        let users = subjects.iter().filter(|subject| subject.starts_with("usr_"));
        for user_id in users {
            let known_as = external(user_id.parse().unwrap());
            client.execute(user, &[&tenant, user_id, &known_as]).await.unwrap();
        }
    }
    let finish = "insert into event_subjects select tenant_id, unnest(subjects), position from events
                    where tenant_id = $1 and position > $2";
    client.execute(finish, &[&tenant, &head]).await.unwrap();
    let last = theazo::database::system_time(events.last().unwrap().0);
    let end = head + events.len() as i64;
    let sql = "update heads set position = $2, last_at = $3 where tenant_id = $1";
    client.execute(sql, &[&tenant, &end, &last]).await.unwrap();
}
