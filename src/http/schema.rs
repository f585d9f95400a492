//! Holding a body against the very schema that the API document shows, so that the two cannot disagree.

use std::any::TypeId;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock};

use jsonschema::JsonType;
use jsonschema::error::{TypeKind, ValidationErrorKind};
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
        // All alternatives are of other types.
        let types = context.iter().flatten().filter(|inner| is_other_type(error, inner));
        let types: Vec<JsonType> = types.flat_map(types_of).collect();
        if !types.is_empty() {
            fields.push(Field::new(dotted(error.instance_path()), "type", must_be(&types)));
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
        ValidationErrorKind::Type { .. } => must_be(&types_of(error)),
        _ => error.masked_with("the value").to_string(),
    };
    fields.push(Field::new(path, error.kind().keyword(), message));
}

fn is_other_type(outer: &ValidationError<'_>, inner: &ValidationError<'_>) -> bool {
    matches!(inner.kind(), ValidationErrorKind::Type { .. }) && inner.instance_path() == outer.instance_path()
}

/// The types that an error says the value is not of.
fn types_of(error: &ValidationError<'_>) -> Vec<JsonType> {
    match error.kind() {
        ValidationErrorKind::Type { kind: TypeKind::Single(one) } => vec![*one],
        ValidationErrorKind::Type { kind: TypeKind::Multiple(several) } => several.iter().collect(),
        _ => vec![],
    }
}

/// Of which of these types a value must be. Null is what may be left out as well, so it is not spoken of.
fn must_be(types: &[JsonType]) -> String {
    let mut words: Vec<&str> = vec![];
    for kind in types.iter().filter(|kind| **kind != JsonType::Null) {
        let word = match kind {
            JsonType::Null => "null",
            JsonType::Boolean => "true or false",
            JsonType::Integer => "a whole number",
            JsonType::Number => "a number",
            JsonType::String => "a string",
            JsonType::Array => "an array",
            JsonType::Object => "an object",
        };
        if !words.contains(&word) {
            words.push(word);
        }
    }
    if words.is_empty() { "must be null".to_owned() } else { format!("must be {}", words.join(" or ")) }
}

/// `limits.maxCost.amount`, `inputs.3`.
fn dotted(location: &Location) -> String {
    let segments = location.iter().map(|segment| match segment {
        LocationSegment::Property(name) => name.into_owned(),
        LocationSegment::Index(index) => index.to_string(),
    });
    segments.collect::<Vec<_>>().join(".")
}
