//! The JSON Schemas of the pool file, the task message and the result message.

use schemars::schema_for;
use serde_json::Value;

use super::raw::RawPool;
use pool_core::result::ResultMessage;
use pool_core::task::TaskMessage;

/// The schema of the pool file, with which editors complete and check the file.
pub fn schema() -> Value {
    schema_for!(RawPool).to_value()
}

/// The schema with this name: `pool`, `task` or `result`.
pub fn schema_named(name: &str) -> Option<Value> {
    match name {
        "pool" => Some(schema()),
        "task" => Some(schema_for!(TaskMessage).to_value()),
        "result" => Some(schema_for!(ResultMessage).to_value()),
        _ => None,
    }
}

/// The text of a schema, as it is printed and checked in.
pub fn schema_text(schema: &Value) -> String {
    format!("{schema:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_schemas_are_those_of_the_types() {
        for name in ["pool", "task", "result"] {
            let file = format!(
                "{}/../../config/schema/{name}.schema.json",
                env!("CARGO_MANIFEST_DIR")
            );
            let checked_in = std::fs::read_to_string(&file).unwrap_or_default();
            let current = schema_text(&schema_named(name).expect("a known name"));
            assert!(
                checked_in == current,
                "config/schema/{name}.schema.json differs from the types: \
                 run `pool schema {name} > config/schema/{name}.schema.json`"
            );
        }
    }
}
