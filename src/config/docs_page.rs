//! Generates `docs/configuration.md`: every key with its default, its limits and its environment variable.
//!
//! Keys and defaults are those that the loader declares; limits are taken from the faults that it reports for
//! impossible values; descriptions are the comments above the keys in `config/gateway.toml`. Guarantees: the page in
//! the repository is the generated one; a missing key or another default fails the test.
//!
//! It deliberately exists for tests only and is not part of the program.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use super::{Fault, diagnostics::Diagnostics, file::interpret, source_file::SourceFile, table::variable};

/// The variable that makes the test write the page before comparing it.
const UPDATE: &str = "POSTERN_UPDATE_DOCS";

const HEAD: &str = "# Configuration

Every setting, with its environment variable, default and limits. A test generates this page from the code and from the
comments in [config/gateway.toml](../config/gateway.toml), which is the file to start from; `POSTERN_UPDATE_DOCS=1 cargo
test --locked --lib config::page` regenerates it. `postern check --config FILE` reports all faults of a file at once.

The file (`--config FILE` or `POSTERN_CONFIG=FILE`) overrides the defaults, and the environment overrides the file. Lists and
the catalogue can be set in the file only. Durations need a unit: `500ms`, `20s`, `5m`, `1h`, `7d`; so do sizes: `4096B`,
`256KiB`, `1MiB`.
";

/// Values that no setting accepts, as text and as a number: the resulting faults contain the limits.
const IMPOSSIBLE: [&str; 4] = ["\"999999d\"", "\"999999MiB\"", "4294967295", "\"?\""];

fn repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

fn read(text: &str) -> Diagnostics {
    interpret(&SourceFile::new(None, text), text, std::iter::empty()).1
}

/// The comments in the reference, by key and by section.
fn comments(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut section, mut block, mut closed) = (BTreeMap::new(), String::new(), Vec::new(), true);
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            if closed {
                block.clear();
            }
            block.push(comment);
            closed = false;
            continue;
        }
        let line = line.trim_start_matches('#');
        closed = true;
        if let Some(name) = line.strip_prefix('[') {
            let name = name.trim_matches(['[', ']']);
            section = name.split(".\"").next().unwrap_or(name).to_owned();
            found.entry(section.clone()).or_insert_with(|| block.join(" "));
            block.clear();
        } else if let Some((key, _)) = line.split_once(" = ").filter(|(key, _)| !key.starts_with('"')) {
            found.entry(format!("{section}.{key}")).or_insert_with(|| block.join(" "));
        } else if line.is_empty() {
            block.clear();
        }
    }
    found
}

/// The limits of a key, if a fault of the loader contains them.
fn takes(key: &str) -> Option<String> {
    let (list, name) = ["issuers", "callers", "webhooks.rules", "webhooks", "destinations"]
        .into_iter()
        .find_map(|list| Some((list, key.strip_prefix(list)?.strip_prefix('.')?)))
        .unwrap_or(("", key));
    let above = if list == "webhooks.rules" { "[[webhooks]]\n" } else { "" };
    let text = |value: &str| match list {
        "" => format!("{name} = {value}\n"),
        list => format!("{above}[[{list}]]\n{name} = {value}\n"),
    };
    let says = |value: &&str| {
        let faults = read(&text(value)).faults;
        faults.into_iter().filter(|fault| is_about(fault, name)).find_map(|fault| bounds(&fault))
    };
    IMPOSSIBLE.iter().find_map(says)
}

fn is_about(fault: &Fault, name: &str) -> bool {
    fault.what.split(": ").next().is_some_and(|key| key == name || key.ends_with(&format!(".{name}")))
}

/// The part of a hint that contains limits.
fn bounds(fault: &Fault) -> Option<String> {
    let hint = fault.hint.as_deref()?;
    for (begin, shown) in
        [("it must be between ", "between "), ("it must be a whole number ", "a whole number "), ("one of ", "one of ")]
    {
        if let Some(rest) = hint.strip_prefix(begin) {
            return Some(format!("{shown}{rest}"));
        }
    }
    None
}

fn page() -> String {
    let text = repository("config/gateway.toml");
    // The reference with all of its lists, so that every key is declared.
    let shown = |line: &str| match line.strip_prefix('#') {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let diagnostics = read(&text.lines().map(shown).collect::<String>());
    let comments = comments(&text);
    let (mut page, mut section) = (HEAD.to_owned(), "");
    // In the order of sections: by key alone, `graph.credential.*` would split `graph`.
    let known: BTreeMap<_, _> = diagnostics.known.iter().map(|entry| (entry.0.rsplit_once('.'), entry)).collect();
    for (key, default) in known.into_values() {
        let own = key.rsplit_once('.').map_or("", |(above, _)| above);
        if own != section {
            section = own;
            let about = comments.get(section).filter(|about| !about.is_empty());
            write!(page, "\n## {section}\n").unwrap();
            if let Some(about) = about {
                write!(page, "\n{}\n", wrapped(about)).unwrap();
            }
        }
        let about = comments.get(key).unwrap_or_else(|| panic!("{key} has no comment in config/gateway.toml"));
        // A variable holds one text, so it sets no list.
        let in_file_only = default.as_ref().is_some_and(|default| default.starts_with('['))
            || ["issuers", "callers", "webhooks", "destinations", "catalogue"].iter().any(|list| key.starts_with(list));
        let default = default.as_ref().map_or("no default".to_owned(), |default| format!("default `{default}`"));
        let takes = takes(key).map(|takes| format!(" · {takes}")).unwrap_or_default();
        let name = if in_file_only { String::new() } else { format!("`{}` · ", variable(key)) };
        write!(page, "\n### {key}\n\n{name}{default}{takes}\n\n{}\n", wrapped(about)).unwrap();
    }
    page
}

/// Wraps a text into lines.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().unwrap();
        if !line.is_empty() && line.chars().count().saturating_add(word.chars().count()) > 118 {
            lines.push(word.to_owned());
        } else {
            *line = format!("{line} {word}").trim_start().to_owned();
        }
    }
    lines.join("\n")
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how the test is told to write")]
fn the_page_of_settings_is_what_the_code_knows() {
    let page = page();
    if std::env::var(UPDATE).is_ok() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
        fs::write(path, &page).unwrap();
    }
    let kept = repository("docs/configuration.md");
    let other = kept.lines().zip(page.lines()).find(|(kept, made)| kept != made);
    assert!(kept == page, "docs/configuration.md is out of date ({other:?}); {UPDATE}=1 makes it anew");
}
