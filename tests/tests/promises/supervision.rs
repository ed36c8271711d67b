//! Every process survives an outage of the broker and reports it. An error that waiting does not
//! cure ends the process at its start with a message that says what to do.

use std::time::Duration;

use pool_broker::fault::Point;
use pool_core::result::Status;
use pool_tests::faults::proxy::{Proxy, Weather};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::broker::Vhost;
use crate::support::machine::{idles, share_cores};
use crate::support::own_broker::{OwnBroker, Pair, broker_is, count, ready, refused};
use crate::support::pool::{task, tasks};
use crate::support::process::Running;
use crate::support::status::PoolStatus;
use crate::support::{Api, Pool, PoolFile, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_waiting_does_not_cure_ends_the_start_and_says_what_to_do() {
    let _cores = share_cores().await;
    let vhost = Vhost::create().await;
    let url = vhost.url();
    let (user, address) = url.split_once('@').expect("a user");
    let wrong_password = format!(
        "{}:guessed@{address}",
        user.rsplit_once(':').expect("a password").0
    );
    let (without_vhost, _) = url.rsplit_once('/').expect("a virtual host");
    let missing_vhost = format!("{without_vhost}/not-there");
    for (url, text) in [
        (wrong_password, "or the password (ACCESS_REFUSED"),
        (
            missing_vhost,
            "the virtual host \"not-there\" does not exist",
        ),
    ] {
        let pair = Pair::at(&url, json!({}));
        for process in [pair.worker(), pair.dispatcher()] {
            let (status, log) = refused(process).await;
            assert_eq!(
                status.code(),
                Some(1),
                "the process ends instead of waiting: {log}"
            );
            assert!(
                log.contains(text) && log.contains("correct"),
                "the message says what is wrong and what to do: {log}"
            );
            assert!(
                log.contains(address.rsplit_once('/').expect("a virtual host").0),
                "the message names the address: {log}"
            );
            assert!(
                !log.contains("guessed"),
                "the message has no password: {log}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_outlives_a_broker_that_is_away_says_so_and_works_again() {
    let _cores = share_cores().await;
    let mut broker = OwnBroker::start("").await;
    let pair = Pair::at(broker.url(), json!({}));
    let (mut dispatcher, mut worker) = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    let programmer = pair.programmer(&api).await;
    for api in [&api, &programmer] {
        ready(api).await;
        let connected = broker_is(api, "connected").await;
        assert!(
            !connected.to_string().contains(broker.password()),
            "the answer has no password: {connected}"
        );
    }

    broker.stop().await;
    for api in [&api, &programmer] {
        let away = broker_is(api, "reconnecting").await;
        assert!(
            away["since"].is_string() && away["error"].is_string(),
            "the answer says since when, and why: {away}"
        );
        let (status, health) = api.try_get("/health").await;
        assert_eq!(status, StatusCode::OK, "/health is 200: {health}");
        let (status, answer) = api.try_get("/ready").await;
        assert_eq!(
            status,
            StatusCode::SERVICE_UNAVAILABLE,
            "/ready is 503: {answer}"
        );
        let metrics = api.text("/metrics").await;
        assert!(
            metrics.contains("pool_broker_connected{purpose=\"consume\"} 0"),
            "{metrics}"
        );
    }
    // By then several attempts of both have failed.
    eventually("both have tried for a while", SOON, async || {
        let error = broker_is(&programmer, "reconnecting").await["error"].to_string();
        error.contains("Connection refused").then_some(())
    })
    .await;
    let (status, answer) = api.try_submit(&task("too-early")).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the dispatcher refuses a task that it cannot store: {answer}"
    );

    broker.start_again().await;
    for api in [&api, &programmer] {
        ready(api).await;
        let metrics = api.text("/metrics").await;
        assert!(
            metrics.contains("pool_broker_reconnects_total{purpose=\"consume\"} 1"),
            "{metrics}"
        );
    }
    api.submit(&task("afterwards")).await;
    let result = api.result("afterwards", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "both consume again: {result:?}"
    );
    for process in [&mut dispatcher, &mut worker] {
        assert!(process.is_running(), "{} lives", process.name);
        let log = process.log();
        assert_eq!(
            count(&log, "the broker is lost"),
            2,
            "the loss is logged once for each of two connections: {log}"
        );
        assert_eq!(
            count(&log, "trying until"),
            2,
            "the retries are logged once for each connection: {log}"
        );
        assert_eq!(
            count(&log, "the broker is back"),
            2,
            "the return is logged once for each connection: {log}"
        );
        assert_eq!(
            count(&log, "trying again"),
            0,
            "no other part of the process logs it: {log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_under_a_running_process_does_not_end_it() {
    let _cores = share_cores().await;
    let broker = OwnBroker::start("").await;
    broker.control(&["add_user", "app", "one"]).await;
    broker
        .control(&["set_permissions", "app", ".*", ".*", ".*"])
        .await;
    let pair = Pair::at(
        format!("amqp://app:one@127.0.0.1:{}/%2f", broker.port()),
        json!({}),
    );
    let mut dispatcher = pair.dispatcher();
    let api = pair.api().await;
    ready(&api).await;

    broker.control(&["change_password", "app", "two"]).await;
    broker
        .control(&["close_all_user_connections", "app", "for a test"])
        .await;
    eventually(
        "health says that the password is refused",
        SOON,
        async || {
            let error = broker_is(&api, "reconnecting").await["error"].to_string();
            error
                .contains("or the password (ACCESS_REFUSED")
                .then_some(())
        },
    )
    .await;
    assert!(dispatcher.is_running(), "the dispatcher goes on trying");

    broker.control(&["change_password", "app", "one"]).await;
    ready(&api).await;
    api.submit(&task("afterwards")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_takes_no_messages_a_submitter_learns_it_at_once() {
    let _cores = share_cores().await;
    let broker = OwnBroker::start("").await;
    // No request waits for this long: it fails at once, because the process knows of the alarm.
    let pair = Pair::at(broker.url(), json!({"timeout_s": 600}));
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    ready(&api).await;

    broker
        .control(&["set_disk_free_limit", "1000000000000000"])
        .await;
    let (status, answer) = api.try_submit(&task("first")).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the task is refused: {answer}"
    );
    assert!(
        answer.to_string().contains("low on disk"),
        "the answer names the alarm: {answer}"
    );
    let blocked = broker_is(&api, "blocked").await;
    assert!(
        blocked["error"].to_string().contains("low on disk"),
        "/health names the alarm, too: {blocked}"
    );
    let (status, answer) = api.try_submit(&task("second")).await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the next task is refused, too: {answer}"
    );
    let (status, answer) = api.try_get("/ready").await;
    assert_eq!(
        status,
        StatusCode::SERVICE_UNAVAILABLE,
        "the dispatcher is not ready: {answer}"
    );

    broker.control(&["set_disk_free_limit", "1000000"]).await;
    ready(&api).await;
    for id in ["first", "second"] {
        api.submit(&task(id)).await;
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{id}: the pool works again"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_virtual_host_that_is_deleted_and_made_again_is_worked_in_from_its_beginning() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001", "006"])).await;
    pool.make_users().await;
    pool.start_dispatcher().await;
    let worker = pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let api = pool.api();
    let port = pool.status().await.programmer("001")["port"].clone();
    let programmer = Api::at(format!("http://127.0.0.1:{port}"));
    api.submit(&task("before")).await;
    assert_eq!(
        api.result("before", SOON).await.status,
        Status::Succeeded,
        "the first task is done"
    );

    pool.delete_vhost().await;
    let missing = format!(
        "the virtual host {:?} does not exist, or the user",
        pool.vhost()
    );
    for api in [&api, &programmer] {
        eventually("health says what is missing", SOON, async || {
            let away = broker_is(api, "reconnecting").await;
            away["error"]
                .as_str()
                .is_some_and(|error| error.contains(&missing))
                .then_some(())
        })
        .await;
        assert_eq!(
            api.try_get("/health").await.0,
            StatusCode::OK,
            "/health is 200"
        );
        assert_eq!(
            api.try_get("/ready").await.0,
            StatusCode::SERVICE_UNAVAILABLE,
            "/ready is 503"
        );
    }
    idles(
        [pool.dispatcher_pid(), pool.worker(worker).pid()],
        Duration::from_secs(5),
    )
    .await;
    // The users have no permissions yet.
    pool.make_vhost().await;
    idles(
        [pool.dispatcher_pid(), pool.worker(worker).pid()],
        Duration::from_secs(5),
    )
    .await;
    broker_is(&programmer, "reconnecting").await;

    pool.make_users().await;
    for api in [&api, &programmer] {
        ready(api).await;
    }
    pool.all_consume().await;
    // Nothing of the old virtual host is left, also not in a process' memory: the id is free.
    assert_eq!(
        api.try_get("/tasks/before").await.0,
        StatusCode::NOT_FOUND,
        "the old task is gone with the virtual host"
    );
    for id in ["before", "afterwards"] {
        api.submit(&task(id)).await;
        assert_eq!(
            api.result(id, SOON).await.status,
            Status::Succeeded,
            "{id} is done"
        );
    }
    assert_eq!(
        pool.event_log()
            .await
            .read()
            .await
            .iter()
            .filter(|entry| entry.is("started"))
            .count(),
        2,
        "by somebody"
    );
    for log in [pool.dispatcher_log(), pool.worker(worker).log()] {
        assert_eq!(
            count(&log, "the virtual host"),
            2,
            "it is logged once for each of two connections: {log}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_heartbeats_could_not_arrive_is_unknown_and_not_down() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
    pool.go_through(&proxy);
    pool.start_dispatcher().await;
    let reason = |status: &PoolStatus| {
        status.programmers()[0]["reason"]
            .as_str()
            .expect("a text")
            .to_owned()
    };
    let early = pool.status().await;
    assert!(
        reason(&early).starts_with("no heartbeat yet: this dispatcher has listened for"),
        "{early:?}"
    );
    assert_eq!(
        (&early.programmers()[0]["unknown"], &early.0["detail"]),
        (&json!(true), &Value::Null),
        "{early:?}"
    );
    let down = eventually("the metrics show it", SOON, async || {
        let metrics = pool.api().text("/metrics").await;
        metrics
            .lines()
            .find(|line| line.starts_with(r#"pool_programmers{state="down""#))
            .map(ToOwned::to_owned)
    })
    .await;
    assert!(
        down.ends_with("NaN"),
        "an unknown value raises no false alarm: {down}"
    );
    proxy.set(Weather::Refusing);
    proxy.reset();
    let away = |status: &PoolStatus| {
        status.0["detail"]
            .as_str()
            .is_some_and(|detail| detail.starts_with("the broker: "))
    };
    let away = pool.status_where("the broker is away", away).await;
    assert_eq!(
        reason(&away),
        "unknown: the broker is not reachable",
        "no programmer counts as down"
    );
    let said = pool.command_line(&["status"]).await;
    assert!(
        said.starts_with("dispatcher: the broker: reconnecting"),
        "it is the first line: {said}"
    );
    assert!(
        said.contains("? messages waiting in queues"),
        "an unknown number is shown as ?: {said}"
    );
    // A request now waits for a connection for ten seconds.
    let asked = Instant::now();
    let away = pool.status().await;
    assert_eq!(
        away.0["uncounted_queues"].as_u64(),
        away.0["routes"].as_array().map(|all| all.len() as u64),
        "{away:?}"
    );
    let (dead, _) = pool.api().try_get("/dead").await;
    assert_eq!(
        dead,
        StatusCode::SERVICE_UNAVAILABLE,
        "dead letters cannot be read"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(3),
        "the answer does not wait for the broker: {:?}",
        asked.elapsed()
    );
}

/// From a panic to the end of the process: what is asked of it now may still be answered.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_whose_service_panics_names_it_and_ends_and_another_does_the_tasks() {
    let file = PoolFile::sample().only(&["001", "002"]);
    let mut pool = Pool::set_up_shared(&file).await;
    let armed = format!("{}=panic", Point::ResultTaken.name());
    pool.start_dispatcher_with(&[("POOL_FAULT", &armed)]).await;
    let mut broken = pool.take_dispatcher();
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    // Both dispatchers take results, in turn.
    let submitted = tasks("task", 6);
    for task in &submitted {
        pool.api().submit(task).await;
    }
    eventually("the first takes a result", SOON, async || {
        broken.log().contains("a fault is injected").then_some(())
    })
    .await;
    let parts = [
        "service=\"results\"",
        "a panic is injected",
        "the dispatcher ends; its supervisor starts another one",
    ];
    let log = ends_with_its_service(&mut broken, ENDS_WITHIN, &parts).await;
    assert!(
        log.contains("the dispatcher has ended"),
        "it closes in order: {log}"
    );
    for number in 1..=submitted.len() {
        pool.api().result(&format!("task-{number}"), SOON).await;
    }
    let mut events = pool.event_log().await;
    pool.all_succeeded(&mut events, "task", submitted.len())
        .await;
}

/// Waits until a process has ended because one of its services has, and checks that one line of its
/// log says all these parts. Gives the log.
async fn ends_with_its_service(process: &mut Running, limit: Duration, parts: &[&str]) -> String {
    let status = eventually("it ends", limit, async || process.has_ended()).await;
    let log = process.log();
    assert_eq!(status.code(), Some(1), "its supervisor sees it: {log}");
    let said = log
        .lines()
        .find(|line| line.contains("ERROR") && line.contains("service"))
        .unwrap_or_default();
    for part in parts {
        assert!(said.contains(part), "{part:?} is said: {log}");
    }
    log
}

/// Prints a line, then works until the file `go` exists.
const TALKS: &str =
    r#"echo thinking; until [ -e "$1/go" ]; do sleep 0.05; done; echo four >>readme.txt"#;
/// The step of a worker that a service takes, and no programmer.
pub(crate) const SERVICE: [Point; 1] = [Point::OutputSent];

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_service_panics_names_it_and_ends_and_another_does_the_task() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let directory = pool.signs().to_str().expect("a path in UTF-8").to_owned();
    let file = PoolFile::sample()
        .only(&["001"])
        .command(&["/bin/sh", "-c", TALKS, "agent", &directory]);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    let [output_sent] = SERVICE;
    let armed = format!("{}=panic", output_sent.name());
    pool.start_worker_with(&["--programmers", "001"], &[("POOL_FAULT", &armed)]);
    pool.all_consume().await;
    let mut broken = pool.take_worker(0);
    let submitted = tasks("task", 1);
    pool.api().submit(&submitted[0]).await;
    let parts = [
        "the service live_output has ended",
        "a panic is injected",
        "start the worker again",
    ];
    ends_with_its_service(&mut broken, SOON, &parts).await;
    std::fs::write(pool.signs().join("go"), "").expect("the sign");
    pool.start_worker(&["--programmers", "001"]);
    let result = pool.api().result("task-1", SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the next worker does the task: {result:?}"
    );
    let mut events = pool.event_log().await;
    let started = events.read().await;
    assert_eq!(
        started.iter().filter(|entry| entry.is("started")).count(),
        2,
        "each worker has started it once"
    );
    assert!(
        started.iter().any(|entry| entry.is("released")),
        "the first worker has given it back, so its attempt does not count"
    );
    pool.all_succeeded(&mut events, "task", submitted.len())
        .await;
}
