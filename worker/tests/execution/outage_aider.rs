//! Attempts of the real aider while its primary LLM is out in each known way. The backup does the
//! task. The outage costs only the time of calls, never the minutes for which aider itself would
//! retry. Run as `aider`; prints the cost of each outage.
#![expect(clippy::expect_used, reason = "a helper that fails fails the test")]

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lapin::BasicProperties;
use llm_gateway::permits::Unlimited;
use pool_core::id::AttemptId;
use pool_core::result::{ErrorKind, ResultMessage, Status};
use pool_core::time::Timestamp;
use pool_telemetry::clock::new_id;
use pool_tests::scripted_llm::{Answer, Behave, Fail, Rule, Script, ScriptedLlm};
use serde_json::json;
use tokio::net::TcpSocket;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use worker::programmer::attempt::AttemptEnd;
use worker::programmer::claim::{Claimed, read};
use worker::programmer::workshop::{Attempts, Workshop};

use crate::repo::Bench;
use crate::support::{eventually, sandbox};

const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// How long calls that fail at once may take, apart from waiting, on a busy machine.
const CALLS_MARGIN: Duration = Duration::from_secs(1);
/// How much the times of two runs of aider may differ on a busy machine. Aider on its own repeats a
/// failing call for at least 64 s.
const RUN_MARGIN: Duration = Duration::from_secs(15);

/// The programmers of the pool file, by their primary LLM. `free/big` is the backup of both.
#[derive(Clone, Copy)]
enum Primary {
    /// `free/small`, which follows the rules of the scripted LLM.
    Scripted,
    /// `closed/small`, where nothing listens.
    Closed,
}

/// A way in which the primary is out.
struct Way {
    name: &'static str,
    primary: Primary,
    answer: Answer,
    /// How often the primary is asked.
    tries: u64,
    /// How long the gateway may wait.
    wait: Duration,
}

impl Way {
    fn status(name: &'static str, status: u16, tries: u64) -> Self {
        let fail = Fail {
            status,
            ..Fail::default()
        };
        Self::of(
            name,
            Answer {
                fail: Some(fail),
                ..Answer::default()
            },
            tries,
        )
    }

    fn rate_limit(name: &'static str, retry_after_s: u64, tries: u64, wait: Duration) -> Self {
        let fail = Fail {
            status: 429,
            retry_after_s: Some(retry_after_s),
            ..Fail::default()
        };
        Self {
            wait,
            ..Self::of(
                name,
                Answer {
                    fail: Some(fail),
                    ..Answer::default()
                },
                tries,
            )
        }
    }

    fn behave(name: &'static str, behave: Behave, tries: u64) -> Self {
        Self::of(
            name,
            Answer {
                behave: Some(behave),
                ..Answer::default()
            },
            tries,
        )
    }

    fn of(name: &'static str, answer: Answer, tries: u64) -> Self {
        Self {
            name,
            primary: Primary::Scripted,
            answer,
            tries,
            wait: Duration::ZERO,
        }
    }

    fn all() -> Vec<Self> {
        vec![
            Self::status("429", 429, 2),
            Self::rate_limit("429, Retry-After 1", 1, 2, Duration::from_secs(1)),
            Self::rate_limit("429, Retry-After 60", 60, 1, Duration::ZERO),
            Self::status("500", 500, 2),
            Self::status("529", 529, 2),
            Self::status("401", 401, 1),
            Self::status("404", 404, 1),
            Self {
                wait: CALL_TIMEOUT,
                ..Self::behave("hang", Behave::Hang, 1)
            },
            Self {
                primary: Primary::Closed,
                ..Self::of("connection refused", Answer::default(), 2)
            },
            Self::behave("connection reset", Behave::Reset, 2),
            Self::behave("cut stream", Behave::CutStream, 2),
            Self::behave("broken JSON", Behave::BrokenJson, 2),
        ]
    }
}

/// A pool of two programmers with one scripted LLM.
struct Ward {
    llm: ScriptedLlm,
    scripted: Attempts,
    closed: Attempts,
    /// A port that is taken but not listened to, so it refuses connections.
    _closed_port: TcpSocket,
    _bench: Bench,
}

impl Ward {
    async fn open() -> Self {
        let bench = Bench::new();
        let llm = ScriptedLlm::start(Script::default(), 0)
            .await
            .expect("a free port");
        let closed_port = TcpSocket::new_v4().expect("a socket");
        closed_port
            .bind(([127, 0, 0, 1], 0).into())
            .expect("a free port");
        let closed_url = format!(
            "http://{}/v1",
            closed_port.local_addr().expect("an address")
        );
        let program = std::env::var("POOL_AIDER").expect("POOL_AIDER names the aider program");
        let programmer = |id: &str, primary: &str| json!({"id": id, "port": 0, "primary_llm": primary, "backup_llm": ["free/big"], "capabilities": ["fast"]});
        let file = json!({
            "programmers": [programmer("001", "free/small"), programmer("002", "closed/small")],
            "providers": {
                "free": {"base_url": llm.base_url(), "free": true},
                "closed": {"base_url": closed_url, "free": true},
            },
            "failover": {"max_retries": 1, "retry_delay_s": 0, "call_timeout_s": CALL_TIMEOUT.as_secs()},
            "agent": {"kind": "aider", "program": program},
            "workspace": {"dir": bench.dir.path().join("work"), "roots": [bench.dir.path().join("root")]},
            "sandbox": {"level": "off"},
        });
        let pool = pool_config::parse(&file.to_string(), Path::new("/pool.yaml"))
            .expect("a valid pool file");
        let [scripted, closed] = [0, 1].map(|index| pool.programmers[index].clone());
        let workshop = Arc::new(Workshop::open(Arc::new(pool), sandbox()).expect("a workshop"));
        if sandbox().gives_own_network() {
            // Every run is quicker then, and the cost of an outage is easier to see.
            workshop.warm_up().await;
            let warm = async { while !eventually(|| workshop.is_warm()).await {} };
            timeout(Duration::from_secs(300), warm)
                .await
                .expect("a fork server");
        }
        let scripted = workshop.attempts(scripted, None).await.expect("a gateway");
        let closed = workshop.attempts(closed, None).await.expect("a gateway");
        Self {
            llm,
            scripted,
            closed,
            _closed_port: closed_port,
            _bench: bench,
        }
    }

    /// Works on the task, and measures how long that takes.
    async fn run(&self, primary: Primary, rules: Vec<Rule>) -> (AttemptEnd, Duration) {
        self.llm.set_rules(rules);
        let edit = json!({"say": "I swap the sign.", "edits": [
            {"file": "calc.py", "search": "    return a - b", "replace": "    return a + b"},
        ]});
        let check = [
            "/usr/bin/python3",
            "-B",
            "-c",
            "import calc; assert calc.add(2, 3) == 5",
        ];
        let task = json!({
            "id": "task-1", "instruction": format!("Fix add.\nSCRIPT: {edit}"), "repository": "app", "files": ["calc.py"],
            "acceptance": [{"name": "adds", "run": check}],
        });
        let delivered =
            read(task.to_string().as_bytes(), &BasicProperties::default()).expect("a task");
        let claimed = Claimed {
            delivered,
            attempt: new_id::<AttemptId>(),
            number: 1,
            spent: Default::default(),
            since: Timestamp(0),
        };
        let attempts = match primary {
            Primary::Scripted => &self.scripted,
            Primary::Closed => &self.closed,
        };
        let began = Instant::now();
        let ended = attempts
            .run(&claimed, Arc::new(Unlimited), &CancellationToken::new())
            .await;
        (ended, began.elapsed())
    }

    async fn outcome(
        &self,
        name: &str,
        primary: Primary,
        rules: Vec<Rule>,
    ) -> (ResultMessage, Duration) {
        match self.run(primary, rules).await {
            (AttemptEnd::Outcome(outcome), took) => (outcome.result, took),
            (AttemptEnd::HandBack(hand_back), _) => {
                panic!("{name}: handed back: {}", hand_back.why)
            }
            (AttemptEnd::Stopped { .. }, _) => panic!("{name}: nobody stopped it"),
        }
    }
}

fn rule(model: &str, answer: Answer) -> Vec<Rule> {
    vec![Rule {
        model: model.to_owned(),
        answer,
        ..Rule::default()
    }]
}

/// Prints one line of the report, also when the test passes.
fn report(name: &str, result: &ResultMessage, took: Duration, base: Duration) {
    let (overhead, ratio) = (
        took.as_secs_f64() - base.as_secs_f64(),
        took.as_secs_f64() / base.as_secs_f64(),
    );
    let (took, llm_ms) = (took.as_millis(), result.timings.llm_ms);
    let _ = writeln!(
        std::io::stderr(),
        "outage {name:<20} {took:>6} ms, overhead {:>+6.0} ms, ratio {ratio:.2}; in calls {llm_ms:>5} ms",
        overhead * 1000.0
    );
}

/// For each LLM: the calls, and how many of them failed.
fn who(result: &ResultMessage) -> Vec<(&str, u64, u64)> {
    result
        .usage
        .by_llm
        .iter()
        .map(|of| (of.llm.as_str(), of.calls, of.failed_calls))
        .collect()
}

fn assert_done(name: &str, result: &ResultMessage) {
    assert_eq!(result.status, Status::Succeeded, "{name}: {result:?}");
    assert_eq!(
        (result.runs, result.files_changed.as_slice()),
        (1, ["calc.py".to_owned()].as_slice()),
        "{name}"
    );
    let patch = result.patch.as_deref().unwrap_or_default();
    assert!(
        patch.contains("\n-    return a - b\n+    return a + b\n"),
        "{name}: {patch}"
    );
    assert_eq!(
        result
            .acceptance
            .first()
            .and_then(|check| check.exit_status),
        Some(0),
        "{name}: it adds"
    );
}

fn assert_by_backup(way: &Way, result: &ResultMessage, asked: usize) {
    let Way {
        name,
        primary,
        tries,
        ..
    } = *way;
    let (primary, reached) = match primary {
        Primary::Scripted => ("free/small", tries),
        Primary::Closed => ("closed/small", 0),
    };
    assert_eq!(
        result.llm.as_ref().map(|llm| llm.as_str()),
        Some("free/big"),
        "{name}: the backup did it"
    );
    assert!(result.used_backup, "{name}: and the result says so");
    assert_eq!(
        who(result),
        [(primary, tries, tries), ("free/big", 1, 0)],
        "{name}: the calls and the failed ones"
    );
    assert_eq!(asked as u64, reached + 1, "{name}: no request beside those");
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn whatever_way_the_primary_is_out_the_backup_does_the_task_and_little_time_is_lost() {
    let ward = Ward::open().await;
    // The first start of aider reads its files from the disk.
    ward.outcome("warming up", Primary::Scripted, Vec::new())
        .await;
    let (healthy, base) = ward.outcome("healthy", Primary::Scripted, Vec::new()).await;
    report("healthy primary", &healthy, base, base);
    assert_done("healthy", &healthy);
    assert_eq!(
        (who(&healthy), healthy.used_backup),
        (vec![("free/small", 1, 0)], false),
        "the primary does it alone"
    );
    for way in Way::all() {
        let before = ward.llm.requests().len();
        let (result, took) = ward
            .outcome(way.name, way.primary, rule("small", way.answer.clone()))
            .await;
        report(way.name, &result, took, base);
        assert_done(way.name, &result);
        assert_eq!(result.patch, healthy.patch, "{}: the same patch", way.name);
        assert_by_backup(&way, &result, ward.llm.requests().len() - before);
        let in_calls =
            Duration::from_millis(result.timings.llm_ms.saturating_sub(healthy.timings.llm_ms));
        assert!(
            in_calls <= way.wait + CALLS_MARGIN,
            "{}: calls took {in_calls:?} longer",
            way.name
        );
        assert!(
            took <= base + way.wait + RUN_MARGIN,
            "{}: {took:?} against {base:?}",
            way.name
        );
    }
    // The same again, to measure the influence of the machine.
    let (again, took) = ward
        .outcome("healthy again", Primary::Scripted, Vec::new())
        .await;
    report("healthy again", &again, took, base);
}

#[tokio::test]
#[ignore = "needs aider: POOL_AIDER"]
async fn when_the_backup_is_out_too_the_task_is_handed_back_within_seconds() {
    let ward = Ward::open().await;
    let (_, base) = ward.outcome("healthy", Primary::Scripted, Vec::new()).await;
    let before = ward.llm.requests().len();
    let dead = Answer {
        fail: Some(Fail {
            status: 500,
            ..Fail::default()
        }),
        ..Answer::default()
    };
    let (ended, took) = ward.run(Primary::Scripted, rule("*", dead)).await;
    let AttemptEnd::HandBack(hand_back) = ended else {
        panic!("no LLM was left")
    };
    let result = &hand_back.outcome.result;
    report("both dead", result, took, base);
    assert_eq!(
        hand_back.kind,
        ErrorKind::LlmUnavailable,
        "{}",
        hand_back.why
    );
    assert_eq!(
        who(result),
        [("free/small", 2, 2), ("free/big", 2, 2)],
        "each with its retry"
    );
    assert_eq!(
        ward.llm.requests().len() - before,
        4,
        "aider does not begin again"
    );
    assert!(took <= base + RUN_MARGIN, "{took:?} against {base:?}");
}
