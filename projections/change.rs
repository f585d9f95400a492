//! Changes of rows, coalesced: what a runner writes after folding a batch of events.

use std::collections::HashMap;

use rust_decimal::Decimal;

use crate::table::{Column, Table, Value};

/// What is to happen to one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// It has exactly these values, in the order of the table's columns, whatever it had before.
    Put(Vec<Value>),
    /// Some of its columns, by their index in the table and in the order of that, change. The row must be there.
    Update(Vec<(usize, Step)>),
    /// It is gone.
    Delete,
}

/// What is to happen to one column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// It has this value.
    Set(Value),
    /// This number is added to it.
    Add(Value),
}

impl Step {
    /// Whether something is added to what is there.
    #[must_use]
    pub const fn adds(&self) -> bool {
        matches!(self, Self::Add(_))
    }

    /// The value that is set or added.
    #[must_use]
    pub fn into_value(self) -> Value {
        match self {
            Self::Set(value) | Self::Add(value) => value,
        }
    }

    /// What it comes to when another follows it.
    fn then(&mut self, later: Self) {
        match (&mut *self, later) {
            (_, later @ Self::Set(_)) => *self = later,
            (Self::Set(value) | Self::Add(value), Self::Add(more)) => *value = sum(value, &more),
        }
    }
}

/// The changes of a batch, a row each, in the order in which the rows were first touched.
///
/// Several changes of one row are merged into one while the fold runs, so that one statement writes all rows of a batch
/// that change alike. What cannot be merged (an update of a row that is gone) is kept as two stages, which the runner
/// writes one after the other.
#[derive(Debug, Default)]
pub struct Changes {
    stages: Vec<Stage>,
}

/// Changes that do not depend on each other.
#[derive(Debug, Default)]
pub struct Stage {
    rows: Vec<Row>,
    index: HashMap<(&'static str, Vec<Value>), usize>,
}

/// A row and what is to happen to it.
#[derive(Debug)]
pub struct Row {
    /// Its table.
    pub table: &'static Table,
    /// Its key, in the order of the table's key columns.
    pub key: Vec<Value>,
    /// What is to happen to it.
    pub change: Change,
}

impl Changes {
    /// The row has exactly these values.
    ///
    /// # Panics
    /// When keys or values do not fit the table: a mistake in a fold, which every test of it meets.
    pub fn put(&mut self, table: &'static Table, key: Vec<Value>, values: Vec<Value>) {
        assert_eq!(values.len(), table.columns.len(), "a put gives every column of {}", table.name);
        for (column, value) in table.columns.iter().zip(&values) {
            assert!(value.is(column.kind), "{}.{} cannot hold {value:?}", table.name, column.name);
        }
        self.change(table, key, Change::Put(values));
    }

    /// These columns of the row have these values.
    ///
    /// # Panics
    /// When keys, columns or values do not fit the table.
    pub fn set(
        &mut self,
        table: &'static Table,
        key: Vec<Value>,
        values: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        self.change(table, key, Change::Update(steps(table, values, Step::Set)));
    }

    /// To these columns of the row these numbers are added.
    ///
    /// # Panics
    /// When keys, columns or values do not fit the table.
    pub fn add(
        &mut self,
        table: &'static Table,
        key: Vec<Value>,
        values: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        self.change(table, key, Change::Update(steps(table, values, Step::Add)));
    }

    /// The row is gone.
    ///
    /// # Panics
    /// When the key does not fit the table.
    pub fn delete(&mut self, table: &'static Table, key: Vec<Value>) {
        self.change(table, key, Change::Delete);
    }

    /// The stages, to be written one after the other.
    #[must_use]
    pub fn into_stages(self) -> Vec<Vec<Row>> {
        self.stages.into_iter().map(|stage| stage.rows).collect()
    }

    /// How many rows are to be written.
    #[must_use]
    pub fn len(&self) -> usize {
        self.stages.iter().map(|stage| stage.rows.len()).sum()
    }

    /// Whether rows of this table are to be written.
    #[must_use]
    pub fn touch(&self, table: &str) -> bool {
        self.stages.iter().flat_map(|stage| &stage.rows).any(|row| row.table.name == table)
    }

    /// Whether nothing is to be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    fn change(&mut self, table: &'static Table, key: Vec<Value>, change: Change) {
        assert_eq!(key.len(), table.key.len(), "a key gives every key column of {}", table.name);
        for (column, value) in table.key.iter().zip(&key) {
            assert!(value.is(column.kind), "{}.{} cannot hold {value:?}", table.name, column.name);
        }
        if self.stages.is_empty() {
            self.stages.push(Stage::default());
        }
        let stage = self.stages.last_mut().expect("a stage was just pushed where there was none");
        let name = (table.name, key);
        let Some(index) = stage.index.get(&name).copied() else {
            stage.index.insert(name.clone(), stage.rows.len());
            stage.rows.push(Row { table, key: name.1, change });
            return;
        };
        if let Some(change) = merge(&mut stage.rows[index].change, change) {
            self.stages.push(Stage {
                index: HashMap::from([(name.clone(), 0)]),
                rows: vec![Row { table, key: name.1, change }],
            });
        }
    }
}

/// Finds the columns by name and checks that they can hold the values.
fn steps(
    table: &'static Table,
    values: impl IntoIterator<Item = (&'static str, Value)>,
    step: fn(Value) -> Step,
) -> Vec<(usize, Step)> {
    let mut steps: Vec<(usize, Step)> = values
        .into_iter()
        .map(|(name, value)| {
            let index = table.columns.iter().position(|column: &Column| column.name == name);
            let index = index.unwrap_or_else(|| panic!("{} has no column {name}", table.name));
            assert!(value.is(table.columns[index].kind), "{}.{name} cannot hold {value:?}", table.name);
            (index, step(value))
        })
        .collect();
    steps.sort_by_key(|(index, _)| *index);
    steps
}

/// Makes `earlier` say what both say, or gives `later` back where no one change can.
fn merge(earlier: &mut Change, later: Change) -> Option<Change> {
    match (&mut *earlier, later) {
        (_, later @ (Change::Put(_) | Change::Delete)) => *earlier = later,
        (Change::Put(values), Change::Update(steps)) => {
            for (index, step) in steps {
                values[index] = match step {
                    Step::Set(value) => value,
                    Step::Add(value) => sum(&values[index], &value),
                };
            }
        }
        (Change::Update(earlier), Change::Update(steps)) => {
            for (index, step) in steps {
                match earlier.binary_search_by_key(&index, |(index, _)| *index) {
                    Ok(at) => earlier[at].1.then(step),
                    Err(at) => earlier.insert(at, (index, step)),
                }
            }
        }
        (Change::Delete, later) => return Some(later),
    }
    None
}

/// Adds two numbers of one kind. What has no number yet counts as none.
fn sum(left: &Value, right: &Value) -> Value {
    match (left, right) {
        (Value::Integer(left), Value::Integer(right)) => Value::Integer(left.saturating_add(*right)),
        (Value::Decimal(left), Value::Decimal(right)) => {
            Value::Decimal(left.checked_add(*right).unwrap_or(Decimal::MAX))
        }
        (Value::Null, right) => right.clone(),
        (left, right) => panic!("{left:?} and {right:?} cannot be added"),
    }
}
