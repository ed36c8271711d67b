mod mistakes;

use std::path::Path;

use std::time::Duration;

use pool_core::config_hash::config_hash;
use pool_core::id::Capability;
use pool_core::money::MicroUsd;

use super::*;

const FILE: &str = "/srv/pool/config/pool.yaml";
/// A pool of one programmer with a free LLM. Tests append sections from line 3 on.
const ONE: &str = "programmers:\n  - {id: \"001\", primary_llm: ollama/a, backup_llm: ollama/b}\n";

fn read(text: &str) -> Result<Pool, Mistakes> {
    parse(text, Path::new(FILE))
}

fn pool(text: &str) -> Pool {
    read(text).unwrap_or_else(|mistakes| panic!("the file must be good, but:\n{mistakes}"))
}

#[test]
fn one_programmer_is_a_pool_and_everything_else_has_a_default() {
    let pool = pool(&format!("{ONE}events:\nproviders:\ncapability_routing:\n"));
    let programmer = &pool.programmers[0];
    assert_eq!(programmer.port, 6151, "6150 + id");
    assert_eq!(programmer.llms.len(), 2, "primary and backup");
    assert_eq!(
        programmer.limits.max_cost,
        MicroUsd(2_500_000),
        "the default cap"
    );
    assert_eq!(
        pool.failover.breaker.cooldown,
        Duration::from_secs(300),
        "five minutes"
    );
    assert_eq!(
        pool.load_balancing.strategy,
        Strategy::LeastLoaded,
        "the default strategy"
    );
    assert_eq!(pool.events.segment_bytes, 16 * 1024 * 1024, "16 MiB");
    assert!(pool.is_free(programmer.primary()), "ollama is free");
}

#[test]
fn a_programmer_overrides_the_defaults_and_routing_adds_capabilities() {
    let text = "defaults: {timeout_s: 100, context_limit: 7}\nprogrammers:\n  - {id: x, primary_llm: ollama/a, \
                capabilities: [a], timeout_s: 50}\n  - {id: \"002\", primary_llm: ollama/a, port: 0}\n\
                capability_routing: {b: [x]}\nload_balancing: {strategy: round_robin, spill_to_paid_after: 2m}\n";
    let pool = pool(text);
    let ids: Vec<&str> = pool
        .programmers
        .iter()
        .map(|programmer| programmer.id.as_str())
        .collect();
    assert_eq!(ids, ["002", "x"], "sorted by id");
    let x = &pool.programmers[1];
    assert_eq!(
        (x.limits.timeout.as_secs(), x.limits.context_limit),
        (50, 7),
        "its own value, and the pool's default"
    );
    assert_eq!(
        x.capabilities
            .iter()
            .map(Capability::as_str)
            .collect::<Vec<_>>(),
        ["a", "b"],
        "own and added"
    );
    assert_eq!(
        (x.port, pool.programmers[0].port),
        (0, 0),
        "no number in the id, and any port by wish"
    );
    assert_eq!(
        pool.load_balancing.spill_to_paid_after,
        Duration::from_secs(120),
        "two minutes"
    );
}

#[test]
fn a_built_in_provider_is_overridden_key_by_key_and_its_key_goes_to_no_other_address() {
    let text = format!(
        "{ONE}providers:\n  openai: {{max_concurrent: 2}}\n  anthropic: {{base_url: \"http://127.0.0.1:6190/v1/\"}}\n"
    );
    let providers = pool(&text).providers;
    let openai = &providers["openai"];
    assert_eq!(openai.base_url, "https://api.openai.com/v1", "kept");
    assert_eq!(
        openai.api_key_env.as_deref(),
        Some("OPENAI_API_KEY"),
        "kept with the built-in address"
    );
    assert_eq!(openai.max_concurrent, Some(2), "set");
    let anthropic = &providers["anthropic"];
    assert_eq!(
        anthropic.base_url, "http://127.0.0.1:6190/v1",
        "without the trailing slash"
    );
    assert_eq!(
        anthropic.api_key_env, None,
        "another address does not get the key"
    );
    assert!(
        anthropic.is_loopback() && !openai.is_loopback(),
        "one stays on this machine"
    );
    assert!(!anthropic.free, "paid still");
}

#[test]
fn relative_paths_start_from_the_directory_of_the_file() {
    let text = format!(
        "{ONE}workspace: {{dir: ../.pool/work, roots: [/srv/git, ./code]}}\nagent: {{program: ../bin/aider}}\n"
    );
    let pool = pool(&text);
    assert_eq!(pool.workspace.dir, Path::new("/srv/pool/.pool/work"), "dir");
    assert_eq!(
        pool.workspace.roots,
        [Path::new("/srv/git"), Path::new("/srv/pool/config/code")],
        "roots"
    );
    let AgentKind::Aider { program, .. } = pool.agent.kind else {
        panic!("aider is the default agent")
    };
    assert_eq!(program, Path::new("/srv/pool/bin/aider"), "program");
}

#[test]
fn the_url_of_the_broker_comes_from_the_environment_when_it_is_set() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/trial.yaml");
    let url = |env: &Env| load(&file, env).map(|pool| pool.broker.url.expose().to_owned());
    let from_file = url(&Env::empty()).expect("a good file");
    assert!(
        from_file.starts_with("amqp://guest"),
        "the file's own: {from_file}"
    );
    let env = Env::from_iter([("AMQP_URL", "amqps://me:pw@broker.example/x")]);
    assert_eq!(
        url(&env).expect("a good file"),
        "amqps://me:pw@broker.example/x",
        "the environment wins"
    );
    let wrong = url(&Env::from_iter([("AMQP_URL", "localhost")]))
        .expect_err("no URL")
        .to_string();
    assert!(
        wrong.contains("AMQP_URL (environment): is not a valid broker URL"),
        "it names the variable: {wrong}"
    );
}

#[test]
fn certificates_for_the_broker_are_named_as_files_and_only_for_tls() {
    let with = |broker: &str| format!("{ONE}broker: {{{broker}}}\n");
    let tls = "url: \"amqps://b/%2f\"";
    let broker = pool(&with(&format!(
        "{tls}, ca_file: ca.pem, client_cert_file: /c.pem, client_key_file: ../k.pem"
    )))
    .broker;
    assert_eq!(
        broker.ca_file.as_deref(),
        Some(Path::new("/srv/pool/config/ca.pem")),
        "from the file's directory"
    );
    let certificate = broker.client_certificate.expect("a certificate");
    assert_eq!(
        certificate.cert_file,
        Path::new("/c.pem"),
        "an absolute path stays"
    );
    assert_eq!(
        certificate.key_file,
        Path::new("/srv/pool/k.pem"),
        "from the file's directory"
    );
    let mistakes = |broker: &str| read(&with(broker)).expect_err("a mistake").to_string();
    let alone = mistakes(&format!("{tls}, client_cert_file: c.pem"));
    assert!(
        alone.contains("broker.client_cert_file: needs `client_key_file` beside it"),
        "{alone}"
    );
    let plain = mistakes("ca_file: ca.pem");
    assert!(
        plain.contains("broker.ca_file: is for amqps:// only"),
        "{plain}"
    );
    let empty = mistakes(&format!("{tls}, ca_file: \"\""));
    assert!(empty.contains("broker.ca_file: is empty"), "{empty}");
}

#[test]
fn a_secret_comes_from_the_file_that_the_environment_names() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("url");
    std::fs::write(&file, "amqp://worker:pw@broker:5672/%2f\n").expect("a file");
    let trial = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/trial.yaml");
    let url = |env: &Env| load(&trial, env).map(|pool| pool.broker.url.expose().to_owned());
    let named = ("AMQP_URL_FILE", file.display().to_string());
    let env = Env::from_iter([named.clone()]);
    assert_eq!(
        url(&env).expect("a good file"),
        "amqp://worker:pw@broker:5672/%2f",
        "without the end of the line"
    );
    let both = Env::from_iter([named, ("AMQP_URL", "amqp://other:pw@broker/x".to_owned())]);
    assert_eq!(
        url(&both).expect("a good file"),
        "amqp://other:pw@broker/x",
        "the variable itself wins"
    );
    let gone = url(&Env::from_iter([("AMQP_URL_FILE", "/nowhere/url")]))
        .expect_err("no such file")
        .to_string();
    assert!(
        gone.contains("AMQP_URL_FILE (environment): names /nowhere/url"),
        "it names variable and file: {gone}"
    );
}

#[test]
fn the_environment_moves_a_provider() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/pool.yaml");
    let env = Env::from_iter([("POOL_OLLAMA_URL", "http://host.docker.internal:11434/v1/")]);
    let pool = load(&file, &env).expect("a good file");
    assert_eq!(
        pool.providers["ollama"].base_url, "http://host.docker.internal:11434/v1",
        "this one is elsewhere"
    );
    assert!(pool.providers["ollama"].free, "all else is as in the file");
    assert_eq!(
        pool.providers["openai"].base_url, "https://api.openai.com/v1",
        "others stay where they are"
    );
    let wrong = load(&file, &Env::from_iter([("POOL_OPENAI_URL", "here")]))
        .map(drop)
        .expect_err("no URL")
        .to_string();
    assert!(
        wrong.contains("POOL_OPENAI_URL (environment): \"here\" is not a valid URL"),
        "it names the variable: {wrong}"
    );
}

#[test]
fn a_file_that_is_not_there_is_a_mistake_that_says_how_to_name_another() {
    let mistakes = load(Path::new("/nowhere/pool.yaml"), &Env::empty())
        .expect_err("no such file")
        .to_string();
    assert!(
        mistakes.starts_with("/nowhere/pool.yaml: cannot be read"),
        "it names the file: {mistakes}"
    );
    assert!(
        mistakes.contains("--pool FILE"),
        "and the way out: {mistakes}"
    );
}

#[test]
fn the_sample_files_are_good_and_the_trial_has_the_same_programmers_on_this_machine() {
    let sample = |name: &str| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../config")
            .join(name);
        load(&file, &Env::empty())
            .unwrap_or_else(|mistakes| panic!("a sample file must be good, but:\n{mistakes}"))
    };
    let (real, trial) = (sample("pool.yaml"), sample("trial.yaml"));
    assert_eq!(
        sample("trial-chaos.yaml").programmers.len(),
        10,
        "and so has the trial of outages"
    );
    let who = |pool: &Pool| -> Vec<_> {
        pool.programmers
            .iter()
            .map(|p| (p.id.clone(), p.port, p.llms.clone(), p.capabilities.clone()))
            .collect()
    };
    assert_eq!(real.programmers.len(), 10, "ten programmers");
    assert_eq!(who(&real), who(&trial), "the same programmers");
    assert_eq!(real.prices, trial.prices, "the same prices");
    for llm in trial
        .programmers
        .iter()
        .flat_map(|programmer| &programmer.llms)
    {
        let provider = &trial.providers[llm.provider()];
        assert_eq!(
            provider.base_url, "http://127.0.0.1:6190/v1",
            "{llm} is scripted in the trial"
        );
        assert_eq!(
            provider.api_key_env, None,
            "{llm} needs no key in the trial"
        );
        assert_eq!(
            real.is_free(llm),
            trial.is_free(llm),
            "{llm} is as free as the real one"
        );
    }
}

#[test]
fn nothing_limits_a_queue_unless_the_file_says_so() {
    let limit = |text: &str| {
        pool(&format!("{ONE}{text}"))
            .load_balancing
            .max_queue_per_programmer
    };
    assert_eq!(limit(""), None, "no section");
    assert_eq!(
        limit("load_balancing: {strategy: least_loaded}\n"),
        None,
        "a section without the key"
    );
    assert_eq!(
        limit("load_balancing: {max_queue_per_programmer: 5}\n"),
        Some(5),
        "a file that says 5 keeps it"
    );
    assert!(
        read(&format!(
            "{ONE}load_balancing: {{max_queue_per_programmer: 0}}\n"
        ))
        .is_err(),
        "0 is no limit to work with"
    );
    for name in ["pool.yaml", "trial.yaml", "trial-chaos.yaml"] {
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../config")
            .join(name);
        let sample = load(&file, &Env::empty()).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(
            sample.load_balancing.max_queue_per_programmer, None,
            "{name}"
        );
    }
}

#[test]
fn what_the_sample_file_shows_as_defaults_are_the_defaults() {
    let text = std::fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/pool.yaml"),
    );
    let sample = pool(&text.expect("the sample file"));
    let plain = pool(ONE);
    let shown = |pool: &Pool| {
        format!(
            "{:#?}",
            (
                &pool.load_balancing,
                &pool.failover,
                &pool.cost,
                &pool.sandbox,
                &pool.acceptance,
                &pool.events
            )
        )
    };
    assert_eq!(
        shown(&sample),
        shown(&plain),
        "comments in the file say that these are the defaults"
    );
    assert_eq!(
        format!("{:#?}", sample.providers),
        format!("{:#?}", plain.providers),
        "the built-in providers"
    );
    // Each of these two overrides one limit.
    let defaults = &plain.programmers[0].limits;
    let local = JobLimits {
        context_limit: defaults.context_limit,
        ..sample.programmers[0].limits
    };
    let paid = JobLimits {
        max_cost: defaults.max_cost,
        ..sample.programmers[5].limits
    };
    assert_eq!(
        (&local, &paid),
        (defaults, defaults),
        "the limits of a task"
    );
}

#[test]
fn the_hash_tells_decisions_apart_and_ignores_places() {
    let hash = |text: &str| config_hash(&pool(text));
    let plain = hash(ONE);
    assert_eq!(plain.len(), 32, "16 bytes as hex: {plain}");
    for same in [
        "workspace: {dir: /elsewhere}",
        "broker: {url: \"amqp://x:y@z\"}",
        "dispatcher: {listen: \"127.0.0.1:7000\"}",
        "providers: {ollama: {base_url: \"http://10.0.0.1/v1\", free: true}}",
        "# a comment",
    ] {
        assert_eq!(
            hash(&format!("{ONE}{same}\n")),
            plain,
            "{same} decides nothing for the pool"
        );
    }
    for other in [
        "defaults: {timeout_s: 901}",
        "cost_optimization: {max_daily_spend_usd: 50.01}",
        "failover: {circuit_breaker: {cooldown_minutes: 6}}",
        "failover: {circuit_breaker: {failure_ratio: 0.25}}",
        "load_balancing: {strategy: capability_match}",
        "capability_routing: {fast: [\"001\"]}",
        "prices: {openai/x: {input_usd_per_mtok: 1, output_usd_per_mtok: 1}}",
        "providers: {openai: {free: true}}",
        "dispatcher: {max_attempts: 4}",
    ] {
        assert_ne!(
            hash(&format!("{ONE}{other}\n")),
            plain,
            "{other} decides for the whole pool"
        );
    }
    assert_eq!(
        plain, "422f3839edef745aa2b89c2bc5825b95",
        "the same in every process and every build of this version"
    );
}

#[test]
fn the_sections_for_other_agents_are_good_and_fill_in_what_they_need() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../config/agents");
    let last = |text: &str| Some(LastEvent::new(text));
    for (name, protocol, event) in [
        ("codex", "openai", r#"{"type": "turn.completed"}"#),
        ("claude", "anthropic", r#"{"type": "result"}"#),
    ] {
        let section =
            std::fs::read_to_string(directory.join(format!("{name}.yaml"))).expect("it is there");
        let pool = pool(&format!(
            "{ONE}providers: {{ollama: {{protocol: {protocol}}}}}\n{section}"
        ));
        let AgentKind::Command { argv, .. } = pool.agent.kind else {
            panic!("{name} is a command")
        };
        assert_eq!(argv[0], name, "a program of the PATH");
        for placeholder in ["{prompt}", "{files}", "{model}"] {
            assert!(
                argv.iter().any(|word| word.contains(placeholder)),
                "{name}: {placeholder}"
            );
        }
        assert!(
            section.contains(&format!("protocol: {protocol}`")),
            "{name}: says which protocol it needs"
        );
        assert_eq!(
            pool.agent.done_when,
            last(event),
            "{name}: what it prints last"
        );
        assert!(
            matches!(pool.agent.done_when, Some(LastEvent::Fields(_))),
            "{name}: a line in JSON"
        );
        let (silence, limits) = (pool.agent.no_output_timeout, &pool.programmers[0].limits);
        assert!(
            silence.as_secs() >= 300,
            "{name}: a step that only waits is not taken for the end"
        );
        assert!(
            silence * 2 < limits.agent_timeout,
            "{name}: silence ends it before its time does"
        );
        assert!(
            limits.agent_timeout * 2 < limits.timeout,
            "{name}: there is time for a repair"
        );
    }
}

#[test]
fn an_anthropic_provider_may_be_written_with_and_without_v1() {
    let urls = ["http://h", "http://h/", "http://h/v1", "http://h/v1/", "http://h/anthropic"].map(|url| {
        let text = |protocol| {
            format!(
                "{ONE}providers: {{ollama: {{base_url: \"{url}\", protocol: {protocol}}}}}\nagent: {{kind: noop}}\n"
            )
        };
        ["anthropic", "openai"].map(|protocol| pool(&text(protocol)).providers["ollama"].versioned_url().into_owned())
    });
    let expected = [
        ["http://h/v1", "http://h"],
        ["http://h/v1", "http://h"],
        ["http://h/v1", "http://h/v1"],
        ["http://h/v1", "http://h/v1"],
        ["http://h/anthropic/v1", "http://h/anthropic"],
    ];
    assert_eq!(
        urls, expected,
        "Anthropic's clients may leave it out; for others it stays as it is"
    );
}
