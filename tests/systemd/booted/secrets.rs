//! `LoadCredential=`.

use std::os::unix::fs::PermissionsExt;

use super::Stage;

pub(super) async fn are_credentials(stage: &Stage) {
    let machine = &stage.machine;
    let path = "/etc/smg/credentials/workers";
    machine.write(path, "sesame-of-the-workers\n");
    std::fs::set_permissions(machine.path(path), PermissionsExt::from_mode(0o600)).unwrap();
    stage.pool(
        &stage.engine.url(),
        "api_key = { credential = \"workers\" }",
    );
    // The file is root's; without systemd's copy the gateway could not read it.
    machine.fails(&["systemctl", "start", "smg"]);
    machine.logged("there is no credential `workers`").await;

    machine.drop_in(
        "smg.service",
        &format!("[Service]\nLoadCredential=workers:{path}\n"),
    );
    stage.start();
    assert_eq!(stage.complete().await, Ok(200));
    let asked = stage.engine.calls();
    let key = asked
        .last()
        .unwrap()
        .header("authorization")
        .map(str::to_owned);
    assert_eq!(key.as_deref(), Some("Bearer sesame-of-the-workers"));
    machine.ok(&["systemctl", "reload", "smg"]);
    assert!(!machine.journal().contains("sesame"));
}
