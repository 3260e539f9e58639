//! The comparison of two versions of an OpenAPI document.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

const METHODS: [&str; 7] = ["get", "head", "post", "put", "patch", "delete", "options"];

/// What existing clients cannot cope with. They may send what they sent before, and they rely on
/// every status and field of a response.
pub fn breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = Comparison { old, new, compared: BTreeSet::new(), found: vec![] };
    for (path, old_item) in entries(&old["paths"]) {
        let Some(new_item) = new["paths"].get(path) else {
            comparison.found.push(format!("{path}: is removed"));
            continue;
        };
        for (method, old_operation) in operations(old_item) {
            let place = format!("{} {path}", method.to_uppercase());
            match new_item.get(method) {
                Some(operation) => comparison.operation(old_operation, operation, &place),
                None => comparison.found.push(format!("{place}: is removed")),
            }
        }
    }
    comparison.found
}

/// Who writes a value: of a request the client, of a response the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Direction {
    Request,
    Response,
}

struct Comparison<'d> {
    old: &'d Value,
    new: &'d Value,
    /// The pairs of referenced schemas that were compared: schemas may be recursive.
    compared: BTreeSet<(String, String, Direction)>,
    found: Vec<String>,
}

impl Comparison<'_> {
    fn operation(&mut self, old: &Value, new: &Value, place: &str) {
        self.parameters(&old["parameters"], &new["parameters"], place);
        self.request_body(&old["requestBody"], &new["requestBody"], place);
        for (status, old_response) in entries(&old["responses"]) {
            let place = format!("{place} {status}");
            let Some(new_response) = new["responses"].get(status) else {
                self.found.push(format!("{place}: is removed"));
                continue;
            };
            let old_response = resolve(old_response, self.old);
            let new_response = resolve(new_response, self.new);
            self.content(old_response, new_response, Direction::Response, &place);
        }
    }

    fn parameters(&mut self, old: &Value, new: &Value, place: &str) {
        let key = |parameter: &Value| (parameter["in"].clone(), parameter["name"].clone());
        let find = |all: &Value, parameter: &Value| {
            let mut all = all.as_array().into_iter().flatten();
            all.find(|other| key(other) == key(parameter)).cloned()
        };
        for parameter in old.as_array().into_iter().flatten() {
            let place = format!("{place} parameter {}", parameter["name"]);
            match find(new, parameter) {
                Some(other) => {
                    self.schema(&parameter["schema"], &other["schema"], Direction::Request, &place);
                }
                None => self.found.push(format!("{place}: is removed")),
            }
        }
        for parameter in new.as_array().into_iter().flatten() {
            let was_required = find(old, parameter).is_some_and(|old| old["required"] == true);
            if parameter["required"] == true && !was_required {
                let name = &parameter["name"];
                self.found.push(format!("{place} parameter {name}: is newly required"));
            }
        }
    }

    fn request_body(&mut self, old: &Value, new: &Value, place: &str) {
        let place = format!("{place} body");
        if new["required"] == true && old["required"] != true {
            self.found.push(format!("{place}: is newly required"));
        }
        if old.is_object() && new.is_null() {
            self.found.push(format!("{place}: is removed"));
        } else {
            self.content(old, new, Direction::Request, &place);
        }
    }

    /// Compares the schemas of each media type.
    fn content(&mut self, old: &Value, new: &Value, direction: Direction, place: &str) {
        for (media_type, old_content) in entries(&old["content"]) {
            match new["content"].get(media_type) {
                Some(content) => {
                    self.schema(&old_content["schema"], &content["schema"], direction, place);
                }
                None => self.found.push(format!("{place}: {media_type} is removed")),
            }
        }
    }

    fn schema(&mut self, old: &Value, new: &Value, direction: Direction, place: &str) {
        if let (Some(one), Some(other)) = (old["$ref"].as_str(), new["$ref"].as_str())
            && !self.compared.insert((one.to_owned(), other.to_owned(), direction))
        {
            return;
        }
        let (old, new) = (resolve(old, self.old), resolve(new, self.new));
        for keyword in ["type", "format"] {
            if old[keyword] != new[keyword] {
                let (old, new) = (&old[keyword], &new[keyword]);
                self.found.push(format!("{place}: {keyword} was {old} and is {new}"));
            }
        }
        self.limits(old, new, direction, place);
        self.fields(old, new, direction, place);
        for keyword in ["items", "additionalProperties"] {
            if old[keyword].is_object() {
                self.schema(&old[keyword], &new[keyword], direction, &format!("{place}[]"));
            }
        }
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let [old, new] = [old, new].map(|schema| schema[keyword].as_array());
            let (old, new) = (old.map_or(&[][..], |all| all), new.map_or(&[][..], |all| all));
            if old.len() != new.len() {
                self.found.push(format!("{place}: {keyword} has {} alternatives", new.len()));
            }
            for (old, new) in old.iter().zip(new) {
                self.schema(old, new, direction, place);
            }
        }
    }

    /// What a client may send must not become less: values of an enumeration, lengths and ranges.
    fn limits(&mut self, old: &Value, new: &Value, direction: Direction, place: &str) {
        if direction == Direction::Response {
            return;
        }
        if let Some(values) = new["enum"].as_array() {
            let removed = old["enum"].as_array().into_iter().flatten();
            for value in removed.filter(|value| !values.contains(value)) {
                self.found.push(format!("{place}: the value {value} is removed"));
            }
        }
        for (keyword, is_lower) in
            [("minimum", true), ("minLength", true), ("minItems", true), ("maximum", false)]
                .into_iter()
                .chain([("maxLength", false), ("maxItems", false)])
        {
            let Some(limit) = new[keyword].as_f64() else { continue };
            let is_narrower = old[keyword].as_f64().is_none_or(|old| match is_lower {
                true => limit > old,
                false => limit < old,
            });
            if is_narrower {
                let old = &old[keyword];
                self.found.push(format!("{place}: {keyword} was {old} and is {limit}"));
            }
        }
    }

    fn fields(&mut self, old: &Value, new: &Value, direction: Direction, place: &str) {
        for (name, field) in entries(&old["properties"]) {
            let place = format!("{place}.{name}");
            match new["properties"].get(name) {
                Some(other) => self.schema(field, other, direction, &place),
                None => self.found.push(format!("{place}: is removed")),
            }
        }
        let [was_required, is_required] = [old, new].map(required);
        let found = match direction {
            Direction::Request => is_required.difference(&was_required),
            Direction::Response => was_required.difference(&is_required),
        };
        let change = match direction {
            Direction::Request => "is newly required",
            Direction::Response => "is no longer always present",
        };
        self.found.extend(found.map(|name| format!("{place}.{name}: {change}")));
    }
}

/// The component that a reference names.
fn resolve<'d>(value: &'d Value, document: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => resolve(document.pointer(&reference[1..]).unwrap(), document),
        None => value,
    }
}

/// The entries of an object; none of any other value.
pub fn entries(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

/// The operations of a path, by method.
pub fn operations(item: &Value) -> impl Iterator<Item = (&String, &Value)> {
    entries(item).filter(|(method, _)| METHODS.contains(&method.as_str()))
}

fn required(schema: &Value) -> BTreeSet<String> {
    let names = schema["required"].as_array().into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A document with one operation of each direction, whose schemas are components.
    fn document() -> Value {
        json!({
            "paths": {"/cup/{id}": {
                "summary": "not an operation",
                "get": {
                    "parameters": [{"in": "path", "name": "id", "required": true,
                        "schema": {"type": "integer"}}],
                    "responses": {
                        "200": {"content": {"application/json": {"schema":
                            {"type": "array", "items": {"$ref": "#/components/schemas/Cup"}}}}},
                        "default": {"$ref": "#/components/responses/Problem"},
                    },
                },
                "put": {
                    "requestBody": {"content": {"application/json": {"schema":
                        {"$ref": "#/components/schemas/NewCup"}}}},
                    "responses": {"200": {}, "202": {}},
                },
            }},
            "components": {
                "responses": {"Problem": {"content": {"application/problem+json": {"schema":
                    {"type": "object", "properties": {"title": {"type": "string"}}}}}}},
                "schemas": {
                    "Cup": {
                        "type": "object",
                        "properties": {
                            "id": {"type": "integer", "format": "int64"},
                            "inside": {"oneOf": [{"type": "null"},
                                {"$ref": "#/components/schemas/Cup"}]},
                        },
                        "required": ["id"],
                    },
                    "NewCup": {
                        "type": "object",
                        "properties": {
                            "color": {"type": "string", "enum": ["red", "blue"]},
                            "name": {"type": "string", "maxLength": 200},
                        },
                        "required": ["color"],
                    },
                },
            },
        })
    }

    /// The breaking changes after this value is put at this place; null removes it.
    fn changed(place: &str, value: Value) -> Vec<String> {
        let mut new = document();
        let (parent, name) = place.rsplit_once('/').unwrap();
        let parent = new.pointer_mut(parent).unwrap();
        let name = name.replace("~1", "/");
        match parent {
            Value::Object(fields) if value.is_null() => drop(fields.remove(&name)),
            Value::Object(fields) => drop(fields.insert(name, value)),
            Value::Array(items) => items.push(value),
            other => panic!("{other} has no fields"),
        }
        breaking_changes(&document(), &new)
    }

    const GET: &str = "/paths/~1cup~1{id}/get";
    const PUT: &str = "/paths/~1cup~1{id}/put";
    const CUP: &str = "/components/schemas/Cup";
    const NEW_CUP: &str = "/components/schemas/NewCup";

    #[test]
    fn an_equal_document_has_none() {
        assert_eq!(breaking_changes(&document(), &document()), [""; 0]);
    }

    #[test]
    fn a_removed_path_method_or_status() {
        assert_eq!(changed("/paths/~1cup~1{id}", Value::Null), ["/cup/{id}: is removed"]);
        assert_eq!(changed(PUT, Value::Null), ["PUT /cup/{id}: is removed"]);
        let status = changed(&format!("{PUT}/responses/202"), Value::Null);
        assert_eq!(status, ["PUT /cup/{id} 202: is removed"]);
    }

    #[test]
    fn a_removed_field() {
        let field = changed(&format!("{CUP}/properties/id"), Value::Null);
        assert_eq!(field, ["GET /cup/{id} 200[].id: is removed"]);
        let field = changed(&format!("{NEW_CUP}/properties/name"), Value::Null);
        assert_eq!(field, ["PUT /cup/{id} body.name: is removed"]);
        let problem = "/components/responses/Problem/content/application~1problem+json/schema";
        let field = changed(&format!("{problem}/properties/title"), Value::Null);
        assert_eq!(field, ["GET /cup/{id} default.title: is removed"]);
    }

    #[test]
    fn a_newly_required_field_parameter_or_body() {
        let field = changed(&format!("{NEW_CUP}/required"), json!(["color", "name"]));
        assert_eq!(field, ["PUT /cup/{id} body.name: is newly required"]);
        let parameter = json!({"in": "query", "name": "q", "required": true, "schema": {}});
        let parameter = changed(&format!("{GET}/parameters/1"), parameter);
        assert_eq!(parameter, ["GET /cup/{id} parameter \"q\": is newly required"]);
        let body = changed(&format!("{PUT}/requestBody/required"), json!(true));
        assert_eq!(body, ["PUT /cup/{id} body: is newly required"]);
    }

    #[test]
    fn a_field_of_a_response_that_may_be_absent() {
        let field = changed(&format!("{CUP}/required"), json!([]));
        assert_eq!(field, ["GET /cup/{id} 200[].id: is no longer always present"]);
    }

    #[test]
    fn a_changed_type_or_format() {
        let id = changed(&format!("{CUP}/properties/id/type"), json!("string"));
        assert_eq!(id, ["GET /cup/{id} 200[].id: type was \"integer\" and is \"string\""]);
        let id = changed(&format!("{CUP}/properties/id/format"), json!("int32"));
        assert_eq!(id, ["GET /cup/{id} 200[].id: format was \"int64\" and is \"int32\""]);
        let name = changed(&format!("{NEW_CUP}/properties/name/type"), json!("integer"));
        assert_eq!(name, ["PUT /cup/{id} body.name: type was \"string\" and is \"integer\""]);
        let inside = changed(&format!("{CUP}/properties/inside/oneOf"), json!([{"type": "null"}]));
        assert_eq!(inside, ["GET /cup/{id} 200[].inside: oneOf has 1 alternatives"]);
    }

    #[test]
    fn a_narrower_request() {
        let color = changed(&format!("{NEW_CUP}/properties/color/enum"), json!(["red"]));
        assert_eq!(color, ["PUT /cup/{id} body.color: the value \"blue\" is removed"]);
        let name = changed(&format!("{NEW_CUP}/properties/name/maxLength"), json!(100));
        assert_eq!(name, ["PUT /cup/{id} body.name: maxLength was 200 and is 100"]);
        let name = changed(&format!("{NEW_CUP}/properties/name/minLength"), json!(1));
        assert_eq!(name, ["PUT /cup/{id} body.name: minLength was null and is 1"]);
    }

    #[test]
    fn an_addition_is_none() {
        let optional = json!({"in": "query", "name": "q", "required": false, "schema": {}});
        for (place, value) in [
            ("/paths/~1pot", json!({"get": {"responses": {}}})),
            ("/paths/~1cup~1{id}/delete", json!({"responses": {}})),
            (&format!("{GET}/responses/404"), json!({})),
            (&format!("{GET}/parameters/1"), optional),
            (&format!("{CUP}/properties/size"), json!({"type": "integer"})),
            (&format!("{CUP}/required"), json!(["id", "inside"])),
            (&format!("{NEW_CUP}/properties/size"), json!({"type": "integer"})),
            (&format!("{NEW_CUP}/required"), json!([])),
            (&format!("{NEW_CUP}/properties/name/maxLength"), json!(300)),
            (&format!("{NEW_CUP}/properties/color/enum"), json!(["red", "blue", "green"])),
        ] {
            assert_eq!(changed(place, value), [""; 0], "{place}");
        }
    }
}
