//! The committed JSON Schemas of the events in `docs/events`: they equal the code, and a breaking
//! change is refused. That published events match them is tested in `events.rs`.
//!
//! `make event-schemas` writes them after a compatible change. An incompatible change needs a new
//! event name, or, before the first release, that the old schema is deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use serde_json::{Map, Value, json};
use shop_persistence::events::EVENTS;

/// If this variable is set, the schemas are written instead of compared.
const UPDATE: &str = "SHOP_UPDATE_EVENT_SCHEMAS";

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/events")
}

/// The committed schemas by event name.
fn committed() -> BTreeMap<String, Value> {
    let mut schemas = BTreeMap::new();
    for entry in fs::read_dir(folder()).into_iter().flatten() {
        let path = entry.unwrap().path();
        let schema = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        schemas.insert(path.file_stem().unwrap().to_str().unwrap().to_owned(), schema);
    }
    schemas
}

#[test]
fn committed_schemas_equal_the_code() {
    let declared: BTreeMap<String, Value> =
        EVENTS.iter().map(|event| (event.name.to_owned(), (event.schema)())).collect();
    let committed = committed();
    for (name, schema) in &declared {
        let breaking = committed.get(name).map_or(vec![], |old| breaking_changes(old, schema));
        assert!(breaking.is_empty(), "breaking changes of {name}: {breaking:#?}");
    }
    let removed: Vec<_> = committed.keys().filter(|name| !declared.contains_key(*name)).collect();
    assert!(removed.is_empty(), "events are removed, delete their schemas: {removed:?}");
    if std::env::var_os(UPDATE).is_some() {
        fs::create_dir_all(folder()).unwrap();
        for (name, schema) in &declared {
            let text = serde_json::to_string_pretty(schema).unwrap();
            fs::write(folder().join(format!("{name}.json")), text + "\n").unwrap();
        }
        return;
    }
    for (name, schema) in &declared {
        assert_eq!(
            committed.get(name),
            Some(schema),
            "docs/events/{name}.json differs from the code; run `make event-schemas`"
        );
    }
}

/// What other versions of the shop and other programs cannot cope with: an older consumer needs
/// each field that it knows, and a newer consumer must not need a field that an older publisher
/// omits.
fn breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut found = vec![];
    compare(old, new, (old, new), "body", &mut found);
    found
}

fn compare(old: &Value, new: &Value, roots: (&Value, &Value), path: &str, found: &mut Vec<String>) {
    let (old, new) = (resolve(old, roots.0), resolve(new, roots.1));
    for keyword in ["type", "format", "enum", "oneOf", "minimum", "maximum"] {
        if old.get(keyword) != new.get(keyword) {
            let [old, new] = [old, new].map(|it| it.get(keyword).unwrap_or(&Value::Null));
            found.push(format!("{path}: {keyword} was {old} and is {new}"));
        }
    }
    let [was_required, is_required] = [old, new].map(required);
    for (name, old) in properties(old) {
        match properties(new).find(|(other, _)| *other == name) {
            Some((_, new)) => compare(old, new, roots, &format!("{path}.{name}"), found),
            None => found.push(format!("{path}.{name}: is removed")),
        }
    }
    for name in is_required.difference(&was_required) {
        found.push(format!("{path}.{name}: is newly required"));
    }
    for name in was_required.difference(&is_required) {
        found.push(format!("{path}.{name}: is no longer always present"));
    }
    match (old.get("items"), new.get("items")) {
        (Some(old), Some(new)) => compare(old, new, roots, &format!("{path}[]"), found),
        (None, None) => {}
        _ => found.push(format!("{path}: items differ")),
    }
}

/// The schema that a reference within `root` names.
fn resolve<'s>(schema: &'s Value, root: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => resolve(root.pointer(&reference[1..]).unwrap(), root),
        None => schema,
    }
}

fn properties(schema: &Value) -> impl Iterator<Item = (&String, &Value)> {
    schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::iter)
}

fn required(schema: &Value) -> BTreeSet<&str> {
    let required = schema.get("required").and_then(Value::as_array);
    required.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn breaking_changes_are_found() {
    let id = || json!({"type": "integer", "format": "int64"});
    let schema = |properties: Value, required: Value| {
        json!({
            "type": "object",
            "properties": {"of": {"$ref": "#/$defs/Of"}},
            "required": ["of"],
            "$defs": {"Of": {"type": "object", "properties": properties, "required": required}},
        })
    };
    let old = schema(json!({"id": id(), "name": {"type": "string"}}), json!(["id"]));
    for (new, expected) in [
        (schema(json!({"id": id()}), json!(["id"])), "body.of.name: is removed"),
        (
            schema(json!({"id": id(), "title": {"type": "string"}}), json!(["id"])),
            "body.of.name: is removed",
        ),
        (
            schema(json!({"id": {"type": "string"}, "name": {"type": "string"}}), json!(["id"])),
            "body.of.id: type was \"integer\" and is \"string\"",
        ),
        (
            schema(json!({"id": id(), "name": {"type": "string"}}), json!(["id", "name"])),
            "body.of.name: is newly required",
        ),
        (
            schema(json!({"id": id(), "name": {"type": "string"}}), json!([])),
            "body.of.id: is no longer always present",
        ),
    ] {
        let found = breaking_changes(&old, &new);
        assert_eq!(found.first().map(String::as_str), Some(expected), "{found:?}");
    }
    let optional = json!({"id": id(), "name": {"type": "string"}, "color": {"type": "string"}});
    assert!(breaking_changes(&old, &schema(optional, json!(["id"]))).is_empty());
}

/// Where the body of an event differs from its committed schema.
pub fn violations_of(event: &str, body: &Value) -> Vec<String> {
    let schema = &committed()[event];
    violations(body, schema, schema, "body")
}

/// Where the value differs from the schema. Panics at a keyword that it does not know.
fn violations(value: &Value, schema: &Value, root: &Value, path: &str) -> Vec<String> {
    let mut found = vec![];
    for (keyword, constraint) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "$schema" | "$defs" | "title" | "description" | "examples" => {}
            "$ref" => found.extend(violations(value, resolve(schema, root), root, path)),
            "type" if is_type(value, constraint) => {}
            "type" => found.push(format!("{path}: {value} is not of type {constraint}")),
            "format" => match (constraint.as_str().unwrap(), value.as_str()) {
                ("int64" | "int32", _) | (_, None) => {}
                ("uuid", Some(text)) if uuid::Uuid::parse_str(text).is_ok() => {}
                (format, Some(_)) => found.push(format!("{path}: {value} is not a {format}")),
            },
            "enum" if constraint.as_array().unwrap().contains(value) => {}
            "enum" => found.push(format!("{path}: {value} is not one of {constraint}")),
            "oneOf" => {
                let matches = |one: &&Value| violations(value, one, root, path).is_empty();
                if constraint.as_array().unwrap().iter().filter(matches).count() != 1 {
                    found.push(format!("{path}: {value} does not match one of {constraint}"));
                }
            }
            "required" => {
                let missing = required(schema).into_iter().filter(|name| value.get(name).is_none());
                found.extend(missing.map(|name| format!("{path}.{name}: is missing")));
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let path = format!("{path}.{name}");
                    match constraint.get(name) {
                        Some(schema) => found.extend(violations(value, schema, root, &path)),
                        None => found.push(format!("{path}: is not in the schema")),
                    }
                }
            }
            "items" => {
                for value in value.as_array().into_iter().flatten() {
                    found.extend(violations(value, constraint, root, &format!("{path}[]")));
                }
            }
            keyword => panic!("add the keyword {keyword} to this validator"),
        }
    }
    found
}

fn is_type(value: &Value, types: &Value) -> bool {
    let one = |name: &Value| match name.as_str().unwrap() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        name => panic!("add the type {name} to this validator"),
    };
    types.as_array().map_or_else(|| one(types), |types| types.iter().any(one))
}

#[test]
fn the_validator_finds_violations() {
    let valid = json!({"id": 1, "name": "cup", "price": 5, "quantity": 7, "category_id": 1});
    let violated = |field: &str, value: Value| {
        let mut body = valid.clone();
        body[field] = value;
        !violations_of("product.created", &body).is_empty()
    };
    assert!(violations_of("product.created", &valid).is_empty());
    assert!(violated("price", json!("5")));
    assert!(violated("name", Value::Null));
    assert!(violated("colour", json!("red")));
    assert!(!violations_of("product.created", &json!({"id": 1})).is_empty());
}
