//! The JSON Schema of an event's body, from the same declarations as the OpenAPI documents.

use serde_json::{Map, Value, json};

use super::Event;

/// A self-contained JSON Schema (2020-12) of the body of `E`.
pub fn json_schema<E: Event>() -> Value {
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": E::NAME,
    });
    let mut parts = vec![];
    E::schemas(&mut parts);
    let parts: Map<String, Value> =
        parts.into_iter().map(|(name, part)| (name, json!(part))).collect();
    if let (Some(schema), Value::Object(body)) = (schema.as_object_mut(), json!(E::schema())) {
        schema.extend(body);
        if !parts.is_empty() {
            schema.insert("$defs".to_owned(), Value::Object(parts));
        }
    }
    relocate(&mut schema);
    schema
}

/// Rewrites the references of OpenAPI to references within the schema, and the `example` of OpenAPI
/// to the `examples` of JSON Schema.
fn relocate(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            if let Some(Value::String(reference)) = fields.get_mut("$ref") {
                *reference = reference.replace("#/components/schemas/", "#/$defs/");
            }
            if let Some(example) = fields.remove("example") {
                fields.insert("examples".to_owned(), json!([example]));
            }
            fields.values_mut().for_each(relocate);
        }
        Value::Array(items) => items.iter_mut().for_each(relocate),
        _ => {}
    }
}
