//! Tests the running daemon: start, configuration over its socket, end. Needs root, `ip` and `wg`.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

const DAEMON: &str = env!("CARGO_BIN_EXE_wgq-userspace");
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A network namespace with daemons, which end when it is dropped.
struct Host {
    namespace: String,
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"))
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// A name that is unique among all tests of all processes.
fn unique(prefix: &str) -> String {
    format!("{prefix}{}x{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The longest wait for a condition, on a machine with much other work.
const PATIENCE: Duration = Duration::from_secs(60);

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "timed out waiting for: {what}");
        sleep(Duration::from_millis(10));
    }
}

impl Host {
    fn new() -> Self {
        let namespace = unique("wq");
        assert!(run("ip", &["netns", "add", &namespace]).status.success());
        let host = Self { namespace };
        host.ip("link set lo up");
        host
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Output {
        run("ip", &[&["netns", "exec", &self.namespace, program], arguments].concat())
    }

    fn ip(&self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        let output = run("ip", &[&["-n", &self.namespace], &words[..]].concat());
        assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn start(&self, interface: &str) -> Output {
        self.command(DAEMON, &[interface])
    }

    fn wg(&self, line: &str) -> Output {
        self.command("bash", &["-c", &format!("wg {line}")])
    }

    fn started(&self) -> String {
        let interface = unique("q");
        let output = self.start(&interface);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        interface
    }

    fn daemons(&self) -> Vec<String> {
        let pids = text(&run("ip", &["netns", "pids", &self.namespace]));
        pids.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for pid in self.daemons() {
            run("kill", &[&pid]);
        }
        let end = Instant::now() + PATIENCE;
        while !self.daemons().is_empty() && Instant::now() < end {
            sleep(Duration::from_millis(10));
        }
        run("ip", &["netns", "del", &self.namespace]);
    }
}

fn socket(interface: &str) -> PathBuf {
    format!("/var/run/wireguard/{interface}.sock").into()
}

fn ask(interface: &str, request: &str) -> String {
    let mut stream = UnixStream::connect(socket(interface)).expect("the socket answers");
    stream.write_all(request.as_bytes()).expect("the request is sent");
    stream.shutdown(std::net::Shutdown::Write).expect("the connection is open");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer is text");
    answer
}

#[test]
fn after_start_the_link_exists_and_the_socket_answers_root() {
    let host = Host::new();
    let interface = host.started();
    let link = text(&run("ip", &["-n", &host.namespace, "-d", "link", "show", &interface]));
    assert!(link.contains("mtu 1420") && link.contains("tun type tun"), "{link}");
    let metadata = fs::metadata(socket(&interface)).expect("the socket is there");
    assert!(metadata.file_type().is_socket() && metadata.permissions().mode() & 0o777 == 0o600);
    assert_eq!(ask(&interface, "get=1\n\n"), "errno=0\n\n");
}

#[test]
fn deleting_the_link_ends_the_daemon_and_removes_its_socket() {
    let host = Host::new();
    let interface = host.started();
    host.ip(&format!("link del {interface}"));
    eventually("the socket is gone", || !socket(&interface).exists());
    eventually("the daemon is gone", || host.daemons().is_empty());
}

#[test]
fn a_signal_or_removing_the_socket_ends_daemon_and_link() {
    let host = Host::new();
    let (signalled, removed) = (host.started(), host.started());
    fs::remove_file(socket(&removed)).expect("the socket is ours to remove");
    eventually("one daemon is gone", || host.daemons().len() == 1);
    run("kill", &[&host.daemons()[0]]);
    eventually("both are gone", || host.daemons().is_empty());
    assert!(!socket(&signalled).exists());
    // The kernel closes a process's files after it has left its namespaces.
    eventually("the link is gone", || !host.command("ip", &["link", "show", &signalled]).status.success());
}

#[test]
fn only_the_socket_of_a_dead_daemon_is_replaced() {
    let host = Host::new();
    let interface = host.started();
    let second = host.start(&interface);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("is in use"));
    run("kill", &["-9", &host.daemons()[0]]);
    eventually("it is dead", || host.daemons().is_empty());
    assert!(socket(&interface).exists());
    let third = host.start(&interface);
    assert!(third.status.success(), "{}", String::from_utf8_lossy(&third.stderr));
    assert_eq!(ask(&interface, "get=1\n\n"), "errno=0\n\n");
}

#[test]
fn an_interface_that_is_not_a_tun_device_is_not_changed() {
    let host = Host::new();
    let interface = unique("d");
    let end = unique("d");
    host.ip(&format!("link add {interface} type veth peer name {end}"));
    let output = host.start(&interface);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not a TUN device"));
    assert!(!socket(&interface).exists());
}

#[test]
fn an_invalid_request_changes_nothing_and_returns_an_errno() {
    let host = Host::new();
    let interface = host.started();
    let key = "ab".repeat(32);
    let good = format!("set=1\nprivate_key={key}\npublic_key={}\nallowed_ip=10.0.0.0/8\n\n", "cd".repeat(32));
    assert_eq!(ask(&interface, &good), "errno=0\n\n");
    let before = ask(&interface, "get=1\n\n");
    let bad =
        format!("set=1\nlisten_port=9999\nreplace_peers=true\npublic_key={key}\nallowed_ip=10.0.0.0/33\n\n");
    assert_eq!(ask(&interface, &bad), "errno=-22\n\n");
    assert_eq!(ask(&interface, "get=1\n\n"), before);
    assert_eq!(ask(&interface, "what=1\n\n"), "errno=-71\n\n");
    assert_eq!(ask(&interface, "set=1\nlisten_port=9999\n"), "", "a request without its end");
    assert_eq!(ask(&interface, "get=1\n\n"), before);
}

#[test]
fn the_zone_of_an_endpoint_is_a_name_before_it_is_a_number() {
    let host = Host::new();
    let interface = host.started();
    host.ip("link add 1 type veth peer name 2");
    let index = text(&host.command("cat", &["/sys/class/net/1/ifindex"]));
    let zone = |zone: &str| {
        let peer = format!("set=1\npublic_key={}\nendpoint=[fe80::1%{zone}]:9\n\n", "cd".repeat(32));
        assert_eq!(ask(&interface, &peer), "errno=0\n\n");
        let shown = ask(&interface, "get=1\n\n");
        let endpoint = shown.lines().find_map(|line| line.strip_prefix("endpoint=[fe80::1%"));
        endpoint.and_then(|rest| rest.strip_suffix("]:9")).map(ToOwned::to_owned)
    };
    assert_eq!(zone("1"), Some(index), "the link of that name");
    assert_eq!(zone("77").as_deref(), Some("77"), "no link has this name");
}

#[test]
fn a_port_in_use_is_an_error_and_the_old_one_is_kept() {
    let host = Host::new();
    let (first, second) = (host.started(), host.started());
    for (interface, port) in [(&first, 4001), (&second, 4002)] {
        host.ip(&format!("link set {interface} up"));
        eventually("the port is bound", || {
            host.wg(&format!("set {interface} listen-port {port}"));
            text(&host.command("ss", &["-ulnH"])).contains(&format!("0.0.0.0:{port}"))
        });
    }
    assert!(!host.wg(&format!("set {second} listen-port 4001 fwmark 7")).status.success());
    assert_eq!(text(&host.wg(&format!("show {second} listen-port"))), "4002");
    assert_eq!(text(&host.wg(&format!("show {second} fwmark"))), "off");
    // The privilege for ports below 1024 was dropped after the first binding.
    assert!(!host.wg(&format!("set {second} listen-port 53")).status.success());
}

#[test]
fn the_daemon_follows_a_renamed_or_moved_link() {
    let (host, other) = (Host::new(), Host::new());
    let interface = host.started();
    host.ip(&format!("link set {interface} netns {}", other.namespace));
    host.wg(&format!("set {interface} private-key <(wg genkey) listen-port 4003"));
    other.ip(&format!("link set {interface} up"));
    eventually("the port is bound where the daemon was started", || {
        text(&host.command("ss", &["-ulnH"])).contains("0.0.0.0:4003")
    });
    other.ip(&format!("link del {interface}"));
    eventually("the socket is gone", || !socket(&interface).exists());
}

#[test]
fn two_daemons_exchange_packets_and_answer_unroutable_ones() {
    let host = Host::new();
    let other = Host::new();
    let interfaces = [host.started(), other.started()];
    let veth = [unique("v"), unique("v")];
    run(
        "ip",
        &[
            "link",
            "add",
            &veth[0],
            "netns",
            &host.namespace,
            "type",
            "veth",
            "peer",
            "name",
            &veth[1],
            "netns",
            &other.namespace,
        ],
    );
    let keys = [0, 1].map(|_| text(&run("wg", &["genkey"])));
    let public = |key: &str| text(&run("bash", &["-c", &format!("echo {key} | wg pubkey")]));
    for (at, end) in [&host, &other].into_iter().enumerate() {
        let (ours, theirs) = (at + 1, 2 - at);
        end.ip(&format!("addr add 192.0.2.{ours}/24 dev {}", veth[at]));
        end.ip(&format!("link set {} up", veth[at]));
        end.wg(&format!(
            "set {} private-key <(echo {}) listen-port 500{ours} peer {} allowed-ips 10.7.0.{theirs}/32 endpoint 192.0.2.{theirs}:500{theirs}",
            interfaces[at], keys[at], public(&keys[1 - at])
        ));
        end.ip(&format!("addr add 10.7.0.{ours}/24 dev {}", interfaces[at]));
        end.ip(&format!("link set {} up", interfaces[at]));
    }
    let ping = |arguments: &[&str]| text(&host.command("ping", arguments));
    // With `-w`, ping sends until five answers have come. Without it, the last one has twice the longest time so far.
    let answered = ping(&["-c", "5", "-w", "60", "-i", "0.2", "-s", "4000", "10.7.0.2"]);
    let numbers: Vec<_> = answered
        .lines()
        .filter_map(|line| line.split_once("icmp_seq=")?.1.split_once(' '))
        .map(|(number, _)| number)
        .take(5)
        .collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5"], "{answered}");
    let refused = ping(&["-c", "1", "-W", "60", "10.7.0.9"]);
    assert!(refused.contains("Destination Host Unreachable"), "{refused}");
}

#[test]
fn the_daemon_has_one_capability_and_a_system_call_filter() {
    let host = Host::new();
    host.started();
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemons()[0])).expect("it runs");
    for line in ["CapEff:\t0000000000001000", "CapPrm:\t0000000000001000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
}

/// Makes a system call fail for a command, as on a kernel without it.
fn without(command: &mut Command, call: i64) {
    let rules = [(call, Vec::new())].into_iter().collect();
    let lacking = SeccompAction::Errno(libc::ENOSYS as u32);
    let architecture = std::env::consts::ARCH.try_into().expect("an architecture with filters");
    let filter =
        SeccompFilter::new(rules, SeccompAction::Allow, lacking, architecture).expect("a valid filter");
    let program: BpfProgram = filter.try_into().expect("a program");
    // SAFETY: between fork and exec, this makes only system calls.
    unsafe {
        command.pre_exec(move || {
            seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Other.into())
        });
    }
}

#[test]
fn a_missing_part_of_the_sandbox_is_logged() {
    for (call, error, shown) in [
        (
            libc::SYS_landlock_create_ruleset,
            "running without Landlock: this kernel does not support it",
            "sandbox: system call filter, no Landlock",
        ),
        (
            libc::SYS_seccomp,
            "running without a system call filter: ",
            "sandbox: no system call filter, Landlock ",
        ),
    ] {
        let host = Host::new();
        let interface = unique("q");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &host.namespace, DAEMON, "-f", &interface]);
        command.env("LOG_LEVEL", "error").stderr(Stdio::piped());
        without(&mut command, call);
        let mut daemon = command.spawn().expect("it starts");
        eventually("the socket answers", || UnixStream::connect(socket(&interface)).is_ok());
        let features = text(&host.command(DAEMON, &["--features", &interface]));
        assert!(features.contains(shown), "{features}");
        run("kill", &[&daemon.id().to_string()]);
        let mut logged = String::new();
        daemon.stderr.take().expect("a pipe").read_to_string(&mut logged).expect("text");
        assert!(daemon.wait().expect("it ends").success());
        assert!(logged.contains(error), "{logged}");
    }
}

#[test]
fn the_offloads_of_a_running_daemon_can_be_read() {
    let host = Host::new();
    let interface = host.started();
    let shown = text(&host.command(DAEMON, &["--features", &interface]));
    assert_eq!(shown.lines().count(), 5, "{shown}");
    assert!(shown.starts_with("large TCP packets"));
    let confined =
        shown.lines().last().and_then(|line| line.strip_prefix("sandbox: system call filter, Landlock "));
    assert!(confined.is_some_and(|version| version.parse::<u32>().is_ok()), "{shown}");
}
