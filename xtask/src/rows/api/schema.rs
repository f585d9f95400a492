//! What the API document says of an answer, held against one. What a text has to look like is left to the tool.

use serde_json::Value;

/// How an answer of this status to an operation differs from what the document says of it.
pub(super) fn difference(document: &Value, operation: &Value, status: u16, body: &Value) -> Option<String> {
    let Some(described) = operation["responses"].get(status.to_string()) else {
        return Some(format!("{status} is not in the document"));
    };
    let described = resolved(document, described);
    let schema = &described["content"]["application/json"]["schema"];
    if schema.is_null() {
        return None;
    }
    misfit(document, schema, body, "the answer")
}

fn resolved<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let pointer = value["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

fn misfit(document: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let schema = resolved(document, schema);
    let list = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let fits = |part: &Value| misfit(document, part, value, at).is_none();
    for name in ["oneOf", "anyOf"] {
        if schema.get(name).is_some() && !list(name).iter().any(fits) {
            return Some(format!("{at} is none of {name}: {value}"));
        }
    }
    if let Some(wrong) = list("allOf").iter().find_map(|part| misfit(document, part, value, at)) {
        return Some(wrong);
    }
    let types = schema["type"].as_array().cloned().unwrap_or_else(|| vec![schema["type"].clone()]);
    if schema.get("type").is_some() && !types.iter().any(|name| is_of(name, value)) {
        return Some(format!("{at} is to be {}: {value}", schema["type"]));
    }
    if schema.get("enum").is_some() && !list("enum").contains(value) {
        return Some(format!("{at} is none of {}: {value}", schema["enum"]));
    }
    if let Some(members) = value.as_object() {
        let missing =
            list("required").iter().find(|name| !members.contains_key(name.as_str().unwrap_or_default()));
        if let Some(missing) = missing {
            return Some(format!("{at} lacks {missing}: {value}"));
        }
        for (name, member) in members {
            let at = format!("{at}.{name}");
            let wrong = match schema["properties"].get(name) {
                Some(schema) => misfit(document, schema, member, &at),
                None if schema["additionalProperties"] == false => Some(format!("{at} is unknown")),
                None if schema["additionalProperties"].is_object() => {
                    misfit(document, &schema["additionalProperties"], member, &at)
                }
                None => None,
            };
            if wrong.is_some() {
                return wrong;
            }
        }
    }
    let items = value.as_array().into_iter().flatten().enumerate();
    let mut wrong = items.map(|(index, item)| match schema.get("items") {
        Some(schema) => misfit(document, schema, item, &format!("{at}[{index}]")),
        None => None,
    });
    wrong.find_map(|wrong| wrong)
}

fn is_of(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("null") => value.is_null(),
        _ => true,
    }
}
