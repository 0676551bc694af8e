//! The commands of the real binary: exit codes, and which stream they print to.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "a test that cannot go on ends"
)]

mod arguments;
#[path = "../support/certificate.rs"]
mod certificate;
mod check;
mod demo;
mod explain;
mod live;
mod manual;
mod probe;
#[path = "../support/program.rs"]
mod program;
mod sandbox;
mod serve;
mod trail;
mod tunnel;

use std::{fs, path::Path};

use program::{Ended, Program, postern};

/// A file or folder of the repository.
fn shipped(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command to its end.
fn run(folder: &Path, arguments: &[&str]) -> Ended {
    Program::start(postern(folder, arguments)).ended()
}

/// A folder whose settings, catalogue, policy and secret each have a fault.
fn faulty() -> tempfile::TempDir {
    const SETTINGS: &str = r#"[server]
listen = "nowhere"
lisen = "127.0.0.1:8080"

[graph]
cloud = "sandbox"
tenant_id = "11111111-2222-4333-8444-555555555555"
client_id = "99999999-8888-4777-8666-555555555555"
credential.secret_file = "missing.secret"

[policy]
dir = "policies"

[[issuers]]
name = "sandbox"
issuer = "http://127.0.0.1:9400/issuer"
audiences = ["api://postern"]
jwks_url = "http://127.0.0.1:9400/issuer/jwks"

[[callers]]
name = "servicenow"
issuer = "sandboks"
client_id = "c0000000-0000-4000-8000-000000000001"

[catalogue.configurations."Sales ESP"]
id = "Sales"
"#;
    const POLICY: &str = "@id(\"kiosks\")\npermit (principal, action == Postern::Action::\"add\", resource)\nwhen { resource.tag.contains(\"kiosk\") };\n";
    let folder = tempfile::tempdir().unwrap();
    let policies = folder.path().join("policies");
    fs::create_dir(&policies).unwrap();
    fs::copy(shipped("config/policies/schema.cedarschema"), policies.join("schema.cedarschema")).unwrap();
    fs::write(policies.join("kiosks.cedar"), POLICY).unwrap();
    fs::write(folder.path().join("faulty.toml"), SETTINGS).unwrap();
    folder
}
