//! The streams of events for pages: a few messages a second however busy the pool is, resumable,
//! and for many pages at once.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;
use pool_core::event::{EmitterId, EventBatch, TaskPublished};
use pool_core::id::TaskId;
use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::api::http;
use crate::support::pool::tasks;
use crate::support::{Pool, PoolFile, SOON};

/// A stream of events.
struct Events {
    answer: futures_util::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    buffer: String,
}

#[derive(Debug, Default)]
struct Event {
    name: String,
    id: String,
    data: Value,
}

impl Events {
    async fn open(url: &str, last: Option<&str>) -> Self {
        let mut request = http().get(url);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let answer = request.send().await.expect("the dispatcher answers");
        assert!(answer.status().is_success(), "{url}: {}", answer.status());
        Self {
            answer: answer.bytes_stream().boxed(),
            buffer: String::new(),
        }
    }

    async fn next(&mut self) -> Event {
        loop {
            if let Some((event, rest)) = self.buffer.split_once("\n\n") {
                let (mut read, lines) = (Event::default(), event.to_owned());
                self.buffer = rest.to_owned();
                for (field, value) in lines.lines().filter_map(|line| line.split_once(": ")) {
                    match field {
                        "event" => value.clone_into(&mut read.name),
                        "id" => value.clone_into(&mut read.id),
                        "data" => read.data = serde_json::from_str(value).expect("JSON"),
                        _ => {}
                    }
                }
                return read;
            }
            let more = tokio::time::timeout(SOON, self.answer.next())
                .await
                .expect("an event comes");
            self.buffer.push_str(
                std::str::from_utf8(&more.expect("the stream goes on").expect("bytes"))
                    .expect("UTF-8"),
            );
        }
    }

    async fn until(&mut self, fits: impl Fn(&Event) -> bool) -> Event {
        loop {
            let event = self.next().await;
            if fits(&event) {
                return event;
            }
        }
    }
}

fn succeeded(event: &Event) -> Option<u64> {
    event.data["counts"]["succeeded"].as_u64()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_pool_sends_a_few_events_a_second_and_a_page_that_reconnects_misses_none() {
    let pool = Pool::start(&PoolFile::sample()).await;
    let url = format!("{}/events", pool.url().trim_end());
    let mut events = Events::open(&url, None).await;
    assert_eq!(
        events.next().await.name,
        "hello",
        "the first event names the process"
    );
    let first = events.next().await;
    assert_eq!(first.name, "state", "the second event is the whole state");
    let began = Instant::now();
    pool.api().submit(&json!(tasks("t", 400))).await;
    let (mut count, mut last) = (0, first);
    while succeeded(&last) != Some(400) {
        last = events.until(|event| !event.id.is_empty()).await;
        count += 1;
    }
    let seconds = began.elapsed().as_secs_f64();
    let limit = 8.0 * (seconds + 1.0);
    assert!(
        f64::from(count) < limit,
        "two kinds of messages, four times a second at most: {count} in {seconds:.1} s"
    );

    drop(events);
    pool.api().submit(&json!(tasks("u", 1))).await;
    pool.api().result("u-1", SOON).await;
    let mut again = Events::open(&url, Some(&last.id)).await;
    let hello = again.next().await;
    assert_eq!(hello.data["resumed"], true, "the stream resumes");
    let about = |task: &Value| task["id"] == "u-1";
    let tells = |event: &Event| {
        event.data["many"] == true
            || event.data["tasks"]
                .as_array()
                .is_some_and(|t| t.iter().any(about))
    };
    // Waits for the missed event; if the stream does not have it, this never ends.
    let news = tokio::time::timeout(
        SOON,
        again.until(|event| event.name == "tasks" && tells(event)),
    )
    .await;
    assert!(
        news.is_ok(),
        "the stream has the task that has changed in the meantime"
    );
    let mut other = Events::open(&url, Some("of-another-process.7")).await;
    assert_eq!(
        other.next().await.data["resumed"],
        false,
        "event numbers of another process do not resume a stream"
    );
    assert_eq!(
        other.next().await.name,
        "state",
        "it sends the whole state instead"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_open_pages_hear_of_a_change_and_do_not_keep_a_dispatcher_from_ending() {
    let mut pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    let url = format!("{}/events", pool.url().trim_end());
    let mut pages = Vec::new();
    for _ in 0..200 {
        pages.push(Events::open(&url, None).await);
    }
    let began = Instant::now();
    pool.api().submit(&json!(tasks("t", 1))).await;
    let hear = |mut page: Events| async move {
        page.until(|event| succeeded(event) == Some(1)).await;
        (began.elapsed(), page)
    };
    let heard = futures_util::future::join_all(pages.into_iter().map(hear)).await;
    let slowest = heard
        .iter()
        .map(|(after, _)| *after)
        .max()
        .unwrap_or_default();
    assert!(
        slowest < Duration::from_secs(5),
        "the last page gets the change soon: {slowest:?}"
    );
    let ended = pool.end_dispatcher().await;
    assert!(ended.success(), "open pages do not delay the end: {ended}");
}

/// More events of other tasks than a dispatcher keeps.
async fn drive_out(pool: &Pool) {
    let (_connection, channel) = crate::support::amqp::channel(&pool.amqp_url()).await;
    let emitter = EmitterId::new();
    for first in (0..61_000).step_by(500) {
        let other = |n: u64| {
            let task = TaskId::new(format!("other-{n}")).expect("an id");
            let generation = 0;
            TaskPublished { task, generation }.into()
        };
        let events = (first..first + 500).map(other).collect();
        let body = EventBatch {
            v: 1,
            emitter,
            first,
            at_ms: wall_clock().0,
            events,
        }
        .to_json();
        let options = BasicPublishOptions::default();
        let publish = channel.basic_publish(
            "pool.log".into(),
            "events".into(),
            options,
            &body,
            BasicProperties::default(),
        );
        publish.await.expect("a publish").await.expect("a confirm");
    }
    // Events that are appended now are read after them.
    pool.command_line(&["pause", "--all"]).await;
}

fn lines_of(event: &Event) -> Vec<String> {
    let lines = event.data["lines"].as_array().into_iter().flatten();
    lines
        .filter_map(|line| line["text"].as_str().map(ToOwned::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeline_that_the_dispatcher_has_forgotten_is_read_from_the_log() {
    let pool = Pool::start(&PoolFile::sample().only(&["001"])).await;
    pool.api().submit(&json!(tasks("t", 1))).await;
    pool.api().result("t-1", SOON).await;
    let url = format!("{}/tasks/t-1/events", pool.url().trim_end());
    let kept = lines_of(&Events::open(&url, None).await.next().await);
    assert_eq!(
        kept.first().map(String::as_str),
        Some("submitted for the route any"),
        "the timeline has its beginning: {kept:?}"
    );
    assert_eq!(
        kept.last().map(String::as_str),
        Some("succeeded"),
        "the timeline has its end: {kept:?}"
    );
    drive_out(&pool).await;
    let read = lines_of(&Events::open(&url, None).await.next().await);
    assert_eq!(read, kept, "the stream gives the same timeline");
}
