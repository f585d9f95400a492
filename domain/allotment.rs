//! Cents for the parts of a total, so that they add up to it: the largest remainder method.
//!
//! Rounding each part by itself would make a bill whose lines do not add up. Each part is given the whole cents that
//! it surely has, and the cents that are then missing from the total go to the parts that lost most.

use std::cmp::Reverse;

use rust_decimal::Decimal;

/// The cents of each part, in the order of the parts, which add up to `total`.
///
/// A part is an amount in units of the currency, negative ones included; among parts that lost equally much, the one
/// with the smaller key is given the cent. Every part is within a cent of its exact amount as long as `total` is
/// within a cent of theirs; what is further away is spread over all of them.
#[must_use]
pub fn allot<K: Ord>(total: i64, parts: &[(K, Decimal)]) -> Vec<i64> {
    let hundredfold = |amount: Decimal| amount.checked_mul(Decimal::ONE_HUNDRED).unwrap_or(Decimal::MAX);
    let in_cents: Vec<Decimal> = parts.iter().map(|(_, amount)| hundredfold(*amount)).collect();
    let mut cents: Vec<i64> = in_cents.iter().map(|amount| whole(amount.floor())).collect();
    if cents.is_empty() {
        return cents;
    }
    let missing = i128::from(total) - cents.iter().copied().map(i128::from).sum::<i128>();
    let number = cents.len() as i128;
    // Where the total is that of the parts, each gets no cent or one, and `rounds` is 0.
    let (rounds, single) = (missing.div_euclid(number), missing.rem_euclid(number));
    let mut order: Vec<(Decimal, usize)> =
        in_cents.iter().zip(0..).map(|(amount, at)| (amount - amount.floor(), at)).collect();
    // Who is among those that are given one more matters, and not in which order they come.
    let given = usize::try_from(single).unwrap_or_default();
    order.select_nth_unstable_by(given, |(lost, one), (other_lost, other)| {
        Reverse(lost).cmp(&Reverse(other_lost)).then_with(|| parts[*one].0.cmp(&parts[*other].0))
    });
    for (rank, (_, at)) in order.into_iter().enumerate() {
        let more = rounds + i128::from(rank < given);
        cents[at] = cents[at].saturating_add(i64::try_from(more).unwrap_or_default());
    }
    cents
}

/// A whole decimal, held at the ends of the range.
fn whole(amount: Decimal) -> i64 {
    let held = if amount.is_sign_negative() { i64::MIN } else { i64::MAX };
    i64::try_from(amount).unwrap_or(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::{Currency, Money};
    use proptest::prelude::*;

    fn cents(exact: Decimal) -> i64 {
        Money { exact, currency: Currency::Usd }.cents()
    }

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn the_cents_go_to_those_who_lost_most_and_ties_to_the_smaller_key() {
        let parts = [("b", decimal("0.004")), ("a", decimal("0.004")), ("c", decimal("0.0049"))];
        assert_eq!(allot(1, &parts), [0, 0, 1]);
        assert_eq!(allot(2, &parts), [0, 1, 1]);
        assert_eq!(allot(0, &[] as &[(&str, Decimal)]), Vec::<i64>::new());
        // A credit: 3.333 - 1.005 is 2.328 dollars.
        let parts = [("charged", decimal("3.333")), ("credit", decimal("-1.005"))];
        assert_eq!(allot(233, &parts), [333, -100]);
    }

    proptest! {
        #[test]
        fn the_parts_add_up_and_none_is_a_cent_off(
            amounts in prop::collection::vec((0..9_u8, -1_000_000_000_i64..1_000_000_000_000, 0..13_u32), 1..60),
        ) {
            let parts: Vec<_> = amounts.iter().map(|(key, units, scale)| (*key, Decimal::new(*units, *scale))).collect();
            let sum: Decimal = parts.iter().map(|(_, amount)| *amount).sum();
            let total = cents(sum);
            let allotted = allot(total, &parts);
            prop_assert_eq!(allotted.iter().sum::<i64>(), total);
            for ((_, amount), cents) in parts.iter().zip(&allotted) {
                prop_assert!((Decimal::new(*cents, 2) - amount).abs() < Decimal::new(1, 2));
                prop_assert!(amount.is_sign_negative() || *cents >= 0);
            }
        }

        /// As `/usage/summary` does it with the models, and `/models` with each of them.
        #[test]
        fn parts_of_a_part_add_up_to_what_it_was_allotted(
            groups in prop::collection::vec(prop::collection::vec((any::<u8>(), 0..1_000_000_i64), 0..20), 1..5),
        ) {
            let of = |group: &Vec<(u8, i64)>| -> Vec<(u8, Decimal)> {
                group.iter().map(|(key, units)| (*key, Decimal::new(*units, 6))).collect()
            };
            let sums: Vec<(usize, Decimal)> = groups.iter().map(of)
                .map(|parts| parts.iter().map(|(_, amount)| *amount).sum()).enumerate().collect();
            let total = cents(sums.iter().map(|(_, sum)| *sum).sum());
            for (group, share) in groups.iter().zip(allot(total, &sums)) {
                let parts = of(group);
                let allotted = allot(share, &parts);
                prop_assert_eq!(allotted.iter().sum::<i64>(), share);
                for ((_, amount), cents) in parts.iter().zip(&allotted) {
                    prop_assert!((Decimal::new(*cents, 2) - amount).abs() < Decimal::new(1, 2));
                }
            }
        }
    }
}
