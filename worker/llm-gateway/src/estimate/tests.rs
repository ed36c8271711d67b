//! Compares the estimate with real tokenizers: OpenAI's two, which are a dependency of the tests.
//! The prices were chosen against those of seven vendors; see the module.

use std::sync::LazyLock;

use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::Value;
use tiktoken_rs::CoreBPE;

use super::*;

static O200K: LazyLock<CoreBPE> = LazyLock::new(|| tiktoken_rs::o200k_base().expect("o200k_base"));
static CL100K: LazyLock<CoreBPE> =
    LazyLock::new(|| tiktoken_rs::cl100k_base().expect("cl100k_base"));

fn real(text: &str) -> [u64; 2] {
    [&*O200K, &*CL100K].map(|tokenizer| tokenizer.encode_ordinary(text).len() as u64)
}

/// The estimates of the text as a JSON string, in both ways in which clients write it.
fn estimates(text: &str) -> [u64; 2] {
    let plain = Value::from(text).to_string();
    let escaped = plain.chars().map(|char| match char {
        char if char.is_ascii() => char.to_string(),
        char => char
            .encode_utf16(&mut [0; 2])
            .iter()
            .map(|unit| format!("\\u{unit:04x}"))
            .collect(),
    });
    [
        of_json(&plain).tokens,
        of_json(&escaped.collect::<String>()).tokens,
    ]
}

fn pick(random: &mut StdRng, alphabet: &str) -> char {
    let chars: Vec<char> = alphabet.chars().collect();
    *chars.choose(random).expect("an alphabet")
}

fn of_alphabet(alphabet: &str, length: usize, random: &mut StdRng) -> String {
    let chars: Vec<char> = alphabet.chars().collect();
    (0..length)
        .map(|_| chars.choose(random).expect("an alphabet"))
        .collect()
}

fn of_range(codes: std::ops::Range<u32>, length: usize, random: &mut StdRng) -> String {
    (0..length)
        .filter_map(|_| char::from_u32(random.random_range(codes.clone())))
        .collect()
}

/// Random sentences, up to a length.
fn shuffled(sentences: &[&str], length: usize, random: &mut StdRng) -> String {
    let mut text = String::new();
    while text.len() < length {
        text.push_str(sentences.choose(random).expect("a sentence"));
    }
    text
}

/// A random piece of a file.
fn piece(file: &str, length: usize, random: &mut StdRng) -> String {
    let chars: Vec<char> = file.chars().collect();
    let start = random.random_range(0..chars.len().saturating_sub(length).max(1));
    chars.iter().skip(start).take(length).collect()
}

const LETTERS: &str = "abcdefghijklmnopqrstuvwxyz";
const CAPITALS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
const BASE64: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const HEX: &str = "0123456789abcdef";
const EMOJI: &str = "😀😂👍🎉✅🚀🔥💡🐛👩‍💻🏳️‍🌈❤️🇩🇪🇯🇵";

const ENGLISH: [&str; 2] = [
    include_str!("../../../../docs/guide/llm-failures.md"),
    include_str!("../../../../docs/guide/agents.md"),
];
const CODE: [&str; 6] = [
    include_str!("../gateway.rs"),
    include_str!("../session.rs"),
    include_str!("../../../../scripts/lib/chaos.py"),
    include_str!("../../../../scripts/lib/check_trial.py"),
    include_str!("../../../../dispatcher/src/dashboard/page/dom.js"),
    include_str!("../../../../dispatcher/src/dashboard/page/task.js"),
];
const CHINESE: [&str; 3] = [
    "请修复这个函数，并为它编写测试。",
    "如果连接断开，工作进程会把任务交还给队列；",
    "模型的价格以百万个词元计算，预算每天重置一次。\n",
];
const JAPANESE: [&str; 3] = [
    "この関数を修正して、テストを書いてください。",
    "接続が切れた場合、タスクはキューに戻されます。",
    "モデルの料金はトークン数で計算します。\n",
];
const KOREAN: [&str; 3] = [
    "이 함수를 고치고 테스트를 작성해 주세요. ",
    "연결이 끊어지면 작업은 대기열로 돌아갑니다. ",
    "모델 요금은 토큰 수로 계산됩니다.\n",
];
const RUSSIAN: [&str; 3] = [
    "Исправь эту функцию и напиши для неё тесты. ",
    "Если соединение прервётся, задача вернётся в очередь. ",
    "Стоимость модели считается по числу токенов.\n",
];
const ARABIC: [&str; 2] = [
    "أصلح هذه الدالة واكتب لها اختبارات. ",
    "إذا انقطع الاتصال تعود المهمة إلى قائمة الانتظار.\n",
];
const HINDI: [&str; 2] = [
    "इस फ़ंक्शन को ठीक करें और इसके लिए परीक्षण लिखें। ",
    "कनेक्शन टूटने पर कार्य कतार में लौट जाता है।\n",
];
const THAI: [&str; 2] = [
    "แก้ไขฟังก์ชันนี้และเขียนการทดสอบให้ด้วย ",
    "ถ้าการเชื่อมต่อขาด งานจะกลับเข้าคิว\n",
];
const GREEK_HEBREW: [&str; 2] = [
    "Διόρθωσε αυτή τη συνάρτηση και γράψε δοκιμές. ",
    "תקן את הפונקציה הזאת וכתוב לה בדיקות.\n",
];
const LATIN: [&str; 4] = [
    "Korjaa tämä funktio ja kirjoita sille testit. ",
    "Wenn die Verbindung abbricht, geht die Aufgabe in die Warteschlange zurück. ",
    "Popraw tę funkcję i napisz do niej testy. ",
    "Bu işlevi düzelt ve onun için testler yaz.\n",
];
const MINIFIED: [&str; 5] = [
    "!function(e,t){\"object\"==typeof exports?module.exports=t():e.$=t()}(this,function(){",
    "var n=[],r=function(e){return e&&e.a?e.b:null},o=0;for(;o<n.length;o++)n[o]^=r(n)|0;",
    "if(void 0!==a.q[t])return a.q[t].c;const{x:u,y:s}=i(e,t,1e3);l=u>s?-1:1,",
    "Object.defineProperty(d,\"__esModule\",{value:!0}),d.k=w;try{h(p)}catch(z){}",
    "return(t=t||{}).m=m,f((g=e)?\"#\"+v[g]:y,j,!1,[\"a\",\"b\"])});",
];

type Kind = (&'static str, fn(usize, &mut StdRng) -> String);

const KINDS: [Kind; 33] = [
    ("English", |n, r| piece(ENGLISH[n % 2], n, r)),
    ("code", |n, r| piece(CODE[n % 6], n, r)),
    ("English in capitals", |n, r| {
        piece(ENGLISH[n % 2], n, r).to_uppercase()
    }),
    ("camel case", |n, r| {
        piece(CODE[n % 6], n, r)
            .split(|c: char| !c.is_alphanumeric())
            .map(capitalized)
            .collect()
    }),
    ("minified JavaScript", |n, r| shuffled(&MINIFIED, n, r)),
    ("base64", |n, r| of_alphabet(BASE64, n, r)),
    ("base64 in lines", |n, r| {
        (0..n / 77)
            .map(|_| of_alphabet(BASE64, 76, r) + "\n")
            .collect()
    }),
    ("hex", |n, r| of_alphabet(HEX, n, r)),
    ("hex in capitals", |n, r| {
        of_alphabet(HEX, n, r).to_uppercase()
    }),
    ("UUIDs", |n, r| {
        (0..n / 37)
            .map(|_| [8, 4, 4, 4, 12].map(|k| of_alphabet(HEX, k, r)).join("-") + "\n")
            .collect()
    }),
    ("hashes in a list", |n, r| {
        (0..n / 50)
            .map(|_| format!("{}  file{}\n", of_alphabet(HEX, 40, r), n))
            .collect()
    }),
    ("Chinese", |n, r| shuffled(&CHINESE, n, r)),
    ("Japanese", |n, r| shuffled(&JAPANESE, n, r)),
    ("Korean", |n, r| shuffled(&KOREAN, n, r)),
    ("Russian", |n, r| shuffled(&RUSSIAN, n, r)),
    ("Arabic", |n, r| shuffled(&ARABIC, n, r)),
    ("Hindi", |n, r| shuffled(&HINDI, n, r)),
    ("Thai", |n, r| shuffled(&THAI, n, r)),
    ("Greek and Hebrew", |n, r| shuffled(&GREEK_HEBREW, n, r)),
    ("Latin letters beyond English", |n, r| {
        shuffled(&LATIN, n, r)
    }),
    ("emoji", |n, r| of_alphabet(EMOJI, n / 4, r)),
    ("random ASCII", |n, r| of_range(32..127, n, r)),
    ("random letters", |n, r| of_alphabet(LETTERS, n, r)),
    ("random words", |n, r| words(LETTERS, n, r)),
    ("random words in capitals", |n, r| words(CAPITALS, n, r)),
    ("syllables", |n, r| {
        (0..n / 2)
            .flat_map(|_| [pick(r, "bdfgklmnprst"), pick(r, "aeiou ")])
            .collect()
    }),
    ("random Unicode", |n, r| of_range(0xA0..0x2_FFFF, n / 3, r)),
    ("random Chinese characters", |n, r| {
        of_range(0x4E00..0x9FA0, n / 3, r)
    }),
    ("numbers in a table", |n, r| {
        (0..n / 8)
            .map(|_| format!("{}.{},", r.random::<u16>(), r.random::<u8>()))
            .collect()
    }),
    ("digits", |n, r| of_alphabet("0123456789", n, r)),
    ("whitespace", |n, r| {
        (0..n / 4)
            .map(|_| pick(r, " \t\n\r").to_string().repeat(r.random_range(1..9)))
            .collect()
    }),
    ("JSON within JSON", |n, r| {
        Value::from(Value::from(piece(CODE[n % 6], n, r)).to_string()).to_string()
    }),
    ("a log with ANSI colours", |n, r| {
        let line = |r: &mut StdRng| {
            let (colour, step) = (r.random_range(30..38), r.random::<u16>());
            format!(
                "\u{1b}[{colour};1m[INFO]\u{1b}[0m {step} \u{1b}[38;5;{colour}mstep {step}\u{1b}[K\r\n"
            )
        };
        (0..n / 50).map(|_| line(r)).collect()
    }),
];

fn capitalized(word: &str) -> String {
    let mut chars = word.chars();
    chars
        .next()
        .map(|first| first.to_ascii_uppercase().to_string() + chars.as_str())
        .unwrap_or_default()
}

fn words(alphabet: &str, length: usize, random: &mut StdRng) -> String {
    (0..length / 6)
        .map(|_| of_alphabet(alphabet, random.random_range(1..9), random) + " ")
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    #[test]
    fn no_kind_of_text_has_more_tokens_than_estimated(seed in any::<u64>(), length in 100usize..2500) {
        for (kind, text) in KINDS {
            let text = text(length, &mut StdRng::seed_from_u64(seed));
            for (estimate, real) in estimates(&text).into_iter().flat_map(|one| real(&text).map(|real| (one, real))) {
                prop_assert!(estimate >= real, "{kind} of {}: {estimate} for {real}: {text:?}", text.len());
            }
        }
    }

    #[test]
    fn no_text_at_all_has_more_tokens_than_bytes(text in any::<String>()) {
        let json = Value::from(text.as_str()).to_string();
        let Estimate { tokens, bytes } = of_json(&json);
        prop_assert_eq!(bytes, text.len() as u64 + 2, "the text and its quotes");
        prop_assert!(tokens <= bytes, "{tokens} of {bytes}");
        prop_assert!(real(&text).into_iter().all(|real| real <= tokens), "{text:?}: {tokens} for {:?}", real(&text));
    }
}

#[test]
fn english_and_code_are_estimated_at_less_than_twice_their_tokens() {
    for file in ENGLISH.into_iter().chain(CODE) {
        let least = real(file).into_iter().min().expect("two tokenizers");
        for estimate in estimates(file) {
            assert!(
                estimate <= 2 * least,
                "{estimate} for {least}: {}",
                &file[..80]
            );
        }
    }
}

#[test]
fn escapes_count_as_what_they_stand_for() {
    for (json, text) in [
        (r#""\n\t\r\"\\\/""#, "\n\t\r\"\\/"),
        (r#""\u0041\u00e9\u4f60""#, "Aé你"),
        (r#""\ud83d\ude00x""#, "😀x"),
        (r#""\ud83dx""#, "\u{fffd}x"),
        (r#""\ude00\ud83d\n""#, "\u{fffd}\u{fffd}\n"),
    ] {
        assert_eq!(of_json(json).bytes, text.len() as u64 + 2, "{json}");
        let plain: String = text
            .chars()
            .filter(|char| *char != '"' && *char != '\\' && *char != '\n')
            .collect();
        assert!(
            of_json(json).tokens >= of_json(&plain).tokens,
            "{json}: at least the text that it stands for"
        );
    }
    assert_eq!(of_json("{\"a\\").bytes, 4, "a text that breaks off");
}
