//! What `jwt_tool` (2.2.7) tries: confusing values for every header and claim in turn, and for the registered claims.
//!
//! It uses its names and values, none of its code.

use serde_json::{Value, json};

use crate::attacked_gateway::AttackedGateway;

const HEADERS: [&str; 5] = ["typ", "jku", "kid", "x5u", "x5t"];
const CLAIMS: [&str; 59] = [
    "iss",
    "sub",
    "aud",
    "exp",
    "nbf",
    "iat",
    "jti",
    "name",
    "given_name",
    "family_name",
    "middle_name",
    "nickname",
    "preferred_username",
    "profile",
    "picture",
    "website",
    "email",
    "email_verified",
    "gender",
    "birthdate",
    "zoneinfo",
    "locale",
    "phone_number",
    "phone_number_verified",
    "address",
    "updated_at",
    "azp",
    "nonce",
    "auth_time",
    "at_hash",
    "c_hash",
    "acr",
    "amr",
    "sub_jwk",
    "cnf",
    "sip_from_tag",
    "sip_date",
    "sip_callid",
    "sip_cseq_num",
    "sip_via_branch",
    "orig",
    "dest",
    "mky",
    "events",
    "toe",
    "txn",
    "rph",
    "sid",
    "vot",
    "vtm",
    "attest",
    "origid",
    "act",
    "scope",
    "client_id",
    "may_act",
    "jcard",
    "at_use_nbr",
    "div",
];

/// The values for each, in addition to a string.
fn values(trap: &str) -> [Value; 6] {
    // The sandbox takes null as an order to leave the member out, so that is tried as well.
    [Value::Null, json!(true), json!(false), json!("jwt_tool"), json!(0), json!(trap)]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_or_claim_that_was_tampered_with_breaks_the_signature() {
    let attacked = AttackedGateway::start().await;
    let seen = attacked.seen().await;
    let [header, payload, signature] = &seen.parts;
    for value in values(&attacked.trap()) {
        for name in HEADERS {
            let mut tampered = seen.header.clone();
            tampered[name] = value.clone();
            attacked
                .refused(&format!("{}.{payload}.{signature}", crate::attacked_gateway::part(tampered.to_string())))
                .await;
        }
        for name in CLAIMS {
            let mut tampered = seen.claims.clone();
            tampered[name] = value.clone();
            attacked
                .refused(&format!("{header}.{}.{signature}", crate::attacked_gateway::part(tampered.to_string())))
                .await;
        }
    }
    attacked.end("jwt_tool's common headers and claims, tampered with").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn odd_claims_signed_by_the_issuer_never_change_the_caller() {
    let attacked = AttackedGateway::start().await;
    attacked.seen().await;
    for value in values(&attacked.trap()) {
        for name in HEADERS {
            let token = attacked.world.forge("servicenow", json!({}), json!({ name: value })).await;
            attacked.nobody_else(&token).await;
        }
        for name in CLAIMS {
            let token = attacked.world.forge("servicenow", json!({ name: value }), json!({})).await;
            attacked.nobody_else(&token).await;
        }
    }
    attacked.end("the same, signed by the issuer").await;
}
