//! What commands say: short lines and plain tables for people, JSON for programs.

use std::io::Write;

use serde::Serialize;
use serde_json::json;

/// Where a command's answer goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
}

impl Output {
    pub(super) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// One object: as JSON, or as these lines. Whether somebody reads it.
    pub(super) fn object(self, value: &impl Serialize, text: impl FnOnce() -> String) -> bool {
        if self.json {
            line(&serde_json::to_string(value).expect("answers are plain data"))
        } else {
            line(&text())
        }
    }

    /// A list: as one JSON object, or as a table with a head.
    pub(super) fn list<T: Serialize, const N: usize>(
        self,
        rows: &[T],
        head: [&str; N],
        cells: impl Fn(&T) -> [String; N],
    ) {
        if self.json {
            line(&json!({ "data": rows }).to_string());
        } else {
            line(&table(head, &rows.iter().map(cells).collect::<Vec<_>>()));
        }
    }
}

/// Writes a line to standard output. Whoever has stopped reading does not want the rest: whether somebody reads.
pub(super) fn line(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
}

/// Writes a piece of text to standard output, as it is: whether somebody reads.
pub(super) fn text(piece: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(piece.as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Writes an error to standard error.
pub fn complain(text: &str) {
    let _unread = writeln!(std::io::stderr().lock(), "error: {text}");
}

/// Columns as wide as their widest cell.
fn table<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = head.map(|cell| cell.chars().count());
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let written = |cells: [&str; N]| {
        let cells = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut lines = vec![written(head)];
    lines.extend(rows.iter().map(|row| written(row.each_ref().map(String::as_str))));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_columns_as_wide_as_their_widest_cell() {
        let rows = [["a".to_owned(), "long".to_owned()], ["bcd".to_owned(), "x".to_owned()]];
        assert_eq!(table(["ID", "NAME"], &rows), "ID   NAME\na    long\nbcd  x");
    }
}
