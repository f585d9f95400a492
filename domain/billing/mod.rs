//! What is decided about the money of an organization as a whole: rate cards, and corrections of charges.
//!
//! A charge never changes. What was wrong about it is put right by a later event that names it, and that counts at
//! its own time.

mod decide;
#[cfg(test)]
mod tests;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

pub use decide::{Adjusting, Command};

use crate::Event;
use crate::charge::{Booking, Category, ChargeId, Line, Place};
use crate::content::ContentRef;
use crate::id::TaskId;
use crate::rates::Card;
use crate::time::Timestamp;

/// A charge was corrected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Adjusted {
    /// Whose work was charged.
    pub place: Place,
    /// The task that was charged for. What the task has cost stays what its output said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_id: Option<TaskId>,
    /// The model that was charged for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What kind of thing was charged for.
    pub category: Category,
    /// Why, beside the log: it may name a person.
    pub reason: ContentRef,
    /// One charge, which names the one that it corrects.
    pub booking: Booking,
}

impl Adjusted {
    /// The charge that was corrected, and by how much.
    #[must_use]
    pub fn correction(&self) -> Option<(ChargeId, Decimal)> {
        self.booking.charges.iter().find_map(|charge| match charge.line {
            Line::Adjustment { corrects } => Some((corrects, charge.cost)),
            Line::Usage | Line::Rating { .. } => None,
        })
    }
}

/// A rate card was imported. The log holds all of it, so that every price can be traced to where it was published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RatesImported {
    /// From when on it applies.
    pub effective_from: Timestamp,
    /// SHA-256 of the card as it was given, in lower-case hex: by which an import of the same card is known.
    pub sha256: String,
    /// The card.
    pub card: Card,
}

/// A card that was imported, as far as decisions ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Imported {
    version: String,
    sha256: String,
}

/// What decisions about money stand on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// The sum of its corrections, of each charge that has some; in the order of the charges.
    corrections: Vec<(ChargeId, Decimal)>,
    /// In the order of their imports.
    cards: Vec<Imported>,
}

impl State {
    /// The sum of the corrections of a charge.
    #[must_use]
    pub fn corrected(&self, charge: ChargeId) -> Decimal {
        let found = self.corrections.binary_search_by_key(&charge, |(corrected, _)| *corrected);
        found.map_or(Decimal::ZERO, |at| self.corrections[at].1)
    }

    fn fold(&mut self, event: &Event) {
        if let Event::RatesImported(imported) = event {
            let (version, sha256) = (imported.card.version.clone(), imported.sha256.clone());
            self.cards.push(Imported { version, sha256 });
        }
        if let Event::BillingAdjusted(adjusted) = event
            && let Some((charge, amount)) = adjusted.correction()
        {
            match self.corrections.binary_search_by_key(&charge, |(corrected, _)| *corrected) {
                Ok(at) => self.corrections[at].1 += amount,
                Err(at) => self.corrections.insert(at, (charge, amount)),
            }
        }
    }
}
