//! Issuers' keys: fetched, renewed, withdrawn, and issuers that are down.

use super::*;

#[tokio::test]
async fn a_new_key_is_fetched_when_a_token_needs_it_and_a_withdrawn_one_ends_with_the_set() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.publish(&[rsa_jwk(1, "b")]);
    world.token(&honest()).await.unwrap();
    world.token(&signed(1, &header(json!({ "kid": "b" })), &claims(json!({})))).await.unwrap();
    assert_eq!(world.entra.asked(), 2);
    world.elapsed += REFRESH_MIN;
    assert!(matches!(world.token(&honest()).await, Err(Rejection::Invalid(_))));
}

#[tokio::test]
async fn unknown_keys_cause_one_fetch_in_a_while_and_lock_nobody_out() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    for kid in ["x", "y", "z"] {
        world.refused(&signed(1, &header(json!({ "kid": kid })), &claims(json!({})))).await;
    }
    assert_eq!(world.entra.asked(), 2);
    world.elapsed += REFRESH_MIN;
    for kid in ["x", "y", "z"] {
        world.refused(&signed(1, &header(json!({ "kid": kid })), &claims(json!({})))).await;
    }
    assert_eq!(world.entra.asked(), 3);
}

#[tokio::test]
async fn many_first_tokens_cause_one_fetch() {
    let world = World::new();
    let token = honest();
    let callers = join_all((0..20).map(|_| world.token(&token))).await;
    assert!(callers.iter().all(Result::is_ok));
    assert_eq!(world.entra.asked(), 1);
}

#[tokio::test]
async fn a_token_that_is_refused_anyway_causes_no_fetch() {
    let world = World::new();
    for members in [json!({ "alg": "HS256" }), json!({ "crit": [] }), json!({ "kid": "absent" })] {
        world.token(&signed(0, &header(members), &claims(json!({})))).await.unwrap_err();
    }
    assert_eq!(world.entra.asked(), 0);
}

#[tokio::test]
async fn last_good_keys_are_used_for_a_day_while_the_issuer_is_down() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    let huge = "x".repeat(300 * 1024);
    for (status, body) in [(500, ""), (200, "<html>"), (200, &*huge), (302, "")] {
        world.entra.fail(status, body);
        world.elapsed += HOUR;
        world.an_hour_later().await;
        world.token(&honest()).await.unwrap();
    }
    assert_eq!(world.entra.asked(), 5);
    world.elapsed = 25 * HOUR;
    let down = Err(Rejection::KeysUnavailable { issuer: "entra".to_owned() });
    assert_eq!(world.token(&honest()).await, down);
    // A dead issuer is not asked for each token, and is used again as soon as it is back.
    assert_eq!(world.token(&honest()).await, down);
    assert_eq!(world.entra.asked(), 6);
    world.entra.publish(&[rsa_jwk(0, "a")]);
    world.elapsed += Duration::from_secs(10);
    world.token(&honest()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_key_gives_keys_unavailable_while_the_issuer_is_down() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.fail(503, "");
    let token = signed(1, &header(json!({ "kid": "b" })), &claims(json!({})));
    for _ in 0..3 {
        assert!(matches!(world.token(&token).await, Err(Rejection::KeysUnavailable { .. })));
        world.elapsed += MINUTE;
    }
    assert_eq!(world.entra.asked(), 2);
    world.entra.publish(&[rsa_jwk(0, "a"), rsa_jwk(1, "b")]);
    world.elapsed += 2 * MINUTE;
    world.token(&token).await.unwrap();
}

#[tokio::test]
async fn a_set_is_renewed_after_its_time_and_a_withdrawn_key_ends_with_it() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.publish(&[rsa_jwk(1, "b")]);
    world.an_hour_later().await;
    assert!(matches!(world.token(&honest()).await, Err(Rejection::Invalid(_))));
    world.token(&signed(1, &header(json!({ "kid": "b" })), &claims(json!({})))).await.unwrap();
}

#[tokio::test]
async fn whoever_has_a_known_key_waits_for_no_fetch_of_another() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    for (asked, kid) in [(2, "b"), (3, "a")] {
        world.entra.stall();
        let (good, needy) = (honest(), signed(0, &header(json!({ "kid": kid })), &claims(json!({}))));
        let mut waiting = Box::pin(world.token(&needy));
        while world.entra.asked() < asked {
            assert_eq!((&mut waiting).now_or_never(), None);
            tokio::task::yield_now().await;
        }
        assert!(world.token(&good).now_or_never().unwrap().is_ok());
        assert_eq!((&mut waiting).now_or_never(), None);
        world.entra.go_on();
        assert_eq!(waiting.await.is_ok(), kid == "a");
        // The next round has a set whose lifetime is over.
        world.an_hour_later().await;
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_ends_no_fetch() {
    let world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.publish(&[rsa_jwk(0, "a"), rsa_jwk(1, "b")]);
    let rotated = signed(1, &header(json!({ "kid": "b" })), &claims(json!({})));
    for _ in 0..3 {
        assert_eq!(world.token(&rotated).now_or_never(), None);
    }
    world.token(&rotated).await.unwrap();
    assert_eq!(world.entra.asked(), 2);
}

#[tokio::test]
async fn all_whose_key_is_new_share_the_fetch_that_brings_it() {
    let world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.publish(&[rsa_jwk(1, "b")]);
    let rotated = signed(1, &header(json!({ "kid": "b" })), &claims(json!({})));
    let callers = join_all((0..20).map(|_| world.token(&rotated))).await;
    assert!(callers.iter().all(Result::is_ok));
    assert_eq!(world.entra.asked(), 2);
}

#[tokio::test]
async fn a_known_token_ends_with_its_key_even_if_another_key_takes_its_id() {
    let mut world = World::new();
    world.token(&honest()).await.unwrap();
    world.entra.publish(&[rsa_jwk(1, "a")]);
    world.an_hour_later().await;
    assert!(matches!(world.token(&honest()).await, Err(Rejection::Invalid(_))));
    // The key is back, and nothing was remembered against the token.
    world.entra.publish(&[rsa_jwk(0, "a")]);
    world.an_hour_later().await;
    world.token(&honest()).await.unwrap();
}

#[tokio::test]
async fn a_set_that_is_used_is_renewed_ahead_of_its_end_and_one_that_is_not_is_left_alone() {
    let world = World::new();
    let renew = async |minutes| {
        for trusted in &world.authenticator.issuers {
            trusted.keys.renew(Duration::from_mins(minutes)).await;
        }
        (world.entra.asked(), world.other.asked())
    };
    assert_eq!(renew(0).await, (0, 0));
    world.token(&honest()).await.unwrap();
    assert_eq!(renew(44).await, (1, 0));
    // The set is renewed before its hour is over, and the token of a withdrawn key is refused.
    world.entra.publish(&[rsa_jwk(1, "b")]);
    assert_eq!(renew(45).await, (2, 0));
    assert_eq!(renew(46).await, (2, 0));
    world.entra.fail(503, "");
    let rotated = signed(1, &header(json!({ "kid": "b" })), &claims(json!({})));
    world.token(&rotated).await.unwrap();
    assert!(world.token(&honest()).await.is_err());
    // A failed renewal affects nobody, and is tried again.
    let asked = world.entra.asked();
    assert_eq!(renew(90).await, (asked.saturating_add(1), 0));
    world.token(&rotated).await.unwrap();
    assert_eq!(renew(97).await, (asked.saturating_add(2), 0));
}

#[tokio::test]
async fn keys_are_found_by_the_metadata_of_the_very_issuer_and_by_no_others() {
    let named = |issuer: &str, keys: &str| json!({ "issuer": issuer, "jwks_uri": keys }).to_string();
    let ours = "https://entra.test/v2.0";
    let metadata = Published::new(&[]);
    let mut world = World::with(|issuer| issuer.keys = KeySource::Metadata(metadata.url.parse().unwrap()));
    let keys = world.entra.url.clone();
    for document in [
        named("https://entra.test/v2.0/", &keys),
        named("https://ENTRA.test/v2.0", &keys),
        named(ours, &keys.replace("127.0.0.1", "metadata.test")),
        named(ours, "file:///etc/passwd"),
        named(ours, "/keys"),
        named(ours, &keys.replace("//", "//user:word@")),
        json!({ "issuer": ours }).to_string(),
        "<html>".to_owned(),
        "x".repeat(300 * 1024),
    ] {
        metadata.fail(200, &document);
        assert!(matches!(world.token(&honest()).await, Err(Rejection::KeysUnavailable { .. })), "{document:.80}");
        world.elapsed += MINUTE;
    }
    assert_eq!((metadata.asked(), world.entra.asked()), (9, 0));
    metadata.fail(200, &named(ours, &keys));
    world.token(&honest()).await.unwrap();
    assert_eq!((metadata.asked(), world.entra.asked()), (10, 1));
}

#[test]
fn metadata_from_elsewhere_do_not_lead_to_this_machine() {
    let named = |metadata: &str, keys: &str| KeySource::named_by_metadata(&metadata.parse().unwrap(), keys).is_some();
    assert!(named("https://a.test/m", "https://b.test/k") && named("http://127.0.0.1:1/m", "http://127.0.0.1:2/k"));
    for keys in ["http://127.0.0.1:2/k", "http://[::1]/k", "http://localhost/k", "http://b.test/k"] {
        assert!(!named("https://a.test/m", keys), "{keys}");
    }
}
