//! Agent definitions: where each stands, and what each of its versions says.

use theazo_domain::Event;
use theazo_domain::definition::{Status, Versioned};

use crate::table::{optional, text};
use crate::{Changes, Column, Happened, Projection, Table, Value};

/// A row a definition, archived ones included; what it says is in the row of its version.
pub(crate) struct Definitions;

/// A row a version of a definition, which never changes.
pub(crate) struct DefinitionVersions;

static DEFINITIONS: Table = Table {
    name: "definitions",
    key: &[Column::text("definition_id")],
    columns: &[
        Column::integer("version"),
        Column::text("status"),
        Column::integer("position"),
        Column::time("created_at"),
        Column::time("updated_at"),
    ],
};

static VERSIONS: Table = Table {
    name: "definition_versions",
    key: &[Column::text("definition_id"), Column::integer("version")],
    columns: &[
        Column::text("name"),
        Column::json("config"),
        Column::text("instructions_content_id"),
        Column::text("metadata_content_id"),
        Column::time("created_at"),
    ],
};

impl Projection for Definitions {
    fn table(&self) -> &'static Table {
        &DEFINITIONS
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        let at = Value::Time(happened.at);
        match happened.event {
            Event::DefinitionCreated(made) => {
                let values = vec![
                    Value::Integer(made.version),
                    text(Status::Active.as_str()),
                    Value::Integer(happened.position),
                    at.clone(),
                    at,
                ];
                changes.put(&DEFINITIONS, vec![text(made.definition_id)], values);
            }
            Event::DefinitionUpdated(made) => {
                let values = [("version", Value::Integer(made.version)), ("updated_at", at)];
                changes.set(&DEFINITIONS, vec![text(made.definition_id)], values);
            }
            Event::DefinitionArchived(archived) => {
                let values = [("status", text(Status::Archived.as_str())), ("updated_at", at)];
                changes.set(&DEFINITIONS, vec![text(archived.definition_id)], values);
            }
            _ => {}
        }
    }
}

impl Projection for DefinitionVersions {
    fn table(&self) -> &'static Table {
        &VERSIONS
    }

    fn version(&self) -> i32 {
        1
    }

    fn fold(&self, happened: &Happened<'_>, changes: &mut Changes) {
        if let Event::DefinitionCreated(made) | Event::DefinitionUpdated(made) = happened.event {
            let Versioned { definition_id, version, name, config, metadata } = made;
            let key = vec![text(definition_id), Value::Integer(*version)];
            let written = serde_json::to_string(config).expect("a configuration is plain data");
            let values = vec![
                text(name),
                Value::Json(written),
                optional(config.instructions.as_ref().map(|instructions| text(instructions.content_id))),
                optional(metadata.as_ref().map(|metadata| text(metadata.content_id))),
                Value::Time(happened.at),
            ];
            changes.put(&VERSIONS, key, values);
        }
    }
}
