use super::*;
use crate::agent::Tokens;

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// A card of one model at 3 and 15 dollars a million tokens, with a markup of 10 %.
pub(crate) fn card(version: &str) -> Card {
    let listed = Card::built_in().models.iter().find(|listed| listed.id == "claude-sonnet-4-5");
    Card { version: version.into(), models: vec![listed.unwrap().clone()], ..(**Card::built_in()).clone() }
}

/// What a vendor takes: the card without the markup.
fn vendors_cost(model: &str, tokens: Tokens) -> Decimal {
    let card = Card { markup_percent: Decimal::ZERO, ..(**Card::built_in()).clone() };
    card.model(model).charges(tokens, Timestamp::default()).iter().map(|charge| charge.cost).sum()
}

#[test]
fn a_managed_call_costs_the_vendors_price_and_a_tenth() {
    let rates = Card::built_in().model("claude-sonnet-4-20250514");
    let tokens = Tokens { input: 1_000_000, output: 100_000, ..Tokens::default() };
    let cost = |rates: ModelRates| -> Decimal {
        rates.charges(tokens, Timestamp::default()).iter().map(|charge| charge.cost).sum()
    };
    // 3 + 1.50 dollars, and 10 %.
    assert_eq!(cost(rates), decimal("4.95"));
    assert!(Card::built_in().model("nobody-knows-it").prices.is_none());
    assert_eq!(cost(Card::built_in().free()), Decimal::ZERO);
}

#[test]
fn every_model_stands_in_the_card_once_with_where_and_when_its_price_was_published() {
    let card = Card::built_in();
    assert_eq!(card.check(), Ok(()));
    assert!(card.models.len() >= 60, "{}", card.models.len());
    let vendors: HashSet<_> = card.models.iter().map(|listed| listed.vendor.as_str()).collect();
    assert!(vendors.len() >= 8, "{vendors:?}");
    for listed in &card.models {
        assert!(listed.source.starts_with("https://"), "{}", listed.id);
        assert!(listed.date >= Day::parse("2025-10-01").unwrap(), "{}", listed.id);
        assert!(listed.output >= listed.input, "{}: output is the dearer of the two", listed.id);
    }
}

#[test]
fn compute_orchestration_and_storage_cost_what_the_contract_says() {
    let card = Card::built_in();
    let of = |rate: Rate, quantity: i64| rate.price.unwrap().of(Decimal::from(quantity));
    assert_eq!(of(card.compute_rates().of(false), 60_000), decimal("0.005"));
    assert_eq!(of(card.compute_rates().of(true), 60_000), Decimal::ZERO);
    assert_eq!(of(card.orchestration(), 60_000), decimal("0.002"));
    // A GB for a month of 730 hours.
    assert_eq!(of(card.storage_rates().of(false), 730), decimal("0.10"));
    assert_eq!(card.markup_percent, Decimal::TEN);
}

/// The tests of genai-prices, a library that knows the prices of models.
const GENAI_PRICES: &str = "https://github.com/pydantic/genai-prices/tree/main/tests";
/// Its vendor's own page.
const ANTHROPIC: &str = "https://platform.claude.com/docs/en/about-claude/pricing";

/// Sums that were published, with where: the arithmetic must come to the same. Tokens of input that no cache was asked for,
/// of output, read from the cache and written to it.
#[test]
fn published_examples_come_to_what_was_published() {
    for (model, [input, output, cache_read, cache_write], published, source) in [
        // 0.25 + 0.375.
        ("claude-opus-5", [50_000, 15_000, 0, 0], "0.625", ANTHROPIC),
        // 0.05 + 0.02 + 0.375.
        ("claude-opus-5", [10_000, 15_000, 40_000, 0], "0.445", ANTHROPIC),
        ("claude-3-7-sonnet-20250219", [11, 197, 0, 144_211], "0.54377925", GENAI_PRICES),
        ("claude-3-7-sonnet-20250219", [11, 197, 144_211, 0], "0.0462513", GENAI_PRICES),
        ("claude-3-7-sonnet-20250219", [144_222, 197, 0, 0], "0.435621", GENAI_PRICES),
        ("claude-3-5-sonnet-20241022", [950, 100, 30, 20], "0.004434", GENAI_PRICES),
        ("claude-sonnet-4-5", [300_000, 100_000, 0, 0], "2.40", GENAI_PRICES),
        ("gpt-4.1-2025-04-14", [25, 610, 131_584, 0], "0.070722", GENAI_PRICES),
        ("gpt-4.1-2025-04-14", [131_609, 610, 0, 0], "0.268098", GENAI_PRICES),
        ("gpt-4o", [1_000, 100, 0, 0], "0.0035", GENAI_PRICES),
        ("o3", [1_000, 100, 0, 0], "0.0028", GENAI_PRICES),
        ("gpt-5.4", [0, 0, 100_000, 0], "0.025", GENAI_PRICES),
        // Prompts of more than 272,000 tokens: 5 and 22.50 dollars instead of 2.50 and 15.
        ("gpt-5.4", [300_000, 100_000, 0, 0], "3.75", GENAI_PRICES),
        ("gpt-5.4", [500_000, 0, 0, 0], "2.5", GENAI_PRICES),
        (
            "gpt-4o-mini",
            [180, 12, 1_024, 0],
            "0.000111",
            "https://codewithsundeep.com/discussion/solution/79451488",
        ),
        // 15 + 75 + 18.75 + 1.50.
        (
            "claude-opus-4-20250514",
            [1_000_000; 4],
            "110.25",
            "https://github.com/ryoppippi/ccusage/commit/7e17c87",
        ),
        // 10,000 of 11,500 tokens of the prompt are read from the cache: 0.001875 + 0.00125.
        (
            "gemini-2.5-pro",
            [1_500, 0, 10_000, 0],
            "0.003125",
            "https://discuss.ai.google.dev/t/question-about-gemini-api-caching-pricing/107349",
        ),
        // Prompts of more than 200,000 tokens: 2.50 dollars instead of 1.25.
        (
            "gemini-2.5-pro",
            [300_000, 0, 0, 0],
            "0.75",
            "https://docs.rs/crate/gemini-cost/latest/source/tests/integration.rs",
        ),
        (
            "gemini-2.5-pro",
            [100_000, 50_000, 0, 0],
            "0.625",
            "https://docs.rs/crate/gemini-cost/latest/source/tests/integration.rs",
        ),
        ("claude-sonnet-4-5", [1_000, 500, 0, 0], "0.0105", "https://docs.rs/claude-cost"),
        ("claude-sonnet-4-5", [423, 18, 380, 0], "0.001653", "https://docs.rs/crate/claude-cost/0.1.0"),
        (
            "claude-opus-4-6",
            [100_000, 10_000, 0, 0],
            "0.75",
            "https://deploybase.ai/articles/claude-api-pricing",
        ),
        (
            "claude-opus-4-8",
            [20_000, 1_000, 0, 0],
            "0.125",
            "https://synrouter.ai/blog/claude-code-api-pricing",
        ),
        (
            "claude-sonnet-4-6",
            [20_000, 1_000, 0, 0],
            "0.075",
            "https://synrouter.ai/blog/claude-code-api-pricing",
        ),
    ] {
        let used = Tokens { input, output, cache_read, cache_write };
        assert_eq!(vendors_cost(model, used), decimal(published), "{model}: {source}");
    }
}

#[test]
fn a_prompt_that_is_longer_than_its_vendors_line_is_dearer_as_a_whole() {
    let tokens = |input, cache_read| Tokens { input, output: 1_000_000, cache_read, cache_write: 0 };
    // 100,000 tokens in all are not over the line; one more is, and every token has the higher price.
    let short = vendors_cost("claude-haiku-5-5", tokens(60_000, 40_000));
    assert_eq!(short, decimal("0.006") + decimal("0.0004") + decimal("0.5"));
    let long = vendors_cost("claude-haiku-5-5", tokens(60_001, 40_000));
    assert_eq!(long, decimal("0.0300005") + decimal("0.002") + decimal("2.5"));
}

#[test]
fn no_call_is_dearer_than_its_worst_case() {
    for listed in &Card::built_in().models {
        let rates = Card::built_in().model(&listed.id);
        for prompt in [1_u64, 99_999, 100_001, 200_001, 272_001, 1_000_000] {
            let worst = rates.worst(Tokens { input: prompt, output: 4_096, ..Tokens::default() });
            for part in [0, prompt / 2, prompt] {
                for tokens in [
                    Tokens { input: prompt - part, output: 4_096, cache_read: part, cache_write: 0 },
                    Tokens { input: prompt - part, output: 1, cache_read: 0, cache_write: part },
                ] {
                    let charges = rates.charges(tokens, Timestamp::default());
                    let cost: Decimal = charges.iter().map(|charge| charge.cost).sum();
                    // Each charge is rounded by itself, by half a last place at most.
                    assert!(cost <= worst + Decimal::new(2, 12), "{}: {cost} > {worst}", listed.id);
                }
            }
        }
    }
}

#[test]
fn a_card_that_cannot_be_used_is_refused_by_its_first_wrong_part() {
    let wrong = |spoil: fn(&mut Card)| {
        let mut card = card("mine");
        spoil(&mut card);
        card.check().unwrap_err().to_string()
    };
    assert!(wrong(|card| card.version = "a b".into()).starts_with("version: "));
    assert!(wrong(|card| card.compute_per_minute = Decimal::NEGATIVE_ONE).starts_with("computePerMinute: "));
    assert!(wrong(|card| card.markup_percent = Decimal::new(1, 5)).starts_with("markupPercent: "));
    assert!(wrong(|card| card.models[0].input = Decimal::new(1, 10)).starts_with("models.0.input: "));
    assert!(wrong(|card| card.models[0].source = "http://x".into()).starts_with("models.0.source: "));
    assert!(wrong(|card| card.models.push(card.models[0].clone())).starts_with("models.1.id: "));
    let cheaper = |card: &mut Card| {
        let Listed { input, output, cache_read, cache_write, .. } = card.models[0].clone();
        let input = input - Decimal::ONE;
        let over_tokens = 1;
        card.models[0].long_context =
            Some(LongContext { over_tokens, input, output, cache_read, cache_write });
    };
    assert!(wrong(cheaper).starts_with("models.0.longContext.input: "));
    assert_eq!(card("mine").check(), Ok(()));
}

#[test]
fn a_price_that_no_decimal_holds_is_refused_and_not_rounded() {
    let written = serde_json::to_string(&card("mine")).unwrap();
    for price in ["0.00000000000000000000000000000001", "3.00000000000000000000000000000004", "1e-3", "", "x"]
    {
        for field in ["computePerMinute", "markupPercent", "input"] {
            let start = written.find(&format!("\"{field}\":\"")).unwrap() + field.len() + 4;
            let end = start + written[start..].find('"').unwrap();
            let spoilt = format!("{}{price}{}", &written[..start], &written[end..]);
            let refused = serde_json::from_str::<Card>(&spoilt).unwrap_err().to_string();
            assert!(refused.starts_with(&format!("`{price}` is no price")), "{refused}");
        }
    }
}

#[test]
fn a_card_is_read_as_it_is_written_and_never_from_floats() {
    let written = serde_json::to_string(&**Card::built_in()).unwrap();
    assert_eq!(serde_json::from_str::<Card>(&written).unwrap(), **Card::built_in());
    let float = written.replace("\"computePerMinute\":\"0.005\"", "\"computePerMinute\":0.005");
    assert!(float != written && serde_json::from_str::<Card>(&float).is_err());
    let unknown = written.replace("\"currency\"", "\"colour\"");
    assert!(serde_json::from_str::<Card>(&unknown).is_err());
}
