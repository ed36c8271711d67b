//! AMQP properties and headers of the pool's messages, written and read: generation, time of submission, reply address,
//! reason of a dead letter, and the broker's count of deliveries.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::topology::REPLY_PREFIX;
use pool_core::id::Token;
use pool_core::task::TaskMessage;
use pool_core::time::Timestamp;

const GENERATION: &str = "pool-generation";
const SUBMITTED_MS: &str = "pool-submitted-ms";
const ATTEMPT: &str = "pool-attempt";
const RETRY_AT_MS: &str = "pool-retry-at-ms";
const REASON: &str = "pool-reason";
const DEAD_ID: &str = "pool-dead-id";
const DEAD_MS: &str = "pool-dead-ms";
const FROM: &str = "pool-from";
/// The longest reason of a dead letter. All headers must fit into one frame, and a reason may quote a whole message.
const MAX_REASON_CHARS: usize = 1_000;
/// RabbitMQ 4.3 and later: the number of returns of this message, of every kind; absent on the first delivery.
const ACQUIRED_COUNT: &str = "x-acquired-count";
/// Up to RabbitMQ 4.2: the number of returns of this message, of every kind; absent or 0 on the first delivery. From 4.3 on a
/// nack and a consumer time-out are not counted here.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// The AMQP property `type` of a message in `results` that asks for the result of a finished task. Such a message has no body.
pub const REPEAT: &str = "repeat";

/// An integer, in any width that the sender chose.
fn integer(value: &AMQPValue) -> Option<u64> {
    match value {
        AMQPValue::ShortShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::ShortInt(n) => u64::try_from(*n).ok(),
        AMQPValue::ShortUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::LongUInt(n) => Some(u64::from(*n)),
        AMQPValue::LongLongInt(n) => u64::try_from(*n).ok(),
        AMQPValue::Timestamp(n) => Some(*n),
        AMQPValue::Boolean(_)
        | AMQPValue::Float(_)
        | AMQPValue::Double(_)
        | AMQPValue::DecimalValue(_)
        | AMQPValue::ShortString(_)
        | AMQPValue::LongString(_)
        | AMQPValue::FieldArray(_)
        | AMQPValue::FieldTable(_)
        | AMQPValue::ByteArray(_)
        | AMQPValue::Void => None,
    }
}

fn header(properties: &BasicProperties, name: &str) -> Option<u64> {
    properties
        .headers()
        .as_ref()
        .and_then(|headers| headers.inner().get(name))
        .and_then(integer)
}

/// The fencing token of a delivery.
pub fn token(properties: &BasicProperties) -> Token {
    let generation = header(properties, GENERATION).unwrap_or(0);
    let count = header(properties, ACQUIRED_COUNT)
        .or_else(|| header(properties, DELIVERY_COUNT))
        .unwrap_or(0);
    Token {
        generation: u32::try_from(generation).unwrap_or(u32::MAX),
        count,
    }
}

/// When the task was submitted: from the header `pool-submitted-ms`, or from AMQP's `timestamp` in seconds.
pub fn submitted_at(properties: &BasicProperties) -> Option<Timestamp> {
    let seconds = || {
        properties
            .timestamp()
            .filter(|s| *s > 0)
            .map(|s| s.saturating_mul(1000))
    };
    header(properties, SUBMITTED_MS)
        .or_else(seconds)
        .map(Timestamp)
}

/// The properties that a task message keeps whenever it is published again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keeps {
    /// When the task was submitted, if that is known.
    pub submitted_at: Option<Timestamp>,
    /// The broker's priority. Quorum queues of RabbitMQ 4.0 and later deliver two messages above 4 for each other one.
    pub priority: Option<u8>,
}

impl Keeps {
    /// From a message that the broker delivered.
    pub fn of(properties: &BasicProperties) -> Self {
        Self {
            submitted_at: submitted_at(properties),
            priority: *properties.priority(),
        }
    }

    /// From a task without a message.
    pub fn of_task(task: &TaskMessage, submitted_at: Option<Timestamp>) -> Self {
        Self {
            submitted_at,
            priority: task.priority.for_broker(),
        }
    }
}

/// The properties of a task message of this generation: persistent JSON.
pub fn task_properties(task_id: &str, generation: u32, keeps: Keeps) -> BasicProperties {
    let mut headers = FieldTable::default();
    headers.insert(
        GENERATION.into(),
        AMQPValue::LongLongInt(i64::from(generation)),
    );
    if let Some(ms) = keeps
        .submitted_at
        .and_then(|time| i64::try_from(time.0).ok())
    {
        headers.insert(SUBMITTED_MS.into(), AMQPValue::LongLongInt(ms));
    }
    let properties = json_properties()
        .with_message_id(task_id.into())
        .with_headers(headers);
    match keeps.priority {
        Some(priority) => properties.with_priority(priority),
        None => properties,
    }
}

/// The properties for a task message that is passed on in its generation: only those that mean something to the pool
/// (broker fact 16).
pub fn carried_on(came_with: &BasicProperties) -> BasicProperties {
    let id = text(came_with.message_id()).unwrap_or_default();
    Reply::as_it_came(came_with).on(task_properties(
        id,
        token(came_with).generation,
        Keeps::of(came_with),
    ))
}

/// When the next attempt is due.
pub fn retry_at(properties: &BasicProperties) -> Option<Timestamp> {
    header(properties, RETRY_AT_MS).map(Timestamp)
}

/// The properties of a message that asks for the result of a finished task. With `at` it waits in `pool.retries` until then.
pub fn repeat_properties(task_id: &str, at: Option<Timestamp>) -> BasicProperties {
    let properties = result_properties(task_id, None).with_type(REPEAT.into());
    match at {
        Some(at) => due_at(properties, at),
        None => properties,
    }
}

/// Adds the time until which the message waits in `pool.retries`.
pub(crate) fn due_at(properties: BasicProperties, at: Timestamp) -> BasicProperties {
    let mut headers = properties.headers().clone().unwrap_or_default();
    headers.insert(
        RETRY_AT_MS.into(),
        AMQPValue::LongLongInt(i64::try_from(at.0).unwrap_or(i64::MAX)),
    );
    properties.with_headers(headers)
}

/// The properties of a result: persistent JSON, with the attempt in a header, so that a dispatcher need not read a large body
/// to know it.
pub fn result_properties(task_id: &str, attempt: Option<String>) -> BasicProperties {
    let mut headers = FieldTable::default();
    if let Some(attempt) = attempt {
        headers.insert(ATTEMPT.into(), AMQPValue::LongString(attempt.into()));
    }
    json_properties()
        .with_message_id(task_id.into())
        .with_headers(headers)
}

/// The headers of a dead letter: why and when the pool put a message into `pool.dead`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetterInfo {
    /// Names the dead letter in `pool.dead`: 32 hexadecimal digits.
    pub id: String,
    /// For people: `kind: message`, at most 1,000 characters.
    pub reason: String,
    /// When it was put there.
    pub at: Timestamp,
    /// The queue that it was taken from.
    pub from: String,
}

impl DeadLetterInfo {
    /// Makes the id, and cuts the reason.
    pub fn new(reason: impl Into<String>, from: impl Into<String>, at: Timestamp) -> Self {
        let mut reason = reason.into();
        if let Some((cut, _)) = reason.char_indices().nth(MAX_REASON_CHARS) {
            reason.truncate(cut);
            reason.push('…');
        }
        Self {
            id: uuid::Uuid::now_v7().simple().to_string(),
            reason,
            at,
            from: from.into(),
        }
    }

    /// Reads the headers of a message in `pool.dead`; None when the broker has put it there.
    pub fn of(properties: &BasicProperties) -> Option<Self> {
        Some(Self {
            id: text_header(properties, DEAD_ID)?,
            reason: text_header(properties, REASON)?,
            at: header(properties, DEAD_MS).map(Timestamp)?,
            from: text_header(properties, FROM).unwrap_or_default(),
        })
    }

    /// The properties for publishing to `pool.dlx`: these headers, and the message's own properties that [`carried_on`] keeps.
    pub fn properties(&self, came_with: &BasicProperties) -> BasicProperties {
        let properties = carried_on(came_with);
        let mut headers = properties.headers().clone().unwrap_or_default();
        for (name, value) in [
            (REASON, &self.reason),
            (DEAD_ID, &self.id),
            (FROM, &self.from),
        ] {
            headers.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
        }
        headers.insert(
            DEAD_MS.into(),
            AMQPValue::LongLongInt(i64::try_from(self.at.0).unwrap_or(i64::MAX)),
        );
        properties.with_headers(headers)
    }
}

/// A header that is a text.
pub fn text_header(properties: &BasicProperties, name: &str) -> Option<String> {
    let value = properties.headers().as_ref()?.inner().get(name)?;
    if let AMQPValue::LongString(text) = value {
        return Some(String::from_utf8_lossy(text.as_bytes()).into_owned());
    }
    if let AMQPValue::ShortString(text) = value {
        Some(text.as_str().to_owned())
    } else {
        None
    }
}

/// The attempt that a result in `results` belongs to.
pub fn attempt(properties: &BasicProperties) -> Option<String> {
    text_header(properties, ATTEMPT)
}

/// The properties of a persistent message with the content type `application/json`.
pub fn json_properties() -> BasicProperties {
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
}

/// Where the result of a task goes, and how the submitter recognises it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The routing key in `pool.results`, which begins with `results.`; None: the submitter wants no message.
    pub to: Option<String>,
    /// Returned to the submitter as it is.
    pub correlation_id: Option<String>,
}

impl Reply {
    /// Reads `reply_to` and `correlation_id`.
    ///
    /// # Errors
    /// The `reply_to` that does not begin with `results.`: it could name a queue of the pool.
    pub fn of(properties: &BasicProperties) -> Result<Self, String> {
        let reply = Self::as_it_came(properties);
        match reply.to {
            Some(foreign) if !foreign.starts_with(REPLY_PREFIX) => Err(foreign),
            Some(_) | None => Ok(reply),
        }
    }

    /// Reads them without a check, for a message that is passed on. The worker that takes the task refuses a bad address.
    pub fn as_it_came(properties: &BasicProperties) -> Self {
        let owned = |text: &str| text.to_owned();
        Self {
            to: text(properties.reply_to()).map(owned),
            correlation_id: text(properties.correlation_id()).map(owned),
        }
    }

    /// Reads only `correlation_id`, because the address cannot be used.
    pub fn without_address(properties: &BasicProperties) -> Self {
        Self {
            to: None,
            ..Self::as_it_came(properties)
        }
    }

    /// Adds `reply_to` and `correlation_id` to the properties of a message.
    pub fn on(&self, mut properties: BasicProperties) -> BasicProperties {
        if let Some(to) = &self.to {
            properties = properties.with_reply_to(to.as_str().into());
        }
        if let Some(correlation_id) = &self.correlation_id {
            properties = properties.with_correlation_id(correlation_id.as_str().into());
        }
        properties
    }
}

/// A property as text; None when it is missing or empty.
pub fn text(property: &Option<ShortString>) -> Option<&str> {
    property
        .as_ref()
        .map(ShortString::as_str)
        .filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(headers: &[(&str, AMQPValue)]) -> BasicProperties {
        let mut table = FieldTable::default();
        for (name, value) in headers {
            table.insert((*name).into(), value.clone());
        }
        BasicProperties::default().with_headers(table)
    }

    #[test]
    fn a_token_is_the_generation_and_the_brokers_best_count() {
        let token_of = |headers: &[(&str, AMQPValue)]| token(&with(headers));
        assert_eq!(
            token_of(&[]),
            Token::default(),
            "first delivery of a first generation"
        );
        let old = [
            ("x-delivery-count", AMQPValue::LongLongInt(2)),
            ("pool-generation", AMQPValue::LongInt(1)),
        ];
        assert_eq!(
            token_of(&old),
            Token {
                generation: 1,
                count: 2
            },
            "up to 4.2"
        );
        let new = [
            ("x-delivery-count", AMQPValue::LongLongInt(0)),
            ("x-acquired-count", AMQPValue::LongLongInt(5)),
        ];
        assert_eq!(
            token_of(&new).count,
            5,
            "from 4.3 on, returns by nack count here only"
        );
    }

    #[test]
    fn what_a_dead_message_says_of_itself_reads_back_with_what_matters_of_its_properties() {
        let came_with = task_properties(
            "t",
            3,
            Keeps {
                submitted_at: Some(Timestamp(5)),
                priority: Some(9),
            },
        )
        .with_reply_to("results.me".into());
        let obituary = DeadLetterInfo::new(
            "poison: ".to_owned() + &"x".repeat(5_000),
            "tasks.fast",
            Timestamp(9),
        );
        let properties = obituary.properties(&came_with);
        assert_eq!(
            DeadLetterInfo::of(&properties),
            Some(obituary.clone()),
            "id, reason, time and queue"
        );
        assert!(
            obituary.reason.len() < 2_000,
            "headers are small: {} bytes",
            obituary.reason.len()
        );
        assert_eq!(token(&properties).generation, 3, "the generation stays");
        assert_eq!(
            Reply::of(&properties)
                .ok()
                .and_then(|reply| reply.to)
                .as_deref(),
            Some("results.me"),
            "the address stays"
        );
        assert_eq!(DeadLetterInfo::of(&came_with), None, "not one of ours");
    }

    #[test]
    fn the_time_of_submission_is_ours_or_amqps() {
        let ours = task_properties(
            "t",
            0,
            Keeps {
                submitted_at: Some(Timestamp(1234)),
                priority: None,
            },
        );
        assert_eq!(submitted_at(&ours), Some(Timestamp(1234)), "milliseconds");
        assert_eq!(
            submitted_at(&BasicProperties::default().with_timestamp(2)),
            Some(Timestamp(2000)),
            "seconds"
        );
    }
}
