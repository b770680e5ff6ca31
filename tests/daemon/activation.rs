//! Sockets that the service manager passes: the test stands in for it.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use command_fds::{CommandFdExt as _, FdMapping};
use http::Method;
use tempfile::TempDir;
use tokio::net::{TcpStream, UnixStream};

use crate::scene::{PATIENCE, Wire};
use crate::support::client::request;
use crate::support::{Connection, Smg, get, process, smg};

/// Has the command inherit these sockets under these names, as a service manager would.
fn pass(command: &mut Command, sockets: Vec<(&str, OwnedFd)>) {
    let mut shell = Command::new("sh");
    shell.args(["-c", "LISTEN_PID=$$ exec \"$0\" \"$@\""]);
    shell.arg(command.get_program()).args(command.get_args());
    shell.env_clear();
    for (name, value) in command.get_envs() {
        shell.env(name, value.unwrap_or_default());
    }
    let names: Vec<&str> = sockets.iter().map(|(name, _)| *name).collect();
    shell
        .env("LISTEN_FDS", sockets.len().to_string())
        .env("LISTEN_FDNAMES", names.join(":"));
    // systemd leaves the variable out where nobody has named anything.
    if names.iter().all(|name| name.is_empty()) {
        shell.env_remove("LISTEN_FDNAMES");
    }
    let mappings = (3..)
        .zip(sockets)
        .map(|(child_fd, (_, parent_fd))| FdMapping {
            parent_fd,
            child_fd,
        });
    shell.fd_mappings(mappings.collect()).unwrap();
    *command = shell;
}

fn folder(toml: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("smg.toml"), toml).unwrap();
    folder
}

async fn start(toml: &str, sockets: Vec<(&str, OwnedFd)>) -> Smg {
    Smg::start_in(folder(toml), |command| pass(command, sockets)).await
}

/// What a start that fails prints, with its exit status.
fn fails(toml: &str, sockets: Vec<(&str, OwnedFd)>) -> (Option<i32>, String) {
    let folder = folder(toml);
    let mut command = smg::command();
    command.arg("--config").arg(folder.path().join("smg.toml"));
    pass(&mut command, sockets);
    let output = process::run(&mut command, PATIENCE);
    let mut text = String::from_utf8(output.stdout).unwrap();
    text.push_str(&String::from_utf8(output.stderr).unwrap());
    (output.status.code(), text)
}

fn tcp(address: &str) -> (SocketAddr, OwnedFd) {
    let socket = TcpListener::bind(address).unwrap();
    (socket.local_addr().unwrap(), socket.into())
}

/// A configuration whose listeners take these sockets; the first one serves the control plane.
fn config(names: &[&str]) -> String {
    let listeners = names.iter().enumerate().map(|(index, name)| {
        let serve = match index {
            0 => "[\"inference\", \"admin\", \"probes\"]",
            _ => "[\"probes\"]",
        };
        format!(
            "[[listeners]]\nname = \"l{index}\"\naddress = \"systemd:{name}\"\nserve = {serve}\n"
        )
    });
    format!("version = 1\n{}", listeners.collect::<String>())
}

async fn answers(to: SocketAddr) -> bool {
    get(to, "/liveness").await.status == 200
}

async fn over_unix(path: &Path) -> u16 {
    let stream = UnixStream::connect(path).await.unwrap();
    let mut connection = Connection::h1_over(stream, "localhost").await;
    let request = request(Method::GET, "/liveness", bytes::Bytes::new());
    connection.send(request).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sockets_of_a_name_are_served_and_the_file_of_one_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("passed.sock");
    let file = UnixListener::bind(&path).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o611)).unwrap();
    let (one, first) = tcp("127.0.0.1:0");
    let (two, second) = tcp("127.0.0.2:0");
    let mut sockets = vec![("main", first), ("file", file.into()), ("main", second)];
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
    let three = six.as_ref().ok().map(|six| six.local_addr().unwrap());
    sockets.extend(six.ok().map(|six| ("main", six.into())));
    let mut smg = start(&config(&["main", "file"]), sockets).await;
    for address in [Some(one), Some(two), three].into_iter().flatten() {
        assert!(answers(address).await, "{address}");
    }
    assert_eq!(over_unix(&path).await, 200);
    assert_eq!(
        smg.addresses("l0").len(),
        if three.is_some() { 3 } else { 2 }
    );
    assert_eq!(smg.term_and_wait().await.code(), Some(0));
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o611);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_without_a_name_is_called_unknown() {
    let (address, socket) = tcp("127.0.0.1:0");
    let _smg = start(&config(&["unknown"]), vec![("", socket)]).await;
    assert!(answers(address).await);
}

#[test]
fn a_name_that_nobody_passed_says_what_was_passed() {
    let (code, text) = fails(&config(&["mian"]), vec![("main", tcp("127.0.0.1:0").1)]);
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.contains("`mian` of the service manager: it was not passed"),
        "{text}"
    );
    assert!(text.contains("passed were `main`"), "{text}");
    let (code, text) = fails(&config(&["main"]), Vec::new());
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("systemctl start smg.socket"), "{text}");
}

#[test]
fn sockets_of_another_kind_are_refused() {
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (code, text) = fails(&config(&["main"]), vec![("main", datagrams.into())]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("datagram"), "{text}");
    let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let (_, text) = fails(&config(&["main"]), vec![("main", one.into())]);
    assert!(text.contains("does not listen"), "{text}");
}

/// The listener goes and comes back within one process; who connected meanwhile has only waited.
#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_no_listener_uses_waits_for_one() {
    let (main, first) = tcp("127.0.0.1:0");
    let (other, second) = tcp("127.0.0.1:0");
    let sockets = vec![("main", first), ("other", second)];
    let mut smg = start(&config(&["main"]), sockets).await;
    let warned =
        |line: &str| (line.contains("no listener uses") && line.contains("other")).then_some(());
    smg.process().line(PATIENCE, warned).await;

    let mut early = Wire::over(TcpStream::connect(other).await.unwrap());
    early
        .write("GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let reload = async || {
        let answer = crate::support::post(main, "/admin/reload", &serde_json::json!({})).await;
        (answer.status, answer.json())
    };
    smg.rewrite(&config(&["main", "other"]));
    assert_eq!(reload().await.0, 200);
    assert_eq!(early.answer().await.status, 200);

    smg.rewrite(&config(&["main"]));
    assert_eq!(reload().await.0, 200);
    let mut late = Wire::over(TcpStream::connect(other).await.unwrap());
    late.write("GET /liveness HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    smg.rewrite(&config(&["main", "third"]));
    let (status, body) = reload().await;
    assert_eq!(status, 422, "{body}");
    let text = body["text"].as_str().unwrap();
    assert!(
        text.contains("error[bind]") && text.contains("`main`, `other`"),
        "{text}"
    );
    smg.rewrite(&config(&["main", "other"]));
    assert_eq!(reload().await.0, 200);
    let answered = tokio::time::timeout(Duration::from_secs(10), late.answer()).await;
    assert_eq!(answered.expect("served from the backlog").status, 200);
}
