//! An operator's decisions hold everywhere at once: cancel, pause, drain, resume. An attempt that
//! broke is retried.

use std::time::Duration;

use pool_core::result::{ErrorKind, Status};
use serde_json::json;
use tokio::time::Instant;

use crate::support::bench::{Bench, is_alive};
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, SOON, eventually};

/// One programmer runs `running`, and `waiting` waits behind it. Both have a submitter that waits
/// for replies.
async fn one_runs_and_one_waits(bench: &mut Bench) -> crate::support::Submitter {
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let submitter = bench.pool.submitter("me").await;
    submitter.submit("any", &task("running")).await;
    bench.agents_started(1).await;
    submitter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_task_that_is_cancelled_is_stopped_and_its_worktree_is_gone() {
    let mut bench = Bench::with(&["001"]).await;
    let mut submitter = one_runs_and_one_waits(&mut bench).await;
    let agent = bench.agents_started(1).await[0];

    let asked = Instant::now();
    let said = bench.pool.command_line(&["cancel", "running"]).await;
    assert_eq!(
        said, "running: cancelled\n",
        "the command prints the new status"
    );
    eventually("the agent is gone", Duration::from_secs(5), async || {
        (!is_alive(agent)).then_some(())
    })
    .await;
    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.status,
        Status::Cancelled,
        "its submitter gets the outcome: {result:?}"
    );
    assert!(asked.elapsed() < Duration::from_secs(10), "soon");
    let worktrees = bench.pool.path().join("work/worktrees");
    eventually("its worktree is gone", SOON, async || {
        std::fs::read_dir(&worktrees)
            .map_or(true, |mut entries| entries.next().is_none())
            .then_some(())
    })
    .await;
    assert_eq!(
        bench.pool.api().result("running", SOON).await,
        result,
        "the API has the same result"
    );

    bench.go();
    bench.pool.api().submit(&task("next")).await;
    let next = bench.pool.api().result("next", SOON).await;
    assert_eq!(
        next.status,
        Status::Succeeded,
        "the programmer does the next task: {next:?}"
    );
    let mut log = bench.pool.event_log().await;
    log.read().await;
    assert_eq!(log.outcomes("running"), [Status::Cancelled], "one outcome");
    assert_eq!(log.starts("running").len(), 1, "it is not started again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_task_that_is_cancelled_never_starts() {
    let mut bench = Bench::with(&["001"]).await;
    let mut submitter = one_runs_and_one_waits(&mut bench).await;
    bench.pool.api().submit(&task("waiting")).await;
    bench.pool.command_line(&["cancel", "waiting"]).await;
    assert_eq!(
        bench.pool.api().result("waiting", SOON).await.status,
        Status::Cancelled,
        "at once"
    );
    bench.go();
    assert_eq!(
        submitter.reply(SOON).await.status,
        Status::Succeeded,
        "the task before it succeeds"
    );
    bench.pool.api().submit(&task("behind")).await;
    bench.pool.api().result("behind", SOON).await;
    let mut log = bench.pool.event_log().await;
    log.read().await;
    assert_eq!(
        log.starts("waiting"),
        [],
        "the task behind it is done, and it was not started"
    );
    assert_eq!(bench.agents().len(), 2, "no agent was started for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_finished_task_cannot_be_cancelled_and_says_so() {
    let file = PoolFile::sample().only(&["001"]);
    let pool = Pool::start(&file).await;
    pool.api().submit(&task("done")).await;
    pool.api().result("done", SOON).await;
    let answer = pool.api().delete("/tasks/done").await;
    assert_eq!(answer["status"], 409, "too late: {answer}");
    assert_eq!(
        answer["detail"], "task done has already finished: succeeded",
        "and why"
    );
    assert_eq!(
        pool.api().delete("/tasks/nobody").await["status"],
        404,
        "an unknown task is refused"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_programmer_ends_its_task_and_takes_no_other_until_it_is_resumed() {
    let mut bench = Bench::with(&["001", "002"]).await;
    for id in ["001", "002"] {
        bench.pool.start_worker(&["--programmers", id]);
    }
    bench.pool.all_consume().await;
    bench
        .pool
        .api()
        .submit(&json!([task("a"), task("b")]))
        .await;
    bench.agents_started(2).await;
    bench
        .pool
        .command_line(&["pause", "--programmer", "001"])
        .await;
    bench.go();
    for id in ["a", "b"] {
        assert_eq!(
            bench.pool.api().result(id, SOON).await.status,
            Status::Succeeded,
            "the running task goes on"
        );
    }
    bench
        .pool
        .status_where("001 says that it is paused", |status| {
            status.is_shut_for("001", "paused")
        })
        .await;
    let tasks: Vec<_> = (0..6).map(|n| task(&format!("t{n}"))).collect();
    bench.pool.api().submit(&json!(tasks)).await;
    let mut log = bench.pool.event_log().await;
    log.finished(8, SOON).await;
    let who: std::collections::BTreeSet<String> = (0..6)
        .flat_map(|n| log.starts(&format!("t{n}")))
        .map(|id| id.to_string())
        .collect();
    assert_eq!(
        who.into_iter().collect::<Vec<_>>(),
        ["002"],
        "the other programmer has done all of them"
    );
    let said = bench
        .pool
        .command_line(&["resume", "--programmer", "001"])
        .await;
    assert_eq!(said, "nothing is paused\n", "no pause is left");
    bench.pool.all_consume().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_route_waits_while_others_are_served_also_after_a_restart_of_everybody() {
    let file = PoolFile::sample().only(&["001", "009"]);
    let mut pool = Pool::start(&file).await;
    pool.command_line(&["pause", "--route", "fast"]).await;
    let observer = pool.submitter("observer").await;
    eventually(
        "no programmer consumes the tasks of the route",
        SOON,
        async || (observer.consumers("tasks.fast").await == 0).then_some(()),
    )
    .await;
    pool.api().submit(&json!({"id": "held", "instruction": "x", "repository": "app", "capabilities": ["fast"]})).await;
    pool.api().submit(&task("other")).await;
    assert_eq!(
        pool.api().result("other", SOON).await.status,
        Status::Succeeded,
        "tasks of other routes are done"
    );

    pool.kill_all();
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    pool.api().submit(&task("later")).await;
    pool.api().result("later", SOON).await;
    let mut log = pool.event_log().await;
    log.read().await;
    assert_eq!(
        log.starts("held"),
        [],
        "the pause is in the log and still holds"
    );
    pool.command_line(&["resume", "--route", "fast"]).await;
    assert_eq!(
        pool.api().result("held", SOON).await.status,
        Status::Succeeded,
        "resumed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_programmer_gives_its_task_back_when_its_time_is_up() {
    let file = PoolFile::sample()
        .only(&["001", "002"])
        .set("dispatcher.drain_timeout_s", json!(1));
    let mut bench = Bench::with_file(file).await;
    for id in ["001", "002"] {
        bench.pool.start_worker(&["--programmers", id]);
    }
    bench.pool.all_consume().await;
    bench.pool.api().submit(&task("long")).await;
    let mut log = bench.pool.event_log().await;
    let first = log.started("long").await;
    bench.agents_started(1).await;
    bench
        .pool
        .command_line(&["drain", "--programmer", first.as_str()])
        .await;
    assert!(
        bench
            .pool
            .status()
            .await
            .is_shut_for(first.as_str(), "draining"),
        "the command waits until the task is returned"
    );
    bench.agents_started(2).await;
    bench.go();
    assert_eq!(
        bench.pool.api().result("long", SOON).await.status,
        Status::Succeeded,
        "the other programmer has done it"
    );
    log.read().await;
    let starts = log.starts("long");
    assert_eq!(starts.len(), 2, "the task was started twice");
    assert_ne!(
        starts[1], first,
        "the second start is the other programmer's"
    );
    assert_eq!(
        bench.pool.api().get("/tasks/long").await["attempts"],
        1,
        "a drain burns no attempt"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_that_follows_another_one_is_waited_for_too() {
    let file = PoolFile::sample()
        .only(&["001"])
        .set("dispatcher.drain_timeout_s", json!(1));
    let mut bench = Bench::with_file(file).await;
    bench.pool.start_worker(&["--all"]);
    bench.pool.all_consume().await;
    let mut log = bench.pool.event_log().await;
    for time in 1..=3 {
        let id = format!("long-{time}");
        bench.pool.api().submit(&task(&id)).await;
        log.started(&id).await;
        bench
            .pool
            .command_line(&["drain", "--programmer", "001"])
            .await;
        let shown = bench.pool.api().get(&format!("/tasks/{id}")).await;
        assert_eq!(
            shown["status"], "queued",
            "time {time}, the programmer has no task: {shown}"
        );
        bench.pool.command_line(&["cancel", &id]).await;
        bench
            .pool
            .command_line(&["resume", "--programmer", "001"])
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_broke_is_made_again_later_and_not_without_end() {
    let agent = r#"
        echo x >>"$1/runs"
        [ "$(wc -l <"$1/runs")" -ge 3 ] || kill -9 $$
        echo four >>readme.txt
    "#;
    let mut pool = Pool::set_up_shared(&PoolFile::sample()).await;
    let signs = pool.signs();
    let file = PoolFile::sample()
        .only(&["001", "002"])
        .set("dispatcher.retry_delay_s", json!(1))
        .command(&[
            "/bin/sh",
            "-c",
            agent,
            "agent",
            signs.to_str().expect("a path in UTF-8"),
        ]);
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let mut submitter = pool.submitter("me").await;
    submitter.submit("any", &task("third-time")).await;
    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.status,
        Status::Succeeded,
        "the third attempt succeeds: {result:?}"
    );
    let mut log = pool.event_log().await;
    log.read().await;
    let starts: Vec<_> = log
        .entries
        .iter()
        .filter(|entry| entry.is_start_of("third-time"))
        .map(|e| e.at)
        .collect();
    let waits: Vec<_> = starts
        .windows(2)
        .map(|pair| pair[1].since(pair[0]))
        .collect();
    assert_eq!(waits.len(), 2, "three attempts");
    assert!(
        waits[0] >= Duration::from_millis(500),
        "the retry does not come at once: {waits:?}"
    );
    assert!(
        waits[1] >= Duration::from_secs(1),
        "the second retry waits longer: {waits:?}"
    );

    std::fs::write(signs.join("runs"), "").expect("the count of runs");
    let file = file.set("dispatcher.max_attempts", json!(2));
    pool.kill_all();
    pool.rewrite(&file);
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    submitter.submit("any", &task("never")).await;
    let result = submitter.reply(SOON).await;
    assert_eq!(
        result.error.map(|error| error.kind),
        Some(ErrorKind::AgentCrashed),
        "the error is that of the last attempt"
    );
    log.read().await;
    assert_eq!(log.starts("never").len(), 2, "`max_attempts`");
}
