//! The load of a row: customers that live together. The row says what each of them does and what each request must come
//! to; that it is asked until it is decided, written down and counted is done here.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};

use crate::place::{Place, Tenant};
use crate::prove::Run;

mod account;
mod again;
mod customer;
mod effect;

pub(crate) use account::{Account, Entry, Operation, Outcome};
pub(crate) use again::{ANSWERED, Again, BUSY, Gate, REST, decided};
pub(crate) use customer::Customer;
pub(crate) use effect::{Anything, Effect};

/// What the customers share.
pub(crate) struct Load<'a> {
    run: &'a Run,
    pub(crate) place: &'a Place,
    /// Where they write down what they ask.
    pub(crate) account: &'a Account,
    again: Again,
    /// Done as asked.
    pub(crate) acknowledged: AtomicU64,
    /// Decided otherwise, as they must or may be.
    pub(crate) refused: AtomicU64,
    /// Looked at how things stand.
    pub(crate) looks: AtomicU64,
    /// Left open by the first request, and settled by another.
    pub(crate) unknown: AtomicU64,
    /// Requests that met no kill, whose customer waited, and that were not answered all the same. Where there are none, each
    /// unknown outcome was settled by the first retry that could be answered.
    pub(crate) undecided: AtomicU64,
    /// Requests behind the first that were sent until all were decided.
    pub(crate) asked_again: AtomicU64,
    /// The longest that one was asked until it was decided, in seconds.
    pub(crate) slowest_s: AtomicU64,
    over: AtomicBool,
    /// Requests are let through it.
    pub(crate) gate: Gate,
    pace: Option<Pace>,
}

/// When requests are made that are not made as fast as they are answered.
struct Pace {
    began: Instant,
    every: Duration,
    turns: AtomicU64,
}

impl<'a> Load<'a> {
    pub(crate) fn new(run: &'a Run, place: &'a Place, account: &'a Account, again: Again) -> Self {
        Self {
            run,
            place,
            account,
            again,
            acknowledged: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            looks: AtomicU64::new(0),
            unknown: AtomicU64::new(0),
            undecided: AtomicU64::new(0),
            asked_again: AtomicU64::new(0),
            slowest_s: AtomicU64::new(0),
            over: AtomicBool::new(false),
            gate: Gate::default(),
            pace: None,
        }
    }

    /// The same with a request of all customers together each so often, as long as they are answered that fast; later
    /// ones catch up with what was missed.
    pub(crate) fn paced(self, every: Duration) -> Self {
        Self { pace: Some(Pace { began: Instant::now(), every, turns: AtomicU64::new(0) }), ..self }
    }

    /// Somebody with this key, whose idempotency keys begin with a name that nobody else has, and whose choices follow from
    /// the seed and this purpose.
    pub(crate) fn customer(&'a self, key: &str, name: impl Into<String>, purpose: u64) -> Customer<'a> {
        Customer::new(self, key, name.into(), self.run.random(purpose))
    }

    /// One with each of these keys, whose purposes follow upon this one.
    pub(crate) fn customers<'k>(
        &'a self,
        keys: impl IntoIterator<Item = &'k str>,
        name: &str,
        purpose: u64,
    ) -> Vec<Customer<'a>> {
        let numbered = |(number, (key, purpose))| {
            let mut customer = self.customer(key, format!("{name}-{number}"), purpose);
            customer.number = number;
            customer
        };
        keys.into_iter().zip(purpose..).enumerate().map(numbered).collect()
    }

    /// Lets customers live at the same time, until the life of each has ended. Where one fails, the load is over for all.
    pub(crate) async fn live<T, F: Future<Output = anyhow::Result<T>>>(
        &self,
        customers: impl IntoIterator<Item = Customer<'a>>,
        life: impl Fn(Customer<'a>) -> F,
    ) -> Vec<anyhow::Result<T>> {
        let lives = customers.into_iter().map(|customer| {
            let name = customer.name.clone();
            let life = life(customer);
            async move { self.or_over(life.await.with_context(|| format!("customer {name}"))) }
        });
        join_all(lives).await
    }

    /// From here on lives end.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Ends the load where a part of the run cannot go on, which the others would wait for.
    pub(crate) fn or_over<T>(&self, outcome: anyhow::Result<T>) -> anyhow::Result<T> {
        if outcome.is_err() {
            self.end();
        }
        outcome
    }

    /// Holds the account against the log of an organization, in which each operation must have been done, once, and nothing
    /// under a key that nobody asked for: how many there are, and what is wrong.
    pub(crate) async fn against_the_log(&self, tenant: &Tenant) -> anyhow::Result<(u64, Vec<String>)> {
        let sql = "select e.metadata->>'idempotencyKey', e.type, count(*)
                   from events e join tenants t using (tenant_id)
                   where t.organization_id = $1 and e.metadata->>'idempotencyKey' is not null group by 1, 2";
        let mut happened: BTreeMap<String, BTreeMap<String, i64>> = BTreeMap::new();
        for row in self.place.superuser().await?.query(sql, &[&tenant.organization]).await? {
            happened.entry(row.get(0)).or_default().insert(row.get(1), row.get(2));
        }
        let (operations, mut wrong) = (self.account.operations::<Effect>()?, vec![]);
        let many = operations.len() as u64;
        for (key, Entry { outcome, what, .. }) in operations {
            let event = what.event.unwrap_or_default();
            let times = happened.remove(&key).and_then(|events| events.get(&event).copied());
            if (outcome, times) != (Outcome::Ok, Some(1)) {
                wrong.push(format!("{event} under {key} was {outcome:?} and happened {times:?} times"));
            }
        }
        if !happened.is_empty() {
            wrong.push(format!("nobody asked for {happened:?}"));
        }
        Ok((many, wrong))
    }

    async fn keep_pace(&self) -> anyhow::Result<()> {
        if let Some(Pace { began, every, turns }) = &self.pace {
            let turn = u32::try_from(turns.fetch_add(1, Ordering::Relaxed))?;
            sleep_until(*began + *every * turn).await;
        }
        Ok(())
    }
}
