//! A measured program: pinned to the first core, with figures from the operating system.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use postern::clock::Clock;

/// How long anything here may take to start.
const PATIENCE: Duration = Duration::from_mins(5);
/// Between two polls.
const PAUSE: Duration = Duration::from_millis(2);
/// Ticks a second in `/proc/PID/stat`; the same on every Linux that Rust runs on.
const TICKS: f64 = 100.0;

/// Pins this process, and all it starts, to all cores but the first, if there are several.
pub(crate) fn stay_off_the_measured_core() {
    pinned(&all_but_the_first(), std::process::id());
}

/// Lets this process, and all it starts from now on, use all cores.
pub(crate) fn use_all_cores() {
    pinned(&all_cores(), std::process::id());
}

/// All cores, as a list for `taskset`.
pub(crate) fn all_cores() -> String {
    fs::read_to_string("/sys/devices/system/cpu/present").unwrap().trim().to_owned()
}

/// All cores but the first; the same one if there is only one.
pub(crate) fn all_but_the_first() -> String {
    let cores = all_cores();
    let last = cores.rsplit(['-', ',']).next().unwrap();
    if last == "0" { cores } else { format!("1-{last}") }
}

fn pinned(cores: &str, pid: u32) {
    let done = Command::new("taskset").args(["-apc", cores, &pid.to_string()]).stdout(Stdio::null()).status();
    assert!(done.is_ok_and(|status| status.success()), "taskset (Debian: util-linux) cannot choose cores");
}

/// A running program; dropping it kills it.
pub(crate) struct Process {
    child: Child,
    /// Counts disk flushes for as long as this lives.
    flushes: Option<Flushes>,
}

impl Process {
    /// Starts a program on these cores, with its output in a file.
    pub(crate) fn start(mut command: Command, cores: &str, log: &Path) -> Self {
        let log = fs::File::create(log).unwrap();
        let mut pinned = Command::new("taskset");
        pinned.args(["-c", cores]).arg(command.get_program()).args(command.get_args());
        pinned.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(folder) = command.get_current_dir() {
            pinned.current_dir(folder);
        }
        command = pinned;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self { child: child.expect("the program can be started"), flushes: None }
    }

    /// Lets it use all cores.
    pub(crate) fn use_all_cores(&self) {
        pinned(&all_cores(), self.id());
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// CPU time so far, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        cpu(&self.id().to_string()).unwrap()
    }

    /// Memory in MiB: currently in use, and the peak.
    pub(crate) fn memory(&self) -> (f64, f64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let of = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1_024.0
        };
        (of("VmRSS:"), of("VmHWM:"))
    }

    /// Counts flushes from now on, if `perf` is available.
    pub(crate) fn count_flushes(&mut self) {
        self.flushes = Flushes::of(self.id());
    }

    /// Flushes since then.
    pub(crate) fn flushes(&mut self) -> Option<u64> {
        self.flushes.take()?.count()
    }

    /// Sends SIGTERM and waits for it to exit.
    pub(crate) fn stop(&mut self) {
        signal("TERM", self.id());
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

fn cpu(pid: &str) -> Option<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may contain spaces, is in parentheses; user and system time are the 14th and 15th fields.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields[11..13].iter().map(|field| field.parse::<f64>().unwrap()).sum();
    Some(Duration::from_secs_f64(ticks / TICKS))
}

/// CPU time so far of all running programs with this name.
pub(crate) fn cpu_of_all(name: &str) -> Duration {
    let all = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let named = |pid: &String| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name);
    all.filter(named).filter_map(|pid| cpu(&pid)).sum()
}

fn signal(name: &str, pid: u32) {
    drop(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status());
}

/// `perf stat` on the system calls that flush the disk.
struct Flushes(Child);

impl Flushes {
    fn of(pid: u32) -> Option<Self> {
        let mut command = Command::new("perf");
        command.args(["stat", "-x", ",", "-e", "syscalls:sys_enter_fsync,syscalls:sys_enter_fdatasync", "-p"]);
        command.arg(pid.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command.spawn().ok().map(Self)
    }

    fn count(self) -> Option<u64> {
        signal("INT", self.0.id());
        let said = String::from_utf8(self.0.wait_with_output().ok()?.stderr).ok()?;
        let counted: Vec<u64> = said.lines().filter_map(|line| line.split(',').next()?.parse().ok()).collect();
        (counted.len() == 2).then(|| counted.iter().sum())
    }
}

/// Waits until the condition holds, polling constantly.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let clock = Clock::system();
    while !is_so().await {
        assert!(clock.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        clock.sleep(PAUSE).await;
    }
}
