//! `smg.socket`.

use std::os::unix::fs::FileTypeExt as _;

use super::{PATIENCE, Stage};
use crate::support::client::request;
use crate::support::{Connection, eventually, get};

impl Stage {
    /// Starts the socket on the port of the scenes, and nothing else.
    pub(super) fn listen(&self) {
        self.configure(&self.activated());
        let address = format!("[Socket]\nListenStream=\nListenStream={}\n", self.main);
        self.machine.drop_in("smg.socket", &address);
        self.machine.ok(&["systemctl", "start", "smg.socket"]);
        assert_eq!(self.machine.property("ActiveState"), "inactive");
    }
}

pub(super) async fn by_the_first_connection(stage: &Stage) {
    let machine = &stage.machine;
    stage.listen();
    assert_eq!(get(stage.main, "/liveness").await.status, 200);
    assert_eq!(machine.property("ActiveState"), "active");
    stage.serves().await;
    // What does not change the socket, changes nothing for its clients.
    machine.ok(&["systemctl", "reload", "smg"]);
    assert_eq!(stage.complete().await, Ok(200));
    machine.ok(&["systemctl", "stop", "smg.service"]);
    assert_eq!(machine.property_of("smg.socket", "ActiveState"), "active");
    assert_eq!(get(stage.main, "/liveness").await.status, 200);

    // Without the socket that the file names it does not start, and says so.
    machine.ok(&["systemctl", "stop", "smg.socket", "smg.service"]);
    machine.drop_in("smg.service", "[Service]\nRestart=no\n");
    machine.fails(&["systemctl", "start", "smg"]);
    machine.logged("systemd:main").await;
}

pub(super) async fn a_restart_refuses_nobody(stage: &Stage) {
    let machine = &stage.machine;
    stage.listen();
    stage.serves().await;
    let load = stage.load();
    for _ in 0..3 {
        load.goes_on(50).await;
        let pid = machine.main_pid();
        machine.ok(&["systemctl", "restart", "smg"]);
        assert_ne!(machine.main_pid(), pid);
    }
    load.goes_on(50).await;
    load.had_no_failure().await;
}

pub(super) async fn through_a_unix_socket(stage: &Stage) {
    let machine = &stage.machine;
    stage.configure(&stage.activated());
    let path = "/run/smg/main.sock";
    machine.drop_in(
        "smg.socket",
        &format!(
            "[Socket]\nListenStream=\nListenStream={path}\nSocketUser=smg\nSocketGroup=users\n\
             SocketMode=0660\n"
        ),
    );
    machine.ok(&["systemctl", "start", "smg.socket"]);
    let shown = machine.ok(&["stat", "-c", "%a %U:%G", path]);
    assert_eq!(shown.trim(), "660 smg:users");
    let liveness = async || {
        let stream = tokio::net::UnixStream::connect(machine.path(path))
            .await
            .ok()?;
        let mut connection = Connection::h1_over(stream, "localhost").await;
        let asked = request(http::Method::GET, "/liveness", bytes::Bytes::new());
        Some(connection.try_send(asked).await.ok()?.status)
    };
    assert_eq!(liveness().await, Some(200));
    // The file of the socket is systemd's, and outlives the service.
    machine.ok(&["systemctl", "stop", "smg.service"]);
    let file = std::fs::symlink_metadata(machine.path(path)).unwrap();
    assert!(file.file_type().is_socket());
    eventually(PATIENCE, async || liveness().await == Some(200)).await;
    assert_eq!(machine.property("ActiveState"), "active");
}
