//! Callbacks: each operation's end is sent to its caller's system, signed, whatever fails, and nowhere else.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    callback_receivers::{CallbackWorld, Receiver, with_callback},
    process::{Process, traceparent},
    responses::got,
    webhook_senders::STANDARD_SECRET,
    world::{ASSIGNMENTS, SALES_ESP, TRIES, World, add, group, remove},
};

/// A second signing secret.
const NEXT_SECRET: &str = "whsec_c2Vjb25kIHNlY3JldCBvZiAyNCBieXRlcyBvciBtb3Jl";

async fn refused(world: &World, callback: Value) {
    let change = with_callback(add("Sales ESP", &group(1)), callback.clone());
    let got = world.post("servicenow", ASSIGNMENTS, &change, &[]).await;
    let problem = got.problem(422, "invalid-change");
    assert_eq!(problem.body["errors"][0]["pointer"], "/callback/url", "{callback}: {problem:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_an_operation_is_told_signed_and_with_its_context() {
    let callbacks = CallbackWorld::start().await;
    let context = json!({"sys_id": "46d44a", "nested": [1, {"x": null}]});
    let change = callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), context.clone());
    let id = callbacks.world.change(&change).await.expect(200).id();
    let [taken] = callbacks.receiver.received(1).await.try_into().unwrap();
    assert_eq!(taken.path, "/api/postern");
    assert_eq!(taken.headers["content-type"], "application/cloudevents+json");
    assert!(taken.is_signed_with(STANDARD_SECRET) && !taken.headers.contains_key("cookie"), "{taken:?}");
    let event = taken.body();
    let fields = ["specversion", "type", "source", "subject", "id"].map(|name| event[name].as_str().unwrap());
    assert_eq!(fields, ["1.0", "postern.operation.ended", "postern", &id, taken.id()]);
    assert_eq!(taken.id(), id.replace("op_", "msg_"));
    let told = &event["data"]["operation"];
    assert_eq!(event["data"]["context"], context);
    let shown = callbacks.world.operation(&id).await.body;
    for field in ["id", "state", "effect", "summary", "difference", "ticket", "graph", "trace_id", "ended_at"] {
        assert_eq!(told[field], shown[field], "{field}");
    }
    assert_eq!(event["time"], shown["ended_at"]);
    let callback = callbacks.callback(&id, "delivered").await;
    let known = ["attempts", "last_status", "last_error", "next_attempt_at"].map(|name| callback[name].clone());
    assert_eq!(known, [json!(1), json!(204), Value::Null, Value::Null]);
    assert!(
        callback["delivered_at"].is_string() && callback["url"] == callbacks.url() && callback["context"] == context
    );
    let record = callbacks.world.events("callback-delivered").await.pop().unwrap();
    assert_eq!(
        (&record["operation"], &record["destination"], &record["status"]),
        (&json!(id), &json!("desk"), &json!(204))
    );
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callbacks_are_sent_for_success_failure_and_cancellation() {
    let callbacks = CallbackWorld::start().await;
    let world = &callbacks.world;
    world.hold("/assign").await;
    let running = world.begin(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1)).await;
    world.held(1).await;
    let cancelled = world.begin(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(2)), 2)).await;
    world.send(world.request("servicenow", "DELETE", &format!("/v1/operations/{cancelled}")).await).await.expect(200);
    assert_eq!(callbacks.receiver.received(1).await[0].subject(), cancelled);
    world.clear_faults().await;
    callbacks.receiver.received(2).await;
    let bound = callbacks.with_callback_to_receiver(add("Sales ESP", &group(6)), json!(3));
    let nothing = format!("\"{}\"", "0".repeat(64));
    let stale = [("if-match", nothing.as_str()), ("prefer", "wait=20")];
    let failed = world.post("servicenow", ASSIGNMENTS, &bound, &stale).await.problem(412, "precondition-failed");
    let failed = failed.body["operation"]["id"].as_str().unwrap().to_owned();
    let taken = callbacks.receiver.received(3).await;
    let told: Vec<_> = taken.iter().map(|it| (it.subject(), it.body()["data"]["operation"]["state"].clone())).collect();
    assert_eq!(told, [(cancelled, json!("cancelled")), (running, json!("succeeded")), (failed, json!("failed"))]);
    assert_eq!(taken[2].body()["data"]["operation"]["problem"]["code"], "precondition-failed");
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_carry_the_same_message_id() {
    let callbacks = CallbackWorld::start().await;
    callbacks.receiver.answer(&[(500, None), (302, Some(("location", "http://127.0.0.1:1/"))), (404, None)]);
    let mut ids = Vec::new();
    for number in [1, 2, 6] {
        ids.push(
            callbacks
                .world
                .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(number)), number))
                .await
                .expect(200)
                .id(),
        );
    }
    for id in &ids {
        callbacks.callback(id, "delivered").await;
    }
    let taken = callbacks.receiver.taken();
    assert_eq!(taken.len(), 6, "three in vain, and one for each: {taken:?}");
    for id in &ids {
        let about: Vec<_> = taken.iter().filter(|taken| taken.subject() == *id).collect();
        assert!(about.iter().all(|it| it.id() == about[0].id() && it.text == about[0].text), "{about:?}");
        assert!(about.iter().all(|it| it.is_signed_with(STANDARD_SECRET)));
        assert_eq!(callbacks.world.operation(id).await.body["callback"]["attempts"], about.len());
    }
    assert_eq!(callbacks.world.events("callback-delivered").await.len(), 3);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_in_the_middle_loses_no_message() {
    let mut callbacks = CallbackWorld::start().await;
    callbacks.receiver.answer_always(503);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    callbacks.receiver.received(1).await;
    callbacks.world.take_gateway().stop().await;
    let attempts = callbacks.receiver.taken().len();
    callbacks.receiver.answer_always(200);
    callbacks.world.start_gateway().await;
    callbacks.callback(&id, "delivered").await;
    let taken = callbacks.receiver.taken();
    assert_eq!(taken.len(), attempts + 1);
    assert!(taken.iter().all(|it| it.id() == taken[0].id() && it.text == taken[0].text));
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_that_is_killed_while_it_sends_sends_again() {
    let mut callbacks = CallbackWorld::start().await;
    callbacks.world.take_gateway().stop().await;
    callbacks.receiver.hold();
    let process = Process::start(&callbacks.world, &[]);
    let change = callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), json!(1));
    let id = process.post(&callbacks.world, &change, &traceparent(1)).await.expect(202).id();
    callbacks.receiver.received(1).await;
    process.kill();
    callbacks.receiver.release();
    callbacks.world.start_gateway().await;
    let callback = callbacks.callback(&id, "delivered").await;
    assert_eq!(callback["attempts"], 2);
    let taken = callbacks.receiver.taken();
    assert_eq!((taken.len(), taken[0].id()), (2, taken[1].id()));
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_waits_for_the_answer_to_what_is_under_way() {
    let mut callbacks = CallbackWorld::start().await;
    callbacks.receiver.hold();
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    callbacks.receiver.received(1).await;
    let stopping = tokio::spawn(callbacks.world.take_gateway().stop());
    callbacks.receiver.release();
    stopping.await.unwrap();
    callbacks.world.start_gateway().await;
    assert_eq!(callbacks.world.operation(&id).await.body["callback"]["state"], "delivered");
    assert_eq!(callbacks.receiver.taken().len(), 1);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_wants_no_more_is_left_alone_until_somebody_asks() {
    let callbacks = CallbackWorld::start().await;
    let world = &callbacks.world;
    callbacks.receiver.answer(&[(410, None)]);
    let id = world.change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1)).await.expect(200).id();
    let callback = callbacks.callback(&id, "parked").await;
    assert_eq!((&callback["attempts"], &callback["last_status"]), (&json!(1), &json!(410)));
    assert!(callback["last_error"].as_str().unwrap().contains("wants no more"), "{callback}");
    let record = world.events("callback-parked").await.pop().unwrap();
    assert_eq!((&record["operation"], &record["attempts"]), (&json!(id), &json!(1)));

    let path = format!("/v1/operations/{id}/callback");
    // Another caller, who may not see it, cannot have it sent.
    world.send(world.request("portal", "POST", &path).await).await.problem(404, "unknown-operation");
    world.send(world.request("helpdesk", "POST", &path).await).await.problem(403, "not-permitted");
    let resent = world.send(world.request("servicenow", "POST", &path).await).await.expect(202);
    assert_eq!(resent.id(), id);
    let callback = callbacks.callback(&id, "delivered").await;
    assert_eq!(callback["attempts"], 2);
    // A delivered callback can be sent again; one in flight cannot.
    callbacks.receiver.hold();
    world.send(world.request("servicenow", "POST", &path).await).await.expect(202);
    let taken = callbacks.receiver.received(3).await;
    world.send(world.request("servicenow", "POST", &path).await).await.problem(409, "nothing-to-resend");
    callbacks.receiver.release();
    callbacks.callback(&id, "delivered").await;
    assert!(taken.iter().all(|it| it.id() == taken[0].id()));
    assert_eq!(world.events("callback-resent").await.len(), 2);

    let without = world.change(&add("Sales ESP", &group(2))).await.expect(200).id();
    let path = format!("/v1/operations/{without}/callback");
    world.send(world.request("servicenow", "POST", &path).await).await.problem(409, "nothing-to-resend");
    let nowhere = "/v1/operations/op_00000000000000000000000001/callback";
    world.send(world.request("servicenow", "POST", nowhere).await).await.problem(404, "unknown-operation");
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_names_a_pause_is_not_called_before_it_is_over() {
    // However much it says besides.
    for (status, length) in [(429, 0), (503, 20 * 1024)] {
        let callbacks = CallbackWorld::start().await;
        callbacks.receiver.answer(&[(status, Some(("retry-after", "3600")))]);
        callbacks.receiver.answer_at_length(length);
        let first = callbacks
            .world
            .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
            .await
            .expect(200)
            .id();
        callbacks.receiver.received(1).await;
        let second = callbacks
            .world
            .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(2)), 2))
            .await
            .expect(200)
            .id();
        assert!(pause_before_the_next(&callbacks, &first).await.as_secs() > 3_500, "{status}");
        // The pause holds for all that it would get.
        let waiting = callbacks.world.operation(&second).await.body["callback"].clone();
        assert_eq!((&waiting["state"], &waiting["attempts"]), (&json!("pending"), &json!(0)));
        assert_eq!(callbacks.receiver.taken().len(), 1);
        callbacks.end().await;
    }
}

/// How long it is until the callback of an operation is attempted again, once an attempt was in vain.
async fn pause_before_the_next(callbacks: &CallbackWorld, id: &str) -> Duration {
    let now = postern::clock::Clock::system().now();
    loop {
        let callback = callbacks.callback(id, "pending").await;
        if let (Some(next), Some(_)) = (callback["next_attempt_at"].as_str(), callback["last_error"].as_str()) {
            return postern::clock::until(now, next.parse().unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_delivered_in_its_time_is_parked() {
    let callbacks = CallbackWorld::with("", &[("CALLBACKS__GIVE_UP_AFTER", "1s")]).await;
    callbacks.receiver.answer_always(500);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    let callback = callbacks.callback(&id, "parked").await;
    assert_eq!((&callback["last_status"], &callback["next_attempt_at"]), (&json!(500), &Value::Null));
    callbacks.end().await;
}

/// The metrics of a newly started gateway on undelivered callbacks: pending, parked, and the age in seconds of the
/// oldest pending one.
async fn counted(callbacks: &mut CallbackWorld) -> [String; 3] {
    callbacks.world.take_gateway().stop().await;
    let process = Process::start(&callbacks.world, &[]);
    let names = [
        "postern_callbacks_undelivered{postern_callback_state=\"pending\"",
        "postern_callbacks_undelivered{postern_callback_state=\"parked\"",
        "postern_callbacks_oldest_age_seconds{",
    ];
    let mut told = None;
    for _ in 0..TRIES {
        let shown = got(callbacks.world.client.get(format!("{}/metrics", process.admin_url))).await.expect(200).text;
        let line = |name| shown.lines().find(|line| line.starts_with(name));
        let value = |name| line(name).and_then(|line| Some(line.rsplit_once(' ')?.1.to_owned()));
        let values: Option<Vec<_>> = names.into_iter().map(value).collect();
        if values.is_some() {
            told = values;
            break;
        }
        tokio::task::yield_now().await;
    }
    let (status, log) = process.stop();
    assert!(status.success(), "{status}: {log}");
    callbacks.world.start_gateway().await;
    told.unwrap().try_into().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_show_pending_and_parked_callbacks_and_the_oldest_age() {
    let mut callbacks = CallbackWorld::start().await;
    assert_eq!(counted(&mut callbacks).await, ["0", "0", "0"], "what there is none of is told as none");
    // The receiver is down.
    callbacks.receiver.answer_always(500);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    callbacks.receiver.received(1).await;
    let [pending, parked, oldest_age] = counted(&mut callbacks).await;
    assert_eq!([pending, parked], ["1", "0"]);
    assert!(oldest_age.parse::<f64>().unwrap() > 0.0, "{oldest_age}");
    // It is up again, and rejects the next one.
    callbacks.receiver.answer_always(204);
    callbacks.callback(&id, "delivered").await;
    assert_eq!(counted(&mut callbacks).await, ["0", "0", "0"]);
    callbacks.receiver.answer(&[(410, None)]);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(2)), 2))
        .await
        .expect(200)
        .id();
    callbacks.callback(&id, "parked").await;
    assert_eq!(counted(&mut callbacks).await, ["0", "1", "0"]);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_says_itself_which_statuses_mean_that_it_has_the_message() {
    let callbacks = CallbackWorld::with("delivered = [\"200\", \"201\", \"204\"]", &[]).await;
    callbacks.receiver.answer(&[(202, None), (201, None)]);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    let callback = callbacks.callback(&id, "delivered").await;
    assert_eq!((&callback["attempts"], &callback["last_status"]), (&json!(2), &json!(201)));
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_secrets_sign_while_one_takes_the_others_place() {
    let callbacks = CallbackWorld::with("previous_secret_file = \"SECRETS/credential\"", &[]).await;
    // A malformed secret does not keep the valid one from signing.
    callbacks.world.change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1)).await.expect(200);
    assert!(callbacks.receiver.received(1).await[0].is_signed_with(STANDARD_SECRET));
    std::fs::write(callbacks.secrets.path().join("credential"), STANDARD_SECRET).unwrap();
    std::fs::write(callbacks.secrets.path().join("signing"), NEXT_SECRET).unwrap();
    callbacks.world.change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(2)), 2)).await.expect(200);
    let taken = callbacks.receiver.received(2).await;
    assert!(taken[1].is_signed_with(STANDARD_SECRET) && taken[1].is_signed_with(NEXT_SECRET), "{:?}", taken[1]);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_secret_nothing_is_sent_and_it_is_told_why() {
    let callbacks = CallbackWorld::start().await;
    std::fs::remove_file(callbacks.secrets.path().join("signing")).unwrap();
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    let mut callback = Value::Null;
    while callback["last_error"].is_null() {
        callback = callbacks.callback(&id, "pending").await;
    }
    assert!(callback["last_error"].as_str().unwrap().contains("cannot read the secret that is needed"), "{callback}");
    assert!(callbacks.receiver.taken().is_empty());
    std::fs::write(callbacks.secrets.path().join("signing"), STANDARD_SECRET).unwrap();
    callbacks.callback(&id, "delivered").await;
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_gets_the_proof_that_it_asks_for() {
    let secret = "a credential of 32 characters at least";
    for (authentication, header, expected) in [
        ("bearer", "authorization", format!("Bearer {secret}")),
        ("basic", "authorization", "Basic YSBjcmVkZW50aWFsIG9mIDMyIGNoYXJhY3RlcnMgYXQgbGVhc3Q=".to_owned()),
        ("servicenow-hmac", "x-sn-hmac-signature-256", String::new()),
    ] {
        let more = format!("authentication = \"{authentication}\"\ncredential_file = \"SECRETS/credential\"");
        let callbacks = CallbackWorld::with(&more, &[]).await;
        callbacks.world.change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1)).await.expect(200);
        let [taken] = callbacks.receiver.received(1).await.try_into().unwrap();
        let expected = if expected.is_empty() { hmac(secret, &taken.text) } else { expected };
        assert_eq!(taken.headers[header], expected, "{authentication}");
        assert!(taken.is_signed_with(STANDARD_SECRET));
        callbacks.end().await;
    }
}

/// A destination that is called with tokens of its receiver's endpoint, four times at once at most.
async fn by_token() -> CallbackWorld {
    let receiver = Receiver::start();
    let url = receiver.url.clone();
    let more = format!(
        "authentication = \"oauth\"\ncredential_file = \"SECRETS/credential\"\ntoken_url = \"{url}/token\"\nclient_id = \"postern\"\nscope = \"useraccount\"\ncalls_at_once_max = 4"
    );
    CallbackWorld::of(&url, &more, &[("CALLBACKS__TIMEOUT", "1m")], receiver).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_once_and_again_when_it_is_refused() {
    let callbacks = by_token().await;
    for number in [1, 2] {
        let id = callbacks
            .world
            .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(number)), number))
            .await
            .expect(200)
            .id();
        callbacks.callback(&id, "delivered").await;
    }
    callbacks.receiver.answer(&[(401, None)]);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(6)), 6))
        .await
        .expect(200)
        .id();
    callbacks.callback(&id, "delivered").await;
    let taken = callbacks.receiver.taken();
    let tokens: Vec<_> = taken.iter().map(|taken| taken.headers["authorization"].as_str()).collect();
    assert_eq!(tokens, ["Bearer token-1", "Bearer token-1", "Bearer token-1", "Bearer token-2"]);
    let expected = "grant_type=client_credentials&client_id=postern&client_secret=a+credential+of+32+characters+at+least&scope=useraccount";
    assert_eq!(callbacks.receiver.asked_for_tokens(), [expected; 2]);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_endpoint_that_names_a_pause_is_not_asked_by_every_callback_that_is_due() {
    let callbacks = by_token().await;
    callbacks.receiver.give_no_token((429, Some(("retry-after", "3600"))));
    callbacks.receiver.hold_tokens();
    let mut ids = Vec::new();
    let end = async |number: usize| {
        let group = group(1 + number % 2);
        let change = if number % 4 < 2 { add("Sales ESP", &group) } else { remove("Sales ESP", &group) };
        callbacks.world.change(&callbacks.with_callback_to_receiver(change, number)).await.expect(200).id()
    };
    // All that are attempted at once wait for the same token.
    for number in 0..4 {
        let id = end(number).await;
        while callbacks.callback(&id, "pending").await["attempts"] == 0 {}
        ids.push(id);
    }
    callbacks.receiver.release_tokens();
    for id in &ids {
        assert!(pause_before_the_next(&callbacks, id).await.as_secs() > 3_500);
        let callback = callbacks.callback(id, "pending").await;
        assert_eq!((&callback["attempts"], &callback["last_status"]), (&json!(1), &json!(429)), "{callback}");
        assert_eq!(callback["last_error"], "the token endpoint answered 429");
    }
    for number in 4..20 {
        let id = end(number).await;
        assert_eq!(callbacks.callback(&id, "pending").await["attempts"], 0);
    }
    assert_eq!(callbacks.receiver.asked_for_tokens().len(), 1);
    assert!(callbacks.receiver.taken().is_empty());
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_of_an_old_token_does_not_cost_the_new_one() {
    let callbacks = by_token().await;
    callbacks.receiver.hold();
    callbacks.receiver.answer(&[(401, None), (401, None)]);
    let mut ids = Vec::new();
    for number in [1, 2] {
        ids.push(
            callbacks
                .world
                .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(number)), number))
                .await
                .expect(200)
                .id(),
        );
        callbacks.receiver.received(number).await;
    }
    // The first is refused and sent again with a new token, while the second still waits for its answer.
    callbacks.receiver.hold_after(1);
    callbacks.receiver.received(3).await;
    callbacks.receiver.release();
    for id in &ids {
        callbacks.callback(id, "delivered").await;
    }
    let taken = callbacks.receiver.taken();
    let tokens: Vec<_> = taken.iter().map(|taken| taken.headers["authorization"].as_str()).collect();
    assert_eq!(tokens, ["Bearer token-1", "Bearer token-1", "Bearer token-2", "Bearer token-2"]);
    assert_eq!(callbacks.receiver.asked_for_tokens().len(), 2);
    callbacks.end().await;
}

fn hmac(secret: &str, body: &str) -> String {
    use aws_lc_rs::hmac::{HMAC_SHA256, Key, sign};
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(sign(&Key::new(HMAC_SHA256, secret.as_bytes()), body.as_bytes()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_holds_up_no_other() {
    let (slow, quick) = (Receiver::start(), Receiver::start());
    let (url, quick_url) = (slow.url.clone(), quick.url.clone());
    let other = format!(
        "network = \"loopback\"\ncalls_at_once_max = 1\n[[destinations]]\nname = \"quick\"\nurl = \"{quick_url}\"\nnetwork = \"loopback\"\nsecret_file = \"SECRETS/signing\"\n"
    );
    let mut callbacks = CallbackWorld::of(&url, &other, &[], slow).await;
    // Both belong to servicenow.
    let file = callbacks.world.config_file();
    let text = std::fs::read_to_string(&file).unwrap().replace("[\"desk\"]", "[\"desk\", \"quick\"]");
    std::fs::write(&file, text).unwrap();
    callbacks.world.restart().await;
    callbacks.receiver.hold();
    for number in [1, 2] {
        callbacks
            .world
            .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(number)), number))
            .await
            .expect(200);
    }
    callbacks.receiver.received(1).await;
    let to_quick = json!({"url": format!("{quick_url}/x")});
    let id = callbacks.world.change(&with_callback(add("Sales ESP", &group(6)), to_quick)).await.expect(200).id();
    callbacks.callback(&id, "delivered").await;
    assert_eq!(callbacks.receiver.taken().len(), 1, "one at once, as it is set");
    callbacks.receiver.release();
    callbacks.receiver.received(2).await;
    quick.end().await;
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_called_that_is_not_set_up_for_the_caller_however_it_is_written() {
    let callbacks = CallbackWorld::start().await;
    let port = callbacks.receiver.url.rsplit(':').next().unwrap().to_owned();
    for url in [
        callbacks.receiver.url.clone(),
        format!("{}/apix", callbacks.receiver.url),
        format!("{}/api/../admin", callbacks.receiver.url),
        format!("{}/api/%2e%2e/admin", callbacks.receiver.url),
        format!("{}/api/..;/admin", callbacks.receiver.url),
        format!("https://127.0.0.1:{port}/api"),
        format!("http://localhost:{port}/api"),
        format!("http://127.0.0.1:{port}@evil.example/api"),
        format!("http://user:word@127.0.0.1:{port}/api"),
        format!("http://evil.example\\@127.0.0.1:{port}/api"),
        format!("http://localhost.:{port}/api"),
        format!("http://[::ffff:127.0.0.1]:{port}/api"),
        "http://169.254.169.254/latest/meta-data".to_owned(),
        "https://metadata.google.internal/api".to_owned(),
        "https://evil.example/api".to_owned(),
        "file:///etc/passwd".to_owned(),
        "not a url".to_owned(),
    ] {
        refused(&callbacks.world, json!({ "url": url })).await;
    }
    // It has no default destination, and other callers have none at all.
    refused(&callbacks.world, json!({"context": 1})).await;
    // What cannot be sent back as it came is not taken.
    let body = add("Sales ESP", &group(1)).to_string();
    let body = body.replacen('{', r#"{"callback":{"context":{"id":98765432109876543210123}},"#, 1);
    let request = callbacks.world.request("servicenow", "POST", ASSIGNMENTS).await;
    let problem = callbacks.world.send(request.header("content-type", "application/json").body(body)).await;
    let problem = problem.problem(400, "malformed-json");
    assert!(problem.text.contains("98765432109876543210123"), "{}", problem.text);
    let change = with_callback(add("Kiosk ESP", &group(2)), json!({"url": callbacks.url()}));
    let portal = callbacks.world.post("portal", ASSIGNMENTS, &change, &[]).await.problem(422, "invalid-change");
    assert_eq!(portal.body["errors"][0]["pointer"], "/callback/url");
    let wrong = with_callback(add("Sales ESP", &group(1)), json!({"url": 7, "uri": "x", "context": "y".repeat(5_000)}));
    let errors = callbacks.world.post("servicenow", ASSIGNMENTS, &wrong, &[]).await.problem(422, "invalid-change").body;
    let pointers: Vec<_> = errors["errors"].as_array().unwrap().iter().map(|it| it["pointer"].clone()).collect();
    assert_eq!(pointers, ["/callback/uri", "/callback/context", "/callback/url"]);
    assert!(callbacks.world.assigns().await.is_empty() && callbacks.receiver.taken().is_empty());
    // An address is the same however it is spelt.
    for (sent, host) in (1..).zip(["0x7f.1", "2130706433", "0177.0.0.1", "127.0.0.1."]) {
        let same = json!({"url": format!("http://{host}:{port}/api")});
        let id = callbacks.world.change(&with_callback(add("Sales ESP", &group(1)), same)).await.expect(200).id();
        assert_eq!(callbacks.callback(&id, "delivered").await["url"], format!("{}/api", callbacks.receiver.url));
        assert_eq!(callbacks.receiver.taken().len(), sent);
    }
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_a_query_is_sent_and_never_shown() {
    let mut callbacks = CallbackWorld::start().await;
    callbacks.world.take_gateway().stop().await;
    let process = Process::start(&callbacks.world, &[("POSTERN__TELEMETRY__LOG_FILTER", "postern=trace")]);
    callbacks.receiver.answer(&[(500, None)]);
    let url = format!("{}?api-version=1&sig=c2lnbmF0dXJl", callbacks.url());
    let told = |url: &str| with_callback(add("Sales ESP", &group(1)), json!({ "url": url }));
    let id = process.post(&callbacks.world, &told(&url), &traceparent(1)).await.expect(202).id();
    assert_eq!(callbacks.receiver.received(2).await[1].path, "/api/postern?api-version=1&sig=c2lnbmF0dXJl");
    let shown = process.end_of(&callbacks.world, &id).await;
    let (status, log) = process.stop();
    assert!(status.success() && log.contains("callback"), "{log}");
    callbacks.world.start_gateway().await;
    let callback = callbacks.callback(&id, "delivered").await;
    assert_eq!(callback["url"], format!("{}?\u{2026}", callbacks.url()));
    let trail = Value::from(callbacks.world.audit().await).to_string();
    for (place, text) in [("log", &log), ("operation", &shown.text), ("trail", &trail)] {
        for hidden in ["c2lnbmF0dXJl", STANDARD_SECRET.trim_start_matches("whsec_")] {
            assert!(!text.contains(hidden), "{hidden} is in the {place}");
        }
    }
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callback_addresses_are_checked_at_each_call() {
    for (host, network) in [("localhost", "public"), ("localhost", "private"), ("127.0.0.1", "private")] {
        let receiver = Receiver::start();
        let url = receiver.url.replace("http://127.0.0.1", &format!("https://{host}"));
        let callbacks = CallbackWorld::of(&url, &format!("network = \"{network}\""), &[], receiver).await;
        let change = with_callback(add("Sales ESP", &group(1)), json!({"url": format!("{url}/api")}));
        let id = callbacks.world.change(&change).await.expect(200).id();
        let mut callback = Value::Null;
        while callback["last_error"].is_null() {
            callback = callbacks.callback(&id, "pending").await;
        }
        assert!(callback["last_error"].as_str().unwrap().contains("so it is not called"), "{callback}");
        assert_eq!(callback["last_status"], Value::Null);
        assert!(callbacks.receiver.taken().is_empty());
        callbacks.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_callback_url_applies_to_changes_and_reversals_that_name_none() {
    let mut callbacks = CallbackWorld::start().await;
    let file = callbacks.world.config_file();
    let usual = format!("destinations = [\"desk\"]\ncallback_url = \"{}\"\n", callbacks.url());
    let text = std::fs::read_to_string(&file).unwrap().replace("destinations = [\"desk\"]\n", &usual);
    std::fs::write(&file, text).unwrap();
    callbacks.world.restart().await;
    let id = callbacks.world.change(&add("Sales ESP", &group(1))).await.expect(200).id();
    assert_eq!(callbacks.receiver.received(1).await[0].body()["data"]["context"], Value::Null);
    callbacks.world.change(&with_callback(add("Sales ESP", &group(2)), json!({"context": "mine"}))).await.expect(200);
    assert_eq!(callbacks.receiver.received(2).await[1].body()["data"]["context"], "mine");
    let path = format!("/v1/operations/{id}/revert");
    callbacks.world.post("servicenow", &path, &json!({}), &[("prefer", "wait=20")]).await.expect(200);
    assert_eq!(callbacks.receiver.received(3).await[2].body()["data"]["operation"]["reverts"], id);
    assert!(!callbacks.world.groups(SALES_ESP).await.contains(&group(1)));
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callback_whose_destination_was_taken_away_waits_and_says_so() {
    let mut callbacks = CallbackWorld::start().await;
    callbacks.receiver.answer_always(500);
    let id = callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), 1))
        .await
        .expect(200)
        .id();
    callbacks.receiver.received(1).await;
    callbacks.world.take_gateway().stop().await;
    let attempts = callbacks.receiver.taken().len();
    let file = callbacks.world.config_file();
    let renamed = std::fs::read_to_string(&file).unwrap().replace("\"desk\"", "\"other\"");
    std::fs::write(&file, renamed).unwrap();
    callbacks.world.start_gateway().await;
    let mut callback = callbacks.callback(&id, "pending").await;
    while !callback["last_error"].as_str().unwrap_or_default().contains("no longer set up") {
        callback = callbacks.callback(&id, "pending").await;
    }
    assert_eq!(callbacks.receiver.taken().len(), attempts);
    callbacks.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_published_libraries_verify_what_is_sent() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/target/webhooks");
    let programs = [
        (
            format!("{root}/python/bin/python"),
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/webhooks/verify.py").to_owned(),
        ),
        ("node".to_owned(), format!("{root}/node/verify.mjs")),
    ];
    let callbacks = CallbackWorld::start().await;
    let context = json!({"name": "J\u{fc}rgen \u{1f3f0}", "sys_id": "46d44a"});
    callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), context))
        .await
        .expect(200);
    let [taken] = callbacks.receiver.received(1).await.try_into().unwrap();
    for (program, script) in &programs {
        let verdict = |secret: &str, body: &str| {
            let header = |name: &str| taken.headers[name].as_str();
            let run = std::process::Command::new(program)
                .args([
                    script,
                    secret,
                    header("webhook-id"),
                    header("webhook-timestamp"),
                    header("webhook-signature"),
                    body,
                ])
                .output()
                .unwrap_or_else(|error| panic!("{program}: {error}; tests/webhooks/run installs the libraries"));
            String::from_utf8(run.stdout).unwrap() + &String::from_utf8(run.stderr).unwrap()
        };
        assert_eq!(verdict(STANDARD_SECRET, &taken.text).trim(), "verified", "{program}");
        assert_eq!(verdict(NEXT_SECRET, &taken.text).trim(), "refused", "{program}");
        assert_eq!(verdict(STANDARD_SECRET, &taken.text.replace("succeeded", "failed")).trim(), "refused", "{program}");
    }
    callbacks.end().await;
}
