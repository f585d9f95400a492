//! Bugs that are planted on purpose, so that the proofs can show that they would find them.
//!
//! They exist only in a program that was built with the feature `planted-bugs`, which is never released, and of those
//! only the one that `THEAZO_PLANTED` names.

/// Names the bug that is planted.
const VARIABLE: &str = "THEAZO_PLANTED";

/// Whether this bug is planted.
#[cfg(feature = "planted-bugs")]
#[must_use]
pub fn is(bug: &str) -> bool {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var(VARIABLE).ok());
    PLANTED.as_deref() == Some(bug)
}

/// Whether this bug is planted: none is.
#[cfg(not(feature = "planted-bugs"))]
#[must_use]
#[inline]
pub const fn is(_bug: &str) -> bool {
    false
}

/// What a process that is started in an environment of its own is to be told of the bug that is planted.
#[must_use]
pub fn environment() -> Option<(&'static str, String)> {
    let named = if cfg!(feature = "planted-bugs") { std::env::var(VARIABLE).ok() } else { None };
    named.map(|bug| (VARIABLE, bug))
}

/// Whether this bug is planted, and its turn has come: once in so many times.
#[must_use]
pub fn strikes(bug: &str, once_in: u64) -> bool {
    use std::sync::atomic::{AtomicU64, Ordering};
    static TURNS: AtomicU64 = AtomicU64::new(1);
    is(bug) && TURNS.fetch_add(1, Ordering::Relaxed).is_multiple_of(once_in)
}

/// Takes something that is never given back, where such a bug is planted.
pub fn leak() {
    if is("leaked-memory") {
        // What nobody could look at would not be taken at all.
        std::mem::forget(std::hint::black_box(vec![1_u8; 16 * 1_024]));
    }
    if strikes("leaked-file", 32) {
        std::mem::forget(std::fs::File::open("/dev/null"));
    }
}

/// A statement in which what is said of the tenant is always true.
#[must_use]
pub fn without_tenant(sql: &str) -> String {
    let mut rest = sql;
    let mut without = String::with_capacity(sql.len());
    while let Some((before, behind)) = rest.split_once("tenant_id = $1") {
        let table = |character: char| character.is_ascii_alphanumeric() || matches!(character, '_' | '.');
        without.push_str(before.trim_end_matches(table));
        without.push_str("$1::bigint is not null");
        rest = behind;
    }
    without.push_str(rest);
    without
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_statement_loses_what_it_says_of_the_tenant() {
        let sql = "select 1 from events e where e.tenant_id = $1 and position = $2 or tenant_id = $1";
        let without =
            "select 1 from events e where $1::bigint is not null and position = $2 or $1::bigint is not null";
        assert_eq!(super::without_tenant(sql), without);
    }
}
