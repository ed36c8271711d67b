use std::path::Path;

use super::*;

fn args(pool: &Path, json: bool) -> CheckArgs {
    let format = if json { Format::Json } else { Format::Table };
    CheckArgs {
        file: PoolFileArgs {
            pool: pool.to_owned(),
        },
        llms: false,
        output: FormatArgs { format },
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/pool.yaml")
}

#[tokio::test]
async fn a_good_file_is_shown_with_its_programmers_and_routes() {
    let (verdict, text) = report(&args(&sample(), false), &Env::empty()).await;
    assert_eq!(
        verdict,
        CheckResult::Good,
        "the sample file is valid:\n{text}"
    );
    for word in [
        "001-005 6151-6155 ollama/qwen2.5-coder:7b-instruct",
        "tasks.paid",
        "006-008 (3)",
        "$50.00 a day",
        "pool check --llms",
    ] {
        let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(squeezed.contains(word), "{word:?} must be shown:\n{text}");
    }
}

#[tokio::test]
async fn the_same_as_json_names_every_programmer_and_route() {
    let (_, text) = report(&args(&sample(), true), &Env::empty()).await;
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        shown["programmers"].as_array().map(Vec::len),
        Some(10),
        "programmers"
    );
    assert_eq!(shown["routes"].as_array().map(Vec::len), Some(7), "routes");
    assert_eq!(
        shown["programmers"][0]["llms"][0]["free"], true,
        "the first LLM is free"
    );
    assert_eq!(shown["routes"][0]["queue"], "tasks.any", "the first route");
}

#[tokio::test]
async fn mistakes_are_listed_and_decide_the_exit_status() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pool.yaml");
    std::fs::write(
        &file,
        "programmers:\n  - {id: \"001\", primary_llm: gpt-4o, prot: 1}\n",
    )
    .expect("a file");
    let (verdict, text) = report(&args(&file, false), &Env::empty()).await;
    assert_eq!(verdict, CheckResult::Mistakes, "it has mistakes");
    assert!(
        text.contains("pool.yaml:2: programmers[0].primary_llm: "),
        "the first mistake:\n{text}"
    );
    assert!(text.contains("2 mistakes"), "and their number:\n{text}");
    let (_, text) = report(&args(&file, true), &Env::empty()).await;
    let shown: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(shown["mistakes"][0]["line"], 2, "the same as JSON: {text}");
}

#[tokio::test]
async fn an_llm_without_its_key_makes_the_check_fail() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("pool.yaml");
    let text = "programmers: [{id: x, primary_llm: mine/m}]\n\
                providers: {mine: {base_url: \"http://127.0.0.1:9/v1\", api_key_env: MY_KEY, free: true}}\n";
    std::fs::write(&file, text).expect("a file");
    let (verdict, text) = report(
        &CheckArgs {
            llms: true,
            ..args(&file, false)
        },
        &Env::empty(),
    )
    .await;
    assert_eq!(verdict, CheckResult::LlmsMissing, "exit status 1");
    assert!(
        text.contains("key missing") && text.contains("0 of 1 LLMs"),
        "it says so:\n{text}"
    );
}

#[test]
fn neighbours_are_drawn_together() {
    for (words, shown) in [
        (vec!["001", "002", "003", "005"], "001-003, 005"),
        (vec!["009", "010"], "009-010"),
        (vec!["9", "10"], "9, 10"),
        (vec!["any", "any"], "any"),
        (vec!["a", "b"], "a, b"),
        (vec![], ""),
    ] {
        assert_eq!(
            ranges(words.iter().map(ToString::to_string)),
            shown,
            "{words:?}"
        );
    }
}
