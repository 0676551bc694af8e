//! Runs the examples of `docs/integrations` as written there, in their own languages, against a real gateway.
//!
//! `tests/integrations/run` installs what they need. Tokens come from the third-party issuer, by client credentials.

use std::{path::Path, process::Command};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    callback_receivers::{CallbackWorld, edits},
    program::Program,
    responses::got,
    webhook_senders::{SECRET, STANDARD_SECRET, WebhookSenders, hex, now},
    world::{EVERYTHING, SALES_ESP, Setup, World, add, group},
};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Permits everything to the client of the third-party issuer.
const HR: (&str, &str) = ("hr.cedar", "@id(\"hr\")\npermit (principal == Postern::Caller::\"hr\", action, resource);");
/// Kiosks need approval, which the issuer's other client may give.
const KIOSKS: (&str, &str) = (
    "kiosks.cedar",
    "@id(\"kiosks\")\n@approval(\"kiosks\")\n\
     permit (principal == Postern::Caller::\"hr\", action == Postern::Action::\"add\", resource)\n\
     when { resource.tags.contains(\"kiosk\") };\n\
     @id(\"approver\")\n\
     permit (principal == Postern::Caller::\"approver\", action in [Postern::Action::\"approve\", Postern::Action::\"read\"],\n\
     resource);",
);

fn node() -> Command {
    let home = Path::new(ROOT).join("target/integrations/node");
    assert!(home.join("made/try.js").exists(), "tests/run installs what examples need into target/integrations");
    let mut command = Command::new("node");
    command.current_dir(home);
    command
}

/// A program's output, and whether it succeeded.
fn ran(command: &mut Command) -> (bool, String) {
    let ran = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(ran.stderr.is_empty() || !ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let said = String::from_utf8(ran.stdout).unwrap() + &String::from_utf8(ran.stderr).unwrap();
    (ran.status.success(), said.trim().to_owned())
}

/// An issuer, and a world that trusts it.
struct Place {
    world: World,
    issuer: Program,
    tokens: String,
}

impl Place {
    async fn start(more: impl FnOnce(&str) -> Vec<(&'static str, String)>) -> Self {
        static BROUGHT: std::sync::Once = std::sync::Once::new();
        let home = Path::new(ROOT).join("target/issuer");
        // Next to the modules that it imports, under a name that no other test uses.
        let script = format!("issuer-{}.mjs", std::process::id());
        BROUGHT.call_once(|| {
            std::fs::copy(Path::new(ROOT).join("tests/issuer/issuer.mjs"), home.join(&script)).unwrap();
        });
        let mut command = Command::new("node");
        command.args([script.as_str(), "0", "first"]).current_dir(home);
        let issuer = Program::start(command);
        let url = issuer.out.until("http://127.0.0.1");
        let tokens = format!("{url}/token");
        let believed = format!(
            "[[issuers]]\nname = \"other\"\nissuer = \"{url}\"\naudiences = [\"api://postern\"]\ntoken_types = [\"at+jwt\"]\n\
             metadata_url = \"{url}/.well-known/openid-configuration\"\n\n\
             [[callers]]\nname = \"hr\"\nissuer = \"other\"\nclient_id = \"hr\"\ndestinations = [\"desk\"]\n\n\
             [[callers]]\nname = \"approver\"\nissuer = \"other\"\nclient_id = \"stranger\"\n\n"
        );
        let mark = "[[callers]]\nname = \"servicenow\"\n";
        let mut edits = more(&tokens);
        edits.push((mark, format!("{believed}{mark}")));
        let world = World::with(Setup { edits, policies: vec![HR, KIOSKS, EVERYTHING], ..Setup::default() }).await;
        Self { world, issuer, tokens }
    }

    async fn end(mut self) {
        self.issuer.kill();
        self.world.end().await;
    }
}

/// A destination without a receiver.
fn nowhere(secrets: &TempDir) -> Vec<(&'static str, String)> {
    std::fs::write(secrets.path().join("signing"), STANDARD_SECRET).unwrap();
    edits("http://127.0.0.1:9", "", secrets)
}

/// A repeated message is recognised; a forged, altered or old one is rejected; one for another table is refused for good.
async fn messages_are_proven(world: &World, at: &str, operation: &str) {
    let event = |table: &str| json!({"data": {"operation": {"id": "op_1", "state": "failed"}, "context": {"table": table, "sys_id": "46d44a"}}});
    for (id, secret, time, table, status) in [
        (operation.replace("op_", "msg_"), STANDARD_SECRET, now(), "sc_req_item", 200),
        ("msg_x".to_owned(), "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", now(), "sc_req_item", 401),
        ("msg_x".to_owned(), STANDARD_SECRET, now() - 600, "sc_req_item", 401),
        ("msg_x".to_owned(), STANDARD_SECRET, now(), "sys_user", 410),
    ] {
        let (body, time) = (event(table).to_string(), time.to_string());
        let signature = crate::webhook_senders::standard_signature(secret, &id, &time, &body);
        let request = world.client.post(format!("{at}/api/postern")).header("webhook-id", &id);
        let request = request.header("webhook-timestamp", time).header("webhook-signature", signature).body(body);
        got(request).await.expect(status);
    }
    got(world.client.post(format!("{at}/api/postern")).body(event("sc_req_item").to_string())).await.expect(401);
}

/// A test double of a ServiceNow instance, and the gateway that its scripts call.
struct Instance {
    place: Place,
    at: String,
    double: Program,
    _secrets: TempDir,
}

impl Instance {
    async fn start() -> Self {
        let secrets = tempfile::tempdir().unwrap();
        std::fs::write(secrets.path().join("signing"), STANDARD_SECRET).unwrap();
        let (mut double, mut at) = (None, String::new());
        let place = Place::start(|tokens| {
            let mut command = node();
            command.args(["instance.mjs", &format!("{ROOT}/docs/integrations/servicenow"), STANDARD_SECRET, tokens]);
            let started = Program::start(command);
            at = started.out.until("http://127.0.0.1");
            double = Some(started);
            edits(&at, "delivered = [\"200\", \"201\", \"204\"]", &secrets)
        })
        .await;
        let instance = Self { place, at, double: double.unwrap(), _secrets: secrets };
        let url = instance.place.world.gateway().url();
        instance.run("/run/property", json!({"x_postern.url": url})).await;
        instance
    }

    /// Has it run a script.
    async fn run(&self, path: &str, order: Value) -> Value {
        let request = self.place.world.client.post(format!("{}{path}", self.at)).json(&order);
        got(request).await.expect(200).body
    }

    /// Requests a change for a record; returns the operation's id.
    async fn requested(&self, order: Value) -> String {
        let answer = self.run("/run/request", order).await;
        answer["operation"]["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn end(self) {
        drop(self.double);
        self.place.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servicenows_scripts_ask_for_a_change_and_take_its_end() {
    let instance = Instance::start().await;
    let (world, at) = (&instance.place.world, &instance.at);
    let change = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]});
    let order = json!({"sys_id": "46d44a", "change": change});
    let operation = instance.requested(order.clone()).await;
    // The flow runs again: the same operation, and nothing happens twice.
    assert_eq!(instance.requested(order).await, operation);
    assert_eq!(world.assigns().await.len(), 1);
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    let notes = delivered(at, world).await;
    let told: Vec<_> = notes.iter().filter(|note| note.contains("succeeded.\n")).collect();
    assert!(told.len() == 1 && told[0].contains(&operation) && told[0].contains("Trace "), "{notes:?}");
    let looked = instance.run("/run/look", json!({"id": operation})).await;
    assert_eq!((&looked["status"], &looked["operation"]["state"]), (&json!(200), &json!("succeeded")));

    messages_are_proven(world, at, &operation).await;
    assert_eq!(delivered(at, world).await, notes);

    // A refusal is noted in the work notes, worded for the requester.
    let order =
        json!({"sys_id": "77b1c0", "change": {"configuration": "Sales ESQ", "add": [{"group": "Sales Laptops"}]}});
    instance.run("/run/property", json!({"x_postern.oauth_profile": "unknown"})).await;
    let lost = instance.run("/run/request", order.clone()).await;
    assert_eq!((&lost["status"], &lost["again"]), (&json!(0), &json!(true)));
    instance.run("/run/property", json!({"x_postern.oauth_profile": "profile-1"})).await;
    let refused = instance.run("/run/request", order).await;
    assert!(refused["again"] == false && refused["problem"]["code"] == "unknown-configuration", "{refused}");
    let notes = got(world.client.get(format!("{at}/records"))).await.body;
    let [written] = notes["sc_req_item"]["77b1c0"]["notes"].as_array().unwrap().as_slice() else {
        panic!("an attempt that is repeated leaves no note: {notes}")
    };
    let written = written.as_str().unwrap();
    assert!(
        written.starts_with("Postern refused: ") && written.contains("Sales ESQ") && written.contains("\nTrace "),
        "{written}"
    );
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_change_of_a_record_and_another_attempt_have_keys_of_their_own() {
    let instance = Instance::start().await;
    let world = &instance.place.world;
    let change = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]});
    let first = instance.requested(json!({"sys_id": "46d44a", "change": change})).await;
    world.end_of(&first).await.succeeded("changed");
    let back = json!({"configuration": "Sales ESP", "remove": [{"group": "Sales Laptops"}]});
    let clash = instance.run("/run/request", json!({"sys_id": "46d44a", "change": back})).await;
    assert!(clash["again"] == false && clash["problem"]["code"] == "idempotency-key-reused", "{clash}");
    let order = json!({"sys_id": "46d44a", "change": back, "word": "back"});
    let second = instance.requested(order.clone()).await;
    assert_ne!(second, first);
    world.end_of(&second).await.succeeded("changed");
    assert_eq!(instance.requested(order).await, second);
    assert!(!world.groups(SALES_ESP).await.contains(&group(1)));
    // To request once more what has ended, a person gives the number of the attempt.
    let order = json!({"sys_id": "46d44a", "change": back, "word": "back", "attempt": "2"});
    let third = instance.requested(order).await;
    assert_ne!(third, second);
    world.end_of(&third).await.succeeded("unchanged");
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_no_callback_reaches_names_none_and_polls() {
    let instance = Instance::start().await;
    instance.run("/run/property", json!({"x_postern.callback_url": null})).await;
    let change = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}]});
    let id = instance.requested(json!({"sys_id": "46d44a", "change": change})).await;
    let ended = instance.place.world.end_of(&id).await;
    ended.succeeded("changed");
    assert!(ended.body["callback"].is_null(), "{ended:?}");
    let looked = instance.run("/run/look", json!({"id": id})).await;
    assert_eq!((&looked["status"], &looked["operation"]["state"]), (&json!(200), &json!("succeeded")));
    instance.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_approval_is_decided_with_another_profile_than_it_was_requested_with() {
    let instance = Instance::start().await;
    let change = json!({"configuration": "Kiosk ESP", "add": [{"group": "Sales Kiosks"}]});
    let asked = instance.run("/run/request", json!({"sys_id": "46d44a", "change": change})).await;
    assert_eq!(asked["operation"]["state"], "awaiting_approval", "{asked}");
    let decision = json!({"id": asked["operation"]["id"], "decision": "approve", "comment": "Approved by jane."});
    let own = instance.run("/run/decide", decision.clone()).await;
    assert!(own["again"] == false && own["problem"]["code"] == "not-permitted", "{own}");
    instance.run("/run/property", json!({"x_postern.approval_profile": "profile-2"})).await;
    let decided = instance.run("/run/decide", decision).await;
    assert_eq!(decided["operation"]["approval"]["answer"]["comment"], "Approved by jane.", "{decided}");
    instance.place.world.end_of(asked["operation"]["id"].as_str().unwrap()).await.succeeded("changed");
    instance.end().await;
}

/// An example that makes a change, given ticket, group and any suffix; returns whether it succeeded, and its output.
type Change<'a> = dyn Fn(&str, &str, &[&str]) -> (bool, String) + 'a;
/// An example that receives a callback, given secret, headers and body.
type Receive<'a> = dyn Fn([String; 5]) -> (bool, String) + 'a;

/// The work notes, once a callback has arrived.
async fn delivered(at: &str, world: &World) -> Vec<String> {
    for _ in 0..crate::world::TRIES {
        let records = got(world.client.get(format!("{at}/records"))).await.body;
        if records["u_postern_message"].as_object().unwrap().is_empty() {
            tokio::task::yield_now().await;
            continue;
        }
        let notes = records["sc_req_item"]["46d44a"]["notes"].as_array().unwrap();
        return notes.iter().map(|note| note.as_str().unwrap().to_owned()).collect();
    }
    panic!("no callback was taken")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_in_python_and_typescript_and_curl_change_and_explain_themselves() {
    let secrets = tempfile::tempdir().unwrap();
    let place = Place::start(|_| nowhere(&secrets)).await;
    let url = place.world.gateway().url();
    let python = |ticket: &str, group: &str, suffix: &[&str]| {
        let mut command = Command::new(format!("{ROOT}/target/webhooks/python/bin/python"));
        command.args(["-B", &format!("{ROOT}/docs/integrations/python/postern.py"), ticket, "Sales ESP", group]);
        command.args(suffix);
        let client = [("CLIENT_ID", "hr"), ("CLIENT_SECRET", "issuer-client-secret"), ("SCOPE", "Assignments.Change")];
        command
            .env_remove("TOKEN")
            .env("POSTERN_URL", &url)
            .env("TOKEN_URL", &place.tokens)
            .env("RESOURCE", "api://postern")
            .envs(client);
        ran(&mut command)
    };
    let typescript = |ticket: &str, group: &str, suffix: &[&str]| {
        ran(node().args(["made/try.js", "change", &url, &place.tokens, ticket, group]).args(suffix))
    };
    let token = place.world.token("servicenow").await;
    let curl = |ticket: &str, group: &str, suffix: &[&str]| {
        let mut command = Command::new(format!("{ROOT}/docs/integrations/curl/change.sh"));
        ran(command.args([ticket, "Sales ESP", group]).args(suffix).env("URL", &url).env("TOKEN", &token))
    };
    let examples: [(_, &Change); 3] = [("python", &python), ("typescript", &typescript), ("curl", &curl)];
    for (number, (name, example)) in [1, 2, 6].into_iter().zip(examples) {
        // A change that Graph refuses has failed for good under its key, and is made under another.
        let refusal = json!({"kind": "answer", "status": 403});
        place.world.fault(json!({"path_ends": "/assign", "times": 1, "effect": refusal})).await;
        let failing = format!("{name}-failing");
        for _ in ["first", "again"] {
            let (fine, said) = example(&failing, &group(number), &[]);
            assert!(!fine && said.contains("Graph answered 403"), "{name}: {said}");
        }
        assert!(!place.world.groups(SALES_ESP).await.contains(&group(number)), "{name}");
        let (fine, said) = example(&failing, &group(number), &["2"]);
        assert!(fine && said.contains("added group"), "{name}: {said}");

        let (fine, said) = example(name, &group(number), &[]);
        assert!(fine && said.contains("succeeded"), "{name}: {said}");
        assert_eq!(example(name, &group(number), &[]), (true, said.clone()), "{name} again");
        let (fine, said) = example(&format!("{name}-2"), "No such group", &[]);
        assert!(!fine && said.contains("No such group") && !said.contains("Traceback"), "{name}: {said}");
        // The same key for a different change.
        assert!(!example(name, "Sales Kiosks", &[]).0, "{name}");
        assert!(place.world.groups(SALES_ESP).await.contains(&group(number)), "{name}");
    }
    assert_eq!(place.world.events("accepted").await.len(), 9);
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_take_a_callback_and_no_other() {
    let callbacks = CallbackWorld::start().await;
    callbacks
        .world
        .change(&callbacks.with_callback_to_receiver(add("Sales ESP", &group(1)), json!({"sys_id": "46d44a"})))
        .await
        .expect(200);
    let [taken] = callbacks.receiver.received(1).await.try_into().unwrap();
    let header = |name: &str| taken.headers[name].clone();
    let message = |secret: &str, body: &str| {
        [secret, &header("webhook-id"), &header("webhook-timestamp"), &header("webhook-signature"), body]
            .map(str::to_owned)
    };
    let python = |message: [String; 5]| {
        let program = "import json, sys; sys.path.insert(0, sys.argv[1]); import postern\n\
                       secret, i, t, s, body = sys.argv[2:]\n\
                       headers = {'webhook-id': i, 'webhook-timestamp': t, 'webhook-signature': s}\n\
                       print(json.dumps(postern.callback(secret, headers, body)['context'], separators=(',', ':')))";
        let mut command = Command::new(format!("{ROOT}/target/webhooks/python/bin/python"));
        ran(command.args(["-B", "-c", program, &format!("{ROOT}/docs/integrations/python")]).args(message))
    };
    let typescript = |message: [String; 5]| ran(node().args(["made/try.js", "callback"]).args(message));
    let examples: [&Receive; 2] = [&python, &typescript];
    for example in examples {
        assert_eq!(example(message(STANDARD_SECRET, &taken.text)), (true, r#"{"sys_id":"46d44a"}"#.to_owned()));
        let altered = taken.text.replace("succeeded", "failed");
        assert!(!example(message(STANDARD_SECRET, &altered)).0);
        assert!(!example(message("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", &taken.text)).0);
    }
    callbacks.end().await;
}

/// The rules that a page shows: its first block of settings that has any.
fn rules_of(page: &str) -> String {
    let text = std::fs::read_to_string(format!("{ROOT}/docs/integrations/{page}")).unwrap();
    let block = text.split("```toml\n").find(|block| block.contains("[[webhooks.rules]]")).unwrap();
    let block = block.split("```").next().unwrap();
    block[block.find("[[webhooks.rules]]").unwrap()..].to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_jiras_automation_sends_is_taken_by_its_secret_and_once() {
    let page = std::fs::read_to_string(format!("{ROOT}/docs/integrations/jira.md")).unwrap();
    let name = page.lines().find(|line| line.starts_with("message_id")).unwrap();
    let senders = WebhookSenders::start("bearer", SECRET, name, &rules_of("jira.md")).await;
    let world = &senders.world;
    // Shaped as on Atlassian's page on automation webhooks; the fields are user-defined.
    let body = json!({
        "timestamp": 1_462_941_258_113_i64,
        "issue": {"id": "18001", "key": "IT-4", "self": "https://contoso.atlassian.net/rest/api/2/issue/18001", "fields": {
            "summary": "Laptop for the shop", "status": {"name": "Approved"}, "reporter": {"name": "jsmith"},
            "customfield_10042": {"value": "Sales ESP"}, "customfield_10043": "Sales Laptops"}}
    });
    let sent = |body: &Value| senders.to_source(body.to_string()).bearer_auth(SECRET).header("prefer", "wait=20");
    let first = world.send(sent(&body)).await.expect(200);
    assert_eq!((&first.body["result"], &first.body["operations"][0]["ticket"]), (&json!("accepted"), &json!("IT-4")));
    assert!(world.groups(SALES_ESP).await.contains(&group(1)));
    assert_eq!(world.send(sent(&body)).await.expect(200).header("idempotency-replayed"), "true");
    // Another issue in the same millisecond is another message.
    let mut neighbour = body.clone();
    neighbour["issue"]["key"] = json!("IT-5");
    assert_eq!(world.send(sent(&neighbour)).await.expect(200).body["operations"][0]["ticket"], "IT-5");
    let mut other = body.clone();
    other["issue"]["fields"]["status"]["name"] = json!("Waiting for Support");
    other["timestamp"] = json!(1_462_941_258_114_i64);
    assert_eq!(world.send(sent(&other)).await.expect(200).body["result"], "ignored");
    world
        .send(senders.to_source(body.to_string()).bearer_auth("another secret of 32 letters!!"))
        .await
        .problem(401, "invalid-signature");
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_bamboohr_sends_of_joiners_and_leavers_becomes_changes() {
    let senders = WebhookSenders::start("bamboohr", SECRET, "", &rules_of("hr.md")).await;
    let world = &senders.world;
    // Shaped as on BambooHR's page on field-based webhooks; field names are user-defined aliases.
    let employee = |id: &str, status: &str, group: &str| {
        json!({"action": "Updated", "changedFields": ["status"], "id": id, "timestamp": "2026-01-31T18:42:00+0000",
               "fields": {"status": status, "department": "Sales", "deviceGroup": group}})
    };
    let send = async |employees: Value| {
        let (body, time) = (json!({"employees": employees}).to_string(), now().to_string());
        let signature = hex(&format!("{body}{time}"));
        let request = senders.to_source(body).header("X-BambooHR-Signature", signature);
        world.send(request.header("X-BambooHR-Timestamp", time).header("prefer", "wait=20")).await.expect(200).body
    };
    let joined =
        send(json!([employee("12345", "Active", "Sales Laptops"), employee("6", "Active", "Sales Staff")])).await;
    assert_eq!(joined["operations"].as_array().map(Vec::len), Some(2), "{joined}");
    assert_eq!(joined["operations"][0]["ticket"], "BambooHR 12345");
    let groups = world.groups(SALES_ESP).await;
    assert!(groups.contains(&group(1)) && groups.contains(&group(6)), "{groups:?}");
    let left = send(json!([employee("12345", "Inactive", "Sales Laptops")])).await;
    assert_eq!(left["operations"][0]["state"], "succeeded", "{left}");
    assert!(!world.groups(SALES_ESP).await.contains(&group(1)));
    // Created and deleted events carry no fields.
    let bare = json!({"action": "Created", "changedFields": [], "fields": {}, "id": "7", "timestamp": "2026-01-31T18:42:00+0000"});
    assert_eq!(send(json!([bare])).await["result"], "ignored");
    senders.world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_browser_lets_the_portals_page_change_and_no_other() {
    let mut command = node();
    command.arg("portal.mjs");
    let pages = Program::start(command);
    let origin = pages.out.until("http://127.0.0.1");
    let server = format!("[server]\ncors_origins = [\"{origin}\"]\n\n[store]\n");
    let setup = Setup { edits: vec![("[store]\n", server)], policies: vec![EVERYTHING], ..Setup::default() };
    let world = World::with(setup).await;
    let order = json!({"gateway": world.gateway().url(), "token": world.token("servicenow").await});
    let seen = got(world.client.post(format!("{origin}/run")).json(&order)).await.expect(200).body;
    assert_eq!(seen["allowed"]["status"], 200, "{seen}");
    assert_eq!(seen["allowed"]["state"], "succeeded", "{seen}");
    assert!(seen["allowed"]["ratelimit"].is_string(), "{seen}");
    assert_eq!(seen["problem"]["code"], "unknown-configuration", "{seen}");
    // The same page, which the browser loads under another origin.
    assert_eq!(seen["other"]["error"], "Failed to fetch", "{seen}");
    assert_eq!(world.events("accepted").await.len(), 1);
    drop(pages);
    world.end().await;
}
