//! What is compared, and what a text names: where the library does not do as RFC 9535 says.

use super::*;

#[test]
fn numbers_within_arrays_and_objects_are_equal_as_numbers_are() {
    let document = json!({
        "a": [1], "b": [1.0], "c": { "n": [1, { "m": -0.0 }] }, "d": { "n": [1.0, { "m": 0 }] },
        "e": [9_007_199_254_740_993_u64], "f": [9_007_199_254_740_992.0], "g": [2], "h": [1, 1], "i": { "o": 1 },
        "j": { "n": 1 }
    });
    for (left, right) in [("$.a", "$.b"), ("$.c", "$.d"), ("$.e", "$.f")] {
        for (left, right) in [(left, right), (right, left)] {
            for (operator, expected) in
                [("==", true), ("!=", false), ("<=", true), (">=", true), ("<", false), (">", false)]
            {
                let text = format!("{left} {operator} {right}");
                assert_eq!(holds(&text, &document), expected, "{text}");
            }
        }
    }
    for (left, right) in [("$.a", "$.g"), ("$.a", "$.h"), ("$.i", "$.j"), ("$.a", "$.j"), ("$.h", "$.a")] {
        for (operator, expected) in [("==", false), ("!=", true), ("<=", false), (">=", false)] {
            let text = format!("{left} {operator} {right}");
            assert_eq!(holds(&text, &document), expected, "{text}");
        }
    }
}

#[test]
fn the_filters_of_a_query_take_1_and_1_0_for_two_only_within_arrays_and_objects() {
    // What the documentation of the module says of them.
    let document =
        json!({ "items": [{ "v": [1], "n": 1 }, { "v": [1.0], "n": 1.0 }], "want": [1.0], "one": 1 });
    assert_eq!(path("$.items[?@.v == $.want]").select(&document).unwrap(), [&document["items"][1]]);
    assert_eq!(path("$.items[?@.n == $.one]").select(&document).unwrap().len(), 2);
}

#[test]
fn a_name_ends_where_rfc_9535_ends_it() {
    // What Rust takes for blanks and RFC 9535 for letters.
    for blank in ['\u{a0}', '\u{85}', '\u{1680}', '\u{2003}', '\u{2028}', '\u{3000}'] {
        let document = json!({ "a": 1, format!("a{blank}"): [9, 9], "b": "x" });
        for (text, expected) in [
            (format!("$.a{blank}<5"), false),
            (format!("$.a{blank}== 1"), false),
            (format!("1==$.a{blank}"), false),
            (format!("$.b{blank} == 'x'"), false),
            (format!("count($.a{blank})==1&&length($.a{blank})==2"), true),
            (format!("length( $.a{blank}\t) == 2"), true),
            (format!("length($.b{blank}) == 1"), false),
            (format!("$.a{blank} == $['a{blank}']"), true),
            (format!("$.a{blank}[0] == 9 && $.a == 1"), true),
        ] {
            assert_eq!(holds(&text, &document), expected, "{text:?}");
        }
        for text in [format!("{blank}$.a == 1"), format!("$.a == 1{blank}"), format!("$.a =={blank}1")] {
            assert!(Condition::parse(&text).is_err(), "{text:?}");
        }
    }
}

#[test]
fn whatever_rfc_9535_allows_to_be_spelled_is_read() {
    let document = json!({ "😀": 1, "a": "😀", "\u{a0000}": 2, "n": { "b": 3 }, "..": "' ..\"" });
    // Hexadecimal digits of either case.
    for text in ["$['\\ud83d\\ude00']", "$[\"\\uD83d\\uDE00\"]", "$['\\uD83D\\ude00']"] {
        assert_eq!(path(text).only(&document), Ok(Some(&json!(1))), "{text}");
        assert_eq!(path(text).as_str(), text);
    }
    assert_eq!(path("$['\\uDa40\\uDC00']").only(&document), Ok(Some(&json!(2))));
    assert!(holds("$.a == '\\ud83d\\ude00' && \"\\uD83d\\udE00\" == $.a", &document));
    assert!(Path::parse("$['\\ud83d']").is_err() && Path::parse("$['\\ud83d\\ud83d']").is_err());
    // Blanks before every segment.
    for text in ["$ ..b", "$.n\t..b", "$.n \r\n ..['b']", "$ ..n .b", "$ ..n ['b']"] {
        assert_eq!(path(text).only(&document), Ok(Some(&json!(3))), "{text}");
        assert_eq!(path(text).as_str(), text);
    }
    assert_eq!(path("$[?@ ..b]").only(&document), Ok(Some(&document["n"])));
    assert!(holds("count($ ..b) == 1 && $['..'] == '\\' ..\"' && $[\"..\"] == \"' ..\\\"\"", &document));
    assert!(!holds("$['..'] == '\\'..\"'", &document), "a string keeps its blanks");
    for text in ["$.. b", "$. .b", "$. ..b", "$ . .b", "$ ...b", "$ ..", "1 ..b"] {
        assert_eq!((Path::parse(text).is_err(), Condition::parse(text).is_err()), (true, true), "{text}");
    }
    // An error is where it was written.
    assert_eq!(
        Path::parse("$  ..a  ..b").unwrap_err().to_string(),
        "`..` stands more than once in a query, at character 9"
    );
    assert!(Path::parse("$ ..a b").unwrap_err().to_string().ends_with("at character 6"));
}

#[test]
fn literals_are_what_they_spell() {
    let document =
        json!({ "s": "a'\"\\/\u{8}\u{c}\n\r\tä\u{7f}", "n": -0.0, "m": 1e3, "t": true, "z": null });
    for text in [
        "$.s == 'a\\'\"\\\\\\/\\b\\f\\n\\r\\t\\u00E4\u{7f}'",
        "$.s == \"a'\\\"\\\\\\/\\b\\f\\n\\r\\tä\u{7f}\"",
        "$.n == -0 && $.n == 0 && $.n == 0.0e1",
        "$.m == 1E+3 && $.m == 1000 && $.m == 10000.0e-1",
        "true == $.t && null == $.z && !($.z == false)",
        "length('\\ud83d\\ude00') == 1 && length('') == 0 && length(1) == $.none && length(length('a')) == $.none",
        "'' < 'a' && 'a' < 'b' && '\u{ffff}' < '😀' && 1 < 1.5 && -1 > -1.5",
    ] {
        assert!(holds(text, &document), "{text}");
    }
}
