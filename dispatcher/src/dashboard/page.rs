//! `GET /`: the page in one document. Its style and script are inline and allowed by their hashes;
//! nothing else is allowed.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = concat!(
    include_str!("page/base.css"),
    include_str!("page/parts.css")
);
/// One script: the files share one scope, in this order.
const SCRIPT: &str = concat!(
    "\"use strict\";\n",
    include_str!("page/dom.js"),
    include_str!("page/api.js"),
    include_str!("page/actions.js"),
    include_str!("page/pool.js"),
    include_str!("page/tasks.js"),
    include_str!("page/task.js"),
    include_str!("page/budget.js"),
    include_str!("page/report.js"),
    include_str!("page/dead.js"),
    include_str!("page/checks.js"),
    include_str!("page/submit.js"),
    include_str!("page/main.js"),
);

static PAGE: LazyLock<String> = LazyLock::new(|| {
    HTML.replacen("{{style}}", STYLE, 1)
        .replacen("{{script}}", SCRIPT, 1)
});

/// Allows only this page's own script and style, and requests to this dispatcher. Trusted types
/// make the browser refuse every way in which a text could become markup.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hash(SCRIPT),
        hash(STYLE)
    )
});

fn hash(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(Sha256::digest(text)))
}

pub async fn page() -> Response {
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY.as_str()),
        (header::CACHE_CONTROL, "no-cache"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Html(PAGE.as_str())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_style_and_script_as_their_hashes_say() {
        let between = |start: &str, end: &str| {
            let (_, rest) = PAGE.split_once(start).expect("the beginning");
            rest.split_once(end).expect("the end").0
        };
        assert!(
            POLICY.contains(&hash(between("<style>", "</style>"))),
            "the style as the browser reads it"
        );
        assert!(
            POLICY.contains(&hash(between("<script>", "</script>"))),
            "the script as the browser reads it"
        );
        assert!(!SCRIPT.contains("innerHTML"), "no text becomes markup");
        assert!(!PAGE.contains("{{"), "nothing is left to fill in");
    }
}
