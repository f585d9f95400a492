//! Texts as they were before they were encoded, with the place that each byte comes from.

use std::ops::Range;

use zeroize::Zeroizing;

/// What stands in a view for all that is of no encoding: no value that is looked for there holds it.
const BREAK: u8 = 0;
/// The longest entity of HTML that is read.
const ENTITY_BYTES: usize = 12;

/// A text, or a view of one.
#[derive(Default)]
pub(super) struct View {
    pub(super) bytes: Zeroizing<Vec<u8>>,
    /// Where each byte comes from in the text: its first byte, and the one behind its last. Empty for the text itself.
    places: Vec<(u32, u32)>,
    /// Whether the text was cut behind its end.
    cut: bool,
}

impl View {
    pub(super) fn of(text: &str, cut: bool) -> Self {
        Self { bytes: Zeroizing::new(text.as_bytes().to_vec()), places: vec![], cut }
    }

    /// Where these bytes, of which there is one at least, come from.
    pub(super) fn place(&self, range: Range<usize>) -> Range<usize> {
        if self.places.is_empty() {
            return range;
        }
        let whole = |place: u32| usize::try_from(place).unwrap_or(usize::MAX);
        whole(self.places[range.start].0)..whole(self.places[range.end - 1].1)
    }

    fn has(&self, byte: u8) -> bool {
        self.bytes.contains(&byte)
    }

    fn like(source: &Self) -> Self {
        let size = source.bytes.len();
        let bytes = Zeroizing::new(Vec::with_capacity(size));
        Self { bytes, places: Vec::with_capacity(size), cut: source.cut }
    }

    /// Adds bytes that come from this range of the source.
    fn push(&mut self, bytes: &[u8], source: &Self, range: Range<usize>) {
        let Range { start, end } = source.place(range);
        let short = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(bytes);
        self.places.extend(std::iter::repeat_n((short(start), short(end)), bytes.len()));
    }

    /// Ends a run of digits; one that is too short to hold anything is taken out again.
    fn end_run(&mut self, run: &mut usize, least: usize, source: &Self, at: usize) {
        if self.bytes.len() - *run < least {
            self.bytes.truncate(*run);
            self.places.truncate(*run);
        } else {
            self.push(&[BREAK], source, at..at + 1);
        }
        *run = self.bytes.len();
    }
}

/// What stands at the beginning of a text.
enum Step {
    /// No escape.
    Literal,
    /// So many bytes stand for this byte.
    Byte(usize, u8),
    /// So many bytes stand for this character.
    Char(usize, char),
    /// The beginning of what may be an escape, and there the text ends.
    Unfinished,
}

/// Undoes an encoding whose escapes begin with one of these bytes. `None` where there is none of them.
fn undo(source: &View, leads: &[u8], step: impl Fn(&[u8]) -> Step) -> Option<View> {
    if !leads.iter().any(|lead| source.has(*lead)) {
        return None;
    }
    let mut view = View::like(source);
    let mut at = 0;
    while let Some(byte) = source.bytes.get(at) {
        let step = if leads.contains(byte) { step(&source.bytes[at..]) } else { Step::Literal };
        at += match step {
            Step::Byte(taken, byte) => {
                view.push(&[byte], source, at..at + taken);
                taken
            }
            Step::Char(taken, character) => {
                let mut buffer = [0; 4];
                view.push(character.encode_utf8(&mut buffer).as_bytes(), source, at..at + taken);
                taken
            }
            Step::Unfinished if source.cut => break,
            Step::Literal | Step::Unfinished => {
                view.push(&[*byte], source, at..at + 1);
                1
            }
        };
    }
    Some(view)
}

/// Without the escapes that begin with a backslash in JSON and in programming languages. Bytes that are written as
/// numbers are bytes of UTF-8, or else of Latin-1.
pub(super) fn backslashes(source: &View, latin: bool) -> Option<View> {
    undo(source, b"\\", |rest| backslash(rest, latin))
}

/// Without percent-encoding; a plus sign may stand for a space.
pub(super) fn percents(source: &View, form: bool) -> Option<View> {
    let leads: &[u8] = if form { b"%+" } else { b"%" };
    undo(source, leads, |rest| match (rest[0], number(&rest[1..], 2, 16)) {
        (b'+', _) => Step::Byte(1, b' '),
        (_, Number::Is(value)) => Step::Byte(3, u8::try_from(value).unwrap_or_default()),
        (_, Number::Unfinished) => Step::Unfinished,
        (_, Number::Not) => Step::Literal,
    })
}

/// Without the entities of HTML: those by number, and those that every escaping function writes.
pub(super) fn entities(source: &View) -> Option<View> {
    undo(source, b"&", entity)
}

fn backslash(rest: &[u8], latin: bool) -> Step {
    let byte = |taken, value: u32| match u8::try_from(value) {
        Ok(value) if latin => Step::Char(taken, char::from(value)),
        Ok(value) => Step::Byte(taken, value),
        Err(_) => Step::Byte(2, rest[1]),
    };
    let Some(kind) = rest.get(1) else { return Step::Unfinished };
    let simple = |value| Step::Byte(2, value);
    match kind {
        b'u' if rest.get(2) == Some(&b'{') => braced(rest),
        b'u' => utf16(rest),
        b'U' => wide(rest),
        b'x' => match number(&rest[2..], 2, 16) {
            Number::Is(value) => byte(4, value),
            Number::Unfinished => Step::Unfinished,
            Number::Not => simple(b'x'),
        },
        b'0'..=b'7' => {
            let digits = rest[1..].iter().take(3).take_while(|digit| matches!(digit, b'0'..=b'7')).count();
            match number(&rest[1..], digits, 8) {
                Number::Is(value) => byte(1 + digits, value),
                _ => Step::Literal,
            }
        }
        b'n' => simple(b'\n'),
        b'r' => simple(b'\r'),
        b't' => simple(b'\t'),
        b'b' => simple(8),
        b'f' => simple(12),
        b'v' => simple(11),
        b'a' => simple(7),
        b'e' => simple(27),
        other => simple(*other),
    }
}

/// `\u00f6`, or two of them for a character beyond those.
fn utf16(rest: &[u8]) -> Step {
    let first = match number(&rest[2..], 4, 16) {
        Number::Is(value) => value,
        Number::Unfinished => return Step::Unfinished,
        Number::Not => return Step::Byte(2, b'u'),
    };
    if let Some(character) = char::from_u32(first) {
        return Step::Char(6, character);
    }
    let behind = &rest[6..];
    let unit = |value: u32| u16::try_from(value).unwrap_or_default();
    match (behind, behind.get(2..).map_or(Number::Unfinished, |digits| number(digits, 4, 16))) {
        ([] | [b'\\'] | [b'\\', b'u', ..], Number::Unfinished) => Step::Unfinished,
        ([b'\\', b'u', ..], Number::Is(second)) => {
            let mut decoded = char::decode_utf16([unit(first), unit(second)]);
            decoded.next().and_then(Result::ok).map_or(Step::Literal, |character| Step::Char(12, character))
        }
        _ => Step::Literal,
    }
}

/// `\u{f6}`.
fn braced(rest: &[u8]) -> Step {
    let digits = rest[3..].iter().take(7).take_while(|digit| digit.is_ascii_hexdigit()).count();
    match (rest.get(3 + digits), number(&rest[3..], digits, 16)) {
        (None, _) => Step::Unfinished,
        (Some(b'}'), Number::Is(value)) => {
            char::from_u32(value).map_or(Step::Literal, |character| Step::Char(4 + digits, character))
        }
        _ => Step::Literal,
    }
}

/// `\U000000f6`.
fn wide(rest: &[u8]) -> Step {
    match number(&rest[2..], 8, 16) {
        Number::Is(value) => {
            char::from_u32(value).map_or(Step::Literal, |character| Step::Char(10, character))
        }
        Number::Unfinished => Step::Unfinished,
        Number::Not => Step::Byte(2, b'U'),
    }
}

fn entity(rest: &[u8]) -> Step {
    let near = &rest[..rest.len().min(ENTITY_BYTES)];
    let Some(end) = near.iter().position(|byte| *byte == b';') else {
        return if near.len() < ENTITY_BYTES { Step::Unfinished } else { Step::Literal };
    };
    let (taken, name) = (end + 1, &near[1..end]);
    let value = match name {
        b"amp" => return Step::Byte(taken, b'&'),
        b"lt" => return Step::Byte(taken, b'<'),
        b"gt" => return Step::Byte(taken, b'>'),
        b"quot" => return Step::Byte(taken, b'"'),
        b"apos" => return Step::Byte(taken, b'\''),
        [b'#', b'x' | b'X', digits @ ..] => number(digits, digits.len(), 16),
        [b'#', digits @ ..] => number(digits, digits.len(), 10),
        _ => Number::Not,
    };
    let Number::Is(value) = value else { return Step::Literal };
    char::from_u32(value).map_or(Step::Literal, |character| Step::Char(taken, character))
}

/// What so many digits come to.
enum Number {
    Is(u32),
    Not,
    /// There are digits, and then the text ends.
    Unfinished,
}

fn number(text: &[u8], digits: usize, radix: u32) -> Number {
    let mut value = 0_u32;
    for at in 0..digits {
        let Some(byte) = text.get(at) else { return Number::Unfinished };
        let Some(digit) = char::from(*byte).to_digit(radix) else { return Number::Not };
        value = value.saturating_mul(radix).saturating_add(digit);
    }
    if digits == 0 { Number::Not } else { Number::Is(value) }
}

/// The digits of base64, in its first alphabet, without the ends of lines between them.
pub(super) fn base64_digits(source: &View, least: usize) -> View {
    let (mut view, mut run) = (View::like(source), 0);
    for (at, byte) in source.bytes.iter().enumerate() {
        match byte {
            b'-' => view.push(b"+", source, at..at + 1),
            b'_' => view.push(b"/", source, at..at + 1),
            b'+' | b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => view.push(&[*byte], source, at..at + 1),
            _ if byte.is_ascii_whitespace() => {}
            _ => view.end_run(&mut run, least, source, at),
        }
    }
    view
}

/// Hexadecimal digits, in lower case, without what stands between them in lists and dumps.
pub(super) fn hex_digits(source: &View, least: usize) -> View {
    let (mut view, mut run) = (View::like(source), 0);
    for (at, byte) in source.bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' | b'A'..=b'F' | b'a'..=b'f' => {
                view.push(&[byte.to_ascii_lowercase()], source, at..at + 1);
            }
            // The prefix of a number.
            b'x' | b'X' if at > 0 && source.bytes[at - 1] == b'0' && view.bytes.len() > run => {
                view.bytes.pop();
                view.places.pop();
            }
            b':' | b'-' | b',' => {}
            _ if byte.is_ascii_whitespace() => {}
            _ => view.end_run(&mut run, least, source, at),
        }
    }
    view
}

/// The hexadecimal digits of the lines of a dump, as `xxd` and `hexdump -C` write them: without the addresses before
/// them and the characters behind them: each digit stands for all of its line from there on. `None` where no line looks
/// like that.
pub(super) fn dump_digits(source: &View) -> Option<View> {
    let mut view = View::like(source);
    let mut begin = 0;
    for line in source.bytes.split_inclusive(|byte| *byte == b'\n') {
        let end = begin + line.len();
        if let Some(dumped) = dumped(line) {
            let shown = begin + line.trim_ascii_end().len();
            for at in dumped.filter(|at| line[*at].is_ascii_hexdigit()) {
                view.push(&[line[at].to_ascii_lowercase()], source, begin + at..shown);
            }
        } else if view.bytes.last().is_some_and(|last| *last != BREAK) {
            view.push(&[BREAK], source, begin..end);
        }
        begin = end;
    }
    (!view.bytes.is_empty()).then_some(view)
}

/// Where the digits of a line of a dump stand in it; the last byte there is a digit.
fn dumped(line: &[u8]) -> Option<Range<usize>> {
    let address = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if address < 6 {
        return None;
    }
    let colon = line.get(address) == Some(&b':');
    let start = address + usize::from(colon);
    if line.get(start) != Some(&b' ') {
        return None;
    }
    let mut end = start;
    for (at, byte) in line.iter().enumerate().skip(start + 1) {
        let spaces = *byte == b' ' && line[at - 1] == b' ';
        match byte {
            // Behind two spaces stand the characters.
            b' ' if spaces && colon => break,
            b' ' => {}
            _ if byte.is_ascii_hexdigit() => end = at + 1,
            _ => break,
        }
    }
    (end > start).then_some(start + 1..end)
}
