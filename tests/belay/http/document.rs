//! The OpenAPI document says what the daemon does.

use std::collections::BTreeSet;

use serde_json::Value;

use super::client::{ask, connect, request};
use super::site::Site;

/// Every method and path of the document, and whether a token is needed.
fn operations(document: &Value) -> BTreeSet<(String, String, bool)> {
    let mut found = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let is_open = operation["security"] == serde_json::json!([{}]);
            found.insert((method.to_uppercase(), path.clone(), !is_open));
        }
    }
    found
}

#[test]
fn every_documented_operation_is_there_and_asks_for_a_token() {
    let site = Site::start("");
    let token = site.operator();
    let served = ask(connect(site.address), &request("GET", "/v1/openapi.json", "", "")).json();
    let operations = operations(&served);
    let open = operations.iter().filter(|(.., needs_token)| !needs_token);
    let open: Vec<&str> = open.map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(open, ["/healthz", "/v1/openapi.json"]);
    for (method, path, needs_token) in &operations {
        let path = path.replace("{id}", "none").replace("{run}", "none");
        let without = ask(connect(site.address), &request(method, &path, "", ""));
        assert_eq!(without.status, if *needs_token { 401 } else { 200 }, "{method} {path}");
        let with = if method == "GET" { site.get(&path, &token) } else { site.post(&path, &token, "{}") };
        let is_found = with.status != 405 && (with.status != 404 || path.contains("/none"));
        assert!(is_found, "{method} {path}: {with:?}");
    }
    for (method, path) in [("GET", "/v1"), ("GET", "/"), ("POST", "/v1/restores"), ("GET", "/v1/status/")] {
        let (answer, named) = (ask(connect(site.address), &request(method, path, "", "")), (method, path));
        assert_eq!(answer.status, 404, "{named:?}");
        assert_eq!(answer.error(), "there is nothing here");
    }
    assert_eq!(ask(connect(site.address), &request("DELETE", "/v1/status", "", "")).status, 405);
}

#[test]
fn the_document_is_openapi() {
    let text = belay::http::api_document().to_json().unwrap();
    let spec: oas3::OpenApiV3Spec = oas3::from_json(&text).unwrap();
    assert!(spec.validate_version().is_ok(), "{}", spec.openapi);
    let document: Value = serde_json::from_str(&text).unwrap();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for reference in references(&document) {
        let name = reference.strip_prefix("#/components/schemas/").unwrap();
        assert!(schemas.contains_key(name), "{reference}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        for operation in item.as_object().unwrap().values() {
            let is_open = operation["security"] == serde_json::json!([{}]);
            let is_told = operation["responses"].get("401").is_some();
            assert_ne!(is_open, is_told, "{path}");
            assert!(operation["summary"].as_str().is_some_and(|summary| !summary.is_empty()), "{path}");
        }
    }
    assert_eq!(document["security"], serde_json::json!([{ "token": [] }]));
}

fn references(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let own = fields.get("$ref").and_then(Value::as_str).map(str::to_owned);
            own.into_iter().chain(fields.values().flat_map(references)).collect()
        }
        Value::Array(values) => values.iter().flat_map(references).collect(),
        _ => Vec::new(),
    }
}
