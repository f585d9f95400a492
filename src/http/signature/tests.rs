use super::*;
use axum::http::HeaderValue;
use proptest::prelude::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID_VALUE: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const SENT_S: i64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
/// The signature that the libraries of Standard Webhooks give for these.
const SIGNED: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
/// What HMAC-SHA-256 comes to for the body under the whole of the secret: as OpenSSL tells it.
const BODY_SIGNED: &str = "sha256=80ec8a89ce3cd22133a1066caecb4d04fea7467657c8514d717ec42c38a5c94c";

fn secret() -> Secret {
    Secret::new(SECRET.to_owned().into()).unwrap()
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1_000)
}

fn sent() -> Result<Proved, Refusal> {
    Ok(Proved::Sent { id: ID_VALUE.to_owned(), at: at(SENT_S) })
}

fn plain(value: &str) -> Headers<'_> {
    Headers { plain: Some(value.as_bytes()), ..Headers::default() }
}

fn standard<'a>(id: &'a str, timestamp: &'a str, signature: &'a str) -> Headers<'a> {
    let [id, timestamp, signature] = [id, timestamp, signature].map(|value| Some(value.as_bytes()));
    Headers { plain: None, id, timestamp, signature }
}

/// What a trigger that takes both kinds makes of the published body, in the second when it was sent.
fn verify(headers: Headers<'_>) -> Result<Proved, Refusal> {
    secret().verify(&headers, BODY, Accepts::Either, at(SENT_S))
}

#[test]
fn the_examples_of_standard_webhooks_are_signed_and_verified() {
    assert_eq!(secret().sign_sent(ID_VALUE, at(SENT_S), BODY), SIGNED);
    assert_eq!(verify(standard(ID_VALUE, "1614265330", SIGNED)), sent());
    let other = Secret::new("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned().into()).unwrap();
    let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    let signed = other.sign_sent("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", at(1_649_367_553), body);
    assert_eq!(signed, "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=");
}

#[test]
fn a_body_is_signed_under_the_bytes_of_the_whole_secret() {
    assert_eq!(secret().sign_body(BODY), BODY_SIGNED);
    assert_eq!(verify(plain(BODY_SIGNED)), Ok(Proved::Body));
    // The digits may be of either case; what stands before them may not.
    let (mark, digits) = BODY_SIGNED.split_at("sha256=".len());
    assert_eq!(verify(plain(&format!("{mark}{}", digits.to_uppercase()))), Ok(Proved::Body));
    for wrong in [
        "",
        digits,
        "sha256=",
        "sha1=0123",
        &format!("SHA256={digits}"),
        &format!(" {BODY_SIGNED}"),
        &format!("{BODY_SIGNED}0"),
        &format!("{BODY_SIGNED}00"),
        &BODY_SIGNED[..BODY_SIGNED.len() - 2],
        &BODY_SIGNED.replace("=8", "=g"),
        &format!("{BODY_SIGNED},{BODY_SIGNED}"),
    ] {
        assert_eq!(verify(plain(wrong)), Err(Refusal::Malformed(PLAIN)), "{wrong}");
    }
    let nothing = format!("sha256={}", "0".repeat(64));
    assert_eq!(verify(plain(&nothing)), Err(Refusal::Wrong));
    let not_text = Headers { plain: Some(b"sha256=\xff"), ..Headers::default() };
    assert_eq!(verify(not_text), Err(Refusal::Malformed(PLAIN)));
}

#[test]
fn a_request_without_the_signature_that_its_trigger_demands_is_refused() {
    assert_eq!(verify(Headers::default()), Err(Refusal::Unsigned));
    let demanding =
        |headers: Headers<'_>| secret().verify(&headers, BODY, Accepts::StandardWebhooks, at(SENT_S));
    assert_eq!(demanding(plain(BODY_SIGNED)), Err(Refusal::Unsigned));
    let complete = standard(ID_VALUE, "1614265330", SIGNED);
    assert_eq!(demanding(complete), sent());
    for part in [
        Headers { id: None, ..complete },
        Headers { timestamp: None, ..complete },
        Headers { signature: None, ..complete },
    ] {
        assert_eq!(demanding(part), Err(Refusal::Unsigned));
        assert_eq!(verify(part), Err(Refusal::Unsigned));
        // What is right of the other kind does not make up for it.
        let both = Headers { plain: Some(BODY_SIGNED.as_bytes()), ..part };
        assert_eq!(verify(both), Err(Refusal::Unsigned));
    }
}

#[test]
fn where_both_kinds_are_there_standard_webhooks_decides() {
    let complete = standard(ID_VALUE, "1614265330", SIGNED);
    let wrong = Headers { plain: Some(b"sha256=00"), ..complete };
    assert_eq!(verify(wrong), sent());
    let wrong = Headers { plain: Some(BODY_SIGNED.as_bytes()), id: Some(b"msg_other"), ..complete };
    assert_eq!(verify(wrong), Err(Refusal::Wrong));
}

#[test]
fn one_right_signature_of_a_list_is_enough_and_other_versions_are_passed_over() {
    let others = "v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4= v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
    let bare = SIGNED.trim_start_matches("v1,");
    let listed = |list: &str| verify(standard(ID_VALUE, "1614265330", list));
    for right in [
        format!("{others} {SIGNED}"),
        format!("{SIGNED} {others}"),
        format!("v1 v1, , {SIGNED}  x,y,z "),
        [&"x ".repeat(config::WEBHOOK_SIGNATURES - 1), SIGNED].concat(),
    ] {
        assert_eq!(listed(&right), sent(), "{right}");
    }
    for wrong in [
        String::new(),
        others.to_owned(),
        bare.to_owned(),
        format!("v1a,{bare}"),
        format!("v2,{bare}"),
        format!("V1,{bare}"),
        format!("v1,v1,{bare}"),
        format!("v1, {bare}"),
        format!("v1,{others},{SIGNED}"),
        SIGNED.replace("1OE=", "1OF="),
        SIGNED.trim_end_matches('=').to_owned(),
    ] {
        assert_eq!(listed(&wrong), Err(Refusal::Wrong), "{wrong}");
    }
    let many = ["x ".repeat(config::WEBHOOK_SIGNATURES), SIGNED.to_owned()].concat();
    assert_eq!(listed(&many), Err(Refusal::Malformed(SIGNATURE)));
}

#[test]
fn a_time_that_is_not_near_is_refused_in_either_direction() {
    let headers = standard(ID_VALUE, "1614265330", SIGNED);
    let when = |ms| secret().verify(&headers, BODY, Accepts::Either, Timestamp::from_millis(ms));
    let sent_ms = SENT_S * 1_000;
    for near in [0, 1, 300_000, 300_999, -1, -300_000] {
        assert_eq!(when(sent_ms + near), sent(), "{near}");
    }
    for far in [301_000, 86_400_000, -300_001, -86_400_000, i64::MIN / 2, i64::MAX / 2] {
        assert_eq!(when(sent_ms + far), Err(Refusal::Stale), "{far}");
    }
}

#[test]
fn a_time_has_one_spelling() {
    for wrong in [
        "",
        "01614265330",
        "+1614265330",
        "-1",
        "-1614265330",
        "-0",
        " 1614265330",
        "1614265330.0",
        "1614265330 ",
        "1_614_265_330",
        "0x6037b972",
        "2021-02-25T15:02:10Z",
        "99999999999999999999",
    ] {
        let refused = verify(standard(ID_VALUE, wrong, SIGNED));
        assert_eq!(refused, Err(Refusal::Malformed(TIMESTAMP)), "{wrong}");
    }
    for far in ["0", "1614265330000", "9223372036854775807"] {
        assert_eq!(verify(standard(ID_VALUE, far, SIGNED)), Err(Refusal::Stale), "{far}");
    }
    let not_text = Headers { timestamp: Some(b"\xff"), ..standard(ID_VALUE, "", SIGNED) };
    assert_eq!(verify(not_text), Err(Refusal::Malformed(TIMESTAMP)));
}

#[test]
fn an_id_cannot_hide_where_the_time_begins() {
    // The very same bytes are signed: `msg_a.1614265330.1614265331.body`.
    let (id, body) = ("msg_a.1614265330", b"1614265331.body");
    let signed = secret().sign_sent("msg_a", at(SENT_S), body);
    assert_eq!(signed, secret().sign_sent(id, at(SENT_S + 1), b"body"));
    let headers = standard("msg_a", "1614265330", &signed);
    assert!(secret().verify(&headers, body, Accepts::Either, at(SENT_S)).is_ok());
    let headers = standard(id, "1614265331", &signed);
    let refused = secret().verify(&headers, b"body", Accepts::Either, at(SENT_S));
    assert_eq!(refused, Err(Refusal::Malformed(ID)));

    let longest = "a".repeat(config::WEBHOOK_ID_BYTES);
    assert_eq!(verify(standard(&longest, "1614265330", SIGNED)), Err(Refusal::Wrong));
    for wrong in ["", ".", "a b", "a\tb", "a\0", "é", &"a".repeat(config::WEBHOOK_ID_BYTES + 1)] {
        assert_eq!(verify(standard(wrong, "1614265330", SIGNED)), Err(Refusal::Malformed(ID)), "{wrong}");
    }
}

#[test]
fn headers_are_found_once_or_not_at_all() {
    let mut headers = HeaderMap::new();
    headers.insert("X-Theazo-Signature", HeaderValue::from_bytes(b"sha256=\xff").unwrap());
    for (name, value) in [("Webhook-Id", "a"), ("webhook-timestamp", "1"), ("webhook-signature", "v1,")] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    let found = Headers::of(&headers).unwrap();
    assert_eq!(found.plain, Some(&b"sha256=\xff"[..]));
    assert_eq!(
        (found.id, found.timestamp, found.signature),
        (Some(&b"a"[..]), Some(&b"1"[..]), Some(&b"v1,"[..]))
    );
    for name in [PLAIN, ID, TIMESTAMP, SIGNATURE] {
        let mut twice = headers.clone();
        twice.append(name, HeaderValue::from_static("a"));
        assert_eq!(Headers::of(&twice).err(), Some(Refusal::Repeated(name)));
    }
    headers.clear();
    let none = Headers::of(&headers).unwrap();
    assert!(none.plain.or(none.id).or(none.timestamp).or(none.signature).is_none());
}

#[test]
fn a_secret_is_base64_after_its_prefix_and_is_not_shown() {
    for wrong in ["", "whsec", "whsec_", "whsec_%", "YWI=", "WHSEC_YWI=", "whsec_YWI", "whsec_YWI= "] {
        assert!(Secret::new(wrong.to_owned().into()).is_err(), "{wrong}");
    }
    assert_eq!(format!("{:?}", secret()), "Secret(…)");
    let (one, other) = (Secret::generate(), Secret::generate());
    assert_ne!(one.text(), other.text());
    assert_eq!(one.text().len(), 50);
    let again = Secret::new(one.text().clone()).unwrap();
    assert_eq!(one.sign_body(b"a"), again.sign_body(b"a"));
    assert_ne!(one.sign_body(b"a"), other.sign_body(b"a"));
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_with_a_byte_changed_does_not(
        id in "[!-\\-/-~]{1,20}",
        sent_s in 0_i64..253_402_300_799,
        body in prop::collection::vec(any::<u8>(), 0..99),
        part in 0_usize..4,
        place: prop::sample::Index,
        bit in 0_u32..8,
    ) {
        let (secret, now) = (Secret::generate(), at(sent_s));
        let (signed, timestamp) = (secret.sign_sent(&id, now, &body), sent_s.to_string());
        let headers = standard(&id, &timestamp, &signed);
        let proved = Proved::Sent { id: id.clone(), at: now };
        prop_assert_eq!(secret.verify(&headers, &body, Accepts::StandardWebhooks, now), Ok(proved));
        let by_body = secret.sign_body(&body);
        prop_assert_eq!(secret.verify(&plain(&by_body), &body, Accepts::Either, now), Ok(Proved::Body));

        let mut parts = [id.into_bytes(), timestamp.into_bytes(), signed.into_bytes(), body];
        let part = &mut parts[part];
        prop_assume!(!part.is_empty());
        let place = place.index(part.len());
        part[place] ^= 1 << bit;
        let [id, timestamp, signed, body] = &parts;
        let headers =
            Headers { plain: None, id: Some(id), timestamp: Some(timestamp), signature: Some(signed) };
        prop_assert!(secret.verify(&headers, body, Accepts::Either, now).is_err());
    }
}
