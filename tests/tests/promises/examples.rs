//! The clients below `examples/`, run as they stand there.

use std::collections::BTreeSet;
use std::process::Command;

use crate::support::machine::{checkout, program};
use crate::support::process::Running;
use crate::support::{Pool, PoolFile, Repository};
use crate::third_party::python;

/// Each client with the variable that tells it where the pool is.
fn clients() -> [(&'static str, &'static str, Command); 4] {
    let examples = checkout().join("examples");
    let amqplib = examples.join("node/node_modules/amqplib");
    assert!(
        amqplib.is_dir(),
        "{} is missing: run scripts/test, or `npm ci` in examples/node",
        amqplib.display()
    );
    let script = |interpreter: &str, path: &str| {
        let mut command = Command::new(interpreter);
        command.arg(examples.join(path));
        command
    };
    [
        ("python", "AMQP_URL", script(&python(), "python/submit.py")),
        ("node", "AMQP_URL", script("node", "node/submit.mjs")),
        ("rust", "AMQP_URL", Command::new(program("example-client"))),
        ("shell", "POOL_URL", script("bash", "shell/submit.sh")),
    ]
}

/// Runs all clients at once; gives what each printed, and whether it ended with status 0.
async fn run_all(pool: &Pool, phase: &str) -> Vec<(&'static str, bool, String)> {
    let url = std::fs::read_to_string(pool.path().join("url")).expect("a dispatcher serves");
    let started: Vec<_> = clients()
        .into_iter()
        .map(|(name, _, mut command)| {
            command
                .env("AMQP_URL", pool.amqp_url())
                .env("POOL_URL", url.trim())
                .env_remove("POOL_API_TOKEN");
            let log = format!("{name}-{phase}");
            (name, Running::start(&log, pool.path(), &command))
        })
        .collect();
    let mut printed = Vec::new();
    for (name, mut client) in started {
        let status = client.ended().await;
        printed.push((name, status.success(), client.log()));
    }
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_client_prints_why_its_task_failed_or_the_commit_of_its_own_task() {
    let agent = ["/bin/sh", "-c", "echo '# changed' >>README.md"];
    let pool = Pool::start(&PoolFile::sample().command(&agent)).await;
    for (name, succeeded, said) in run_all(&pool, "without-repository").await {
        assert!(!succeeded, "{name}: a failed task is a failure: {said}");
        assert!(
            said.contains("sample"),
            "{name} prints the error of the result, which names the repository: {said}"
        );
    }

    let repository = Repository::sample(&pool.repository("sample"));
    let mut ids = BTreeSet::new();
    for (name, succeeded, said) in run_all(&pool, "with-repository").await {
        assert!(succeeded, "{name} ends with status 0: {said}");
        let words: Vec<&str> = said.split_whitespace().collect();
        let [id, "succeeded", commit] = words[..] else {
            panic!("{name} prints id, status and commit, and nothing else: {said}");
        };
        assert!(id.starts_with(name), "{name} waited for its own task: {id}");
        assert_eq!(
            repository.commit_of(&format!("pool/{id}")).as_deref(),
            Some(commit),
            "{name} prints the commit of its branch"
        );
        ids.insert(id.to_owned());
    }
    assert_eq!(ids.len(), 4, "each client had a task: {ids:?}");
}

#[test]
fn an_example_client_that_does_not_know_where_the_pool_is_names_the_variable() {
    for (name, variable, mut command) in clients() {
        let done = command.env_remove(variable).output().expect("it runs");
        let error = String::from_utf8_lossy(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{name}: {error}");
        assert!(
            error.contains(&format!("{variable} is not set")),
            "{name} says what is missing: {error}"
        );
    }
}
