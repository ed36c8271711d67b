//! The mistakes that are refused, and the words of each message.

use proptest::proptest;

use super::*;

/// `line: key: problem` of each mistake.
fn mistakes(text: &str) -> Vec<String> {
    let Err(mistakes) = read(text) else {
        panic!("the file must have a mistake:\n{text}")
    };
    let without_file = |mistake: &Mistake| mistake.to_string().replacen(&format!("{FILE}:"), "", 1);
    mistakes.all().iter().map(without_file).collect()
}

/// The section below a good pool of one programmer has exactly this one mistake.
fn assert_mistake(section: &str, expected: &str) {
    assert_eq!(
        mistakes(&format!("{ONE}{section}")),
        [expected],
        "the only mistake of {section:?}"
    );
}

#[test]
fn a_mistake_in_a_section_names_its_line_its_key_and_what_would_be_right() {
    for (section, expected) in [
        (
            "pool_size: 2",
            "3: pool_size: 2 does not match the list of programmers: write 1, or correct the list",
        ),
        (
            "pool_sise: 1",
            "3: pool_sise: unknown key: did you mean `pool_size`?",
        ),
        (
            "defaults:\n  timeout_s: 0",
            "4: defaults.timeout_s: 0 is out of range: write 1 to 86400 seconds",
        ),
        (
            "defaults: {timeout_s: 15m}",
            "3: defaults.timeout_s: \"15m\" is not valid: write a whole number, 0 or more",
        ),
        (
            "defaults: {max_tokens_per_job: 0}",
            "3: defaults.max_tokens_per_job: 0 is too small: write at least 1 token",
        ),
        (
            "defaults: {auto_commit: 1}",
            "3: defaults.auto_commit: 1 is not valid: write true or false",
        ),
        (
            "defaults: {max_cost_per_job_usd: -1}",
            "3: defaults.max_cost_per_job_usd: \"-1\" is not an amount: write dollars with at most 6 places, \
             for example 2.50",
        ),
        (
            "load_balancing: {strategy: round_robbin}",
            "3: load_balancing.strategy: \"round_robbin\" is not valid: did you mean `round_robin`?",
        ),
        (
            "load_balancing: {spill_to_paid_after: 1d}",
            "3: load_balancing.spill_to_paid_after: \"1d\" is not valid: write seconds, or a time such as 30s, 5m or \
             1h",
        ),
        (
            "load_balancing:\n  health_check_interval_s: 0",
            "4: load_balancing.health_check_interval_s: 0 is out of range: write 1 to 86400 seconds",
        ),
        (
            "sandbox: {read: [/]}",
            "3: sandbox.read[0]: is the root of the file system: write a path below it",
        ),
        (
            "failover: {call_timeout_s: 0}",
            "3: failover.call_timeout_s: 0 is out of range: write 1 to 86400 seconds",
        ),
        (
            "failover: {failure_conditions: [timeout, ratelimit]}",
            "3: failover.failure_conditions[1]: \"ratelimit\" is not valid: did you mean `rate_limit`?",
        ),
        (
            "failover:\n  circuit_breaker:\n    window_minutes: 0",
            "5: failover.circuit_breaker.window_minutes: 0 is out of range: write 1 to 1440 minutes",
        ),
        (
            "failover: {circuit_breaker: {failure_threshold: 0}}",
            "3: failover.circuit_breaker.failure_threshold: 0 is too small: write at least 1 failure",
        ),
        (
            "failover: {circuit_breaker: {failure_ratio: 50}}",
            "3: failover.circuit_breaker.failure_ratio: 50 is out of range: write 0 to 1, for example 0.5",
        ),
        (
            "failover: {circuit_breaker: {failure_ratio: .nan}}",
            "3: failover.circuit_breaker.failure_ratio: NaN is out of range: write 0 to 1, for example 0.5",
        ),
        (
            "cost_optimization:\n  max_daily_spend_usd: 10\n  alert_threshold_usd: 10.01",
            "5: cost_optimization.alert_threshold_usd: 10.01 is above max_daily_spend_usd (10.00): write at most 10.00",
        ),
        (
            "capability_routing:\n  fast:\n    - \"001\"\n    - \"01\"",
            "6: capability_routing.fast[1]: programmer \"01\" is not in the list: did you mean `001`?",
        ),
        (
            "events: {max_age: 7 days}",
            "3: events.max_age: \"7 days\" is not a duration in the form of RabbitMQ: write for example 7D, 12h or 1Y",
        ),
        (
            "events: {tick_s: 15}",
            "3: events.stale_s: 20 is too short for ticks every 15 s: write at least 30",
        ),
        (
            "acceptance: {timeout_s: 100000}",
            "3: acceptance.timeout_s: 100000 is out of range: write 1 to 86400 seconds",
        ),
        (
            "sandbox: {level: fils}",
            "3: sandbox.level: \"fils\" is not valid: did you mean `files`?",
        ),
        (
            "sandbox: {max_output_kib: 0}",
            "3: sandbox.max_output_kib: 0 is out of range: write 1 to 65536 KiB",
        ),
        (
            "workspace: {dir: ~/work}",
            "3: workspace.dir: \"~/work\" begins with ~, which only a shell understands: write the whole path",
        ),
        (
            "workspace:\n  roots: [a, /]",
            "4: workspace.roots[1]: is the root of the file system: write a path below it",
        ),
        (
            "dispatcher: {listen: 6141}",
            "3: dispatcher.listen: 6141 is not a text: write it in quotes",
        ),
        (
            "dispatcher: {listen: localhost}",
            "3: dispatcher.listen: \"localhost\" is not an address with a port: write for example 127.0.0.1:6141",
        ),
        (
            "agent: {kind: command}",
            "3: agent.command: is missing: `kind: command` needs a list of a program and its arguments",
        ),
        (
            "agent: {done_when: x}",
            "3: agent.done_when: is used by `kind: command` only: set the kind, or remove it",
        ),
        (
            "agent: {kind: command, command: [x], done_when: \"{}\"}",
            "3: agent.done_when: matches every line: write a text of the last line that the agent prints",
        ),
        (
            "agent: {env: {A: b}}",
            "3: agent.env: is used by `kind: command` only: set the kind, or remove it",
        ),
        (
            "agent: {kind: command, command: [x], env: {\"A-B\": c}}",
            "3: agent.env.A-B: is not a name of an environment variable: write for example LANG",
        ),
        (
            "agent: {kind: command, command: [x], env: {A: \"{tokn}\"}}",
            "3: agent.env.A: {tokn} is not filled in: did you mean {token}?",
        ),
        (
            "agent: {command: [x]}",
            "3: agent.command: is used by `kind: command` only: set the kind, or remove it",
        ),
        (
            "agent: {kind: command, command: [x, \"{promptfile}\"]}",
            "3: agent.command[1]: {promptfile} is not filled in: did you mean {prompt_file}?",
        ),
        (
            "agent: {edit_format: dif}",
            "3: agent.edit_format: \"dif\" is not valid: did you mean `diff`?",
        ),
        (
            "agent: {env_allow: [LANG, OPENAI_API_KEY]}",
            "3: agent.env_allow[1]: OPENAI_API_KEY is a secret that no agent may see: remove it",
        ),
        (
            "providers: {mine: {free: true}}",
            "3: providers.mine.base_url: is missing: write for example http://127.0.0.1:11434/v1",
        ),
        (
            "providers: {ollama: {max_concurrent: 0}}",
            "3: providers.ollama.max_concurrent: 0 lets no call pass: write at least 1, or leave it out for no limit",
        ),
        (
            "providers: {openai: {api_key_env: sk-123}}",
            "3: providers.openai.api_key_env: is not a name of an environment variable: write for example OPENAI_API_KEY, \
             never the key itself",
        ),
        (
            "providers: {ollama: {protocol: anthropic}}\nagent: {kind: noop}\n\
             prices: {ollama/a: {input_usd_per_mtok: 1}}",
            "5: prices.ollama/a.output_usd_per_mtok: is missing: write US dollars per million tokens, for example 2.50",
        ),
        (
            "events: {tick_s: }",
            "3: events.tick_s: has no value: give it one, or remove the key",
        ),
    ] {
        assert_mistake(section, expected);
    }
}

#[test]
fn a_mistake_in_a_programmer_names_its_line_its_key_and_what_would_be_right() {
    for (programmer, expected) in [
        (
            "{primary_llm: ollama/a}",
            "3: programmers[1].id: is missing: give every programmer an id in quotes, for example \"001\"",
        ),
        (
            "{id: \"002\"}",
            "3: programmers[1].primary_llm: is missing: write provider/model, for example openai/gpt-4o-mini",
        ),
        (
            "{id: 2, primary_llm: ollama/a}",
            "3: programmers[1].id: 2 is not a text: write it in quotes",
        ),
        (
            "{id: \"002\", primary_llm: gpt-4o}",
            "3: programmers[1].primary_llm: LLM \"gpt-4o\" is not valid: write `provider/model`, for example \
             ollama/qwen2.5-coder:7b-instruct",
        ),
        (
            "{id: \"001\", primary_llm: ollama/a}",
            "3: programmers[1].id: \"001\" is taken by the programmer in line 2: ids are unique",
        ),
        (
            "{id: x, primary_llm: ollama/a, port: 70000}",
            "3: programmers[1].port: 70000 is not valid: write a whole number from 0 to 65535",
        ),
        (
            "{id: x, primary_llm: ollama/a, port: 80}",
            "3: programmers[1].port: 80 needs root: write a port from 1024 to 65535, or 0 for any free one",
        ),
        (
            "{id: \"1\", primary_llm: ollama/a}",
            "3: programmers[1].port: 6151 is the port of 001 in line 2: ports are unique",
        ),
        (
            "{id: x, primary_llm: ollama/a, port: 6141}",
            "3: programmers[1].port: 6141 is the port of dispatcher.listen: write another one",
        ),
        (
            "{id: x, primary_llm: ollama/a, port: 6199}",
            "3: programmers[1].port: 6199 is reserved for programmer 049: write 0 (any free one), or another port",
        ),
        (
            "{id: \"003\", primary_llm: ollama/a, port: 6152}",
            "3: programmers[1].port: 6152 is reserved for programmer 002: write 6153, or another port",
        ),
        (
            "{id: x, primary_llm: ollama/a, backup_llm: ollama/a}",
            "3: programmers[1].backup_llm: ollama/a is already the primary LLM: write another LLM, or remove it",
        ),
        (
            "{id: x, primary_llm: ollama/a, backup_llm: [ollama/b, ollama/b]}",
            "3: programmers[1].backup_llm[1]: ollama/b is listed twice: write another LLM, or remove it",
        ),
        (
            "{id: x, primary_llm: ollama/a, backup_llm: 5}",
            "3: programmers[1].backup_llm: 5 is not valid: write provider/model, or a list of them",
        ),
        (
            "{id: x, primary_llm: olama/a}",
            "3: programmers[1].primary_llm: olama/a: providers has no entry `olama`: did you mean \
             `ollama`? (or add it there)",
        ),
        (
            "{id: x, primary_llm: openai/a}",
            "3: programmers[1].primary_llm: openai/a costs money and has no price: add it to prices, \
             or set providers.openai.free to true",
        ),
        (
            "{id: x, primary_llm: ollama/a, timeout_s: 0}",
            "3: programmers[1].timeout_s: 0 is out of range: write 1 to 86400 seconds",
        ),
        (
            "{id: x, primary_llm: ollama/a, capabilities: [a,b,c,d,e,f,g,h,i]}",
            "3: programmers[1].capabilities: x offers 9, capability_routing included: at most 8 are possible",
        ),
        (
            "{id: x, primary_llm: ollama/a, capabilities: [ok, Fast]}",
            "3: programmers[1].capabilities[1]: capability \"Fast\" is not valid: write 1 to 32 characters of \
             a-z 0-9 _ -, beginning with a letter or digit; not the word `any`",
        ),
        (
            "just-a-word",
            "3: programmers[1]: \"just-a-word\" is not valid: write a mapping, one `key: value` a line",
        ),
    ] {
        assert_eq!(
            mistakes(&format!("{ONE}  - {programmer}\n")),
            [expected],
            "the only mistake of {programmer}"
        );
    }
}

#[test]
fn all_mistakes_are_reported_at_once_in_the_order_of_their_lines() {
    let text = r#"pool_size: 3
defaults: {timeout_s: 0, contxt_limit: 5}
programmers:
  - {id: "001", primary_llm: "gpt-4o", capabilities: [Fast, local, any]}
  - id: "002"
    primary_llm: openai/gpt-4o
    max_cost_per_job_usd: 9
  - oops
  - {id: "004", primary_llm: ollama/x, prot: 1}
cost_optimization: {max_daily_spend_usd: 1, alert_threshold_usd: 2}
broker: {url: "http://guest:secret@x"}
"#;
    let found: Vec<String> = mistakes(text)
        .iter()
        .map(|mistake| {
            mistake
                .splitn(3, ": ")
                .take(2)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    let expected = [
        "1 pool_size",
        "2 defaults.contxt_limit",
        "2 defaults.timeout_s",
        "4 programmers[0].primary_llm",
        "4 programmers[0].capabilities[0]",
        "4 programmers[0].capabilities[2]",
        "6 programmers[1].primary_llm",
        "7 programmers[1].max_cost_per_job_usd",
        "8 programmers[2]",
        "9 programmers[3].prot",
        "10 cost_optimization.alert_threshold_usd",
        "11 broker.url",
    ];
    assert_eq!(
        found, expected,
        "every mistake, with the place as written, whatever else is wrong"
    );
}

#[test]
fn a_file_that_is_no_pool_is_explained() {
    for (text, expected) in [
        (
            "",
            " is empty: a pool file needs at least `programmers`".to_owned(),
        ),
        (
            "- a\n",
            "1: is not a pool file: write `key: value` lines, beginning with `programmers:`"
                .to_owned(),
        ),
        (
            "{}",
            "1: programmers: is empty: a pool needs at least one programmer".to_owned(),
        ),
        (
            "programmers: []",
            "1: programmers: is empty: a pool needs at least one programmer".to_owned(),
        ),
        (
            "pool_size: 1\npool_size: 2\n",
            "2: pool_size: is given twice: keep one of the two".to_owned(),
        ),
    ] {
        assert_eq!(mistakes(text), [expected], "{text:?}");
    }
    let broken = mistakes("a: 1\nb: [1,\nc: 2\n");
    assert!(
        broken.len() == 1 && broken[0].contains("is not valid YAML"),
        "a syntax error comes alone: {broken:?}"
    );
    assert!(
        broken[0].starts_with(|c: char| c.is_ascii_digit()),
        "and has a line: {broken:?}"
    );
}

#[test]
fn a_password_in_a_wrong_url_is_not_repeated() {
    let shown = mistakes(&format!(
        "{ONE}broker: {{url: \"http://guest:hunter2@x\"}}\n"
    ))
    .join("\n");
    assert!(
        shown.contains("broker.url") && !shown.contains("hunter2"),
        "the mistake names the key only: {shown}"
    );
    let shown = mistakes(&format!(
        "{ONE}providers: {{ollama: {{base_url: \"http://me:hunter2@x/v1\"}}}}\n"
    ))
    .join("\n");
    assert!(
        shown.contains("base_url") && !shown.contains("hunter2"),
        "the same for a provider: {shown}"
    );
    assert!(
        !format!("{:?}", pool(ONE).broker).contains("guest"),
        "nor does Debug show it"
    );
}

/// Something like a line of YAML.
const LINE: &str =
    "[ -]{0,4}(programmers|id|prices|[a-z]{1,3}|<<)?(: ?)?[\\[{&*!]?[a-z0-9,\\]}]{0,6}";

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(
        lines in proptest::collection::vec(LINE, 0..8)
    ) {
        // The result does not matter; that there is one does.
        let _ = read(&lines.join("\n"));
    }
}
