//! Exports: the same charges, as tables for other programs.

use std::collections::{BTreeMap, BTreeSet};

use rust_decimal::Decimal;
use serde_json::Value;
use theazo_domain::key::Role;
use theazo_domain::organization::Mode;

use super::exact;
use super::synthetic::{Dice, random_log, write};
use crate::support::api::{Api, Reply};
use crate::support::site::Site;

const PERIOD: &str = "from=2025-05-03T10:20:30Z&until=2025-07-02";

/// The rows of a CSV file by their columns.
fn rows(reply: &Reply) -> Vec<Vec<(String, String)>> {
    assert_eq!(reply.status.as_u16(), 200);
    assert!(reply.header("content-type").unwrap().starts_with("text/csv"));
    let text = String::from_utf8(reply.body.clone()).unwrap();
    let mut records = read(&text).into_iter();
    let head = records.next().unwrap();
    let named = |record: Vec<String>| {
        assert_eq!(record.len(), head.len());
        head.iter().cloned().zip(record).collect()
    };
    records.map(named).collect()
}

/// Reads CSV as RFC 4180 has it.
fn read(text: &str) -> Vec<Vec<String>> {
    let (mut records, mut record, mut cell) = (vec![], vec![], String::new());
    let mut quoted = false;
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '"' if quoted && characters.peek() == Some(&'"') => cell.push(characters.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => record.push(std::mem::take(&mut cell)),
            '\r' if !quoted && characters.next_if_eq(&'\n').is_some() => {
                record.push(std::mem::take(&mut cell));
                records.push(std::mem::take(&mut record));
            }
            other => cell.push(other),
        }
    }
    assert!(record.is_empty() && cell.is_empty(), "the last row is whole");
    records
}

fn cell<'a>(row: &'a [(String, String)], column: &str) -> &'a str {
    &row.iter().find(|(name, _)| name == column).unwrap_or_else(|| panic!("{column}")).1
}

fn sum(rows: &[Vec<(String, String)>], column: &str) -> Decimal {
    rows.iter().map(|row| cell(row, column).parse::<Decimal>().unwrap()).sum()
}

async fn written(seed: u64) -> Api {
    let organization = Site::new().await.organization(Mode::Live, 10_000).await;
    let api = organization.api(Role::Finance).await;
    write(&api, &random_log(&mut Dice::new(seed), 220)).await;
    api
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_format_adds_up_to_the_total_exactly() {
    for seed in [21, 22] {
        let api = written(seed).await;
        let summary = api.get(&format!("/v1/usage/summary?{PERIOD}")).await.expect(200);
        let total = exact(&summary["total"]);
        assert!(!total.is_zero());
        let csv = rows(&api.get(&format!("/v1/billing/export?{PERIOD}")).await);
        assert_eq!(sum(&csv, "cost"), total);
        let json = api.get(&format!("/v1/billing/export?format=json&{PERIOD}")).await.expect(200);
        let entries = json["data"].as_array().unwrap();
        assert_eq!(entries.iter().map(|entry| exact(&entry["cost"])).sum::<Decimal>(), total);
        let mut ids: Vec<&str> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!(ids, csv.iter().map(|row| cell(row, "id")).collect::<Vec<_>>());
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), csv.len(), "each is written once");
        let focus = rows(&api.get(&format!("/v1/billing/export?format=focus&{PERIOD}")).await);
        for column in ["BilledCost", "EffectiveCost", "ListCost", "ContractedCost"] {
            assert_eq!(sum(&focus, column), total, "{column}");
        }
        let compute = focus.iter().filter(|row| cell(row, "SkuId").starts_with("compute/"));
        let ms: Decimal = compute.map(|row| cell(row, "ConsumedQuantity").parse::<Decimal>().unwrap()).sum();
        let minutes = (ms / Decimal::from(60_000)).round();
        assert_eq!(minutes, Decimal::from(summary["compute"]["minutes"].as_i64().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn focus_has_the_values_that_its_specification_allows() {
    let api = written(23).await;
    let focus = rows(&api.get(&format!("/v1/billing/export?format=focus&{PERIOD}")).await);
    let mut seen = BTreeSet::new();
    let mut prices: BTreeMap<&str, [&str; 3]> = BTreeMap::new();
    for row in &focus {
        let value = |column| cell(row, column);
        for column in ["BillingPeriodStart", "BillingPeriodEnd", "ChargePeriodStart", "ChargePeriodEnd"] {
            let text = value(column);
            assert!(text.len() == 20 && text.ends_with('Z'), "{text}");
        }
        assert!(value("BillingPeriodStart") <= value("ChargePeriodStart"));
        assert!(value("ChargePeriodStart") < value("ChargePeriodEnd"));
        assert!(value("ChargePeriodEnd") <= value("BillingPeriodEnd"));
        assert_eq!(value("BillingCurrency"), "USD");
        assert_eq!(value("BillingAccountId"), api.tenant.organization_id.to_string());
        assert!(!value("BillingAccountName").is_empty());
        for column in
            ["ChargeDescription", "InvoiceIssuerName", "ProviderName", "PublisherName", "ServiceName"]
        {
            assert!(!value(column).is_empty(), "{column}");
        }
        let tags: Value = serde_json::from_str(value("Tags")).unwrap();
        assert_eq!(tags["theazo/mode"], "live");
        // What a provider adds of its own begins with its name.
        assert!(tags.as_object().unwrap().keys().all(|key| key.starts_with("theazo/")), "{tags}");
        assert!(["", "Correction"].contains(&value("ChargeClass")));
        let cost: Decimal = value("BilledCost").parse().unwrap();
        let category = value("ChargeCategory");
        seen.insert(category.to_owned());
        let quantity = value("PricingQuantity");
        match category {
            "Usage" => {
                assert!(!quantity.is_empty() && !value("PricingUnit").is_empty());
                let [price, quantity] =
                    [value("ListUnitPrice"), quantity].map(|text| text.parse::<Decimal>().unwrap());
                // Each charge of the row was rounded by itself.
                assert!((price * quantity - cost).abs() < Decimal::new(1, 9), "{row:?}");
                // One price has one id, and one id one price of one thing.
                let of = [value("SkuId"), value("ListUnitPrice"), value("PricingUnit")];
                assert_eq!(*prices.entry(value("SkuPriceId")).or_insert(of), of);
            }
            "Credit" => assert!(cost < Decimal::ZERO && quantity.is_empty()),
            "Adjustment" => assert!(cost >= Decimal::ZERO && quantity.is_empty()),
            other => panic!("{other} is no category"),
        }
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert_eq!(prices.values().collect::<BTreeSet<_>>().len(), prices.len(), "{prices:?}");
}

#[tokio::test]
async fn an_unknown_format_is_refused_and_an_empty_period_has_a_head_only() {
    let api = Site::new().await.admin().await;
    let fields = api.get("/v1/billing/export?format=xlsx").await.fields();
    assert_eq!(fields, [("format".to_owned(), "format".to_owned())]);
    assert_eq!(rows(&api.get("/v1/billing/export").await).len(), 0);
    assert_eq!(rows(&api.get("/v1/billing/export?format=focus").await).len(), 0);
    let json = api.get("/v1/billing/export?format=json").await.expect(200);
    assert_eq!(json, serde_json::json!({ "data": [] }));
}
