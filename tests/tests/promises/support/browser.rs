//! A real browser: Chromium without a window, driven over WebDriver with clicks and keys, as a
//! person would.
//!
//! The protocol is HTTP with JSON and a test needs a dozen of its commands, so there is no client
//! library.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::api::http;
use super::{SOON, eventually};

/// The key of an element in WebDriver's answers.
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// Dropping it ends the driver and the browser.
pub(crate) struct Browser {
    driver: Child,
    session: String,
    client: reqwest::Client,
}

impl Browser {
    /// Starts a browser. The output of its driver goes into this directory.
    pub(crate) async fn start(logs: &Path) -> Self {
        let log = logs.join("chromedriver.log");
        let file = std::fs::File::create(&log).expect("a log file");
        // The driver gets its own process group, and the kernel ends it with the thread that
        // started it.
        let mut driver = Command::new("setpriv");
        driver
            .args(["--pdeathsig", "KILL", "--", "chromedriver", "--port=0"])
            .process_group(0);
        driver
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file);
        let driver = driver.spawn().expect("setpriv runs");
        let mut browser = Self {
            driver,
            session: String::new(),
            client: http(),
        };
        let port = eventually(
            "chromedriver listens (install chromium-driver)",
            SOON,
            async || {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let (_, rest) = said.split_once("started successfully on port ")?;
                rest.split_once('.').map(|(port, _)| port.to_owned())
            },
        );
        let url = format!("http://127.0.0.1:{}", port.await);
        // With a pipe instead of a port the browser ends with its driver. In a container it runs as
        // root.
        let mut arguments = vec![
            "--headless=new",
            "--remote-debugging-pipe",
            "--disable-dev-shm-usage",
            "--disable-gpu",
        ];
        if nix::unistd::geteuid().is_root() {
            arguments.push("--no-sandbox");
        }
        let wanted = json!({"goog:chromeOptions": {"args": arguments}, "goog:loggingPrefs": {"browser": "ALL"}});
        let body = json!({"capabilities": {"alwaysMatch": wanted}});
        let answer = browser
            .client
            .post(format!("{url}/session"))
            .json(&body)
            .send()
            .await
            .expect("chromedriver answers");
        let answer: Value = answer.json().await.expect("JSON");
        let id = answer["value"]["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no browser: {answer}"));
        browser.session = format!("{url}/session/{id}");
        browser.size(1280, 900).await;
        browser
    }

    async fn command(&self, path: &str, body: Value) -> Result<Value, Value> {
        let answer = self
            .client
            .post(format!("{}{path}", self.session))
            .json(&body)
            .send()
            .await;
        let answer = answer.expect("chromedriver answers");
        let ok = answer.status().is_success();
        let mut body: Value = answer.json().await.expect("JSON");
        let value = body["value"].take();
        if ok { Ok(value) } else { Err(value) }
    }

    /// Calls the protocol of the browser's own developer tools.
    async fn cdp(&self, command: &str, parameters: Value) -> Value {
        let body = json!({"cmd": command, "params": parameters});
        self.command("/goog/cdp/execute", body)
            .await
            .unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Sets the size of the window; below 600 it is a phone's.
    pub(crate) async fn size(&self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600});
        self.cdp("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// Sets the colour scheme: `light` or `dark`.
    pub(crate) async fn prefer(&self, scheme: &str) {
        let features = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        self.cdp("Emulation.setEmulatedMedia", features).await;
    }

    pub(crate) async fn open(&self, url: &str) {
        // Loads another page first, because a URL that differs only after the # loads nothing.
        for url in ["about:blank", url] {
            self.command("/url", json!({"url": url}))
                .await
                .unwrap_or_else(|error| panic!("{url}: {error}"));
        }
    }

    /// Runs a script in the page; gives what it returns.
    pub(crate) async fn script(&self, script: &str) -> Value {
        let body = json!({"script": script, "args": []});
        self.command("/execute/sync", body)
            .await
            .unwrap_or_else(|error| panic!("{script}: {error}"))
    }

    /// Waits until an expression has a value that counts as true, and gives it.
    pub(crate) async fn until(&self, what: &str, expression: &str) -> Value {
        let script = format!("return ({expression})");
        let is_true = |value: &Value| {
            !matches!(value, Value::Null | Value::Bool(false))
                && *value != json!("")
                && *value != json!(0)
        };
        eventually(what, SOON, async || {
            Some(self.script(&script).await).filter(is_true)
        })
        .await
    }

    async fn element(&self, css: &str) -> Option<String> {
        let found = self
            .command("/element", json!({"using": "css selector", "value": css}))
            .await
            .ok()?;
        found[ELEMENT].as_str().map(ToOwned::to_owned)
    }

    /// Acts on an element as soon as that is possible: it exists, is visible, and nothing covers
    /// it.
    async fn to(&self, css: &str, action: &str, body: &Value) {
        eventually(&format!("{action} {css}"), SOON, async || {
            let element = self.element(css).await?;
            self.command(&format!("/element/{element}/{action}"), body.clone())
                .await
                .ok()
        })
        .await;
    }

    pub(crate) async fn click(&self, css: &str) {
        self.to(css, "click", &json!({})).await;
    }

    pub(crate) async fn write(&self, css: &str, text: &str) {
        self.to(css, "value", &json!({"text": text})).await;
    }

    /// Presses one key where the focus is. Keys that are not characters have code points in
    /// WebDriver.
    pub(crate) async fn press(&self, key: &str) {
        let actions = [
            json!({"type": "keyDown", "value": key}),
            json!({"type": "keyUp", "value": key}),
        ];
        let body = json!({"actions": [{"type": "key", "id": "keys", "actions": actions}]});
        self.command("/actions", body)
            .await
            .unwrap_or_else(|error| panic!("{key:?}: {error}"));
    }

    /// The visible text of an element.
    pub(crate) async fn text(&self, css: &str) -> String {
        let shown = format!("document.querySelector({})?.innerText", json!(css));
        self.until(&format!("{css} shows something"), &shown)
            .await
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    /// The browser's complaints since the last call: refused content, script errors, failed
    /// requests.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self
            .command("/se/log", json!({"type": "browser"}))
            .await
            .expect("the browser's log");
        let entries = log.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter_map(|entry| entry["message"].as_str().map(ToOwned::to_owned))
            .collect()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = nix::unistd::Pid::from_raw(self.driver.id().cast_signed());
        // Both fail only if it is gone already.
        let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
        let _ = self.driver.wait();
    }
}
