//! Charges in the columns of the `FinOps` Open Cost and Usage Specification (FOCUS) 1.2, <https://focus.finops.org>.

use std::collections::BTreeMap;

use rust_decimal::Decimal;
use serde_json::json;
use theazo_domain::charge::Category;
use theazo_domain::organization::Mode;
use theazo_domain::time::Day;

use super::export::Export;
use super::period::seconds;
use crate::http::v1::money::exact;
use crate::read::usage::Group;

/// The columns, in the order of the specification's list: all that are mandatory, and those others that say something.
pub(super) const COLUMNS: [&str; 40] = [
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
];

/// Who provides, publishes and bills.
const PROVIDER: &str = "Theazo";

/// The cells of a group's row.
pub(super) fn cells(export: &Export, account: Option<&str>, day: Day, group: &Group) -> [Option<String>; 40] {
    let text = |text: &str| Some(text.to_owned());
    let cost = || Some(exact(group.cost));
    let organization = export.tenant.organization_id.to_string();
    let month = day.month_start();
    let usage = group.line == "usage";
    let (service_category, service, subcategory) = service(group.category);
    let (pricing_quantity, pricing_unit) = priced(group);
    // Of usage the specification wants a price always: what has none is said to cost nothing, and to be unrated.
    let unit_price =
        || usage.then(|| group.price.map_or_else(|| "0".to_owned(), |price| exact(price.amount)));
    let sku = sku(group);
    let resource = group.agent_id.as_ref().unwrap_or(&group.session_id);
    let start = export.period.from.max(day.start());
    let end = export.period.until.min(day.next().start());
    [
        cost(),
        Some(organization),
        account.map(str::to_owned),
        text("Organization"),
        text("USD"),
        Some(seconds(month.next_month().start())),
        Some(seconds(month.start())),
        text(charge_category(group)),
        group.of_earlier_month.then(|| "Correction".to_owned()),
        Some(description(group, service)),
        text("Usage-Based"),
        Some(seconds(end)),
        Some(seconds(start)),
        usage.then(|| group.quantity.normalize().to_string()),
        usage.then(|| unit(&group.unit).to_owned()),
        cost(),
        unit_price(),
        cost(),
        text(PROVIDER),
        cost(),
        unit_price(),
        usage.then(|| "Standard".to_owned()),
        usage.then(|| pricing_quantity.normalize().to_string()),
        usage.then_some(pricing_unit),
        text(PROVIDER),
        text(PROVIDER),
        Some(resource.clone()),
        None,
        text(if group.agent_id.is_some() { "Agent" } else { "Session" }),
        text(service_category),
        text(service),
        text(subcategory),
        usage.then(|| sku.clone()),
        usage.then(|| meter(&group.unit).to_owned()),
        None,
        usage.then(|| sku_price(&sku, group)),
        Some(group.session_id.clone()),
        None,
        text("Session"),
        Some(tags(export, group)),
    ]
}

fn charge_category(group: &Group) -> &'static str {
    match (group.line.as_str(), group.is_credit) {
        ("usage", _) => "Usage",
        (_, true) => "Credit",
        (_, false) => "Adjustment",
    }
}

/// The service, and the categories that the specification has for it.
const fn service(category: Category) -> (&'static str, &'static str, &'static str) {
    match category {
        Category::Model => ("AI and Machine Learning", "Models", "Generative AI"),
        Category::Compute => ("Compute", "Sandboxes", "Containers"),
        Category::Storage => ("Storage", "Workspaces", "File Storage"),
        Category::Orchestration => {
            ("Management and Governance", "Orchestration", "Other (Management and Governance)")
        }
    }
}

fn unit(unit: &str) -> &'static str {
    match unit {
        "millisecond" => "Milliseconds",
        "gb_hour" => "GB-Hours",
        _ => "Tokens",
    }
}

fn meter(unit: &str) -> &'static str {
    match unit {
        "input_token" => "Input Tokens",
        "output_token" => "Output Tokens",
        "cache_read_token" => "Cache Read Tokens",
        "cache_write_token" => "Cache Write Tokens",
        "millisecond" => "Time",
        _ => "Space",
    }
}

/// The quantity in the unit that the price is of.
fn priced(group: &Group) -> (Decimal, String) {
    let per = group.price.map_or(1, |price| price.per.max(1));
    let quantity = group.quantity / Decimal::from(per);
    let unit = match (group.unit.as_str(), per) {
        ("millisecond", 60_000) => "Minutes".to_owned(),
        (name, 1) => unit(name).to_owned(),
        (name, per) => format!("{per} {}", unit(name)),
    };
    (quantity, unit)
}

fn sku(group: &Group) -> String {
    let parts = [Some(group.category.as_str()), group.model.as_deref(), Some(group.unit.as_str())];
    parts.into_iter().flatten().collect::<Vec<_>>().join("/")
}

/// One price of what is sold, whichever cards it stands in: the same on every day on which it is taken.
fn sku_price(sku: &str, group: &Group) -> String {
    let price =
        group.price.map_or_else(|| "unrated".to_owned(), |price| price.amount.normalize().to_string());
    format!("{sku}/{price}/{}", priced(group).1)
}

fn description(group: &Group, service: &str) -> String {
    let of = group.model.as_ref().map(|model| format!(" of {model}")).unwrap_or_default();
    match (group.line.as_str(), group.price) {
        ("rating", _) => format!("{service}: usage{of} that had no price before"),
        ("adjustment", _) => format!("{service}: adjustment{of}"),
        (_, None) => format!("{service}: {}{of}, unrated", meter(&group.unit)),
        (_, Some(_)) => format!("{service}: {}{of}", meter(&group.unit)),
    }
}

/// What the charges are of beside all that, as one JSON object of texts. The specification wants tags that are a provider's
/// own told apart by what their keys begin with.
fn tags(export: &Export, group: &Group) -> String {
    let mode = if export.tenant.mode == Mode::Live { "live" } else { "test" };
    let tags = [
        ("theazo/mode", Some(mode)),
        ("theazo/sessionId", Some(group.session_id.as_str())),
        ("theazo/rateCardVersion", Some(group.rate_card.as_str())),
        ("theazo/userId", group.external_id.as_deref()),
        ("theazo/agentId", group.agent_id.as_deref()),
        ("theazo/model", group.model.as_deref()),
    ];
    let tags = tags.into_iter().filter_map(|(key, value)| Some((key, value?)));
    json!(tags.collect::<BTreeMap<_, _>>()).to_string()
}
