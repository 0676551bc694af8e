//! Test vectors computed by other programs, invalid keys, and what must not happen for any message.

use proptest::prelude::*;

use super::{presets::PRESETS, presets::Preset, *};

const SECRET: &str = "a shared secret of 32 characters";
const BODY: &[u8] = br#"{"type":"employee.hired","data":{"id":7}}"#;

fn key(secret: &str, scheme: &Scheme) -> Key {
    Key::read(secret, scheme.keys, scheme.hash).unwrap()
}

fn preset(name: &str) -> Scheme {
    Preset::named(name).unwrap().scheme()
}

/// Computed by Python's `hmac`, and for SHA-256 in hex by `openssl dgst -sha256 -hmac`: GitHub's from its own page on
/// validating deliveries; Standard Webhooks' from its libraries' tests, and `v1a` by `crypto.sign` of Node.
#[test]
fn signatures_that_others_made_are_accepted_and_made_alike() {
    let (id, time) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
    let test: &[u8] = br#"{"test": 2432232314}"#;
    let none = "";
    let plain = "b7668d86a7ed708ca71b6d0f8bbb25aec94c0df8e39123ab2dc14f81957e40c5";
    for (name, secret, (id, timestamp, body), signature) in [
        (
            "github",
            "It's a Secret to Everybody",
            (none, none, b"Hello, World!".as_slice()),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17",
        ),
        ("github", SECRET, (none, none, BODY), &format!("sha256={plain}")),
        ("jira", SECRET, (none, none, BODY), &format!("sha256={plain}")),
        ("greenhouse", SECRET, (none, none, BODY), &format!("sha256 {plain}")),
        ("servicenow-hmac", SECRET, (none, none, BODY), "t2aNhqftcIynG20Pi7slrslMDfjjkSOrLcFPgZV+QMU="),
        ("zendesk", SECRET, (none, "2026-03-01T08:00:00Z", BODY), "KcgXamk34sw7hz7auAYlB9yIwWXm/d/TJlrg98+HJwY="),
        ("zendesk", SECRET, (none, "2026-03-01T08:00:00Z", b""), "i2Zlgg3bNEP6mB/gP9NVl27qvsCuMVWXpg7JdiL+iGg="),
        (
            "bamboohr",
            SECRET,
            (none, "1772352000", BODY),
            "3d201f5fd7fe19e8069537bba01a380324c7656baa2b1a15d33a1621cd709139",
        ),
        (
            "hibob",
            SECRET,
            (none, none, BODY),
            "aRcfR9ymOw2ylJgBwaAe+T5V+NXJKlt+/mavbpx49kXuXl8GUan6Y2WAXTnyt9XowfnkDT2qGZw81rh5r0RiJw==",
        ),
        ("deel", SECRET, (none, none, BODY), "c1d68cca1eade28ecda42028ee336468a33a19f6f4ab63af38234363e75c1e8d"),
        (
            "standard-webhooks",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            (id, time, test),
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        ),
        (
            "standard-webhooks",
            "whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA==",
            (id, time, test),
            "v1a,yoUrgEkc12aGqm0n4Sydmdz55xJfTz4AsAgieHFjmkR7LJtqVCZOQYzvvHjI5kAey+r4iaBGxTFRrl2iBQxtDQ==",
        ),
    ] {
        let scheme = preset(name);
        let message = Message { id, timestamp, body };
        let ours = key(secret, &scheme);
        assert_eq!(scheme.sign(&ours, message).unwrap(), signature, "{name}");
        let verifying = match secret.strip_prefix("whsk_") {
            Some(_) => key("whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=", &scheme),
            None => ours,
        };
        assert!(scheme.verify(&[verifying], message, signature), "{name}");
    }
}

#[test]
fn hexadecimal_digits_have_either_case_and_prefixes_have_their_own() {
    let scheme = preset("github");
    let keys = [key(SECRET, &scheme)];
    let message = Message { id: "", timestamp: "", body: BODY };
    let signature = scheme.sign(&keys[0], message).unwrap();
    let (prefix, digits) = signature.split_at(7);
    let (most, _) = digits.split_at(62);
    assert!(scheme.verify(&keys, message, &format!("{prefix}{}", digits.to_uppercase())));
    let wrong = [
        digits.to_owned(),
        format!("SHA256={digits}"),
        format!("{prefix}{prefix}{digits}"),
        format!("{prefix}{most}"),
        format!("{signature}00"),
        format!("{signature} {signature}"),
        format!("{signature},{signature}"),
        prefix.to_owned(),
        String::new(),
        format!("{prefix}{most}\u{e9}"),
    ];
    for wrong in wrong {
        assert!(!scheme.verify(&keys, message, &wrong), "{wrong}");
    }
}

#[test]
fn a_list_of_signatures_serves_rotation_and_each_counts_for_its_own_version() {
    let scheme = preset("standard-webhooks");
    let (old, new) = (format!("whsec_{}", STANDARD.encode([1; 32])), format!("whsec_{}", STANDARD.encode([2; 24])));
    let message = Message { id: "m", timestamp: "1", body: BODY };
    let [old, new] = [old, new].map(|secret| key(&secret, &scheme));
    let signatures = [&old, &new].map(|key| scheme.sign(key, message).unwrap());
    let list = signatures.join(" ");
    assert!(scheme.verify(&[old], message, &list));
    assert!(scheme.verify(&[new], message, &list));
    let public = key("whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=", &scheme);
    assert!(!scheme.verify(&[public], message, &list));
    let mislabelled = list.replace("v1,", "v1a,");
    let (one, other) = mislabelled.split_once(' ').unwrap();
    assert!(!scheme.verify(&[key("whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=", &scheme)], message, one));
    assert!(!scheme.verify(&[key("whpk_A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg=", &scheme)], message, other));
}

#[test]
fn more_signatures_than_a_rotation_needs_are_not_looked_at() {
    let scheme = preset("standard-webhooks");
    let keys = [key(&format!("whsec_{}", STANDARD.encode([1; 32])), &scheme)];
    let message = Message { id: "m", timestamp: "1", body: BODY };
    let good = scheme.sign(&keys[0], message).unwrap();
    let behind = |count| format!("{}{good}", "v1,AA== ".repeat(count));
    assert!(scheme.verify(&keys, message, &behind(SIGNATURES_MAX - 1)));
    assert!(!scheme.verify(&keys, message, &behind(SIGNATURES_MAX)));
}

#[test]
fn a_secret_that_is_none_is_told_without_showing_it() {
    let long = STANDARD.encode([7; 65]);
    for (secret, fault) in [
        ("x", KeyFault::Form),
        ("whsec_%", KeyFault::Form),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", KeyFault::Form),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La", KeyFault::Length),
        ("whsec_", KeyFault::Length),
        ("whsec_c2hvcnQ=", KeyFault::Length),
        (&format!("whsec_{long}"), KeyFault::Length),
        ("whsek_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", KeyFault::Form),
        ("whpk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", KeyFault::Length),
        ("whsk_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", KeyFault::Length),
        (
            &"whsk_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8DoQe/884Qvh1w3RjnS8CZZ+TWMJulDV8d3IZkElUxuA=="
                .replacen("AAEC", "BBEC", 1),
            KeyFault::Form,
        ),
    ] {
        let told = Key::read(secret, KeyForm::Standard, Hash::Sha256);
        assert_eq!(told.map(|key| format!("{key:?}")), Err(fault), "{secret}");
    }
    assert_eq!(Key::read("fifteen letters", KeyForm::Plain, Hash::Sha256).unwrap_err(), KeyFault::Short);
    let shown = format!("{:?}", Key::read(SECRET, KeyForm::Plain, Hash::Sha512).unwrap());
    assert_eq!(shown, "Key(shared)");
}

#[test]
fn what_is_signed_is_read_from_a_template_or_refused() {
    let text = |text: &str| Piece::Text(text.to_owned());
    assert_eq!(pieces("v0:{timestamp}:{body}").unwrap(), [text("v0:"), Piece::Timestamp, text(":"), Piece::Body]);
    assert_eq!(pieces("{body}}").unwrap(), [Piece::Body, text("}")]);
    for template in ["", "body", "{timestamp}", "{body}{body}", "{body}{ts}", "{body", "{id}{id}{body}", "{}{body}"] {
        assert!(pieces(template).is_err(), "{template}");
    }
    for preset in PRESETS {
        let scheme = preset.scheme();
        assert!(scheme.signed.contains(&Piece::Body), "{}", preset.name);
        assert_eq!(scheme.signed.contains(&Piece::Id), scheme.id_header.is_some(), "{}", preset.name);
        assert_eq!(scheme.signed.contains(&Piece::Timestamp), scheme.timestamp_header.is_some(), "{}", preset.name);
    }
}

#[test]
fn a_time_is_written_in_seconds_milliseconds_or_as_a_date() {
    let eight: Timestamp = "2026-03-01T08:00:00Z".parse().unwrap();
    for text in ["1772352000", "1772352000000", "2026-03-01T08:00:00Z", "2026-03-01T09:00:00+01:00"] {
        assert_eq!(moment(text), Some(eight), "{text}");
    }
    for text in ["", "-1", "+1", "1e9", " 1772352000", "99999999999999999999", "yesterday", "2026-03-01", "\u{661}"] {
        assert_eq!(moment(text), None, "{text}");
    }
}

#[test]
fn a_message_is_fresh_within_the_tolerance_on_both_sides() {
    let now = moment("1772352000").unwrap();
    let tolerance = Duration::from_mins(5);
    for (other, fresh) in [
        ("1772351700", true),
        ("1772352300", true),
        ("1772351699", false),
        ("1772352301", false),
        ("0", false),
        ("99999999999", false),
    ] {
        assert_eq!(is_fresh(moment(other).unwrap(), now, tolerance), fresh, "{other}");
    }
}

#[test]
fn secrets_are_the_same_only_if_all_of_them_is() {
    assert!(constant_time_eq(b"one", b"one"));
    for other in ["", "on", "one ", "One", "onf"] {
        assert!(!constant_time_eq(b"one", other.as_bytes()), "{other}");
    }
}

fn any_scheme() -> impl Strategy<Value = Scheme> {
    let hash = prop_oneof![Just(Hash::Sha256), Just(Hash::Sha384), Just(Hash::Sha512)];
    let encoding = prop_oneof![Just(Encoding::Hex), Just(Encoding::Base64)];
    let template = prop_oneof![
        Just("{body}"),
        Just("{timestamp}.{body}"),
        Just("{body}{timestamp}"),
        Just("{id}.{timestamp}.{body}"),
        Just("v0:{timestamp}:{body}"),
    ];
    (hash, encoding, template, "[ -~]{0,10}").prop_map(|(hash, encoding, template, prefix)| Scheme {
        signature_header: "x".to_owned(),
        // White space around a header's value is not part of the signature.
        prefix: prefix.trim().to_owned(),
        encoding,
        hash,
        signed: pieces(template).unwrap(),
        id_header: None,
        timestamp_header: None,
        keys: KeyForm::Plain,
    })
}

proptest! {
    #[test]
    fn what_is_signed_verifies_and_with_any_byte_flipped_it_does_not(
        scheme in any_scheme(),
        secret in "[ -~]{16,80}",
        body in prop::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in 1..=255_u8,
    ) {
        let keys = [key(&secret, &scheme)];
        let message = Message { id: "msg_1", timestamp: "1772352000", body: &body };
        let signature = scheme.sign(&keys[0], message).unwrap();
        prop_assert!(scheme.verify(&keys, message, &signature));

        let mut altered = body.clone();
        if altered.is_empty() { altered.push(flip) } else { altered[at.index(body.len())] ^= flip }
        let forged = Message { body: &altered, ..message };
        prop_assert!(!scheme.verify(&keys, forged, &signature));

        let mut raw = scheme.decoded(&signature).unwrap();
        let length = raw.len();
        raw[at.index(length)] ^= flip;
        prop_assert!(!keys[0].verifies(&scheme.content(message), &raw));
        raw.truncate(at.index(length));
        prop_assert!(!keys[0].verifies(&scheme.content(message), &raw));

        let other = [key(&format!("{secret}x"), &scheme)];
        prop_assert!(!scheme.verify(&other, message, &signature));
    }

    #[test]
    fn no_header_makes_the_verifier_panic_or_agree(header in ".{0,200}", secret in "[ -~]{16,40}") {
        for preset in PRESETS.iter().filter(|preset| preset.name != "standard-webhooks") {
            let scheme = preset.scheme();
            let message = Message { id: "", timestamp: "1", body: BODY };
            prop_assert!(!scheme.verify(&[key(&secret, &scheme)], message, &header));
        }
        std::hint::black_box((moment(&header), pieces(&header).is_ok()));
        std::hint::black_box(Key::read(&header, KeyForm::Standard, Hash::Sha256).is_ok());
    }
}
