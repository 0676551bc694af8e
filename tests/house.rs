//! The architecture rules, read from `docs/ARCHITECTURE.md` and checked against the sources as text.
//!
//! The tables and the map in that document are the rules; this file only parses and applies them. Items under
//! `#[cfg(test)]` are exempt from the import rules. The checks at the end show that each rule can fail.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may stop at the first surprise"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use scan::{Named, Token, paths, split_tests, tokens};

#[path = "house/scan.rs"]
mod scan;

/// Maximum length of a source file in lines, not counting its tests.
const LINES_MAX: usize = 400;

struct Source {
    path: String,
    /// `["store", "sqlite"]` for `src/store/sqlite.rs` and for `src/store/sqlite/mod.rs`.
    module: Module,
    text: String,
}

impl Source {
    fn new(path: &str, text: &str) -> Self {
        let inner = path.trim_start_matches("src/").trim_end_matches(".rs");
        let mut module: Vec<_> = inner.split('/').map(str::to_owned).collect();
        module.pop_if(|last| last == "mod");
        Self { path: path.to_owned(), module, text: text.to_owned() }
    }

    /// The tokens outside tests, and the number of lines that tests take.
    fn code(&self) -> (Vec<Token<'_>>, usize) {
        split_tests(tokens(&self.text))
    }
}

/// A module's path from the crate root.
type Module = Vec<String>;

/// One module's row in the table of imports.
struct Row {
    /// None for a module outside the layers.
    level: Option<u8>,
    /// None if it may import anything.
    allowed: Option<BTreeSet<String>>,
}

struct Rules {
    imports: BTreeMap<String, Row>,
    /// Crate or path (`sqlx`, `opentelemetry*`, `std::env`) → the modules that may name it.
    homes: Vec<(String, Vec<String>)>,
    /// Words that no module or type name may contain.
    banned: BTreeSet<String>,
    /// The files on the map.
    map: BTreeSet<String>,
}

impl Rules {
    fn read(document: &str) -> Self {
        let mut imports = BTreeMap::new();
        for row in table(document, "may import") {
            let allowed = (!row[2].starts_with("anything")).then(|| quoted_words(&row[2]).into_iter().collect());
            for module in quoted_words(&row[1]) {
                let level = row[0].chars().next().and_then(digit);
                imports.insert(module, Row { level, allowed: allowed.clone() });
            }
        }
        let mut homes = Vec::new();
        for row in table(document, "at home in") {
            homes.extend(quoted_words(&row[0]).into_iter().map(|name| (name, quoted_words(&row[1]))));
        }
        let banned = document.split("\n\n").filter(|part| part.starts_with("Banned in names")).flat_map(quoted_words);
        Self { imports, homes, banned: banned.collect(), map: map(document) }
    }
}

fn digit(letter: char) -> Option<u8> {
    letter.to_digit(10).and_then(|value| u8::try_from(value).ok())
}

/// The rows of the first table that has a column headed `head`.
fn table(document: &str, head: &str) -> Vec<Vec<String>> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let from_head =
        document.lines().skip_while(|line| !line.starts_with('|') || !cells(line).iter().any(|c| c == head));
    from_head.skip(2).take_while(|line| line.starts_with('|')).map(cells).collect()
}

fn quoted_words(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The `.rs` files in the tree that begins with `src/`.
fn map(document: &str) -> BTreeSet<String> {
    let mut place: Vec<&str> = Vec::new();
    let mut files = BTreeSet::new();
    for line in document.lines().skip_while(|line| *line != "src/").take_while(|line| !line.starts_with("```")) {
        let name = line.trim_start_matches([' ', '│', '├', '└', '─']);
        let depth = line.chars().count().saturating_sub(name.chars().count()) / 4;
        let Some(name) = name.split_whitespace().next() else { continue };
        place.truncate(depth);
        place.push(name.trim_end_matches('/'));
        if Path::new(name).extension().is_some_and(|extension| extension == "rs") {
            files.insert(place.join("/"));
        }
    }
    files
}

/// A path of this crate, from its root; `None` for foreign paths.
fn ours(path: &[String], module: &[String]) -> Option<Vec<String>> {
    let climbs = path.iter().take_while(|part| *part == "super").count();
    match path[0].as_str() {
        "crate" => Some(path[1..].to_vec()),
        "postern" if module == ["main"] => Some(path[1..].to_vec()),
        "super" => Some([&module[..module.len().saturating_sub(climbs)], &path[climbs..]].concat()),
        _ => None,
    }
}

fn import_faults(source: &Source, rules: &Rules) -> Vec<String> {
    let own = &source.module[0];
    let Some(Row { allowed, .. }) = rules.imports.get(own) else {
        return vec![format!("{}: `{own}` has no row in the table of imports", source.path)];
    };
    let mut faults = Vec::new();
    for Named { line, path } in paths(&source.code().0) {
        let Some(wanted) = ours(&path, &source.module).and_then(|path| path.first().cloned()) else { continue };
        let known = rules.imports.contains_key(&wanted);
        if &wanted != own
            && allowed.as_ref().is_some_and(|allowed| !allowed.contains(&wanted))
            && (known || path[0] == "crate")
        {
            faults.push(format!("{}:{line}: `{own}` may not import `{wanted}`", source.path));
        }
    }
    faults.dedup();
    faults
}

fn home_faults(source: &Source, rules: &Rules) -> Vec<String> {
    let mut faults = Vec::new();
    for Named { line, path } in paths(&source.code().0) {
        let full = path.join("::");
        for (name, homes) in &rules.homes {
            let named = match name.strip_suffix('*') {
                Some(start) => path[0].starts_with(start),
                None => full == *name || full.starts_with(&format!("{name}::")),
            };
            let module = source.module.join("::");
            let at_home = homes.iter().any(|home| module == *home || module.starts_with(&format!("{home}::")));
            if named && !at_home {
                faults.push(format!("{}:{line}: `{name}` outside its home ({})", source.path, homes.join(", ")));
            }
        }
    }
    faults.dedup();
    faults
}

fn length_faults(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count() - source.code().1;
    if lines <= LINES_MAX {
        return Vec::new();
    }
    vec![format!("{}: {lines} lines before its tests, {LINES_MAX} are the limit", source.path)]
}

fn name_faults(source: &Source, banned: &BTreeSet<String>) -> Vec<String> {
    let all = tokens(&source.text);
    let mut names = source.module.clone();
    for pair in
        all.windows(2).filter(|pair| ["struct", "enum", "trait", "type", "mod", "union"].contains(&pair[0].text))
    {
        names.push(pair[1].text.to_owned());
    }
    let broken = names.iter().filter(|name| words(name).iter().any(|word| banned.contains(word)));
    broken.map(|name| format!("{}: the name `{name}` says nothing", source.path)).collect()
}

/// `["read", "model"]` for `ReadModel` and for `read_model`.
fn words(name: &str) -> Vec<String> {
    let mut apart = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() {
            apart.push('_');
        }
        apart.extend(letter.to_lowercase());
    }
    apart.split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn mark_faults(path: &str, text: &str) -> Vec<String> {
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let open = text.lines().enumerate().filter(|(_, line)| marks.iter().any(|mark| line.contains(mark)));
    open.filter(|(_, line)| !line.contains("https://"))
        .map(|(at, _)| format!("{path}:{}: a mark without a link", at + 1))
        .collect()
}

/// `mod` declarations in `code`, as full module paths.
fn declared(module: &[String], code: &[Token<'_>]) -> Vec<Vec<String>> {
    let root = module == ["lib"] || module == ["main"];
    let inside = if root { &[] } else { module };
    let plain = code.windows(3).filter(|seen| seen[0].text == "mod" && seen[2].text == ";");
    plain.map(|seen| [inside, &[seen[1].text.to_owned()]].concat()).collect()
}

/// Modules that are always compiled, and modules that are compiled only for tests.
fn compiled(sources: &[Source]) -> (BTreeSet<Module>, BTreeSet<Module>) {
    let always: BTreeSet<_> = sources.iter().flat_map(|source| declared(&source.module, &source.code().0)).collect();
    let all = sources.iter().flat_map(|source| declared(&source.module, &tokens(&source.text)));
    let tests_only = all.filter(|module| !always.contains(module)).collect();
    (always, tests_only)
}

fn source_faults(sources: &[Source], rules: &Rules) -> Vec<String> {
    let (always, tests_only) = compiled(sources);
    let mut faults = Vec::new();
    for source in sources {
        let for_tests = tests_only.iter().any(|module| source.module.starts_with(module));
        let root = source.module == ["lib"] || source.module == ["main"];
        if !root && !for_tests && !always.contains(&source.module) {
            faults.push(format!("{}: no `mod` declares it", source.path));
        }
        if !for_tests {
            faults.extend(import_faults(source, rules));
            faults.extend(home_faults(source, rules));
            faults.extend(length_faults(source));
        }
        faults.extend(name_faults(source, &rules.banned));
    }
    faults
}

/// Rows that name nothing, imports that do not point downwards, and differences between map and tree.
fn rule_faults(sources: &[Source], rules: &Rules, manifest: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let exists = |name: &str| sources.iter().any(|source| source.module.join("::") == name);
    for (module, Row { level, allowed }) in &rules.imports {
        faults.extend((!exists(module)).then(|| format!("table of imports: there is no module `{module}`")));
        for wanted in allowed.iter().flatten() {
            let below = rules.imports.get(wanted).and_then(|row| row.level);
            let down = below.is_some_and(|low| level.is_none_or(|high| low < high));
            faults.extend((!down).then(|| format!("table of imports: `{module}` to `{wanted}` does not go down")));
        }
    }
    for (name, homes) in &rules.homes {
        let package = name.split("::").next().unwrap().trim_end_matches('*');
        let known = package == "std" || manifest.lines().any(|line| line.replace('-', "_").starts_with(package));
        faults.extend((!known).then(|| format!("table of homes: `{name}` is no dependency")));
        let gone = homes.iter().filter(|home| !exists(home));
        faults.extend(gone.map(|home| format!("table of homes: there is no module `{home}` for `{name}`")));
    }
    let tree: BTreeSet<_> = sources.iter().map(|source| source.path.clone()).collect();
    faults.extend(tree.difference(&rules.map).map(|path| format!("{path}: not on the map")));
    faults.extend(rules.map.difference(&tree).map(|path| format!("{path}: on the map, but not there")));
    faults
}

/// Relative links to files that do not exist.
fn link_faults(path: &str, text: &str, exists: impl Fn(&Path) -> bool) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap();
    let prose: String = text.split("```").step_by(2).collect();
    let links = prose.split("](").skip(1).filter_map(|tail| tail.split([')', ' ', '#']).next());
    let relative = links.filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"));
    relative
        .filter(|link| !exists(&folder.join(link)))
        .map(|link| format!("{path}: no file for the link `{link}`"))
        .collect()
}

/// Tests that a document names as `FILE.rs::NAME` and that do not exist.
fn test_faults(path: &str, text: &str, content: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let named = quoted_words(text).into_iter().filter_map(|word| {
        let (file, name) = word.split_once("::")?;
        file.contains('/').then(|| (file.to_owned(), name.to_owned()))
    });
    let missing = named.filter(|(file, name)| content(file).is_none_or(|text| !text.contains(&format!("fn {name}("))));
    missing.map(|(file, name)| format!("{path}: there is no test `{file}::{name}`")).collect()
}

/// Files under `folder` with this extension, as paths from the repository root.
fn files(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let Ok(entries) = fs::read_dir(root.join(folder)) else { return found };
    for entry in entries.map(Result::unwrap) {
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap()).trim_start_matches("./").to_owned();
        if entry.path().is_dir() && folder != "." {
            found.extend(files(&path, ending));
        } else if entry.path().extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_house_keeps_its_rules() {
    let rules = Rules::read(&read("docs/ARCHITECTURE.md"));
    let sources: Vec<_> = files("src", "rs").iter().map(|path| Source::new(path, &read(path))).collect();
    let mut faults = source_faults(&sources, &rules);
    faults.extend(rule_faults(&sources, &rules, &read("Cargo.toml")));
    for path in ["tests", "benches"].iter().flat_map(|folder| files(folder, "rs")) {
        faults.extend(name_faults(&Source::new(&path, &read(&path)), &rules.banned));
    }
    for path in ["src", "tests", "benches"].iter().flat_map(|folder| files(folder, "rs")) {
        faults.extend(mark_faults(&path, &read(&path)));
    }
    for path in files(".", "md").into_iter().chain(files("docs", "md")) {
        faults
            .extend(link_faults(&path, &read(&path), |file| Path::new(env!("CARGO_MANIFEST_DIR")).join(file).exists()));
    }
    let threats = "docs/threat-model.md";
    let content = |file: &str| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).ok();
    faults.extend(test_faults(threats, &read(threats), content));
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

mod self_check {
    use super::*;

    const DOCUMENT: &str = "
```text
src/
├── lib.rs   the map
├── low.rs   ground
└── high/    adapters
    └── mod.rs  one
```

| level | module | may import |
|---|---|---|
| 0 | `low` | nothing |
| 1 | `high` | `low` |
| 2 | `lib` | anything |

| name | at home in |
|---|---|
| `sqlx`, `std::env` | `high` |
| `otel*` | `low` |

Banned in names: `util`,
`manager`.
";

    fn rules() -> Rules {
        Rules::read(DOCUMENT)
    }

    fn faults(path: &str, text: &str) -> Vec<String> {
        let lib = Source::new("src/lib.rs", "pub mod low; mod high; #[cfg(test)] mod trial;");
        source_faults(&[lib, Source::new(path, text)], &rules())
    }

    #[test]
    fn the_document_is_read() {
        let rules = rules();
        assert_eq!(rules.imports.len(), 3);
        assert_eq!(rules.homes.len(), 3);
        assert_eq!(rules.banned.len(), 2);
        assert_eq!(rules.map.iter().collect::<Vec<_>>(), ["src/high/mod.rs", "src/lib.rs", "src/low.rs"]);
    }

    #[test]
    fn an_import_against_the_table_is_reported_however_it_is_written() {
        for text in [
            "use crate::high::Thing;",
            "use crate::{low::Own, high};",
            "use crate::{low::{Own, Other}, high::{self, Thing as That}};",
            "use std::fmt; use super::high;",
            "fn f() { let x = crate::high::Thing::new(); }",
            "fn f(x: &'static str, y: crate::high::Thing) { '\"' }",
            "const A: &str = r#\"quote \" here\"#; use crate::high;",
            "use crate::nowhere;",
        ] {
            assert_eq!(faults("src/low.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn what_the_table_allows_is_silent() {
        for text in [
            "use crate::low::{A, B}; use crate::high::inner; use super::low; use sqlx::query;",
            "// use crate::lib;\n/* crate::lib /* crate::lib */ crate::lib */ const A: &str = \"crate::lib::x\";",
            "#[cfg(test)] mod tests { use crate::lib; fn f() { otel::x(); } }",
            "#[cfg(test)] use crate::lib::{A, B}; fn f() -> impl Sized + use<'static> {}",
        ] {
            assert_eq!(faults("src/high/mod.rs", text), Vec::<String>::new(), "{text}");
        }
        assert_eq!(faults("src/trial.rs", "use crate::high; use sqlx::query;"), Vec::<String>::new());
    }

    #[test]
    fn a_foreign_name_outside_its_home_is_reported() {
        for text in ["use sqlx::{query, Row};", "use sqlx;", "fn f() { std::env::var(\"A\"); }", "#[derive(sqlx::Row)]"]
        {
            assert!(!faults("src/low.rs", text).is_empty(), "{text}");
        }
        assert_eq!(faults("src/high/mod.rs", "use otel_sdk::Meter;").len(), 1);
        assert_eq!(faults("src/low.rs", "use std::{fmt, env as e};").len(), 1);
        assert_eq!(faults("src/low.rs", "fn f() { mine::sqlx::query(); a.sqlx(); }"), Vec::<String>::new());
    }

    #[test]
    fn long_files_dead_files_and_empty_names_are_reported() {
        let long = "// line\n".repeat(LINES_MAX + 1);
        assert_eq!(faults("src/low.rs", &long).len(), 1);
        let tested = format!("fn f() {{}}\n#[cfg(test)]\nmod tests {{\n{long}}}\n");
        assert_eq!(faults("src/low.rs", &tested), Vec::<String>::new());
        assert!(faults("src/high/lost.rs", "")[0].contains("no `mod`"));
        assert_eq!(faults("src/low.rs", "struct LeaseManager; mod util {}").len(), 2);
        assert_eq!(mark_faults("x", concat!("// TO", "DO: later")).len(), 1);
        assert!(mark_faults("x", concat!("// TO", "DO https://example.org/1")).is_empty());
    }

    #[test]
    fn rows_that_name_nothing_are_reported() {
        let sources = [Source::new("src/lib.rs", ""), Source::new("src/low.rs", ""), Source::new("src/new.rs", "")];
        let found = rule_faults(&sources, &rules(), "sqlx = \"1\"").join("\n");
        for part in [
            "no module `high`\n",
            "`otel*` is no dependency",
            "`high` for `sqlx`",
            "new.rs: not on",
            "mod.rs: on the map",
        ] {
            assert!(found.contains(part), "{part} in\n{found}");
        }
        let up = Rules::read(&DOCUMENT.replace("| nothing |", "| `high` |"));
        assert!(rule_faults(&sources, &up, "").join("\n").contains("`low` to `high` does not go down"));
    }

    #[test]
    fn a_test_that_is_named_and_not_there_is_reported() {
        let text =
            "| `tests/a.rs::it_holds`, `tests/a.rs::it_breaks` | `tests/b.rs::it_holds` | `server.listen` | `a::b` |";
        let content = |file: &str| (file == "tests/a.rs").then(|| "fn it_holds() {}".to_owned());
        let found = test_faults("x.md", text, content);
        assert_eq!(found.len(), 2, "{found:?}");
    }

    #[test]
    fn a_broken_link_is_reported() {
        let text = "[a](b.md#part) [c](https://x.org/) [d](#here)\n```\n[e](f)\n```\n[g](../LICENSE)";
        let found = link_faults("docs/x.md", text, |path| path == Path::new("docs/../LICENSE"));
        assert_eq!(found, ["docs/x.md: no file for the link `b.md`"]);
    }
}
