//! What each planted bug must violate. That a run is red for some other reason does not show that the bug was found.

/// A row, its bug, and words of the violations that the bug causes: of one of them at least.
type Sign = (&'static str, &'static str, &'static [&'static str]);

const SIGNS: &[Sign] = &[
    // Where another copy of the lost request was on its way, it has happened in the end, but behind what must follow it.
    ("kills", "lost-batch", &["was acknowledged and never happened", "made something else happen"]),
    ("kills", "unfolded-row", &["a read model differs from a refold of the log"]),
    ("kills", "forgotten-key", &["happened 2 times", "a retry was decided anew"]),
    ("order", "skipped-event", &["came to a reader of Stream"]),
    ("order", "published-early", &["came to a reader of Stream"]),
    ("order", "missing-row", &["came to a reader of Pages"]),
    ("retry", "forgotten-key", &["carried out"]),
    ("retry", "any-body", &["under the key of", "two requests have one key"]),
    ("retry", "any-target", &["under the key of"]),
    ("retry", "lost-key", &["have lost their key", "and made once"]),
    ("limits", "stale-standing", &["'s limit"]),
    ("limits", "smaller-limit", &["refused on account of", "refused, and it fits"]),
    ("limits", "fewer-minutes", &["ms, and it fits"]),
    ("limits", "unlimited-minutes", &["are taken"]),
    ("ledger", "folded-twice", &["users of user_"]),
    ("ledger", "last-minute", &["summary of input says"]),
    ("ledger", "uncounted-adjustment", &["summary says ("]),
    ("ledger", "unbilled-compute", &["of compute were charged"]),
    ("ledger", "unbilled-storage", &["of storage were charged"]),
    ("sse", "skipped-event", &[" behind "]),
    ("sse", "repeated-frame", &[" behind "]),
    ("sse", "shared-frames", &["beside another log"]),
    ("sse", "lost-behind", &[", having stalled: ", ", stalling: "]),
    ("tenants", "no-predicate", &["told {\""]),
    ("tenants", "shared-frames", &[", the log has "]),
    ("runs", "repeated-tool", &["was started twice", "took effect"]),
    ("runs", "forgotten-result", &["was started twice", "took effect", "refused a request"]),
    ("runs", "doubled-usage", &["25 and 15 tokens"]),
    ("runs", "unlogged-call", &["calls in the log"]),
    ("runs", "doubled-charge", &["it must be charged"]),
    ("sandbox", "no-seccomp", &["a user namespace (expected"]),
    ("sandbox", "no-network-namespace", &["the host's loopback (expected"]),
    ("sandbox", "no-process-namespace", &["other processes than one's own (expected"]),
    ("sandbox", "host-root-stays", &["the old root (expected"]),
    ("sandbox", "writable-root", &["writing to the root (expected"]),
    ("sandbox", "kept-capabilities", &["the working directory of process 1 (expected"]),
    ("sandbox", "no-process-limits", &["a higher limit of memory (expected"]),
    ("sandbox", "no-watch", &["many large files (expected"]),
    ("api", "server-error", &["ServerError"]),
    ("api", "other-type", &["JsonSchemaError"]),
    ("soak", "leaked-memory", &["bytes of memory a request more"]),
    ("soak", "leaked-file", &["files open more"]),
];

/// Words of the violations that this bug causes in this row.
pub(crate) fn of(row: &str, bug: &str) -> &'static [&'static str] {
    let named = |sign: &&Sign| row.split('-').next() == Some(sign.0) && sign.1 == bug;
    SIGNS.iter().find(named).map_or(&[], |sign| sign.2)
}
