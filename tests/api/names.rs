//! Graph display names in place of ids: what they resolve to, when they are unknown or ambiguous, and what that costs.

use serde_json::{Value, json};

use crate::{
    responses::Reply,
    world::{
        ASSIGNMENTS, EVERYTHING, FILTER, KIOSK_ESP, LIMIT, NOTICE, SALES_ESP, Setup, World, add, group, remove, tenant,
    },
};

/// Policy permits everything here, so a refusal has another cause.
async fn open(seed: Value) -> World {
    let policies = vec![EVERYTHING, ("guard.cedar", "")];
    World::with(Setup { seed: Some(seed), policies, ..Setup::default() }).await
}

/// A tenant with these additional groups, numbered from 11.
fn with_groups(names: &[&str]) -> Value {
    let mut seed = tenant();
    let more = names.iter().zip(11..).map(|(name, number)| json!({"id": group(number), "displayName": name}));
    seed["groups"].as_array_mut().unwrap().extend(more);
    seed
}

fn candidates(problem: &Reply) -> Vec<(&str, &str, &str)> {
    let text = |candidate: &'static str, row| -> &str {
        Value::get(row, candidate).and_then(Value::as_str).unwrap_or_default()
    };
    let all = problem.body["candidates"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().map(|row| (text("id", row), text("name", row), text("kind", row))).collect()
}

/// The gateway's calls to Graph whose paths end like this.
async fn calls(world: &World, path_ends: &str) -> Vec<Value> {
    let mut calls = world.journal().await;
    calls.retain(|call| call["path"].as_str().unwrap().ends_with(path_ends));
    calls
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configurations_groups_and_filters_are_named_by_their_display_names() {
    let mut seed = tenant();
    let personal = "f0000000-0000-4000-8000-000000000002";
    let filter = json!({"id": personal, "displayName": "Personal & old", "platform": "windows10AndLater"});
    seed["filters"].as_array_mut().unwrap().push(filter);
    let world = open(seed).await;
    let answer = world.change(&add("Welcome notice", "Berlin Staff")).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["configuration"], json!({"id": NOTICE, "name": "Welcome notice"}));
    assert_eq!(answer.body["difference"]["added"], json!([{"group": group(7), "name": "Berlin Staff"}]));
    assert!(world.groups(NOTICE).await.contains(&group(7)));
    let filtered = json!({"group": "Berlin Staff", "filter": {"name": "Personal & old", "mode": "exclude"}});
    let answer = world.change(&json!({"configuration": "Kiosk ESP", "add": [filtered]})).await;
    answer.succeeded("changed");
    let filter = json!({"id": personal, "name": "Personal & old", "mode": "exclude"});
    assert_eq!(answer.body["difference"]["added"][0]["filter"], filter);
    let row = &world.assigned(KIOSK_ESP).await[0];
    assert_eq!(row["target"]["deviceAndAppManagementAssignmentFilterId"], personal);
    world.change(&remove("Welcome notice", "Berlin Staff")).await.succeeded("changed");
    assert!(world.groups(NOTICE).await.is_empty());
    let found = world.get("servicenow", "/v1/operations?configuration=Welcome%20notice").await.expect(200);
    assert_eq!(found.body["operations"].as_array().unwrap().len(), 2);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_not_looked_up_for_an_unknown_configuration() {
    let world = open(tenant()).await;
    let absent = "a0000000-0000-4000-8000-0000000000ff_Limit";
    for configuration in ["Nothing", absent] {
        let filtered = json!({"group": group(1), "filter": {"name": "Nobody", "mode": "include"}});
        let body = json!({"configuration": configuration, "add": [{"group": "Nobody"}, filtered], "ticket": "R"});
        world.change(&body).await.problem(404, "unknown-configuration");
    }
    assert!(calls(&world, "/groups").await.is_empty() && calls(&world, "/assignmentFilters").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_letters_in_a_name_reach_graph_as_they_are() {
    let names = [
        "O'Neill's \"Team\"",
        "''",
        "50% & more",
        "a+b=c;d,e",
        "x' or displayName eq 'y",
        "%27) or (1 eq 1",
        "Zürich – Büro №7",
        "東京🗼",
        "back\\slash/slash#hash?question",
        "$filter=x&$top=1",
        " leading and trailing ",
    ];
    let world = open(with_groups(&names)).await;
    let targets: Vec<_> = names.iter().map(|name| json!({"group": name})).collect();
    let answer = world.change(&json!({"configuration": "Kiosk ESP", "add": targets})).await;
    answer.succeeded("changed");
    let added = answer.body["difference"]["added"].as_array().unwrap();
    for (name, number) in names.iter().zip(11..) {
        assert!(added.contains(&json!({"group": group(number), "name": name})), "{name} is not in {added:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_several_groups_is_refused_with_all_of_them() {
    let mut seed = with_groups(&["Sales", "Sales", "sales", "Salesforce"]);
    let list = json!({"id": group(15), "displayName": "Sales", "securityEnabled": false, "mailEnabled": true});
    seed["groups"].as_array_mut().unwrap().push(list);
    let world = open(seed).await;
    let problem = world.change(&add("Sales ESP", "Sales")).await.problem(422, "ambiguous-name");
    assert_eq!(problem.pointers(), ["/add/0/group"]);
    assert_eq!(problem.body["retryable"], false);
    let [first, second, list] = [group(11), group(12), group(15)];
    let all = [(first.as_str(), "Sales", "group"), (&second, "Sales", "group"), (&list, "Sales", "mail-only-group")];
    assert_eq!(candidates(&problem), all);
    assert!(problem.body["candidates"].as_array().unwrap().iter().all(|it| it["pointer"] == "/add/0/group"));
    // The same letters but not the same name: never matched silently.
    let problem = world.change(&add("Sales ESP", "SALES")).await.problem(422, "unknown-target");
    assert_eq!(candidates(&problem).len(), 5);
    for id in [&first, &list] {
        world.change(&add("Sales ESP", id)).await.succeeded("changed");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unknown_and_ambiguous_names_are_reported_together() {
    let mut seed = with_groups(&["Twins", "Twins", "Berlin Staffers"]);
    for number in [2, 3] {
        let id = format!("f0000000-0000-4000-8000-00000000000{number}");
        let filter = json!({"id": id, "displayName": "Kiosk", "platform": "windows10AndLater"});
        seed["filters"].as_array_mut().unwrap().push(filter);
    }
    let world = open(seed).await;
    let filter = |name: &str| json!({"name": name, "mode": "include"});
    let body = json!({
        "configuration": "Sales ESP",
        "add": [
            {"group": "Twins", "filter": filter("Kiosk")},
            {"group": "Berlin Staff", "filter": filter("kiosks")},
            {"group": "Berlin Sta"},
        ],
        "remove": [{"group": "Nobody at all"}, {"group": "Finance Laptops"}],
    });
    let problem = world.change(&body).await.problem(422, "unknown-target");
    let pointers = ["/add/0/filter", "/add/0/group", "/add/1/filter", "/add/2/group", "/remove/0/group"];
    assert_eq!(problem.pointers(), pointers);
    // The sentence for the ticket tells all of them; a name of several is no question.
    let detail = problem.body["detail"].as_str().unwrap();
    for fault in problem.body["errors"].as_array().unwrap() {
        let [pointer, told] = ["pointer", "detail"].map(|key| fault[key].as_str().unwrap());
        assert!(detail.contains(&format!("{pointer}: {told}")), "{told} is not in {detail}");
    }
    assert!(
        !detail.contains("did you mean \"Twins\"") && detail.contains("did you mean \"Berlin Staff\" or"),
        "{detail}"
    );
    let of = |pointer: &str| {
        let all = problem.body["candidates"].as_array().unwrap().iter();
        all.filter(|it| it["pointer"] == pointer).map(|it| it["name"].as_str().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!((of("/add/0/group"), of("/add/0/filter")), (vec!["Twins"; 2], vec!["Kiosk"; 2]));
    assert_eq!((of("/add/1/filter"), of("/add/2/group")), (vec!["Kiosk"; 2], vec!["Berlin Staff", "Berlin Staffers"]));
    assert_eq!(of("/remove/0/group"), Vec::<&str>::new());
    let both = json!({"configuration": "Sales ESP", "add": [{"group": "Twins", "filter": filter("Kiosk")}]});
    let planned = world.post("servicenow", "/v1/plan", &both, &[]).await.problem(422, "ambiguous-name");
    assert_eq!(planned.pointers(), ["/add/0/filter", "/add/0/group"]);
    assert!(world.events("accepted").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_of_several_configurations_is_refused_with_those_the_caller_may_see() {
    let mut seed = tenant();
    seed["configurations"][3]["displayName"] = json!("Welcome notice");
    let world = open(seed.clone()).await;
    let problem = world.change(&add("Welcome notice", "Sales Laptops")).await.problem(422, "ambiguous-name");
    assert_eq!(problem.pointers(), ["/configuration"]);
    let both = [(LIMIT, "Welcome notice", "device-limit"), (NOTICE, "Welcome notice", "notification")];
    assert_eq!(candidates(&problem), both);
    let defaults =
        world.change(&add("All users and all devices", "Sales Laptops")).await.problem(422, "ambiguous-name");
    assert_eq!(candidates(&defaults).len(), 4, "{}", defaults.text);
    world.get("servicenow", "/v1/operations?configuration=Welcome+notice").await.problem(422, "ambiguous-name");
    world.change(&add(LIMIT, "Sales Laptops")).await.succeeded("changed");
    world.end().await;

    let world = World::with(Setup { seed: Some(seed), ..Setup::default() }).await;
    let ask = async |caller| world.post(caller, "/v1/plan", &add("Welcome notice", "Sales Laptops"), &[]).await;
    assert_eq!(candidates(&ask("helpdesk").await.problem(422, "ambiguous-name")), both);
    assert_eq!(candidates(&ask("servicenow").await.problem(422, "ambiguous-name")), []);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_never_wins_over_an_id_or_an_alias() {
    let mut seed = with_groups(&["Sales Laptops", &group(2)]);
    seed["configurations"][1]["displayName"] = json!("Sales ESP");
    seed["configurations"][4]["displayName"] = json!(LIMIT);
    let same =
        json!({"id": "f0000000-0000-4000-8000-000000000002", "displayName": "Corporate Windows", "platform": "x"});
    seed["filters"].as_array_mut().unwrap().push(same);
    let world = open(seed).await;
    let filter = json!({"name": "Corporate Windows", "mode": "include"});
    let body = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops", "filter": filter}, {"group": group(2)}]});
    let answer = world.change(&body).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["configuration"]["id"], SALES_ESP);
    let added = answer.body["difference"]["added"].as_array().unwrap();
    assert_eq!((&added[0]["group"], &added[0]["filter"]["id"]), (&json!(group(1)), &json!(FILTER)));
    assert_eq!(added[1], json!({"group": group(2), "name": "Sales Kiosks"}));
    let answer = world.change(&add(LIMIT, "Sales Laptops")).await;
    answer.succeeded("changed");
    assert_eq!(answer.body["configuration"]["id"], LIMIT);
    for mode in ["include", "exclude"] {
        let filter = json!({"id": "f0000000-0000-4000-8000-000000000099", "mode": mode});
        let body = json!({"configuration": "Sales ESP", "add": [{"group": group(2), "filter": filter}]});
        let of_no_filter = world.change(&body).await.problem(422, "unknown-target");
        assert_eq!(of_no_filter.pointers(), ["/add/0/filter"]);
        assert!(of_no_filter.text.contains("Intune has no filter"), "{}", of_no_filter.text);
    }
    // However many targets name it, the list is read anew once.
    let before = calls(&world, "/assignmentFilters").await.len();
    let filter = json!({"id": "f0000000-0000-4000-8000-000000000098", "mode": "include"});
    let many: Vec<_> = (1..=6).map(|number| json!({"group": group(number), "filter": filter})).collect();
    for _ in 0..2 {
        let refused = world.change(&json!({"configuration": "Sales ESP", "add": many})).await;
        assert_eq!(refused.problem(422, "unknown-target").body["errors"].as_array().unwrap().len(), 6);
    }
    assert_eq!(calls(&world, "/assignmentFilters").await.len(), before + 1);
    // An unknown id is not looked up as a name, nor are the ids that stand for everyone.
    let of_nothing = world.change(&add("Sales ESP", &group(98))).await.problem(422, "unknown-target");
    assert!(of_nothing.text.contains("check its id"), "{}", of_nothing.text);
    for (id, all) in
        [("acacacac-9df4-4c7d-9d50-4ef0226f57a9", "users"), ("ADADADAD-808e-44e2-905a-0b7873a8a531", "devices")]
    {
        let problem = world.change(&add("Sales ESP", id)).await.problem(422, "unknown-target");
        let detail = problem.body["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains(&json!({"all": all}).to_string().replace(':', ": ")), "{detail}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_permission_to_look_ids_and_aliases_work_and_names_say_what_is_missing() {
    let mut seed = tenant();
    seed["apps"][0]["roles"] = json!(["DeviceManagementServiceConfig.ReadWrite.All"]);
    let world = open(seed).await;
    let id = json!({"group": group(7), "filter": {"id": FILTER, "mode": "include"}});
    let alias = json!({"group": "Sales Laptops", "filter": {"name": "Corporate Windows", "mode": "include"}});
    world.change(&json!({"configuration": "Welcome notice", "add": [{"group": group(7)}]})).await.succeeded("changed");
    world.change(&json!({"configuration": "Sales ESP", "add": [id, alias]})).await.succeeded("changed");
    let other = json!({"group": group(7), "filter": {"id": FILTER, "mode": "exclude"}});
    world.change(&json!({"configuration": "Sales ESP", "add": [other]})).await.succeeded("changed");
    // That filters are not listed is asked once for all changes of the next moments.
    assert_eq!(calls(&world, "/assignmentFilters").await.len(), 1);
    let named = json!({"group": "Berlin Staff", "filter": {"name": "Anything", "mode": "include"}});
    let body = json!({"configuration": "Sales ESP", "add": [{"group": group(2)}, named]});
    let problem = world.change(&body).await.problem(422, "unknown-target");
    assert_eq!(problem.pointers(), ["/add/1/filter", "/add/1/group"]);
    let told = |words: &str| {
        problem.body["errors"].as_array().unwrap().iter().any(|it| it["detail"].as_str().unwrap().contains(words))
    };
    assert!(told("permission GroupMember.Read.All") && told("permission DeviceManagementConfiguration.Read.All"));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_policies_look_at_names_a_group_whose_name_is_not_told_is_not_decided_on() {
    let mut seed = tenant();
    seed["apps"][0]["roles"] = json!(["DeviceManagementServiceConfig.ReadWrite.All"]);
    let vip = "@id(\"vip\")\nforbid (principal, action == Postern::Action::\"add\", resource) when {
        context has target && context.target has name && context.target.name like \"VIP*\" };\n";
    let setup = Setup { seed: Some(seed), policies: vec![("vip.cedar", vip)], ..Setup::default() };
    let world = World::with(setup).await;
    let body = json!({"configuration": "Sales ESP", "add": [{"group": "Sales Laptops"}], "ticket": "R"});
    let problem = world.change(&body).await.problem(502, "graph-permission-missing");
    let detail = problem.body["detail"].as_str().unwrap();
    assert!(detail.contains("/add/0") && !detail.contains(&group(1)), "the id behind an alias is not told: {detail}");
    // Who may not ask for it at all is denied, on record.
    world.post("portal", "/v1/assignments", &body, &[]).await.problem(403, "not-permitted");
    assert_eq!(world.events("denied").await.len(), 1);
    assert!(problem.body["detail"].as_str().unwrap().contains("GroupMember.Read.All"), "{}", problem.text);
    // Everybody has no name, and nothing is to be looked up.
    let everyone = json!({"configuration": "Sales ESP", "add": [{"all": "devices"}], "ticket": "R"});
    world.change(&everyone).await.problem(403, "not-permitted");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_is_asked_for_once_however_many_ask_and_whatever_it_means() {
    let world = open(with_groups(&["Twins", "Twins"])).await;
    for (name, status) in [("Berlin Staff", 200), ("Twins", 422), ("Nobody at all", 422)] {
        let before = calls(&world, "/groups").await.len();
        let change = add("Welcome notice", name);
        let answers = futures_util::future::join_all((0..20).map(|_| world.change(&change))).await;
        assert!(answers.iter().all(|answer| answer.status == status), "{name}");
        let asked = calls(&world, "/groups").await.split_off(before);
        // For an unknown name, its beginning is searched as well, to suggest candidates.
        assert_eq!(asked.len(), if name == "Nobody at all" { 2 } else { 1 }, "{asked:?}");
    }
    assert_eq!(calls(&world, "/deviceEnrollmentConfigurations").await.len(), 1);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_on_the_last_page_is_found_and_a_list_that_does_not_end_well_finds_nothing() {
    let world = open(tenant()).await;
    world.switch("page_size", 2).await;
    world
        .fault(json!({"path_ends": "/deviceEnrollmentConfigurations", "skip": 2, "times": 1,
        "effect": {"kind": "answer", "status": 429, "retry_after": "0"}}))
        .await;
    world
        .fault(json!({"path_ends": "/deviceEnrollmentConfigurations", "skip": 3, "times": 1,
        "effect": {"kind": "answer", "status": 503}}))
        .await;
    world.change(&add("Welcome notice", "Berlin Staff")).await.succeeded("changed");
    assert_eq!(calls(&world, "/deviceEnrollmentConfigurations").await.len(), 5 + 2);
    world.end().await;

    let world = open(tenant()).await;
    world.switch("page_size", 2).await;
    world.switch("next_link_host", "foreign").await;
    // The name is on the first page, but another of the same name could be on a later one.
    world.change(&add("Kiosk  ESP", "Berlin Staff")).await.problem(502, "present-set-unreadable");
    assert!(world.events("accepted").await.is_empty());
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn graph_that_cannot_be_asked_for_a_name_refuses_the_change_for_now() {
    for path in ["/groups", "/deviceEnrollmentConfigurations"] {
        let world = open(tenant()).await;
        world.fault(json!({"path_ends": path, "effect": {"kind": "answer", "status": 429, "retry_after": "9"}})).await;
        let problem = world.change(&add("Welcome notice", "Berlin Staff")).await.problem(503, "graph-throttled");
        assert_eq!(problem.body["retryable"], true);
        world.clear_faults().await;
        assert!(world.events("accepted").await.is_empty());
        world.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_reveal_no_names_that_the_caller_may_not_read() {
    let world = World::start().await;
    let alias = add("Kiosk ESP", "sales_laptop");
    let names = [add("Kiosk ESP", "Berlin Sta"), add("Welcome", "Sales Laptops"), add("kiosk esp", "Sales Laptops")];
    for body in names.into_iter().chain([alias.clone()]) {
        let problem = world.post("portal", ASSIGNMENTS, &body, &[]).await;
        assert!([404, 422].contains(&problem.status), "{}", problem.text);
        assert!(problem.body.get("candidates").is_none(), "{}", problem.text);
        for secret in ["Berlin Staff", "Welcome notice", &group(7), NOTICE, KIOSK_ESP, "did you mean"] {
            assert!(!problem.text.contains(secret), "{secret} in {}", problem.text);
        }
    }
    let problem = world.post("servicenow", ASSIGNMENTS, &add("Kiosk ESP", "Berlin Sta"), &[]).await;
    assert!(
        problem.body["detail"].as_str().unwrap().ends_with(" (did you mean \"Berlin Staff\"?)"),
        "{}",
        problem.text
    );
    assert_eq!(candidates(&problem.problem(422, "unknown-target")), [(group(7).as_str(), "Berlin Staff", "group")]);
    let problem = world.post("servicenow", ASSIGNMENTS, &add("kiosk esp", "Sales Laptops"), &[]).await;
    let problem = problem.problem(404, "unknown-configuration");
    assert!(problem.body["detail"].as_str().unwrap().ends_with(" (did you mean \"Kiosk ESP\"?)."), "{}", problem.text);
    let told = world.post("servicenow", ASSIGNMENTS, &alias, &[]).await.problem(422, "unknown-target");
    assert!(
        told.body["errors"][0]["detail"].as_str().unwrap().contains("did you mean \"Sales Laptops\"?"),
        "{}",
        told.text
    );
    world.end().await;
}
