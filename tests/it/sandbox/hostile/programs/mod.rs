//! Programs that mean harm, and what may come of them. Nothing here depends on the rest of the tests: the proofs take
//! this folder in as it is.

mod exhausting;
mod kernel;
mod reaching;

use theazo::providers::compute::Language;

/// What the server keeps to itself. No program may ever write it.
pub(crate) const SECRET: &str = "of-the-server-alone-7d1f";

/// What is expected of a program. Whatever it is, the program never writes `BREACH`, nor what is the server's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expected {
    /// It tried, was refused, and said `held`.
    Held,
    /// It was ended by this limit.
    Over(&'static str),
    /// It ends, in whatever way; at the timeout at the latest.
    Ended,
}

/// A hostile program: what it does, in what language, how, and what comes of it. In the code, words in braces stand for
/// what the server has.
pub(crate) type Hostile = (&'static str, Language, &'static str, Expected);

/// All of them: those that reach for what is the host's, those that ask the kernel, and those that use up.
pub(crate) const TABLES: [&[Hostile]; 3] = [reaching::TABLE, kernel::TABLE, exhausting::TABLE];

/// What Python programs begin with.
const PREAMBLE: &str = "
import ctypes, os, signal, socket, subprocess, sys, threading, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def attempt(work):
    try: result = work()
    except BaseException as error: print('held', type(error).__name__); return
    print('BREACH', result)
def refused(result):
    if result == -1: raise OSError(ctypes.get_errno(), '')
    return result
def call(number, *arguments): return attempt(lambda: refused(libc.syscall(number, *arguments)))
";

/// The code of a program against a server that has this.
pub(crate) fn code((_, language, code, _): &Hostile, words: &[(&'static str, String)]) -> String {
    let code = words.iter().fold((*code).to_owned(), |code, (word, value)| code.replace(word, value));
    if *language == Language::Python { format!("{PREAMBLE}{code}") } else { code }
}

/// Whether it came to what is expected, by its outputs and whether it ended with the code 0.
pub(crate) fn came_out((_, _, _, expected): &Hostile, stdout: &str, stderr: &str, with_0: bool) -> bool {
    let wrote = |what: &str| stdout.contains(what) || stderr.contains(what);
    let kept = !wrote("BREACH") && !wrote(SECRET) && !wrote("root:$");
    kept && match expected {
        Expected::Held => with_0 && stdout.contains("held"),
        Expected::Over(limit) => stderr.contains("went past") && stderr.contains(limit),
        Expected::Ended => true,
    }
}
