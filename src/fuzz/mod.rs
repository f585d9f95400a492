//! What reads bytes that anyone may have written, each as a function of bytes that must not fail, whatever they are.
//!
//! `fuzz/` drives them by libFuzzer; the tests of this module drive them over the corpora that lie there, and over
//! bytes made from those, with the stable compiler.

mod condition;
mod cron;
mod log;
mod signature;

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use theazo_domain::Event;
use theazo_domain::id::Subject;
use theazo_domain::organization::Mode;
use theazo_domain::rates::Card;
use theazo_domain::time::{Day, Timestamp};
use url::Url;
use zeroize::Zeroizing;

use crate::http::{self, Listing};
use crate::keys;
use crate::log::merkle::Frontier;
use crate::log::{Codec, TenantId, Upcaster};
use crate::providers::guard::{Guard, Network};
use crate::providers::model;
use crate::vault::redact::{self, Redactor};

pub use condition::condition;
pub use cron::cron;
pub use log::{note, proof};
pub use signature::signature;

/// A target: its name, which is that of its corpus, and what is done with the bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 16] = [
    ("card", card),
    ("condition", condition),
    ("cron", cron),
    ("cursor", cursor),
    ("event", event),
    ("frontier", frontier),
    ("guard", guard),
    ("id", id),
    ("key", key),
    ("model_stream", model_stream),
    ("note", note),
    ("proof", proof),
    ("query", query),
    ("redactor", redactor),
    ("signature", signature),
    ("time", time),
];

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The first line, and the rest.
fn first_line(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}

/// A rate card that is imported: what passes the check is written and read again as it is, and prices every model.
pub fn card(bytes: &[u8]) {
    let Ok(card) = serde_json::from_slice::<Card>(bytes) else { return };
    if card.check().is_err() {
        return;
    }
    let written = serde_json::to_vec(&card).expect("a card is plain data");
    assert_eq!(serde_json::from_slice::<Card>(&written).expect("it is read again"), card);
    assert!(!card.version.is_empty());
}

/// A cursor: none but those that the server gave for this listing is taken, and in one spelling only.
pub fn cursor(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let key = Zeroizing::new([7; 32]);
    let escaped = percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC);
    let mut query = http::query(&format!("cursor={escaped}"));
    let listing = Listing::read(&key, TenantId(1), "/v1/sessions", &mut query);
    let position = if let Some(position) = listing.below {
        let page = listing.page(vec![position; 100], |position| *position, |position| position);
        assert_eq!(page.next_cursor.as_deref(), Some(text));
        position
    } else {
        assert!(text.is_empty() || query.finish().is_err());
        i64::try_from(bytes.len()).unwrap_or(1)
    };
    // One that the server gave is taken where it was given, and by no other tenant, listing or filter.
    let asked = |text: &str| {
        let mut query = http::query(text);
        let _ = query.text("userId");
        query
    };
    let mut given = asked("userId=a");
    let listing = Listing::read(&key, TenantId(1), "/v1/sessions", &mut given);
    let page = listing.page(vec![position; 100], |position| *position, |position| position);
    let cursor = page.next_cursor.expect("there is more");
    for (tenant, path, user, taken) in [
        (1, "/v1/sessions", "a", true),
        (2, "/v1/sessions", "a", false),
        (1, "/v1/events", "a", false),
        (1, "/v1/sessions", "b", false),
    ] {
        let mut query = asked(&format!("cursor={cursor}&userId={user}"));
        let below = Listing::read(&key, TenantId(tenant), path, &mut query).below;
        assert_eq!(below, taken.then_some(position), "{tenant} {path} {user}");
    }
}

/// An event as it lies in the log, a line of its type and version and then its data: what is read is written again as
/// something that is read as the same, and old versions are lifted or refused.
pub fn event(bytes: &[u8]) {
    static LIFTS: [Upcaster; 2] = [
        Upcaster { kind: "session.created", from: 1, lift: |value| value },
        Upcaster { kind: "key.revoked", from: 1, lift: |_| serde_json::Value::Null },
    ];
    let Some(text) = text(bytes) else { return };
    let (head, data) = first_line(text);
    let (kind, version) = head.split_once(' ').unwrap_or((head, "1"));
    let version = version.parse().unwrap_or(1);
    let lifted = Codec::with(&LIFTS).read(kind, version, data);
    assert!(kind != "key.revoked" || version != 1 || lifted.is_err());
    let Ok(event) = Codec::default().read(kind, version, data) else { return };
    let written = event.write();
    assert_eq!(written.kind, kind);
    assert_eq!(Event::read(&written.kind, &written.data).expect("what was written is read"), event);
    assert!(!event.subjects().is_empty());
    let _ = event.booked();
    assert!(kind == "key.revoked" || lifted.is_ok_and(|lifted| lifted == event));
}

/// A frontier as it lies in the database, behind a number of leaves: what is read has a root for each bit of the number,
/// and grows as the tree of RFC 6962 does.
pub fn frontier(bytes: &[u8]) {
    let Some((leaves, bytes)) = bytes.split_first_chunk::<8>() else { return };
    let leaves = u64::from_be_bytes(*leaves);
    let Some(mut frontier) = Frontier::from_bytes(leaves, bytes) else { return };
    assert_eq!(frontier.to_bytes(), bytes);
    let before = frontier.root();
    if let Some(grown) = leaves.checked_add(1) {
        frontier.push([0x5A; 32]);
        assert_eq!(frontier.to_bytes().len(), 32 * grown.count_ones() as usize);
        assert_ne!(frontier.root(), before);
        assert_eq!(Frontier::from_bytes(grown, &frontier.to_bytes()), Some(frontier));
    }
}

/// A URL that the server is to call, or a range that an operator allows: where the host is an address, in whatever
/// notation, none passes that is not a public host's, nor one that holds such an address.
pub fn guard(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(network) = text.parse::<Network>() {
        let written = network.to_string();
        assert_eq!(written.parse::<Network>().expect("it is read again").to_string(), written);
    }
    let Ok(url) = Url::parse(text) else { return };
    if Guard::default().check(&url).is_err() {
        return;
    }
    assert!(
        matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
    );
    let address = match url.host() {
        Some(url::Host::Ipv4(address)) => IpAddr::from(address),
        Some(url::Host::Ipv6(address)) => IpAddr::from(address),
        Some(url::Host::Domain(name)) => {
            assert!(name != "localhost" && !name.ends_with(".localhost"));
            return;
        }
        None => panic!("{url} has no host"),
    };
    let special = match address {
        IpAddr::V4(v4) => is_special_v4(v4),
        // Outside of 2000::/3 are all mapped and compatible addresses and those of NAT64; within, 6to4 holds one.
        IpAddr::V6(v6) => v6.segments()[0] >> 13 != 1 || v6.segments()[0] == 0x2002,
    };
    assert!(!special && !address.is_multicast(), "{url}");
}

/// Whether an address is not a public host's, by the standard library and, where that does not say, by its bytes.
fn is_special_v4(address: Ipv4Addr) -> bool {
    let known = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_unspecified();
    known
        || match address.octets() {
            [0 | 240..=255, ..] | [192, 0, 0, _] => true,
            [100, second, ..] => second >> 6 == 1,
            [198, second, ..] => second >> 1 == 9,
            _ => false,
        }
}

/// An id of anything: it has one spelling.
pub fn id(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(subject) = text.parse::<Subject>() {
        assert_eq!(subject.to_string(), text);
    }
}

/// An API key: what is spelled as one has the length and the alphabet of one, and no other mode.
pub fn key(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let Some(mode) = keys::is_well_formed(text) else {
        let _ = keys::last_four(text);
        return;
    };
    assert_eq!(text.len(), keys::LENGTH);
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    assert_eq!(text.starts_with("th_test_"), mode == Mode::Test);
    assert!(text.ends_with(keys::last_four(text)));
    // The checksum finds every single character that is another.
    let mut wrong = text.as_bytes().to_vec();
    let last = wrong.len() - 1;
    wrong[last] = if wrong[last] == b'a' { b'b' } else { b'a' };
    assert_eq!(keys::is_well_formed(std::str::from_utf8(&wrong).expect("it is ASCII")), None);
}

/// What a vendor's model streams: in whatever pieces it comes, it comes to the same.
pub fn model_stream(bytes: &[u8]) {
    let whole = model::read_streams(&[bytes]);
    let middle = bytes.len() / 2;
    assert_eq!(model::read_streams(&[&bytes[..middle], &bytes[middle..]]), whole);
    let single: Vec<&[u8]> = bytes.chunks(1).collect();
    assert_eq!(model::read_streams(&single), whole);
}

/// The query of a URL: every parameter is decoded or refused, and what is not known is told.
pub fn query(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let mut query = http::query(text);
    let limit = query.limit();
    assert!((1..=crate::config::LARGEST_PAGE).contains(&limit));
    if let Some(name) = query.text("name") {
        assert!(!name.contains('\0'));
    }
    let _ = query.time("from");
    let _ = query.finish();
}

/// A secret on the first line, and a text: nothing of the text shows the secret.
pub fn redactor(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let (secret, shown) = first_line(text);
    let Ok(redactor) = Redactor::new([secret]) else { return };
    let masked = redactor.text(shown);
    // A secret that the mask is part of, or that begins as it ends, can stand there again by chance.
    if secret.len() >= redact::SHORTEST && !secret.contains('*') {
        assert!(!masked.contains(secret), "{masked}");
        let percent = percent_encoding::utf8_percent_encode(secret, percent_encoding::NON_ALPHANUMERIC);
        let [lower, upper] = [hex::encode(secret), hex::encode_upper(secret)];
        for encoded in [lower, upper, STANDARD.encode(secret), percent.to_string()] {
            let text = format!("{shown} {encoded}");
            let masked = redactor.text(&text);
            assert!(!masked.contains(&encoded), "{masked}");
        }
    }
    // The text was cut behind its end.
    let _ = redactor.cut_text(shown);
}

/// A time or a day: what is read is written in one form, which is read as the same.
pub fn time(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    if let Ok(time) = Timestamp::parse(text) {
        assert_eq!(Timestamp::parse(&time.to_string()).ok(), Some(time));
        let day = time.day();
        // The last day that can be written has none after it.
        assert!(day.start() <= time && (time < day.next().start() || day.next() == day));
    }
    if let Ok(day) = Day::parse(text) {
        assert_eq!(Day::parse(&day.to_string()).ok(), Some(day));
        assert!(day.month_start() <= day && (day < day.next_month() || day.next_month() == day));
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Inputs that are made of each in a corpus.
    const MADE: usize = 200;

    /// A change of the kind that libFuzzer makes: bits, bytes, pieces cut, doubled, or taken from elsewhere.
    fn changed(random: &mut fastrand::Rng, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..random.usize(1..4) {
            let place = random.usize(..=changed.len());
            let end = random.usize(place..=changed.len());
            match random.u8(..6) {
                0 if place < changed.len() => changed[place] ^= 1 << random.u8(..8),
                1 if place < changed.len() => changed[place] = random.u8(..),
                2 => changed.insert(place, random.choice(*b"0 \"%{}[]\n\\\xff\0aZ_-.").unwrap_or(0)),
                3 => drop(changed.drain(place..end)),
                4 => {
                    let piece = changed[place..end].to_vec();
                    changed.splice(place..place, piece);
                }
                _ => {
                    let from = random.usize(..=other.len());
                    let piece = other[from..].iter().take(random.usize(..16)).copied().collect::<Vec<_>>();
                    changed.splice(place..place, piece);
                }
            }
        }
        changed
    }

    #[test]
    fn each_target_is_one_of_libfuzzers_too() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();
        let of_manifest = manifest.lines().filter_map(|line| {
            line.strip_prefix("path = \"fuzz_targets/")?.strip_suffix(".rs\"").map(str::to_owned)
        });
        let mut of_manifest: Vec<String> = of_manifest.collect();
        of_manifest.sort();
        assert_eq!(of_manifest, TARGETS.map(|(name, _)| name));
        for (name, _) in TARGETS {
            let program = std::fs::read_to_string(folder.join(format!("fuzz_targets/{name}.rs"))).unwrap();
            assert!(program.contains(&format!("theazo::fuzz::{name}(")), "{program}");
        }
    }

    #[test]
    fn no_input_of_a_corpus_nor_what_is_made_of_them_makes_a_target_fail() {
        let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        for (name, target) in TARGETS {
            let mut files: Vec<_> = std::fs::read_dir(corpora.join(name))
                .unwrap_or_else(|error| panic!("the corpus of {name}: {error}"))
                .map(|entry| entry.unwrap().path())
                .collect();
            files.sort();
            let inputs: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
            assert!(inputs.len() >= 3, "the corpus of {name} is too small");
            let mut random = fastrand::Rng::with_seed(0x7EA2_0000 + name.len() as u64);
            for (input, file) in inputs.iter().zip(&files) {
                let run = |bytes: &[u8]| {
                    let failed = std::panic::catch_unwind(|| target(bytes)).is_err();
                    assert!(!failed, "{name}, of {}: {:?}", file.display(), String::from_utf8_lossy(bytes));
                };
                run(input);
                for _ in 0..MADE {
                    let other = &inputs[random.usize(..inputs.len())];
                    run(&changed(&mut random, input, other));
                }
            }
        }
    }
}
