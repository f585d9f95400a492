//! A plausible input of a tool, from its JSON Schema: what stands in for a model has to call tools too.

use serde_json::{Map, Value, json};

/// As deep as schemas are followed.
const DEPTH: usize = 8;

/// A value that a schema of usual form allows: every required property, the first choice of each.
#[must_use]
pub fn plausible(schema: &Value) -> Value {
    value("", schema, DEPTH)
}

fn value(name: &str, schema: &Value, depth: usize) -> Value {
    let first = |keyword: &str| schema.get(keyword)?.as_array()?.first();
    let given = schema.get("const").or_else(|| schema.get("default"));
    if let Some(given) = given.or_else(|| first("examples")).or_else(|| first("enum")) {
        return given.clone();
    }
    if depth == 0 {
        return Value::Null;
    }
    if let Some(choice) = first("anyOf").or_else(|| first("oneOf")) {
        return value(name, choice, depth - 1);
    }
    let kind = schema.get("type");
    let kind = kind.and_then(|kind| kind.as_str().or_else(|| kind.as_array()?.first()?.as_str()));
    match kind {
        Some("string") => text(name, schema),
        Some("integer" | "number") => schema.get("minimum").cloned().unwrap_or_else(|| json!(1)),
        Some("boolean") => json!(true),
        Some("array") => {
            let fewest = schema.get("minItems").and_then(Value::as_u64).unwrap_or(0).min(16);
            let item = schema.get("items").map_or(Value::Null, |items| value(name, items, depth - 1));
            (0..fewest).map(|_| item.clone()).collect()
        }
        Some("null") => Value::Null,
        _ => object(schema, depth),
    }
}

fn object(schema: &Value, depth: usize) -> Value {
    let required = schema.get("required").and_then(Value::as_array);
    let names = required.into_iter().flatten().filter_map(Value::as_str);
    let property = |name: &str| {
        let schema = schema.get("properties").and_then(|properties| properties.get(name));
        (name.to_owned(), value(name, schema.unwrap_or(&json!({ "type": "string" })), depth - 1))
    };
    Value::Object(names.map(property).collect::<Map<_, _>>())
}

/// A text that fits what the property is called.
fn text(name: &str, schema: &Value) -> Value {
    let is_address = schema.get("format").and_then(Value::as_str) == Some("uri");
    let text = match name {
        "url" => "https://example.com/",
        _ if is_address => "https://example.com/",
        "path" => "example.txt",
        "code" => "print(6 * 7)",
        "query" => "an example",
        _ => "example",
    };
    let fewest = schema.get("minLength").and_then(Value::as_u64).unwrap_or(0).min(1_024);
    let missing = usize::try_from(fewest).unwrap_or(0).saturating_sub(text.len());
    json!(format!("{text}{}", "x".repeat(missing)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_input_is_what_the_schema_allows() {
        let schemas = [
            json!({ "type": "object" }),
            json!({ "type": "object", "properties": { "lang": { "enum": ["python", "bash"] }, "code": { "type": "string" } },
                    "required": ["lang", "code"], "additionalProperties": false }),
            json!({ "type": "object", "required": ["url", "method", "headers", "count", "items"], "properties": {
                    "url": { "type": "string", "format": "uri" }, "method": { "type": "string", "const": "GET" },
                    "headers": { "type": "object" }, "count": { "type": "integer", "minimum": 3 },
                    "items": { "type": "array", "minItems": 2, "items": { "type": ["string", "null"], "minLength": 9 } } } }),
            json!({ "anyOf": [{ "type": "object", "required": ["a"], "properties": { "a": { "type": "boolean" } } }] }),
        ];
        for schema in schemas {
            let input = plausible(&schema);
            assert!(jsonschema::is_valid(&schema, &input), "{input} for {schema}");
        }
    }
}
