//! Routes and their descriptions, built together: neither can exist without the other. The schemas
//! come from the types that are sent and read.

use axum::handler::Handler;
use axum::http::StatusCode;
use axum::routing::{MethodFilter, on};
use axum::{Router, middleware};
use pool_api::problem::Problem;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::guard;

const JSON: &str = "application/json";
const INTRODUCTION: &str = "\
The dispatcher of a Programmer Pool: submit tasks, fetch results, look at the pool. Errors are `application/problem+json` with \
a `detail` for people. Requests with a body, and every POST, are `application/json`. Where POOL_API_TOKEN is set, actions \
need it as a bearer token; on an address that other machines can reach, reading does too.";

/// Routes together with their descriptions.
pub(super) struct Api<S> {
    router: Router<S>,
    generator: SchemaGenerator,
    paths: Map<String, Value>,
}

/// The description of a route, while it is built.
pub(super) struct Operation<'a> {
    generator: &'a mut SchemaGenerator,
    description: Map<String, Value>,
    parameters: Vec<Value>,
    responses: Map<String, Value>,
}

/// An event of a stream.
pub(super) struct StreamEvent {
    name: &'static str,
    /// When it comes.
    when: &'static str,
    schema: fn(&mut SchemaGenerator) -> Schema,
}

impl StreamEvent {
    /// An event whose data is of type `T`.
    pub(super) fn of<T: JsonSchema>(name: &'static str, when: &'static str) -> Self {
        let schema = SchemaGenerator::subschema_for::<T>;
        Self { name, when, schema }
    }
}

fn settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    })
}

impl<S: Clone + Send + Sync + 'static> Api<S> {
    pub(super) fn new() -> Self {
        Self {
            router: Router::new(),
            generator: settings().into_generator(),
            paths: Map::new(),
        }
    }

    /// Adds a route; `pattern` is its method and its path. A POST takes JSON only.
    pub(super) fn route<H: Handler<T, S>, T: 'static>(
        mut self,
        pattern: &str,
        handler: H,
        describe: impl FnOnce(Operation<'_>) -> Operation<'_>,
    ) -> Self {
        let mut operation = Operation::new(&mut self.generator);
        let (method, path) = pattern.split_once(' ').unwrap_or(("GET", pattern));
        let filter = match method {
            "POST" => MethodFilter::POST,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        let mut route = on(filter, handler);
        if filter == MethodFilter::POST {
            operation = operation.problems(&[413, 415, 422]);
            route = route.route_layer(middleware::from_fn(guard::json_only));
        }
        let methods = self.paths.entry(path).or_insert_with(|| json!({}));
        methods[method.to_lowercase()] = describe(operation).whole();
        Self {
            router: self.router.route(path, route),
            ..self
        }
    }

    pub(super) fn router(self) -> Router<S> {
        self.router
    }

    /// The OpenAPI document.
    pub(super) fn document(mut self) -> Value {
        let problem = self.generator.subschema_for::<Problem>();
        let problems: Map<String, Value> = [400, 401, 403, 404, 409, 413, 415, 422, 429, 503]
            .into_iter()
            .map(|status| {
                (
                    status.to_string(),
                    problem_response(status, problem.as_value()),
                )
            })
            .collect();
        json!({
            "openapi": "3.1.0",
            "info": {
                "title": "Programmer Pool",
                "description": INTRODUCTION,
                "version": env!("CARGO_PKG_VERSION"),
                "license": {"name": "MIT", "identifier": "MIT"},
            },
            "servers": [{"url": "/"}],
            "security": [{}, {"token": []}],
            "paths": self.paths,
            "components": {
                "schemas": self.generator.take_definitions(true),
                "responses": problems,
                "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "POOL_API_TOKEN"}},
            },
        })
    }
}

fn problem_response(status: u16, schema: &Value) -> Value {
    let reason = StatusCode::from_u16(status)
        .ok()
        .and_then(|status| status.canonical_reason())
        .unwrap_or_default();
    let mut response =
        json!({"description": reason, "content": {"application/problem+json": {"schema": schema}}});
    if let 429 | 503 = status {
        let description = "Seconds until it is worth trying again; equal to `retry_after_s`";
        response["headers"] =
            json!({"Retry-After": {"description": description, "schema": {"type": "integer"}}});
    }
    response
}

impl<'a> Operation<'a> {
    fn new(generator: &'a mut SchemaGenerator) -> Self {
        let (description, responses) = (Map::new(), Map::new());
        Self {
            generator,
            description,
            parameters: Vec::new(),
            responses,
        }
        .problems(&[401, 403])
    }

    /// The operation's id, for generated clients, and a summary for people.
    pub(super) fn is(mut self, id: &str, summary: &str) -> Self {
        self.description.insert("operationId".to_owned(), id.into());
        self.description
            .insert("summary".to_owned(), summary.into());
        self
    }

    /// Needs no token, wherever the dispatcher listens.
    pub(super) fn open(mut self) -> Self {
        self.description.insert("security".to_owned(), json!([]));
        self
    }

    /// The path parameter `{id}`.
    pub(super) fn id<T: JsonSchema>(mut self) -> Self {
        let schema = self.generator.subschema_for::<T>();
        self.parameters
            .push(json!({"name": "id", "in": "path", "required": true, "schema": schema}));
        self.problems(&[400, 404])
    }

    /// The fields of this type are parameters of the query.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        let mut schema = settings()
            .with(|s| s.inline_subschemas = true)
            .into_generator()
            .into_root_schema_for::<T>();
        let properties = schema.remove("properties").unwrap_or_default();
        for (name, mut schema) in properties.as_object().cloned().unwrap_or_default() {
            // An optional parameter is left out; a query has no null.
            if let Some(types) = schema.get_mut("type").filter(|types| types.is_array()) {
                *types = types[0].take();
            }
            self.parameters
                .push(json!({"name": name, "in": "query", "schema": schema}));
        }
        self.problems(&[400])
    }

    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        let schema = self.generator.subschema_for::<T>();
        let body = json!({"required": true, "content": {JSON: {"schema": schema}}});
        self.description.insert("requestBody".to_owned(), body);
        self
    }

    pub(super) fn answers<T: JsonSchema>(self, status: u16, what: &str) -> Self {
        let schema = self.generator.subschema_for::<T>();
        self.answers_with(status, what, json!({JSON: {"schema": schema}}))
    }

    /// Another format of the answer with this status, for answers that are not JSON.
    pub(super) fn answers_text(self, status: u16, kind: &str, what: &str) -> Self {
        self.answers_with(status, what, json!({kind: {"schema": {"type": "string"}}}))
    }

    /// A stream of server-sent events. OpenAPI 3.1 cannot express that, so it is in the description,
    /// and for programs in `x-events`.
    pub(super) fn streams(self, what: &str, events: &[StreamEvent]) -> Self {
        let (mut words, mut each) = (what.to_owned(), Map::new());
        for StreamEvent { name, when, schema } in events {
            let schema = schema(self.generator);
            let reference = schema.as_value()["$ref"].as_str().unwrap_or_default();
            let of = reference.rsplit('/').next().unwrap_or_default();
            words.push_str(&format!(
                " Event `{name}` (data: JSON of the schema `{of}`): {when}."
            ));
            each.insert(
                (*name).to_owned(),
                json!({"description": when, "data": schema}),
            );
        }
        let content =
            json!({"text/event-stream": {"schema": {"type": "string"}, "x-events": each}});
        self.answers_with(200, &words, content)
    }

    /// An optional header.
    pub(super) fn header(mut self, name: &str, what: &str) -> Self {
        let header = json!({"name": name, "in": "header", "description": what, "schema": {"type": "string"}});
        self.parameters.push(header);
        self
    }

    /// The operations that the id in the answer (`at`, a JSON pointer) can be passed to.
    pub(super) fn leads_to(mut self, status: u16, at: &str, operations: &[&str]) -> Self {
        let link = |id: &&str| {
            (
                (*id).to_owned(),
                json!({"operationId": id, "parameters": {"id": format!("$response.body#{at}")}}),
            )
        };
        let links: Map<String, Value> = operations.iter().map(link).collect();
        if let Some(answer) = self.responses.get_mut(&status.to_string()) {
            answer["links"] = links.into();
        }
        self
    }

    fn answers_with(mut self, status: u16, what: &str, content: Value) -> Self {
        let response = self
            .responses
            .entry(status.to_string())
            .or_insert_with(|| json!({"content": {}}));
        response["description"] = what.into();
        if let (Some(all), Value::Object(content)) = (response["content"].as_object_mut(), content)
        {
            all.extend(content);
        }
        self
    }

    /// Errors that this route may answer with, besides those of every route.
    pub(super) fn problems(mut self, statuses: &[u16]) -> Self {
        for status in statuses {
            let response = json!({"$ref": format!("#/components/responses/{status}")});
            self.responses.insert(status.to_string(), response);
        }
        self
    }

    fn whole(mut self) -> Value {
        if !self.parameters.is_empty() {
            self.description
                .insert("parameters".to_owned(), self.parameters.into());
        }
        self.description
            .insert("responses".to_owned(), self.responses.into());
        self.description.into()
    }
}
