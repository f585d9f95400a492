//! Packs the sums of usage of periods that have ended, so that a list of costs reads one row for each of them instead of one
//! for everybody who worked in it. What is not packed, or not yet, is read row by row.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;
use tokio::time::MissedTickBehavior;

use crate::app::App;
use crate::log::TenantId;
use crate::read::usage;
use crate::{config, database};

/// Packs on one server.
pub struct Packer {
    app: Arc<App>,
    /// The hour of its log that a tenant's sums are packed up to.
    packed: HashMap<TenantId, Timestamp>,
    /// When it last looked since a list had missed something.
    looked: HashMap<TenantId, Instant>,
}

impl Packer {
    /// One that has packed nothing yet.
    #[must_use]
    pub fn new(app: Arc<App>) -> Self {
        Self { app, packed: HashMap::new(), looked: HashMap::new() }
    }

    /// Packs until it is aborted: now and then what tenants have that are appended for, and at once what a list has missed.
    pub(super) async fn run(mut self) {
        let mut due: BTreeSet<TenantId> = BTreeSet::new();
        let mut looks = tokio::time::interval(config::PACK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_time = if due.is_empty() {
                tokio::select! {
                    () = self.app.kept_sums.wait_for_unpacked() => false,
                    _ = looks.tick() => true,
                }
            } else {
                looks.tick().now_or_never().is_some()
            };
            if is_time {
                due.extend(self.app.log.active());
                self.packed.retain(|tenant, _| due.contains(tenant));
                self.looked.retain(|_, at| at.elapsed() < config::PACK_INTERVAL);
            }
            for tenant in self.app.kept_sums.take_unpacked() {
                // What late lines alone have made something of is missed by each list, and is not packed.
                if self.looked.get(&tenant).is_none_or(|at| at.elapsed() >= config::PACK_INTERVAL) {
                    self.looked.insert(tenant, Instant::now());
                    self.packed.remove(&tenant);
                    due.insert(tenant);
                }
            }
            for tenant in std::mem::take(&mut due) {
                match self.pack(tenant).await {
                    Ok(packed) if packed == config::PACKED_AT_A_TIME => {
                        due.insert(tenant);
                    }
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "sums of usage are packed later"),
                }
            }
        }
    }

    /// Packs a tenant's sums, so many at most as are packed at a time, and gives at how many it has looked. Where it has done
    /// so since the last full hour of the tenant's log could be packed, it does nothing.
    ///
    /// # Errors
    /// [`database::Error`] when the database is away.
    pub async fn pack(&mut self, tenant: TenantId) -> Result<usize, database::Error> {
        let scope = self.app.log.scope(tenant);
        let pin = usage::pin(scope, None).await?;
        let hour = Grain::Hour.floor(usage::packed_until(pin));
        if self.packed.get(&tenant) == Some(&hour) {
            return Ok(0);
        }
        let packed = usage::pack(scope, pin, config::PACKED_AT_A_TIME).await?;
        if packed < config::PACKED_AT_A_TIME {
            self.packed.insert(tenant, hour);
        }
        Ok(packed)
    }
}
