//! The values and tables that projections are made of.

use rust_decimal::Decimal;
use theazo_domain::time::Timestamp;

/// A table of a read model. Its rows begin with the tenant and the build, which the runner adds.
#[derive(Debug)]
pub struct Table {
    /// Its name in the database, which is also the projection's.
    pub name: &'static str,
    /// The columns that tell its rows apart within a tenant.
    pub key: &'static [Column],
    /// The other columns, in the order in which [`crate::Changes::put`] takes their values.
    pub columns: &'static [Column],
}

/// A column of a table.
#[derive(Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name in the database.
    pub name: &'static str,
    /// What its values are.
    pub kind: Kind,
}

/// What a column's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `text`
    Text,
    /// `bigint`
    Integer,
    /// `numeric`
    Decimal,
    /// `timestamptz`
    Time,
    /// `json`
    Json,
}

impl Column {
    /// A column of text.
    #[must_use]
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: Kind::Text }
    }

    /// A column of whole numbers.
    #[must_use]
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: Kind::Integer }
    }

    /// A column of exact decimals.
    #[must_use]
    pub const fn decimal(name: &'static str) -> Self {
        Self { name, kind: Kind::Decimal }
    }

    /// A column of moments.
    #[must_use]
    pub const fn time(name: &'static str) -> Self {
        Self { name, kind: Kind::Time }
    }

    /// A column of JSON text.
    #[must_use]
    pub const fn json(name: &'static str) -> Self {
        Self { name, kind: Kind::Json }
    }
}

/// A value of a column.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Value {
    /// No value, of any kind.
    Null,
    /// Of a text column.
    Text(String),
    /// Of an integer column.
    Integer(i64),
    /// Of a decimal column.
    Decimal(Decimal),
    /// Of a time column.
    Time(Timestamp),
    /// Of a JSON column.
    Json(String),
}

impl Value {
    /// Whether a column of this kind can hold it.
    #[must_use]
    pub const fn is(&self, kind: Kind) -> bool {
        matches!(
            (self, kind),
            (Self::Null, _)
                | (Self::Text(_), Kind::Text)
                | (Self::Integer(_), Kind::Integer)
                | (Self::Decimal(_), Kind::Decimal)
                | (Self::Time(_), Kind::Time)
                | (Self::Json(_), Kind::Json)
        )
    }
}

/// The text of an id, a status or a name as a value.
pub(crate) fn text(value: impl ToString) -> Value {
    Value::Text(value.to_string())
}

/// A value where there is one.
pub(crate) fn optional(value: Option<Value>) -> Value {
    value.unwrap_or(Value::Null)
}
