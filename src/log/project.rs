//! The runner of the projections: writes the row changes that their folds gave, in one statement for each kind of
//! change, inside a transaction that has named its tenant.

use std::time::SystemTime;

use rust_decimal::Decimal;
use theazo_domain::Event;
use theazo_projections::change::{Change, Row};
use theazo_projections::{Changes, Column, Happened, Kind, Projection, Table, Value};
use tokio_postgres::types::ToSql;

use super::{Recorded, TenantId};
use crate::database::{Client, Error, Pipeline, system_time};
use crate::planted;

/// A build of a projection that is to be kept up.
#[derive(Clone, Copy)]
pub(crate) struct Build {
    /// Of this projection.
    pub(crate) projection: &'static dyn Projection,
    /// Its number: rows of the table carry it.
    pub(crate) number: i32,
}

/// Folds events through the projections that these builds are of.
pub(crate) fn fold<'a>(builds: &[Build], events: impl Iterator<Item = &'a Recorded>) -> Changes {
    let mut changes = Changes::default();
    fold_into(&mut changes, builds, events);
    changes
}

/// Folds events behind those whose changes these are.
pub(crate) fn fold_into<'a>(
    changes: &mut Changes,
    builds: &[Build],
    events: impl Iterator<Item = &'a Recorded>,
) {
    let mut projections: Vec<&'static dyn Projection> = vec![];
    for build in builds {
        let name = build.projection.table().name;
        if !projections.iter().any(|known| known.table().name == name) {
            projections.push(build.projection);
        }
    }
    for recorded in events {
        let (position, at) = (recorded.stored.position, recorded.stored.at);
        let happened = Happened { position, at, event: &recorded.event };
        for projection in &projections {
            match planted_in(projection.table().name, &recorded.event) {
                Some(times) => (0..times).for_each(|_| projection.fold(&happened, changes)),
                None => projection.fold(&happened, changes),
            }
        }
    }
}

/// How often an event is folded where a bug is planted in that.
fn planted_in(table: &str, event: &Event) -> Option<u8> {
    match (table, event) {
        ("usage_totals", Event::BillingAdjusted(_)) if planted::is("uncounted-adjustment") => Some(0),
        ("usage_by_user", Event::CallSettled(_)) if planted::strikes("folded-twice", 50) => Some(2),
        _ => None,
    }
}

/// Many rows of one table that are written in one way, by their columns.
pub(crate) struct Write {
    table: &'static Table,
    shape: Shape,
    build: i32,
    columns: Vec<Array>,
    /// Whether others have to be written before it.
    follows: bool,
}

/// A table, and which of its rows one statement can write together.
pub(crate) type Way = (&'static str, Shape);

/// Which rows one statement can write together.
#[derive(PartialEq, Eq, PartialOrd, Ord, Hash, Clone)]
pub(crate) enum Shape {
    Put,
    /// The columns that change, by their index, and whether something is added to each.
    Update(Vec<(usize, bool)>),
    Delete,
}

/// The statements for these changes, to be carried out in this order.
pub(crate) fn writes(changes: Changes, builds: &[Build]) -> Vec<Write> {
    let mut writes = vec![];
    for (stage, rows) in changes.into_stages().into_iter().enumerate() {
        let mut groups: Vec<(&'static Table, Shape, Vec<Row>)> = vec![];
        for row in rows {
            let fits = |(table, shape, _): &(&Table, Shape, Vec<Row>)| {
                table.name == row.table.name && shape.is_of(&row.change)
            };
            // A batch has a few groups only.
            match groups.iter().position(fits) {
                Some(group) => groups[group].2.push(row),
                None => groups.push((row.table, Shape::of(&row.change), vec![row])),
            }
        }
        for (table, shape, rows) in groups {
            let numbers = builds.iter().filter(|build| build.projection.table().name == table.name);
            let columns = columns(table, &shape, rows);
            writes.extend(numbers.map(|build| Write {
                table,
                shape: shape.clone(),
                build: build.number,
                columns: columns.clone(),
                follows: stage > 0,
            }));
        }
    }
    writes
}

impl Shape {
    fn of(change: &Change) -> Self {
        match change {
            Change::Put(_) => Self::Put,
            Change::Update(steps) => {
                Self::Update(steps.iter().map(|(index, step)| (*index, step.adds())).collect())
            }
            Change::Delete => Self::Delete,
        }
    }

    fn is_of(&self, change: &Change) -> bool {
        match (self, change) {
            (Self::Put, Change::Put(_)) | (Self::Delete, Change::Delete) => true,
            (Self::Update(columns), Change::Update(steps)) => {
                columns.iter().copied().eq(steps.iter().map(|(index, step)| (*index, step.adds())))
            }
            _ => false,
        }
    }
}

/// The columns of a table that a statement of this shape takes values for, behind the key.
fn taken(table: &'static Table, shape: &Shape) -> Vec<&'static Column> {
    match shape {
        Shape::Put => table.columns.iter().collect(),
        Shape::Update(steps) => steps.iter().map(|(index, _)| &table.columns[*index]).collect(),
        Shape::Delete => vec![],
    }
}

/// The statement, whose `$1` is the tenant. The build is the parameter of this number, and behind it comes an array for
/// each column; `beside` is what their rows are joined to.
fn statement(table: &'static Table, shape: &Shape, (build, beside): (usize, &str)) -> String {
    let name = table.name;
    let taken = taken(table, shape);
    let all: Vec<&Column> = table.key.iter().chain(taken.iter().copied()).collect();
    let arrays: Vec<String> = all
        .iter()
        .enumerate()
        .map(|(index, column)| format!("${}::{}[]", build + 1 + index, array_type(column.kind)))
        .collect();
    let names: Vec<&str> = all.iter().map(|column| column.name).collect();
    let rows = format!("{beside}unnest({}) as u({})", arrays.join(", "), names.join(", "));
    let keys: Vec<&str> = table.key.iter().map(|column| column.name).collect();
    let this_row: Vec<String> = keys.iter().map(|key| format!("t.{key} = u.{key}")).collect();
    let this_row = format!("t.tenant_id = $1 and t.build = ${build} and {}", this_row.join(" and "));
    let set = |column: &Column| format!("{0} = excluded.{0}", column.name);
    let add = |column: &Column| format!("{0} = t.{0} + excluded.{0}", column.name);
    let assignments: Vec<String> = match shape {
        Shape::Put => taken.iter().map(|column| set(column)).collect(),
        Shape::Update(steps) => {
            let assign = |(column, adds): (&&Column, bool)| if adds { add(column) } else { set(column) };
            taken.iter().zip(steps.iter().map(|(_, adds)| *adds)).map(assign).collect()
        }
        Shape::Delete => return format!("delete from {name} t using {rows} where {this_row}"),
    };
    upsert(table, &taken, (build, &rows), &assignments.join(", "))
}

/// Finds each row by the primary key and changes it in place. An update with a join would leave it to the planner how
/// to find the rows, and while its statistics are older than the rows it reads all of the tenant's. A row that is not
/// there, which only a read model that was tampered with lacks, comes to be with empty values for what is not given,
/// and the comparison with the log finds it.
fn upsert(
    table: &'static Table,
    taken: &[&Column],
    (build, rows): (usize, &str),
    assignments: &str,
) -> String {
    let name = table.name;
    let (mut names, mut values) = (vec![], vec![]);
    for column in table.key.iter().chain(taken.iter().copied()) {
        names.push(column.name);
        values.push(value(column));
    }
    for column in table.columns.iter().filter(|column| !taken.contains(column)) {
        names.push(column.name);
        values.push(empty(column.kind).to_owned());
    }
    let keys: Vec<&str> = table.key.iter().map(|column| column.name).collect();
    format!(
        "insert into {name} as t (tenant_id, build, {}) select $1, ${build}, {} from {rows} \
         on conflict (tenant_id, build, {}) do update set {assignments}",
        names.join(", "),
        values.join(", "),
        keys.join(", "),
    )
}

/// A value of this kind that says nothing.
fn empty(kind: Kind) -> &'static str {
    match kind {
        Kind::Text => "''",
        Kind::Integer | Kind::Decimal => "0",
        Kind::Time => "'epoch'::timestamptz",
        Kind::Json => "'null'::json",
    }
}

fn array_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Text | Kind::Json => "text",
        Kind::Integer => "bigint",
        Kind::Decimal => "numeric",
        Kind::Time => "timestamptz",
    }
}

fn value(column: &Column) -> String {
    // JSON travels as text, so that its bytes stay as the fold wrote them.
    let cast = if column.kind == Kind::Json { "::json" } else { "" };
    format!("u.{}{cast}", column.name)
}

/// The values of one column, a row each.
#[derive(Clone)]
enum Array {
    Text(Vec<Option<String>>),
    Integer(Vec<Option<i64>>),
    Decimal(Vec<Option<Decimal>>),
    Time(Vec<Option<SystemTime>>),
}

fn columns(table: &'static Table, shape: &Shape, rows: Vec<Row>) -> Vec<Array> {
    let kinds = table.key.iter().chain(taken(table, shape)).map(|column| column.kind);
    let mut columns: Vec<Array> = kinds
        .map(|kind| match kind {
            Kind::Text | Kind::Json => Array::Text(Vec::with_capacity(rows.len())),
            Kind::Integer => Array::Integer(Vec::with_capacity(rows.len())),
            Kind::Decimal => Array::Decimal(Vec::with_capacity(rows.len())),
            Kind::Time => Array::Time(Vec::with_capacity(rows.len())),
        })
        .collect();
    for row in rows {
        let values: Vec<Value> = match row.change {
            Change::Put(values) => values,
            Change::Update(steps) => steps.into_iter().map(|(_, step)| step.into_value()).collect(),
            Change::Delete => vec![],
        };
        for (column, value) in columns.iter_mut().zip(row.key.into_iter().chain(values)) {
            column.push(value);
        }
    }
    columns
}

impl Array {
    fn push(&mut self, value: Value) {
        match (self, value) {
            (Self::Text(column), Value::Text(text) | Value::Json(text)) => column.push(Some(text)),
            (Self::Integer(column), Value::Integer(number)) => column.push(Some(number)),
            (Self::Decimal(column), Value::Decimal(number)) => column.push(Some(number)),
            (Self::Time(column), Value::Time(at)) => column.push(Some(system_time(at))),
            (Self::Text(column), _) => column.push(None),
            (Self::Integer(column), _) => column.push(None),
            (Self::Decimal(column), _) => column.push(None),
            (Self::Time(column), _) => column.push(None),
        }
    }

    fn parameter(&self) -> &(dyn ToSql + Sync) {
        match self {
            Self::Text(column) => column,
            Self::Integer(column) => column,
            Self::Decimal(column) => column,
            Self::Time(column) => column,
        }
    }
}

impl Write {
    /// The way in which it is written.
    pub(crate) fn way(&self) -> Way {
        (self.table.name, self.shape.clone())
    }

    /// Whether it can be written at the same time as all others of which that is true: their rows are others.
    pub(crate) fn stands_alone(&self) -> bool {
        !self.follows && self.shape != Shape::Delete
    }

    /// The statement as a part of one that has the rows of `head` before this: its parameters begin at this number.
    pub(crate) fn behind_head(&self, first: usize) -> String {
        statement(self.table, &self.shape, (first, "head cross join "))
    }

    /// The build, and an array for each column.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &(dyn ToSql + Sync)> {
        std::iter::once(&self.build as &(dyn ToSql + Sync)).chain(self.columns.iter().map(Array::parameter))
    }

    /// Prepares the statement on this connection, once in the connection's life.
    pub(crate) async fn prepare(&self, client: &Client) -> Result<tokio_postgres::Statement, Error> {
        Ok(client.prepare_cached(&statement(self.table, &self.shape, (2, ""))).await?)
    }

    /// Sends the statement.
    pub(crate) async fn send<'a>(
        self,
        pipeline: &mut Pipeline<'a>,
        client: &'a Client,
        statement: tokio_postgres::Statement,
        tenant: TenantId,
    ) {
        pipeline
            .send(async move {
                let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&tenant];
                parameters.extend(self.parameters());
                client.query(&statement, &parameters).await
            })
            .await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: Table = Table {
        name: "tallies",
        key: &[Column::text("name")],
        columns: &[Column::integer("count"), Column::json("note")],
    };

    fn alone(shape: &Shape) -> String {
        statement(&TABLE, shape, (2, ""))
    }

    #[test]
    fn each_way_of_writing_is_one_statement() {
        let conflict = "on conflict (tenant_id, build, name) do update set";
        assert_eq!(
            alone(&Shape::Put),
            format!(
                "insert into tallies as t (tenant_id, build, name, count, note) \
                 select $1, $2, u.name, u.count, u.note::json \
                 from unnest($3::text[], $4::bigint[], $5::text[]) as u(name, count, note) \
                 {conflict} count = excluded.count, note = excluded.note"
            )
        );
        assert_eq!(
            alone(&Shape::Update(vec![(1, false)])),
            format!(
                "insert into tallies as t (tenant_id, build, name, note, count) \
                 select $1, $2, u.name, u.note::json, 0 from unnest($3::text[], $4::text[]) as u(name, note) \
                 {conflict} note = excluded.note"
            )
        );
        assert_eq!(
            alone(&Shape::Update(vec![(0, true)])),
            format!(
                "insert into tallies as t (tenant_id, build, name, count, note) \
                 select $1, $2, u.name, u.count, 'null'::json \
                 from unnest($3::text[], $4::bigint[]) as u(name, count) {conflict} count = t.count + excluded.count"
            )
        );
        assert_eq!(
            alone(&Shape::Update(vec![(0, true), (1, false)])),
            format!(
                "insert into tallies as t (tenant_id, build, name, count, note) \
                 select $1, $2, u.name, u.count, u.note::json \
                 from unnest($3::text[], $4::bigint[], $5::text[]) as u(name, count, note) \
                 {conflict} count = t.count + excluded.count, note = excluded.note"
            )
        );
        assert_eq!(
            alone(&Shape::Delete),
            "delete from tallies t using unnest($3::text[]) as u(name) \
             where t.tenant_id = $1 and t.build = $2 and t.name = u.name"
        );
    }
}
