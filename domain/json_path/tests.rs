use super::*;
use proptest::prelude::*;
use serde_json::json;

fn path(text: &str) -> Path {
    Path::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn holds(text: &str, document: &Value) -> bool {
    Condition::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")).holds(document)
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
    assert_eq!(path("$..book[2].publisher").only(&document), None);
    assert_eq!(titles("$..book[-1]"), ["The Lord of the Rings"]);
    assert_eq!(titles("$..book[0,1]"), ["Sayings of the Century", "Sword of Honour"]);
    assert_eq!(titles("$..book[:2]"), ["Sayings of the Century", "Sword of Honour"]);
    assert_eq!(titles("$..book[?@.isbn]"), ["Moby Dick", "The Lord of the Rings"]);
    assert_eq!(titles("$..book[?@.price<10]"), ["Sayings of the Century", "Moby Dick"]);
    assert_eq!(select("$..*"), 27);
    assert_eq!(path("$").only(&document), Some(&document));
    assert_eq!(path("$.store.bicycle.color").only(&document), Some(&json!("red")));
    assert_eq!(path("$.store.book[*].title").only(&document), None, "there are more than one");
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
fn what_would_be_dear_is_refused() {
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
    assert_eq!(path("$[*]").select(&document), Err(TooManyNodes));
    assert_eq!(path("$[1:]").select(&document).map(|nodes| nodes.len()), Ok(MOST_NODES));
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

/// A condition by its meaning.
#[derive(Debug, Clone)]
enum Tree {
    Test(&'static str),
    Comparison(&'static str, &'static str, &'static str),
    Not(Box<Tree>),
    All(Vec<Tree>),
    Any(Vec<Tree>),
}

fn document() -> Value {
    json!({ "n": 3, "m": -2.5, "s": "x", "t": true, "f": false, "z": null, "l": [1, 2], "e": {} })
}

impl Tree {
    /// Written with a parenthesis around each part that is itself joined.
    fn text(&self) -> String {
        let parts = |trees: &[Self], operator: &str| {
            let parts = trees.iter().map(|tree| match tree {
                Self::All(_) | Self::Any(_) => format!("({})", tree.text()),
                _ => tree.text(),
            });
            parts.collect::<Vec<_>>().join(operator)
        };
        match self {
            Self::Test(query) => (*query).to_owned(),
            Self::Comparison(left, operator, right) => format!("{left} {operator}{right}"),
            Self::Not(tree) => format!("!({})", tree.text()),
            Self::All(trees) => parts(trees, "&&"),
            Self::Any(trees) => parts(trees, " || "),
        }
    }

    fn value(text: &str) -> Option<Value> {
        match text.strip_prefix("$.") {
            Some("l[-1]") => Some(json!(2)),
            Some(name) => document().get(name).cloned(),
            None => Some(serde_json::from_str(&text.replace('\'', "\"")).unwrap()),
        }
    }

    fn holds(&self) -> bool {
        match self {
            Self::Test(query) => !matches!(Self::value(query), None | Some(Value::Null | Value::Bool(false))),
            Self::Comparison(left, operator, right) => {
                let (left, right) = (Self::value(left), Self::value(right));
                let less = |one: &Option<Value>, other: &Option<Value>| match (one, other) {
                    (Some(Value::Number(one)), Some(Value::Number(other))) => one.as_f64() < other.as_f64(),
                    (Some(Value::String(one)), Some(Value::String(other))) => one < other,
                    _ => false,
                };
                match *operator {
                    "==" => left == right,
                    "!=" => left != right,
                    "<" => less(&left, &right),
                    ">" => less(&right, &left),
                    "<=" => less(&left, &right) || left == right,
                    _ => less(&right, &left) || left == right,
                }
            }
            Self::Not(tree) => !tree.holds(),
            Self::All(trees) => trees.iter().all(Self::holds),
            Self::Any(trees) => trees.iter().any(Self::holds),
        }
    }
}

fn tree() -> impl Strategy<Value = Tree> {
    let query = prop::sample::select(vec![
        "$.n", "$.m", "$.s", "$.t", "$.f", "$.z", "$.l", "$.e", "$.absent", "$.gone", "$.l[-1]",
    ]);
    let literal = prop::sample::select(vec!["3", "-2.5", "2", "'x'", "'y'", "true", "false", "null"]);
    let side = || prop_oneof![query.clone(), literal.clone()];
    let operator = prop::sample::select(vec!["==", "!=", "<", ">", "<=", ">="]);
    let leaf = prop_oneof![
        query.clone().prop_map(Tree::Test),
        (side(), operator, side())
            .prop_map(|(left, operator, right)| Tree::Comparison(left, operator, right)),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 1..4);
        prop_oneof![
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
            several.clone().prop_map(Tree::All),
            several.prop_map(Tree::Any),
        ]
    })
}

/// Texts of the words that conditions are made of.
fn words() -> impl Strategy<Value = String> {
    let words = vec![
        "$", "@", ".a", ".l", "..", ".*", "[", "]", "[0]", "[?", "(", ")", "!", "&&", "||", "==", "<", ",",
        "'", "\"", "\\", "\\u", "'x'", "1", "-1", ":", "*", " ", "count(", "length(", "value(", "true",
        "$.a", "$.l", "$.a == 1", "ä",
    ];
    prop::collection::vec(prop::sample::select(words), 0..14).prop_map(|words| words.concat())
}

proptest! {
    #[test]
    fn conditions_mean_what_they_say(tree in tree()) {
        let text = tree.text();
        let condition = Condition::parse(&text);
        prop_assert!(condition.is_ok(), "{}: {:?}", text, condition);
        prop_assert_eq!(condition.unwrap().holds(&document()), tree.holds(), "{}", text);
    }

    #[test]
    fn any_text_is_refused_or_stays_within_its_parentheses(text in words()) {
        let document = json!({ "a": 1, "l": [{ "a": false }, [1]] });
        if let Ok(condition) = Condition::parse(&text) {
            // What would get out of the filter would not get out of the parenthesis as well.
            let is_deepest = matches!(Condition::parse(&format!("({text})")), Err(Invalid { rule: Rule::TooDeep, .. }));
            if !is_deepest {
                prop_assert_eq!(holds(&format!("({text})"), &document), condition.holds(&document), "{}", text);
                prop_assert_eq!(holds(&format!("!({text})"), &document), !condition.holds(&document), "{}", text);
            }
        }
        if let Ok(path) = Path::parse(&text) {
            let nodes = path.select(&document).unwrap();
            prop_assert_eq!(path.only(&document), if nodes.len() == 1 { Some(nodes[0]) } else { None });
            let tested = nodes.iter().any(|node| !matches!(node, Value::Null | Value::Bool(false)));
            prop_assert_eq!(holds(&text, &document), tested, "{}", text);
        }
    }

    #[test]
    fn no_text_makes_them_panic(text in "[$@.a0\\[\\]()?!&|=<>'\"\\\\u,:* -]{0,30}") {
        let _ = (Path::parse(&text), Condition::parse(&text));
    }
}
