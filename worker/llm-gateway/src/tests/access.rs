//! Access to the gateway, and what happens when an agent or a session goes away.

use super::*;

#[tokio::test]
async fn the_provider_gets_its_key_and_never_the_tasks_token() {
    let rig = Rig::start(plan("free/small")).await;
    rig.ask(json!({"say": "x"})).await;
    let response = rig
        .client
        .post(format!("{}/chat/completions", rig.llm.base_url()))
        .bearer_auth(KEY)
        .json(&prompt(&json!({"say": "x"})))
        .send()
        .await;
    assert!(response.is_ok(), "asked directly, with the provider's key");
    let hashes: Vec<String> = rig
        .llm
        .requests()
        .into_iter()
        .map(|request| request.token_hash)
        .collect();
    assert_eq!(
        hashes[0], hashes[1],
        "the gateway presented the provider's key"
    );
}

#[tokio::test]
async fn only_the_holder_of_a_token_gets_in_and_only_where_something_is() {
    let rig = Rig::start(plan("free/small")).await;
    let (url, token) = (rig.session.base_url(), rig.session.token().to_owned());
    let get = |path: &str| rig.client.get(format!("{url}{path}"));
    for (case, request, expected) in [
        ("no token", get("/models"), 401),
        (
            "a wrong token",
            get("/models").bearer_auth("x".repeat(64)),
            401,
        ),
        (
            "a part of the token",
            get("/models").bearer_auth(&token[..63]),
            401,
        ),
        (
            "no bearer",
            get("/models").basic_auth("user", Some(&token)),
            401,
        ),
        ("the token", get("/models").bearer_auth(&token), 200),
        (
            "the token as Anthropic sends it",
            get("/models").header("x-api-key", &token),
            200,
        ),
        ("another path", get("/embeddings").bearer_auth(&token), 404),
        (
            "another method",
            get("/chat/completions").bearer_auth(&token),
            404,
        ),
        (
            "another host",
            get("/models")
                .bearer_auth(&token)
                .header("host", "example.org"),
            403,
        ),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status().as_u16(), expected, "{case}");
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(
            body["error"]["message"].is_string(),
            expected != 200,
            "{case}: an error as OpenAI writes it"
        );
    }
    let models: Value = get("/models")
        .bearer_auth(&token)
        .send()
        .await
        .expect("an answer")
        .json()
        .await
        .expect("JSON");
    assert_eq!(models["data"][0]["id"], "free/small", "the task's LLMs");
    assert!(
        rig.session.record().calls.is_empty(),
        "none of these is a call"
    );
}

#[tokio::test]
async fn the_token_of_a_run_in_its_own_network_is_valid_nowhere_else() {
    let rig = Rig::start(plan("free/small")).await;
    let session = rig.gateway.open_apart(plan("free/small"));
    // Stands for a listener that was made in the network of the run.
    let inside = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = inside.local_addr().expect("an address");
    let another = rig.gateway.open_apart(plan("free/small"));
    session.server()(inside);
    let status = async |base_url: &str, token: &str| {
        let models = rig.client.get(format!("{base_url}/models"));
        let answer = models.bearer_auth(token).send().await.expect("an answer");
        answer.status().as_u16()
    };
    let own = format!("http://{address}/v1");
    assert_eq!(
        status(&own, session.token()).await,
        200,
        "in its own network"
    );
    assert_eq!(
        status(&rig.session.base_url(), session.token()).await,
        401,
        "every user of the machine can reach the programmer's port"
    );
    for other in [another.token(), rig.session.token()] {
        assert_eq!(status(&own, other).await, 401, "another run has no access");
    }
    assert_eq!(
        status(&rig.session.base_url(), rig.session.token()).await,
        200,
        "a run in the machine's network has"
    );
    session.close().await;
    let models = rig.client.get(format!("{own}/models")).send().await;
    assert!(models.is_err(), "its listener is closed with it");
}

#[tokio::test]
async fn a_closed_session_lets_nobody_in_and_gives_up_open_calls() {
    let rig = Rig::start(plan("paid/gpt")).await;
    let other = rig.gateway.open(plan("free/small"));
    let open = tokio::spawn(rig.request(&prompt(&json!({"behave": "hang"}))).send());
    until("the call is open", || {
        rig.session.open_calls() == 1 && !rig.llm.requests().is_empty()
    })
    .await;
    let models = rig.client.get(format!("{}/models", rig.session.base_url()));
    let (with_old, with_other) = (
        models
            .try_clone()
            .expect("no body")
            .bearer_auth(rig.session.token()),
        models.bearer_auth(other.token()),
    );

    let record: RunRecord = rig.session.close().await;
    assert_eq!(
        (record.calls.len(), record.open_calls),
        (1, 0),
        "the open call has ended and is in the record"
    );
    assert_eq!(record.calls[0].class, CallClass::Timeout, "given up");
    assert!(
        record.calls[0].cost > MicroUsd::ZERO,
        "and charged its worst case"
    );
    let answer = open.await.expect("no panic").expect("an answer").status();
    assert_eq!(answer.as_u16(), 401, "the agent gets an error");
    assert_eq!(
        with_old.send().await.expect("an answer").status().as_u16(),
        401,
        "the token is invalid now"
    );
    assert_eq!(
        with_other
            .send()
            .await
            .expect("an answer")
            .status()
            .as_u16(),
        200,
        "another task's token is still valid"
    );
}

#[tokio::test]
async fn a_call_whose_agent_went_away_is_given_up_and_recorded() {
    let rig = Rig::start(plan("free/small")).await;
    let before = rig.session.last_activity();
    let agent = tokio::spawn(rig.request(&prompt(&json!({"behave": "hang"}))).send());
    until("the call is open", || !rig.llm.requests().is_empty()).await;
    assert!(
        rig.session.last_activity() > before,
        "a call that begins is activity"
    );
    agent.abort();
    until("the call has ended", || rig.session.open_calls() == 0).await;
    assert_eq!(rig.last_call().class, CallClass::Timeout, "recorded");
    until("the provider sees that it was abandoned", || {
        rig.llm.requests()[0].outcome == "client went away"
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_priced_or_read_is_refused_with_the_reason() {
    let rig = Rig::start(plan("free/small")).await;
    let mut body = prompt(&json!({"say": "x"}));
    body["web_search_options"] = json!({});
    let response = rig.post(&body).await;
    assert_eq!(response.status().as_u16(), 400, "refused");
    let text = response.text().await.expect("a text");
    assert!(
        text.contains("`web_search_options` cannot be priced"),
        "says why: {text}"
    );
    assert_eq!(rig.last_call().class, CallClass::BadRequest, "the record");

    let url = format!("{}/chat/completions", rig.session.base_url());
    let too_large = rig
        .client
        .post(url)
        .bearer_auth(rig.session.token())
        .body(vec![b' '; 16 * 1024 * 1024 + 1]);
    assert_eq!(
        too_large.send().await.expect("an answer").status().as_u16(),
        400,
        "too large"
    );
    assert_eq!(
        rig.last_call().class,
        CallClass::ContextTooLong,
        "the record of it"
    );
    assert!(rig.llm.requests().is_empty(), "the provider saw nothing");
}

#[tokio::test]
async fn a_provider_that_cannot_be_used_is_named_at_start() {
    let of = |provider: Provider, key: &str| {
        let providers = BTreeMap::from([("odd".to_owned(), provider)]);
        Upstreams::from_parts(&providers, BTreeMap::new(), |_| Some(key.to_owned()))
            .err()
            .map(|e| e.to_string())
    };
    let message = of(provider("ftp://example.org"), KEY).expect("a mistake");
    assert!(message.contains("providers.odd.base_url"), "{message}");
    let message = of(provider("http://127.0.0.1:9"), "two\nlines").expect("a mistake");
    assert!(
        message.contains("SCRIPTED_KEY") && !message.contains("two"),
        "it names the variable, not the key: {message}"
    );
    assert_eq!(
        of(provider("https://127.0.0.1:9/v1"), KEY),
        None,
        "a good one"
    );
}
