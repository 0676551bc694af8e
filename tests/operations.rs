//! What operators get besides the program: alerts, dashboard and handbook, checked against each other.
//!
//! promtool, from `tests/telemetry/run`, checks that rules and queries are valid and that the rules do what they are
//! for. `tests/api/telemetry.rs` checks against a running gateway that the metrics in them exist.
#![expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

const ALERTS: &str = "deploy/k8s/components/alerts";
const DASHBOARD: &str = "deploy/k8s/components/dashboard/postern.json";

fn place(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    fs::read_to_string(place(path)).unwrap()
}

fn promtool(arguments: &[&str]) {
    let tool = place("target/telemetry/promtool");
    assert!(tool.exists(), "{} is missing: tests/telemetry/run installs it", tool.display());
    let ran = Command::new(tool).args(arguments).current_dir(place("")).output().unwrap();
    let told = [ran.stdout, ran.stderr].concat();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&told));
}

/// The alerts and their references.
fn alerts() -> Vec<(String, String)> {
    let rules = read(&format!("{ALERTS}/rules.yaml"));
    let value = |line: &str, key: &str| line.trim_start().strip_prefix(key).map(str::to_owned);
    let names = rules.lines().filter_map(|line| value(line, "- alert: "));
    let runbooks: Vec<_> = rules.lines().filter_map(|line| value(line, "runbook_url: ")).collect();
    let names: Vec<_> = names.collect();
    assert_eq!(names.len(), runbooks.len(), "each alert has a runbook");
    names.into_iter().zip(runbooks).collect()
}

#[test]
fn prometheus_accepts_the_rules_and_they_fire_when_they_should() {
    promtool(&["check", "rules", &format!("{ALERTS}/rules.yaml")]);
    promtool(&["test", "rules", &format!("{ALERTS}/rules.test.yaml")]);
    let tried = read(&format!("{ALERTS}/rules.test.yaml"));
    for (alert, _) in alerts() {
        let times = tried.lines().filter(|line| line.trim() == format!("- alertname: {alert}")).count();
        assert_eq!(times, 2, "{alert} is tried once quiet and once firing");
    }
}

#[test]
fn the_operator_of_prometheus_gets_the_same_rules() {
    let rules = read(&format!("{ALERTS}/rules.yaml"));
    let indented = |line: &str| if line.is_empty() { "\n".to_owned() } else { format!("  {line}\n") };
    let expected: String = rules.lines().skip_while(|line| *line != "groups:").map(indented).collect();
    let kept = read(&format!("{ALERTS}/prometheusrule.yaml"));
    let (_, spec) = kept.split_once("\nspec:\n").unwrap();
    assert_eq!(spec, expected, "prometheusrule.yaml holds the groups of rules.yaml, two further to the right");
}

#[test]
fn every_alert_has_a_section_of_the_handbook_that_says_what_to_do() {
    let handbook = read("docs/operations.md");
    let sections: Vec<_> = handbook.split("\n### ").skip(1).filter(|section| section.starts_with("Postern")).collect();
    let mut told = BTreeSet::new();
    for section in sections {
        let (title, text) = section.split_once('\n').unwrap();
        let text = text.split("\n## ").next().unwrap();
        for part in ["**Means**", "**Look**", "**Do**"] {
            assert!(text.contains(part), "{title} lacks {part}");
        }
        told.insert(title.to_owned());
    }
    let mut meant = BTreeSet::new();
    for (alert, runbook) in alerts() {
        let section = format!("https://postern.example.org/docs/operations.md#{}", alert.to_lowercase());
        assert_eq!(runbook, section, "{alert}");
        meant.insert(alert);
    }
    assert_eq!(told, meant, "the sections of docs/operations.md and the alerts");
}

#[test]
fn the_dashboard_is_whole_and_prometheus_understands_its_queries() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).unwrap();
    let (mut ids, mut rules) = (BTreeSet::new(), String::from("groups:\n  - name: dashboard\n    rules:\n"));
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "an id is given twice: {panel}");
        assert!(!panel["title"].as_str().unwrap().is_empty());
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        assert!(panel["type"] == "row" || !targets.is_empty(), "a panel asks for nothing: {panel}");
        for target in targets {
            let query = target["expr"].as_str().unwrap().replace("$__rate_interval", "5m").replace("$job", ".*");
            assert!(!query.contains('$') && query.contains("job=~"), "{query}");
            // JSON strings are valid YAML.
            let reference = target["refId"].as_str().unwrap();
            rules += "      - record: dashboard:query\n        expr: ";
            rules += &Value::from(query).to_string();
            rules += "\n        labels: {panel: \"";
            rules += &panel["id"].to_string();
            rules += reference;
            rules += "\"}\n";
        }
    }
    assert!(ids.len() > 20, "{ids:?}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dashboard.yaml");
    fs::write(&file, rules).unwrap();
    promtool(&["check", "rules", file.to_str().unwrap()]);
}
