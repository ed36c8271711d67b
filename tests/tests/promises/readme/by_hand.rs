//! Starts the processes of a pool one by one, as the book says.

use std::process::Command;

use serde_json::json;

use super::page::Page;
use super::requests::answers;
use crate::support::api::http;
use crate::support::machine::{free_port, program};
use crate::support::process::Running;
use crate::support::{Api, Pool, PoolFile, SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_started_by_hand_as_the_book_says() {
    let (page, port) = (Page::read(), free_port());
    let file = PoolFile::sample().set("dispatcher.listen", json!(format!("127.0.0.1:{port}")));
    let pool = Pool::set_up_shared(&file).await;
    file.set(
        "workspace",
        json!({"dir": "work", "roots": ["repositories"]}),
    )
    .write(&pool.path().join("pool.yaml"));
    let start = |name: &str, line: &str| {
        let programs = program("worker")
            .parent()
            .expect("a directory")
            .display()
            .to_string();
        let script = format!(
            "cd '{}'; PATH='{programs}':$PATH; {line}",
            pool.path().display()
        );
        let mut command = Command::new("bash");
        command
            .args(["-c", &script.replace("worker run", "exec worker run")])
            .env("AMQP_URL", pool.amqp_url());
        Running::start(name, &pool.path().join("logs"), &command)
    };
    let calls: Vec<String> = page.calls().into_iter().map(|call| call.command).collect();
    let by_hand = |words: &str| {
        calls
            .iter()
            .find(|call| call.contains(words))
            .unwrap_or_else(|| panic!("{words}"))
    };
    let _dispatcher = start(
        "dispatcher",
        &format!("exec {}", by_hand("dispatcher serve --pool")),
    );
    let api = Api::at(format!("http://127.0.0.1:{port}"));
    let held = async |count: usize| {
        let what = format!("{count} programmers are held");
        eventually(&what, SOON, async || {
            let status = api.status().await;
            let up = status["programmers"]
                .as_array()?
                .iter()
                .filter(|one| one["state"] != "down")
                .count();
            (up == count && status["programmers"][0]["unknown"] != true).then_some(())
        })
        .await;
    };
    for (words, count) in [
        ("--all", 10),
        ("--programmers 001,002", 2),
        ("PROGRAMMER_ID=003", 1),
        ("--any 2", 2),
    ] {
        let line = calls
            .iter()
            .find(|call| call.contains("worker run") && call.contains(words))
            .expect("a line");
        let mut worker = start(&format!("worker-{count}-{}", words.len()), line);
        held(count).await;
        worker.terminate();
        assert!(
            worker.ended().await.success(),
            "{line} ends in order: {}",
            worker.log()
        );
    }
    let listen = format!("127.0.0.1:{}", free_port());
    let _worker = start(
        "worker-health",
        &format!("worker run --pool pool.yaml --all --listen {listen}"),
    );
    held(10).await;
    let healthy = Command::new(program("worker"))
        .args(["health", "--address", &listen])
        .output()
        .expect("it runs");
    assert!(
        healthy.status.success(),
        "{}",
        String::from_utf8_lossy(&healthy.stdout)
    );
    // The dispatcher knows the programmers before all of them consume.
    let ready = format!("http://{listen}/ready");
    eventually("the worker is ready", SOON, async || {
        let answer = http().get(&ready).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    for place in ["/health", "/ready", "/metrics"] {
        answers(&http(), "GET", &format!("http://{listen}{place}"), None).await;
    }
}
