//! The pool speaks TLS to the broker. A TLS mistake is explained at the start, and waited out
//! later.

use std::path::Path;
use std::time::Duration;

use pool_core::result::Status;
use reqwest::StatusCode;
use serde_json::json;

use crate::support::authority::Authority;
use crate::support::machine::{free_port, idles, share_cores};
use crate::support::own_broker::{OwnBroker, Pair, broker_is, count, ready, refused};
use crate::support::pool::task;
use crate::support::{SOON, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn the_pool_speaks_tls_with_a_private_ca_and_explains_what_does_not_fit() {
    let _cores = share_cores().await;
    let (place, port) = (OwnBroker::place(), free_port());
    let authority = Authority::new(place.path().join("node/tls"), "the test's own CA");
    let broker = OwnBroker::start_in(place, &authority.listener(port)).await;
    let url = |scheme: &str, host: &str, port: &str| {
        format!("{scheme}://pool:{}@{host}:{port}/%2f", broker.password())
    };
    let (tls_port, file) = (port.to_string(), |name| authority.file(name));
    let right = url("amqps", "localhost", &tls_port);
    let (ca, cert, key) = (file("ca.pem"), file("pool.pem"), file("pool.key"));
    let whole = json!({"ca_file": ca, "client_cert_file": cert, "client_key_file": key});

    let pair = Pair::at(&right, whole.clone());
    let _processes = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    api.submit(&task("encrypted")).await;
    assert_eq!(
        api.result("encrypted", SOON).await.status,
        Status::Succeeded,
        "a task comes and goes over TLS"
    );

    let missing = Path::new(&ca)
        .with_file_name("gone.pem")
        .to_str()
        .expect("a path in UTF-8")
        .to_owned();
    let without_ca = json!({"client_cert_file": cert, "client_key_file": key});
    for (what, url, section, text) in [
        ("no CA", right.clone(), without_ca, "broker.ca_file"),
        (
            "another name",
            url("amqps", "127.0.0.1", &tls_port),
            whole.clone(),
            "certificate is not for \"127.0.0.1\"",
        ),
        (
            "no client certificate",
            right.clone(),
            json!({"ca_file": ca}),
            "set broker.client_cert_file",
        ),
        (
            "no such file",
            right.clone(),
            json!({"ca_file": missing}),
            "gone.pem cannot be read",
        ),
        (
            "plain AMQP to TLS",
            url("amqp", "localhost", &tls_port),
            json!({}),
            "the broker speaks TLS on this port",
        ),
        (
            "TLS to plain AMQP",
            url("amqps", "localhost", broker.port()),
            whole,
            "the broker does not speak TLS on this port",
        ),
    ] {
        let (status, log) = refused(Pair::at(url, section).worker()).await;
        assert_eq!(
            status.code(),
            Some(1),
            "{what}: the process ends at its start: {log}"
        );
        assert!(
            log.contains(text),
            "{what}: the log must contain {text:?}: {log}"
        );
        assert!(
            !log.contains(broker.password()),
            "{what}: the log has no password: {log}"
        );
    }
}

/// The limit for a broker with the wrong certificate to be noticed.
const WAITED: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_exchanged_under_a_running_pool_is_refused_and_waited_out() {
    let _cores = share_cores().await;
    let (place, port) = (OwnBroker::place(), free_port());
    let authority = Authority::new(place.path().join("node/tls"), "the test's own CA");
    let foreign = Authority::new(place.path().join("node/foreign"), "a foreign CA");
    let mut broker = OwnBroker::start_in(place, &authority.listener(port)).await;
    let url = format!("amqps://pool:{}@localhost:{port}/%2f", broker.password());
    let file = |name| authority.file(name);
    let section = json!({
        "ca_file": file("ca.pem"), "client_cert_file": file("pool.pem"), "client_key_file": file("pool.key"),
    });
    let pair = Pair::at(url, section);
    let (mut dispatcher, mut worker) = (pair.dispatcher(), pair.worker());
    let api = pair.api().await;
    let programmer = pair.programmer(&api).await;
    for api in [&api, &programmer] {
        ready(api).await;
    }
    let own = authority.host();
    broker.stop().await;
    authority.set_host(&foreign.host());
    broker.start_again().await;
    for api in [&api, &programmer] {
        eventually(
            "health says that the certificate is not trusted",
            SOON,
            async || {
                let error = broker_is(api, "reconnecting").await["error"].to_string();
                (error.contains("the broker's certificate is not trusted")
                    && error.contains("broker.ca_file"))
                .then_some(())
            },
        )
        .await;
        assert_eq!(
            api.try_get("/health").await.0,
            StatusCode::OK,
            "/health is 200"
        );
        assert_eq!(
            api.try_get("/ready").await.0,
            StatusCode::SERVICE_UNAVAILABLE,
            "/ready is 503"
        );
    }
    idles([dispatcher.pid(), worker.pid()], WAITED).await;

    broker.stop().await;
    authority.set_host(&own);
    broker.start_again().await;
    for api in [&api, &programmer] {
        ready(api).await;
    }
    api.submit(&task("afterwards")).await;
    assert_eq!(
        api.result("afterwards", SOON).await.status,
        Status::Succeeded,
        "the pool works again"
    );
    for process in [&mut dispatcher, &mut worker] {
        assert!(process.is_running(), "{} lives", process.name);
        let log = process.log();
        assert_eq!(
            count(&log, "certificate is not trusted"),
            2,
            "it is logged once for each of two connections: {log}"
        );
    }
}
