//! A result always fits into the broker, whatever an agent has produced; and the change of every
//! success can be fetched.

use pool_core::result::{ErrorKind, ResultMessage, Status};
use serde_json::{Value, json};

use crate::support::machine::share_cores;
use crate::support::own_broker::OwnBroker;
use crate::support::pool::task;
use crate::support::{Pool, PoolFile, Repository, SOON};

/// The limit of this test's broker: a sixteenth of RabbitMQ's smallest default.
const LIMIT: &str = "max_message_size = 1048576";

/// Makes the files that its prompt names.
const AGENT: &str = r#"
import os, sys
what = open(sys.argv[1]).read().split()[0]
if what == "many":
    os.mkdir("many")
    for n in range(80_000):
        open(f"many/{n:06}-{'x' * 60}", "w").close()
elif what == "quotes":
    # Each quote takes two bytes in JSON.
    open("quotes.txt", "w").write(('"' * 999 + "\n") * 700)
elif what == "large":
    open("large.txt", "w").write(("x" * 999 + "\n") * 2000)
elif what == "small":
    open("small.txt", "w").write("small\n")
"#;

/// Programmer 001 makes commits, 009 does not.
fn file() -> PoolFile {
    let file = PoolFile::sample()
        .only(&["001", "009"])
        .set_of("009", "auto_commit", json!(false));
    let limits = json!({"timeout_s": 200, "max_duration_per_job_s": 150});
    file.command(&["/usr/bin/python3", "-c", AGENT, "{prompt_file}"])
        .with("defaults", limits)
}

fn made(id: &str, what: &str, capability: &str) -> Value {
    let mut task = task(id);
    (task["instruction"], task["capabilities"]) = (what.into(), json!([capability]));
    task
}

/// A task just below the broker's limit.
fn wide(id: &str, capability: &str) -> Value {
    let mut task = made(id, "small ", capability);
    let padding = "x".repeat(1_048_500 - task.to_string().len());
    task["instruction"] = format!("small {padding}").into();
    task
}

fn kind(result: &ResultMessage) -> Option<ErrorKind> {
    result.error.as_ref().map(|error| error.kind)
}

async fn started_once(pool: &Pool, ids: &[&str]) {
    let mut log = pool.event_log().await;
    log.read().await;
    for id in ids {
        assert_eq!(
            (log.starts(id).len(), log.outcomes(id).len()),
            (1, 1),
            "{id} runs once and is paid for once"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_fits_into_the_broker_whatever_the_agent_has_made() {
    let _cores = share_cores().await;
    let broker = OwnBroker::start(LIMIT).await;
    let mut pool = Pool::set_up_in(broker.vhost().await, &file()).await;
    pool.start_dispatcher().await;
    pool.start_worker(&["--all"]);
    pool.all_consume().await;
    let tasks = [
        made("many", "many", "fast"),
        made("quotes", "quotes", "fast"),
        made("after", "small", "fast"),
        made("uncommitted", "quotes", "deepseek"),
        made("after-that", "small", "deepseek"),
    ];
    pool.api().submit(&json!(tasks)).await;

    let many = pool.api().result("many", SOON * 6).await;
    assert_eq!(many.status, Status::Succeeded, "{:?}", many.error);
    assert_eq!(
        (many.files_changed_total, many.files_changed_truncated),
        (80_000, true),
        "the result has the number of files, not all their names"
    );
    assert!(
        !many.files_changed.is_empty() && many.files_changed.len() < 80_000,
        "{}",
        many.files_changed.len()
    );
    assert!(many.patch_truncated, "a patch above 1 MiB is cut");
    let place = pool.repository("app").join(".git");
    let said = pool.api().text("/tasks/many/patch").await;
    assert!(
        said.contains("pool/many") && said.contains(place.to_str().expect("a path")),
        "the API says where the whole patch is: {said}"
    );
    let commit = pool.branch("app", "pool/many").await;
    assert_eq!(
        many.commit.as_ref(),
        Some(&commit),
        "the branch has the whole change"
    );
    let listed =
        Repository::at(&pool.repository("app")).git(&["ls-tree", "-r", "--name-only", &commit]);
    assert_eq!(listed.lines().count(), 80_001, "the commit has all files");

    let quotes = pool.api().result("quotes", SOON).await;
    assert_eq!(
        (quotes.status, quotes.commit.is_some()),
        (Status::Succeeded, true),
        "{:?}",
        quotes.error
    );
    assert!(
        quotes.patch_truncated,
        "a patch that is too large for this broker is left out"
    );
    let uncommitted = pool.api().result("uncommitted", SOON).await;
    assert_eq!(
        kind(&uncommitted),
        Some(ErrorKind::PatchTooLarge),
        "the change could not be fetched: {uncommitted:?}"
    );

    // The result of a task that is new to the dispatcher contains the task.
    let mut submitter = pool.submitter("me").await;
    submitter.submit("fast", &wide("wide", "fast")).await;
    let result = submitter.reply(SOON * 2).await;
    assert_eq!(
        (result.status, result.texts_truncated),
        (Status::Succeeded, true),
        "{:?}",
        result.error
    );
    assert_eq!(
        (result.task, result.files_changed),
        (None, vec!["small.txt".to_owned()]),
        "the result has everything but the task"
    );
    submitter
        .submit("nobody", &wide("unroutable", "nobody"))
        .await;
    let result = submitter.reply(SOON).await;
    assert_eq!(
        kind(&result),
        Some(ErrorKind::Unroutable),
        "a dispatcher leaves the task out, too: {:?}",
        result.status
    );

    for id in ["after", "after-that"] {
        let result = pool.api().result(id, SOON).await;
        assert_eq!(
            result.status,
            Status::Succeeded,
            "{id}: the programmer does the next task"
        );
    }
    started_once(
        &pool,
        &["many", "quotes", "after", "uncommitted", "after-that"],
    )
    .await;
    drop(pool);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_fetched_is_not_a_success() {
    let pool = Pool::start(&file()).await;
    let submitted = [
        made("large", "large", "deepseek"),
        made("kept", "large", "fast"),
        made("s", "small", "deepseek"),
    ];
    pool.api().submit(&json!(submitted)).await;

    let large = pool.api().result("large", SOON).await;
    assert_eq!(
        (large.status, kind(&large)),
        (Status::Failed, Some(ErrorKind::PatchTooLarge)),
        "{large:?}"
    );
    assert!(
        large.patch_truncated && large.branch.is_none(),
        "there is neither a patch nor a branch: {large:?}"
    );
    let message = large.error.expect("an error").message;
    assert!(
        message.contains("auto_commit") && message.contains("1048576"),
        "the error says what to do: {message}"
    );
    let app = Repository::at(&pool.repository("app"));
    let commit = message
        .split_whitespace()
        .find(|word| word.len() == 40)
        .expect("the commit that is kept");
    let text = app.git(&["show", &format!("{commit}:large.txt")]);
    assert_eq!(
        text.lines().count(),
        2000,
        "the kept commit has the change: {message}"
    );
    assert_eq!(
        app.git(&["branch", "--list", "pool/large"]),
        "",
        "no branch was set"
    );
    started_once(&pool, &["large"]).await;

    let kept = pool.api().result("kept", SOON).await;
    assert_eq!(
        (kept.status, kept.patch_truncated),
        (Status::Succeeded, true),
        "{:?}",
        kept.error
    );
    let place = kept.commit_at.expect("where the commit is");
    assert!(
        place.ends_with("/repositories/app/.git"),
        "`commit_at` names host and directory: {place}"
    );
    let small = pool.api().result("s", SOON).await;
    assert_eq!(
        (small.status, small.commit),
        (Status::Succeeded, None),
        "a patch that fits is in the result"
    );
    assert!(
        pool.api().patch("s").await.contains("+small"),
        "the patch has the change that was asked for"
    );
}
