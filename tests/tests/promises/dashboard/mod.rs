//! The dashboard in a real browser. It shows what the API says and does what the API does. Texts of
//! tasks, agents and files never become markup.

mod acts;
mod events;
mod form;
mod gone;
mod many;
mod output;
mod safe;
mod shows;
mod token;
mod views;

use serde_json::{Value, json};

use crate::support::{Browser, Pool};

/// The page of this pool, loaded with its state.
pub(crate) async fn open(pool: &Pool) -> Browser {
    let browser = Browser::start(&pool.path().join("logs")).await;
    go(&browser, pool, "").await;
    browser
}

/// Loads another view of the page.
pub(crate) async fn go(browser: &Browser, pool: &Pool, place: &str) {
    browser
        .open(&format!("{}/#/{place}", pool.url().trim_end()))
        .await;
    is_live(browser).await;
}

async fn is_live(browser: &Browser) {
    browser
        .until(
            "the page is live",
            r##"document.querySelector("#connection").dataset.state === "live""##,
        )
        .await;
}

/// The texts of all visible elements.
async fn texts(browser: &Browser, css: &str) -> Vec<String> {
    let script = format!(
        "return [...document.querySelectorAll({})].filter((one) => one.offsetParent).map((one) => one.innerText.trim())",
        json!(css)
    );
    let found = browser.script(&script).await;
    found
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(ToOwned::to_owned)
        .collect()
}
