//! Any process survives any outage of the broker and says so; what waiting does not cure is said at the start, with what
//! to do.

use std::path::{Path, PathBuf};

use pool_shared::result::Status;
use pool_tests::faults::proxy::{Proxy, Weather};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::broker::Vhost;
use crate::support::machine::share_cores;
use crate::support::own_broker::{OwnBroker, Pair, refused};
use crate::support::pool::task;
use crate::support::status::PoolStatus;
use crate::support::{Api, Pool, PoolFile, SOON, eventually};

/// Waits until this `/health` has a broker in this state; gives the object.
async fn broker_is(api: &Api, state: &str) -> Value {
    eventually(&format!("the broker is {state}"), SOON, async || {
        let broker = api.get("/health").await["broker"].clone();
        (broker["state"] == state).then_some(broker)
    })
    .await
}

async fn ready(api: &Api) {
    eventually("it is ready", SOON * 2, async || (api.try_get("/ready").await.0 == StatusCode::OK).then_some(())).await;
}

/// How often a process has said this.
fn count(log: &str, text: &str) -> usize {
    log.lines().filter(|line| line.contains(text)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waiting_does_not_cure_is_fatal_at_the_start_and_says_what_to_do() {
    let _cores = share_cores().await;
    let vhost = Vhost::create().await;
    let url = vhost.url();
    let (user, address) = url.split_once('@').expect("a user");
    let wrong_password = format!("{}:guessed@{address}", user.rsplit_once(':').expect("a password").0);
    let (without_vhost, _) = url.rsplit_once('/').expect("a virtual host");
    let missing_vhost = format!("{without_vhost}/not-there");
    for (url, text) in [
        (wrong_password, "or the password (ACCESS_REFUSED"),
        (missing_vhost, "the virtual host \"not-there\" is not there"),
    ] {
        let pair = Pair::at(&url, json!({}));
        for process in [pair.worker(), pair.dispatcher()] {
            let (status, log) = refused(process).await;
            assert_eq!(status.code(), Some(1), "it ends, it does not wait: {log}");
            assert!(log.contains(text) && log.contains("correct"), "it says what is wrong and what to do: {log}");
            assert!(log.contains(address.rsplit_once('/').expect("a virtual host").0), "it names the address: {log}");
            assert!(!log.contains("guessed"), "no password: {log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_outlives_a_broker_that_is_away_says_so_and_works_again() {
    let _cores = share_cores().await;
    let mut broker = OwnBroker::start("").await;
    let pair = Pair::at(broker.url(), json!({}));
    let (mut dispatcher, mut worker) = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    let programmer = pair.programmer(&api).await;
    for api in [&api, &programmer] {
        ready(api).await;
        let connected = broker_is(api, "connected").await;
        assert!(!connected.to_string().contains(broker.password()), "no password: {connected}");
    }

    broker.stop().await;
    for api in [&api, &programmer] {
        let away = broker_is(api, "reconnecting").await;
        assert!(away["since"].is_string() && away["error"].is_string(), "since when, and why: {away}");
        let (status, health) = api.try_get("/health").await;
        assert_eq!(status, StatusCode::OK, "it is alive: {health}");
        let (status, answer) = api.try_get("/ready").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "and cannot work: {answer}");
        let metrics = api.text("/metrics").await;
        assert!(metrics.contains("pool_broker_connected{purpose=\"consume\"} 0"), "{metrics}");
    }
    // Several attempts of both have failed by then.
    eventually("both have tried for a while", SOON, async || {
        let error = broker_is(&programmer, "reconnecting").await["error"].to_string();
        error.contains("Connection refused").then_some(())
    })
    .await;
    let (status, answer) = api.try_submit(&task("too-early")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "nothing is taken that nobody keeps: {answer}");

    broker.start_again().await;
    for api in [&api, &programmer] {
        ready(api).await;
        let metrics = api.text("/metrics").await;
        assert!(metrics.contains("pool_broker_reconnects_total{purpose=\"consume\"} 1"), "{metrics}");
    }
    api.submit(&task("afterwards")).await;
    let result = api.result("afterwards", SOON).await;
    assert_eq!(result.status, Status::Succeeded, "both consume again: {result:?}");
    for process in [&mut dispatcher, &mut worker] {
        assert!(process.is_running(), "{} lives", process.name);
        let log = process.log();
        assert_eq!(count(&log, "the broker is lost"), 2, "once for each of its two connections: {log}");
        assert_eq!(count(&log, "trying until"), 2, "and not again while it is away: {log}");
        assert_eq!(count(&log, "the broker is back"), 2, "and once that it is back: {log}");
        assert_eq!(count(&log, "trying again"), 0, "nobody else has a word to add: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_is_changed_under_a_running_process_does_not_end_it() {
    let _cores = share_cores().await;
    let broker = OwnBroker::start("").await;
    broker.control(&["add_user", "app", "one"]).await;
    broker.control(&["set_permissions", "app", ".*", ".*", ".*"]).await;
    let pair = Pair::at(format!("amqp://app:one@127.0.0.1:{}/%2f", broker.port()), json!({}));
    let mut dispatcher = pair.dispatcher();
    let api = pair.api().await;
    ready(&api).await;

    broker.control(&["change_password", "app", "two"]).await;
    broker.control(&["close_all_user_connections", "app", "for a test"]).await;
    eventually("it says that the password is refused", SOON, async || {
        let error = broker_is(&api, "reconnecting").await["error"].to_string();
        error.contains("or the password (ACCESS_REFUSED").then_some(())
    })
    .await;
    assert!(dispatcher.is_running(), "it goes on trying");

    broker.control(&["change_password", "app", "one"]).await;
    ready(&api).await;
    api.submit(&task("afterwards")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_takes_no_messages_whoever_publishes_hears_it_at_once() {
    let _cores = share_cores().await;
    let broker = OwnBroker::start("").await;
    // Nobody waits for so long: what fails does so because it is known to be of no use.
    let pair = Pair::at(broker.url(), json!({"timeout_s": 600}));
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    ready(&api).await;

    broker.control(&["set_disk_free_limit", "1000000000000000"]).await;
    let (status, answer) = api.try_submit(&task("first")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it cannot be taken: {answer}");
    assert!(answer.to_string().contains("low on disk"), "the answer names the alarm: {answer}");
    let blocked = broker_is(&api, "blocked").await;
    assert!(blocked["error"].to_string().contains("low on disk"), "health names it, too: {blocked}");
    let (status, answer) = api.try_submit(&task("second")).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "nor the next one: {answer}");
    let (status, answer) = api.try_get("/ready").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "it is not ready: {answer}");

    broker.control(&["set_disk_free_limit", "1000000"]).await;
    ready(&api).await;
    for id in ["first", "second"] {
        api.submit(&task(id)).await;
        assert_eq!(api.result(id, SOON).await.status, Status::Succeeded, "{id}: the pool works again");
    }
}

/// A CA of the test's own, and what it has signed: for a broker at `localhost`, and for a client.
struct Authority(PathBuf);

/// Whoever has the name of its issuer would be taken for its own.
fn named(name: &str, hosts: &[String]) -> CertificateParams {
    let mut params = CertificateParams::new(hosts).expect("names");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl Authority {
    fn new(directory: PathBuf) -> Self {
        std::fs::create_dir_all(&directory).expect("a directory for certificates");
        let write = |name: &str, text: String| std::fs::write(directory.join(name), text).expect("a file");
        let mut params = named("the test's own CA", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        write("ca.pem", ca.pem());
        for name in ["localhost", "pool"] {
            let key = KeyPair::generate().expect("a key");
            let params = named(name, &[name.to_owned()]);
            write(&format!("{name}.pem"), params.signed_by(&key, &ca).expect("a certificate").pem());
            write(&format!("{name}.key"), key.serialize_pem());
        }
        Self(directory)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path in UTF-8").to_owned()
    }

    /// The lines for a node that wants certificates of its clients.
    fn listener(&self, port: u16) -> String {
        let file = |name| self.file(name);
        format!(
            "listeners.ssl.1 = 127.0.0.1:{port}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\nssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n",
            file("ca.pem"),
            file("localhost.pem"),
            file("localhost.key"),
        )
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_speaks_tls_with_a_private_ca_and_explains_what_does_not_fit() {
    let _cores = share_cores().await;
    let (place, port) = (OwnBroker::place(), free_port());
    let authority = Authority::new(place.path().join("node/tls"));
    let broker = OwnBroker::start_in(place, &authority.listener(port)).await;
    let url = |scheme: &str, host: &str, port: &str| format!("{scheme}://pool:{}@{host}:{port}/%2f", broker.password());
    let (tls_port, file) = (port.to_string(), |name| authority.file(name));
    let right = url("amqps", "localhost", &tls_port);
    let (ca, cert, key) = (file("ca.pem"), file("pool.pem"), file("pool.key"));
    let whole = json!({"ca_file": ca, "client_cert_file": cert, "client_key_file": key});

    let pair = Pair::at(&right, whole.clone());
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    api.submit(&task("encrypted")).await;
    assert_eq!(api.result("encrypted", SOON).await.status, Status::Succeeded, "a task comes and goes over TLS");

    let missing = Path::new(&ca).with_file_name("gone.pem").to_str().expect("a path in UTF-8").to_owned();
    let without_ca = json!({"client_cert_file": cert, "client_key_file": key});
    for (what, url, section, text) in [
        ("no CA", right.clone(), without_ca, "broker.ca_file"),
        ("another name", url("amqps", "127.0.0.1", &tls_port), whole.clone(), "certificate is not for \"127.0.0.1\""),
        ("no client certificate", right.clone(), json!({"ca_file": ca}), "set broker.client_cert_file"),
        ("no such file", right.clone(), json!({"ca_file": missing}), "gone.pem cannot be read"),
        ("plain AMQP to TLS", url("amqp", "localhost", &tls_port), json!({}), "the broker speaks TLS on this port"),
        ("TLS to plain AMQP", url("amqps", "localhost", broker.port()), whole, "the broker speaks no TLS on this port"),
    ] {
        let (status, log) = refused(Pair::at(url, section).worker()).await;
        assert_eq!(status.code(), Some(1), "{what}: it ends at the start: {log}");
        assert!(log.contains(text), "{what}: {text:?} is not in: {log}");
        assert!(!log.contains(broker.password()), "{what}: no password: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_could_not_be_heard_of_is_unknown_and_not_down() {
    let mut pool = Pool::set_up_shared(&PoolFile::sample().only(&["001"])).await;
    let proxy = Proxy::in_front_of(&pool.amqp_url()).await.expect("a proxy");
    pool.go_through(&proxy);
    pool.start_dispatcher().await;
    let reason = |status: &PoolStatus| status.programmers()[0]["reason"].as_str().expect("a text").to_owned();
    let early = pool.status().await;
    assert!(reason(&early).starts_with("not heard of yet: this dispatcher has listened for"), "{early:?}");
    assert_eq!((&early.programmers()[0]["unknown"], &early.0["detail"]), (&json!(true), &Value::Null), "{early:?}");
    let down = eventually("the metrics tell of it", SOON, async || {
        let metrics = pool.api().text("/metrics").await;
        metrics.lines().find(|line| line.starts_with(r#"pool_programmers{state="down""#)).map(ToOwned::to_owned)
    })
    .await;
    assert!(down.ends_with("NaN"), "and raise no false alarm: {down}");
    proxy.set(Weather::Refusing);
    proxy.reset();
    let away = |status: &PoolStatus| status.0["detail"].as_str().is_some_and(|detail| detail.contains("the broker"));
    let away = pool.status_where("the broker is away", away).await;
    assert_eq!(reason(&away), "unknown: the broker is not reachable", "nobody is called down for it");
    let said = pool.command_line(&["status"]).await;
    assert!(said.starts_with("the dispatcher says: the broker: reconnecting"), "it is said first: {said}");
}
