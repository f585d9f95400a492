//! What may happen to the money of an organization.

use rust_decimal::Decimal;

use super::{Adjusted, RatesImported, State};
use crate::charge::{Booking, Charge, ChargeId, Line, Place};
use crate::content::ContentRef;
use crate::id::TaskId;
use crate::rates::Card;
use crate::{Aggregate, Event, Facts, Refusal};

/// What can be asked of the money of an organization.
#[derive(Debug, Clone)]
pub enum Command {
    /// Correct a charge.
    Adjust(Box<Adjusting>),
    /// Correct a charge that was looked for and does not exist.
    AdjustUnknown {
        /// As it was named.
        charge_id: String,
    },
    /// Import a rate card. The same card again changes nothing.
    ImportRates {
        /// The card.
        card: Box<Card>,
        /// Of the card as it was given, in lower-case hex.
        sha256: String,
    },
}

/// How a charge is to be corrected.
#[derive(Debug, Clone)]
pub struct Adjusting {
    /// Where the charge stands.
    pub charge_id: ChargeId,
    /// What stands there. It cannot have changed since it was looked up.
    pub charge: Charge,
    /// Whose work was charged.
    pub place: Place,
    /// The task that was charged for.
    pub task_id: Option<TaskId>,
    /// The model that was charged for.
    pub model: Option<String>,
    /// What is added, in units of the currency, with twelve places at most; a credit is negative.
    pub amount: Decimal,
    /// Why.
    pub reason: ContentRef,
}

impl Aggregate for State {
    type Command = Command;

    fn decide(&self, command: &Command, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        match command {
            Command::Adjust(adjusting) => self.adjust(adjusting, facts),
            Command::AdjustUnknown { charge_id } => {
                Err(Refusal::Absent(format!("The charge {charge_id} does not exist")))
            }
            Command::ImportRates { card, sha256 } => self.import(card, sha256, facts),
        }
    }

    fn evolve(&mut self, event: &Event) {
        self.fold(event);
    }
}

impl State {
    fn import(&self, card: &Card, sha256: &str, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Card { version, effective_from, .. } = card;
        card.check().map_err(|unusable| Refusal::Conflict(format!("the card cannot be used: {unusable}")))?;
        if let Some(known) = self.cards.iter().find(|known| known.version == *version) {
            return if known.sha256 == sha256 {
                Ok(vec![])
            } else {
                Err(Refusal::Conflict(format!("the version {version} is that of another card")))
            };
        }
        let built_in = Card::built_in();
        let undated = Card { effective_from: None, ..card.clone() };
        if *version == built_in.version && undated != **built_in {
            let what = format!("the version {version} is that of the card that the program comes with");
            return Err(Refusal::Conflict(what));
        }
        let effective_from = effective_from.unwrap_or(facts.now);
        if effective_from < facts.now {
            // What has been charged since would have been charged at other prices.
            let what = format!("effectiveFrom {effective_from} is in the past: it is {} now", facts.now);
            return Err(Refusal::Conflict(what));
        }
        let (sha256, card) = (sha256.to_owned(), card.clone());
        Ok(vec![Event::RatesImported(RatesImported { effective_from, sha256, card })])
    }

    fn adjust(&self, adjusting: &Adjusting, facts: &Facts) -> Result<Vec<Event>, Refusal> {
        let Adjusting { charge_id, charge, place, amount, .. } = adjusting;
        if let Line::Adjustment { corrects } = charge.line {
            let what = format!("{charge_id} is a correction itself: correct the charge {corrects}");
            return Err(Refusal::Conflict(what));
        }
        let left = charge.cost + self.corrected(*charge_id);
        if left + amount < Decimal::ZERO {
            let left = left.normalize();
            let what = format!("{charge_id} cannot be corrected to below zero: {left} is left of it");
            return Err(Refusal::Conflict(what));
        }
        let correction = Charge {
            at: facts.now,
            category: charge.category,
            quantity: Decimal::ZERO,
            unit: charge.unit,
            price: None,
            rate_card: charge.rate_card.clone(),
            cost: *amount,
            line: Line::Adjustment { corrects: *charge_id },
        };
        let booking = Booking { charges: vec![correction], ..Booking::default() };
        Ok(vec![Event::BillingAdjusted(Adjusted {
            place: *place,
            task_id: adjusting.task_id,
            model: adjusting.model.clone(),
            category: charge.category,
            reason: adjusting.reason.clone(),
            booking,
        })])
    }
}
