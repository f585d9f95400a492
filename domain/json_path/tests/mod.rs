//! Examples of RFC 9535, and every rule that is added to it.

use super::*;
use serde_json::json;

mod comparisons;
mod costs;
mod properties;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn holds(text: &str, document: &Value) -> bool {
    Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(document).unwrap()
}

fn broken(text: &str) -> [Option<Rule>; 2] {
    [Path::parse(text).err().map(|error| error.rule), Condition::parse(text).err().map(|error| error.rule)]
}

fn bookstore() -> Value {
    json!({ "store": {
        "book": [
            { "category": "reference", "author": "Nigel Rees", "title": "Sayings of the Century", "price": 8.95 },
            { "category": "fiction", "author": "Evelyn Waugh", "title": "Sword of Honour", "price": 12.99 },
            { "category": "fiction", "author": "Herman Melville", "title": "Moby Dick", "isbn": "0-553-21311-3",
                "price": 8.99 },
            { "category": "fiction", "author": "J. R. R. Tolkien", "title": "The Lord of the Rings",
                "isbn": "0-395-19395-8", "price": 22.99 }
        ],
        "bicycle": { "color": "red", "price": 399 }
    } })
}

#[test]
fn the_bookstore_of_rfc_9535_is_queried_as_it_says() {
    let document = bookstore();
    let titles = |text: &str| -> Vec<String> {
        let books = path(text).select(&document).unwrap();
        books.iter().map(|book| book["title"].as_str().unwrap().to_owned()).collect()
    };
    let select = |text: &str| path(text).select(&document).unwrap().len();
    let authors = ["Nigel Rees", "Evelyn Waugh", "Herman Melville", "J. R. R. Tolkien"];
    assert_eq!(path("$.store.book[*].author").select(&document).unwrap(), authors);
    assert_eq!(path("$..author").select(&document).unwrap(), authors);
    assert_eq!(select("$.store.*"), 2);
    assert_eq!(select("$.store..price"), 5);
    assert_eq!(titles("$..book[2]"), ["Moby Dick"]);
    assert_eq!(path("$..book[2].publisher").only(&document), Ok(None));
    assert_eq!(titles("$..book[-1]"), ["The Lord of the Rings"]);
    assert_eq!(titles("$..book[0,1]"), ["Sayings of the Century", "Sword of Honour"]);
    assert_eq!(titles("$..book[:2]"), ["Sayings of the Century", "Sword of Honour"]);
    assert_eq!(titles("$..book[?@.isbn]"), ["Moby Dick", "The Lord of the Rings"]);
    assert_eq!(titles("$..book[?@.price<10]"), ["Sayings of the Century", "Moby Dick"]);
    assert_eq!(select("$..*"), 27);
    assert_eq!(path("$").only(&document), Ok(Some(&document)));
    assert_eq!(path("$.store.bicycle.color").only(&document), Ok(Some(&json!("red"))));
    assert_eq!(path("$.store.book[*].title").only(&document), Ok(None), "there are more than one");
    assert_eq!(titles("$.store.book[?@.price > $.store.book[0].price && @.isbn]").len(), 2);
}

#[test]
fn the_filters_of_rfc_9535_select_what_it_says() {
    // Section 2.3.5.3, table 12.
    let document = json!({
        "a": [3, 5, 1, 2, 4, 6, { "b": "j" }, { "b": "k" }, { "b": {} }, { "b": "kilo" }],
        "o": { "p": 1, "q": 2, "r": 3, "s": 5, "t": { "u": 6 } },
        "e": "f"
    });
    let select = |text: &str| json!(path(text).select(&document).unwrap());
    assert_eq!(select("$.a[?@.b == 'kilo']"), json!([{ "b": "kilo" }]));
    assert_eq!(select("$.a[?(@.b == 'kilo')]"), json!([{ "b": "kilo" }]));
    assert_eq!(select("$.a[?@>3.5]"), json!([5, 4, 6]));
    assert_eq!(select("$.a[?@.b]"), json!([{ "b": "j" }, { "b": "k" }, { "b": {} }, { "b": "kilo" }]));
    assert_eq!(select("$[?@.*]"), json!([document["a"], document["o"]]));
    assert_eq!(select("$[?@[?@.b]]"), json!([document["a"]]));
    assert_eq!(select("$.o[?@<3, ?@<3]"), json!([1, 2, 1, 2]));
    assert_eq!(select("$.a[?@<2 || @.b == \"k\"]"), json!([1, { "b": "k" }]));
    assert_eq!(select("$.o[?@>1 && @<4]"), json!([2, 3]));
    assert_eq!(select("$.o[?@.u || @.x]"), json!([{ "u": 6 }]));
    assert_eq!(select("$.a[?@.b == $.x]"), json!([3, 5, 1, 2, 4, 6]));
    assert_eq!(select("$.a[?@ == @]"), document["a"]);
    assert_eq!(select("$.a[?length(@.b) == 4]"), json!([{ "b": "kilo" }]));
    // Section 2.4.9: what is not well-typed.
    for text in [
        "length(@.*) < 3",
        "count(1) == 1",
        "count(foo(@.*)) == 1",
        "value(@..color)",
        "length(@)",
        "@.*=='a'",
    ] {
        assert!(Path::parse(&format!("$[?{text}]")).is_err(), "{text}");
    }
}

#[test]
fn the_comparisons_of_rfc_9535_are_true_where_it_says() {
    // Section 2.3.5.3, table 11.
    let document = json!({ "obj": { "x": "y" }, "arr": [2, 3] });
    let yes = [
        "$.absent1 == $.absent2",
        "$.absent1 <= $.absent2",
        "$.absent != 'g'",
        "1 <= 2",
        "'a' <= 'b'",
        "$.obj != $.arr",
        "$.obj == $.obj",
        "$.arr == $.arr",
        "$.obj != 17",
        "$.obj <= $.obj",
        "$.arr <= $.arr",
        "true <= true",
    ];
    let no = [
        "$.absent == 'g'",
        "$.absent1 != $.absent2",
        "1 > 2",
        "13 == '13'",
        "'a' > 'b'",
        "$.obj == $.arr",
        "$.obj != $.obj",
        "$.arr != $.arr",
        "$.obj == 17",
        "$.obj <= $.arr",
        "$.obj < $.arr",
        "1 <= $.arr",
        "1 >= $.arr",
        "1 > $.arr",
        "1 < $.arr",
        "true > true",
    ];
    for (texts, expected) in [(&yes[..], true), (&no[..], false)] {
        for text in texts {
            assert_eq!(holds(text, &document), expected, "{text}");
            assert_eq!(holds(&format!("!({text})"), &document), !expected, "{text}");
        }
    }
    // By the same section: what has no order is neither less nor greater, and not the one or the other of these.
    for text in
        ["true > false", "true >= false", "$.arr >= $.obj", "$.obj > $.absent", "null < 1", "[] == []"]
    {
        assert!(Condition::parse(text).is_err() || !holds(text, &document), "{text}");
    }
    assert!(holds("$.absent1 >= $.absent2", &document) && holds("null >= null", &document));
}

#[test]
fn a_condition_is_asked_of_the_document_itself() {
    let document = json!({
        "trigger": { "kind": "refund", "lines": [{ "sum": 5 }, { "sum": 20 }] },
        "review": { "output": { "score": 0.9, "approved": false, "note": "a && b], $[?'", "tags": [] } }
    });
    for text in [
        "$.review.output.score > 0.8 && $.trigger.kind == 'refund'",
        " $.review.output.score<=0.8\n||\t$.trigger.kind==\"refund\" ",
        "$.trigger.lines[-1].sum == 20",
        "20==$.trigger.lines [ -1 ] ['sum']",
        "count($.trigger.lines[?@.sum > 10]) == 1",
        "count( $..sum ) == length($.trigger.lines)",
        "length($.trigger.kind)==length('refund')",
        "value($..score) >= 0.9",
        "length(value($..kind)) == 6",
        "length($.review.output.score) == $.absent",
        "$.review.output.note == 'a && b], $[?\\''",
        "!($.trigger.kind != 'refund') && (1 == 2 || (1 == 1))",
        "1 == 1 || 1 == 2 && 1 == 2",
        "$.trigger.lines[?@.sum == $.trigger.lines[0].sum]",
    ] {
        assert!(holds(text, &document), "{text}");
        assert!(!holds(&format!("!({text})"), &document), "{text}");
    }
    // Also where there is nothing in the document.
    for document in [json!({}), json!([]), json!(null), json!(1), json!("")] {
        assert!(holds("!$.trigger && $.trigger != 1 && 1 == 1 && $ == $", &document), "{document}");
    }
}

#[test]
fn a_query_that_is_not_compared_holds_where_it_selects_what_is_neither_false_nor_null() {
    let document =
        json!({ "yes": true, "no": false, "null": null, "zero": 0, "empty": [], "some": [null, false, ""] });
    for (text, expected) in [
        ("$.yes", true),
        ("$.no", false),
        ("$.null", false),
        ("$.absent", false),
        ("$.zero", true),
        ("$.empty", true),
        ("$.empty[*]", false),
        ("$.some[*]", true),
        ("$.some[:2]", false),
        ("$", true),
        ("!$.no", true),
        ("!($.no)", true),
        ("!$.yes", false),
        ("$.no || $.absent", false),
        ("$.yes && !$.no", true),
        ("($.yes) && ($.no)", false),
        ("$.no == false", true),
        // Within a filter it is whether there is such a node, as RFC 9535 has it.
        ("$[?@ == false]", false),
        ("$.some[?@ == false]", false),
        ("count($[?@ == false]) == 1", true),
    ] {
        assert_eq!(holds(text, &document), expected, "{text}");
    }
    assert!(holds("$[?@.no]", &json!([{ "no": false }])));
}

#[test]
fn no_text_gets_out_of_the_filter_that_it_is_read_as() {
    for text in [
        "true], $[?true",
        "$.a] , [?$.b",
        "$.a], [?$.b",
        "$.a, ?$.b",
        "$.a][?$.b",
        "$.a]..[?$.b",
        "$.a].b[0",
        "1==1],[0",
        "1==1]..*[?1==1",
        "1==1,0",
        "$.a[0]]",
        "1==1)][?(1==1",
        "$.a == 'x",
        "$.a == 'x']",
        "]",
        ",",
        "[",
        "(1==1",
        "1==1)",
        "([1==1)]",
        "$.a == \"x\\\"",
        "1==1 ]\n[?1==1",
        "*",
        "0",
        "'a'",
        ":",
        "?1==1",
        "",
        " ",
        "true",
        "1==1 // ]",
        "$.a = 1",
        "$.a == 1 &&",
        "&& $.a",
        "$.a & $.b",
        "!!$.a",
        "!1 == 1",
        "$.a == 1 == 1",
        "$.a $.b",
        "$.a ($.b)",
        "($.a)($.b)",
        "count($.a)",
        "length($.a)",
        "$.*== 1",
        "1 < 2 < 3",
        "match('a', 'a')",
    ] {
        assert!(Condition::parse(text).is_err(), "{text}");
    }
    assert!(matches!(broken("$.a, ?$.b")[1], Some(Rule::Comma)));
    assert!(matches!(broken("$.a] , [?$.b")[1], Some(Rule::Unbalanced)));
    assert!(
        matches!(broken("@.a")[1], Some(Rule::Current))
            && matches!(broken("(@ == 1)")[1], Some(Rule::Current))
    );
    assert!(matches!(broken("count(@.*) == 1")[1], Some(Rule::Current)));
}

#[test]
fn an_error_names_the_rule_and_the_place() {
    let of_path = |text: &str| Path::parse(text).unwrap_err().to_string();
    let of_condition = |text: &str| Condition::parse(text).unwrap_err().to_string();
    assert_eq!(of_path("$.ä['b"), "a string is not closed, at character 5");
    assert_eq!(of_path("$.a]"), "a bracket has no counterpart, at character 4");
    assert_eq!(of_path("$.a[(0]"), "a bracket has no counterpart, at character 7");
    assert_eq!(of_path("$..a..b"), "`..` stands more than once in a query, at character 5");
    assert_eq!(of_condition("$.a == @.b"), "@ means nothing outside of a filter in brackets, at character 8");
    assert!(of_path("a.b").ends_with("at character 1"), "{}", of_path("a.b"));
    assert!(of_path("$.a b").starts_with("this is not as RFC 9535 has it: "), "{}", of_path("$.a b"));
    assert!(of_path("$.a b").ends_with("at character 4"), "{}", of_path("$.a b"));
    assert!(of_condition("$.a == ").starts_with("this is not as RFC 9535 has it: "));
    // Texts that end within an escape, where the library gives up on itself.
    for text in ["$['\\u", "$[\"\\u", "$['\\uD", "$['\\uD83D\\u", "$['\\uD83D\\uD", "$.a == '\\u", "$['\\"] {
        assert_eq!(broken(text), [Some(Rule::OpenString), Some(Rule::OpenString)], "{text}");
    }
}

#[test]
fn they_are_written_as_they_were_read_and_checked_when_they_are_read() {
    let condition = Condition::parse(" ! ( $['a\\u00e4'] == \"b\" ) ").unwrap();
    let json = serde_json::to_string(&condition).unwrap();
    assert_eq!(serde_json::from_str::<Condition>(&json).unwrap(), condition);
    assert_eq!(condition.to_string(), " ! ( $['a\\u00e4'] == \"b\" ) ");
    let path = path("$ [ 'a' , -1 ] .b");
    let json = serde_json::to_string(&path).unwrap();
    assert_eq!(serde_json::from_str::<Path>(&json).unwrap(), path);
    assert_eq!(path.to_string(), "$ [ 'a' , -1 ] .b");
    assert!(
        serde_json::from_str::<Condition>("\"@.a\"").is_err()
            && serde_json::from_str::<Path>("\"a\"").is_err()
    );
}
