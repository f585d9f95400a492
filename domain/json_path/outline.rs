//! The outline of a text: which brackets lie in which, and what of a condition is compared or tested.
//!
//! It is no parser: of a text that RFC 9535 does not allow it may think anything, and the library refuses that text
//! afterwards. Of one that it allows, the outline is right, since quotes, brackets, `$`, `@`, `?`, `*`, `..` and the
//! operators stand for nothing else outside of strings. That is what makes a bracket found here the one that the
//! library finds as well, so that no text can close one that it has not opened.

use std::ops::Range;

use super::spelled::{BLANKS, Spelled};
use super::work::{self, BYTES_PER_NODE, Work};
use super::{DEEPEST, Invalid, MOST_COPIES, Rule};

/// A part of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// `&&`, `||`, `!` or a parenthesis that groups.
    Logic(Range<usize>),
    /// A test, or a comparison with its operator: the bytes of each.
    Atom(Range<usize>, Option<Range<usize>>),
}

/// Checks the rules that hold before anything is read, and gives the parts that a condition is made of, and what its
/// queries cost.
pub(super) fn of(spelled: &Spelled) -> Result<(Vec<Piece>, Work), Invalid> {
    let mut outline = Outline {
        text: &spelled.text,
        at: 0,
        open: vec![],
        descents: 0,
        copies: 1,
        query: Work::default(),
        work: Work::default(),
        pieces: vec![],
        atom: None,
    };
    outline.walk().map_err(|rule| spelled.invalid(outline.at, rule))?;
    Ok((outline.pieces, outline.work))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// `[…]`: selectors.
    Selectors,
    /// `(…)` behind a name: arguments.
    Arguments,
    /// `(…)` otherwise.
    Group,
}

struct Open {
    kind: Kind,
    at: usize,
    is_filter: bool,
    selectors: usize,
    /// Of the comparison or test that is read: the query that began last in it.
    query: Option<Query>,
    /// Whether its operator is behind.
    is_compared: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Query {
    /// Of `$`.
    Absolute,
    /// Of `@`.
    Relative,
}

struct Outline<'text> {
    text: &'text str,
    at: usize,
    open: Vec<Open>,
    /// Of the query that began last outside of filters: how many `..` it has, with what lies in it.
    descents: usize,
    /// Of the same, how often its selectors multiply nodes.
    copies: usize,
    /// Of the same, what it costs if it multiplies nothing.
    query: Work,
    /// What the queries before it cost.
    work: Work,
    pieces: Vec<Piece>,
    /// The atom that is being read, and its operator.
    atom: Option<(Range<usize>, Option<Range<usize>>)>,
}

impl Outline<'_> {
    fn walk(&mut self) -> Result<(), Rule> {
        while let Some(byte) = self.byte(0) {
            let end = self.at + self.width(byte)?;
            if self.is_logic(byte) {
                self.end_atom();
                self.pieces.push(Piece::Logic(self.at..end));
            } else if !BLANKS.contains(&char::from(byte)) {
                self.extend_atom(byte, end);
            }
            self.take(byte, end)?;
            self.count(byte, end);
            self.at = end;
        }
        self.end_atom();
        self.end_query();
        if let Some(open) = self.open.last() {
            self.at = open.at;
            return Err(Rule::Unbalanced);
        }
        Ok(())
    }

    /// Counts what a sign costs for every node: nothing where it is met but once.
    fn count(&mut self, byte: u8, end: usize) {
        if self.filters() == 0 && self.descents == 0 {
            return;
        }
        self.query.visits += match byte {
            b'\'' | b'"' => ((end - self.at) / BYTES_PER_NODE) as u64,
            b'(' if self.is_call() => work::OF_CALL,
            b'.' if end - self.at == 2 => work::OF_DESCENT,
            b'.' | b'[' => work::OF_SEGMENT,
            _ => 0,
        };
    }

    fn byte(&self, ahead: usize) -> Option<u8> {
        self.text.as_bytes().get(self.at + ahead).copied()
    }

    /// How many bytes belong together here: a whole string, an operator of two characters, or one byte.
    fn width(&self, byte: u8) -> Result<usize, Rule> {
        match (byte, self.byte(1)) {
            (b'\'' | b'"', _) => self.string(byte).ok_or(Rule::OpenString),
            (b'&', Some(b'&')) | (b'|', Some(b'|')) | (b'.', Some(b'.')) => Ok(2),
            (b'=' | b'!' | b'<' | b'>', Some(b'=')) => Ok(2),
            _ => Ok(1),
        }
    }

    /// The length of the string that begins here, with its quotes.
    fn string(&self, quote: u8) -> Option<usize> {
        let mut is_escaped = false;
        let end = self.text.as_bytes()[self.at + 1..].iter().position(|byte| {
            let is_end = !is_escaped && *byte == quote;
            is_escaped = !is_escaped && *byte == b'\\';
            is_end
        });
        end.map(|length| length + 2)
    }

    /// Whether nothing but parentheses that group is open.
    fn is_outside(&self) -> bool {
        self.open.iter().all(|open| open.kind == Kind::Group)
    }

    fn is_logic(&self, byte: u8) -> bool {
        let is_logic = match byte {
            b'&' | b'|' => self.byte(1) == Some(byte),
            b'!' => self.byte(1) != Some(b'='),
            b'(' => !self.is_call(),
            b')' => true,
            _ => false,
        };
        is_logic && self.is_outside()
    }

    /// Whether the parenthesis here stands directly behind a name.
    fn is_call(&self) -> bool {
        let before = self.at.checked_sub(1).map(|at| self.text.as_bytes()[at]);
        before.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    }

    fn extend_atom(&mut self, byte: u8, end: usize) {
        let is_operator = matches!(byte, b'=' | b'!' | b'<' | b'>') && self.is_outside();
        let (atom, operator) = self.atom.get_or_insert((self.at..end, None));
        atom.end = end;
        if is_operator && operator.is_none() {
            *operator = Some(self.at..end);
        }
    }

    fn end_atom(&mut self) {
        self.pieces.extend(self.atom.take().map(|(atom, operator)| Piece::Atom(atom, operator)));
    }

    /// Filters that are open.
    fn filters(&self) -> usize {
        self.open.iter().filter(|open| open.is_filter).count()
    }

    fn take(&mut self, byte: u8, end: usize) -> Result<(), Rule> {
        match byte {
            b'&' | b'|' => self.join(),
            b'!' if end - self.at == 1 => self.join(),
            b'=' | b'!' | b'<' | b'>' => self.compare(),
            _ => {}
        }
        match byte {
            b'[' => self.open(Kind::Selectors),
            b'(' if self.is_call() => self.open(Kind::Arguments),
            b'(' => self.open(Kind::Group),
            b']' | b')' => self.close(byte),
            b'$' | b'@' => self.query(byte),
            b'.' if end - self.at == 2 => self.descend(),
            b'*' => {
                let is_selector = self.is_selector();
                self.many(is_selector)
            }
            b':' => self.many(true),
            b'?' => self.filter(),
            b',' => self.comma(),
            _ => Ok(()),
        }
    }

    fn open(&mut self, kind: Kind) -> Result<(), Rule> {
        if self.open.len() == DEEPEST {
            return Err(Rule::TooDeep);
        }
        self.open.push(Open {
            kind,
            at: self.at,
            is_filter: false,
            selectors: 1,
            query: None,
            is_compared: false,
        });
        Ok(())
    }

    fn close(&mut self, byte: u8) -> Result<(), Rule> {
        let open = self.open.pop().filter(|open| (open.kind == Kind::Selectors) == (byte == b']'));
        let open = open.ok_or(Rule::Unbalanced)?;
        let inside = self.text[open.at + 1..self.at].trim_matches(BLANKS);
        let number = inside.strip_prefix('-').filter(|_| open.kind == Kind::Selectors && self.filters() > 0);
        if number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())) {
            return Err(Rule::NegativeIndex);
        }
        Ok(())
    }

    /// A query begins.
    fn query(&mut self, byte: u8) -> Result<(), Rule> {
        let (is_absolute, is_filtered) = (byte == b'$', self.filters() > 0);
        if !is_filtered && !is_absolute {
            return Err(Rule::Current);
        }
        if !is_filtered {
            self.end_query();
        }
        let Some(open) = self.open.last_mut() else { return Ok(()) };
        let before = open.query.replace(if is_absolute { Query::Absolute } else { Query::Relative });
        if !is_filtered {
            return Ok(());
        }
        self.query.visits += if open.is_compared { work::OF_COMPARED } else { work::OF_TESTED };
        if is_absolute && open.kind == Kind::Arguments {
            return Err(Rule::Absolute);
        }
        let is_constant = is_absolute && open.is_compared && before == Some(Query::Absolute);
        if is_constant { Err(Rule::Constant) } else { Ok(()) }
    }

    /// The query that began last outside of filters has come to its end.
    fn end_query(&mut self) {
        self.work = self.work.plus(self.query.times(self.copies as u64));
        (self.descents, self.copies, self.query) = (0, 1, Work::default());
    }

    /// An operator: what stands before it is compared, and no test.
    fn compare(&mut self) {
        let (is_filtered, is_behind_descent) = (self.filters() > 0, self.descents > 0);
        let Some(open) = self.open.last_mut() else { return };
        if is_filtered && !open.is_compared && open.query.is_some() {
            let refund = work::OF_TESTED - work::OF_COMPARED;
            self.query.visits = self.query.visits.saturating_sub(refund);
        }
        open.is_compared = true;
        self.query.visits += if is_filtered { work::OF_COMPARISON } else { 0 };
        self.query.sweeps += u64::from(is_filtered && is_behind_descent);
    }

    /// A comparison or test is at its end, or about to begin.
    fn join(&mut self) {
        if let Some(open) = self.open.last_mut() {
            (open.query, open.is_compared) = (None, false);
        }
    }

    fn descend(&mut self) -> Result<(), Rule> {
        self.descents += 1;
        self.query.sweeps += 1;
        if self.descents > 1 { Err(Rule::Descents) } else { self.many(false) }
    }

    /// Whether this stands in brackets, rather than behind a dot.
    fn is_selector(&self) -> bool {
        self.byte_before() != Some(b'.') && self.open.last().is_some_and(|open| open.kind == Kind::Selectors)
    }

    fn byte_before(&self) -> Option<u8> {
        self.text[..self.at].trim_end_matches(BLANKS).bytes().next_back()
    }

    /// The query here may select more than one node; `is_selector` says whether the innermost bracket is one of its own.
    fn many(&mut self, is_selector: bool) -> Result<(), Rule> {
        let (owner, filters) = match self.open.split_last() {
            Some((own, others)) if is_selector => {
                (others.last(), self.filters() - usize::from(own.is_filter))
            }
            _ => (self.open.last(), self.filters()),
        };
        let is_absolute = owner.is_some_and(|owner| owner.query == Some(Query::Absolute));
        self.query.visits = self.query.visits.max(1);
        if filters > 0 && is_absolute { Err(Rule::Absolute) } else { Ok(()) }
    }

    fn filter(&mut self) -> Result<(), Rule> {
        self.many(true)?;
        self.join();
        if let Some(open) = self.open.last_mut() {
            open.is_filter = open.kind == Kind::Selectors;
        }
        Ok(())
    }

    fn comma(&mut self) -> Result<(), Rule> {
        match self.open.last_mut() {
            Some(open) if open.kind == Kind::Selectors => {
                open.selectors += 1;
                self.copies = self.copies / (open.selectors - 1) * open.selectors;
                (open.is_filter, open.query, open.is_compared) = (false, None, false);
                if self.copies > MOST_COPIES { Err(Rule::Copies) } else { self.many(true) }
            }
            Some(open) if open.kind == Kind::Arguments => Ok(()),
            _ => Err(Rule::Comma),
        }
    }
}
