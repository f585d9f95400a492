//! What would be dear is refused: when it is read, or when it is asked.

use super::*;
use crate::json_path::outline;

fn work(text: &str) -> Work {
    outline::of(&Spelled::of(text).unwrap()).unwrap().1
}

#[test]
fn what_multiplies_nodes_without_bound_is_refused_when_it_is_read() {
    assert_eq!(broken("$..a..b"), [Some(Rule::Descents), Some(Rule::Descents)]);
    assert_eq!(broken("$..a[?@..b]"), [Some(Rule::Descents), Some(Rule::Descents)]);
    assert_eq!(broken("$..a && $..b")[1], None, "two queries");
    let [many, more] = [["0"; MOST_COPIES].join(","), ["0"; MOST_COPIES + 1].join(",")];
    assert_eq!(broken(&format!("$[{many}]")), [None, None]);
    assert_eq!(broken(&format!("$[{more}]")), [Some(Rule::Copies), Some(Rule::Copies)]);
    assert_eq!(broken("$[0,0][0,0][0,0][0,0]"), [None, None]);
    assert_eq!(broken("$[0,0][0,0][0,0][0,0][0,0]"), [Some(Rule::Copies), Some(Rule::Copies)]);
    for text in ["$..a", "$.a[*]", "$.a.*", "$['a',0]", "$[:2]", "$[?@.x]", "$ [ * ]", "$[0][?@.a]"] {
        assert_eq!(broken(&format!("$[?{text}]")), [Some(Rule::Absolute), Some(Rule::Absolute)], "{text}");
        assert_eq!(
            broken(&format!("$[?@.b || ({text})]")),
            [Some(Rule::Absolute), Some(Rule::Absolute)],
            "{text}"
        );
    }
    assert_eq!(broken("$[?length($.a) == 1]"), [Some(Rule::Absolute), Some(Rule::Absolute)]);
    for text in [
        "@..a",
        "@.a[*]",
        "@['a',0] || $.b == 1",
        "$.a['b'][0]",
        "@[?$.a == @[0]]",
        "length(@.*.a)==1 || $.a",
    ] {
        assert!(!broken(&format!("$[?{text}]")).contains(&Some(Rule::Absolute)), "{text}");
    }
    for text in
        ["$==$", "$.a == $.b", "@.a || !@.b && ($.a < $['b'][0])", "@.a == 1 || $[0] != $[1]", "@[?$==$]"]
    {
        assert_eq!(broken(&format!("$[?{text}]")), [Some(Rule::Constant), Some(Rule::Constant)], "{text}");
    }
    for text in [
        "@.a == $.b && @ == $.b",
        "$.a == @.b || $.b == @.b",
        "$.a == 1 && 1 == $.b",
        "$.a == 1 && !$.b && $.c",
        "$.a == 'x' || (2 < $.b)",
        "$.a && $.b < 1",
        "length(@.a) == $.b && $.b == count(@.*)",
        "$['a', 0] == $.b",
        "@ == 1, ?$.a == @",
    ] {
        assert!(!broken(&format!("$[?{text}]")).contains(&Some(Rule::Constant)), "{text}");
    }
    assert!(holds("$ == $ && $.a == $.b", &json!({})), "outside of filters it is asked but once");
    assert_eq!(broken("$[?@[-1] == 1]"), [Some(Rule::NegativeIndex), Some(Rule::NegativeIndex)]);
    assert_eq!(broken("$[?@[ -10 ].a]"), [Some(Rule::NegativeIndex), Some(Rule::NegativeIndex)]);
    assert_eq!(broken("$[-1][?@[-1:]]"), [None, None]);
    let deep = |number: usize| format!("{}1==1{}", "(".repeat(number), ")".repeat(number));
    assert_eq!(broken(&deep(DEEPEST))[1], None);
    for number in [DEEPEST + 1, 100, 400] {
        assert_eq!(broken(&deep(number))[1], Some(Rule::TooDeep));
        let filters = format!("${}@{}", "[?@".repeat(number), "]".repeat(number));
        assert_eq!(broken(&filters[..filters.len().min(LONGEST)])[0], Some(Rule::TooDeep));
    }
    assert_eq!(broken(&format!("$.{}", "a".repeat(LONGEST - 2))), [None, None]);
    assert_eq!(broken(&format!("$.{}", "a".repeat(LONGEST - 1))), [Some(Rule::TooLong), Some(Rule::TooLong)]);
    let document = json!(vec![0; MOST_NODES + 1]);
    assert_eq!(path("$[*]").select(&document), Err(TooMuch::Nodes));
    assert_eq!(path("$[1:]").select(&document).map(|nodes| nodes.len()), Ok(MOST_NODES));
}

#[test]
fn what_is_dear_for_a_document_is_not_asked_of_it() {
    let zeros = |number: usize| json!([vec![0; number], vec![0; number]]);
    let copies = ["0"; MOST_COPIES].join(",");
    let counts = ["count(@.*)<0"; 66].join("||");
    let text = |number: usize| json!([vec![0; number], "a".repeat(800_000), "a".repeat(800_000)]);
    let mut deep = json!(vec![0; 100_000]);
    for _ in 0..120 {
        deep = json!([deep]);
    }
    for (text, document) in [
        (format!("$[{copies}][?{counts}]"), json!([vec![0; 50_000]])),
        (format!("$[{copies}][?{counts}]"), json!([vec![0; 500_000]])),
        (format!("$[0][?@==$[1]{}]", "&&@==$[1]".repeat(80)), zeros(60_000)),
        (format!("$[0][?@<$[1]{}]", "||@<$[1]".repeat(80)), text(20_000)),
        (format!("$[0][?1==1{}]", "||1==2".repeat(150)), zeros(60_000)),
        (format!("$[0][?$[0]{}]", "[0]".repeat(300)), zeros(60_000)),
        (
            format!("$[0][?@=='{0}'{1}]", "a".repeat(100), format!("||@=='{}'", "a".repeat(100)).repeat(7)),
            zeros(60_000),
        ),
        ("$..*".to_owned(), json!([deep])),
        ("$[?@..*]".to_owned(), json!([deep])),
        ("$..['a','b','c','d']".to_owned(), json!([deep])),
        (format!("$..*{}", ".*".repeat(120)), deep.clone()),
        ("$..[?@==$]".to_owned(), json!([deep])),
    ] {
        assert_eq!(path(&text).select(&document), Err(TooMuch::Work), "{text}");
        assert_eq!(path(&text).only(&document), Err(TooMuch::Work), "{text}");
        for text in [format!("count({text})==0"), format!("1==1||{text}"), format!("!{text}")] {
            // With what stands around it, a text may be too long.
            let Ok(condition) = Condition::parse(&text) else { continue };
            assert_eq!(condition.holds(&document), Err(TooMuch::Work), "{text}");
        }
    }
    // Each little by itself.
    let all = ["$==$"; 100].join("&&");
    assert_eq!(Condition::parse(&all).unwrap().holds(&zeros(60_000)), Err(TooMuch::Work));
    assert_eq!(Condition::parse(&all).unwrap().holds(&zeros(1_000)), Ok(true));
    let each = ["$.*[0]"; 100].join("||");
    assert_eq!(Condition::parse(&each).unwrap().holds(&zeros(60_000)), Err(TooMuch::Work));
}

#[test]
fn what_is_usual_is_answered_for_documents_of_a_megabyte() {
    let items: Vec<Value> = (0..15_000)
        .map(|number| json!({ "id": number, "kind": "refund", "sum": 12.5, "note": "a note of some length", "tags": ["x"] }))
        .collect();
    let document = json!({ "items": items, "want": 7, "trigger": { "kind": "refund" } });
    assert!(document.to_string().len() > 1_000_000);
    let seven = &document["items"][7];
    for text in [
        "$.items[7]",
        "$.items[?@.id == $.want]",
        "$.items[?@.id == 7 && (@.kind == 'refund' || @.kind == 'return') && @.sum > 10 && length(@.tags) > 0]",
        "$..[?@.id == 7]",
        "$.items[?@.tags[?@ == 'x'] && @.id == 7]",
    ] {
        assert_eq!(path(text).only(&document), Ok(Some(seven)), "{text}");
    }
    assert_eq!(path("$.items[*].tags[*]").select(&document), Err(TooMuch::Nodes));
    assert!(holds("$.trigger.kind == 'refund' && count($.items[?@.sum > 10]) == length($.items)", &document));
    assert!(holds("count($..id) == 15000 && $.items == $.items", &document));
}

#[test]
fn the_work_of_a_text_is_what_the_documentation_counts() {
    let once = |visits: u64, sweeps: u64| Work { visits, sweeps };
    assert_eq!(work("$"), once(0, 0));
    assert_eq!(work("$.a['b'][-1]"), once(0, 0));
    assert_eq!(work("$.a == 1 && $.b || !($['c'] < 'd')"), once(0, 0));
    assert_eq!(work("$.a[*].b.*[1:]"), once(1, 0));
    assert_eq!(work("$.a[*] && $.*"), once(2, 0));
    assert_eq!(work("$[0,1].a"), once(2, 0));
    assert_eq!(work("$[0,1][*,'a']"), once(4, 0));
    // `@`, two segments, `==`, `$` and a segment.
    assert_eq!(work("$.a[?@.b.c == $.d].e.f"), once(1 + 6, 0));
    assert_eq!(work("$[0,1][?@.b == 1]"), once(2 * (1 + 3), 0));
    assert_eq!(work("$[?1 == @ && 1 != 2 || (@ > 1)]"), once(1 + 2 + 1 + 2, 0));
    // A test, with a segment that has another; and a comparison.
    assert_eq!(work("$[?!@[?@] || (1 != 2)]"), once(1 + 5 + 4 + 1, 0));
    assert_eq!(work("$[?@, ?$.a]"), once(2 * (1 + 4 + 5), 0));
    assert_eq!(work("$[?length(value(@.*)) < 1.0e1]"), once(1 + 4 + 4 + 5 + 1 + 1, 0));
    assert_eq!(work("$[?$.a['b'][0]]"), once(1 + 4 + 3, 0));
    assert_eq!(work("$..a"), once(1 + 4, 1));
    assert_eq!(work("$.a..b.c['d'][*]"), once(1 + 4 + 3, 1));
    assert_eq!(work("$..[?@.a > 1]"), once(1 + 5 + 3, 2));
    assert_eq!(work("$..[?@.a > 1] && $.a == 2"), once(1 + 5 + 3, 2));
    assert_eq!(work("$[?@.a > 1]..b"), once(1 + 3 + 4, 1));
    assert_eq!(work("$[?@..a && @.a > 1]"), once(1 + 8 + 3, 2));
    // `@`, `==`, and two for 64 bytes of quotes and letters.
    assert_eq!(work(&format!("$[?@=='{}']", "a".repeat(62))), once(1 + 2 + 2, 0));
    assert_eq!(work(&format!("$['{}']", "a".repeat(62))), once(0, 0));
    // Over a document: nodes, and 32 bytes as one.
    let document = json!({ "a": [1, "b".repeat(32)], "c".repeat(64): {} });
    assert_eq!(once(1, 0).over(&document), 5 + 1 + 2);
    assert_eq!(once(0, 2).over(&document), 1 + 2 + 3 + 3 + 3 + 2 + 2 * 2);
    assert_eq!(once(3, 4).over(&document), 3 * 8 + 2 * 18);
    assert_eq!(once(0, 0).over(&document), 0);
    assert_eq!(once(u64::MAX / 2, u64::MAX / 2).over(&document), u64::MAX);
}
