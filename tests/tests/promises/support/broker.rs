//! One private RabbitMQ for all tests of a checkout, with a virtual host for each test.
//!
//! `scripts/test` may start it and pass `POOL_TEST_AMQP_URL` and the three `MANAGEMENT_…`
//! variables; otherwise the first test starts it. A guard process holds the other end of a pipe and
//! stops the broker after the last test process has ended, in whatever way. Test processes that
//! follow each other within a few seconds share it.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use pool_telemetry::clock::wall_clock;
use serde_json::{Value, json};

use super::machine::{checkout, lock_file, shared_directory};

/// Waits for the end of its input, then for the other users, and stops the broker if it is not used
/// any more.
const GUARD: &str = r#"
cat >/dev/null
sleep 3
exec 9>"$2.lock"
flock --nonblock 9 || exit 0
"$1" stop --data "$2" --now
rm -rf "$2"
"#;

/// The addresses of a node.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// `amqp://user:password@127.0.0.1:port`, without a virtual host.
    amqp: String,
    management: String,
    user: String,
    password: String,
}

#[derive(Debug)]
struct Shared {
    access: Access,
    _in_use: Option<InUse>,
}

static SHARED: LazyLock<Shared> = LazyLock::new(|| {
    if given("POOL_TEST_AMQP_URL").is_some() {
        return Shared {
            access: Access::given(),
            _in_use: None,
        };
    }
    let in_use = InUse::of("broker");
    let script = checkout().join("scripts/broker");
    let started = Command::new(script)
        .args(["start", "--data"])
        .arg(in_use.data())
        .output();
    let started = started.expect("scripts/broker runs");
    let said = String::from_utf8_lossy(&started.stderr);
    assert!(
        started.status.success(),
        "scripts/broker start failed: {said}"
    );
    Shared {
        access: Access::printed(&String::from_utf8_lossy(&started.stdout)),
        _in_use: Some(in_use),
    }
});

fn given(variable: &str) -> Option<String> {
    std::env::var(variable)
        .ok()
        .filter(|value| !value.is_empty())
}

/// A node's data directory, reserved for as long as the value lives.
#[derive(Debug)]
pub(super) struct InUse {
    name: String,
    _lock: File,
    /// The guard waits for the end of its input.
    _guard: Child,
}

impl InUse {
    pub(super) fn of(name: &str) -> Self {
        let lock = lock_file(&format!("{name}.lock"));
        lock.lock_shared().expect("the lock on the broker");
        let mut guard = Command::new("setsid");
        guard
            .args(["sh", "-c", GUARD, "guard"])
            .arg(checkout().join("scripts/broker"));
        guard.arg(shared_directory().join(name));
        guard
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let guard = guard.spawn().expect("the guard of the broker");
        Self {
            name: name.to_owned(),
            _lock: lock,
            _guard: guard,
        }
    }

    pub(super) fn data(&self) -> PathBuf {
        shared_directory().join(&self.name)
    }
}

impl Access {
    fn given() -> Self {
        let variables = [
            "POOL_TEST_AMQP_URL",
            "MANAGEMENT_URL",
            "MANAGEMENT_USER",
            "MANAGEMENT_PASSWORD",
        ];
        Self::from(|name| {
            let name = if name == "AMQP_URL" {
                variables[0]
            } else {
                name
            };
            given(name)
                .unwrap_or_else(|| panic!("POOL_TEST_AMQP_URL is set, so {name} must be too"))
        })
    }

    /// Reads the AMQP address from the output of `scripts/broker start`.
    pub(super) fn amqp_printed(text: &str) -> SocketAddr {
        let url = text
            .lines()
            .find_map(|line| line.strip_prefix("AMQP_URL="))
            .expect("an AMQP URL");
        let (_, rest) = url.rsplit_once('@').expect("a URL with a login");
        let (address, _) = rest.split_once('/').expect("a URL with a virtual host");
        address.parse().expect("an address")
    }

    /// Reads the other values from the output of `scripts/broker start`.
    pub(super) fn printed(text: &str) -> Self {
        let values: HashMap<_, _> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        Self::from(|name| {
            (*values
                .get(name)
                .unwrap_or_else(|| panic!("scripts/broker printed no {name}")))
            .to_owned()
        })
    }

    /// The same node with another AMQP address.
    pub(super) fn at(mut self, address: SocketAddr) -> Self {
        let (login, _) = self.amqp.rsplit_once('@').expect("a URL with a login");
        self.amqp = format!("{login}@{address}");
        self
    }

    fn from(value: impl Fn(&str) -> String) -> Self {
        let url = value("AMQP_URL");
        let (amqp, _) = url
            .rsplit_once('/')
            .expect("an AMQP URL with a virtual host");
        Self {
            amqp: amqp.to_owned(),
            management: value("MANAGEMENT_URL").trim_end_matches('/').to_owned(),
            user: value("MANAGEMENT_USER"),
            password: value("MANAGEMENT_PASSWORD"),
        }
    }
}

/// A virtual host. Dropping it deletes it with all its queues.
#[derive(Debug)]
pub(crate) struct Vhost {
    name: String,
    access: Access,
    /// The users of this virtual host, with the permissions of `config/definitions.json`.
    users: Vec<String>,
}

/// The password of every user that a test makes.
const PASSWORD: &str = "of-a-test";

impl Vhost {
    /// A virtual host of the shared broker.
    pub(crate) async fn create() -> Self {
        let shared = tokio::task::spawn_blocking(|| LazyLock::force(&SHARED))
            .await
            .expect("a broker");
        Self::at(shared.access.clone()).await
    }

    pub(super) async fn at(access: Access) -> Self {
        let name = format!("test-{}-{}", std::process::id(), unique());
        let vhost = Self {
            name,
            access,
            users: Vec::new(),
        };
        vhost.make().await;
        let all = r#"{"configure": ".*", "write": ".*", "read": ".*"}"#;
        vhost
            .manage(
                reqwest::Method::PUT,
                &format!("permissions/{}/{}", vhost.name, vhost.access.user),
                all.to_owned(),
            )
            .await;
        vhost
    }

    /// Makes it again, empty. Its users must get their permissions again.
    pub(crate) async fn make(&self) {
        self.manage(
            reqwest::Method::PUT,
            &format!("vhosts/{}", self.name),
            "{}".to_owned(),
        )
        .await;
    }

    /// Deletes it with all its contents, while clients are connected.
    pub(crate) async fn delete(&self) {
        self.manage(
            reqwest::Method::DELETE,
            &format!("vhosts/{}", self.name),
            String::new(),
        )
        .await;
    }

    /// Makes the users of `config/definitions.json` with their permissions.
    pub(crate) async fn make_users(&mut self) {
        self.users.clear();
        let text = std::fs::read_to_string(checkout().join("config/definitions.json"))
            .expect("the definitions");
        let definitions: Value = serde_json::from_str(&text).expect("definitions in JSON");
        for permission in definitions["permissions"].as_array().expect("permissions") {
            let user = self.user(permission["user"].as_str().expect("a user"));
            let login = json!({"password": PASSWORD, "tags": ""});
            self.manage(
                reqwest::Method::PUT,
                &format!("users/{user}"),
                login.to_string(),
            )
            .await;
            self.manage(
                reqwest::Method::PUT,
                &format!("permissions/{}/{user}", self.name),
                permission.to_string(),
            )
            .await;
            self.users.push(user);
        }
    }

    fn user(&self, role: &str) -> String {
        format!("{role}-{}", self.name)
    }

    /// The URL for this role: with its own user, if there is one.
    pub(crate) fn url_of(&self, role: &str) -> String {
        let user = self.user(role);
        if !self.users.contains(&user) {
            return self.url();
        }
        let (_, address) = self
            .access
            .amqp
            .rsplit_once('@')
            .expect("an AMQP URL with a user");
        format!("amqp://{user}:{PASSWORD}@{address}/{}", self.name)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}/{}", self.access.amqp, self.name)
    }

    /// Sets a policy for the queues whose names match.
    pub(crate) async fn set_policy(&self, pattern: &str, definition: &Value) {
        let body = json!({"pattern": pattern, "definition": definition, "apply-to": "queues"});
        let path = format!("policies/{}/test", self.name);
        self.manage(reqwest::Method::PUT, &path, body.to_string())
            .await;
    }

    /// The queue and the key of each binding of an exchange, in order.
    pub(crate) async fn bindings(&self, exchange: &str) -> Vec<(String, String)> {
        let path = format!("exchanges/{}/{exchange}/bindings/source", self.name);
        let bindings: Value = serde_json::from_str(
            &self
                .manage(reqwest::Method::GET, &path, String::new())
                .await,
        )
        .expect("JSON");
        let text =
            |binding: &Value, field: &str| binding[field].as_str().expect("a text").to_owned();
        let pair = |binding| (text(binding, "destination"), text(binding, "routing_key"));
        let mut pairs: Vec<_> = bindings
            .as_array()
            .expect("bindings")
            .iter()
            .map(pair)
            .collect();
        pairs.sort_unstable();
        pairs
    }

    /// The major version: `4` of RabbitMQ 4.3.6.
    pub(crate) async fn major_version(&self) -> u32 {
        let overview = self
            .manage(reqwest::Method::GET, "overview", String::new())
            .await;
        let overview: Value = serde_json::from_str(&overview).expect("JSON");
        let version = overview["rabbitmq_version"].as_str().expect("a version");
        version
            .split('.')
            .next()
            .and_then(|major| major.parse().ok())
            .expect("a number")
    }

    /// Gives the body of the answer.
    async fn manage(&self, method: reqwest::Method, path: &str, body: String) -> String {
        let Access {
            management,
            user,
            password,
            ..
        } = &self.access;
        let url = format!("{management}/api/{path}");
        let request = super::api::http()
            .request(method, &url)
            .basic_auth(user, Some(password));
        let answer = request
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
        let answer = answer.unwrap_or_else(|error| panic!("{url} does not answer: {error}"));
        assert!(
            answer.status().is_success(),
            "{url} answered {}",
            answer.status()
        );
        answer.text().await.expect("a text")
    }
}

impl Drop for Vhost {
    fn drop(&mut self) {
        let users = self.users.iter().map(|user| format!("users/{user}"));
        let paths: Vec<String> = users.chain([format!("vhosts/{}", self.name)]).collect();
        let deleting = std::thread::scope(|scope| {
            let delete = || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                for path in &paths {
                    runtime.block_on(self.manage(reqwest::Method::DELETE, path, String::new()));
                }
            };
            scope.spawn(delete).join()
        });
        if deleting.is_err() && !std::thread::panicking() {
            panic!("the virtual host {} was not deleted", self.name);
        }
    }
}

/// Unique for every call of this process, and for restarts of the process.
fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!(
        "{}-{}",
        wall_clock().0 % 1_000_000,
        NEXT.fetch_add(1, Ordering::Relaxed)
    )
}
