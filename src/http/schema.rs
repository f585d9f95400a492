//! Holding a body against the very schema that the API document shows, so that the two cannot disagree.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use jsonschema::error::ValidationErrorKind;
use jsonschema::paths::{Location, LocationSegment};
use jsonschema::{ValidationError, Validator};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::error::Field;

static COMPILED: LazyLock<RwLock<HashMap<TypeId, Arc<Validator>>>> = LazyLock::new(RwLock::default);

/// The validator of a type, compiled when it is first asked for.
fn validator<T: ToSchema + 'static>() -> Arc<Validator> {
    let id = TypeId::of::<T>();
    if let Some(known) = COMPILED.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
        return Arc::clone(known);
    }
    let mut parts = vec![];
    T::schemas(&mut parts);
    let parts: HashMap<String, _> = parts.into_iter().collect();
    let mut schema = serde_json::to_value(T::schema()).expect("a schema is plain data");
    schema["components"] = json!({ "schemas": parts });
    let compiled = Arc::new(jsonschema::draft202012::new(&schema).expect("derived schemas are valid"));
    COMPILED.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&compiled));
    compiled
}

/// Every field of the value that breaks the schema of `T`.
pub(crate) fn violations<T: ToSchema + 'static>(value: &Value) -> Vec<Field> {
    let validator = validator::<T>();
    let mut fields = vec![];
    for error in validator.iter_errors(value) {
        describe(&error, &mut fields);
    }
    fields
}

/// Notes what an error says; of alternatives, what the one says that was meant.
fn describe(error: &ValidationError<'_>, fields: &mut Vec<Field>) {
    if let ValidationErrorKind::OneOfNotValid { context } | ValidationErrorKind::AnyOf { context } =
        error.kind()
    {
        // An optional field is null or something: where the value is of the something's type, that was meant.
        let mut meant =
            context.iter().filter(|errors| !errors.iter().any(|inner| is_other_type(error, inner)));
        if let (Some(errors), None) = (meant.next(), meant.next()) {
            errors.iter().for_each(|inner| describe(inner, fields));
            return;
        }
        // All alternatives are of other types: the last one is not null, and says which type it would have to be.
        if let Some(inner) = context.last().and_then(|errors| errors.first()) {
            describe(inner, fields);
            return;
        }
    }
    let mut path = dotted(error.instance_path());
    if let ValidationErrorKind::Required { property } = error.kind() {
        let name = property.as_str().unwrap_or_default();
        path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        fields.push(Field::new(path, "required", "is required"));
        return;
    }
    if let ValidationErrorKind::AdditionalProperties { unexpected } = error.kind() {
        for name in unexpected {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            fields.push(Field::new(path, "additionalProperties", "is not known here"));
        }
        return;
    }
    let message = match error.kind() {
        // The library names the first two.
        ValidationErrorKind::Enum { options } => {
            let options: Vec<_> = options.as_array().into_iter().flatten().map(Value::to_string).collect();
            format!("the value is none of {}", options.join(", "))
        }
        _ => error.masked_with("the value").to_string(),
    };
    fields.push(Field::new(path, error.kind().keyword(), message));
}

fn is_other_type(outer: &ValidationError<'_>, inner: &ValidationError<'_>) -> bool {
    matches!(inner.kind(), ValidationErrorKind::Type { .. }) && inner.instance_path() == outer.instance_path()
}

/// `limits.maxCost.amount`, `inputs.3`.
fn dotted(location: &Location) -> String {
    let segments = location.iter().map(|segment| match segment {
        LocationSegment::Property(name) => name.into_owned(),
        LocationSegment::Index(index) => index.to_string(),
    });
    segments.collect::<Vec<_>>().join(".")
}
