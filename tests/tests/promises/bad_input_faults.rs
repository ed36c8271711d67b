//! Bad input while the broker is killed, refuses publishes, or cannot be reached: each message gets
//! its answer afterwards, and nothing is lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pool_core::id::TaskId;
use pool_core::result::ErrorKind;
use pool_core::wrong::id_in;
use pool_tests::faults::client::Submitter as Careless;
use pool_tests::faults::proxy::Weather;
use tokio::time::sleep;

use crate::bad_input::{correlation, kind, message, mistakes, post, result_in};
use crate::support::field::{Field, REPAIRED_WITHIN, nervous};
use crate::support::line::{Line, OUTAGE};
use crate::support::private::SETTLED_AFTER;
use crate::support::{Books, Pool, SOON, eventually};

/// Changes a file in every repository.
const AGENT: [&str; 3] = ["/bin/sh", "-c", "echo four >>readme.txt"];
/// The pause between two rounds of mistakes, one of which has a megabyte.
const ROUND: Duration = Duration::from_millis(500);
/// The number of good tasks among the mistakes.
const GOOD: usize = 40;

/// Sends all mistakes over HTTP and AMQP, and good tasks among them, again and again while `breaks`
/// runs. Afterwards each mistake has its answer and lies in `pool.dead`, and the good tasks are
/// done.
async fn survives(pool: &mut Pool, mut books: Books, breaks: impl AsyncFnOnce()) {
    let (mistakes, api) = (mistakes(), pool.api());
    let mut careless = Careless::join(&pool.amqp_url(), "careless")
        .await
        .expect("a submitter");
    sleep(SETTLED_AFTER).await;
    let fails = AtomicBool::new(true);
    let breaks = async {
        breaks().await;
        fails.store(false, Ordering::Relaxed);
    };
    let directly = async {
        while fails.load(Ordering::Relaxed) {
            for (what, body, _) in &mistakes {
                let properties = careless.properties().with_correlation_id((*what).into());
                careless
                    .publish("any", body, properties, REPAIRED_WITHIN)
                    .await
                    .expect("it is published at last");
            }
            sleep(ROUND).await;
        }
    };
    let over_http = async {
        while fails.load(Ordering::Relaxed) {
            for (what, body, words) in &mistakes {
                let (status, said) = post(&api, body.clone()).await;
                assert!(
                    [400, 413, 422].contains(&status),
                    "{what}, whatever the broker does: {status} {said}"
                );
                assert!(
                    words.iter().all(|word| said.contains(word)),
                    "{what}: {said}"
                );
            }
            sleep(ROUND).await;
        }
    };
    tokio::join!(
        breaks,
        directly,
        over_http,
        Field::submit(&mut books, "good", GOOD)
    );
    books.settled(REPAIRED_WITHIN).await;
    all_are_answered_and_kept(pool, careless.queue()).await;
    // The answer to a message that is not a task names the message's id if it can be read.
    for id in mistakes.iter().map(|(_, body, _)| id_in(body.as_bytes())) {
        books.tried(id.as_ref().map_or("", TaskId::as_str));
    }
    let report = books.close(pool, REPAIRED_WITHIN).await;
    assert_eq!(report.tasks, GOOD, "{report}");
}

async fn all_are_answered_and_kept(pool: &Pool, queue: &str) {
    let observer = pool.submitter("observer").await;
    let mistakes = mistakes();
    let (mut replies, mut dead) = (Vec::new(), Vec::new());
    // The good tasks may be done before the last answer is sent: each reply queue has a pace of its own.
    eventually("each mistake is answered", REPAIRED_WITHIN, async || {
        replies.extend(observer.drain_deliveries(queue).await);
        let answered = |what: &str| replies.iter().any(|reply| correlation(reply) == what);
        mistakes
            .iter()
            .all(|(what, ..)| answered(what))
            .then_some(())
    })
    .await;
    eventually("each mistake is in pool.dead as it was", SOON, async || {
        dead.extend(observer.drain_dead().await);
        mistakes
            .iter()
            .all(|(_, body, _)| dead.contains(&body.as_bytes().to_vec()))
            .then_some(())
    })
    .await;
    for (what, _, words) in &mistakes {
        let answers = replies.iter().filter(|reply| correlation(reply) == *what);
        for result in answers.map(result_in) {
            assert_eq!(
                kind(&result),
                Some(ErrorKind::InvalidTask),
                "{what}: {result:?}"
            );
            assert!(
                words.iter().all(|word| message(&result).contains(word)),
                "{what}: {result:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_while_the_broker_is_killed_twice_is_answered_and_kept_and_good_tasks_are_done() {
    let Field {
        books,
        mut pool,
        broker,
        ..
    } = Field::with(&nervous(&["001", "006"]).command(&AGENT), &["001,006"]).await;
    survives(&mut pool, books, async || {
        for _ in 0..2 {
            broker.crash().await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_during_a_memory_alarm_is_answered_and_kept_and_good_tasks_are_done() {
    let Field {
        books,
        mut pool,
        broker,
        ..
    } = Field::with(&nervous(&["001", "006"]).command(&AGENT), &["001,006"]).await;
    survives(&mut pool, books, async || {
        broker.node.memory_alarm(true).await.expect("an alarm");
        sleep(OUTAGE).await;
        broker.node.memory_alarm(false).await.expect("no alarm");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_while_the_pool_is_in_a_black_hole_is_answered_and_kept_and_good_tasks_are_done()
{
    let Line {
        books,
        mut pool,
        proxy,
    } = Line::with(&nervous(&["001", "006"]).command(&AGENT), &["001,006"]).await;
    survives(&mut pool, books, async || {
        proxy.set(Weather::BlackHole);
        sleep(OUTAGE).await;
        proxy.set(Weather::Fair);
    })
    .await;
}
