use super::*;

/// A server that echoes every byte, and a proxy in front of it.
async fn echo() -> Proxy {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((mut peer, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = peer.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Proxy::start(address).await.expect("a proxy")
}

async fn client(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.address)
        .await
        .expect("a connection to the proxy")
}

async fn says(client: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(text).await?;
    let mut answer = vec![0; text.len()];
    client.read_exact(&mut answer).await?;
    Ok(answer)
}

#[tokio::test]
async fn in_fair_weather_everything_gets_through() {
    let proxy = echo().await;
    let mut client = client(&proxy).await;
    assert_eq!(
        says(&mut client, b"hello").await.expect("an answer"),
        b"hello",
        "both directions"
    );
    assert_eq!(proxy.connections(), 1, "it counts");
}

#[tokio::test]
async fn a_cut_is_an_orderly_end_and_a_reset_is_none() {
    let proxy = echo().await;
    let mut one = client(&proxy).await;
    says(&mut one, b"x").await.expect("an answer");
    proxy.cut();
    assert_eq!(one.read(&mut [0]).await.expect("an orderly end"), 0, "FIN");

    let mut other = client(&proxy).await;
    says(&mut other, b"x")
        .await
        .expect("a later connection gets through");
    proxy.reset();
    let error = other.read(&mut [0]).await.expect_err("the end is a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "RST");
}

#[tokio::test]
async fn a_black_hole_keeps_connections_and_lets_go_of_what_it_held() {
    let proxy = echo().await;
    let mut client = client(&proxy).await;
    proxy.set(Weather::BlackHole);
    let swallowed =
        tokio::time::timeout(Duration::from_millis(300), says(&mut client, b"hello")).await;
    assert!(swallowed.is_err(), "no answer, and no error");
    proxy.set(Weather::Fair);
    let mut answer = [0; 5];
    client
        .read_exact(&mut answer)
        .await
        .expect("the answer at last");
    assert_eq!(&answer, b"hello", "nothing was lost");
}

#[tokio::test]
async fn slow_is_late_and_thin() {
    let proxy = echo().await;
    let mut client = client(&proxy).await;
    proxy.set(Weather::Slow {
        latency: Duration::from_millis(200),
        bytes_per_s: 1000,
    });
    let began = Instant::now();
    says(&mut client, &[7; 300]).await.expect("an answer");
    // The latency counts in both directions; and the last of three times 100 bytes leaves 200 ms
    // after the first.
    assert!(
        began.elapsed() >= Duration::from_millis(600),
        "after {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_fuse_blows_once_in_the_middle_of_what_is_sent() {
    let proxy = echo().await;
    let mut victim = client(&proxy).await;
    proxy.reset_after(1000);
    assert_eq!(
        says(&mut victim, &[1; 900]).await.expect("below it").len(),
        900,
        "not yet"
    );
    assert!(!proxy.has_blown(), "not yet");
    says(&mut victim, &[1; 900])
        .await
        .expect_err("a reset in the middle");
    assert!(proxy.has_blown(), "it has");
    let mut next = client(&proxy).await;
    assert_eq!(
        says(&mut next, &[1; 2000])
            .await
            .expect("the fuse blows only once")
            .len(),
        2000,
        "once"
    );
}
