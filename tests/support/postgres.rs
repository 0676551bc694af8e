//! Private PostgreSQL servers for tests, run from the machine's installation.
//!
//! Each server has its own folder and is reached by a Unix socket there, without a password; over TCP it requires one.
//! It ends when the process that holds its handle ends, however that happens: a shell waits for end of file on a pipe
//! and then kills the server by its process id. It is as durable as a real one: `fsync` is on.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use postern::clock::Clock;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

/// Far longer than a start takes, crash recovery included.
const PATIENCE: Duration = Duration::from_mins(1);
/// Runs a server until its standard input closes; then kills it as a power cut would, and removes its folder unless it
/// was stopped on purpose.
const WATCH: &str = r#""$1" -D "$2/data" -k "$2" -p "$3" >>"$2/log" 2>&1 & server=$!
cat; kill -QUIT "$server"; wait "$server"; [ -e "$2/stopped" ] || rm -rf "$2""#;

/// A server that holds its own databases.
#[derive(Debug)]
pub(crate) struct Server {
    folder: PathBuf,
    /// The TCP port that it listens on.
    pub(crate) port: u16,
    running: Option<(Child, ChildStdin)>,
}

/// The server shared by all tests of this binary.
pub(crate) fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::begin)
}

impl Server {
    /// A private server, which the test can stop and restart.
    pub(crate) fn begin() -> Self {
        let folder = tempfile::Builder::new().prefix("postern-pg-").tempdir().unwrap().keep();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // Clients of the socket may run as a different user from the server's.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((user, group)) = other_user().map(|name| (number(name, "-u"), number(name, "-g"))) {
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        let made = as_server_user(&installed("initdb"))
            .args(["--username=postgres", "--auth-local=trust", "--auth-host=scram-sha-256"])
            .args(["--encoding=UTF8", "--locale=C", "-D"])
            .arg(folder.join("data"))
            .current_dir(&folder)
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let settings = "listen_addresses = '127.0.0.1'\nmax_connections = 300\nfsync = on\nsynchronous_commit = on\n";
        let file = folder.join("data/postgresql.auto.conf");
        fs::write(&file, settings).unwrap();
        let mut server = Self { folder, port, running: None };
        server.start();
        server
    }

    /// Starts or restarts the server.
    pub(crate) fn start(&mut self) {
        let mut command = as_server_user(Path::new("sh"));
        command.args(["-c", WATCH, "sh"]).arg(installed("postgres")).arg(&self.folder).arg(self.port.to_string());
        command.current_dir(&self.folder).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let handle = child.stdin.take().unwrap();
        self.running = Some((child, handle));
        let clock = Clock::system();
        while !self.is_up() {
            assert!(clock.elapsed() < PATIENCE, "{}", fs::read_to_string(self.folder.join("log")).unwrap());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_up(&self) -> bool {
        let asked = Command::new(installed("pg_isready"))
            .args(["-q", "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .status();
        asked.unwrap().success()
    }

    /// Kills the server at once, as a power cut would.
    pub(crate) fn stop(&mut self) {
        if let Some((mut child, handle)) = self.running.take() {
            fs::write(self.folder.join("stopped"), "").unwrap();
            drop(handle);
            child.wait().unwrap();
        }
    }

    /// Creates an empty database; returns its URL.
    pub(crate) async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?user=postgres&host={}&port={}", self.folder.display(), self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
}

/// Path of an installed program: from `PATH`, or else where Debian puts it, newest version first.
fn installed(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().collect();
    versions.sort_by_key(|entry| std::cmp::Reverse(entry.file_name().to_string_lossy().parse::<u32>().unwrap_or(0)));
    let of_debian = versions.into_iter().map(|entry| entry.path().join("bin"));
    let found = std::env::split_paths(&path).chain(of_debian).map(|folder| folder.join(program));
    found.into_iter().find(|file| file.is_file()).unwrap_or_else(|| {
        panic!(
            "PostgreSQL 15 or newer is not installed ({program}): apt-get install postgresql, or have tests/run do it"
        )
    })
}

/// The user to run as when the tests run as root, which PostgreSQL refuses.
fn other_user() -> Option<&'static str> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let exists = |name: &&str| Command::new("id").arg(name).output().is_ok_and(|it| it.status.success());
    Some(["postgres", "nobody"].into_iter().find(exists).expect("a user other than root"))
}

fn as_server_user(program: &Path) -> Command {
    let Some(user) = other_user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    let (user, group) = (number(user, "-u"), number(user, "-g"));
    command.arg(format!("--reuid={user}")).arg(format!("--regid={group}")).arg("--clear-groups").arg(program);
    command
}

fn number(user: &str, which: &str) -> u32 {
    let asked = Command::new("id").args([which, user]).output().unwrap();
    String::from_utf8(asked.stdout).unwrap().trim().parse().unwrap()
}
