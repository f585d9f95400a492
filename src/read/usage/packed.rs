//! The form in which the sums of periods that have ended are packed into a row each: what is of minutes by the hour,
//! and every other period by itself.

use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;
use theazo_projections::grain::Grain;
use tokio_postgres::Row;
use ulid::Ulid;

use super::Pin;
use super::kept::Used;
use crate::config;
use crate::database::Error;

const ID_BYTES: usize = 16;
const COST_BYTES: usize = 16;
const COUNT_BYTES: usize = 4;
const USED_BYTES: usize = COST_BYTES + 3 * COUNT_BYTES;

/// How long what is packed into one row lasts, of periods that are so long.
pub(super) const fn parcel(grain: Grain) -> Grain {
    match grain {
        Grain::Minute => Grain::Hour,
        longer => longer,
    }
}

/// The place of a moment's period in what is packed with it, which begins at this moment.
pub(super) fn slot(grain: Grain, begin: Timestamp, at: Timestamp) -> usize {
    const MINUTE_MS: i64 = 60_000;
    match grain {
        Grain::Minute => usize::try_from((at.millis() - begin.millis()) / MINUTE_MS).unwrap_or_default(),
        _ => 0,
    }
}

/// How many periods are packed together.
pub(super) const fn slots(grain: Grain) -> usize {
    match grain {
        Grain::Minute => 60,
        _ => 1,
    }
}

/// The moment up to which whole periods are packed.
#[must_use]
pub fn packed_until(pin: Pin) -> Timestamp {
    let after = i64::try_from(config::PACK_AFTER.as_millis()).unwrap_or(i64::MAX);
    Timestamp::from_millis(pin.at.millis().saturating_sub(after).max(0))
}

/// What is packed, as it is written.
#[derive(Debug, Default)]
pub(super) struct Packed {
    pub(super) user_ids: Vec<u8>,
    pub(super) session_ids: Vec<u8>,
    pub(super) agent_ids: Vec<u8>,
    pub(super) minutes: Vec<u8>,
    pub(super) used: Vec<u8>,
}

impl Packed {
    /// Packs what a user used, in whole.
    #[must_use]
    pub(super) fn add_user(&mut self, user: Ulid, used: &Used) -> bool {
        self.user_ids.extend(user.to_bytes());
        self.add(used)
    }

    /// Packs what an agent used, or a session that is no agent's, in this slot.
    #[must_use]
    pub(super) fn add_agent(&mut self, user: Ulid, share: Id, slot: Option<u8>, used: &Used) -> bool {
        self.user_ids.extend(user.to_bytes());
        self.session_ids.extend(share.id.to_bytes());
        self.agent_ids.extend(share.agent.unwrap_or_default().to_bytes());
        self.minutes.extend(slot);
        self.add(used)
    }

    /// Gives whether the counts are small enough to be packed.
    fn add(&mut self, used: &Used) -> bool {
        self.used.extend(used.cost.serialize());
        [used.sessions, used.agents, used.counted].into_iter().all(|count| {
            let count = u32::try_from(count);
            self.used.extend(count.unwrap_or_default().to_le_bytes());
            count.is_ok()
        })
    }
}

/// Whose something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Id {
    /// The user's or the session's.
    pub(super) id: Ulid,
    /// The agent's, where it is one's.
    pub(super) agent: Option<Ulid>,
}

/// Something that was packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Element {
    pub(super) id: Id,
    pub(super) slot: usize,
    pub(super) used: Used,
}

/// What these columns of a row, and those behind it, hold: ids, agents, minutes and what was used.
///
/// # Errors
/// [`Error::Row`] where they are not of one length.
pub(super) fn elements(row: &Row, first: usize) -> Result<impl Iterator<Item = Element>, Error> {
    let column = |column: usize| row.try_get::<_, Option<&[u8]>>(first + column);
    read(column(0)?.unwrap_or_default(), column(1)?, column(2)?, column(3)?.unwrap_or_default())
}

fn read<'a>(
    ids: &'a [u8],
    agents: Option<&'a [u8]>,
    minutes: Option<&'a [u8]>,
    used: &'a [u8],
) -> Result<impl Iterator<Item = Element> + use<'a>, Error> {
    let (ids, rest) = ids.as_chunks::<ID_BYTES>();
    let number = ids.len();
    let is_whole = rest.is_empty()
        && used.len() == number * USED_BYTES
        && agents.is_none_or(|agents| agents.len() == number * ID_BYTES)
        && minutes.is_none_or(|minutes| minutes.len() == number);
    if !is_whole {
        return Err(Error::Row("packed sums have columns of different lengths".to_owned()));
    }
    let agents = agents.map_or(&[][..], |agents| agents.as_chunks::<ID_BYTES>().0);
    let all = ids.iter().zip(used.as_chunks::<USED_BYTES>().0).enumerate();
    Ok(all.map(move |(place, (id, used))| {
        let agent = agents.get(place).map(|agent| Ulid::from_bytes(*agent)).filter(|agent| !agent.is_nil());
        let slot = minutes.map_or(0, |minutes| usize::from(minutes[place]));
        Element { id: Id { id: Ulid::from_bytes(*id), agent }, slot, used: read_used(used) }
    }))
}

fn read_used(bytes: &[u8; USED_BYTES]) -> Used {
    let (cost, counts) = bytes.split_first_chunk::<COST_BYTES>().unwrap_or((&[0; COST_BYTES], &[]));
    let mut counts =
        counts.as_chunks::<COUNT_BYTES>().0.iter().map(|count| i64::from(u32::from_le_bytes(*count)));
    let mut count = || counts.next().unwrap_or_default();
    Used { cost: Decimal::deserialize(*cost), sessions: count(), agents: count(), counted: count() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn used(cost: Decimal, counts: [u32; 3]) -> Used {
        let [sessions, agents, counted] = counts.map(i64::from);
        Used { cost, sessions, agents, counted }
    }

    proptest! {
        #[test]
        fn what_is_packed_is_read_as_it_was(
            all in prop::collection::vec(
                (any::<(u128, u128, u128)>(), 0_u8..60, any::<i64>(), 0_u32..19, any::<[u32; 3]>()), 0..20),
        ) {
            let (mut of_users, mut of_agents) = (Packed::default(), Packed::default());
            let (mut users, mut agents) = (vec![], vec![]);
            for ((user, session, agent), minute, digits, scale, counts) in all {
                let (user, used) = (Ulid(user), used(Decimal::new(digits, scale), counts));
                let share = Id { id: Ulid(session), agent: (agent % 3 > 0).then_some(Ulid(agent)) };
                prop_assert!(of_users.add_user(user, &used));
                prop_assert!(of_agents.add_agent(user, share, Some(minute), &used));
                users.push(Element { id: Id { id: user, agent: None }, slot: 0, used });
                agents.push(Element { id: share, slot: usize::from(minute), used });
            }
            let read_of_users = read(&of_users.user_ids, None, None, &of_users.used).unwrap();
            prop_assert_eq!(read_of_users.collect::<Vec<_>>(), users);
            let Packed { session_ids, agent_ids, minutes, used, .. } = &of_agents;
            let read_of_agents = read(session_ids, Some(agent_ids), Some(minutes), used).unwrap();
            prop_assert_eq!(read_of_agents.collect::<Vec<_>>(), agents);
        }
    }

    #[test]
    fn counts_that_are_too_large_are_not_packed() {
        let counted = i64::from(u32::MAX) + 1;
        assert!(!Packed::default().add_user(Ulid(1), &Used { counted, ..Used::default() }));
    }

    #[test]
    fn columns_of_different_lengths_are_an_error() {
        let mut packed = Packed::default();
        assert!(packed.add_user(Ulid(1), &Used::default()));
        let Packed { user_ids, used, .. } = packed;
        assert!(read(&user_ids, None, None, &used).is_ok());
        assert!(read(&user_ids[1..], None, None, &used).is_err());
        assert!(read(&user_ids, Some(&[]), None, &used).is_err());
        assert!(read(&user_ids, None, Some(&[0, 0]), &used).is_err());
        assert!(read(&user_ids, None, None, &used[1..]).is_err());
    }
}
