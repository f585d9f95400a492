use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;

use super::*;

const SECRET: &str = "p/ss \"wörd\"<1>";
/// RFC 3986: everything but the unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn redactor(values: &[&str]) -> Redactor {
    Redactor::new(values.iter().copied()).unwrap()
}

/// Digits in lines of so many.
fn lines(digits: &str, width: usize, end: &str) -> String {
    let lines: Vec<&str> =
        digits.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join(end)
}

#[test]
fn a_secret_is_masked_as_it_is_and_in_every_common_encoding() {
    let redactor = redactor(&[SECRET]);
    let hex = hex::encode(SECRET);
    for spelled in [
        SECRET,
        &hex,
        &hex.to_uppercase(),
        &lines(&hex, 2, " "),
        &lines(&hex, 4, " "),
        &lines(&hex, 2, ":"),
        &lines(&hex, 6, "\r\n    "),
        &lines(&hex, 2, ", 0x"),
        &format!("\\x{}", lines(&hex, 2, "\\x")),
        "p%2Fss%20%22w%C3%B6rd%22%3C1%3E",
        "p%2fss%20%22w%c3%b6rd%22%3c1%3e",
        "p/ss%20%22w%C3%B6rd%22%3C1%3E",
        "p%2Fss+%22w%C3%B6rd%22%3C1%3E",
        "p%252Fss%2520%2522w%25C3%25B6rd%2522%253C1%253E",
        r#"p/ss \"wörd\"<1>"#,
        r#"p\/ss \"wörd\"<1>"#,
        r#"p/ss \"w\u00f6rd\"\u003c1\u003e"#,
        r#"p/ss \"w\u00F6rd\"\u003C1\u003E"#,
        r#"p/ss \\\"wörd\\\"<1>"#,
        r#"p/ss "w\xc3\xb6rd"<1>"#,
        r#"p/ss "w\xf6rd"<1>"#,
        r#"p/ss "w\303\266rd"<1>"#,
        r#"p/ss \"w\u{f6}rd\"<1>"#,
        r#"p/ss\ \"wörd\"\<1\>"#,
        "p/ss &quot;wörd&quot;&lt;1&gt;",
        "p&#47;ss &#34;w&#xF6;rd&#34;&#x3c;1&#x3E;",
        "cC9zcyAid8O2cmQiPDE-",
        "cC9zcyAid8O2cmQiPDE+",
        "cC9zcyAid8\nO2cmQiP\nDE+",
        "cC9zcyAid8\\r\\nO2cmQiPDE+",
        "cC9zcyAid8O2cmQiPDE%2B",
    ] {
        assert_eq!(redactor.text(&format!("; {spelled} ;")), "; *** ;", "{spelled}");
    }
    for innocent in ["nothing to hide", "p/ss", "%", "\\", "&", "a\\u00", "%C3", "&#1", "\\ud83d\\u0000 é\\"]
    {
        assert_eq!(redactor.text(innocent), innocent);
    }
    // Beyond the first plane characters are two escapes.
    assert_eq!(self::redactor(&["1234567😀"]).text(r"a 1234567\uD83d\ude00 b"), "a *** b");
}

#[test]
fn a_secret_in_a_dump_is_masked_with_the_characters_beside_it() {
    let redactor = redactor(&["0123456789abcdefghijklmnopqrstuvwxyz"]);
    let xxd = "00000000: 6e6f 7420 3031 3233 3435 3637 3839 6162  not 0123456789ab\n\
               00000010: 6364 6566 6768 696a 6b6c 6d6e 6f70 7172  cdefghijklmnopqr\n\
               00000020: 7374 7576 7778 797a 2065 6e64            stuvwxyz end\n";
    assert_eq!(redactor.text(xxd), "00000000: 6e6f 7420 ***\n");
    let hexdump = "00000000  30 31 32 33 34 35 36 37  38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
                   00000010  67 68 69 6a 6b 6c 6d 6e  6f 70 71 72 73 74 75 76  |ghijklmnopqrstuv|\n\
                   00000020  77 78 79 7a 0a                                    |wxyz.|\n\
                   00000025\n";
    assert_eq!(redactor.text(hexdump), "00000000  ***\n00000025\n");
}

#[test]
fn what_a_cut_has_left_of_a_secret_is_masked() {
    let redactor = redactor(&[SECRET, "s3cret-s3cret"]);
    for spelled in [
        SECRET.to_owned(),
        hex::encode(SECRET),
        lines(&hex::encode(SECRET), 2, " "),
        utf8_percent_encode(SECRET, RESERVED).to_string(),
        serde_json::to_string(SECRET).unwrap().trim_matches('"').to_owned(),
        r#"p/ss "w\u00f6rd"<1>"#.to_owned(),
        "p/ss &quot;wörd&quot;&lt;1&gt;".to_owned(),
        base64(SECRET.as_bytes(), 0),
        lines(&base64(SECRET.as_bytes(), 0), 4, "\n"),
    ] {
        let bytes = spelled.as_bytes();
        for end in (bytes.len() / 2 + 4)..bytes.len() {
            let cut = format!("; {}", String::from_utf8_lossy(&bytes[..end]));
            assert_eq!(redactor.cut_text(&cut), "; ***", "{cut}");
            assert!(!redactor.text(&cut).contains(MASK), "{cut}");
        }
    }
    assert_eq!(redactor.cut_text("a s3c"), "a s3c");
    assert_eq!(redactor.cut_text("a s3cr"), "a ***");
    assert_eq!(redactor.cut_text("a s3cret-s3cr s3cret- "), "a s3cret-s3cr s3cret- ");
    // Its end may be the beginning of another.
    assert_eq!(redactor.cut_text("s3cret-s3cret"), "***");
    assert_eq!(redactor.cut_text("\u{fffd}\u{fffd}"), "\u{fffd}\u{fffd}");
    assert_eq!(redactor.cut_text(""), "");
}

#[test]
fn short_values_are_left_alone_and_long_ones_are_refused() {
    assert_eq!(redactor(&["1234567", ""]).text("1234567"), "1234567");
    assert_eq!(redactor(&["12345678"]).text("12345678"), "***");
    assert_eq!(redactor(&["1234ö67"]).text("1234ö67"), "***");
    let long = "x".repeat(64 * 1024);
    assert!(redactor(&[&long]).text(&format!("<{long}>")) == "<***>");
    assert!(redactor(&[&long]).cut_text(&format!("<{}", &long[1..])) == "<***");
    assert_eq!(Redactor::new(std::iter::repeat_n(&long[..], 100)).err(), Some(TooLarge));
}

#[test]
fn secrets_that_overlap_are_one_mask() {
    let redactor = redactor(&["abcdefgh", "efghijkl", "cdefghijklmn"]);
    assert_eq!(redactor.text("-abcdefghijkl-"), "-***-");
    assert_eq!(redactor.text("-abcdefghijklmn-"), "-***-");
    assert_eq!(redactor.text("-abcdefghabcdefgh-"), "-******-");
}

#[test]
fn a_replacement_character_of_a_secret_is_a_part_of_it_where_the_next_one_was_cut() {
    let secret = "Σ\u{fffd}𒑰 of a secret";
    let cut = String::from_utf8_lossy(&secret.as_bytes()[..6]).into_owned();
    assert_eq!(redactor(&[secret]).cut_text(&cut), MASK);
}

proptest! {
    #[test]
    fn no_text_keeps_a_secret(
        // Few letters, so that secrets overlap and repeat.
        secrets in proptest::collection::vec("[ab/ö]{8,12}", 1..4),
        text in "[ab/ö ]{0,120}",
    ) {
        let redactor = redactor(&secrets.iter().map(String::as_str).collect::<Vec<_>>());
        let masked = redactor.text(&text);
        prop_assert!(secrets.iter().all(|secret| !masked.contains(secret)));
    }

    #[test]
    fn a_cut_leaves_nothing_of_a_secret_that_could_be_told(secret in "\\PC{8,30}", left in 4..200_usize) {
        let redactor = redactor(&[&secret]);
        let left = left.min(secret.len());
        let cut = String::from_utf8_lossy(&secret.as_bytes()[..left]).into_owned();
        let masked = redactor.cut_text(&cut);
        prop_assert!(masked.len() <= SHORTEST_PART + 3, "{} {}", cut, masked);
    }

    #[test]
    fn no_text_makes_it_panic(secret in "[\\\\%&+;#xu0-9a-fö\n ]{8,12}", text in "[\\\\%&+;#xuU{}0-9a-fö\u{fffd}:\n ]{0,200}") {
        let redactor = redactor(&[&secret]);
        let _ = redactor.text(&text);
        let _ = redactor.cut_text(&text);
    }

    #[test]
    fn a_secret_in_a_longer_base64_text_is_masked(
        secret in "[ -~ö]{8,100}",
        before in "[a-z]{0,7}",
        after in "[a-z]{0,7}",
        width in 4..80_usize,
    ) {
        let redactor = redactor(&[&secret]);
        let whole = format!("{before}{secret}{after}");
        let digits = base64(whole.as_bytes(), 0);
        for digits in [digits.replace('+', "-").replace('/', "_"), digits] {
            let text = lines(&digits, width, "\n");
            let masked = redactor.text(&text);
            prop_assert!(masked.contains(MASK));
            // At the ends stand the neighbours and at most one character of base64 that is shared with them.
            let kept = masked.replace(MASK, "").replace('\n', "").len();
            prop_assert!(kept <= before.len() * 8 / 6 + after.len() * 8 / 6 + 4, "{} {}", text, masked);
        }
    }

    #[test]
    fn a_secret_is_masked_in_json_percent_and_hex(secret in "\\PC{8,30}", around in "[a-z ]{0,9}") {
        let redactor = redactor(&[&secret]);
        let json = serde_json::to_string(&format!("{around}{secret}{around}")).unwrap();
        prop_assert_eq!(redactor.text(&json), format!("\"{around}{MASK}{around}\""));
        let percent = utf8_percent_encode(&secret, RESERVED).to_string();
        prop_assert_eq!(redactor.text(&percent), MASK);
        let hex = hex::encode(&secret);
        prop_assert_eq!(redactor.text(&hex), MASK);
    }
}
