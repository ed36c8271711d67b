//! Fifty usages as providers report them, priced by our code and by the library genai-prices. `scripts/prices` makes the
//! library's prices anew, together with the catalogue.

use std::collections::BTreeMap;

use pool_config::Catalogue;
use pool_core::price::{CacheWrites, UtcDay};
use serde::Deserialize;

use super::super::pricing::Tariff;
use super::super::protocol::Reported;
use super::*;

#[derive(Deserialize)]
struct Case {
    case: String,
    api: String,
    provider: String,
    model: String,
    /// The fields of the answer that the price depends on.
    answer: Value,
}

#[derive(Deserialize)]
struct LibraryPrices {
    day: UtcDay,
    /// Dollars with all places; None where the library has no price.
    dollars: BTreeMap<String, Option<String>>,
}

/// The cases in which we charge another price on purpose, in micro-dollars.
const DIFFERENT: [(&str, u64, &str); 6] = [
    (
        "anthropic: web search",
        9_315,
        "tools that the provider runs are refused in requests, and only warned of in answers",
    ),
    (
        "anthropic: iterations",
        1_127_500,
        "the parts of the call are summed; the library takes the last one",
    ),
    (
        "deepseek: all hit",
        73,
        "`prompt_cache_hit_tokens` counts also without OpenAI's field",
    ),
    (
        "gemini: thinking in the total only",
        3_009,
        "the provider bills the output that is only in the total",
    ),
    (
        "moonshot: cached beside",
        2_802,
        "`cached_tokens` beside the other counts is read",
    ),
    (
        "grok: reasoning in the total only",
        11_250,
        "the provider bills the output that is only in the total",
    ),
];

/// The library's price in micro-dollars, rounded up.
fn micro(dollars: &str) -> u64 {
    let (whole, places) = dollars.split_once('.').unwrap_or((dollars, ""));
    let (micro, rest) = places.split_at(places.len().min(6));
    let whole: u64 = whole.parse().expect("whole dollars");
    let micro: u64 = format!("{micro:0<6}").parse().expect("micro-dollars");
    whole * 1_000_000 + micro + u64::from(rest.bytes().any(|digit| digit != b'0'))
}

fn ours(case: &Case, catalogue: &Catalogue, day: UtcDay) -> u64 {
    let reported = match case.api.as_str() {
        "messages" => Reported::of_messages(&case.answer["usage"]),
        _openai => Reported::of_openai(case.answer.as_object().expect("an object")),
    };
    let reported = reported.unwrap_or_else(|| panic!("{}: the usage is read", case.case));
    let llm = LlmName::new(format!("{}/{}", case.provider, case.model)).expect("an LLM");
    let tariff = match catalogue.price(&llm, &provider("http://127.0.0.1/v1")) {
        Some(price) => Tariff::Paid(price.on(day)),
        None => Tariff::Free,
    };
    let tokens = super::super::charge::marked(reported, CacheWrites::Short);
    tariff.cost(reported.served, tokens).0
}

#[test]
fn usages_cost_what_the_library_says_but_for_the_differences_that_are_named() {
    let cases: Vec<Case> = serde_json::from_str(include_str!("corpus/usages.json")).expect("cases");
    let library: LibraryPrices =
        serde_json::from_str(include_str!("corpus/expected.json")).expect("prices");
    let catalogue = Catalogue::built_in().expect("a catalogue");
    assert_eq!((cases.len(), library.dollars.len()), (50, 50), "the corpus");
    let mut wrong = Vec::new();
    for case in &cases {
        let theirs = library.dollars[&case.case].as_deref().map_or(0, micro);
        let known = DIFFERENT.iter().find(|(name, ..)| *name == case.case);
        let expected = known.map_or(theirs, |(_, ours, _)| *ours);
        let ours = ours(case, &catalogue, library.day);
        if ours != expected || known.is_some_and(|_| ours == theirs) {
            wrong.push(format!(
                "{}: ours {ours}, expected {expected}, the library's {theirs}",
                case.case
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
