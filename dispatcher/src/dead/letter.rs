//! Describes a message in `pool.dead`. Three writers are known: a process of the pool, which adds a
//! reason; the broker, which adds its headers; and other clients.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::AMQPValue;
use pool_api::dead::DeadLetter;
use pool_broker::headers::{self, DeadLetterInfo, text_header};
use pool_core::id::TaskId;
use pool_core::time::Timestamp;
use pool_core::wrong::id_in;

/// The description of this message.
pub(crate) fn describe(delivery: &Delivery) -> DeadLetter {
    read(
        &delivery.data,
        &delivery.properties,
        delivery.routing_key.as_str(),
    )
}

fn read(body: &[u8], properties: &BasicProperties, key: &str) -> DeadLetter {
    let letter = DeadLetter {
        id: String::new(),
        reason: "unknown: the message has no reason".to_owned(),
        task_id: task_id(body, properties),
        from: String::new(),
        at: None,
        bytes: body.len(),
    };
    if let Some(info) = DeadLetterInfo::of(properties) {
        return DeadLetter {
            id: info.id,
            reason: info.reason,
            from: info.from,
            at: Some(info.at),
            ..letter
        };
    }
    let id = by_content(body, properties, key);
    match Death::of(properties) {
        Some(Death { reason, queue, at }) => DeadLetter {
            id,
            reason: format!("{reason}: {}", words(&reason)),
            from: queue,
            at,
            ..letter
        },
        None => DeadLetter { id, ..letter },
    }
}

fn words(reason: &str) -> &'static str {
    match reason {
        "delivery_limit" => "it was returned to its queue too often",
        "rejected" => "the consumer rejected it",
        "expired" => "it waited longer than a policy of the broker allows",
        "maxlen" => "the queue was full",
        _ => "put here by the broker",
    }
}

/// The id of the task that the message contains, or was meant to.
fn task_id(body: &[u8], properties: &BasicProperties) -> Option<String> {
    let property = || headers::text(properties.message_id()).and_then(|id| TaskId::new(id).ok());
    id_in(body).or_else(property).map(String::from)
}

/// The same message has the same id at every look, in every dispatcher of this version.
fn by_content(body: &[u8], properties: &BasicProperties, key: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (
        body,
        headers::text(properties.message_id()),
        headers::token(properties).generation,
        key,
    )
        .hash(&mut hasher);
    format!("b{:016x}", hasher.finish())
}

/// The headers that the broker adds to a message that it dead-letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: String,
    pub(crate) queue: String,
    at: Option<Timestamp>,
}

impl Death {
    pub(crate) fn of(properties: &BasicProperties) -> Option<Self> {
        let reason = text_header(properties, "x-first-death-reason")?;
        let queue = text_header(properties, "x-first-death-queue")?;
        Some(Self {
            reason,
            queue,
            at: time_of_death(properties),
        })
    }

    /// Whether the message itself is fine, and was only returned too often.
    pub(crate) fn is_of_returns(&self) -> bool {
        self.reason == "delivery_limit"
    }
}

fn time_of_death(properties: &BasicProperties) -> Option<Timestamp> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")?
    else {
        return None;
    };
    let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else {
        return None;
    };
    let AMQPValue::Timestamp(seconds) = last.inner().get("time")? else {
        return None;
    };
    Some(Timestamp(seconds.saturating_mul(1000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use lapin::types::FieldTable;

    const TASK: &[u8] = br#"{"id": "t", "instruction": "x", "repository": "app"}"#;

    #[test]
    fn ours_say_why_and_when() {
        let obituary =
            DeadLetterInfo::new("poison: it was never started", "tasks.fast", Timestamp(7));
        let letter = read(TASK, &obituary.properties(&BasicProperties::default()), "");
        assert_eq!(
            (letter.id, letter.reason),
            (obituary.id, obituary.reason),
            "id and reason are kept"
        );
        assert_eq!(letter.task_id.as_deref(), Some("t"), "the id in the body");
        assert_eq!(
            (letter.at, letter.from.as_str()),
            (Some(Timestamp(7)), "tasks.fast"),
            "when and where"
        );
    }

    #[test]
    fn the_brokers_say_what_it_wrote_on_them() {
        let mut headers = FieldTable::default();
        headers.insert(
            "x-first-death-reason".into(),
            AMQPValue::LongString("delivery_limit".into()),
        );
        headers.insert(
            "x-first-death-queue".into(),
            AMQPValue::LongString("tasks.fast".into()),
        );
        let properties = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("m".into());
        let letter = read(b"no task", &properties, "fast");
        assert!(
            letter.reason.starts_with("delivery_limit: it was returned"),
            "{}",
            letter.reason
        );
        assert_eq!(
            (letter.from.as_str(), letter.task_id.as_deref()),
            ("tasks.fast", Some("m")),
            "its queue and its id"
        );
        assert_eq!(
            letter.id,
            read(b"no task", &properties, "fast").id,
            "the id is stable"
        );
        assert_ne!(
            letter.id,
            read(b"another", &properties, "fast").id,
            "another message"
        );
        assert!(
            Death::of(&properties).is_some_and(|death| death.is_of_returns()),
            "it can be issued again"
        );
    }
}
