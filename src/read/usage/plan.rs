//! How the sums of a period are had: which pieces of it are read, as rows or packed, and which are kept.

use theazo_domain::time::Timestamp;
use theazo_projections::grain::{Grain, Piece};
use theazo_projections::ledger::usage::USER_GRAINS;

use super::kept::{Book, Sums, Unit};
use super::packed::{packed_until, parcel, slot, slots};
use super::shares::By;
use super::{Pieces, Pin};
use crate::config;

/// How the sums of a period are had.
pub(super) struct Plan {
    /// Pieces that are read.
    pub(super) asked: Vec<Asked>,
    /// Where some of them may be packed.
    pub(super) parcels: Vec<Parcel>,
    /// Periods whose sums are kept.
    pub(super) found: Vec<Found>,
}

/// A piece that is read.
pub(super) struct Asked {
    pub(super) piece: Piece,
    /// The period that it is, where that has ended: its sums are kept from now on.
    pub(super) unit: Option<Unit>,
    /// Where it may be packed, of the plan's parcels.
    pub(super) parcel: Option<usize>,
}

/// Where periods of one length may be packed together.
pub(super) struct Parcel {
    pub(super) grain: Grain,
    pub(super) from: Timestamp,
    /// For each period of it the piece that asks for it, where one does.
    slots: Vec<Option<usize>>,
}

/// A period whose sums are kept.
pub(super) struct Found {
    pub(super) unit: Unit,
    until: Timestamp,
    pub(super) sign: i64,
    pub(super) sums: Sums,
}

impl Plan {
    pub(super) fn of(pieces: &[Piece], pin: Pin, book: Option<&Book>) -> Self {
        let mut plan = Self { asked: vec![], parcels: vec![], found: vec![] };
        for piece in pieces {
            plan.add(*piece, pin, book);
        }
        plan
    }

    fn add(&mut self, piece: Piece, pin: Pin, book: Option<&Book>) {
        let Some(grain) = piece.grain else {
            return self.asked.push(Asked { piece, unit: None, parcel: None });
        };
        // Nothing that is not late has an earlier time than what stands before it in the log, so a period that has ended
        // can change by late lines alone.
        let ended = grain.floor(pin.at).clamp(piece.from, piece.until);
        let mut units = vec![];
        let mut until = ended;
        while until > piece.from && units.len() < config::KEPT_PERIODS_OF_A_PIECE {
            let from = grain.floor(Timestamp::from_millis(until.millis() - 1));
            units.push((from, until));
            until = from;
        }
        for (from, until) in [(piece.from, until), (ended, piece.until)] {
            if from < until {
                self.asked.push(Asked { piece: Piece { from, until, ..piece }, unit: None, parcel: None });
            }
        }
        for (from, until) in units {
            let unit = (grain, from);
            match book.and_then(|book| book.find(unit, pin.position)) {
                Some(sums) => self.found.push(Found { unit, until, sign: piece.sign, sums }),
                None => {
                    let parcel = self.parcel(unit, pin);
                    self.asked.push(Asked {
                        piece: Piece { from, until, ..piece },
                        unit: Some(unit),
                        parcel,
                    });
                }
            }
        }
    }

    /// Where the next piece may be packed, which is this period.
    fn parcel(&mut self, (grain, start): Unit, pin: Pin) -> Option<usize> {
        let from = parcel(grain).floor(start);
        if parcel(grain).end(from) > packed_until(pin) {
            return None;
        }
        let is_there = |parcel: &Parcel| parcel.grain == grain && parcel.from == from;
        let place = self.parcels.iter().position(is_there).unwrap_or_else(|| {
            self.parcels.push(Parcel { grain, from, slots: vec![None; slots(grain)] });
            self.parcels.len() - 1
        });
        let asked =
            self.parcels[place].slots.get_mut(slot(grain, from, start)).filter(|asked| asked.is_none())?;
        *asked = Some(self.asked.len());
        Some(place)
    }

    /// The pieces that are read, as the statement takes them.
    pub(super) fn pieces(&self, pin: Pin) -> Pieces {
        let asked: Vec<Piece> = self.asked.iter().map(|asked| asked.piece).collect();
        // Whatever came after the pin in any of them is taken away.
        let from = asked.iter().map(|piece| piece.from).min().unwrap_or_default();
        let until = asked.iter().map(|piece| piece.until).max().unwrap_or_default();
        Pieces::new(&asked, (from, until), pin)
    }

    /// For each piece that is read, the number of its parcel, from 1; 0 where it has none.
    pub(super) fn parcels_of_pieces(&self) -> Vec<i64> {
        let number = |asked: &Asked| asked.parcel.map_or(0, |parcel| parcel + 1);
        self.asked.iter().map(|asked| i64::try_from(number(asked)).unwrap_or_default()).collect()
    }

    /// The position behind which late lines are read.
    pub(super) fn late_after(&self) -> i64 {
        self.found.iter().map(|found| found.sums.last()).min().unwrap_or(i64::MAX)
    }
}

impl Asked {
    pub(super) fn includes(&self, at: Timestamp) -> bool {
        (self.piece.from..self.piece.until).contains(&at)
    }

    /// Whether the sessions that were created in it are kept with its sums.
    pub(super) fn has_sessions(&self) -> bool {
        self.piece.grain.is_some_and(|grain| USER_GRAINS.contains(&grain))
    }
}

impl Parcel {
    /// The read model that it is packed of.
    pub(super) fn projection(&self, by: By) -> &'static str {
        let is_of_users = by == By::User && USER_GRAINS.contains(&self.grain);
        if is_of_users { "usage_by_user" } else { "usage_by_agent" }
    }

    pub(super) fn until(&self) -> Timestamp {
        parcel(self.grain).end(self.from)
    }

    /// The piece that asks for this period of it.
    pub(super) fn asked(&self, slot: usize) -> Option<usize> {
        self.slots.get(slot).copied().flatten()
    }

    /// The piece that asks for the period that a moment lies in.
    pub(super) fn asked_at(&self, at: Timestamp) -> Option<usize> {
        self.asked(slot(self.grain, self.from, at))
    }
}

impl Found {
    pub(super) fn includes(&self, at: Timestamp) -> bool {
        (self.unit.1..self.until).contains(&at)
    }
}
