//! The API's document, its pages, and other descriptions of the API in words.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::{
    openapi_check::{DOCUMENT, meant, misfits},
    responses::got,
    world::{World, add, group},
};

/// Pages that show the document but are not part of it.
const SHOWING: [&str; 2] = ["/docs", "/docs/{file:[^/]*}"];

/// Methods by path, as in the document.
fn described() -> BTreeMap<String, BTreeSet<String>> {
    let methods = |of: &Value| of.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
    DOCUMENT["paths"].as_object().unwrap().iter().map(|(path, of)| (path.clone(), methods(of))).collect()
}

/// The same, with `HEAD`, which every path with `GET` has without saying so.
fn answered() -> BTreeMap<String, BTreeSet<String>> {
    let mut answered = described();
    for methods in answered.values_mut().filter(|methods| methods.contains("GET")) {
        methods.insert("HEAD".to_owned());
    }
    answered
}

fn listed(methods: &str) -> BTreeSet<String> {
    methods.split(", ").map(str::to_owned).collect()
}

fn file(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let page = file("src/api/mod.rs");
    let routes = page.split("resource(\"").skip(1).map(|rest| {
        let mut quoted = rest.split('"');
        (quoted.next().unwrap().to_owned(), listed(quoted.nth(1).unwrap()))
    });
    let routes: BTreeMap<_, _> = routes.filter(|(path, _)| !SHOWING.contains(&path.as_str())).collect();
    assert_eq!(routes, answered());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_is_served_and_every_path_has_the_methods_that_it_says() {
    let world = World::start().await;
    let served = world.send(world.bare("GET", "/openapi.json")).await.expect(200);
    assert_eq!(served.body, *DOCUMENT);
    for (path, methods) in answered() {
        let refused = world.send(world.bare("TRACE", &path.replace(['{', '}'], ""))).await;
        assert_eq!(listed(refused.problem(405, "method-not-allowed").header("allow")), methods, "{path}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_answered_like_a_get_without_the_body() {
    let world = World::start().await;
    let operation = world.begin(&add("Sales ESP", &group(1))).await;
    let answers = async |method: &str, url: &str, token: &str| {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = world.client.request(method, url).bearer_auth(token).header("prefer", "wait=20");
        let mut answer = got(request).await;
        // These differ between any two responses.
        for varies in ["date", "ratelimit"] {
            answer.headers.remove(varies);
        }
        answer
    };
    let token = world.token("helpdesk").await;
    let (api, admin) = (world.gateway().url(), world.gateway().admin_url());
    let calls = format!(
        "/v1/operations /v1/operations/{operation} /v1/configurations /v1/audit \
        /v1/configurations/Sales%20ESP/assignments /v1/groups/{}/assignments /openapi.json /docs /docs/ \
        /problems/not-found /problems/nothing",
        group(1)
    );
    let calls = calls.split_whitespace().map(|path| format!("{api}{path}"));
    for url in calls.chain(["livez", "readyz"].map(|path| format!("{admin}/{path}"))) {
        let (get, head) = (answers("GET", &url, &token).await, answers("HEAD", &url, &token).await);
        assert_eq!((head.status, &head.headers, head.text.as_str()), (get.status, &get.headers, ""), "{url}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_that_shows_the_document_loads_nothing_from_elsewhere() {
    let world = World::start().await;
    let page = world.send(world.bare("GET", "/docs")).await.expect(200);
    assert!(page.text.contains("<title>Postern"), "{}", page.text);
    assert!(!page.text.contains("//"), "{}", page.text);
    let policy = page.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{policy}");
    assert!(!policy.contains("http") && !policy.contains('*') && !policy.contains("unsafe-eval"), "{policy}");
    let linked = ["src=\"", "href=\""].into_iter().flat_map(|link| page.text.split(link).skip(1));
    let linked: Vec<_> = linked.map(|rest| rest.split('"').next().unwrap()).collect();
    assert_eq!(linked.len(), 5);
    for linked in linked {
        let path = format!("/docs/{linked}");
        let part = world.send(world.bare("GET", &path)).await.expect(200);
        assert_eq!(part.header("x-content-type-options"), "nosniff", "{linked}");
    }
    for absent in ["/docs/nothing.js", "/docs/../Cargo.toml", "/docs/%2e%2e%2fCargo.toml"] {
        world.send(world.bare("GET", absent)).await.problem(404, "not-found");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_has_a_page() {
    let world = World::start().await;
    for code in codes() {
        let page = world.send(world.bare("GET", &format!("/problems/{code}"))).await.expect(200);
        assert!(page.text.starts_with(&code) && page.text.lines().count() > 4, "{}", page.text);
    }
    world.send(world.bare("GET", "/problems/nothing")).await.problem(404, "not-found");
    world.end().await;
}

fn codes() -> Vec<String> {
    let codes = &DOCUMENT["components"]["schemas"]["ProblemCode"]["enum"];
    codes.as_array().unwrap().iter().map(|code| code.as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_example_fits_what_it_is_an_example_of() {
    let mut seen = 0;
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, call) in methods.as_object().unwrap() {
            let answers = call["responses"].as_object().unwrap().values();
            for content in answers.chain([&call["requestBody"]]).filter_map(|part| part["content"].as_object()) {
                for content in content.values() {
                    for (name, example) in content["examples"].as_object().into_iter().flatten() {
                        let misfits = misfits(&content["schema"], &meant(example)["value"]);
                        assert!(misfits.is_empty(), "{method} {path} {name}: {misfits:?}");
                        seen += 1;
                    }
                }
            }
        }
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn everything_is_described_in_words() {
    fn undescribed(place: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let place = format!("{place}.{name}");
            let parts = || field["oneOf"].as_array().into_iter().flatten();
            if !field["description"].is_string()
                && !field["$ref"].is_string()
                && !parts().any(|it| it["$ref"].is_string())
            {
                found.push(place);
            }
        }
        schema["allOf"].as_array().into_iter().flatten().for_each(|part| undescribed(place, part, found));
    }
    let mut found = Vec::new();
    for (name, schema) in DOCUMENT["components"]["schemas"].as_object().unwrap() {
        undescribed(name, schema, &mut found);
        if !schema["description"].is_string() {
            found.push(name.clone());
        }
    }
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn the_readme_names_every_call_and_the_guide_every_code() {
    let readme = file("README.md");
    let mut named = BTreeSet::new();
    for row in readme.lines().filter_map(|line| line.strip_prefix("| `")) {
        // A path without a method has that of the one before.
        let mut method = "";
        for call in row.split('|').next().unwrap().split('`').filter(|word| word.contains('/')) {
            let path = call.split_once(' ').map_or(call, |(named, path)| {
                method = named;
                path
            });
            named.insert(format!("{method} {}", path.split('?').next().unwrap()));
        }
    }
    for (path, methods) in described() {
        for method in methods {
            assert!(named.contains(&format!("{method} {path}")), "{method} {path} is not in {named:?}");
        }
    }
    let guide = file("docs/api.md");
    let table = guide.lines().skip_while(|line| !line.starts_with("| code |")).skip(2);
    let rows = table.map_while(|line| line.strip_prefix("| `")).map(|line| {
        let (code, rest) = line.split_once('`').unwrap();
        let mut cells = rest.split('|').skip(1).map(|cell| cell.trim().to_owned());
        (code.to_owned(), (cells.next().unwrap(), cells.next().unwrap(), cells.next().unwrap()))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    let told = codes().into_iter().map(|code| {
        let example = &DOCUMENT["components"]["examples"][&code];
        let again = if example["value"]["retryable"] == true { "yes" } else { "no" };
        let text = |of: &Value| of.as_str().unwrap().to_owned();
        (code, (example["value"]["status"].to_string(), again.to_owned(), text(&example["summary"])))
    });
    assert_eq!(rows, told.collect());
}
